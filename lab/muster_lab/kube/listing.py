"""Reading many: lists in pages, and watches.

Owns filters, continue tokens, and the fan-out of changes to watchers. Bodies are passed on as stored bytes;
they are parsed only for a selector that needs it. It never writes to the store.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from . import selectors
from .catalog import Resource
from .errors import StatusError, bad_request, expired
from .store import Change, Record, ResourceKey, Store, encode

Filter = Callable[[Record], bool]
View = Callable[[Record], bytes]
BACKLOG = 20_000


def body_as(resource: Resource, record: Record) -> bytes:
    """The stored bytes, in the version that was asked for."""
    if record.body.startswith(prefix(resource)):
        return record.body
    obj = record.load()
    obj["apiVersion"] = resource.api_version
    return encode(obj)


def prefix(resource: Resource) -> bytes:
    return f'{{"kind":"{resource.kind}","apiVersion":"{resource.api_version}",'.encode()


def metadata_only(resource: Resource, record: Record) -> bytes:
    obj = {
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": record.load()["metadata"],
    }
    return encode(obj)


def make_filter(resource: Resource, namespace: str, query: dict[str, str]) -> Filter | None:
    """None lets everything pass. The namespace is not part of it for lists, which walk only one."""
    by_label = selectors.labels(query.get("labelSelector", ""))
    by_field = selectors.fields(query.get("fieldSelector", ""), resource)
    if by_label is None and not by_field and not namespace:
        return None

    def passes(record: Record) -> bool:
        if namespace and record.key[0] != namespace:
            return False
        if by_label is not None and not by_label(record.labels):
            return False
        return all((_field(record, path) == value) is equal for path, equal, value in by_field)

    return passes


def _field(record: Record, path: str) -> str:
    if path == "metadata.name":
        return record.key[1]
    if path == "metadata.namespace":
        return record.key[0]
    return selectors.value_at(record.load(), path)


def _version(text: str) -> int:
    if not text:
        return 0
    if not text.isdigit():
        raise bad_request(f"Invalid value: {text!r}: strconv.ParseUint: parsing {text!r}: invalid syntax")
    return int(text)


def flag(query: Mapping[str, str], name: str) -> bool:
    """As the real server reads it: absent, 0 and false (in any case) are false, everything else is true."""
    return name in query and query[name].lower() not in ("0", "false")


def number(query: dict[str, str], name: str) -> int:
    text = query.get(name, "")
    try:
        return int(text) if text else 0
    except ValueError as error:
        raise bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax') from error


def list_page(
    store: Store, resource: Resource, namespace: str, query: dict[str, str], *, partial: bool = False
) -> bytes:
    wanted = _version(query.get("resourceVersion", ""))
    if wanted > store.version:
        cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
        text = f"Timeout: Too large resource version: {wanted}, current: {store.version}"
        raise StatusError(504, "Timeout", text, details={"causes": [cause], "retryAfterSeconds": 1})
    if query.get("resourceVersionMatch") == "Exact" and wanted and wanted != store.version:
        raise expired(f"The resourceVersion for the provided list is too old: {wanted}")
    passes = make_filter(resource, "", query)
    limit = number(query, "limit")
    version, start = store.version, 0
    if query.get("continue"):
        version, start = _read_token(query["continue"])
        records = store.snapshot(resource.key, version)
        if namespace:
            records = [record for record in records if record.key[0] == namespace]
    else:
        records = store.walk(resource.key, namespace)
    page: list[Record] = []
    position = start
    for position in range(start, len(records)):
        if passes is None or passes(records[position]):
            if limit and len(page) == limit:
                break
            page.append(records[position])
    else:
        position = len(records)
    metadata: dict[str, Any] = {"resourceVersion": str(version)}
    if position < len(records):
        if not query.get("continue"):
            store.keep_snapshot(resource.key, version, store.walk(resource.key))
        metadata["continue"] = _token(version, position)
        if passes is None:
            metadata["remainingItemCount"] = len(records) - position
    return _join(resource, page, metadata, partial=partial)


def _join(resource: Resource, page: list[Record], metadata: dict[str, Any], *, partial: bool) -> bytes:
    kind, version = resource.collection_kind, resource.api_version
    if partial:
        kind, version = "PartialObjectMetadataList", "meta.k8s.io/v1"
        items = [metadata_only(resource, record) for record in page]
    elif resource.builtin:
        cut = len(prefix(resource))
        items = [b"{" + body_as(resource, record)[cut:] for record in page]
    else:
        items = [body_as(resource, record) for record in page]
    head = msgspec.json.encode({"kind": kind, "apiVersion": version, "metadata": metadata})
    return head[:-1] + b',"items":[' + b",".join(items) + b"]}"


def _token(version: int, position: int) -> str:
    raw = msgspec.json.encode({"v": "meta.k8s.io/v1", "rv": version, "start": position})
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _read_token(token: str) -> tuple[int, int]:
    try:
        raw = msgspec.json.decode(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        return int(raw["rv"]), int(raw["start"])
    except (binascii.Error, msgspec.DecodeError, KeyError, TypeError, ValueError) as error:
        raise bad_request(f"continue key is not valid: {error}") from error


@dataclass(slots=True, eq=False)
class Watcher:
    """One open watch: what it wants, and what it has not sent yet."""

    resource: Resource
    passes: Filter | None
    view: View
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    pending: deque[bytes] = field(default_factory=deque)
    version: int = 0
    closed: bool = False

    def offer(self, change: Change) -> None:
        before = (
            change.before if change.before and (self.passes is None or self.passes(change.before)) else None
        )
        after = change.after if change.after and (self.passes is None or self.passes(change.after)) else None
        self.version = change.version
        if after is not None:
            self.push(b"MODIFIED" if before is not None else b"ADDED", self.view(after))
        elif before is not None:
            self.push(b"DELETED", self._last(change, before))

    def _last(self, change: Change, before: Record) -> bytes:
        """A removal, or a change that takes the object out of the selector's sight."""
        if change.after is None:
            return self.view(before)
        obj = before.load()
        obj["metadata"]["resourceVersion"] = str(change.version)
        return self.view(Record(before.key, change.version, encode(obj), before.labels, before.uid))

    def push(self, kind: bytes, body: bytes) -> None:
        if len(self.pending) >= BACKLOG:
            self.closed = True
        else:
            self.pending.append(b'{"type":"' + kind + b'","object":' + body + b"}\n")
        self.wake.set()

    def bookmark(self, version: int, *, initial_end: bool = False) -> None:
        metadata: dict[str, Any] = {"resourceVersion": str(version), "creationTimestamp": None}
        if initial_end:
            metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
        obj = {"kind": self.resource.kind, "apiVersion": self.resource.api_version, "metadata": metadata}
        self.push(b"BOOKMARK", encode(obj))

    def close(self) -> None:
        self.closed = True
        self.wake.set()


