"""Who must not be offered anything right now, although it would be its turn.

Owns three reasons: a freeze, a bundle that this one depends on and that is not ready on the cluster, and another bundle that
is just changing there. It keeps who changes where, tells machines what is new, and costs what moved, not the fleet. Machines
never log a hold: after a start everything is told anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from muster_core.rollout import catchup as cu
from muster_core.rollout import events as ev
from muster_core.rollout.board import IN_FLIGHT, Target, WaveBoard
from muster_core.rollout.machine import RolloutMachine
from muster_core.select import targeted

from muster_coordinator.rollout.fleetstate import FleetState
from muster_coordinator.rollout.freezes import Freezes
from muster_coordinator.rollout.offers import CATCHUP

NO_LABELS: Mapping[str, str] = {}
Told = Callable[[RolloutMachine, ev.Hold | ev.Unhold], None]


class Holds:
    """``freezes`` is changed by the engine; whoever changes it calls :meth:`all_moved`."""

    def __init__(self, state: FleetState) -> None:
        self._state = state
        self.freezes = Freezes()
        self._busy: dict[str, dict[str, str]] = {}  # cluster -> bundle that changes there -> by what
        self._flying: dict[str, set[str]] = {}  # rollout -> its clusters in the table above
        self._told: dict[str, dict[str, str]] = {}  # rollout -> cluster -> why, as its machine knows it
        self._moved: dict[str, None] = {}
        self._needed: set[str] = set()  # bundles that others depend on

    # --- what happened ---------------------------------------------------------------------------------------------

    def follow(self, machine: RolloutMachine, event: ev.AnyEvent) -> None:
        """A step of a rollout that its machine has applied."""
        match event:
            case ev.TargetEvent() | ev.CarriedSettled():
                self._place(machine, event.cluster)
            case ev.Started():
                for cluster in event.carried:
                    self._place(machine, cluster)
            case ev.Ended():
                for cluster in list(self._flying.pop(machine.name, ())):
                    self._leave(cluster, machine.started.bundle, machine.name)
                self._told.pop(machine.name, None)
                self._depended_on(machine)
            case _:
                pass

    def follow_debt(self, ledger: cu.CatchUp, cluster: str) -> None:
        """A debt of this cluster moved."""
        by = ledger.bundle + CATCHUP
        if ledger.offer_to(cluster):
            self._enter(cluster, ledger.bundle, by)
        else:
            self._leave(cluster, ledger.bundle, by)

    def contact(self, machine: RolloutMachine, cluster: str) -> None:
        """Contact began or ended: an offer that nobody can see changes nothing there."""
        if cluster in machine.targets:
            self._place(machine, cluster)

    def reported(self, cluster: str, bundle: str) -> None:
        """What a cluster runs, or how that is, changed."""
        if bundle in self._needed:
            self._moved[cluster] = None

    def all_moved(self) -> None:
        """A freeze began or ended, or the fleet repository says something else."""
        bundles = self._state.reading.contents.bundles.values()
        self._needed = {needed.name for at in bundles for needed in at.bundle.spec.depends_on}
        for machine in self._state.active():
            self._moved.update(dict.fromkeys(machine.targets))
        for ledger in self._state.debts.values():
            self._moved.update(dict.fromkeys(ledger.debts))

    def meet(self, machine: RolloutMachine) -> None:
        """One that was replayed: who changes there. A start tells it of the whole fleet, so it is done at once."""
        if machine.has_ended:
            return
        known, name, bundle = self._state.clusters, machine.name, machine.started.bundle
        changing = [
            target.cluster
            for wave in machine.waves
            for target in map(machine.targets.__getitem__, wave.flying)
            if _flies(wave, target, online=target.cluster in known and known[target.cluster].online)
        ]
        changing += [cluster for wave in machine.waves for cluster in wave.carried]
        if changing:
            self._flying.setdefault(name, set()).update(changing)
        for cluster in changing:
            self._enter(cluster, bundle, name)

    def _place(self, machine: RolloutMachine, cluster: str) -> None:
        name, bundle = machine.name, machine.started.bundle
        known = self._state.clusters.get(cluster)
        if changes(machine, cluster, online=known is not None and known.online):
            self._flying.setdefault(name, set()).add(cluster)
            self._enter(cluster, bundle, name)
        elif cluster in self._flying.get(name, ()):
            self._flying[name].discard(cluster)
            self._leave(cluster, bundle, name)

    def _enter(self, cluster: str, bundle: str, by: str) -> None:
        here = self._busy.setdefault(cluster, {})
        if here.get(bundle) != by:
            here[bundle] = by
            self._moved[cluster] = None

    def _leave(self, cluster: str, bundle: str, by: str) -> None:
        here = self._busy.get(cluster)
        if here and here.get(bundle) == by:
            del here[bundle]
            if not here:
                del self._busy[cluster]
            self._moved[cluster] = None

    def _depended_on(self, machine: RolloutMachine) -> None:
        """Its end may give the bundle another release to be ready on."""
        if machine.started.bundle in self._needed:
            self._moved.update(dict.fromkeys(machine.targets))

    # --- what follows ----------------------------------------------------------------------------------------------

    def hold_at_start(self, machine: RolloutMachine, clusters: Iterable[str], now: float) -> None:
        """Before its first offers, and after a replay."""
        told = self._told[machine.name] = {}
        for cluster in clusters:
            if why := self.why(machine.started.bundle, cluster, now, returns=bool(machine.started.returns)):
                told[cluster] = why
                machine.hold(cluster, why)

    def tell(self, told: Told, now: float) -> set[str]:
        """Tells every machine what is new about the clusters that moved; returns those clusters."""
        seen: set[str] = set()
        while self._moved:
            cluster = next(iter(self._moved))
            del self._moved[cluster]
            seen.add(cluster)
            for machine in self._state.active():
                if cluster in machine.targets:
                    self._tell(machine, cluster, told, now)
        return seen

    def _tell(self, machine: RolloutMachine, cluster: str, told: Told, now: float) -> None:
        known = self._told.setdefault(machine.name, {})
        why = self.why(machine.started.bundle, cluster, now, returns=bool(machine.started.returns))
        if why == known.get(cluster, ""):
            return
        if why:
            known[cluster] = why
            told(machine, ev.Hold(cluster, why))
        else:
            del known[cluster]
            told(machine, ev.Unhold(cluster))

    def why(self, bundle: str, cluster: str, now: float, *, returns: bool = False) -> str:
        """Why this bundle is not offered to this cluster now; empty when nothing stands in the way.

        A rollout that takes clusters back waits neither for what the bundle depends on nor for a freeze: what runs has to go.
        """
        if not returns:
            known = self._state.clusters.get(cluster)
            labels = known.entry.all_labels if known and known.entry else NO_LABELS
            if why := self.freezes.why(bundle, labels, now) or self._unmet(bundle, cluster, labels):
                return why
        other = next((by for name, by in self._busy.get(cluster, {}).items() if name != bundle), "")
        return f"{other} changes it, and one bundle changes at a time" if other else ""

    def _unmet(self, bundle: str, cluster: str, labels: Mapping[str, str]) -> str:
        """The first bundle that this one depends on, that targets this cluster, and that is not ready there."""
        state = self._state
        at = state.reading.contents.bundles.get(bundle)
        for needed in at.bundle.spec.depends_on if at else ():
            name = needed.name
            other = state.reading.contents.bundles.get(name)
            if other is None:
                return f"it depends on {name}, which the fleet repository does not have"
            last = state.last_succeeded(name)
            if not targeted(other.bundle, labels) or (last and cluster in last.started.plan.excluded):
                continue
            known = state.clusters.get(cluster)
            report = known.reports.get(name) if known else None
            if report is None or not report.release.commit:
                return f"it depends on {name}, which is not there yet"
            if report.phase != "Ready":
                return f"it depends on {name}, which is {report.phase} there"
            if report.release.tree_digest not in state.good_digests(name):
                return f"it depends on {name}, which is still on {report.release.commit[:7]} there"
        return ""


def changes(machine: RolloutMachine, cluster: str, *, online: bool) -> bool:
    """Whether this rollout is changing the cluster: from an offer that it can see to the end of the soak, or still busy with
    the rollout that this one superseded.
    """
    target = machine.targets.get(cluster)
    if target is None or machine.has_ended:
        return False
    wave = machine.waves[target.wave]
    return _flies(wave, target, online=online) or cluster in wave.carried


def _flies(wave: WaveBoard, target: Target, *, online: bool) -> bool:
    state = target.state
    if state == "offered":
        return online
    return state in IN_FLIGHT and (state != "soaking" or wave.spec.soak_holds_slot)
