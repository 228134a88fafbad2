"""Turning joins down. Approval is no call: it is a registry entry that somebody signs."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
from muster_proto.v1 import operator_pb2 as op

from muster_coordinator.api import views
from muster_coordinator.api.answers import NotFoundError
from muster_coordinator.rollout.effects import Effects
from muster_coordinator.rollout.engine import Engine


@dataclass(slots=True)
class JoinApi:
    engine: Engine

    async def reject(self, name: str) -> op.ClusterView:
        """For good: this identity is told so and asks no more. ``MUSTER-J012`` where nobody waits under the name."""

        def work(effects: Effects, now: float) -> op.ClusterView:
            cluster = self.engine.state.clusters.get(name)
            join = cluster.join if cluster else None
            if cluster is None or join is None or join.refused or cluster.entry is not None:
                raise NotFoundError(
                    "J012",
                    "nobody asked to join under this name",
                    object=name,
                    hint="See them: muster get clusters.",
                )
            cluster.join = effects.batch.joins[name] = msgspec.structs.replace(join, refused=int(now))
            effects.clusters.add(name)
            effects.lines.append(f"{name} was turned down")
            return views.cluster_view(self.engine.state, cluster)

        view: op.ClusterView = await self.engine.ask(work)
        return view
