"""Starting what is new, and who is owed what was started before.

Owns the choice of members, plan and name of a rollout, late joiners, registry entries that changed or went, and the pace of
catching up. How a rollout goes on is its machine's.
"""

from __future__ import annotations

from typing import NamedTuple

from muster_core.durations import resolve_count
from muster_core.errors import MusterError, RolloutError
from muster_core.kinds.model import Cluster
from muster_core.release import Release, entry_digest
from muster_core.rollout import events as ev
from muster_core.rollout.machine import RolloutMachine
from muster_core.rollout.membership import time_zone
from muster_core.rollout.plan import Member, require_time, resolve
from muster_core.select import targeted
from muster_proto.v1 import link_pb2 as wire

from muster_coordinator.catalog.catalog import Reading
from muster_coordinator.rollout.effects import Effects
from muster_coordinator.rollout.fleetstate import FleetState
from muster_coordinator.rollout.rebuild import Rebuild
from muster_coordinator.rollout.record import Recorder, succeeded

NEEDS_DIRECTIVE = frozenset({"directives", "both"})
REMOVED_RETRY = 300


class Start(NamedTuple):
    """What is to be rolled out, by which plan (empty: the bundle's), and who says so.

    ``goes_back``: an operator's directive takes the fleet to an older release; the branch's newest one is then not started
    by itself until it changes.
    """

    release: Release
    plan: str
    by: str
    reason: str
    goes_back: bool = False


