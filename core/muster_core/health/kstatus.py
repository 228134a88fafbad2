"""Health of one object by the rules of kstatus.

Owns the five words (Current, InProgress, Failed, Terminating, NotFound) and the rules per built-in kind; any other kind is
judged by observedGeneration and its conventional conditions. Source: kubernetes-sigs/cli-utils, pkg/kstatus. It never
looks at anything but the object.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

Status = Literal["Current", "InProgress", "Failed", "Terminating", "NotFound"]


class Health(NamedTuple):
    status: Status
    message: str = ""


CURRENT = Health("Current")


def health(obj: Mapping[str, Any] | None) -> Health:
    """The object's health; None is an object that is not there."""
    if obj is None:
        return Health("NotFound", "the object is not there")
    metadata = _map(obj, "metadata")
    if metadata.get("deletionTimestamp"):
        return Health("Terminating", "the object is being deleted")
    status = _map(obj, "status")
    observed, generation = status.get("observedGeneration"), metadata.get("generation")
    if isinstance(observed, int) and isinstance(generation, int) and observed < generation:
        return Health("InProgress", f"generation {generation} is not observed yet")
    group = str(obj.get("apiVersion", "")).rpartition("/")[0]
    rule = _RULES.get((group, str(obj.get("kind"))))
    return rule(obj) if rule else _conventional(status)


