"""Custom kinds: a CRD becomes servable, and stops being so.

Owns the link from stored CRDs to the catalog and the schemas, and their Established condition. It never
stores instances; conversion between versions is by ``apiVersion`` only (strategy None).
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from .catalog import Catalog, Resource
from .schemas import Schemas
from .store import Change, ResourceKey, Store

CRDS: ResourceKey = ("apiextensions.k8s.io", "customresourcedefinitions")


class Definitions:
    def __init__(self, store: Store, catalog: Catalog, schemas: Schemas) -> None:
        self._store = store
        self._catalog = catalog
        self._schemas = schemas
        self._openapi: dict[tuple[str, str], dict[str, Any]] = {}

    def openapi(self, resource: Resource) -> dict[str, Any]:
        return self._openapi.get((resource.api_version, resource.kind), {})

    def follow(self, change: Change) -> ResourceKey | None:
        """Takes a CRD's change into the catalog; answers the resource whose instances must go."""
        if change.after is None:
            if change.before is None:
                return None
            spec = change.before.load()["spec"]
            for resource in self._catalog.drop(spec["group"], spec["names"]["plural"]):
                self._schemas.drop_custom(resource.api_version, resource.kind)
                self._openapi.pop((resource.api_version, resource.kind), None)
            return (spec["group"], spec["names"]["plural"])
        self._serve(change.after.load())
        return None

    def _serve(self, definition: dict[str, Any]) -> None:
        spec = definition["spec"]
        names = spec["names"]
        self._catalog.drop(spec["group"], names["plural"])
        if not established(definition):
            return
        self._store.begin((spec["group"], names["plural"]))
        for version in spec.get("versions") or ():
            if not version.get("served"):
                continue
            resource = Resource(
                group=spec["group"],
                version=version["name"],
                kind=names["kind"],
                plural=names["plural"],
                singular=names.get("singular", names["kind"].lower()),
                short=tuple(names.get("shortNames") or ()),
                categories=tuple(names.get("categories") or ()),
                namespaced=spec.get("scope") == "Namespaced",
                status="status" in (version.get("subresources") or {}),
                builtin=False,
                list_kind=names.get("listKind", ""),
            )
            schema = (version.get("schema") or {}).get("openAPIV3Schema") or {}
            self._catalog.add(resource)
            self._schemas.add_custom(resource.api_version, resource.kind, schema)
            self._openapi[(resource.api_version, resource.kind)] = schema

    def establish(self, name: str) -> None:
        """What the real server's controllers do a moment after creation."""
        record = self._store.get(CRDS, ("", name))
        if record is None:
            return
        definition = record.load()
        if established(definition) or definition["metadata"].get("deletionTimestamp"):
            return
        now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        spec = definition["spec"]
        definition["status"] = {
            "acceptedNames": spec["names"],
            "storedVersions": [v["name"] for v in spec.get("versions") or () if v.get("storage")],
            "conditions": [
                {
                    "type": "NamesAccepted",
                    "status": "True",
                    "reason": "NoConflicts",
                    "message": "no conflicts found",
                    "lastTransitionTime": now,
                },
                {
                    "type": "Established",
                    "status": "True",
                    "reason": "InitialNamesAccepted",
                    "message": "the initial names have been accepted",
                    "lastTransitionTime": now,
                },
            ],
        }
        self._store.put(CRDS, definition)


def established(definition: dict[str, Any]) -> bool:
    conditions = (definition.get("status") or {}).get("conditions") or ()
    return any(item.get("type") == "Established" and item.get("status") == "True" for item in conditions)
