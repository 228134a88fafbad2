"""YAML documents from outside, read safely and with the meaning that kubectl gives them.

Owns limits (bytes, depth, aliases, nodes, documents), duplicate keys as errors, line numbers, and scalars
that match kubectl: no dates, no sexagesimal numbers, ``1e3`` is a number. It never reads a file.

The C loader of PyYAML overflows the stack on deep nesting, so depth is bounded on its event stream first.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from muster_core.errors import ValidationError

Path = tuple[str | int, ...]

MAX_BYTES = 8 << 20
MAX_EXPANSION = 50_000  # values that aliases of one file add to what is written


@dataclass(frozen=True, slots=True)
class Limits:
    """What is accepted from one file. ``nodes`` counts values before aliases are followed."""

    bytes: int = MAX_BYTES
    depth: int = 100
    aliases: int = 100
    nodes: int = 400_000
    documents: int = 20_000


@dataclass(frozen=True, slots=True)
class Document:
    """One YAML document: its plain value and where it stands."""

    file: str
    line: int
    value: Any
    lines: Mapping[Path, int] = field(repr=False)

    def line_of(self, path: Path) -> int:
        """The line of a field, or of the nearest thing around it that has one."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, self.line)


class DocumentError(ValidationError):
    """A file that is refused: ``file:line: what``."""

    def __init__(self, file: str, line: int, what: str) -> None:
        self.file, self.line, self.what = file, line, what
        super().__init__("V001", f"{file}:{line}: {what}", object=file)


class _Loader(yaml.CSafeLoader):
    """Builds values with kubectl's scalars; collections are built by :func:`_value`, which knows paths."""


_FLOAT = re.compile(
    r"^[-+]?(?:[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?)$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"
)
_INT = re.compile(r"^[-+]?(?:0b[01_]+|0o[0-7_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*)$")
_BOOL = re.compile(r"^(?:yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)$")

_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, regexp)
        for tag, regexp in resolvers
        if tag in {"tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"}
    ]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", _BOOL, list("yYnNtTfFoO"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def reads_as_text(text: str) -> bool:
    """Whether a bare scalar is text for every reader, also for those that know more of YAML 1.1."""
    return not (_BOOL.match(text) or _INT.match(text) or _FLOAT.match(text) or text in ("y", "Y", "n", "N"))


def _boolean(text: str) -> bool:
    if not _BOOL.match(text):
        raise ValueError(text)
    return text.lower() in {"yes", "true", "on"}


def _integer(text: str) -> int | float:
    """Past 64 bits a number becomes a float, as it does for the API server."""
    sign = -1 if text.startswith("-") else 1
    digits = text.lstrip("+-").replace("_", "")
    if len(digits) > 100:
        raise ValueError(text)
    prefix, rest = digits[:2], digits[2:]
    base = {"0b": 2, "0o": 8, "0x": 16}.get(prefix)
    octal = len(digits) > 1 and digits.startswith("0")
    number = int(rest, base) if base else int(digits, 8 if octal else 10)
    return sign * number if number < 1 << 64 else float(sign * number)


def _float(text: str) -> int | float:
    value = float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    if not math.isfinite(value):
        raise ValueError(text)
    return int(value) if value.is_integer() and abs(value) < 1 << 53 and "." not in text else value


def load_documents(data: bytes, file: str, limits: Limits = Limits()) -> tuple[Document, ...]:
    """The documents of a file, without empty ones; ``MUSTER-V001`` names file and line of what is wrong."""
    if len(data) > limits.bytes:
        raise oversized(file, limits.bytes)
    try:
        text = data.decode("utf-8-sig")
        written = _scan(text, file, limits)
        loader = _Loader(text)
        try:
            return tuple(_documents(loader, _Budget(file, limits.depth, written + MAX_EXPANSION)))
        finally:
            loader.dispose()
    except UnicodeDecodeError as error:
        raise _refused(file, data.count(b"\n", 0, error.start) + 1, "the file is not UTF-8 text") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise _refused(file, line, error.problem or "this is not YAML") from error
    except yaml.YAMLError as error:
        raise _refused(file, 1, str(error).splitlines()[0]) from error


