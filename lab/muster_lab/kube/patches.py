"""The three patch languages that are not server-side apply.

Owns JSON merge patch (RFC 7386), JSON patch (RFC 6902) and the strategic merge patch of built-in kinds. It
never stores and never looks at versions.
"""

from __future__ import annotations

import copy
from typing import Any

from .errors import StatusError, bad_request
from .schemas import ANY, ListOf, MapOf, Shape, Struct


def merge_patch(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def unprocessable(message: str) -> StatusError:
    return StatusError(
        422, "Invalid", f"the server rejected our request due to an error in our request: {message}"
    )


def _tokens(pointer: Any) -> list[str]:
    if not isinstance(pointer, str) or (pointer and not pointer.startswith("/")):
        raise bad_request(f"json patch: invalid path {pointer!r}")
    return [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]


def _index(items: list[Any], token: str, *, end: bool) -> int:
    if end and token == "-":  # noqa: S105 - a JSON pointer token
        return len(items)
    if not token.isdigit() or int(token) > len(items) - (0 if end else 1):
        raise unprocessable(f"invalid index {token}")
    return int(token)


def _lookup(document: Any, tokens: list[str]) -> Any:
    for token in tokens:
        if isinstance(document, dict) and token in document:
            document = document[token]
        elif isinstance(document, list):
            document = document[_index(document, token, end=False)]
        else:
            raise unprocessable(f"missing path /{'/'.join(tokens)}")
    return document


def _put(document: Any, tokens: list[str], value: Any, *, insert: bool) -> Any:
    if not tokens:
        return value
    parent = _lookup(document, tokens[:-1])
    last = tokens[-1]
    if isinstance(parent, dict):
        if not insert and last not in parent:
            raise unprocessable(f"replace of a missing key: /{'/'.join(tokens)}")
        parent[last] = value
    elif isinstance(parent, list):
        if insert:
            parent.insert(_index(parent, last, end=True), value)
        else:
            parent[_index(parent, last, end=False)] = value
    else:
        raise unprocessable(f"missing path /{'/'.join(tokens)}")
    return document


def _take(document: Any, tokens: list[str]) -> Any:
    if not tokens:
        raise unprocessable("cannot remove the whole document")
    parent = _lookup(document, tokens[:-1])
    if isinstance(parent, dict) and tokens[-1] in parent:
        return parent.pop(tokens[-1])
    if isinstance(parent, list):
        return parent.pop(_index(parent, tokens[-1], end=False))
    raise unprocessable(f"remove of a missing path: /{'/'.join(tokens)}")


def json_patch(target: Any, operations: Any) -> Any:
    if not isinstance(operations, list):
        raise bad_request(
            "error decoding patch: cannot unmarshal object into Go value of type jsonpatch.Patch"
        )
    document = copy.deepcopy(target)
    for step in operations:
        if not isinstance(step, dict):
            raise bad_request("error decoding patch: an operation is not an object")
        name, tokens = step.get("op"), _tokens(step.get("path"))
        if name in ("add", "replace"):
            document = _put(document, tokens, copy.deepcopy(step.get("value")), insert=name == "add")
        elif name == "remove":
            _take(document, tokens)
        elif name == "test":
            if _lookup(document, tokens) != step.get("value"):
                raise unprocessable(f"testing value {step['path']} failed")
        elif name in ("move", "copy"):
            source = _tokens(step.get("from"))
            value = _take(document, source) if name == "move" else copy.deepcopy(_lookup(document, source))
            document = _put(document, tokens, value, insert=True)
        else:
            raise bad_request(f"json patch: unexpected kind: {name!r}")
    return document


def strategic_merge(target: Any, patch: Any, shape: Shape) -> Any:
    """Strategic merge with ``$patch``, ``$retainKeys`` and ``$deleteFromPrimitiveList``."""
    if not isinstance(patch, dict):
        return patch
    directive = patch.get("$patch")
    if directive == "delete":
        return None
    body = {key: value for key, value in patch.items() if not key.startswith("$")}
    if directive == "replace":
        return body
    result = dict(target) if isinstance(target, dict) else {}
    if "$retainKeys" in patch:
        result = {key: value for key, value in result.items() if key in patch["$retainKeys"]}
    for key, gone in patch.items():
        if key.startswith("$deleteFromPrimitiveList/"):
            name = key.partition("/")[2]
            result[name] = [item for item in result.get(name, []) if item not in gone]
    for key, value in body.items():
        inner = _below(shape, key)
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            merged = strategic_merge(result.get(key), value, inner)
            if merged is None:
                result.pop(key, None)
            else:
                result[key] = merged
        elif isinstance(value, list) and isinstance(inner, ListOf) and inner.strategic:
            result[key] = _strategic_list(result.get(key) or [], value, inner)
        else:
            result[key] = value
    return result


def _below(shape: Shape, key: str) -> Shape:
    if isinstance(shape, Struct):
        return shape.fields.get(key, ANY)
    return shape.element if isinstance(shape, MapOf) else ANY


def _strategic_list(target: list[Any], patch: list[Any], shape: ListOf) -> list[Any]:
    if not shape.merge_key:
        return [*target, *(item for item in patch if item not in target)]
    if any(isinstance(item, dict) and item.get("$patch") == "replace" for item in patch):
        return [item for item in patch if not (isinstance(item, dict) and "$patch" in item)]
    key = shape.merge_key
    result = list(target)
    for item in patch:
        if not isinstance(item, dict) or key not in item:
            raise StatusError(500, "", f"map: {item} does not contain declared merge key: {key}")
        position = next((i for i, old in enumerate(result) if old.get(key) == item[key]), None)
        if item.get("$patch") == "delete":
            if position is not None:
                del result[position]
        elif position is None:
            result.append(strategic_merge({}, item, shape.element))
        else:
            result[position] = strategic_merge(result[position], item, shape.element)
    return result
