"""The values that the API fills in when a built-in object leaves them out.

Owns the defaults that users see in live objects and that drift comparison must expect. It never overwrites
a value and never validates. Not covered: volume sources other than the projected kinds, topology spread,
probes of type gRPC.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

Obj = dict[str, Any]


def _set(target: Obj, **values: Any) -> None:
    for key, value in values.items():
        target.setdefault(key, value)


def _probe(probe: Any) -> None:
    if isinstance(probe, dict):
        _set(probe, timeoutSeconds=1, periodSeconds=10, successThreshold=1, failureThreshold=3)
        if isinstance(probe.get("httpGet"), dict):
            _set(probe["httpGet"], path="/", scheme="HTTP")


def _pull_policy(image: str) -> str:
    last = image.rsplit("/", 1)[-1]
    return "Always" if "@" not in last and (":" not in last or last.endswith(":latest")) else "IfNotPresent"


def _container(container: Obj) -> None:
    _set(
        container,
        resources={},
        terminationMessagePath="/dev/termination-log",
        terminationMessagePolicy="File",
        imagePullPolicy=_pull_policy(str(container.get("image", ""))),
    )
    for port in container.get("ports") or ():
        _set(port, protocol="TCP")
    for env in container.get("env") or ():
        if env.get("value") == "":
            del env["value"]
        reference = (env.get("valueFrom") or {}).get("fieldRef")
        if reference is not None:
            _set(reference, apiVersion="v1")
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        _probe(container.get(name))


def pod_spec(spec: Obj, *, restart: str = "Always") -> None:
    _set(
        spec,
        restartPolicy=restart,
        dnsPolicy="ClusterFirst",
        terminationGracePeriodSeconds=30,
        schedulerName="default-scheduler",
        securityContext={},
    )
    if spec.get("serviceAccountName"):
        _set(spec, serviceAccount=spec["serviceAccountName"])
    elif spec.get("serviceAccount"):
        spec["serviceAccountName"] = spec["serviceAccount"]
    for name in ("containers", "initContainers"):
        for container in spec.get(name) or ():
            _container(container)
    for volume in spec.get("volumes") or ():
        _volume(volume)


def _volume(volume: Obj) -> None:
    for source in ("secret", "configMap", "downwardAPI", "projected"):
        if isinstance(volume.get(source), dict):
            _set(volume[source], defaultMode=420)
    if isinstance(volume.get("hostPath"), dict):
        _set(volume["hostPath"], type="")
    if not any(key != "name" for key in volume):
        volume["emptyDir"] = {}


def _template(spec: Obj, *, restart: str = "Always") -> None:
    template = spec.get("template")
    if isinstance(template, dict):
        template.setdefault("metadata", {})
        if isinstance(template.get("spec"), dict):
            pod_spec(template["spec"], restart=restart)


def _deployment(obj: Obj) -> None:
    spec = obj.setdefault("spec", {})
    _set(spec, replicas=1, revisionHistoryLimit=10, progressDeadlineSeconds=600, strategy={})
    _set(spec["strategy"], type="RollingUpdate")
    if spec["strategy"]["type"] == "RollingUpdate":
        _set(spec["strategy"].setdefault("rollingUpdate", {}), maxUnavailable="25%", maxSurge="25%")
    _template(spec)
    obj.setdefault("status", {})


def _replica_set(obj: Obj) -> None:
    spec = obj.setdefault("spec", {})
    _set(spec, replicas=1)
    _template(spec)
    _set(obj.setdefault("status", {}), replicas=0)


def _stateful_set(obj: Obj) -> None:
    spec = obj.setdefault("spec", {})
    _set(spec, replicas=1, revisionHistoryLimit=10, podManagementPolicy="OrderedReady", updateStrategy={})
    _set(spec["updateStrategy"], type="RollingUpdate")
    if spec["updateStrategy"]["type"] == "RollingUpdate":
        _set(spec["updateStrategy"].setdefault("rollingUpdate", {}), partition=0)
    _set(
        spec.setdefault("persistentVolumeClaimRetentionPolicy", {}), whenDeleted="Retain", whenScaled="Retain"
    )
    for claim in spec.get("volumeClaimTemplates") or ():
        _set(claim, apiVersion="v1", kind="PersistentVolumeClaim", status={"phase": "Pending"})
        _set(claim.setdefault("spec", {}), volumeMode="Filesystem")
    _template(spec)
    _set(obj.setdefault("status", {}), replicas=0, availableReplicas=0)


def _daemon_set(obj: Obj) -> None:
    spec = obj.setdefault("spec", {})
    _set(spec, revisionHistoryLimit=10, updateStrategy={})
    _set(spec["updateStrategy"], type="RollingUpdate")
    if spec["updateStrategy"]["type"] == "RollingUpdate":
        _set(spec["updateStrategy"].setdefault("rollingUpdate", {}), maxUnavailable=1, maxSurge=0)
    _template(spec)
    counts = ("currentNumberScheduled", "numberMisscheduled", "desiredNumberScheduled", "numberReady")
    _set(obj.setdefault("status", {}), **dict.fromkeys(counts, 0))


def _job(obj: Obj) -> None:
    spec = obj.setdefault("spec", {})
    _job_spec(spec)
    uid = obj["metadata"].get("uid", "")
    if not spec.get("manualSelector") and uid and "selector" not in spec:
        name = obj["metadata"].get("name", "")
        spec["selector"] = {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}
        labels = spec.setdefault("template", {}).setdefault("metadata", {}).setdefault("labels", {})
        for key, value in (("controller-uid", uid), ("job-name", name)):
            labels[key] = labels[f"batch.kubernetes.io/{key}"] = value
    obj.setdefault("status", {})


def _job_spec(spec: Obj) -> None:
    _set(
        spec,
        backoffLimit=6,
        completionMode="NonIndexed",
        manualSelector=False,
        podReplacementPolicy="TerminatingOrFailed",
        suspend=False,
    )
    if "completions" not in spec and "parallelism" not in spec:
        spec["completions"] = 1
    _set(spec, parallelism=1)
    _template(spec)


def _cron_job(obj: Obj) -> None:
    spec = obj.setdefault("spec", {})
    _set(
        spec,
        concurrencyPolicy="Allow",
        suspend=False,
        successfulJobsHistoryLimit=3,
        failedJobsHistoryLimit=1,
    )
    template = spec.setdefault("jobTemplate", {})
    template.setdefault("metadata", {})
    _template(template.setdefault("spec", {}))
    obj.setdefault("status", {})


def _service(obj: Obj) -> None:
    spec = obj.setdefault("spec", {})
    _set(spec, type="ClusterIP", sessionAffinity="None")
    if spec["sessionAffinity"] == "ClientIP":
        _set(spec.setdefault("sessionAffinityConfig", {}).setdefault("clientIP", {}), timeoutSeconds=10800)
    for port in spec.get("ports") or ():
        _set(port, protocol="TCP", targetPort=port.get("port"))
    if spec["type"] != "ExternalName":
        _set(spec, internalTrafficPolicy="Cluster")
    if spec["type"] in ("NodePort", "LoadBalancer"):
        _set(spec, externalTrafficPolicy="Cluster")
    if spec["type"] == "LoadBalancer":
        _set(spec, allocateLoadBalancerNodePorts=True)
    _set(obj.setdefault("status", {}), loadBalancer={})


def _secret(obj: Obj) -> None:
    texts = obj.pop("stringData", None)
    if texts:
        data = obj.setdefault("data", {})
        for key, value in texts.items():
            data[key] = base64.b64encode(str(value).encode()).decode()
    _set(obj, type="Opaque")


def _namespace(obj: Obj) -> None:
    labels = obj["metadata"].setdefault("labels", {})
    labels["kubernetes.io/metadata.name"] = obj["metadata"].get("name", "")
    _set(obj.setdefault("spec", {}), finalizers=["kubernetes"])
    _set(obj.setdefault("status", {}), phase="Active")


def _pod(obj: Obj) -> None:
    spec = obj.setdefault("spec", {})
    pod_spec(spec)
    _set(spec, enableServiceLinks=True, preemptionPolicy="PreemptLowerPriority", priority=0)
    _set(spec, serviceAccountName="default", serviceAccount="default")
    for name in ("containers", "initContainers"):
        for container in spec.get(name) or ():
            resources = container["resources"]
            for key, value in (resources.get("limits") or {}).items():
                _set(resources.setdefault("requests", {}), **{key: value})
    _set(obj.setdefault("status", {}), phase="Pending", qosClass=_qos(spec))


def _qos(spec: Obj) -> str:
    sets = [container.get("resources") or {} for container in spec.get("containers") or ()]
    if not any(item.get("limits") or item.get("requests") for item in sets):
        return "BestEffort"
    guaranteed = all(
        set(item.get("limits") or ()) >= {"cpu", "memory"} and item.get("limits") == item.get("requests")
        for item in sets
    )
    return "Guaranteed" if guaranteed else "Burstable"


def _claim(obj: Obj) -> None:
    _set(obj.setdefault("spec", {}), volumeMode="Filesystem")
    _set(obj.setdefault("status", {}), phase="Pending")


def _ingress(obj: Obj) -> None:
    for rule in obj.setdefault("spec", {}).get("rules") or ():
        for path in (rule.get("http") or {}).get("paths") or ():
            _set(path, pathType="ImplementationSpecific")
    _set(obj.setdefault("status", {}), loadBalancer={})


def _network_policy(obj: Obj) -> None:
    spec = obj.setdefault("spec", {})
    for rule in [*(spec.get("ingress") or ()), *(spec.get("egress") or ())]:
        for port in rule.get("ports") or ():
            _set(port, protocol="TCP")
    if "policyTypes" not in spec:
        spec["policyTypes"] = ["Ingress"] + (["Egress"] if "egress" in spec else [])


def _binding(obj: Obj) -> None:
    if isinstance(obj.get("roleRef"), dict):
        _set(obj["roleRef"], apiGroup="rbac.authorization.k8s.io")
    for subject in obj.get("subjects") or ():
        if subject.get("kind") in ("User", "Group"):
            _set(subject, apiGroup="rbac.authorization.k8s.io")


def _autoscaler(obj: Obj) -> None:
    spec = obj.setdefault("spec", {})
    _set(spec, minReplicas=1)
    if not spec.get("metrics"):
        spec["metrics"] = [
            {
                "type": "Resource",
                "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}},
            }
        ]
    obj.setdefault("status", {"currentMetrics": None, "desiredReplicas": 0})


def _storage_class(obj: Obj) -> None:
    _set(obj, reclaimPolicy="Delete", volumeBindingMode="Immediate")


def _webhooks(obj: Obj) -> None:
    for hook in obj.get("webhooks") or ():
        _set(hook, failurePolicy="Fail", matchPolicy="Equivalent", timeoutSeconds=10)
        _set(hook, namespaceSelector={}, objectSelector={})
        if obj.get("kind") == "MutatingWebhookConfiguration":
            _set(hook, reinvocationPolicy="Never")
        for rule in hook.get("rules") or ():
            _set(rule, scope="*")
        service = (hook.get("clientConfig") or {}).get("service")
        if service is not None:
            _set(service, port=443)


def _definition(obj: Obj) -> None:
    spec = obj.setdefault("spec", {})
    _set(spec.setdefault("conversion", {}), strategy="None")
    names = spec.setdefault("names", {})
    kind = str(names.get("kind", ""))
    _set(names, singular=kind.lower(), listKind=kind + "List")
    obj.setdefault(
        "status", {"conditions": None, "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": None}
    )


def _event(obj: Obj) -> None:
    _set(
        obj,
        source={},
        firstTimestamp=None,
        lastTimestamp=None,
        eventTime=None,
        reportingComponent="",
        reportingInstance="",
    )


_BY_KIND: dict[str, Callable[[Obj], None]] = {
    "Deployment": _deployment,
    "ReplicaSet": _replica_set,
    "StatefulSet": _stateful_set,
    "DaemonSet": _daemon_set,
    "Job": _job,
    "CronJob": _cron_job,
    "Service": _service,
    "Secret": _secret,
    "Namespace": _namespace,
    "Pod": _pod,
    "PersistentVolumeClaim": _claim,
    "Ingress": _ingress,
    "NetworkPolicy": _network_policy,
    "RoleBinding": _binding,
    "ClusterRoleBinding": _binding,
    "HorizontalPodAutoscaler": _autoscaler,
    "StorageClass": _storage_class,
    "ValidatingWebhookConfiguration": _webhooks,
    "MutatingWebhookConfiguration": _webhooks,
    "CustomResourceDefinition": _definition,
    "Event": _event,
}


def fill(obj: Obj) -> None:
    """Fills in a built-in object, in place."""
    filler = _BY_KIND.get(str(obj.get("kind")))
    if filler is not None:
        filler(obj)


def fill_custom(value: Any, schema: dict[str, Any]) -> None:
    """Fills in a custom object from the ``default`` values of its schema, in place."""
    if isinstance(value, dict):
        for name, inner in (schema.get("properties") or {}).items():
            if name not in value and "default" in inner:
                value[name] = compile_default(inner["default"])
            if name in value:
                fill_custom(value[name], inner)
        extra = schema.get("additionalProperties")
        if isinstance(extra, dict):
            for item in value.values():
                fill_custom(item, extra)
    elif isinstance(value, list):
        for item in value:
            fill_custom(item, schema.get("items") or {})


def compile_default(value: Any) -> Any:
    """A copy, so that two objects never share one default."""
    if isinstance(value, dict):
        return {key: compile_default(item) for key, item in value.items()}
    return [compile_default(item) for item in value] if isinstance(value, list) else value
