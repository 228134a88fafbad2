"""Starting what is new, and who is owed what was started before.

Owns the choice of members, plan and name of a rollout, what takes whose place, the rollout that takes clusters back, late
joiners, registry entries that changed or went, and the pace of catching up. How a rollout goes on is its machine's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from muster_core.durations import resolve_count
from muster_core.errors import MusterError, RolloutError
from muster_core.kinds.model import NEEDS_DIRECTIVE, Cluster
from muster_core.release import BundleAt, Release, entry_digest
from muster_core.rollout import events as ev
from muster_core.rollout.catchup import Debt
from muster_core.rollout.machine import RolloutMachine
from muster_core.rollout.membership import members_of, takes
from muster_core.rollout.plan import Member, require_not_before, require_time, resolve, resolve_return
from muster_proto.v1 import link_pb2 as wire

from muster_coordinator.catalog.catalog import Reading
from muster_coordinator.rollout.allowances import Allowances
from muster_coordinator.rollout.effects import Effects
from muster_coordinator.rollout.fleetstate import FleetState
from muster_coordinator.rollout.holds import Holds
from muster_coordinator.rollout.offers import release_of
from muster_coordinator.rollout.rebuild import Rebuild
from muster_coordinator.rollout.record import Recorder, succeeded

BY_ITSELF = "muster"
REMOVED_RETRY = 300


class Start(NamedTuple):
    """What is to be rolled out, by which plan (empty: the bundle's), and who says so.

    ``goes_back``: an operator's directive takes the fleet to an older release; the branch's newest one is then not started
    by itself until it changes. ``not_before`` (unix seconds, 0: at once): agents prepare it and apply it from then on.
    """

    release: Release
    plan: str
    by: str
    reason: str
    goes_back: bool = False
    not_before: int = 0


class Launch:
    """``rebuild_for``: seconds, as :class:`Rebuild` has it."""

    def __init__(self, state: FleetState, recorder: Recorder, holds: Holds, rebuild_for: float = 0.0) -> None:
        self._state, self._recorder, self._holds = state, recorder, holds
        self.rebuild = Rebuild(state, recorder, rebuild_for)
        self._allowances = Allowances(state, recorder, self._offer_debts)

    # --- what the catalog says -----------------------------------------------------------------------------------

    def read(self, reading: Reading, effects: Effects, now: float) -> None:
        """A new reading of the fleet repository and its registry."""
        state = self._state
        state.reading, effects.read = reading, True
        for name, entry in reading.clusters.items():
            cluster = state.cluster(name)
            if cluster.entry != entry:
                cluster.entry_digest = entry_digest(entry)
            was_leaving, cluster.entry = cluster.is_leaving, entry
            if cluster.is_leaving and not was_leaving:
                cluster.removed, cluster.kept = False, ()
                self._leave(name, "it is being removed from the fleet", effects, now)
        for name, cluster in state.clusters.items():
            cluster.revoked = name in reading.revoked
            if cluster.entry is not None and name not in reading.clusters:
                cluster.entry = None
                self._removed(name, effects, now)
            effects.clusters.add(name)
            head = wire.Head(commit=reading.heads.commit, registry_commit=reading.heads.registry)
            effects.heads.append((name, wire.HubFrame(head=head)))
        effects.bundles.update(reading.contents.bundles)
        self.rebuild.begin(reading, now)
        self._holds.all_moved()
        self._recorder.spread(effects, now)
        self.start_what_is_new(effects, now)
        for bundle in reading.contents.bundles:
            self._late_joiners_of(bundle, effects, now)
        for name in state.clusters:
            self._owe_entry(name, effects, now)
        self._recorder.touched.update(state.debts)  # a limit is a share of the clusters

    def _removed(self, name: str, effects: Effects, now: float) -> None:
        why = "removed from the registry"
        self._leave(name, why, effects, now)
        bye = wire.Bye(retry_after_seconds=REMOVED_RETRY, why="the registry no longer has this cluster")
        effects.sends.append((name, wire.HubFrame(bye=bye)))
        effects.lines.append(f"{name} was {why}")

    def _leave(self, name: str, why: str, effects: Effects, now: float) -> None:
        """Nothing is offered any more, and nobody waits for it."""
        for machine in self._state.active():
            self._recorder.feed(machine, ev.MemberRemoved(name, why), effects, now)
        for bundle, ledger in list(self._state.debts.items()):
            self._recorder.debts(bundle, ledger.drop(name, now), effects, now)

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
                self._recorder.debts(bundle, owed, effects, now)

    def _targets(self, bundle: str, entry: Cluster) -> bool:
        at = self._state.reading.contents.bundles.get(bundle)
        return at is not None and takes(at.bundle, entry)

    # --- starting ------------------------------------------------------------------------------------------------

    def start_what_is_new(self, effects: Effects, now: float) -> None:
        """Starts the plan of every bundle whose newest digest was not rolled out yet; depth-one queue, newest wins.

        What others depend on starts before them, so that of one commit it is offered first.
        """
        state, contents = self._state, self._state.reading.contents
        for bundle in in_order(contents.bundles, contents.digests):
            digest = contents.digests[bundle]
            runs = state.rollouts_of(bundle)
            forward = next((run for run in reversed(runs) if _goes_forward(run)), None)
            if runs and not runs[-1].has_ended and not _gives_way(runs[-1]):
                continue
            if forward and forward.started.tree_digest == digest:
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
                self.start(Start(release, "", BY_ITSELF, "new commit"), effects, now)
                state.bundle_errors.pop(bundle, None)
            except MusterError as error:
                state.bundle_errors[bundle] = str(error)

    def start(self, start: Start, effects: Effects, now: float) -> RolloutMachine:
        """Starts a rollout over the clusters that are targeted now; ``MUSTER-R0xx`` says why not."""
        release, state, contents = start.release, self._state, self._state.reading.contents
        bundle = release.bundle
        active = state.active_of(bundle)
        if active and not _gives_way(active):
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
        last = state.last_succeeded(bundle)
        resolved = resolve(plan, members, bundle, limited=state.max_disrupted() is not None)
        require_time(resolved, now)
        not_before = self._not_before(start, resolved.expire, now)
        # From here on nothing is refused: what is replaced ends only when something takes its place.
        name = self._next_name(bundle)
        started = ev.Started(
            at=now,
            rollout=name,
            bundle=bundle,
            commit=release.commit,
            tree_digest=release.tree_digest,
            plan=resolved,
            by=start.by,
            reason=start.reason,
            goes_back=start.goes_back,
            attempt=self._next_attempt(release),
            authors=self._authors(start),
            may_return=last is not None and self.may_return(release, release_of(last)),
            carried=self._replaced(active, name, [m.name for m in members], effects, now) if active else (),
            removes=self._removes(release),
            not_before=not_before,
        )
        return self._begin(started, [member.name for member in members], effects, now)

    def _not_before(self, start: Start, expire: float | None, now: float) -> float:
        """From when it may be applied: the later of what order and directive say; ``MUSTER-R053`` if that cannot be."""
        carried = self._state.directives.of(start.release)
        signed = carried.directive if carried and carried.directive.not_before > now else None
        not_before = max(start.not_before, signed.not_before if signed else 0)
        if not_before:
            not_after = carried.directive.not_after if carried else math.inf
            require_not_before(not_before, now, expire=expire, not_after=not_after)
        return float(not_before)

    def _begin(
        self, started: ev.Started, members: Sequence[str], effects: Effects, now: float
    ) -> RolloutMachine:
        state, machine = self._state, RolloutMachine(started)
        allowance = self._allowances.at_start()
        state.put(machine)
        withdrawn = state.ledger(started.bundle).give_way(members, now)
        self._recorder.debts(started.bundle, withdrawn, effects, now)
        machine.meet(name for name in members if state.cluster(name).online)
        self._holds.hold_at_start(machine, members, now)
        machine.allow(allowance)
        self._recorder.record(machine, [started], effects, now)
        self._recorder.record(machine, machine.begin(now), effects, now)
        return machine

    def _next_name(self, bundle: str) -> str:
        return f"{bundle}-{self.rebuild.next_number(bundle):04d}"

    def _next_attempt(self, release: Release) -> int:
        runs = self._state.rollouts_of(release.bundle)
        same = [run for run in runs if run.started.tree_digest == release.tree_digest]
        made = (t.attempt for run in same for t in run.targets.values())
        return 1 + max(self.rebuild.attempts(release), max(made, default=0))

    def _authors(self, start: Start) -> tuple[str, ...]:
        """Who must not approve it where a gate says so: who started it, and who wrote or made its commit."""
        heads = self._state.reading.heads
        of_commit = self._state.reading.authors if start.release.commit == heads.commit else ()
        started_by = () if start.by == BY_ITSELF else (start.by,)
        return tuple(dict.fromkeys((*started_by, *of_commit)))

    # --- what takes whose place, and what is taken back ------------------------------------------------------------

    def _replaced(
        self, active: RolloutMachine, name: str, members: Sequence[str], effects: Effects, now: float
    ) -> tuple[str, ...]:
        """Ends a rollout for one that takes its place; who is busy still with the old release counts in the new one."""
        self._recorder.feed(active, ev.Supersede(name), effects, now)
        staying = set(members)
        return tuple(cluster for cluster in active.to_carry() if cluster in staying)

    def _removes(self, release: Release) -> bool:
        """Whether it is the release of now, and takes the bundle away."""
        contents = self._state.reading.contents
        at = contents.bundles.get(release.bundle)
        is_newest = contents.digests.get(release.bundle) == release.tree_digest
        return at is not None and is_newest and at.bundle.spec.remove is not None

    def may_return(self, release: Release, last: Release) -> bool:
        """Whether a rollout of this release may take healthy clusters back to the last one that succeeded.

        Agents judge it again: a directive that names where to, or ``rollback: previous`` where none is needed.
        """
        if release.tree_digest == last.tree_digest:
            return False
        carried = self._state.directives.of(release)
        if carried and carried.directive.return_to == last:
            return True
        contents = self._state.reading.contents
        at = contents.bundles.get(release.bundle)
        needs_directive = contents.fleet is not None and contents.fleet.spec.mode in NEEDS_DIRECTIVE
        return at is not None and at.bundle.spec.rollback == "previous" and not needs_directive

    def _take_back(self, bundle: str, effects: Effects, now: float) -> None:
        """A rollout that ended rolled back, with scope wave or rollout: who is healthy on it goes back as well."""
        state = self._state
        runs, last = state.rollouts_of(bundle), state.last_succeeded(bundle)
        failed = runs[-1] if runs else None
        clusters = failed.to_return() if failed else []
        clusters = [name for name in clusters if name in state.reading.clusters or not state.is_read]
        if failed is None or last is None or not clusters:
            return
        reason = f"{failed.name} was rolled back: {failed.why}"
        self.begin_return(failed, last, clusters, BY_ITSELF, reason, effects, now)

    def begin_return(
        self,
        failed: RolloutMachine,
        last: RolloutMachine,
        clusters: Sequence[str],
        by: str,
        reason: str,
        effects: Effects,
        now: float,
    ) -> RolloutMachine:
        """A rollout that takes these members of ``failed``, which has ended, back to the release of ``last``."""
        release = release_of(last)
        started = ev.Started(
            at=now,
            rollout=self._next_name(release.bundle),
            bundle=release.bundle,
            commit=release.commit,
            tree_digest=release.tree_digest,
            plan=resolve_return(failed.started.plan, clusters),
            by=by,
            reason=reason,
            attempt=self._next_attempt(release),
            returns=failed.name,
            removes=last.started.removes,
        )
        return self._begin(started, clusters, effects, now)

    def _members(self, bundle: str) -> list[Member]:
        reading = self._state.reading
        at = reading.contents.bundles.get(bundle)
        return members_of(at.bundle, reading.clusters, reading.contents.fleet) if at else []

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
        self._recorder.debts(bundle, state.ledger(bundle).owe(name, succeeded(last), now), effects, now)

    # --- at the end of a batch -------------------------------------------------------------------------------------

    def settle(self, effects: Effects, now: float) -> None:
        """What an ended rollout makes room for, and what the ledgers that changed may offer now."""
        if self.rebuild.is_over(now):
            for bundle in self._state.reading.contents.bundles:
                self._state.bundle_errors.pop(bundle, None)
                self.rebuild.write_down(bundle, self._members(bundle), effects, now)
                effects.bundles.add(bundle)
            self.start_what_is_new(effects, now)
        self._recorder.spread(effects, now)
        while effects.ended:
            for bundle in sorted(effects.ended):
                self._state.set_clocks(bundle)
                self._take_back(bundle, effects, now)
                if bundle in self._state.reading.contents.bundles:
                    self._late_joiners_of(bundle, effects, now)
            effects.ended.clear()
            self.start_what_is_new(effects, now)
        self._allowances.share(effects, now)
        self._recorder.touched.clear()
        self._recorder.moved = False

    def _offer_debts(self, bundle: str, at_most: int | None, effects: Effects, now: float) -> int:
        """Offers of one ledger, within its own limit; how many there were."""
        state = self._state
        last, ledger = state.last_succeeded(bundle), state.debts.get(bundle)
        if last is None or ledger is None or not ledger.debts:
            return 0
        share = last.started.plan.catch_up_in_flight
        limit = resolve_count(share, len(state.clusters), rounding="down-at-least-one")
        if at_most is not None:
            limit = min(limit, ledger.busy + at_most)
        active = state.active_of(bundle)

        def may(debt: Debt) -> bool:
            """Not a member of the bundle's running rollout, nor held."""
            if active and debt.cluster in active.targets:
                return False
            return not self._holds.why(bundle, debt.cluster, now, returns=bool(debt.returns))

        offers = ledger.offers(limit, now, may)
        self._recorder.debts(bundle, offers, effects, now)
        return len(offers)


def in_order(bundles: Mapping[str, BundleAt], names: Iterable[str]) -> list[str]:
    """Names with what they depend on before them, otherwise in their own order; of a cycle any order will do."""
    found: dict[str, None] = {}
    wanted, seen = list(reversed(list(names))), set[str]()
    known = set(wanted)
    while wanted:
        name = wanted[-1]
        at = bundles.get(name)
        before = [n.name for n in at.bundle.spec.depends_on if n.name in known] if at else []
        missing = [] if name in seen else [other for other in before if other not in found]
        seen.add(name)
        if missing:
            wanted += reversed(missing)
        else:
            found[wanted.pop()] = None
    return list(found)


def _goes_forward(run: RolloutMachine) -> bool:
    """Whether it was of what the branch had then."""
    return not run.started.goes_back and not run.started.returns


def _gives_way(run: RolloutMachine) -> bool:
    """Whether a newer release takes its place at once: its plan says so, and it does not stop already."""
    return run.started.plan.supersede == "replace" and not run.run.makes_no_offers