def _scan(text: str, file: str, limits: Limits) -> int:
    """Bounds depth, aliases, nodes and documents without building anything; returns the nodes."""
    depth = aliases = nodes = documents = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            depth += 1
            nodes += 1
            if depth > limits.depth:
                raise _refused(file, line, f"nested more than {limits.depth} deep")
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            depth -= 1
        elif isinstance(event, yaml.AliasEvent):
            aliases += 1
            if aliases > limits.aliases:
                raise _refused(file, line, f"more than {limits.aliases} aliases")
        elif isinstance(event, yaml.ScalarEvent):
            nodes += 1
        elif isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > limits.documents:
                raise _refused(file, line, f"more than {limits.documents} documents")
        if nodes > limits.nodes:
            raise _refused(file, line, f"more than {limits.nodes:,} values")
    return nodes


def _documents(loader: _Loader, budget: _Budget) -> Iterator[Document]:
    while loader.check_node():
        node = loader.get_node()
        if node is None:
            return
        lines: dict[Path, int] = {}
        value = _value(node, (), lines, budget)
        if value is not None:
            yield Document(budget.file, node.start_mark.line + 1, value, lines)


class _Budget:
    """Bounds what aliases of one file may expand to: a small one must not become a large value, or one without end."""

    def __init__(self, file: str, depth: int, values: int) -> None:
        self.file, self.left, self.depth = file, values, depth

    def spend(self, node: yaml.Node, depth: int) -> None:
        self.left -= 1
        if depth > self.depth:
            line = node.start_mark.line + 1
            raise _refused(self.file, line, f"aliases nest more than {self.depth} deep")
        if self.left < 0:
            raise _refused(
                self.file, node.start_mark.line + 1, f"aliases expand to more than {MAX_EXPANSION:,} values"
            )


def _value(node: yaml.Node, path: Path, lines: dict[Path, int], budget: _Budget, depth: int = 0) -> Any:
    budget.spend(node, depth)
    lines[path] = node.start_mark.line + 1
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, budget.file)
    if isinstance(node, yaml.SequenceNode):
        return [
            _value(item, (*path, index), lines, budget, depth + 1) for index, item in enumerate(node.value)
        ]
    result: dict[str, Any] = {}
    merged: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise _refused(budget.file, line, "a key must be text")
        if key_node.tag == "tag:yaml.org,2002:merge":
            parts = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
            for part in parts:
                other = _value(part, path, lines, budget, depth + 1)
                if not isinstance(other, dict):
                    raise _refused(budget.file, line, "only a mapping can be merged with <<")
                merged = {**other, **merged}
            continue
        key = key_node.value
        if key in result:
            raise _refused(budget.file, line, f"the key {key[:80]!r} stands twice in one mapping")
        result[key] = _value(value_node, (*path, key), lines, budget, depth + 1)
        lines[(*path, key)] = line
    return {**merged, **result}


def _scalar(node: yaml.ScalarNode, file: str) -> Any:
    tag, text = node.tag.removeprefix("tag:yaml.org,2002:"), node.value
    try:
        match tag:
            case "str" | "binary" | "timestamp":
                return text
            case "null":
                return None
            case "bool":
                return _boolean(text)
            case "int":
                return _integer(text)
            case "float":
                return _float(text)
    except (ValueError, OverflowError):
        what = f"{text[:40]!r} is no {tag} that a Kubernetes object can hold"
        raise _refused(file, node.start_mark.line + 1, what) from None
    raise _refused(file, node.start_mark.line + 1, f"the tag {node.tag} is not accepted")


def oversized(file: str, limit: int = MAX_BYTES) -> DocumentError:
    """What a tree raises for a file that it does not read whole: ``file:1: larger than 8 MiB``."""
    size = f"{limit >> 20} MiB" if limit >= 1 << 20 else f"{limit:,} bytes"
    return DocumentError(file, 1, f"larger than {size}")


def _refused(file: str, line: int, what: str) -> DocumentError:
    return DocumentError(file, line, what)
