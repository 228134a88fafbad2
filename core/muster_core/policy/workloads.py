"""Where a pod specification is inside a workload.

Owns the paths of pod templates, for Pod Security and for the rewrite of rules that name only pods.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "Pod": (),
    "Deployment": ("spec", "template"),
    "ReplicaSet": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "ReplicationController": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}


def template_of(obj: Mapping[str, Any]) -> tuple[tuple[str, ...], Mapping[str, Any]] | None:
    """Path and pod template (the object itself for a Pod), or None."""
    path = TEMPLATES.get(str(obj.get("kind")))
    if path is None:
        return None
    value: Any = obj
    for step in path:
        value = value.get(step) if isinstance(value, Mapping) else None
    return (path, value) if isinstance(value, Mapping) else None
