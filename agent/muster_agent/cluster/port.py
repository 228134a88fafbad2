"""The one way in which the agent reaches a Kubernetes API server.

Owns the protocol and its values. One contract suite runs on every server it is used with (tests/contract/cluster_api).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Literal, NamedTuple, Protocol

from muster_core.manifest.objects import Manifest, ObjectRef


class Resource(NamedTuple):
    """A kind as its server serves it. ``path`` is the collection's path without a namespace."""

    api_version: str
    kind: str
    plural: str
    namespaced: bool


class WatchEvent(NamedTuple):
    """``BOOKMARK`` carries only a resource version."""

    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
    object: Manifest


class Page(NamedTuple):
    items: list[Manifest]
    resource_version: str


class ClusterApi(Protocol):
    """Every call is bounded in time and raises only :class:`muster_core.errors.KubernetesError` with these codes:

    K001 unreachable or 5xx (retryable), K002 429 (retryable), K003 forbidden or unauthorised, K004 no such kind,
    K005 conflict with another manager, K006 immutable field, K007 invalid, K008 expired resource version,
    K009 no such namespace, K010 anything else.
    """

    async def uid(self) -> str: ...

    async def version(self) -> str: ...

    async def resource(self, api_version: str, kind: str) -> Resource: ...

    async def get(self, ref: ObjectRef) -> Manifest | None: ...

    async def apply(self, obj: Manifest, *, force: bool = False, dry_run: bool = False) -> Manifest: ...

    async def delete(self, ref: ObjectRef, uid: str) -> bool: ...

    def pages(self, resource: Resource, selector: str) -> AsyncIterator[Page]: ...

    def watch(
        self, resource: Resource, selector: str, resource_version: str
    ) -> AsyncIterator[WatchEvent]: ...

    async def aclose(self) -> None: ...


def labels_of(obj: Manifest) -> dict[str, Any]:
    labels: dict[str, Any] = (obj.get("metadata") or {}).get("labels") or {}
    return labels
