"""One object at a time: create, update, patch, delete, as the API does them.

Owns the order of a write (decode, default, judge, own fields, version) and its bookkeeping in ``metadata``.
Every operation is synchronous and so atomic on the event loop. It never speaks HTTP, never lists, and never
authorizes.
"""

from __future__ import annotations

import copy
import datetime as dt
import random
import uuid
from dataclasses import dataclass, field
from typing import Any

from . import defaults, errors, ownership, patches, rules
from .catalog import Catalog, Resource
from .definitions import Definitions
from .schemas import Schemas, decode, omit_empty
from .services import Addresses
from .store import Record, Store

Obj = dict[str, Any]
FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"
_RETURNED = frozenset(
    {"Pod", "Service", "ServiceAccount", "PersistentVolumeClaim", "PersistentVolume", "ResourceQuota"}
)
_CONDITIONAL = frozenset({"CustomResourceDefinition", "Lease"})
_LETTERS = "bcdfghjklmnpqrstvwxz2456789"


def timestamp() -> str:
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(slots=True)
class Options:
    """What a request says besides its body."""

    manager: str = "unknown"
    dry_run: bool = False
    validation: str = "Warn"
    force: bool = False
    warnings: list[str] = field(default_factory=list)


class Objects:
    def __init__(self, store: Store, catalog: Catalog, schemas: Schemas, definitions: Definitions) -> None:
        self.store = store
        self.catalog = catalog
        self.schemas = schemas
        self.definitions = definitions
        self.addresses = Addresses()

    # -- reading

    def get(self, resource: Resource, namespace: str, name: str) -> Record:
        record = self.store.get(resource.key, (namespace, name))
        if record is None:
            raise errors.not_found(resource, name)
        return record

    # -- writing

    def create(self, resource: Resource, namespace: str, obj: Obj, options: Options) -> Obj:
        self._identify(resource, namespace, "", obj)
        obj = self._decode(resource, obj, options)
        if obj["metadata"].get("resourceVersion"):
            raise errors.StatusError(500, "", "resourceVersion should not be set on objects to be created")
        return self._create(resource, namespace, obj, options, tracked=False)

    def _create(
        self, resource: Resource, namespace: str, obj: Obj, options: Options, *, tracked: bool
    ) -> Obj:
        metadata = obj["metadata"]
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = metadata["generateName"] + "".join(random.choices(_LETTERS, k=5))
        name = metadata.get("name", "")
        if resource.namespaced:
            metadata["namespace"] = namespace
            self._require_namespace(resource, namespace, name)
        metadata["uid"] = str(uuid.uuid4())
        metadata["creationTimestamp"] = timestamp()
        for key in (
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "selfLink",
            "resourceVersion",
            "generation",
        ):
            metadata.pop(key, None)
        if resource.generation or not resource.builtin:
            metadata["generation"] = 1
        if self._has_status(resource):
            obj.pop("status", None)
        self._fill(resource, obj)
        self._judge(resource, None, obj)
        if self.store.get(resource.key, (metadata.get("namespace", ""), name)) is not None:
            raise errors.already_exists(resource, name)
        if resource.kind == "Service" and resource.builtin:
            self.addresses.assign(obj, None, dry_run=options.dry_run)
        if not tracked:
            self._track(resource, None, obj, options, "")
        if not options.dry_run:
            self.store.put(resource.key, obj)
        return obj

    def update(
        self, resource: Resource, namespace: str, name: str, obj: Obj, sub: str, options: Options
    ) -> Obj:
        self._identify(resource, namespace, name, obj)
        obj = self._decode(resource, obj, options)
        old = self.get(resource, namespace, name).load()
        return self._replace(resource, self._as(resource, old), obj, sub, options, tracked=False)

    def patch(
        self, resource: Resource, namespace: str, name: str, kind: str, patch: Any, sub: str, options: Options
    ) -> tuple[Obj, bool]:
        """The patched object, and whether it was created."""
        if kind == "apply":
            return self._apply(resource, namespace, name, patch, sub, options)
        old = self._as(resource, self.get(resource, namespace, name).load())
        base = copy.deepcopy(old)
        if kind == "json":
            patched = patches.json_patch(base, patch)
        elif not isinstance(patch, dict):
            raise errors.bad_request("error decoding patch: json: cannot unmarshal into Go value of type map")
        elif kind == "merge":
            patched = patches.merge_patch(base, patch)
        else:
            patched = patches.strategic_merge(base, patch, self._shape(resource))
        self._identify(resource, namespace, name, patched)
        patched = self._decode(resource, patched, options)
        return self._replace(resource, old, patched, sub, options, tracked=False), False

    def _apply(
        self, resource: Resource, namespace: str, name: str, config: Any, sub: str, options: Options
    ) -> tuple[Obj, bool]:
        if not isinstance(config, dict):
            raise errors.bad_request("error decoding YAML: the applied configuration is not an object")
        if not config.get("apiVersion") or not config.get("kind"):
            raise errors.bad_request("Object 'Kind' is missing in the applied configuration")
        self._identify(resource, namespace, name, config)
        metadata = config["metadata"]
        if metadata.get("managedFields"):
            raise errors.bad_request("metadata.managedFields must be nil")
        unknown: list[str] = []
        shape = self._shape(resource)
        decode(config, shape, unknown)
        if unknown:
            where = f"{namespace}/{name}; {resource.api_version}, Kind={resource.kind}"
            text = ", ".join(f".{path}: field not declared in schema" for path in unknown)
            raise errors.StatusError(500, "", f"failed to create typed patch object ({where}): {text}")
        if resource.kind == "Secret" and resource.builtin:
            pass  # stringData is owned as such and turned into data by the defaults, as on the real server
        record = self.store.get(resource.key, (namespace, name))
        if record is None and sub:
            raise errors.not_found(resource, name)
        live = self._as(resource, record.load()) if record is not None else None
        wanted = metadata.get("resourceVersion")
        if wanted and (live is None or live["metadata"]["resourceVersion"] != wanted):
            raise errors.conflict(resource, name, errors.STALE)
        if metadata.get("uid") and (live is None or live["metadata"]["uid"] != metadata["uid"]):
            raise errors.conflict(resource, name, self._uid_text(metadata["uid"], live))
        result = ownership.apply(
            live,
            config,
            shape,
            manager=options.manager,
            now=timestamp(),
            force=options.force,
            subresource=sub,
            status=self._has_status(resource),
        )
        if resource.namespaced:
            result["metadata"]["namespace"] = namespace
        if live is None:
            return self._create(resource, namespace, result, options, tracked=True), True
        return self._replace(resource, live, result, sub, options, tracked=True), False

    def _replace(
        self, resource: Resource, old: Obj, new: Obj, sub: str, options: Options, *, tracked: bool
    ) -> Obj:
        """Everything that an update and every patch have in common."""
        name = old["metadata"]["name"]
        was, now = old["metadata"], new["metadata"]
        version = now.get("resourceVersion", "")
        if version and version != was["resourceVersion"]:
            raise errors.conflict(resource, name, errors.STALE)
        if not version and (not resource.builtin or resource.kind in _CONDITIONAL):
            cause = (
                rules.INVALID,
                "metadata.resourceVersion",
                "Invalid value: 0x0: must be specified for an update",
            )
            raise errors.invalid(resource, name, [cause])
        if now.get("uid") and now["uid"] != was["uid"]:
            raise errors.conflict(resource, name, self._uid_text(now["uid"], old))
        for key in (
            "uid",
            "creationTimestamp",
            "generation",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "resourceVersion",
            "namespace",
            "generateName",
        ):
            now.pop(key, None)
            if key in was:
                now[key] = was[key]
        if sub == "status":
            status, fields = new.get("status"), now.get("managedFields")
            new = copy.deepcopy(old)
            new.pop("status", None)
            if status is not None:
                new["status"] = status
            if fields is not None:
                new["metadata"]["managedFields"] = fields
        elif self._has_status(resource):
            new.pop("status", None)
            if "status" in old:
                new["status"] = copy.deepcopy(old["status"])
        if resource.kind == "Service" and resource.builtin:
            self.addresses.keep(old, new)
        self._fill(resource, new)
        if _content(new) != _content(old) and "generation" in was:
            new["metadata"]["generation"] = was["generation"] + 1
        self._judge(resource, old, new)
        if resource.kind == "Service" and resource.builtin:
            self.addresses.assign(new, old, dry_run=options.dry_run)
        if not tracked:
            self._track(resource, old, new, options, sub)
        if new == old:
            return old
        if options.dry_run:
            return new
        space = resource.kind == "Namespace" and resource.builtin
        if was.get("deletionTimestamp") and not new["metadata"].get("finalizers") and not space:
            self.store.drop(resource.key, (was.get("namespace", ""), name))
            return new
        self.store.put(resource.key, new)
        return new

    def delete(
        self, resource: Resource, namespace: str, name: str, how: Obj, *, dry_run: bool
    ) -> tuple[Obj, bool]:
        """The object and whether it is gone already; otherwise finalizers hold it."""
        obj = self._as(resource, self.get(resource, namespace, name).load())
        metadata = obj["metadata"]
        self._check_preconditions(resource, name, metadata, how.get("preconditions") or {})
        policy = how.get("propagationPolicy") or ("Orphan" if how.get("orphanDependents") else "")
        if policy not in ("", "Background", "Foreground", "Orphan"):
            raise errors.StatusError(
                422, "Invalid", f'DeleteOptions.meta.k8s.io "" is invalid: propagationPolicy: {policy}'
            )
        finalizers = [item for item in metadata.get("finalizers") or () if item not in (FOREGROUND, ORPHAN)]
        finalizers += {"Foreground": [FOREGROUND], "Orphan": [ORPHAN]}.get(policy, [])
        space = resource.kind == "Namespace" and resource.builtin
        if space and name in ("default", "kube-system", "kube-public", "kube-node-lease"):
            raise errors.forbidden(resource, name, "this namespace may not be deleted")
        if dry_run:
            return obj, not finalizers and not space
        if not finalizers and not space:
            self.store.drop(resource.key, (namespace, name))
            return obj, True
        if not metadata.get("deletionTimestamp"):
            metadata["deletionTimestamp"] = timestamp()
            metadata["deletionGracePeriodSeconds"] = 0
            if "generation" in metadata:
                metadata["generation"] += 1
        if finalizers:
            metadata["finalizers"] = finalizers
        if space:
            metadata.pop("deletionGracePeriodSeconds", None)
            obj["status"]["phase"] = "Terminating"
        if self.store.get(resource.key, (namespace, name)) is not None:
            self.store.put(resource.key, obj)
        return obj, False

    def returns_object(self, resource: Resource) -> bool:
        return resource.builtin and resource.kind in _RETURNED

    # -- parts

    def _shape(self, resource: Resource) -> Any:
        return self.schemas.shape(resource.api_version, resource.kind)

    def _has_status(self, resource: Resource) -> bool:
        return resource.status

    @staticmethod
    def _as(resource: Resource, obj: Obj) -> Obj:
        obj["apiVersion"] = resource.api_version
        return obj

    @staticmethod
    def _check_preconditions(resource: Resource, name: str, metadata: Obj, wanted: Obj) -> None:
        for key, label, hint in (
            ("uid", "UID", "deleted and then recreated"),
            ("resourceVersion", "ResourceVersion", "modified"),
        ):
            if wanted.get(key) and wanted[key] != metadata[key]:
                raise errors.precondition(
                    resource,
                    name,
                    f"the {label} in the precondition ({wanted[key]}) does not match the {label} in record "
                    f"({metadata[key]}). The object might have been {hint}",
                )

    @staticmethod
    def _uid_text(wanted: str, live: Obj | None) -> str:
        have = live["metadata"]["uid"] if live else ""
        return f"Precondition failed: UID in precondition: {wanted}, UID in object meta: {have}"

    def _identify(self, resource: Resource, namespace: str, name: str, obj: Any) -> None:
        """The body must be what the path says; kind and namespace are filled in when absent."""
        if not isinstance(obj, dict):
            raise errors.bad_request("the body of the request is not an object")
        api_version = obj.setdefault("apiVersion", resource.api_version)
        kind = obj.setdefault("kind", resource.kind)
        if kind != resource.kind:
            raise errors.bad_request(
                f'{kind} in version "{api_version.rpartition("/")[2]}" '
                f"cannot be handled as a {resource.kind}: "
                f"the object provided is unrecognized (must be of type {resource.kind})"
            )
        if api_version != resource.api_version:
            raise errors.bad_request(
                f"the API version in the data ({api_version}) does not match the expected API version "
                f"({resource.api_version})"
            )
        metadata = obj.setdefault("metadata", {})
        if not isinstance(metadata, dict):
            raise errors.bad_request(
                "json: cannot unmarshal into Go struct field .metadata of type ObjectMeta"
            )
        if resource.namespaced and metadata.setdefault("namespace", namespace) != namespace:
            raise errors.bad_request(
                "the namespace of the provided object does not match the namespace sent on the request"
            )
        if name and metadata.setdefault("name", name) != name:
            raise errors.bad_request(
                f"the name of the object ({metadata['name']}) does not match the name on the URL ({name})"
            )

    @staticmethod
    def _unfit(resource: Resource) -> str:
        return f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}: '

    def _decode(self, resource: Resource, obj: Obj, options: Options) -> Obj:
        unknown: list[str] = []
        try:
            decode(obj, self._shape(resource), unknown)
        except errors.StatusError as error:
            raise errors.bad_request(self._unfit(resource) + error.message) from error
        if unknown and options.validation == "Strict":
            listed = ", ".join(f'unknown field "{path}"' for path in unknown)
            what = self._unfit(resource) if resource.builtin else ""
            raise errors.bad_request(what + f"strict decoding error: {listed}")
        if options.validation == "Warn":
            options.warnings += [f'unknown field "{path}"' for path in unknown]
        return obj

    def _fill(self, resource: Resource, obj: Obj) -> None:
        if resource.builtin:
            omit_empty(obj, self._shape(resource))
            defaults.fill(obj)
        else:
            omit_empty(obj["metadata"], self.schemas.meta())
            defaults.fill_custom(obj, self.definitions.openapi(resource))

    def _judge(self, resource: Resource, old: Obj | None, new: Obj) -> None:
        causes = rules.check(resource, new, self._shape(resource))
        if not resource.builtin:
            causes += rules.check_custom(new, self.definitions.openapi(resource))
        if old is not None:
            causes += rules.check_change(resource, old, new)
        if causes:
            raise errors.invalid(resource, new["metadata"].get("name", ""), causes)

    def _track(self, resource: Resource, old: Obj | None, new: Obj, options: Options, sub: str) -> None:
        ownership.track_update(
            old,
            new,
            self._shape(resource),
            manager=options.manager,
            now=timestamp(),
            subresource=sub,
            status=self._has_status(resource),
        )

    def _require_namespace(self, resource: Resource, namespace: str, name: str) -> None:
        spaces = self.catalog.find("", "v1", "namespaces")
        record = self.store.get(("", "namespaces"), ("", namespace))
        if spaces is None or record is None:
            raise errors.StatusError(
                404,
                "NotFound",
                f'namespaces "{namespace}" not found',
                details={"name": namespace, "kind": "namespaces"},
            )
        if b'"deletionTimestamp"' in record.body and record.load()["metadata"].get("deletionTimestamp"):
            text = f"unable to create new content in namespace {namespace} because it is being terminated"
            cause = {
                "reason": "NamespaceTerminating",
                "message": f"namespace {namespace} is being terminated",
                "field": "metadata.namespace",
            }
            raise errors.forbidden(resource, name, text, [cause])


def _content(obj: Obj) -> Obj:
    return {
        key: value for key, value in obj.items() if key not in ("metadata", "status", "apiVersion", "kind")
    }