class Launch:
    """``rebuild_for``: seconds, as :class:`Rebuild` has it."""

    def __init__(self, state: FleetState, recorder: Recorder, rebuild_for: float = 0.0) -> None:
        self._state, self._recorder = state, recorder
        self.rebuild = Rebuild(state, recorder, rebuild_for)

    # --- what the catalog says -----------------------------------------------------------------------------------

    def read(self, reading: Reading, effects: Effects, now: float) -> None:
        """A new reading of the fleet repository and its registry."""
        state = self._state
        state.reading, effects.read = reading, True
        for name, entry in reading.clusters.items():
            cluster = state.cluster(name)
            if cluster.entry != entry:
                cluster.entry_digest = entry_digest(entry)
            cluster.entry = entry
        for name, cluster in state.clusters.items():
            if cluster.entry is not None and name not in reading.clusters:
                cluster.entry = None
                self._removed(name, effects, now)
            effects.clusters.add(name)
            head = wire.Head(commit=reading.heads.commit, registry_commit=reading.heads.registry)
            effects.heads.append((name, wire.HubFrame(head=head)))
        effects.bundles.update(reading.contents.bundles)
        self.rebuild.begin(reading, now)
        self.start_what_is_new(effects, now)
        for bundle in reading.contents.bundles:
            self._late_joiners_of(bundle, effects, now)
        for name in state.clusters:
            self._owe_entry(name, effects, now)
        self._recorder.touched.update(state.debts)  # a limit is a share of the clusters

    def _removed(self, name: str, effects: Effects, now: float) -> None:
        why = "removed from the registry"
        for machine in self._state.active():
            self._recorder.feed(machine, ev.MemberRemoved(name, why), effects, now)
        for bundle, ledger in self._state.debts.items():
            self._recorder.debts(bundle, ledger.drop(name, now), effects)
        bye = wire.Bye(retry_after_seconds=REMOVED_RETRY, why="the registry no longer has this cluster")
        effects.sends.append((name, wire.HubFrame(bye=bye)))
        effects.lines.append(f"{name} was {why}")

    def _owe_entry(self, name: str, effects: Effects, now: float) -> None:
        """A registry entry that changed may change what the cluster renders, so its releases are offered again with it."""
        state, cluster = self._state, self._state.clusters[name]
        for bundle, report in list(cluster.reports.items()):
            if report.registry_digest in ("", cluster.entry_digest) or not cluster.entry:
                continue
            last, active = state.last_succeeded(bundle), state.active_of(bundle)
            if last is None or (active and name in active.targets):
                continue
            if report.release.tree_digest == last.started.tree_digest and self._targets(
                bundle, cluster.entry
            ):
                owed = state.ledger(bundle).owe(name, succeeded(last), now, cluster.entry_digest)
                self._recorder.debts(bundle, owed, effects)

    def _targets(self, bundle: str, entry: Cluster) -> bool:
        at = self._state.reading.contents.bundles.get(bundle)
        return at is not None and targeted(at.bundle, entry.all_labels)

    # --- starting ------------------------------------------------------------------------------------------------

    def start_what_is_new(self, effects: Effects, now: float) -> None:
        """Starts the plan of every bundle whose newest digest was not rolled out yet; depth-one queue, newest wins."""
        state, contents = self._state, self._state.reading.contents
        for bundle, digest in contents.digests.items():
            runs = state.rollouts_of(bundle)
            forward = next((run for run in reversed(runs) if not run.started.goes_back), None)
            if (runs and not runs[-1].has_ended) or (forward and forward.started.tree_digest == digest):
                continue
            if contents.problems_of(bundle):
                continue
            if waits := self.rebuild.waits_with(bundle):
                state.bundle_errors[bundle] = waits
                continue
            if contents.fleet and contents.fleet.spec.mode in NEEDS_DIRECTIVE:
                state.bundle_errors[bundle] = f"waits for a directive: muster rollout start {bundle}"
                continue
            release = Release(bundle, state.reading.heads.commit, digest)
            try:
                self.start(Start(release, "", "muster", "new commit"), effects, now)
                state.bundle_errors.pop(bundle, None)
            except MusterError as error:
                state.bundle_errors[bundle] = str(error)

    def start(self, start: Start, effects: Effects, now: float) -> RolloutMachine:
        """Starts a rollout over the clusters that are targeted now; ``MUSTER-R0xx`` says why not."""
        release, state, contents = start.release, self._state, self._state.reading.contents
        bundle = release.bundle
        active = state.active_of(bundle)
        if active:
            raise RolloutError(
                "R005",
                f"{active.name} is still {active.state}",
                object=bundle,
                hint=f"The newest commit starts when it has ended. To end it: muster rollout abort {active.name}.",
            )
        named = start.plan or contents.plan_of(bundle) or "(none named)"
        plan = contents.plans.get(named)
        if plan is None:
            raise RolloutError("R006", f"there is no plan {named}", object=bundle)
        members = self._members(bundle)
        resolved = resolve(plan, members, bundle)
        require_time(resolved, now)
        runs = state.rollouts_of(bundle)
        same = [run for run in runs if run.started.tree_digest == release.tree_digest]
        started = ev.Started(
            at=now,
            rollout=f"{bundle}-{self.rebuild.next_number(bundle):04d}",
            bundle=bundle,
            commit=release.commit,
            tree_digest=release.tree_digest,
            plan=resolved,
            by=start.by,
            reason=start.reason,
            goes_back=start.goes_back,
            attempt=1
            + max(
                self.rebuild.attempts(release),
                *(t.attempt for run in same for t in run.targets.values()),
                0,
            ),
        )
        machine = RolloutMachine(started)
        state.put(machine)
        withdrawn = state.ledger(bundle).give_way([member.name for member in members], now)
        self._recorder.debts(bundle, withdrawn, effects)
        machine.meet(member.name for member in members if state.clusters[member.name].online)
        self._recorder.record(machine, [started], effects, now)
        self._recorder.record(machine, machine.begin(now), effects, now)
        return machine

    def _members(self, bundle: str) -> list[Member]:
        state, members = self._state, []
        at = state.reading.contents.bundles[bundle]
        for name, entry in state.reading.clusters.items():
            if targeted(at.bundle, labels := entry.all_labels):
                interval = state.contact_interval(entry.spec.site_class)
                members.append(Member(name, labels, interval, time_zone(entry)))
                state.cluster(name)
        return members

    # --- who is owed what ------------------------------------------------------------------------------------------

    def late_joiner(self, name: str, effects: Effects, now: float) -> None:
        """A targeted cluster that has no release of a bundle gets the last one that succeeded."""
        for bundle in self._state.reading.contents.bundles:
            self._owe_to_late(bundle, name, effects, now)

    def _late_joiners_of(self, bundle: str, effects: Effects, now: float) -> None:
        if self._state.last_succeeded(bundle):
            for name in self._state.reading.clusters:
                self._owe_to_late(bundle, name, effects, now)

    def _owe_to_late(self, bundle: str, name: str, effects: Effects, now: float) -> None:
        state = self._state
        last, active = state.last_succeeded(bundle), state.active_of(bundle)
        if last is None or name in last.targets or (active and name in active.targets):
            return
        if name in last.started.plan.excluded:
            return
        cluster = state.clusters.get(name)
        if cluster is None or cluster.entry is None or not self._targets(bundle, cluster.entry):
            return
        report = cluster.reports.get(bundle)
        if report and report.release.tree_digest == last.started.tree_digest:
            return
        self._recorder.debts(bundle, state.ledger(bundle).owe(name, succeeded(last), now), effects)

    # --- at the end of a batch -------------------------------------------------------------------------------------

    def settle(self, effects: Effects, now: float) -> None:
        """What an ended rollout makes room for, and what the ledgers that changed may offer now."""
        if self.rebuild.is_over(now):
            for bundle in self._state.reading.contents.bundles:
                self._state.bundle_errors.pop(bundle, None)
                self.rebuild.write_down(bundle, self._members(bundle), effects, now)
                effects.bundles.add(bundle)
            self.start_what_is_new(effects, now)
        while effects.ended:
            for bundle in sorted(effects.ended):
                self._state.set_clocks(bundle)
                if bundle in self._state.reading.contents.bundles:
                    self._late_joiners_of(bundle, effects, now)
            effects.ended.clear()
            self.start_what_is_new(effects, now)
        for bundle in sorted(self._recorder.touched):
            self._offer_debts(bundle, effects, now)
        self._recorder.touched.clear()

    def _offer_debts(self, bundle: str, effects: Effects, now: float) -> None:
        state = self._state
        last, ledger = state.last_succeeded(bundle), state.debts.get(bundle)
        if last is None or ledger is None or not ledger.debts:
            return
        share = last.started.plan.catch_up_in_flight
        limit = resolve_count(share, len(state.clusters), rounding="down-at-least-one")
        active = state.active_of(bundle)
        self._recorder.debts(bundle, ledger.offers(limit, now, active.targets if active else ()), effects)
