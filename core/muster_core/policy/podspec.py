"""How a pod specification is read: what is absent is empty, and what is malformed is an error, never a pass.

Owns the walk over containers and security contexts. It never judges.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Pod = Mapping[str, Any]


class MalformedError(ValueError):
    """A pod specification in which a mapping or a list is something else: it can be judged by nobody."""


def mapping(value: Any) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise MalformedError("a mapping is expected in the pod specification")
    return value


def items(value: Any) -> list[Mapping[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise MalformedError("a list of mappings is expected in the pod specification")
    return value


def names(value: Any) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise MalformedError("a list is expected in the pod specification")
    return [str(item) for item in value]


def containers(spec: Pod) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for field in ("containers", "initContainers", "ephemeralContainers"):
        for index, container in enumerate(items(spec.get(field))):
            yield f"spec.{field}[{index}]", container


def contexts(spec: Pod) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield "spec.securityContext", mapping(spec.get("securityContext"))
    for path, container in containers(spec):
        yield f"{path}.securityContext", mapping(container.get("securityContext"))


def is_windows(spec: Pod) -> bool:
    return bool(mapping(spec.get("os")).get("name") == "windows")


def is_host_user(spec: Pod) -> bool:
    """A pod in a user namespace of its own relaxes some checks from 1.35 on."""
    return spec.get("hostUsers") is not False