class Watches:
    """All open watches; follows the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._open: dict[ResourceKey, set[Watcher]] = {}
        store.listeners.append(self._changed)

    def _changed(self, resource: ResourceKey, change: Change) -> None:
        for watcher in self._open.get(resource, ()):
            watcher.offer(change)

    def open(
        self, resource: Resource, namespace: str, query: dict[str, str], *, partial: bool = False
    ) -> Watcher:
        passes = make_filter(resource, namespace, query)
        kind = metadata_only if partial else body_as
        watcher = Watcher(resource, passes, lambda record: kind(resource, record))
        version = _version(query.get("resourceVersion", ""))
        initial = query.get("sendInitialEvents")
        watcher.version = self._store.version
        if flag(query, "sendInitialEvents") or (initial is None and version == 0):
            for record in self._store.walk(resource.key):
                if passes is None or passes(record):
                    watcher.push(b"ADDED", watcher.view(record))
            if initial is not None and flag(query, "allowWatchBookmarks"):
                watcher.bookmark(self._store.version, initial_end=True)
        elif version:
            if version > self._store.version:
                text = f"Timeout: Too large resource version: {version}, current: {self._store.version}"
                raise StatusError(504, "Timeout", text)
            for change in self._store.since(resource.key, version):
                watcher.offer(change)
            watcher.version = self._store.version
        self._open.setdefault(resource.key, set()).add(watcher)
        return watcher

    def leave(self, watcher: Watcher) -> None:
        self._open.get(watcher.resource.key, set()).discard(watcher)

    def close_all(self) -> int:
        count = 0
        for watchers in self._open.values():
            for watcher in list(watchers):
                watcher.close()
                count += 1
        return count

    @property
    def count(self) -> int:
        return sum(len(watchers) for watchers in self._open.values())

    @property
    def store(self) -> Store:
        return self._store
