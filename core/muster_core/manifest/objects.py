"""What names a Kubernetes object, and the one canonical form from which digests are made.

Owns :class:`ObjectRef`, the form that an object must have, the canonical JSON and the digest. Objects stay plain
dicts: nothing here knows their fields beyond ``apiVersion``, ``kind`` and ``metadata``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from muster_core.errors import ValidationError

Manifest = dict[str, Any]

MAX_NAME = 253
_API_VERSION = re.compile(r"(?:[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?/)?[a-z][a-z0-9]*")
_KIND = re.compile(r"[A-Za-z][A-Za-z0-9]*")


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


def unsound(manifest: Mapping[str, Any]) -> str:
    """What is wrong with the form of an object that a bundle delivers, or an empty text.

    Only what every kind has is looked at: a name must be one step of a URL's path, labels and annotations must be text. What
    the API server would refuse late, or what would lead to another object than the one that was judged, is told here.
    """
    try:
        ref = ref_of(manifest)
    except ValidationError as error:
        return error.message
    if not _API_VERSION.fullmatch(ref.api_version):
        return f"apiVersion {_short(ref.api_version)} is none; write v1 or GROUP/VERSION"
    if not _KIND.fullmatch(ref.kind):
        return f"kind {_short(ref.kind)} is none; write letters and digits"
    for field, name in (("name", ref.name), ("namespace", ref.namespace)):
        if len(name) > MAX_NAME or name in (".", "..") or not name.isprintable() or {*"/%"} & {*name}:
            return f"metadata.{field} {_short(name)} is no name; write at most {MAX_NAME} characters without / and %"
    metadata = manifest["metadata"]
    if not isinstance(metadata.get("namespace") or "", str) or metadata.get("namespace") in (False, 0):
        return "metadata.namespace must be text"
    for field in ("labels", "annotations"):
        table = metadata.get(field)
        if table is None:
            continue
        if not isinstance(table, Mapping):
            return f"metadata.{field} must be a mapping of text to text"
        for key, value in table.items():
            if not isinstance(value, str):
                return f"metadata.{field}.{key} must be text; put it in quotes"
    return ""


def items_of(value: Any) -> list[tuple[tuple[str | int, ...], Any]]:
    """The objects of a document, each with its path in it: a List is its items, anything else is itself."""
    if isinstance(value, Mapping):
        kind, items = value.get("kind"), value.get("items")
        if kind == "List" or (isinstance(kind, str) and kind.endswith("List") and isinstance(items, list)):
            if items is None:
                return []
            return (
                [(("items", n), item) for n, item in enumerate(items)]
                if isinstance(items, list)
                else [((), None)]
            )
    return [((), value)]


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def canonical_json(value: object) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces; equal values give equal bytes."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def digest(value: object) -> str:
    """SHA-256 of the canonical JSON, in hex."""
    return hashlib.sha256(canonical_json(value)).hexdigest()