def _map(obj: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = obj.get(key)
    return value if isinstance(value, Mapping) else {}


def _number(table: Mapping[str, Any], key: str, default: int = 0) -> int:
    value = table.get(key)
    return value if isinstance(value, int) else default


def _condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    conditions = status.get("conditions")
    found = (
        (c for c in conditions if isinstance(c, Mapping) and c.get("type") == kind)
        if isinstance(conditions, list)
        else ()
    )
    return next(iter(found), {})


def _conventional(status: Mapping[str, Any]) -> Health:
    stalled, reconciling, ready = (_condition(status, kind) for kind in ("Stalled", "Reconciling", "Ready"))
    if stalled.get("status") == "True":
        return Health("Failed", str(stalled.get("message") or stalled.get("reason") or "stalled"))
    if reconciling.get("status") == "True":
        return Health("InProgress", str(reconciling.get("message") or "reconciling"))
    if ready and ready.get("status") != "True":
        return Health("InProgress", str(ready.get("message") or ready.get("reason") or "not ready"))
    return CURRENT


def _deployment(obj: Mapping[str, Any]) -> Health:
    spec, status = _map(obj, "spec"), _map(obj, "status")
    wanted = _number(spec, "replicas", 1)
    if "observedGeneration" not in status:
        return Health("InProgress", "the controller has not seen it yet")
    progressing = _condition(status, "Progressing")
    if progressing.get("reason") == "ProgressDeadlineExceeded":
        return Health("Failed", str(progressing.get("message") or "progress deadline exceeded"))
    failure = _condition(status, "ReplicaFailure")
    if failure.get("status") == "True":
        return Health("Failed", str(failure.get("message") or "replicas cannot be created"))
    return _replicas(status, wanted, ("updatedReplicas", "replicas", "readyReplicas", "availableReplicas"))


def _replicas(status: Mapping[str, Any], wanted: int, fields: tuple[str, ...]) -> Health:
    for field in fields:
        count = _number(status, field)
        if count < wanted:
            return Health(
                "InProgress", f"{field.removesuffix('Replicas') or 'replicas'}: {count} of {wanted} replicas"
            )
    if (
        _number(status, "replicas") > _number(status, "updatedReplicas", wanted)
        and "updatedReplicas" in fields
    ):
        return Health("InProgress", "old replicas are still there")
    return CURRENT


def _replicaset(obj: Mapping[str, Any]) -> Health:
    status = _map(obj, "status")
    failure = _condition(status, "ReplicaFailure")
    if failure.get("status") == "True":
        return Health("Failed", str(failure.get("message") or "replicas cannot be created"))
    return _replicas(
        status, _number(_map(obj, "spec"), "replicas", 1), ("replicas", "readyReplicas", "availableReplicas")
    )


def _statefulset(obj: Mapping[str, Any]) -> Health:
    spec, status = _map(obj, "spec"), _map(obj, "status")
    if "observedGeneration" not in status:
        return Health("InProgress", "the controller has not seen it yet")
    wanted = _number(spec, "replicas", 1)
    short = _replicas(status, wanted, ("replicas", "readyReplicas"))
    if short.status != "Current":
        return short
    strategy = _map(spec, "updateStrategy")
    if strategy.get("type") == "OnDelete":
        return CURRENT
    partition = _number(_map(strategy, "rollingUpdate"), "partition")
    if _number(status, "updatedReplicas") < wanted - partition:
        return Health(
            "InProgress", f"updated: {_number(status, 'updatedReplicas')} of {wanted - partition} replicas"
        )
    if not partition and status.get("currentRevision") != status.get("updateRevision"):
        return Health("InProgress", "the new revision is not everywhere yet")
    return CURRENT


def _daemonset(obj: Mapping[str, Any]) -> Health:
    status = _map(obj, "status")
    if "observedGeneration" not in status:
        return Health("InProgress", "the controller has not seen it yet")
    wanted = _number(status, "desiredNumberScheduled")
    for field in ("currentNumberScheduled", "updatedNumberScheduled", "numberAvailable", "numberReady"):
        if _number(status, field) < wanted:
            return Health("InProgress", f"{field}: {_number(status, field)} of {wanted}")
    return CURRENT


def _job(obj: Mapping[str, Any]) -> Health:
    spec, status = _map(obj, "spec"), _map(obj, "status")
    failed = _condition(status, "Failed")
    if failed.get("status") == "True":
        return Health("Failed", str(failed.get("message") or failed.get("reason") or "the job failed"))
    if _condition(status, "Complete").get("status") == "True" or spec.get("suspend"):
        return CURRENT
    return Health("InProgress", "the job is not complete") if not status.get("startTime") else CURRENT


def _pod(obj: Mapping[str, Any]) -> Health:
    status = _map(obj, "status")
    match status.get("phase"):
        case "Succeeded":
            return CURRENT
        case "Failed":
            return Health("Failed", str(status.get("message") or status.get("reason") or "the pod failed"))
        case "Running" if _condition(status, "Ready").get("status") == "True":
            return CURRENT
        case _:
            containers = status.get("containerStatuses")
            waiting = (
                _map(_map(item, "state"), "waiting")
                for item in (containers if isinstance(containers, list) else [])
                if isinstance(item, Mapping)
            )
            reason = next((str(w["reason"]) for w in waiting if w.get("reason")), "")
            return Health(
                "Failed" if reason == "CrashLoopBackOff" else "InProgress", reason or "the pod is not ready"
            )


def _pvc(obj: Mapping[str, Any]) -> Health:
    phase = _map(obj, "status").get("phase")
    # A claim that waits for its first consumer is as far as it can get.
    return CURRENT if phase in ("Bound", None, "Pending") else Health("InProgress", f"phase {phase}")


def _service(obj: Mapping[str, Any]) -> Health:
    spec = _map(obj, "spec")
    if spec.get("type") == "LoadBalancer" and not spec.get("clusterIP"):
        return Health("InProgress", "no cluster address yet")
    return CURRENT


def _crd(obj: Mapping[str, Any]) -> Health:
    status = _map(obj, "status")
    names = _condition(status, "NamesAccepted")
    if names.get("status") == "False":
        return Health("Failed", str(names.get("message") or "its names are taken"))
    established = _condition(status, "Established")
    return CURRENT if established.get("status") == "True" else Health("InProgress", "not established yet")


def _pdb(obj: Mapping[str, Any]) -> Health:
    return (
        CURRENT
        if _map(obj, "status").get("observedGeneration") is not None
        else Health("InProgress", "not observed yet")
    )


_RULES: dict[tuple[str, str], Callable[[Mapping[str, Any]], Health]] = {
    ("apps", "Deployment"): _deployment,
    ("apps", "ReplicaSet"): _replicaset,
    ("apps", "StatefulSet"): _statefulset,
    ("apps", "DaemonSet"): _daemonset,
    ("batch", "Job"): _job,
    ("", "Pod"): _pod,
    ("", "PersistentVolumeClaim"): _pvc,
    ("", "Service"): _service,
    ("policy", "PodDisruptionBudget"): _pdb,
    ("apiextensions.k8s.io", "CustomResourceDefinition"): _crd,
    # autoscalers cannot measure on many small clusters; being there is what was asked for
    ("autoscaling", "HorizontalPodAutoscaler"): lambda _: CURRENT,
}
