"""Which objects a Kyverno rule means: ``match`` and ``exclude``.

Owns the resource filters, kind selectors with their wildcards, and the refusal of what is not built of them. Attributes of
one block are joined by and, the members of a list by or. It never judges an object.
Source: kyverno pkg/engine/utils/match.go, pkg/utils/match, pkg/utils/kube/kind.go.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from muster_core.errors import PolicyError
from muster_core.kinds.base import Requirement, Selector
from muster_core.policy import wildcard
from muster_core.policy.verdict import Context
from muster_core.select import matches as selects

Test = Callable[[Context], bool]

_VERSION = re.compile(r"v[0-9]+((alpha|beta)[0-9]+)?|\*")
_FIELDS = {
    "kinds",
    "name",
    "names",
    "namespaces",
    "annotations",
    "selector",
    "namespaceSelector",
    "operations",
}


class Where:
    """A place in a document, for errors."""

    def __init__(self, file: str, line: int, policy: str) -> None:
        self.file, self.line, self.policy = file, line, policy

    def refuse(self, path: str, what: str) -> PolicyError:
        return PolicyError("P010", f"{self.file}:{self.line}: {path}: {what}", object=self.policy)

    def only(self, value: Any, allowed: set[str], path: str) -> Mapping[str, Any]:
        if not isinstance(value, Mapping):
            raise self.refuse(path, "is missing" if value is None else "a mapping is expected")
        for key in value:
            if key not in allowed:
                raise self.refuse(f"{path}.{key}", "is not supported yet")
        return value

    def texts(self, value: Any, path: str) -> tuple[str, ...]:
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.refuse(path, "a list of texts is expected")
        return tuple(value)


class Kind(NamedTuple):
    """A kind selector; each part may hold wildcards. Objects have an empty subresource."""

    group: str
    version: str
    kind: str
    subresource: str = ""

    def means(self, group: str, version: str, kind: str) -> bool:
        return (
            wildcard.matches(self.kind, kind)
            and wildcard.matches(self.version, version)
            and wildcard.matches(self.group, group)
            and self.subresource in ("", "*")
        )


def parse_kind(text: str) -> Kind | None:
    """``Kind``, ``version/Kind``, ``group/version/Kind``, each with ``/subresource`` or ``.subresource`` after it."""
    *head, last = text.split("/")
    parts = [*head, *last.split(".")]
    match parts:
        case [kind]:
            return Kind("*", "*", kind)
        case ["*", "*"]:
            return Kind("*", "*", "*", "*")
        case [first, second]:
            if _VERSION.fullmatch(first) and not (first == "*" and second == second.lower()):
                return Kind("*", first, second)
            return Kind("*", "*", first, second)
        case [first, second, third]:
            return (
                Kind("*", first, second, third) if _VERSION.fullmatch(first) else Kind(first, second, third)
            )
        case [group, version, kind, subresource]:
            return Kind(group, version, kind, subresource)
        case _:
            return None


@dataclass(frozen=True, slots=True)
class Block:
    """One block of resources. ``specific`` says that it names objects by more than kind, namespace and operation."""

    kinds: tuple[Kind, ...]
    tests: tuple[Test, ...]
    specific: bool
    namespace_labels: bool

    @property
    def empty(self) -> bool:
        return not self.kinds and not self.tests

    @property
    def names_pods(self) -> bool:
        return any(kind.kind == "Pod" for kind in self.kinds)

    def test(self) -> Test:
        tests = ((_kinds_test(self.kinds),) if self.kinds else ()) + self.tests
        return tests[0] if len(tests) == 1 else lambda context: all(test(context) for test in tests)


@dataclass(frozen=True, slots=True)
class Filters:
    """``any`` or ``all`` of some blocks; ``bare`` is the older form, ``resources`` alone."""

    mode: str
    blocks: tuple[Block, ...]
    bare: bool = False

    def test(self) -> Test:
        tests = tuple(block.test() for block in self.blocks)
        if len(tests) == 1:
            return tests[0]
        joined = any if self.mode == "any" else all
        return lambda context: joined(test(context) for test in tests)

    def moved(self, kinds: tuple[Kind, ...]) -> Filters:
        """The same for other kinds, where pods were meant."""
        return replace(
            self,
            blocks=tuple(
                replace(block, kinds=kinds) if block.names_pods or (self.bare and block.kinds) else block
                for block in self.blocks
            ),
        )


def parse_filters(where: Where, value: Any, path: str) -> Filters | None:
    """``match`` or ``exclude``; None when nothing is said, so that an empty list never means everything."""
    if value is None:
        return None
    filters = where.only(value, {"any", "all", "resources"}, path)
    said = [key for key in ("any", "all", "resources") if filters.get(key)]
    if len(said) > 1:
        raise where.refuse(f"{path}.{said[1]}", f"cannot stand beside {said[0]}")
    if not said:
        return None
    mode = said[0]
    if mode == "resources":
        block = _block(where, filters[mode], f"{path}.resources")
        return None if block.empty else Filters("all", (block,), bare=True)
    if not isinstance(filters[mode], list):
        raise where.refuse(f"{path}.{mode}", "a list is expected")
    blocks = []
    for index, item in enumerate(filters[mode]):
        at = f"{path}.{mode}[{index}]"
        block = _block(where, where.only(item, {"resources"}, at).get("resources"), f"{at}.resources")
        if block.empty:
            raise where.refuse(f"{at}.resources", "is empty")
        blocks.append(block)
    return Filters(mode, tuple(blocks))


def _block(where: Where, value: Any, path: str) -> Block:
    block = where.only(value, _FIELDS, path)
    kinds = []
    for text in where.texts(block.get("kinds"), f"{path}.kinds"):
        kind = parse_kind(text)
        if kind is None:
            raise where.refuse(f"{path}.kinds", f"{text!r} is no kind")
        kinds.append(kind)
    tests: list[Test] = []
    # Both name and names may be written; then both must hold.
    named = [
        group
        for group in (_name(where, block, path), where.texts(block.get("names"), f"{path}.names"))
        if group
    ]
    tests.extend(_name_test(list(group)) for group in named)
    if namespaces := where.texts(block.get("namespaces"), f"{path}.namespaces"):
        tests.append(_namespace_test(list(namespaces)))
    if operations := where.texts(block.get("operations"), f"{path}.operations"):
        tests.append(lambda context: context.operation in operations)
    if annotations := _pairs(where, block.get("annotations"), f"{path}.annotations"):
        tests.append(lambda context: _pairs_hold(annotations, _metadata(context, "annotations")))
    if block.get("selector") is not None:
        tests.append(_selector_test(where, block["selector"], f"{path}.selector"))
    if block.get("namespaceSelector") is not None:
        tests.append(_selector_test(where, block["namespaceSelector"], f"{path}.namespaceSelector", True))
    return Block(
        tuple(kinds),
        tuple(tests),
        bool(named or annotations or block.get("selector") is not None),
        block.get("namespaceSelector") is not None,
    )


def _name(where: Where, block: Mapping[str, Any], path: str) -> tuple[str, ...]:
    name = block.get("name") or ""
    if not isinstance(name, str):
        raise where.refuse(f"{path}.name", "a text is expected")
    return (name,) if name else ()


def _pairs(where: Where, value: Any, path: str) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise where.refuse(path, "a mapping is expected")
    return {str(key): str(item) for key, item in value.items()}


# --- tests -------------------------------------------------------------------------------------------------------


def _metadata(context: Context, field: str) -> Mapping[str, Any]:
    metadata = context.obj.get("metadata")
    found = metadata.get(field) if isinstance(metadata, Mapping) else None
    if found is not None and not isinstance(found, Mapping):
        raise ValueError(f"metadata.{field} is no mapping")
    return found or {}


def _kinds_test(kinds: tuple[Kind, ...]) -> Test:
    plain = frozenset(
        kind.kind
        for kind in kinds
        if kind[:2] == ("*", "*") and not wildcard.has_wildcard(kind.kind) and kind.subresource in ("", "*")
    )
    others = tuple(kind for kind in kinds if kind.kind not in plain)

    def test(context: Context) -> bool:
        kind = context.obj.get("kind")
        if kind in plain:
            return True
        if not others:
            return False
        group, _, version = str(context.obj.get("apiVersion", "")).rpartition("/")
        return any(other.means(group, version, str(kind)) for other in others)

    return test


def _name_test(patterns: list[str]) -> Test:
    means = wildcard.any_of(patterns)

    def test(context: Context) -> bool:
        metadata = context.obj.get("metadata") or {}
        return means(str(metadata.get("name") or metadata.get("generateName") or ""))

    return test


def _namespace_test(patterns: list[str]) -> Test:
    """A Namespace is in the namespace that it is."""
    means = wildcard.any_of(patterns)

    def test(context: Context) -> bool:
        metadata = context.obj.get("metadata") or {}
        field = "name" if context.obj.get("kind") == "Namespace" else "namespace"
        return means(str(metadata.get(field) or ""))

    return test


def _selector_test(where: Where, value: Any, path: str, of_namespace: bool = False) -> Test:
    selector = parse_selector(where, value, path)

    def test(context: Context) -> bool:
        if not of_namespace:
            return selected(selector, _metadata(context, "labels"))
        return context.obj.get("kind") == "Namespace" or selected(selector, context.namespace_labels)

    return test


def parse_selector(where: Where, value: Any, path: str) -> Selector:
    selector = where.only(value, {"matchLabels", "matchExpressions"}, path)
    terms = []
    for index, item in enumerate(selector.get("matchExpressions") or []):
        at = f"{path}.matchExpressions[{index}]"
        entry = where.only(item, {"key", "operator", "values"}, at)
        if entry.get("operator") not in {"In", "NotIn", "Exists", "DoesNotExist"}:
            raise where.refuse(f"{at}.operator", f"{entry.get('operator')!r} is not known")
        values = list(where.texts(entry.get("values"), f"{at}.values"))
        terms.append(Requirement(key=str(entry.get("key")), operator=entry["operator"], values=values))
    labels = _pairs(where, selector.get("matchLabels"), f"{path}.matchLabels")
    return Selector(match_labels=labels, match_expressions=terms)


def selected(selector: Selector, labels: Mapping[str, Any]) -> bool:
    """Kubernetes semantics, but for wildcards in the keys and values of ``matchLabels``."""
    exact = Selector(match_expressions=selector.match_expressions)
    return _pairs_hold(selector.match_labels, labels) and selects(exact, labels)


def _pairs_hold(wanted: Mapping[str, str], have: Mapping[str, Any]) -> bool:
    return all(
        any(
            wildcard.matches(key, str(name)) and wildcard.matches(value, str(found))
            for name, found in have.items()
        )
        for key, value in wanted.items()
    )
