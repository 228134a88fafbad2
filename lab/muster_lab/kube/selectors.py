"""Label and field selectors.

Owns their grammar and the field selectors that each kind supports. It never touches the store.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from .catalog import Resource
from .errors import bad_request

Predicate = Callable[[Mapping[str, str]], bool]
_SET = re.compile(r"^(?P<key>[^\s!=,()]+)\s+(?P<op>in|notin)\s+\((?P<values>[^()]*)\)$")
_COMPARE = re.compile(r"^(?P<key>[^\s!=<>]+)\s*(?P<op>==|!=|=|<|>)\s*(?P<value>[^\s!=<>]*)$")
_KEY = re.compile(r"^!?\s*[A-Za-z0-9]([-A-Za-z0-9_./]*[A-Za-z0-9])?$")


def _split(text: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for position, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            parts.append(text[start:position])
            start = position + 1
    parts.append(text[start:])
    return [part.strip() for part in parts if part.strip()]


def _requirement(text: str) -> Predicate:
    matched = _SET.match(text)
    if matched:
        key, values = matched["key"], {value.strip() for value in matched["values"].split(",")}
        if matched["op"] == "in":
            return lambda labels: key in labels and labels[key] in values
        return lambda labels: key not in labels or labels[key] not in values
    matched = _COMPARE.match(text)
    if matched:
        key, op, value = matched["key"], matched["op"], matched["value"]
        if op == "!=":
            return lambda labels: labels.get(key) != value
        if op in "<>":
            wanted = _number(value, text)
            sign = 1 if op == ">" else -1
            return lambda labels: labels.get(key, "").isdigit() and sign * int(labels[key]) > sign * wanted
        return lambda labels: labels.get(key) == value
    if _KEY.match(text):
        if text.startswith("!"):
            key = text[1:].strip()
            return lambda labels: key not in labels
        return lambda labels: text in labels
    raise bad_request(f"unable to parse requirement: found {text!r}, expected a label selector requirement")


def _number(value: str, text: str) -> int:
    if not value.isdigit():
        raise bad_request(f"unable to parse requirement: {text!r}: the value must be an integer")
    return int(value)


def labels(text: str) -> Predicate | None:
    """None selects everything."""
    if not text.strip():
        return None
    checks = [_requirement(part) for part in _split(text)]
    return lambda found: all(check(found) for check in checks)


_COMMON = ("metadata.name", "metadata.namespace")
_SUPPORTED: dict[str, tuple[str, ...]] = {
    "Pod": ("spec.nodeName", "status.phase", "spec.restartPolicy", "spec.serviceAccountName", "status.podIP"),
    "Secret": ("type",),
    "Namespace": ("status.phase",),
    "Node": ("spec.unschedulable",),
    "Event": (
        "involvedObject.kind",
        "involvedObject.name",
        "involvedObject.namespace",
        "involvedObject.uid",
        "reason",
        "type",
    ),
    "Job": ("status.successful",),
    "ReplicaSet": ("status.replicas",),
    "Service": ("spec.clusterIP", "spec.type"),
}


def selectable(resource: Resource) -> tuple[str, ...]:
    names = _COMMON if resource.namespaced else _COMMON[:1]
    return names + (_SUPPORTED.get(resource.kind, ()) if resource.builtin else ())


def value_at(obj: Any, path: str) -> str:
    for name in path.split("."):
        if not isinstance(obj, dict):
            return ""
        obj = obj.get(name)
    return "" if obj is None else str(obj).lower() if isinstance(obj, bool) else str(obj)


def fields(text: str, resource: Resource) -> list[tuple[str, bool, str]]:
    """Each requirement as (path, must be equal, value)."""
    found = []
    for part in _split(text):
        matched = re.match(r"^([^=!]+?)\s*(==|!=|=)\s*(.*)$", part)
        if matched is None:
            raise bad_request(f"invalid selector: {text!r}; can't understand {part!r}")
        path, op, value = matched.groups()
        if path not in selectable(resource):
            if resource.builtin:
                raise bad_request(
                    f'Unable to find {resource_name(resource)} that match label selector "", '
                    f'field selector "{text}": field label not supported: {path}'
                )
            raise bad_request(f"field label not supported: {path}")
        found.append((path, op != "!=", value))
    return found


def resource_name(resource: Resource) -> str:
    return f'"{resource.group}/{resource.version}, Resource={resource.plural}"'
