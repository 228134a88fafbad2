"""The shape of every kind: fields, scalar types, list and map semantics.

Owns the types that decoding, server-side apply and strategic merge walk along: read from ``schema.json``
for built-in kinds, compiled from ``openAPIV3Schema`` for custom ones. It never judges values beyond their
JSON type.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import msgspec

from .errors import bad_request


@dataclass(slots=True)
class Shape:
    """Base of the four shapes."""


@dataclass(slots=True)
class Scalar(Shape):
    """``kind``: s string, i integer, n number, b boolean, q quantity, x int or string, t time, o anything."""

    kind: str


@dataclass(slots=True)
class Struct(Shape):
    name: str
    fields: dict[str, Shape] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    atomic: bool = False
    open: bool = False  # unknown fields are kept (custom kinds)


@dataclass(slots=True)
class MapOf(Shape):
    element: Shape
    atomic: bool = False


@dataclass(slots=True)
class ListOf(Shape):
    """``mode``: a atomic, s set, m map by ``keys``; the last two members serve strategic merge."""

    element: Shape
    mode: str = "a"
    keys: tuple[str, ...] = ()
    merge_key: str = ""
    strategic: bool = False


ANY = Scalar("o")
_JSON = {
    "s": (str,),
    "t": (str,),
    "b": (bool,),
    "i": (int,),
    "n": (int, float),
    "q": (str, int, float),
    "x": (str, int),
}
_GO = {
    "s": "string",
    "t": "Time",
    "b": "bool",
    "i": "int32",
    "n": "float64",
    "q": "Quantity",
    "x": "IntOrString",
}
KEY_DEFAULTS = {"protocol": "TCP"}


class Schemas:
    """Shapes by ``apiVersion/kind``; compiled on first use, so that an idle server stays small."""

    def __init__(self) -> None:
        raw = msgspec.json.decode(resources.files(__package__).joinpath("schema.json").read_bytes())
        self._raw: dict[str, Any] = raw["types"]
        self._kinds: dict[str, str] = raw["kinds"]
        self._named: dict[str, Struct] = {}
        self._custom: dict[str, Struct] = {}

    def shape(self, api_version: str, kind: str) -> Struct:
        key = f"{api_version}/{kind}"
        if key in self._custom:
            return self._custom[key]
        return self._struct(self._kinds[key])

    def meta(self) -> Struct:
        return self._struct("meta.v1.ObjectMeta")

    def _struct(self, name: str) -> Struct:
        known = self._named.get(name)
        if known is not None:
            return known
        raw = self._raw.pop(name)
        shape = Struct(name.rsplit(".", 1)[-1], required=tuple(raw.get("r", ())), atomic=raw.get("a", False))
        self._named[name] = shape
        shape.fields = {key: self._compile(value) for key, value in raw["f"].items()}
        return shape

    def _compile(self, raw: Any) -> Shape:
        if isinstance(raw, str):
            return self._struct(raw[1:]) if raw.startswith("#") else _scalar(raw)
        flavour = raw[0]
        if flavour == "l":
            return ListOf(self._compile(raw[2]), raw[1], tuple(raw[3]), raw[4], raw[5])
        if flavour == "A":
            inner = self._compile(raw[1])
            if isinstance(inner, Struct):
                return Struct(inner.name, inner.fields, inner.required, atomic=True)
            return inner
        return MapOf(self._compile(raw[1]), atomic=flavour == "M")

    def add_custom(self, api_version: str, kind: str, openapi: dict[str, Any] | None) -> None:
        root = compile_openapi(
            openapi or {"type": "object", "x-kubernetes-preserve-unknown-fields": True}, kind
        )
        shape = root if isinstance(root, Struct) else Struct(kind, open=True)
        shape.fields = {
            **shape.fields,
            "apiVersion": _scalar("s"),
            "kind": _scalar("s"),
            "metadata": self.meta(),
        }
        self._custom[f"{api_version}/{kind}"] = shape

    def drop_custom(self, api_version: str, kind: str) -> None:
        self._custom.pop(f"{api_version}/{kind}", None)


_SCALARS = {code: Scalar(code) for code in "sinbqxt"}


def _scalar(code: str) -> Scalar:
    return _SCALARS.get(code, ANY)


def compile_openapi(schema: dict[str, Any], name: str = "") -> Shape:
    """One ``openAPIV3Schema`` node as a shape."""
    if schema.get("x-kubernetes-int-or-string"):
        return _scalar("x")
    kind = schema.get("type")
    if kind == "array":
        mode = str(schema.get("x-kubernetes-list-type", "atomic"))[0]
        return ListOf(
            compile_openapi(schema.get("items") or {}, name),
            mode,
            tuple(schema.get("x-kubernetes-list-map-keys", ())),
        )
    if kind == "object" or "properties" in schema:
        atomic = schema.get("x-kubernetes-map-type") == "atomic"
        extra = schema.get("additionalProperties")
        if isinstance(extra, dict) and "properties" not in schema:
            return MapOf(compile_openapi(extra, name), atomic)
        keep = bool(schema.get("x-kubernetes-preserve-unknown-fields")) or extra is True
        fields = {key: compile_openapi(value, key) for key, value in schema.get("properties", {}).items()}
        return Struct(name, fields, tuple(schema.get("required", ())), atomic, keep)
    return _scalar({"string": "s", "integer": "i", "number": "n", "boolean": "b"}.get(str(kind), "o"))


def decode(value: Any, shape: Shape, unknown: list[str], *, path: str = "", keep_null: bool = False) -> Any:
    """Checks JSON types along ``shape`` and drops what has no place in it, in place.

    Unknown fields are named in ``unknown``; a wrong type is a 400 as from the real decoder. Nulls are
    dropped, since typed decoding loses them.
    """
    if isinstance(shape, Scalar):
        _check_scalar(value, shape, path)
    elif isinstance(shape, ListOf):
        if not isinstance(value, list):
            raise mismatch(value, path, "[]" + _go(shape.element))
        for index, item in enumerate(value):
            value[index] = decode(item, shape.element, unknown, path=f"{path}[{index}]", keep_null=keep_null)
    elif isinstance(shape, MapOf):
        if not isinstance(value, dict):
            raise mismatch(value, path, "map[string]" + _go(shape.element))
        for key, item in value.items():
            if item is None:
                if isinstance(shape.element, Scalar) and shape.element.kind == "s" and not keep_null:
                    value[key] = ""
                continue
            value[key] = decode(item, shape.element, unknown, path=f"{path}.{key}", keep_null=keep_null)
    elif isinstance(shape, Struct):
        _decode_struct(value, shape, unknown, path, keep_null)
    return value


def _decode_struct(value: Any, shape: Struct, unknown: list[str], path: str, keep_null: bool) -> None:
    if not isinstance(value, dict):
        raise mismatch(value, path, shape.name)
    for key in list(value):
        item = value[key]
        known = shape.fields.get(key)
        here = f"{path}.{key}" if path else key
        if known is None:
            if not shape.open:
                unknown.append(here)
                del value[key]
        elif item is None:
            if not keep_null:
                del value[key]
        else:
            value[key] = decode(item, known, unknown, path=here, keep_null=keep_null)


def _check_scalar(value: Any, shape: Scalar, path: str) -> None:
    wanted = _JSON.get(shape.kind)
    if wanted is None:
        return
    if not isinstance(value, wanted) or (isinstance(value, bool) and shape.kind != "b"):
        raise mismatch(value, path, _GO[shape.kind])


def _go(shape: Shape) -> str:
    if isinstance(shape, Scalar):
        return _GO.get(shape.kind, "interface {}")
    return shape.name if isinstance(shape, Struct) else "map[string]string"


def json_type(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, str):
        return "string"
    if isinstance(value, (int, float)):
        return "number"
    return "array" if isinstance(value, list) else "object"


def mismatch(value: Any, path: str, wanted: str) -> Exception:
    field_path = re.sub(r"\[\d+\]", "", path).removeprefix(".")
    return bad_request(
        f"json: cannot unmarshal {json_type(value)} into Go struct field .{field_path} of type {wanted}"
    )


def omit_empty(value: Any, shape: Shape) -> None:
    """Drops empty lists and maps below ``value``, as writing a typed object does; structures stay."""
    if isinstance(value, dict) and isinstance(shape, (Struct, MapOf)):
        for key, item in list(value.items()):
            inner = shape.element if isinstance(shape, MapOf) else shape.fields.get(key, ANY)
            omit_empty(item, inner)
            if isinstance(shape, Struct) and isinstance(inner, (ListOf, MapOf)) and not item:
                del value[key]
    elif isinstance(value, list) and isinstance(shape, ListOf):
        for item in value:
            omit_empty(item, shape.element)


def missing_required(value: Any, shape: Shape, path: str = "") -> list[str]:
    """Paths of required fields that are absent."""
    found: list[str] = []
    if isinstance(shape, Struct) and isinstance(value, dict):
        found += [f"{path}.{name}".removeprefix(".") for name in shape.required if name not in value]
        for key, item in value.items():
            inner = shape.fields.get(key)
            if inner is not None:
                found += missing_required(item, inner, f"{path}.{key}")
    elif isinstance(shape, ListOf) and isinstance(value, list):
        for index, item in enumerate(value):
            found += missing_required(item, shape.element, f"{path}[{index}]")
    elif isinstance(shape, MapOf) and isinstance(value, dict):
        for key, item in value.items():
            found += missing_required(item, shape.element, f"{path}[{key}]")
    return found
