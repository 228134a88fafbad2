"""What names a Kubernetes object, and the one canonical form from which digests are made.

Owns :class:`ObjectRef`, the canonical JSON and the digest. Objects stay plain dicts: nothing here knows
their fields beyond ``apiVersion``, ``kind`` and ``metadata``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from muster_core.errors import ValidationError

Manifest = dict[str, Any]


class ObjectRef(NamedTuple):
    """An object by name. ``namespace`` is empty for cluster-scoped objects, and where none was written."""

    api_version: str
    kind: str
    namespace: str
    name: str

    @property
    def group(self) -> str:
        return self.api_version.rpartition("/")[0]

    def __str__(self) -> str:
        name = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return f"{self.api_version}/{self.kind} {name}"


def ref_of(manifest: Mapping[str, Any]) -> ObjectRef:
    """The name of an object; ``MUSTER-V020`` when a part of it is missing or no text."""
    metadata = manifest.get("metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}
    parts = (
        manifest.get("apiVersion"),
        manifest.get("kind"),
        metadata.get("namespace") or "",
        metadata.get("name"),
    )
    for field, part in zip(("apiVersion", "kind", "metadata.namespace", "metadata.name"), parts, strict=True):
        if not isinstance(part, str) or (not part and field != "metadata.namespace"):
            raise ValidationError("V020", f"an object without {field}", hint="Every object needs it.")
    return ObjectRef(*(str(part) for part in parts))


def canonical_json(value: object) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces; equal values give equal bytes."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def digest(value: object) -> str:
    """SHA-256 of the canonical JSON, in hex."""
    return hashlib.sha256(canonical_json(value)).hexdigest()
