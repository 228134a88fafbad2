"""Freezes, as operators make, end and see them.

Owns their form on the wire. What a freeze is, and what it holds, is the engine's.
"""

from __future__ import annotations

from dataclasses import dataclass

from muster_core.select import matches, parse_selector
from muster_proto.v1 import operator_pb2 as op

from muster_coordinator.access.calls import CALLER
from muster_coordinator.api.answers import NotFoundError, no_bundle
from muster_coordinator.rollout.engine import Engine
from muster_coordinator.rollout.freezes import FreezeCreated


@dataclass(slots=True)
class FreezeApi:
    engine: Engine

    async def create(self, request: op.CreateFreezeRequest) -> op.Freeze:
        """``MUSTER-L041`` for a bundle that nobody knows; ``R082`` and ``R084`` as the freeze's own rules have it."""
        if request.bundle and request.bundle not in self.engine.state.reading.contents.bundles:
            raise no_bundle(request.bundle)
        wanted = FreezeCreated(
            at=0.0,  # the engine's, when its turn comes
            name=request.name,
            by=CALLER.get().name,
            until=float(request.until_unix),
            selector=request.selector,
            bundle=request.bundle,
            reason=request.reason,
        )
        return self._view(await self.engine.ask(self.engine.freeze(wanted)))

    async def delete(self, name: str) -> op.Freeze:
        ended = await self.engine.ask(self.engine.unfreeze(name, CALLER.get().name))
        if ended is None:
            raise NotFoundError(
                "R083", "there is no such freeze", object=name[:80], hint="See them: muster get freezes."
            )
        return self._view(ended)

    def list(self, now: float) -> op.FreezeList:
        standing = self.engine.holds.freezes.standing(now)
        return op.FreezeList(freezes=[self._view(freeze.created) for freeze in standing])

    def _view(self, freeze: FreezeCreated) -> op.Freeze:
        selector = parse_selector(freeze.selector)
        entries = self.engine.state.reading.clusters.values()
        return op.Freeze(
            name=freeze.name,
            selector=freeze.selector,
            bundle=freeze.bundle,
            until_unix=int(freeze.until),
            by=freeze.by,
            reason=freeze.reason,
            created_unix=int(freeze.at),
            clusters=sum(matches(selector, entry.all_labels) for entry in entries),
        )
