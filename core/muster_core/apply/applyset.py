"""Which objects belong to a bundle, by the ApplySet convention, so that plain kubectl understands it.

Owns label and annotation keys, the id of a bundle's set, and its parent object. Source: KEP-3659. It never talks to a
cluster.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from typing import Any

from muster_core.manifest.objects import Manifest, ObjectRef

PART_OF = "applyset.kubernetes.io/part-of"
SET_ID = "applyset.kubernetes.io/id"
TOOLING = "applyset.kubernetes.io/tooling"
GROUP_KINDS = "applyset.kubernetes.io/contains-group-kinds"
NAMESPACES = "applyset.kubernetes.io/additional-namespaces"
KINDS = "muster.dev/kinds"
MANAGER = "muster"


def parent_name(bundle: str) -> str:
    return f"muster-bundle-{bundle}"


def set_id(bundle: str, namespace: str) -> str:
    """``applyset-<base64url(sha256(name.namespace.kind.group))>-v1``."""
    text = f"{parent_name(bundle)}.{namespace}.ConfigMap."
    return (
        f"applyset-{base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip('=')}-v1"
    )


def parent(bundle: str, namespace: str, refs: Iterable[ObjectRef], data: dict[str, str]) -> Manifest:
    """The parent ConfigMap; ``data`` is what a person with only kubectl may want to know."""
    members = list(refs)
    kinds = sorted({f"{ref.kind}.{ref.group}" if ref.group else ref.kind for ref in members})
    namespaces = sorted({ref.namespace for ref in members if ref.namespace and ref.namespace != namespace})
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": parent_name(bundle),
            "namespace": namespace,
            "labels": {SET_ID: set_id(bundle, namespace)},
            "annotations": {
                TOOLING: "muster/v1",
                GROUP_KINDS: ",".join(kinds),
                NAMESPACES: ",".join(namespaces),
                KINDS: ",".join(sorted({f"{ref.api_version}/{ref.kind}" for ref in members})),
            },
        },
        "data": data,
    }


def recorded_kinds(parent_object: Manifest | None) -> set[tuple[str, str]]:
    """(apiVersion, kind) of every kind that may have members; the convention's own annotation has no versions."""
    annotations = ((parent_object or {}).get("metadata") or {}).get("annotations") or {}
    found = (part.rpartition("/") for part in str(annotations.get(KINDS, "")).split(",") if "/" in part)
    return {(api_version, kind) for api_version, _, kind in found}


def member(manifest: Manifest, applyset: str) -> Manifest:
    """A copy of the object that carries the set's label."""
    metadata: dict[str, Any] = dict(manifest.get("metadata") or {})
    metadata["labels"] = {**(metadata.get("labels") or {}), PART_OF: applyset}
    return {**manifest, "metadata": metadata}


def part_of(obj: Manifest) -> str:
    """The id of the set an object belongs to, or an empty text."""
    labels = (obj.get("metadata") or {}).get("labels") or {}
    return str(labels.get(PART_OF, ""))
