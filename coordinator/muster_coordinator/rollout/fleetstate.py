"""The fleet as the coordinator knows it in memory.

Owns clusters, their last reports, rollouts and debts as plain state that the engine changes and views read. It is
rebuilt from the store at start. It never writes and never sends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from msgspec import UNSET, UnsetType
from muster_core.durations import parse_duration, resolve_count
from muster_core.kinds.model import Cluster
from muster_core.release import Release
from muster_core.rollout.board import IN_FLIGHT, Target
from muster_core.rollout.catchup import CatchUp, Debt
from muster_core.rollout.machine import RolloutMachine
from muster_core.rollout.plan import ResolvedPlan
from muster_core.session.inbox import Inbox
from muster_proto.v1 import link_pb2 as wire

from muster_coordinator.catalog.catalog import Reading
from muster_coordinator.rollout.directives import Shelf
from muster_coordinator.rollout.offers import offer_of, offer_of_debt, release_of
from muster_coordinator.store.port import JoinRow


@dataclass(slots=True)
class ClusterState:
    """One cluster. ``send`` is there while it is in contact; ``alarm`` is what a person must look at;
    ``removed`` and ``kept`` what it said of its removal.

    ``forgot`` is such an alarm too: what the database does not know of this cluster any more.
    """

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
    forgot: str = ""
    entry_digest: str = ""
    revoked: bool = False
    removed: bool = False
    kept: tuple[str, ...] = ()

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
    def is_leaving(self) -> bool:
        """Its registry entry asks that every bundle is taken away."""
        return self.entry is not None and self.entry.is_leaving

    @property
    def has_left(self) -> bool:
        """It said so in this life of the coordinator, or its last reports do, which are kept."""
        phases = {report.phase for report in self.reports.values()}
        return self.removed or phases == {"Removed"}

    @property
    def state(self) -> str:
        if self.revoked:
            return "Revoked"
        if self.entry is None:
            return self._unregistered
        if self.is_leaving:
            return "Removed" if self.has_left else "Removing"
        if self.online:
            return "Online"
        return "Offline" if self.last_seen or (self.join and self.join.issued) else "Pending"

    @property
    def _unregistered(self) -> str:
        if self.join and self.join.refused:
            return "Rejected"
        return "Removed" if self.join and self.join.issued else "Pending"


@dataclass(slots=True)
class FleetState:
    """Everything. Rollouts come in by :meth:`put`, which keeps them by bundle and by whether they still run."""

    reading: Reading = field(default_factory=Reading)
    clusters: dict[str, ClusterState] = field(default_factory=dict)
    rollouts: dict[str, RolloutMachine] = field(default_factory=dict)
    debts: dict[str, CatchUp] = field(default_factory=dict)
    bundle_errors: dict[str, str] = field(default_factory=dict)
    directives: Shelf = field(default_factory=Shelf)
    _runs: dict[str, list[RolloutMachine]] = field(default_factory=dict)
    _running: dict[str, RolloutMachine] = field(default_factory=dict)

    def cluster(self, name: str) -> ClusterState:
        found = self.clusters.get(name)
        if found is None:
            found = self.clusters[name] = ClusterState(name)
        return found

    def contact_interval(self, site_class: str, default: float) -> float:
        """How often clusters of this class say that they live, in seconds; ``default`` where the fleet does not name it."""
        fleet = self.reading.contents.fleet
        site = fleet.spec.site_classes.get(site_class) if fleet else None
        return parse_duration(site.contact_interval) if site else default

    def put(self, machine: RolloutMachine) -> None:
        """Takes in a rollout that is newer than all of its bundle."""
        self.rollouts[machine.name] = machine
        self._runs.setdefault(machine.started.bundle, []).append(machine)
        if not machine.has_ended:
            self._running[machine.name] = machine

    def rollouts_of(self, bundle: str) -> list[RolloutMachine]:
        """Oldest first; not to be changed."""
        return self._runs.get(bundle, [])

    def active_of(self, bundle: str) -> RolloutMachine | None:
        """Only the newest can be: none starts while another runs."""
        runs = self._runs.get(bundle)
        return runs[-1] if runs and not runs[-1].has_ended else None

    def active(self) -> list[RolloutMachine]:
        for name in [name for name, machine in self._running.items() if machine.has_ended]:
            del self._running[name]
        return list(self._running.values())

    def last_succeeded(self, bundle: str, *, besides: str = "") -> RolloutMachine | None:
        """The newest that brought the bundle to all its clusters, and whose release was not taken back since.

        One that took some back is none. ``besides`` is a tree digest that does not count either.
        """
        taken_back = {besides}
        for machine in reversed(self.rollouts_of(bundle)):
            if machine.started.returns:
                taken_back.add(self._returned_by(machine))
            elif machine.state == "Succeeded" and machine.started.tree_digest not in taken_back:
                return machine
        return None

    def _returned_by(self, machine: RolloutMachine) -> str:
        """The digest of what this one takes back; empty when that is forgotten."""
        failed = self.rollouts.get(machine.started.returns)
        return failed.started.tree_digest if failed else ""

    def good_digests(self, bundle: str) -> set[str]:
        """Of the release that succeeded last, and of what is rolled out since."""
        found, taken_back = set[str](), set[str]()
        for machine in reversed(self.rollouts_of(bundle)):
            started = machine.started
            if started.returns:
                taken_back.add(self._returned_by(machine))
            elif started.tree_digest in taken_back:
                continue
            if machine.state == "Succeeded" and not started.returns:
                found.add(started.tree_digest)
                break
            if machine.state == "Succeeded" or not machine.has_ended:
                found.add(started.tree_digest)
        return found

    @property
    def is_read(self) -> bool:
        """Whether the fleet repository was read since this program began."""
        return bool(self.reading.heads.commit)

    def max_disrupted(self) -> int | None:
        """How many clusters may be in flight over all rollouts, at least one; None where the fleet sets no limit."""
        fleet = self.reading.contents.fleet
        limit = fleet.spec.limits.max_disrupted if fleet else UNSET
        if isinstance(limit, UnsetType):
            return None
        return resolve_count(limit, len(self.reading.clusters), rounding="down-at-least-one")

    def ledger(self, bundle: str) -> CatchUp:
        """A new one is told who is in contact, and has the clocks of the plan that last succeeded."""
        if bundle not in self.debts:
            ledger = self.debts[bundle] = CatchUp(bundle)
            for name, cluster in self.clusters.items():
                if cluster.online:
                    ledger.contact(name, True, 0.0)
            self.set_clocks(bundle)
        return self.debts[bundle]

    def set_clocks(self, bundle: str) -> None:
        """Catching up has the clocks of the plan whose release is caught up with."""
        last = self.last_succeeded(bundle)
        if last and (ledger := self.debts.get(bundle)):
            plan = last.started.plan
            ledger.deadline, ledger.offer_for = plan.deadline, patience(plan)
            ledger.failed_share = plan.catch_up_failed

    def offer(self, machine: RolloutMachine, target: Target) -> wire.Offer:
        """A target's offer with the credentials that its agent asks for."""
        offer = offer_of(machine, target)
        self._credentials(self._signed(release_of(machine), machine.started.returns), target.cluster, offer)
        return offer

    def debt_offer(self, bundle: str, debt: Debt) -> wire.Offer:
        offer = offer_of_debt(bundle, debt)
        release = Release(bundle, debt.commit, debt.tree_digest)
        self._credentials(self._signed(release, debt.returns), debt.cluster, offer)
        return offer

    def _signed(self, release: Release, returns: str) -> Release:
        """Whose directive an offer carries: going back is allowed by that of what is left, if it names where to."""
        machine = self.rollouts.get(returns)
        carried = self.directives.of(release_of(machine)) if machine else None
        if machine and carried and carried.directive.return_to == release:
            return release_of(machine)
        return release

    def _credentials(self, release: Release, cluster: str, offer: wire.Offer) -> None:
        entry = self.clusters[cluster].entry if cluster in self.clusters else None
        if entry:
            self.directives.credentials(release, entry.spec.uid, offer)

    def offers_for(self, cluster: str) -> Iterator[wire.Offer]:
        """Every offer that stands for a cluster, to be sent when it connects."""
        for machine in self.active():
            target = machine.targets.get(cluster)
            if target and target.state in IN_FLIGHT | {"lost"}:
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

    def owed_commit(self, bundle: str, cluster: str, rollout: str) -> str | None:
        """The commit that a cluster is owed of exactly this rollout; None when it is not."""
        machine, ledger = self.rollouts.get(rollout), self.debts.get(bundle)
        debt = ledger.debts.get(cluster) if ledger else None
        if debt and debt.origin == rollout and debt.state not in {"failed", "lost"}:
            return debt.commit
        if machine and not machine.has_ended and (target := machine.targets.get(cluster)):
            return machine.started.commit if target.state == "owed" else None
        return None

    def owed_count(self, bundle: str) -> int:
        active = self.active_of(bundle)
        now = active.count("owed") if active else 0
        return now + (len(self.debts[bundle].owed()) if bundle in self.debts else 0)

    def owed_in(self, bundle: str) -> set[str]:
        """Clusters that wait for a release of this bundle."""
        active, ledger = self.active_of(bundle), self.debts.get(bundle)
        names = {name for name, t in active.targets.items() if t.state == "owed"} if active else set[str]()
        return names | ({debt.cluster for debt in ledger.owed()} if ledger else set())


def patience(plan: ResolvedPlan) -> float:
    """How long a catch-up's offer stands, in seconds: as long as the plan gives the most distant of its members."""
    return max((after for wave in plan.waves for after in wave.offline_after.values()), default=plan.deadline)
