"""The part of a live object that one field manager owns, and its digest.

Owns the walk over ``managedFields`` (FieldsV1). What others own (status, defaults, a replica count of an autoscaler) is no
drift. Source: structured-merge-diff, fieldpath. It never changes an object.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from muster_core.manifest.objects import digest

_ABSENT = object()


def owned_digest(obj: Mapping[str, Any], manager: str) -> str:
    """Digest of the values of the fields that ``manager`` applied; empty when it owns nothing."""
    for entry in (obj.get("metadata") or {}).get("managedFields") or []:
        if (
            entry.get("manager") == manager
            and entry.get("operation") == "Apply"
            and not entry.get("subresource")
        ):
            return digest(_project(obj, entry.get("fieldsV1") or {}))
    return ""


def _project(value: Any, fields: Mapping[str, Any]) -> Any:
    if not fields:
        return None if value is _ABSENT else value
    out: dict[str, Any] = {}
    for key, inner in fields.items():
        if key == ".":
            continue
        kind, _, text = key.partition(":")
        found = _find(value, kind, text)
        out[key] = {"absent": True} if found is _ABSENT else _project(found, inner)
    return out


def _find(value: Any, kind: str, text: str) -> Any:
    if kind == "f":
        return value.get(text, _ABSENT) if isinstance(value, Mapping) else _ABSENT
    if not isinstance(value, list):
        return _ABSENT
    if kind == "i":
        return value[int(text)] if int(text) < len(value) else _ABSENT
    wanted = json.loads(text)
    if kind == "v":
        return wanted if wanted in value else _ABSENT
    for item in value:
        if isinstance(item, Mapping) and all(
            item.get(key, _default(key)) == part for key, part in wanted.items()
        ):
            return item
    return _ABSENT


def _default(key: str) -> Any:
    return "TCP" if key == "protocol" else None
