"""Flat names in manifests: ``${NAME}``, ``${NAME:=default}``, ``$${NAME}`` for a literal.

Owns the replacement in parsed objects (never in YAML text, so a value cannot add structure). A scalar that is exactly
one reference keeps the type of its value. It is only called for bundles that ask for substitution.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from muster_core.errors import ValidationError
from muster_core.select import Value

_NAME = re.compile(r"\$(\$)?\{([A-Za-z_][A-Za-z0-9_]*)(?::([=-])([^}]*))?\}")


def substitute(value: Any, values: Mapping[str, Value]) -> Any:  # noqa: ANN401 - a JSON value in, a JSON value out
    """The same object with every reference replaced; ``MUSTER-V024`` for a name without value and default."""
    if isinstance(value, str):
        return _text(value, values)
    if isinstance(value, list):
        return [substitute(item, values) for item in value]
    if isinstance(value, dict):
        return {_key(key, values): substitute(item, values) for key, item in value.items()}
    return value


def _key(key: Any, values: Mapping[str, Value]) -> Any:  # noqa: ANN401
    return str(_text(key, values)) if isinstance(key, str) else key


def _text(text: str, values: Mapping[str, Value]) -> Value:
    if "${" not in text:
        return text
    whole = _NAME.fullmatch(text)
    if whole and not whole[1]:
        return _lookup(whole, values)
    return _NAME.sub(lambda found: found[0][1:] if found[1] else _plain(_lookup(found, values)), text)


def _plain(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _lookup(found: re.Match[str], values: Mapping[str, Value]) -> Value:
    name, default = found[2], found[4]
    if name in values and not (found[3] and values[name] == ""):
        return values[name]
    if found[3]:
        return str(default)
    raise ValidationError("V024", f"no value for ${{{name}}}", hint="Set it in targets[].values or substitute, or write a default: ${NAME:=x}.")
