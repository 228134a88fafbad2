"""Objects as JSON bytes, their versions, and the log that watches read.

Owns the one counter of resource versions, the objects by resource, the indexes, and the bounded event log.
It never knows what a kind means: callers hand in finished objects.
"""

from __future__ import annotations

import time
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from .errors import expired

ResourceKey = tuple[str, str]
ObjectKey = tuple[str, str]  # namespace, name


@dataclass(slots=True, frozen=True)
class Record:
    """One version of one object. ``body`` is its JSON, ``kind`` and ``apiVersion`` first."""

    key: ObjectKey
    version: int
    body: bytes
    labels: dict[str, str]
    uid: str

    def load(self) -> dict[str, Any]:
        loaded: dict[str, Any] = msgspec.json.decode(self.body)
        return loaded


@dataclass(slots=True, frozen=True)
class Change:
    """A committed write: ``before`` and ``after`` tell additions from changes and removals."""

    version: int
    before: Record | None
    after: Record | None


Listener = Callable[[ResourceKey, Change], None]


@dataclass(slots=True)
class Shelf:
    """All objects of one resource."""

    records: dict[ObjectKey, Record] = field(default_factory=dict)
    order: list[ObjectKey] = field(default_factory=list)
    log: deque[Change] = field(default_factory=deque)
    forgotten: int = 0


@dataclass(slots=True)
class Snapshot:
    version: int
    taken: float
    records: list[Record]


class Store:
    def __init__(self, *, history: int = 2000, snapshot_life: float = 300.0) -> None:
        self.version = 1
        self.history = history
        self.snapshot_life = snapshot_life
        self._shelves: dict[ResourceKey, Shelf] = {}
        self._owned: dict[str, set[tuple[ResourceKey, ObjectKey]]] = {}
        self._snapshots: dict[tuple[ResourceKey, int], Snapshot] = {}
        self.listeners: list[Listener] = []

    def shelf(self, resource: ResourceKey) -> Shelf:
        found = self._shelves.get(resource)
        if found is None:
            found = self._shelves[resource] = Shelf()
        return found

    def begin(self, resource: ResourceKey) -> None:
        """A resource that is served from now on has no past that a watch could ask for."""
        shelf = self.shelf(resource)
        if not shelf.log and not shelf.records:
            shelf.forgotten = self.version

    def resources(self) -> list[ResourceKey]:
        return list(self._shelves)

    def get(self, resource: ResourceKey, key: ObjectKey) -> Record | None:
        return self.shelf(resource).records.get(key)

    def put(self, resource: ResourceKey, obj: dict[str, Any]) -> Record:
        """Stores ``obj`` with a new version."""
        self.version += 1
        metadata = obj["metadata"]
        metadata["resourceVersion"] = str(self.version)
        key = (metadata.get("namespace", ""), metadata["name"])
        record = Record(key, self.version, encode(obj), metadata.get("labels") or {}, metadata["uid"])
        shelf = self.shelf(resource)
        before = shelf.records.get(key)
        if before is None:
            insort(shelf.order, key)
        else:
            self._disown(resource, before)
        for owner in metadata.get("ownerReferences") or ():
            self._owned.setdefault(owner.get("uid", ""), set()).add((resource, key))
        shelf.records[key] = record
        self._log(resource, shelf, Change(self.version, before, record))
        return record

    def drop(self, resource: ResourceKey, key: ObjectKey) -> Record:
        """Removes an object; the last state that watches see carries the version of the removal."""
        shelf = self.shelf(resource)
        before = shelf.records.pop(key)
        del shelf.order[bisect_left(shelf.order, key)]
        self._disown(resource, before)
        self.version += 1
        obj = before.load()
        obj["metadata"]["resourceVersion"] = str(self.version)
        last = Record(key, self.version, encode(obj), before.labels, before.uid)
        self._log(resource, shelf, Change(self.version, last, None))
        return last

    def _disown(self, resource: ResourceKey, record: Record) -> None:
        if b'"ownerReferences"' not in record.body:
            return
        for owner in record.load()["metadata"].get("ownerReferences") or ():
            held = self._owned.get(owner.get("uid", ""))
            if held is not None:
                held.discard((resource, record.key))
                if not held:
                    del self._owned[owner["uid"]]

    def owned_by(self, uid: str) -> list[tuple[ResourceKey, ObjectKey]]:
        return sorted(self._owned.get(uid, ()))

    def _log(self, resource: ResourceKey, shelf: Shelf, change: Change) -> None:
        shelf.log.append(change)
        while len(shelf.log) > self.history:
            shelf.forgotten = shelf.log.popleft().version
        for listener in list(self.listeners):
            listener(resource, change)

    def forget(self) -> None:
        """Compaction: older versions can be neither watched nor continued from now on."""
        for shelf in self._shelves.values():
            shelf.log.clear()
            shelf.forgotten = self.version
        self._snapshots.clear()

    def since(self, resource: ResourceKey, version: int) -> Iterator[Change]:
        shelf = self.shelf(resource)
        if version < shelf.forgotten:
            raise expired(f"too old resource version: {version} ({self.version})")
        return iter([change for change in shelf.log if change.version > version])

    def walk(self, resource: ResourceKey, namespace: str = "") -> list[Record]:
        shelf = self.shelf(resource)
        if not namespace:
            return [shelf.records[key] for key in shelf.order]
        start = bisect_left(shelf.order, (namespace, ""))
        found = []
        for key in shelf.order[start:]:
            if key[0] != namespace:
                break
            found.append(shelf.records[key])
        return found

    def names_in(self, namespace: str) -> Iterator[tuple[ResourceKey, Record]]:
        for resource in self.resources():
            for record in self.walk(resource, namespace):
                yield resource, record

    def keep_snapshot(self, resource: ResourceKey, version: int, records: list[Record]) -> None:
        now = time.monotonic()
        for key, old in list(self._snapshots.items()):
            if now - old.taken > self.snapshot_life:
                del self._snapshots[key]
        while len(self._snapshots) >= 64:
            del self._snapshots[next(iter(self._snapshots))]
        self._snapshots[(resource, version)] = Snapshot(version, now, records)

    def snapshot(self, resource: ResourceKey, version: int) -> list[Record]:
        found = self._snapshots.get((resource, version))
        if found is None or time.monotonic() - found.taken > self.snapshot_life:
            raise expired(
                "The provided continue parameter is too old to display a consistent list result. "
                "You can start a new list without the continue parameter."
            )
        return found.records


def encode(obj: dict[str, Any]) -> bytes:
    """JSON with ``kind`` and ``apiVersion`` first, so that lists can cut them off without parsing."""
    ordered = {"kind": obj["kind"], "apiVersion": obj["apiVersion"]}
    ordered.update(obj)
    return msgspec.json.encode(ordered)
