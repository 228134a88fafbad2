"""The registrar's desk: tokens, pending joins, the registry, as seen and changed from async code.

Owns the order of git and the sharing of answers: one checkout is used by one task at a time, and a hundred waiting clusters
ask the coordinator once. Approval is a pushed registry entry, exactly as ``cluster approve`` writes it. It never decides
whether a join is right.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread
from muster_core.errors import JoinError, ValidationError
from muster_core.kinds.model import Cluster
from muster_core.kinds.parse import parse
from muster_core.manifest.load import load_documents
from muster_core.select import Value

from muster_cli.checkout import Checkout
from muster_cli.commands.clusters import _checked, _entry
from muster_cli.install.minting import Reached, Source, mint, source_of
from muster_cli.trust.registry import accepted_registry

if TYPE_CHECKING:
    from muster_proto.v1 import operator_pb2 as op

    from muster_cli.client import OperatorClient

T = TypeVar("T")
HUB_FRESH = 0.4
REGISTRY_FRESH = 3.0
SOURCE_FRESH = 30.0


@dataclass(frozen=True, slots=True)
class Labels:
    """What a registry entry says of a new cluster: from whoever installs, never from the joiner."""

    plain: Mapping[str, str] = field(default_factory=dict)
    protected: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Value] = field(default_factory=dict)
    site_class: str = "connected"


@dataclass(slots=True)
class _Fresh:
    """A shared answer; asked again when it is older than it may be."""

    lock: anyio.Lock = field(default_factory=anyio.Lock)
    at: float = -1e9


class Desk:
    """``ttl`` is how long a token works, in seconds; ``key`` signs registry entries where the fleet's mode asks for it."""

    def __init__(
        self,
        clone: Checkout,
        operator: OperatorClient,
        reached: Reached,
        ttl: int,
        labels: Labels,
        key: Path | None = None,
    ) -> None:
        self._clone, self._operator, self._reached, self._ttl = clone, operator, reached, ttl
        self.labels, self._key = labels, key
        self._git = anyio.Lock()
        self._threads = anyio.CapacityLimiter(8)
        self._hub, self._registry, self._source_at, self._telling = _Fresh(), _Fresh(), _Fresh(), anyio.Lock()
        self._joins: dict[str, op.Join] = {}
        self._views: dict[str, op.ClusterView] = {}
        self._entries: dict[str, Cluster] = {}
        self._source: Source | None = None
        self._untold = False

    async def _run(self, call: Callable[..., T], *arguments: object) -> T:
        return await anyio.to_thread.run_sync(call, *arguments, limiter=self._threads)

    # --- reading -------------------------------------------------------------------------------------------------

    async def join_of(self, name: str) -> op.Join | None:
        """Who asks to join under this name."""
        await self._look()
        return self._joins.get(name)

    async def view_of(self, name: str) -> op.ClusterView | None:
        """What the coordinator knows of this cluster."""
        await self._look()
        return self._views.get(name)

    async def _look(self) -> None:
        async with self._hub.lock:
            if time.monotonic() - self._hub.at < HUB_FRESH:
                return
            joins = await self._run(self._operator.list_joins)
            views = await self._run(self._operator.list_clusters)
            self._joins = {join.cluster: join for join in joins.joins}
            self._views = {view.name: view for view in views.clusters}
            self._hub.at = time.monotonic()

    async def entry_of(self, name: str, uid: str) -> Cluster | None:
        """The registry entry of this name; ``MUSTER-J013`` or ``J014`` when name or cluster are taken, or revoked."""
        entries = await self.entries()
        for other, known in entries.items():
            if other != name and known.spec.uid == uid:
                raise JoinError("J014", f"this cluster is already registered as {other}", object=name)
        entry = entries.get(name)
        if entry is not None and entry.spec.uid != uid:
            raise JoinError(
                "J013",
                "the registry has this name with another identity",
                object=name,
                hint=f"If the cluster was rebuilt, remove clusters/{name}.yaml from the registry first.",
            )
        if entry is not None and entry.spec.revoked:
            raise JoinError(
                "J013",
                "the registry has this cluster as revoked, and its name and keys stay taken",
                object=name,
                hint="Rebuild it, or give the agent a new state folder and the cluster another name.",
            )
        return entry

    async def entries(self) -> dict[str, Cluster]:
        """The registry by name; at most a few seconds old."""
        async with self._registry.lock:
            if time.monotonic() - self._registry.at > REGISTRY_FRESH:
                async with self._git:
                    self._entries = await self._run(self._read_registry)
                self._registry.at = time.monotonic()
            return self._entries

    def _read_registry(self) -> dict[str, Cluster]:
        """Only what the trust document lets stand, as agents read it."""
        return dict(accepted_registry(self._clone)[1])

    async def source(self) -> Source:
        """The verified checkout; ``MUSTER-V007`` when fleet.yaml has not this site class."""
        async with self._source_at.lock:
            if self._source is None or time.monotonic() - self._source_at.at > SOURCE_FRESH:
                async with self._git:
                    self._source = await self._run(source_of, self._clone, self._operator, self._reached)
                    self._clone.sign_as(self._source.fleet.spec.mode, self._key)
                self._source_at.at = time.monotonic()
            known = sorted({"connected", *self._source.fleet.spec.site_classes})
            if self.labels.site_class not in known:
                raise ValidationError(
                    "V007",
                    f"fleet.yaml has no site class {self.labels.site_class}",
                    hint=f"Known: {', '.join(known)}.",
                )
            return self._source

    # --- changing ------------------------------------------------------------------------------------------------

    async def mint(self, name: str) -> str:
        """A fresh token for this name."""
        return await self._run(mint, await self.source(), self._operator, name, self._ttl)

    async def approve(self, name: str, join: op.Join) -> str:
        """Writes and pushes the entry, and tells the coordinator to look. Returns the registry's commit."""
        labels, fleet = self.labels, (await self.source()).fleet
        entry = _entry(
            fleet.spec.id,
            name,
            join,
            dict(labels.plain),
            dict(labels.protected),
            labels.values,
            labels.site_class,
        )
        async with self._git:
            commit = await self._run(
                self._clone.add_to_registry,
                f"clusters/{name}.yaml",
                lambda tree: _checked(tree, name, join, entry),
                f"Approve {name}",
            )
        self._entries[name] = parse(load_documents(entry, f"clusters/{name}.yaml")[0], Cluster)
        self._untold = True
        await self.tell()
        return commit

    async def tell(self) -> None:
        """One look of the coordinator is enough for all that was pushed before it."""
        async with self._telling:
            if self._untold:
                self._untold = False
                await self._run(self._operator.refresh)
