"""Sets of field paths, and the walks over typed values that server-side apply is made of.

A path is a tuple of elements in the spelling of ``fieldsV1``: ``f:name``, ``k:{...}``, ``v:...``. Owns
conversion between sets, objects and ``fieldsV1``; merging, comparing and removing along a shape. It never
knows a manager's name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from .schemas import ANY, KEY_DEFAULTS, ListOf, MapOf, Scalar, Shape, Struct

Path = tuple[str, ...]
Paths = frozenset[Path]
EMPTY: Paths = frozenset()


def compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def element_of(item: Any, shape: ListOf) -> str:
    """The path element of one list item in an associative list or a set."""
    if shape.mode == "s":
        return "v:" + compact(item)
    keys = {}
    for name in sorted(shape.keys):
        if isinstance(item, dict) and name in item:
            keys[name] = item[name]
        elif name in KEY_DEFAULTS:
            keys[name] = KEY_DEFAULTS[name]
    return "k:" + compact(keys)


def _kind_of(shape: Shape, value: Any) -> str:
    """leaf, map or list: how a value is walked."""
    if isinstance(shape, Struct):
        return "leaf" if shape.atomic or not isinstance(value, (dict, type(None))) else "map"
    if isinstance(shape, MapOf):
        return "leaf" if shape.atomic or not isinstance(value, (dict, type(None))) else "map"
    if isinstance(shape, ListOf):
        return "leaf" if shape.mode == "a" or not isinstance(value, (list, type(None))) else "list"
    if isinstance(shape, Scalar) and shape.kind == "o" and isinstance(value, dict):
        return "map"
    return "leaf"


def child_shape(shape: Shape, name: str) -> tuple[Shape, bool]:
    """The shape below ``name``, and whether ``name`` is a declared field."""
    if isinstance(shape, Struct):
        known = shape.fields.get(name)
        return (ANY, False) if known is None else (known, True)
    if isinstance(shape, MapOf):
        return shape.element, False
    return ANY, False


def fields_of(value: Any, shape: Shape, path: Path = ()) -> set[Path]:
    """Everything that an applied configuration claims."""
    found: set[Path] = set()
    kind = _kind_of(shape, value)
    if kind == "leaf":
        found.add(path)
    elif kind == "map":
        for name, item in value.items():
            inner, declared = child_shape(shape, name)
            here = (*path, "f:" + name)
            if item is None or (isinstance(item, dict) and not item) or not declared:
                found.add(here)
            if item is not None:
                found |= fields_of(item, inner, here)
    elif isinstance(shape, ListOf) and value is not None:
        for item in value:
            here = (*path, element_of(item, shape))
            found.add(here)
            if shape.mode == "m":
                found |= fields_of(item, shape.element, here)
    return found


class Difference(NamedTuple):
    added: set[Path]
    modified: set[Path]
    removed: set[Path]

    @property
    def same(self) -> bool:
        return not (self.added or self.modified or self.removed)


def compare(old: Any, new: Any, shape: Shape) -> Difference:
    difference = Difference(set(), set(), set())
    _compare(old, new, shape, (), difference)
    return difference


def _compare(old: Any, new: Any, shape: Shape, path: Path, out: Difference) -> None:
    if old == new and old is not None:
        return
    kinds = {_kind_of(shape, value) for value in (old, new) if value is not None}
    if "leaf" in kinds or not kinds:
        if old is None:
            out.added.add(path)
        elif new is None:
            out.removed.add(path)
        else:
            out.modified.add(path)
        return
    if kinds == {"map"}:
        if not old and not new:
            out.added.add(path) if old is None else out.removed.add(path)
            return
        before, after = old or {}, new or {}
        for name in dict.fromkeys([*before, *after]):
            inner, _ = child_shape(shape, name)
            if name in before and name in after and before[name] == after[name]:
                continue
            _compare(before.get(name), after.get(name), inner, (*path, "f:" + name), out)
    elif isinstance(shape, ListOf):
        was = {element_of(item, shape): item for item in old or ()}
        now = {element_of(item, shape): item for item in new or ()}
        for element in dict.fromkeys([*was, *now]):
            inner = shape.element if shape.mode == "m" else ANY
            _compare(was.get(element), now.get(element), inner, (*path, element), out)
    if path:
        if old is None:
            out.added.add(path)
        elif new is None:
            out.removed.add(path)


def merge(live: Any, config: Any, shape: Shape) -> Any:
    """``config`` laid over ``live``: maps by key, associative lists by item, everything else replaced."""
    if live is None:
        return config
    kind = _kind_of(shape, config)
    if kind == "map" and isinstance(live, dict):
        merged = dict(live)
        for name, item in config.items():
            inner, _ = child_shape(shape, name)
            merged[name] = merge(merged.get(name), item, inner)
        return merged
    if kind == "list" and isinstance(live, list) and isinstance(shape, ListOf):
        return _merge_list(live, config, shape)
    return config


def _merge_list(live: list[Any], config: list[Any], shape: ListOf) -> list[Any]:
    """The applied order wins; live-only items stay after the item that they followed."""
    wanted = {element_of(item, shape): item for item in config}
    present = {element_of(item, shape): item for item in live}
    order: list[str] = []
    pending = list(wanted)
    for element in present:
        if element not in wanted:
            order.append(element)
        elif element not in order:
            position = pending.index(element) if element in pending else -1
            order += pending[: position + 1]
            pending = pending[position + 1 :]
    order += pending
    return [
        merge(present.get(element), wanted[element], shape.element) if element in wanted else present[element]
        for element in dict.fromkeys(order)
    ]


def remove(value: Any, paths: Paths | set[Path], shape: Shape) -> Any:
    """``value`` without the given paths; a path takes everything below it along."""
    tree: dict[str, Any] = {}
    for path in paths:
        node = tree
        for element in path:
            node = node.setdefault(element, {})
        node["."] = {}
    return _remove(value, tree, shape)


def _remove(value: Any, tree: dict[str, Any], shape: Shape) -> Any:
    if isinstance(value, dict):
        kept: dict[str, Any] = {}
        for name, item in value.items():
            below = tree.get("f:" + name)
            if below is None:
                kept[name] = item
                continue
            if "." in below:
                continue
            inner, _ = child_shape(shape, name)
            left = _remove(item, below, inner)
            if left is not None:
                kept[name] = left
        return kept
    if isinstance(value, list) and isinstance(shape, ListOf) and shape.mode != "a":
        items = []
        for item in value:
            below = tree.get(element_of(item, shape))
            if below is None:
                items.append(item)
            elif "." not in below:
                items.append(_remove(item, below, shape.element))
        return items or None
    return value


def with_parents(paths: Paths | set[Path]) -> set[Path]:
    return {path[:depth] for path in paths for depth in range(1, len(path) + 1)}


def to_fields_v1(paths: Paths) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path in sorted(paths):
        node = tree
        for element in path:
            node = node.setdefault(element, {})
        node["."] = {}
    _trim(tree)
    return tree


def _trim(node: dict[str, Any]) -> None:
    """A member without children is written as an empty object."""
    for name, below in node.items():
        if name == ".":
            continue
        if len(below) == 1 and "." in below:
            node[name] = {}
        else:
            _trim(below)


def from_fields_v1(tree: dict[str, Any]) -> Paths:
    return frozenset(_read(tree, ()))


def _read(node: dict[str, Any], path: Path) -> Iterator[Path]:
    for element, below in node.items():
        if element == ".":
            yield path
        elif not below:
            yield (*path, element)
        else:
            yield from _read(below, (*path, element))


def display(path: Path) -> str:
    """As the real server prints it: ``.spec.containers[name="web"].image``."""
    parts = []
    for element in path:
        kind, _, rest = element.partition(":")
        if kind == "f":
            parts.append("." + rest)
        elif kind == "k":
            keys = json.loads(rest)
            parts.append("[" + ",".join(f"{name}={compact(keys[name])}" for name in sorted(keys)) + "]")
        elif kind == "v":
            parts.append(f"[={rest}]")
        else:
            parts.append(f"[{rest}]")
    return "".join(parts)
