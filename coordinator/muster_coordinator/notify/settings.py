"""``muster serve --notify FILE``: whom the coordinator tells what.

Owns the file's form, its limits and its errors, and the reading of the files that hold its secrets. Addresses of webhooks are
credentials, so they live in a masking type from the first moment. It never sends.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Annotated, Literal

import msgspec
from muster_core.addresses import is_http
from muster_core.durations import parse_duration
from muster_core.errors import ValidationError
from muster_core.kinds.base import Duration, Model, Name
from muster_core.manifest.load import Limits, load_documents
from muster_core.sealing.masked import Masked

from muster_coordinator.notify.bodies import FIELDS
from muster_coordinator.outgoing import shown

Occasion = Literal["paused", "failed", "approval", "owed", "frozen"]
MAX_SECRET = 16 * 1024
LIMITS = Limits(bytes=256 * 1024, depth=10, nodes=5000, documents=1)
_HEADER = re.compile(r"[A-Za-z0-9-]{1,64}")
_OURS = frozenset({"content-type", "content-length", "host", "transfer-encoding", "connection"})


class _Endpoint(Model, frozen=True, kw_only=True):
    """As it is written."""

    name: Name
    kind: Literal["webhook", "slack", "teams", "template"] = "webhook"
    url: str = ""
    url_file: str = ""
    on: Annotated[list[Occasion], msgspec.Meta(min_length=1)]
    owed_longer: Duration = "24h"
    headers_from: dict[str, str] = msgspec.field(default_factory=dict)
    body: str = ""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One place that is told. ``owed_longer`` in seconds; ``place`` is its address for people, without what may be secret."""

    name: str
    kind: str
    url: Masked
    place: str
    on: frozenset[str]
    owed_longer: float
    headers: tuple[tuple[str, Masked], ...] = ()
    body: str = ""


def read_endpoints(path: Path) -> tuple[Endpoint, ...]:
    """``MUSTER-L070`` names what is wrong in the file, ``L071`` what is wrong with a file that it names."""
    documents = load_documents(_bytes(path, LIMITS.bytes), str(path), LIMITS)
    try:
        written = msgspec.convert(documents[0].value if documents else None, list[_Endpoint])
    except msgspec.ValidationError as error:
        raise _wrong(path, str(error).replace("`", "")) from error
    names = [endpoint.name for endpoint in written]
    for name in names:
        if names.count(name) > 1:
            raise _wrong(path, f"the name {name} stands twice")
    return tuple(_endpoint(path, endpoint) for endpoint in written)


def _endpoint(path: Path, given: _Endpoint) -> Endpoint:
    if bool(given.url) == bool(given.url_file):
        raise _wrong(path, f"{given.name}: exactly one of url and urlFile is needed")
    url = given.url or _secret(path, given.url_file)
    if not is_http(url):
        raise _wrong(path, f"{given.name}: its URL is no http or https URL")
    if (given.kind == "template") != bool(given.body):
        raise _wrong(path, f"{given.name}: body belongs to kind template, and is needed there")
    if given.body:
        _check_body(path, given)
    longer = parse_duration(given.owed_longer)
    if longer < 1:
        raise _wrong(path, f"{given.name}: owedLonger is less than a second")
    for header in given.headers_from:
        if not _HEADER.fullmatch(header) or header.lower() in _OURS:
            raise _wrong(path, f"{given.name}: {header[:64]!r} is no header that can be set")
    headers = tuple(
        (header, Masked(_secret(path, file).encode())) for header, file in given.headers_from.items()
    )
    return Endpoint(
        given.name,
        given.kind,
        Masked(url.encode()),
        shown(url),
        frozenset(given.on),
        longer,
        headers,
        given.body,
    )


def _check_body(path: Path, given: _Endpoint) -> None:
    try:
        sample = Template(given.body).substitute(dict.fromkeys(FIELDS, ""))
    except KeyError as error:
        raise _wrong(
            path, f"{given.name}: body names ${{{error.args[0]}}}; known: {', '.join(FIELDS)}"
        ) from error
    except ValueError as error:
        raise _wrong(path, f"{given.name}: body has a $ that begins no name; write $$") from error
    try:
        msgspec.json.decode(sample)
    except msgspec.DecodeError as error:
        raise _wrong(path, f"{given.name}: body is no JSON") from error


def _secret(beside: Path, name: str) -> str:
    """The one line that a file holds; a relative name is beside the settings file."""
    path = beside.parent / name
    text = _bytes(path, MAX_SECRET).decode(errors="replace").strip()
    if not text or not text.isprintable():
        raise ValidationError("L071", "the file does not hold one line of text", object=str(path))
    return text


def _bytes(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise ValidationError("L071", f"it cannot be read ({error.strerror})", object=str(path)) from error
    if len(data) > limit:
        raise ValidationError("L071", f"it is larger than {limit} bytes", object=str(path))
    return data


def _wrong(path: Path, what: str) -> ValidationError:
    return ValidationError("L070", f"{path}: {what}", hint="docs/notifications.md shows every field.")
