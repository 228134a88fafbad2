"""The ``scale`` view of a workload.

Owns the translation between a workload and ``autoscaling/v1`` Scale. It never stores.
"""

from __future__ import annotations

from typing import Any

from .errors import bad_request
from .patches import merge_patch

Obj = dict[str, Any]


def scale_of(obj: Obj) -> Obj:
    metadata = obj["metadata"]
    labels = ((obj["spec"].get("selector") or {}).get("matchLabels") or {}).items()
    kept = {
        key: metadata[key] for key in ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    }
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": kept,
        "spec": {"replicas": obj["spec"].get("replicas", 0)},
        "status": {
            "replicas": (obj.get("status") or {}).get("replicas", 0),
            "selector": ",".join(f"{key}={value}" for key, value in labels),
        },
    }


def with_replicas(obj: Obj, patch: Any) -> Obj:
    """The workload after a Scale, or a merge patch of one, is written to it."""
    merged = merge_patch(scale_of(obj), patch)
    replicas = (merged.get("spec") or {}).get("replicas", 0)
    if not isinstance(replicas, int):
        raise bad_request("json: cannot unmarshal into Go struct field ScaleSpec.spec.replicas of type int32")
    obj["spec"]["replicas"] = replicas
    return obj
