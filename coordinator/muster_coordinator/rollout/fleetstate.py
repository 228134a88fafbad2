"""The fleet as the coordinator knows it in memory.

Owns clusters, their last reports, rollouts and debts as plain state that the engine changes and views read. It is
rebuilt from the store at start. It never writes and never sends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from muster_core.kinds.model import Cluster
from muster_core.release import Release
from muster_core.rollout.board import Target
from muster_core.rollout.catchup import CatchUp, Debt
from muster_core.rollout.machine import RolloutMachine
from muster_core.session.inbox import Inbox
from muster_proto.v1 import link_pb2 as wire

from muster_coordinator.catalog.catalog import Reading
from muster_coordinator.rollout.directives import Shelf
from muster_coordinator.rollout.offers import offer_of, offer_of_debt, release_of
from muster_coordinator.store.port import JoinRow


@dataclass(slots=True)
class ClusterState:
    """One cluster. ``send`` is there while it is in contact; ``alarm`` is what a person must look at."""

    name: str
    entry: Cluster | None = None
    join: JoinRow | None = None
    inbox: Inbox = field(default_factory=Inbox)
    reports: dict[str, wire.Report] = field(default_factory=dict)
    send: Callable[[wire.HubFrame], None] | None = None
    connection: int = 0
    last_seen: float = 0.0
    agent_version: str = ""
    kubernetes_version: str = ""
    alarm: str = ""
    entry_digest: str = ""

    @property
    def floor(self) -> str:
        """The newest floor that it reported, by its own clock."""
        newest = max(self.reports.values(), key=lambda report: report.observed_unix_ms, default=None)
        return newest.head_commit if newest else ""

    @property
    def regressed(self) -> str:
        """A floor of its past that it is behind of, as it says."""
        return next((report.regressed for report in self.reports.values() if report.regressed), "")

    @property
    def online(self) -> bool:
        return self.send is not None

    @property
    def state(self) -> str:
        if self.entry is None:
            return "Revoked" if self.join and self.join.issued else "Pending"
        if self.online:
            return "Online"
        return "Offline" if self.last_seen or (self.join and self.join.issued) else "Pending"


@dataclass(slots=True)
class FleetState:
    """Everything. ``starts`` counts rollouts, for their names."""

    reading: Reading = field(default_factory=Reading)
    clusters: dict[str, ClusterState] = field(default_factory=dict)
    rollouts: dict[str, RolloutMachine] = field(default_factory=dict)
    debts: dict[str, CatchUp] = field(default_factory=dict)
    bundle_errors: dict[str, str] = field(default_factory=dict)
    directives: Shelf = field(default_factory=Shelf)

    def cluster(self, name: str) -> ClusterState:
        if name not in self.clusters:
            self.clusters[name] = ClusterState(name)
        return self.clusters[name]

    def rollouts_of(self, bundle: str) -> list[RolloutMachine]:
        """Oldest first."""
        return [machine for machine in self.rollouts.values() if machine.started.bundle == bundle]

    def active_of(self, bundle: str) -> RolloutMachine | None:
        return next((m for m in self.rollouts_of(bundle) if not m.has_ended), None)

    def active(self) -> list[RolloutMachine]:
        return [machine for machine in self.rollouts.values() if not machine.has_ended]

    def last_succeeded(self, bundle: str) -> RolloutMachine | None:
        return next((m for m in reversed(self.rollouts_of(bundle)) if m.state == "Succeeded"), None)

    def ledger(self, bundle: str) -> CatchUp:
        if bundle not in self.debts:
            self.debts[bundle] = CatchUp(bundle)
        return self.debts[bundle]

    def offer(self, machine: RolloutMachine, target: Target) -> wire.Offer:
        """A target's offer with the credentials that its agent asks for."""
        offer = offer_of(machine, target)
        self._credentials(release_of(machine), target.cluster, offer)
        return offer

    def debt_offer(self, bundle: str, debt: Debt) -> wire.Offer:
        offer = offer_of_debt(bundle, debt)
        self._credentials(Release(bundle, debt.commit, debt.tree_digest), debt.cluster, offer)
        return offer

    def _credentials(self, release: Release, cluster: str, offer: wire.Offer) -> None:
        entry = self.clusters[cluster].entry if cluster in self.clusters else None
        if entry:
            self.directives.credentials(release, entry.spec.uid, offer)

    def offers_for(self, cluster: str) -> Iterator[wire.Offer]:
        """Every offer that stands for a cluster, to be sent when it connects."""
        for machine in self.active():
            target = machine.targets.get(cluster)
            if target and target.state in {"offered", "acknowledged", "applying", "soaking", "lost"}:
                yield self.offer(machine, target)
        for ledger in self.debts.values():
            debt = ledger.offer_to(cluster)
            if debt:
                yield self.debt_offer(ledger.bundle, debt)

    def owed_to(self, cluster: str) -> list[str]:
        """Names of the rollouts whose release this cluster is owed."""
        names = [m.name for m in self.active() if (t := m.targets.get(cluster)) and t.state == "owed"]
        names += [
            debt.origin
            for ledger in self.debts.values()
            if (debt := ledger.debts.get(cluster)) and debt.state != "failed"
        ]
        return sorted(set(names))

    def owed_count(self, bundle: str) -> int:
        active = self.active_of(bundle)
        now = active.count("owed") if active else 0
        return now + (len(self.debts[bundle].owed()) if bundle in self.debts else 0)
