"""What the fleet repository says now: the current release of each bundle, the plans, the registered clusters.

Owns polling and the last good reading: what cannot be read is an error that is shown while the old reading stays. It never
decides what is rolled out.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio
import anyio.to_thread
import structlog
from muster_core.errors import MusterError, ValidationError
from muster_core.fleet import FleetContents, Problem, in_service, read_fleet, read_registry, unmatched
from muster_core.kinds.model import Cluster

from muster_coordinator.catalog.repository import BlobTree, FleetRepository, Heads

log = structlog.get_logger()

NO_HEADS = Heads("", "")


@dataclass(frozen=True, slots=True)
class Reading:
    """One consistent reading. ``authors``: names and addresses of who wrote and who made the newest commit. ``clusters`` are
    those in service, ``revoked`` the names of the other entries."""

    heads: Heads = NO_HEADS
    contents: FleetContents = field(default_factory=FleetContents)
    clusters: dict[str, Cluster] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    authors: tuple[str, ...] = ()
    revoked: frozenset[str] = frozenset()


def read(heads: Heads, tree: BlobTree, registry: BlobTree, authors: tuple[str, ...] = ()) -> Reading:
    contents = read_fleet(tree)
    registered, problems = read_registry(registry)
    clusters = in_service(registered)
    found = (*contents.problems, *problems, *unmatched(contents, clusters))
    return Reading(heads, contents, clusters, found, authors, frozenset(registered.keys() - clusters.keys()))


class Catalog:
    """``changed`` is awaited with each new reading."""

    def __init__(
        self, repository: FleetRepository, poll: float, changed: Callable[[Reading], Awaitable[None]]
    ) -> None:
        self.repository, self._poll, self._changed = repository, poll, changed
        self.reading = Reading()
        self.error = ""
        self._refreshing = anyio.Lock()

    async def refresh(self) -> Reading:
        """Reads now; raises what stands in the way, and keeps the last good reading."""
        async with self._refreshing:
            try:
                heads = await self.repository.fetch()
                if heads != self.reading.heads:
                    trees = await self.repository.trees(heads)
                    authors = await self.repository.authors(heads.commit)
                    reading = await self._read(heads, trees, authors)
                    log.info(
                        "catalog read",
                        commit=heads.commit[:12],
                        registry=heads.registry[:12],
                        bundles=len(reading.contents.bundles),
                        clusters=len(reading.clusters),
                        problems=[str(problem) for problem in reading.problems[:10]],
                    )
                    await self._changed(reading)
                    self.reading = reading  # where that failed, the same commit is read again
                self.error = ""
            except MusterError as error:
                self.error = str(error)
                raise
        return self.reading

    async def _read(
        self, heads: Heads, trees: tuple[BlobTree, BlobTree], authors: tuple[str, ...]
    ) -> Reading:
        """``MUSTER-V006`` whatever a commit's files do to a parser: who may push must not be able to stop us."""
        try:
            return await anyio.to_thread.run_sync(read, heads, *trees, authors)
        except MusterError:
            raise
        except Exception as error:
            log.exception("a commit that nobody can read", commit=heads.commit)
            what = f"the fleet repository cannot be read ({type(error).__name__}: {error})"
            raise ValidationError("V006", what, object=heads.commit[:12]) from error

    async def run(self) -> None:
        """Polls for ever."""
        while True:
            try:
                await self.refresh()
            except MusterError as error:
                log.warning("catalog not read, the last reading stays", error=str(error))
            await anyio.sleep(self._poll)
