"""JSON Schemas of the kinds, from the very models that parse them.

Owns the shape that editors want (draft 2020-12, one document per kind). It never adds a field of its own.
"""

from __future__ import annotations

from typing import Any

import msgspec

from muster_core.errors import ValidationError
from muster_core.kinds.model import KINDS


def schema(kind: str) -> dict[str, Any]:
    """The JSON Schema of one kind; ``MUSTER-V003`` when there is no such kind."""
    if kind not in KINDS:
        raise ValidationError("V003", f"there is no kind {kind!r}", hint=f"Kinds: {', '.join(KINDS)}.")
    (reference,), components = msgspec.json.schema_components([KINDS[kind]], ref_template="#/$defs/{name}")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": kind,
        **reference,
        "$defs": components,
    }
