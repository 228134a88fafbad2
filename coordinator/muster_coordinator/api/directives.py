"""Directives and floors, as operators deal with them.

Owns who waits for which release, taking in a directive that renews one, and the word that a regressed floor was
seen. It judges no signature: agents do.
"""

from __future__ import annotations

from dataclasses import dataclass

from muster_core.errors import RolloutError
from muster_core.release import Release
from muster_proto.v1 import operator_pb2 as op

from muster_coordinator.api import views
from muster_coordinator.api.answers import no_cluster
from muster_coordinator.rollout.effects import Effects
from muster_coordinator.rollout.engine import Engine
from muster_coordinator.rollout.offers import release_of, wire_release


@dataclass(slots=True)
class DirectiveApi:
    engine: Engine

    def owed(self, request: op.ListOwedRequest) -> op.OwedList:
        """Everybody who waits for a release: owed in a rollout that runs, and in the catch-up ledgers."""
        state, rows = self.engine.state, list[op.Owed]()
        for machine in state.active():
            if request.bundle not in ("", machine.started.bundle):
                continue
            for cluster, target in machine.targets.items():
                if target.state == "owed":
                    rows.append(
                        self._row(
                            cluster, release_of(machine), machine.name, "owed", target.message, target.since
                        )
                    )
        for bundle, ledger in state.debts.items():
            if request.bundle in ("", bundle):
                rows += [
                    self._row(
                        debt.cluster,
                        Release(bundle, debt.commit, debt.tree_digest),
                        debt.origin,
                        debt.state,
                        debt.message,
                        debt.since,
                    )
                    for debt in ledger.debts.values()
                ]
        return op.OwedList(owed=sorted(rows, key=lambda row: (row.since_unix_ms, row.cluster)))

    def _row(
        self, cluster: str, release: Release, rollout: str, state: str, message: str, since: float
    ) -> op.Owed:
        known = self.engine.state.clusters.get(cluster)
        carried = self.engine.state.directives.of(release)
        return op.Owed(
            cluster=cluster,
            uid=known.entry.spec.uid if known and known.entry else "",
            release=wire_release(release),
            rollout=rollout,
            state=state,
            message=message,
            since_unix_ms=int(since * 1000),
            directive_expires_unix=carried.directive.catch_up_until if carried else 0,
            directive=carried.event.statement if carried else b"",
            directive_signature=carried.event.signature if carried else b"",
        )

    async def renew(self, request: op.RenewDirectiveRequest) -> op.BundleView:
        release = Release(request.release.bundle, request.release.commit, request.release.tree_digest)

        def work(effects: Effects, now: float) -> op.BundleView:
            if release not in {release_of(run) for run in self.engine.state.rollouts_of(release.bundle)}:
                raise RolloutError("R015", "no rollout was of this release", object=str(release))
            self.engine.keep_directive(
                release, request.directive, request.directive_signature, request.cluster_uids, effects, now
            )
            return views.bundle_view(self.engine.state, release.bundle)

        view: op.BundleView = await self.engine.ask(work)
        return view

    async def acknowledge_floor(self, name: str) -> op.ClusterView:
        state = self.engine.state
        if name not in state.clusters:
            raise no_cluster(name)
        if not (state.clusters[name].regressed or state.clusters[name].forgot):
            raise RolloutError(
                "R016",
                "nothing of this cluster went back",
                object=name,
                hint=f"There is nothing to acknowledge: muster describe cluster {name}.",
            )
        await self.engine.ask(self.engine.agents.acknowledge_floor(name))
        return views.cluster_view(state, state.clusters[name])
