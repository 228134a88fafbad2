"""The few controllers that an API server is useless without.

Owns garbage collection by owner references, the emptying of namespaces, default objects of a namespace, and
the establishing of CRDs. Each runs a moment after the write that calls for it, as on a real cluster. It
never plays workloads: that is the pod player's.
"""

from __future__ import annotations

import asyncio
from typing import Any

from .catalog import Catalog
from .definitions import CRDS, Definitions, established
from .objects import FOREGROUND, ORPHAN, Objects, Options
from .store import Change, ObjectKey, Record, ResourceKey, Store

NAMESPACES: ResourceKey = ("", "namespaces")
FIRST = ("default", "kube-node-lease", "kube-public", "kube-system")
SYSTEM = Options(manager="kube-controller-manager")


class Controllers:
    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        objects: Objects,
        definitions: Definitions,
        *,
        ca: str,
        delay: float,
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._objects = objects
        self._definitions = definitions
        self._ca = ca
        self._delay = delay
        self._closing: set[str] = set()
        self._handles: set[asyncio.TimerHandle] = set()
        store.listeners.append(self._changed)

    def stop(self) -> None:
        for handle in self._handles:
            handle.cancel()
        self._handles.clear()

    def begin(self) -> None:
        """The namespaces that every cluster has."""
        for name in FIRST:
            self._create(
                "namespaces", "", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
            )

    def _later(self, call: Any, *args: Any) -> None:
        loop = asyncio.get_running_loop()
        handle: asyncio.TimerHandle

        def run() -> None:
            self._handles.discard(handle)
            call(*args)

        handle = loop.call_later(self._delay, run)
        self._handles.add(handle)

    def _changed(self, resource: ResourceKey, change: Change) -> None:
        if resource == CRDS:
            self._definition(change)
        elif resource == NAMESPACES:
            self._namespace(change)
        gone = change.before if change.after is None else None
        if gone is not None:
            if self._store.owned_by(gone.uid):
                self._later(self._collect, gone.uid)
            if gone.key[0] in self._closing:
                self._later(self._empty, gone.key[0])
            self._owners_waiting(gone)
        elif change.after is not None and b'"deletionTimestamp"' in change.after.body:
            finalizers = change.after.load()["metadata"].get("finalizers") or ()
            if FOREGROUND in finalizers or ORPHAN in finalizers:
                self._later(self._finalize, resource, change.after.key)

    # -- definitions

    def _definition(self, change: Change) -> None:
        doomed = self._definitions.follow(change)
        if doomed is not None:
            for record in self._store.walk(doomed):
                self._store.drop(doomed, record.key)
        elif change.after is not None and not established(change.after.load()):
            self._later(self._definitions.establish, change.after.key[1])

    # -- namespaces

    def _namespace(self, change: Change) -> None:
        if change.after is None:
            return
        name = change.after.key[1]
        if change.before is None:
            self._later(self._furnish, name)
        elif b'"Terminating"' in change.after.body and name not in self._closing:
            self._closing.add(name)
            self._later(self._empty, name)

    def _furnish(self, name: str) -> None:
        space = self._store.get(NAMESPACES, ("", name))
        if space is None or name in self._closing:
            return
        meta = {"name": "default", "namespace": name}
        self._create(
            "serviceaccounts", name, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta}
        )
        self._create(
            "configmaps",
            name,
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "kube-root-ca.crt", "namespace": name},
                "data": {"ca.crt": self._ca},
            },
        )

    def _create(self, plural: str, namespace: str, obj: dict[str, Any]) -> None:
        resource = self._catalog.find("", "v1", plural)
        if resource and self._store.get(resource.key, (namespace, obj["metadata"]["name"])) is None:
            self._objects.create(resource, namespace, obj, SYSTEM)

    def _empty(self, name: str) -> None:
        """Deletes what is left in a namespace; the last one out closes it."""
        if self._store.get(NAMESPACES, ("", name)) is None:
            self._closing.discard(name)
            return
        left = False
        for resource, record in list(self._store.names_in(name)):
            if not self._delete(resource, record.key):
                left = True
        if not left and self._store.get(NAMESPACES, ("", name)) is not None:
            self._store.drop(NAMESPACES, ("", name))
            self._closing.discard(name)

    # -- garbage

    def _delete(self, resource: ResourceKey, key: ObjectKey) -> bool:
        kind = self._catalog.by_key(resource)
        record = self._store.get(resource, key)
        if kind is None or record is None:
            return True
        if record.load()["metadata"].get("deletionTimestamp"):
            return False
        _, gone = self._objects.delete(kind, key[0], key[1], {}, dry_run=False)
        return gone

    def _collect(self, uid: str) -> None:
        for resource, key in self._store.owned_by(uid):
            record = self._store.get(resource, key)
            if record is None:
                continue
            owners = record.load()["metadata"].get("ownerReferences") or ()
            if not any(owner.get("uid") != uid and self._alive(owner, key[0]) for owner in owners):
                self._delete(resource, key)

    def _alive(self, owner: dict[str, Any], namespace: str) -> bool:
        kind = self._catalog.by_kind(str(owner.get("apiVersion")), str(owner.get("kind")))
        if kind is None:
            return False
        found = self._store.get(kind.key, (namespace if kind.namespaced else "", str(owner.get("name"))))
        return found is not None and found.uid == owner.get("uid")

    def _finalize(self, resource: ResourceKey, key: ObjectKey) -> None:
        record = self._store.get(resource, key)
        if record is None:
            return
        obj = record.load()
        finalizers = list(obj["metadata"].get("finalizers") or ())
        dependents = self._store.owned_by(record.uid)
        if ORPHAN in finalizers:
            for other, name in dependents:
                self._orphan(other, name, record.uid)
            finalizers.remove(ORPHAN)
        elif FOREGROUND in finalizers:
            if [item for item in dependents if not self._delete(*item)]:
                return
            finalizers.remove(FOREGROUND)
        else:
            return
        obj["metadata"]["finalizers"] = finalizers
        if finalizers:
            self._store.put(resource, obj)
        else:
            self._store.drop(resource, key)

    def _orphan(self, resource: ResourceKey, key: ObjectKey, uid: str) -> None:
        record = self._store.get(resource, key)
        if record is not None:
            obj = record.load()
            kept = [o for o in obj["metadata"].get("ownerReferences") or () if o.get("uid") != uid]
            obj["metadata"]["ownerReferences"] = kept
            if not kept:
                del obj["metadata"]["ownerReferences"]
            self._store.put(resource, obj)

    def _owners_waiting(self, gone: Record) -> None:
        """A dependent that finalizers held is gone: its owner's foreground deletion may go on."""
        if b'"ownerReferences"' not in gone.body:
            return
        for owner in gone.load()["metadata"].get("ownerReferences") or ():
            kind = self._catalog.by_kind(str(owner.get("apiVersion")), str(owner.get("kind")))
            if kind is not None:
                key = (gone.key[0] if kind.namespaced else "", str(owner.get("name")))
                self._later(self._finalize, kind.key, key)
