"""Where a pod specification is inside a workload.

Owns the paths of pod templates, by group and kind: another project's ``Job`` is no workload of ours. It never looks into
the specification itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TEMPLATE = ("spec", "template")
TEMPLATES: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("", "Pod"): (),
    ("", "PodTemplate"): ("template",),
    ("", "ReplicationController"): _TEMPLATE,
    ("apps", "Deployment"): _TEMPLATE,
    ("apps", "ReplicaSet"): _TEMPLATE,
    ("apps", "StatefulSet"): _TEMPLATE,
    ("apps", "DaemonSet"): _TEMPLATE,
    ("batch", "Job"): _TEMPLATE,
    ("batch", "CronJob"): ("spec", "jobTemplate", "spec", "template"),
}
KINDS = frozenset(kind.lower() for _, kind in TEMPLATES)


def template_of(obj: Mapping[str, Any]) -> tuple[tuple[str, ...], Any] | None:
    """Path and pod template (the object itself for a Pod); None when the object is no workload.

    The template is None where the workload has none, and whatever stands there where it is malformed.
    """
    group = str(obj.get("apiVersion", "")).rpartition("/")[0]
    path = TEMPLATES.get((group, str(obj.get("kind"))))
    if path is None:
        return None
    value: Any = obj
    for step in path:
        value = value.get(step) if isinstance(value, Mapping) else None
    return path, value
