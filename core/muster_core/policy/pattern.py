"""Kyverno's validate patterns: overlays with anchors, and value operators.

Owns the meaning of ``()``, ``=()``, ``X()``, ``^()``, ``<()`` and of ``! | & > < >= <= - !-``.
Source: kyverno pkg/engine/validate and pkg/engine/pattern. It never knows what a policy is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from muster_core.policy.quantity import duration, quantity
from muster_core.policy.wildcard import has_wildcard
from muster_core.policy.wildcard import matches as wildcard

_ANCHOR = re.compile(r"^(?P<kind>[+<=X^]?)\((?P<key>.+)\)$")
_RANGE = re.compile(r"^(?P<low>-?[^-!]+?)(?P<not>!?)-(?P<high>-?[^-]+)$")
_OPERATORS = (">=", "<=", ">", "<", "!")


class Mismatch(NamedTuple):
    """``skip`` is a condition that does not apply, which is no failure."""

    path: str
    message: str
    skip: bool = False


def anchor(key: str) -> tuple[str, str]:
    """(kind, key): ``condition``, ``equality``, ``negation``, ``existence``, ``global``, ``add`` or an empty kind."""
    found = _ANCHOR.match(key)
    if not found:
        return "", key
    kinds = {"": "condition", "=": "equality", "X": "negation", "^": "existence", "<": "global", "+": "add"}
    return kinds[found["kind"]], found["key"]


def match(value: Any, pattern: Any, path: str = "") -> Mismatch | None:
    """None when the value satisfies the pattern."""
    if isinstance(pattern, Mapping):
        if not isinstance(value, Mapping):
            return Mismatch(path, "a mapping is expected")
        return _mapping(value, pattern, path)
    if isinstance(pattern, list):
        if not isinstance(value, list):
            return Mismatch(path, "a list is expected")
        return _list(value, pattern, path)
    if isinstance(value, list):
        return next(
            (
                Mismatch(f"{path}[{i}]", _said(item, pattern))
                for i, item in enumerate(value)
                if not scalar(item, pattern)
            ),
            None,
        )
    return None if scalar(value, pattern) else Mismatch(path, _said(value, pattern))


def _said(value: Any, pattern: Any) -> str:
    shown = "is missing" if value is None else f"is {value!r}"
    return f"{shown}, wanted {pattern!r}"


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _mapping(value: Mapping[str, Any], pattern: Mapping[str, Any], path: str) -> Mismatch | None:
    plain: list[tuple[str, Any]] = []
    for raw, inner in pattern.items():
        kind, key = anchor(raw)
        found = _lookup(value, key)
        if kind in {"condition", "global"}:
            if key not in value and not has_wildcard(key):
                if kind == "condition":
                    return Mismatch(_join(path, key), "the condition does not apply", True)
                continue
            missed = match(found, inner, _join(path, key))
            if missed:
                return missed._replace(skip=True)
        elif kind == "negation":
            if key in value or (has_wildcard(key) and any(wildcard(key, name) for name in value)):
                return Mismatch(_join(path, key), "must not be set")
        elif kind == "equality":
            names = [name for name in value if wildcard(key, name)] if has_wildcard(key) else [key]
            plain += [(name, inner) for name in names if name in value]
        elif kind == "existence":
            if key in value:
                missed = _existence(found, inner, _join(path, key))
                if missed:
                    return missed
        elif kind != "add":
            plain.append((key, inner))
    # Nested conditions are looked at before plain values, so that a skip is found before a failure.
    plain.sort(key=lambda item: not _has_anchor(item[1]))
    for key, inner in plain:
        missed = _plain(value, key, inner, path)
        if missed:
            return missed
    return None


def _plain(value: Mapping[str, Any], key: str, inner: Any, path: str) -> Mismatch | None:
    if has_wildcard(key):
        names = [name for name in value if wildcard(key, name)]
        if not names:
            return Mismatch(_join(path, key), "no such field")
        misses = [match(value[name], inner, _join(path, name)) for name in names]
        return None if any(missed is None for missed in misses) else misses[0]
    if key not in value:
        if inner == "*" or (isinstance(inner, str) and inner == ""):
            return Mismatch(_join(path, key), "is missing")
        if inner is None or (isinstance(inner, (str, int, float, bool)) and scalar(None, inner)):
            return None
        return Mismatch(_join(path, key), "is missing")
    return match(value[key], inner, _join(path, key))


def _lookup(value: Mapping[str, Any], key: str) -> Any:
    if has_wildcard(key):
        return next((value[name] for name in value if wildcard(key, name)), None)
    return value.get(key)


def _has_anchor(pattern: Any) -> bool:
    if isinstance(pattern, Mapping):
        return any(
            anchor(key)[0] in {"condition", "global"} or _has_anchor(inner) for key, inner in pattern.items()
        )
    return isinstance(pattern, list) and any(_has_anchor(item) for item in pattern)


def _list(value: list[Any], pattern: list[Any], path: str) -> Mismatch | None:
    if not pattern:
        return None
    first = pattern[0]
    if isinstance(first, Mapping) and len(pattern) == 1:
        skips = 0
        for index, item in enumerate(value):
            missed = match(item, first, f"{path}[{index}]")
            if missed and not missed.skip:
                return missed
            skips += missed is not None
        if value and skips == len(value):
            return Mismatch(path, "no element that the condition applies to", True)
        return None
    if len(pattern) == 1:
        return next(
            (
                Mismatch(f"{path}[{i}]", _said(item, first))
                for i, item in enumerate(value)
                if not scalar(item, first)
            ),
            None,
        )
    if len(value) < len(pattern):
        return Mismatch(path, f"at least {len(pattern)} elements are expected")
    for index, inner in enumerate(pattern):
        missed = match(value[index], inner, f"{path}[{index}]")
        if missed:
            return missed
    return None


def _existence(value: Any, pattern: Any, path: str) -> Mismatch | None:
    if not isinstance(value, list) or not isinstance(pattern, list):
        return Mismatch(path, "a list is expected")
    for inner in pattern:
        if not any(match(item, inner, path) is None for item in value):
            return Mismatch(path, "no element is as wanted")
    return None


# --- values ------------------------------------------------------------------------------------------------------


def scalar(value: Any, pattern: Any) -> bool:
    """Whether one value satisfies one scalar pattern."""
    if isinstance(pattern, bool):
        return value is pattern or (isinstance(value, str) and value == str(pattern).lower())
    if pattern is None:
        return value is None or value in ("", 0) or value is False
    if isinstance(pattern, (int, float)):
        return _number_equal(value, pattern)
    if isinstance(value, (Mapping, list)):
        return bool(pattern == "*")
    return _text(value, str(pattern))


def _number_equal(value: Any, pattern: float) -> bool:
    if isinstance(value, bool) or value is None:
        return False
    if isinstance(value, (int, float)):
        return value == pattern
    try:
        return float(value) == float(pattern)
    except (TypeError, ValueError):
        return False


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:E}"
    return str(value)


def _text(value: Any, pattern: str) -> bool:
    if value is not None and _shown(value) == pattern:
        return True
    return any(
        all(_one(value, part.strip()) for part in alternative.strip().split("&"))
        for alternative in pattern.split("|")
    )


def _one(value: Any, pattern: str) -> bool:
    operator = next((op for op in _OPERATORS if pattern.startswith(op)), "")
    if not operator:
        found = _RANGE.match(pattern)
        if found and _is_number(found["low"].strip()) and _is_number(found["high"].strip()):
            low, high = found["low"].strip(), found["high"].strip()
            inside = _compare(value, ">=", low) and _compare(value, "<=", high)
            return not inside if found["not"] else inside
    return _compare(value, operator, pattern[len(operator) :].strip())


def _is_number(text: str) -> bool:
    return quantity(text) is not None or duration(text) is not None


def _compare(value: Any, operator: str, wanted: str) -> bool:
    if isinstance(value, (Mapping, list)):
        return False
    shown = (
        "0"
        if value is None and operator in {">", "<", ">=", "<="}
        else ""
        if value is None
        else _shown(value)
    )
    for read in (duration, quantity):
        left, right = read(_numeral(value, shown)), read(wanted)
        if left is not None and right is not None:
            return {
                "": left == right,
                "!": left != right,
                ">": left > right,
                "<": left < right,
                ">=": left >= right,
                "<=": left <= right,
            }[operator]
    if operator in {"", "!"}:
        if value is None:
            return operator == "!"
        return wildcard(wanted, shown) is (operator == "")
    return False


def _numeral(value: Any, shown: str) -> str:
    return repr(value) if isinstance(value, float) else shown
