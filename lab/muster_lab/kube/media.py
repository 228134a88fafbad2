"""Requests and answers as they are written: media types, bodies, options, failures.

Owns what a body may be, which form an answer has, and the query's options of a write. It knows no path and no object.
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import yaml
from aiohttp import web

from . import errors
from .errors import StatusError
from .listing import flag
from .objects import Options

JSON = "application/json"
UNKNOWN_FORMAT = "the body of the request was in an unknown format - accepted media types include: "


def patch_options(text: str) -> StatusError:
    message = f'PatchOptions.meta.k8s.io "" is invalid: {text}'
    field, _, why = text.partition(": ")
    reason = "FieldValueRequired" if why.startswith("Required") else "FieldValueForbidden"
    causes = [{"reason": reason, "message": why, "field": field}]
    details = {"group": "meta.k8s.io", "kind": "PatchOptions", "causes": causes}
    return StatusError(422, "Invalid", message, details=details)


def options_of(request: web.Request, query: dict[str, str]) -> Options:
    dry_run, validation = query.get("dryRun", ""), query.get("fieldValidation") or "Warn"
    if dry_run not in ("", "All"):
        raise StatusError(
            422, "Invalid", f'invalid: dryRun: Unsupported value: "{dry_run}": supported values: "All"'
        )
    if validation not in ("Ignore", "Warn", "Strict"):
        supported = 'supported values: "Ignore", "Strict", "Warn"'
        text = f'invalid: fieldValidation: Unsupported value: "{validation}": {supported}'
        raise StatusError(422, "Invalid", text)
    agent = request.headers.get("User-Agent", "unknown").split("/")[0] or "unknown"
    return Options(
        manager=query.get("fieldManager") or agent,
        dry_run=dry_run == "All",
        validation=validation,
        force=flag(query, "force"),
    )


def parse_body(raw: bytes, *, yaml_too: bool) -> Any:
    try:
        return msgspec.json.decode(raw)
    except msgspec.DecodeError as error:
        if not yaml_too:
            raise errors.bad_request(f"the body of the request is not JSON: {error}") from error
    try:
        return json.loads(json.dumps(yaml.load(raw, Loader=_LOADER)))  # noqa: S506 - a safe loader
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise errors.bad_request(f"error decoding YAML: {error}") from error


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML as Kubernetes reads it: timestamps stay text."""


_Loader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in found if not tag.endswith(":timestamp")]
    for letter, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_LOADER: Any = _Loader


async def body_of(request: web.Request) -> Any:
    kind = request.content_type
    if "Content-Type" in request.headers and kind not in (JSON, "application/yaml"):
        raise errors.unsupported_media(f"{UNKNOWN_FORMAT}{JSON}, application/yaml")
    raw = await request.read()
    if not raw:
        raise errors.bad_request("EOF")
    return parse_body(raw, yaml_too=kind == "application/yaml")


def negotiate(request: web.Request) -> bool:
    """Whether only metadata is wanted; 406 when nothing that is offered fits."""
    accept = request.headers.get("Accept", "")
    if not accept:
        return False
    for entry in accept.split(","):
        media, _, parameters = entry.partition(";")
        form = re.search(r"as=(\w+)", parameters)
        if media.strip() not in (JSON, "*/*", "application/*", "application/yaml"):
            continue
        if form is None:
            return False
        if form[1].startswith("PartialObjectMetadata"):
            return True
    raise errors.not_acceptable(f"{JSON}, application/yaml")


def reply(
    request: web.Request, body: bytes, *, status: int = 200, warnings: list[str] | None = None
) -> web.Response:
    accept = request.headers.get("Accept", "")
    response: web.Response
    if accept.startswith("application/yaml"):
        text = yaml.safe_dump(msgspec.json.decode(body), sort_keys=False)
        response = web.Response(text=text, status=status, content_type="application/yaml")
    else:
        response = web.Response(body=body, status=status, content_type=JSON)
    for warning in warnings or ():
        response.headers.add("Warning", "299 - " + json.dumps(warning))
    return response


def failure(error: StatusError) -> web.Response:
    body = msgspec.json.encode(error.status())
    return web.Response(body=body, status=error.code, content_type=JSON, headers=error.headers)


def cut(request: web.Request, response: web.StreamResponse | None = None) -> web.StreamResponse:
    """Ends the connection without an answer, as a broken network does."""
    if request.transport is not None:
        request.transport.abort()
    return response or web.Response(status=503)
