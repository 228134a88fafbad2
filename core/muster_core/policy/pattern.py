"""Kyverno's validate patterns: overlays with anchors, compiled once to nested functions.

Owns the meaning of ``()``, ``<()``, ``=()``, ``X()``, ``^()``, of lists, and the order in which they are asked, so that a
condition that does not apply is found before a failure. It never knows what a policy is, and never changes a value.
Source: kyverno pkg/engine/validate and pkg/engine/anchor; where those pick at random, all is asked here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from muster_core.policy import wildcard
from muster_core.policy.operators import compile_scalar

_ANCHOR = re.compile(r"(?P<sign>[+<=X^]?)\((?P<key>.+)\)")
_EXPANDED = {("metadata", "labels"), ("metadata", "annotations")}


class Mismatch(NamedTuple):
    """``skip`` is a condition that does not apply, which is no failure."""

    path: str
    message: str
    skip: bool = False


class BadPatternError(ValueError):
    """A pattern that nothing can be asked with; ``path`` is inside the pattern."""

    def __init__(self, path: str, what: str) -> None:
        super().__init__(what)
        self.path, self.what = path, what


Matcher = Callable[[Any], Mismatch | None]
Step = Callable[[Mapping[str, Any]], Mismatch | None]


def compile_pattern(pattern: Any, trail: tuple[str, ...] = ()) -> Matcher:
    """A function that gives None when a value satisfies the pattern. ``trail`` is the keys above it."""
    if isinstance(pattern, Mapping):
        return _mapping(pattern, trail)
    if isinstance(pattern, list):
        return _list(pattern, trail)
    return _leaf(pattern)


def match(value: Any, pattern: Any) -> Mismatch | None:
    """Compile and ask at once."""
    return compile_pattern(pattern)(value)


def anchor(key: str) -> tuple[str, str]:
    """(sign, key); the sign is ``()`` for a condition, ``<() =() X() ^() +()``, or empty for a plain key."""
    found = _ANCHOR.fullmatch(key)
    return (f"{found['sign']}()", found["key"]) if found else ("", key)


def _under(step: str, missed: Mismatch, *, skip: bool | None = None) -> Mismatch:
    dot = "." if missed.path and missed.path[0] != "[" else ""
    return Mismatch(f"{step}{dot}{missed.path}", missed.message, missed.skip if skip is None else skip)


def _said(value: Any, pattern: Any) -> str:
    shown = "is missing" if value is None else "does not match"
    return f"{shown}, wanted {pattern!r}"


def _leaf(pattern: Any) -> Matcher:
    check = compile_scalar(pattern)

    def leaf(value: Any) -> Mismatch | None:
        if isinstance(value, list):
            for index, item in enumerate(value):
                if not check(item):
                    return Mismatch(f"[{index}]", _said(item, pattern))
            return None
        return None if check(value) else Mismatch("", _said(value, pattern))

    return leaf


# --- mappings ----------------------------------------------------------------------------------------------------


def _mapping(pattern: Mapping[str, Any], trail: tuple[str, ...]) -> Matcher:
    conditions, anchors, rest = (
        [_step(raw, inner, trail) for raw, inner in group] for group in _ordered(pattern, trail)
    )

    def mapping(value: Any) -> Mismatch | None:
        if not isinstance(value, Mapping):
            return Mismatch("", "is missing" if value is None else "a mapping is expected")
        for step in conditions:
            if (missed := step(value)) is not None:
                return missed
        # A list of which no element is meant says nothing of its siblings: they are still asked.
        skipped, applied = None, bool(conditions)
        for step in anchors:
            missed = step(value)
            if missed is None:
                applied = True
            elif missed.skip:
                skipped = missed
            else:
                return missed
        if skipped is not None and not applied:
            return skipped
        for step in rest:
            if (missed := step(value)) is not None:
                return missed
        return None

    return mapping


def _ordered(
    pattern: Mapping[str, Any], trail: tuple[str, ...]
) -> tuple[list[tuple[str, Any]], list[tuple[str, Any]], list[tuple[str, Any]]]:
    """Conditions; other anchors; and the rest: first what holds anchors further down, last key first, then plain keys."""
    groups: tuple[list[tuple[str, Any]], ...] = ([], [], [], [])
    for raw in pattern:
        if not isinstance(raw, str):
            raise BadPatternError(".".join(trail), f"the key {raw!r} is no text")
    for raw, inner in sorted(pattern.items()):
        sign, key = anchor(raw)
        if sign == "+()":
            raise BadPatternError(".".join([*trail, raw]), f"+({key}) belongs to mutation")
        if sign == "()":
            groups[0].append((raw, inner))
        elif sign in {"=()", "X()", "^()"}:
            groups[1].append((raw, inner))
        elif sign == "<()" or _has_anchor(inner):
            groups[2].insert(0, (raw, inner))
        else:
            groups[3].append((raw, inner))
    return groups[0], groups[1], groups[2] + groups[3]


def _has_anchor(pattern: Any) -> bool:
    if isinstance(pattern, Mapping):
        return any(
            anchor(str(key))[0] not in ("", "+()") or _has_anchor(inner) for key, inner in pattern.items()
        )
    return isinstance(pattern, list) and any(_has_anchor(item) for item in pattern)


def _step(raw: str, inner: Any, trail: tuple[str, ...]) -> Step:
    sign, key = anchor(raw)
    if sign == "X()":
        child: Matcher = lambda value: None  # noqa: E731 - what stands under X() is never asked
    elif sign == "^()":
        child = _existence(inner, (*trail, key))
    elif not sign and inner == "*":
        child = _present
    else:
        child = compile_pattern(inner, (*trail, key))
    if wildcard.has_wildcard(key) and trail[-2:] in _EXPANDED:
        return _wild_step(sign, key, child)
    return _plain_step(sign, key, child)


def _present(value: Any) -> Mismatch | None:
    """``*`` of a plain key: anything but nothing, mappings and lists too."""
    return Mismatch("", "is missing") if value is None else None


def _plain_step(sign: str, key: str, child: Matcher) -> Step:
    def plain(value: Mapping[str, Any]) -> Mismatch | None:
        missed = child(value.get(key))
        return None if missed is None else _under(key, missed)

    def condition(value: Mapping[str, Any]) -> Mismatch | None:
        if key not in value:
            return Mismatch(key, "the condition does not apply", True)
        return unless(value)

    def unless(value: Mapping[str, Any]) -> Mismatch | None:
        missed = child(value[key]) if key in value else None
        return None if missed is None else _under(key, missed, skip=True)

    def equality(value: Mapping[str, Any]) -> Mismatch | None:
        missed = child(value[key]) if key in value else None
        return None if missed is None else _under(key, missed)

    def negation(value: Mapping[str, Any]) -> Mismatch | None:
        return Mismatch(key, "must not be set") if key in value else None

    steps: dict[str, Step] = {
        "": plain,
        "()": condition,
        "<()": unless,
        "=()": equality,
        "^()": equality,
        "X()": negation,
    }
    return steps[sign]


def _wild_step(sign: str, key: str, child: Matcher) -> Step:
    """A key with wildcards, which only labels and annotations know: asked of every name that it means."""
    means = wildcard.compiled(key)

    def ask(value: Mapping[str, Any]) -> list[Mismatch | None]:
        answers = [(name, child(value[name])) for name in value if isinstance(name, str) and means(name)]
        return [missed if missed is None else _under(name, missed) for name, missed in answers]

    def wild(value: Mapping[str, Any]) -> Mismatch | None:
        answers = ask(value)
        if sign == "X()":
            return Mismatch(key, "must not be set") if answers else None
        missed = [answer for answer in answers if answer is not None]
        if sign in ("=()", "^()"):
            return missed[0] if missed else None
        if not answers:
            gone = Mismatch(key, "is missing", sign == "()")
            return None if sign == "<()" else gone
        if len(missed) < len(answers):
            return None
        return missed[0]._replace(skip=True) if sign else missed[0]

    return wild


# --- lists -------------------------------------------------------------------------------------------------------


def _list(pattern: list[Any], trail: tuple[str, ...]) -> Matcher:
    """The first element speaks for all elements of the value; only lists in lists go element by element."""
    if pattern and isinstance(pattern[0], list):
        return _rows(pattern, trail)
    if pattern and not isinstance(pattern[0], Mapping):
        leaf = _leaf(pattern[0])
        return lambda value: leaf(value) if isinstance(value, list) else _no_list(value)
    child = compile_pattern(pattern[0], trail) if pattern else None

    def elements(value: Any) -> Mismatch | None:
        if not isinstance(value, list):
            return _no_list(value)
        if child is None:
            return Mismatch("", "the pattern is an empty list, which nothing satisfies")
        skipped = 0
        for index, item in enumerate(value):
            missed = child(item)
            if missed is not None:
                if not missed.skip:
                    return _under(f"[{index}]", missed)
                skipped += 1
        if skipped and skipped == len(value):
            return Mismatch("", "no element that the condition applies to", True)
        return None

    return elements


def _no_list(value: Any) -> Mismatch:
    return Mismatch("", "is missing" if value is None else "a list is expected")


def _rows(pattern: list[Any], trail: tuple[str, ...]) -> Matcher:
    children = [compile_pattern(item, trail) for item in pattern]

    def rows(value: Any) -> Mismatch | None:
        if not isinstance(value, list) or len(value) < len(children):
            return Mismatch("", f"a list of at least {len(children)} is expected")
        skipped = 0
        for index, child in enumerate(children):
            missed = child(value[index])
            if missed is not None:
                if not missed.skip:
                    return _under(f"[{index}]", missed)
                skipped += 1
        return Mismatch("", "no element applies", True) if skipped == len(children) else None

    return rows


def _existence(pattern: Any, trail: tuple[str, ...]) -> Matcher:
    if not isinstance(pattern, list) or not all(isinstance(item, Mapping) for item in pattern):
        raise BadPatternError(".".join(trail), "^() wants a list of mappings")
    children = [compile_pattern(item, trail) for item in pattern]

    def existence(value: Any) -> Mismatch | None:
        if not isinstance(value, list):
            return _no_list(value)
        for child in children:
            if all(child(item) is not None for item in value):
                return Mismatch("", "no element is as wanted")
        return None

    return existence
