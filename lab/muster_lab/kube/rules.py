"""What the API refuses with 422, and what may never change.

Owns name checks, required values, the cross-field rules that people trip over, and immutability, with the
real server's field paths and texts. It never fills in values. Not covered: most value ranges, pod-level
cross checks (volume mounts, host ports), resource quantities, CEL rules of custom kinds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from .catalog import Resource
from .schemas import Struct, missing_required

Obj = dict[str, Any]
Cause = tuple[str, str, str]
REQUIRED, INVALID, FORBIDDEN = "FieldValueRequired", "FieldValueInvalid", "FieldValueForbidden"
NOT_SUPPORTED, DUPLICATE = "FieldValueNotSupported", "FieldValueDuplicate"
IMMUTABLE = "field is immutable"

_LABEL = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
_SUBDOMAIN = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
_VALUE = re.compile(r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$")
_CONFIG_KEY = re.compile(r"^[-._a-zA-Z0-9]+$")
SUBDOMAIN_TEXT = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', "
    "and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    r"'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
LABEL_TEXT = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start "
    "and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
LABEL_VALUE_TEXT = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', "
    "and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or "
    "'12345', regex used for "
    "validation is "
    "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
CONFIG_KEY_TEXT = (
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or "
    "'KEY_NAME',  or "
    "'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
)


def shown(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def check(resource: Resource, obj: Obj, shape: Struct) -> list[Cause]:
    """Every rule that an object breaks by itself."""
    causes = list(_metadata(resource, obj))
    causes += [
        (REQUIRED, path, "Required value")
        for path in missing_required(obj, shape)
        if not path.startswith(("status", "metadata"))
    ]
    special = _CHECKS.get(resource.kind) if resource.builtin else None
    if special is not None:
        causes += special(obj)
    return causes


def _metadata(resource: Resource, obj: Obj) -> Iterator[Cause]:
    metadata = obj["metadata"]
    name = metadata.get("name", "")
    if not name:
        yield (REQUIRED, "metadata.name", "Required value: name or generateName is required")
    elif resource.kind == "Namespace" or resource.kind == "Service":
        if not _LABEL.match(name) or len(name) > 63:
            yield (INVALID, "metadata.name", f"Invalid value: {shown(name)}: {LABEL_TEXT}")
    elif not resource.group.startswith("rbac.") and (not _SUBDOMAIN.match(name) or len(name) > 253):
        yield (INVALID, "metadata.name", f"Invalid value: {shown(name)}: {SUBDOMAIN_TEXT}")
    for value in (metadata.get("labels") or {}).values():
        if not _VALUE.match(value):
            yield (INVALID, "metadata.labels", f"Invalid value: {shown(value)}: {LABEL_VALUE_TEXT}")
        elif len(value) > 63:
            yield (
                INVALID,
                "metadata.labels",
                f"Invalid value: {shown(value)}: must be no more than 63 bytes",
            )
    size = sum(len(key) + len(value) for key, value in (metadata.get("annotations") or {}).items())
    if size > 256 * 1024:
        yield ("FieldValueTooLong", "metadata.annotations", "Too long: may not be more than 262144 bytes")


def _workload(obj: Obj) -> list[Cause]:
    causes: list[Cause] = []
    spec = obj.get("spec") or {}
    if "selector" in spec:
        wanted = (spec["selector"].get("matchLabels") or {}).items()
        template = spec.get("template") or {}
        labels = (template.get("metadata") or {}).get("labels") or {}
        if not wanted and not spec["selector"].get("matchExpressions"):
            causes.append(
                (
                    INVALID,
                    "spec.selector",
                    "Invalid value: {}: empty selector is invalid for " + obj["kind"].lower(),
                )
            )
        elif any(labels.get(key) != value for key, value in wanted):
            text = f"Invalid value: {shown(labels)}: `selector` does not match template `labels`"
            causes.append((INVALID, "spec.template.metadata.labels", text))
    replicas = spec.get("replicas", 0)
    if replicas < 0:
        text = f"Invalid value: {replicas}: must be greater than or equal to 0"
        causes.append((INVALID, "spec.replicas", text))
    causes += _pod_spec((spec.get("template") or {}).get("spec"), "spec.template.spec")
    return causes


def _pod_spec(spec: Any, path: str) -> list[Cause]:
    causes: list[Cause] = []
    if not isinstance(spec, dict):
        return causes
    if not spec.get("containers") and "containers" in spec:
        causes.append((REQUIRED, f"{path}.containers", "Required value"))
    seen: set[str] = set()
    for index, container in enumerate(spec.get("containers") or ()):
        here = f"{path}.containers[{index}]"
        name = container.get("name", "")
        if name in seen:
            causes.append((DUPLICATE, f"{here}.name", f"Duplicate value: {shown(name)}"))
        seen.add(name)
        if name and not _LABEL.match(name):
            causes.append((INVALID, f"{here}.name", f"Invalid value: {shown(name)}: {LABEL_TEXT}"))
        if not container.get("image"):
            causes.append((REQUIRED, f"{here}.image", "Required value"))
        for number, port in enumerate(container.get("ports") or ()):
            value = port.get("containerPort", 0)
            if not 0 < value < 65536:
                text = f"Invalid value: {value}: must be between 1 and 65535, inclusive"
                causes.append((INVALID, f"{here}.ports[{number}].containerPort", text))
    return causes


def _pod(obj: Obj) -> list[Cause]:
    return _pod_spec(obj.get("spec"), "spec")


def _service(obj: Obj) -> list[Cause]:
    spec = obj.get("spec") or {}
    causes: list[Cause] = []
    if not spec.get("ports") and spec.get("clusterIP") != "None" and spec.get("type") != "ExternalName":
        causes.append((REQUIRED, "spec.ports", "Required value"))
    types = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
    if spec.get("type", "ClusterIP") not in types:
        listed = ", ".join(f'"{name}"' for name in types)
        causes.append(
            (
                NOT_SUPPORTED,
                "spec.type",
                f"Unsupported value: {shown(spec['type'])}: supported values: {listed}",
            )
        )
    for index, port in enumerate(spec.get("ports") or ()):
        if not 0 < port.get("port", 0) < 65536:
            text = f"Invalid value: {port.get('port', 0)}: must be between 1 and 65535, inclusive"
            causes.append((INVALID, f"spec.ports[{index}].port", text))
        if len(spec["ports"]) > 1 and not port.get("name"):
            causes.append((REQUIRED, f"spec.ports[{index}].name", "Required value"))
    return causes


def _config(obj: Obj) -> list[Cause]:
    causes: list[Cause] = []
    for part in ("data", "binaryData"):
        causes += [
            (INVALID, f"{part}[{key}]", f"Invalid value: {shown(key)}: {CONFIG_KEY_TEXT}")
            for key in obj.get(part) or {}
            if not _CONFIG_KEY.match(key)
        ]
    size = sum(len(key) + len(value) for key, value in (obj.get("data") or {}).items())
    if size > 1024 * 1024:
        causes.append(("FieldValueTooLong", "", "Too long: may not be more than 1048576 bytes"))
    return causes


def _definition(obj: Obj) -> list[Cause]:
    spec = obj.get("spec") or {}
    causes: list[Cause] = []
    names = spec.get("names") or {}
    wanted = f"{names.get('plural', '')}.{spec.get('group', '')}"
    if obj["metadata"].get("name") != wanted:
        text = (
            f'Invalid value: {shown(obj["metadata"].get("name"))}: must be spec.names.plural+"."+spec.group'
        )
        causes.append((INVALID, "metadata.name", text))
    for index, version in enumerate(spec.get("versions") or ()):
        if "schema" not in version:
            path = f"spec.versions[{index}].schema.openAPIV3Schema"
            causes.append((REQUIRED, path, "Required value: schemas are required"))
    return causes


_CHECKS: dict[str, Callable[[Obj], list[Cause]]] = {
    "Deployment": _workload,
    "ReplicaSet": _workload,
    "StatefulSet": _workload,
    "DaemonSet": _workload,
    "Pod": _pod,
    "Service": _service,
    "ConfigMap": _config,
    "Secret": _config,
    "CustomResourceDefinition": _definition,
}


def _immutable(old: Obj, new: Obj, path: str) -> Iterator[Cause]:
    was, now = old, new
    for name in path.split("."):
        was, now = (was or {}).get(name), (now or {}).get(name)  # type: ignore[assignment]
    if was != now:
        yield (INVALID, path, f"Invalid value: {shown(now)}: {IMMUTABLE}")


STATEFUL_TEXT = (
    "Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', "
    "'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and "
    "'minReadySeconds' are forbidden"
)
_STATEFUL_FREE = {
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
}
POD_TEXT = (
    "Forbidden: pod updates may not change fields other than `spec.containers[*].image`,"
    "`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to "
    "existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was "
    "previously negative)"
)


def check_change(resource: Resource, old: Obj, new: Obj) -> list[Cause]:
    """Every immutable part that an update touches."""
    if not resource.builtin:
        return []
    kind = resource.kind
    spec, was = new.get("spec") or {}, old.get("spec") or {}
    if kind in ("Deployment", "ReplicaSet", "DaemonSet"):
        return list(_immutable(old, new, "spec.selector"))
    if kind == "StatefulSet":
        free = {key: value for key, value in spec.items() if key not in _STATEFUL_FREE}
        if free != {key: value for key, value in was.items() if key not in _STATEFUL_FREE}:
            return [(FORBIDDEN, "spec", STATEFUL_TEXT)]
    if kind == "Job":
        paths = ["spec.selector", "spec.completionMode", "spec.podFailurePolicy", "spec.backoffLimitPerIndex"]
        if not was.get("suspend"):
            paths.insert(1, "spec.template")
        return [cause for path in paths for cause in _immutable(old, new, path)]
    if kind == "Service":
        return _service_change(was, spec)
    if kind in ("Secret", "ConfigMap"):
        return _config_change(kind, old, new)
    if kind in ("RoleBinding", "ClusterRoleBinding") and old.get("roleRef") != new.get("roleRef"):
        text = f"Invalid value: {shown(new.get('roleRef'))}: cannot change roleRef"
        return [(INVALID, "roleRef", text)]
    if kind == "StorageClass":
        return _storage_change(old, new)
    if kind == "PersistentVolumeClaim" and was.get("volumeName"):
        fixed = [
            key
            for key in {*was, *spec} - {"resources", "volumeAttributesClassName"}
            if was.get(key) != spec.get(key)
        ]
        if fixed:
            text = (
                "Forbidden: spec is immutable after creation except resources.requests and "
                "volumeAttributesClassName for bound claims"
            )
            return [(FORBIDDEN, "spec", text)]
    if kind == "Pod":
        return _pod_change(was, spec)
    return []


def _service_change(was: Obj, spec: Obj) -> list[Cause]:
    old, new = was.get("clusterIP"), spec.get("clusterIP")
    if not old or old == new or was.get("type") == "ExternalName" or spec.get("type") == "ExternalName":
        return []
    text = f"Invalid value: {shown([new])}: may not change once set"
    return [(INVALID, "spec.clusterIPs[0]", text)]


def _config_change(kind: str, old: Obj, new: Obj) -> list[Cause]:
    causes: list[Cause] = []
    if kind == "Secret" and old.get("type") != new.get("type"):
        causes.append((INVALID, "type", f"Invalid value: {shown(new.get('type'))}: {IMMUTABLE}"))
    if old.get("immutable"):
        text = f"Forbidden: {IMMUTABLE} when `immutable` is set"
        if not new.get("immutable"):
            causes.append((FORBIDDEN, "immutable", text))
        causes += [
            (FORBIDDEN, part, text)
            for part in ("data", "binaryData")
            if (old.get(part) or {}) != (new.get(part) or {})
        ]
    return causes


def _storage_change(old: Obj, new: Obj) -> list[Cause]:
    causes: list[Cause] = []
    for part, text in (
        ("parameters", "Forbidden: updates to parameters are forbidden."),
        ("provisioner", "Forbidden: updates to provisioner are forbidden."),
        ("reclaimPolicy", "Forbidden: updates to reclaimPolicy are forbidden."),
    ):
        if old.get(part) != new.get(part):
            causes.append((FORBIDDEN, part, text))
    return causes


def _pod_change(was: Obj, spec: Obj) -> list[Cause]:
    def fixed(part: Obj) -> Obj:
        kept = {
            key: value for key, value in part.items() if key not in ("activeDeadlineSeconds", "tolerations")
        }
        for name in ("containers", "initContainers"):
            if name in kept:
                kept[name] = [{k: v for k, v in c.items() if k != "image"} for c in kept[name]]
        return kept

    return [(FORBIDDEN, "spec", POD_TEXT)] if fixed(was) != fixed(spec) else []


def check_custom(value: Any, schema: Obj, path: str = "") -> list[Cause]:
    """Enumerations, patterns and bounds of a custom kind's schema."""
    causes: list[Cause] = []
    if "enum" in schema and value not in schema["enum"]:
        listed = ", ".join(shown(item) for item in schema["enum"])
        causes.append((NOT_SUPPORTED, path, f"Unsupported value: {shown(value)}: supported values: {listed}"))
    if isinstance(value, str):
        if "pattern" in schema and not re.search(schema["pattern"], value):
            text = f"Invalid value: {shown(value)}: {path} in body should match '{schema['pattern']}'"
            causes.append((INVALID, path, text))
        if len(value) < schema.get("minLength", 0):
            least = schema["minLength"]
            text = f"Invalid value: {shown(value)}: {path} in body should be at least {least} chars long"
            causes.append((INVALID, path, text))
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        if "minimum" in schema and value < schema["minimum"]:
            least = schema["minimum"]
            text = f"Invalid value: {value}: {path} in body should be greater than or equal to {least}"
            causes.append((INVALID, path, text))
        if "maximum" in schema and value > schema["maximum"]:
            text = (
                f"Invalid value: {value}: {path} in body should be less than or equal to {schema['maximum']}"
            )
            causes.append((INVALID, path, text))
    elif isinstance(value, dict):
        extra = schema.get("additionalProperties")
        for key, item in value.items():
            inner = (schema.get("properties") or {}).get(key, extra if isinstance(extra, dict) else None)
            if inner is not None:
                causes += check_custom(item, inner, f"{path}.{key}".removeprefix("."))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            causes += check_custom(item, schema.get("items") or {}, f"{path}[{index}]")
    return causes
