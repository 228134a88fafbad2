"""How a pod specification is read: what is absent is empty, and what is malformed is an error, never a pass.

Owns the walk over containers and security contexts. It never judges.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


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


class Pod:
    """A pod specification, walked once for all checks. Paths are those of the pod."""

    __slots__ = ("annotations", "containers", "context", "contexts", "secured", "spec")

    def __init__(self, spec: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
        self.spec = spec
        self.annotations = mapping(metadata.get("annotations"))
        self.context = mapping(spec.get("securityContext"))
        self.containers = [
            (f"spec.{field}[{index}]", container)
            for field in ("containers", "initContainers", "ephemeralContainers")
            for index, container in enumerate(items(spec.get(field)))
        ]
        # The security contexts of containers, empty where there is none; then the same with that of the pod.
        self.secured = [
            (f"{path}.securityContext", mapping(container.get("securityContext")))
            for path, container in self.containers
        ]
        self.contexts = [("spec.securityContext", self.context), *self.secured]

    @property
    def is_windows(self) -> bool:
        return bool(mapping(self.spec.get("os")).get("name") == "windows")

    @property
    def is_host_user(self) -> bool:
        """A pod in a user namespace of its own relaxes some checks from 1.35 on."""
        return self.spec.get("hostUsers") is not False
