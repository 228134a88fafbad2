"""Flat names in manifests: ``${NAME}``, ``${NAME:=default}``, ``$${NAME}`` for a literal.

Owns the replacement in parsed objects (never in YAML text, so a value cannot add structure). A scalar that
is exactly one reference keeps the type of its value. It is only called for bundles that ask for
substitution.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from muster_core.errors import ValidationError
from muster_core.select import Value

_NAME = re.compile(r"\$(\$)?\{([A-Za-z_][A-Za-z0-9_]*)(?::([=-])([^}]*))?\}")


_STRING_MAPS = frozenset({"labels", "annotations", "matchLabels", "nodeSelector"})
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")


def substitute(value: Any, values: Mapping[str, Value]) -> Any:
    """The same object with every reference replaced; ``MUSTER-V024`` for a name without value and default.

    Where Kubernetes wants text (labels, annotations, ConfigMap and Secret data, the value of an environment
    variable) the result is text, whatever the type of the value.
    """
    return _replaced(value, values, text=False)


def _replaced(value: Any, values: Mapping[str, Value], *, text: bool) -> Any:
    if isinstance(value, str):
        found = _text(value, values)
        return _plain(found) if text else found
    if isinstance(value, list):
        return [_replaced(item, values, text=text) for item in value]
    if isinstance(value, dict):
        holds_data = value.get("kind") in ("ConfigMap", "Secret")
        named = "name" in value
        return {
            _key(key, values): _replaced(
                item,
                values,
                text=text
                or key in _STRING_MAPS
                or (holds_data and key in ("data", "stringData"))
                or (named and key == "value"),
            )
            for key, item in value.items()
        }
    return value


def _key(key: Any, values: Mapping[str, Value]) -> Any:
    return _plain(_text(key, values)) if isinstance(key, str) else key


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
        return typed(default)
    raise ValidationError(
        "V024",
        f"no value for ${{{name}}}",
        hint="Set it in targets[].values or substitute, or write a default: ${NAME:=x}.",
    )


def typed(text: str) -> Value:
    """Text as the value that it would be in YAML: a default, or a value given on a command line."""
    if text in ("true", "false"):
        return text == "true"
    return int(text) if _INTEGER.fullmatch(text) else text
