"""What an empty database learns again from the fleet itself: which release of each bundle was rolled out before.

When the registry has clusters that the database never heard of, a bundle without any rollout is not started at once: those
clusters are given a while to come back and say in full what they run. Then each bundle gets one rollout that is written down
as succeeded, over the clusters that hold its release: late joiners are owed it, and only what is new is started.

Owns that wait and the choice. It is careful: the newest release counts as rolled out only if everybody who was heard has it
and half of the targeted clusters are healthy on it; else the release that most of the others are healthy on does, and the
newest one goes through its plan, where those that have it answer at once. It offers nothing itself and takes nobody back.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Iterable, Sequence

import msgspec
from muster_core.errors import MusterError
from muster_core.release import Release
from muster_core.rollout import events as ev
from muster_core.rollout.machine import RolloutMachine
from muster_core.rollout.plan import Member, ResolvedPlan, resolve
from muster_proto.v1 import link_pb2 as wire

from muster_coordinator.catalog.catalog import Reading
from muster_coordinator.rollout.effects import Effects
from muster_coordinator.rollout.fleetstate import FleetState
from muster_coordinator.rollout.record import Recorder

WAKE = "rebuild"
BY, WHY = "muster", "known again from what the fleet reports"
# A cluster that is away may name rollouts that nobody else knows of: their numbers are not given again.
GAP = 100
HEALTHY = "Ready"


class Rebuild:
    """``grace`` is how long clusters are waited for, in seconds from the first reading of the registry."""

    def __init__(self, state: FleetState, recorder: Recorder, grace: float) -> None:
        self._state, self._recorder, self._grace = state, recorder, grace
        self._began = False
        self._until: float | None = None
        self._unheard: set[str] = set()
        self._expected: dict[str, set[str]] = {}
        self._gap = 0

    # --- the wait ----------------------------------------------------------------------------------------------------

    def begin(self, reading: Reading, now: float) -> None:
        """The first reading after a start: is anybody registered whom the database does not know?"""
        if self._began or not reading.heads.commit:
            return
        self._began = True
        known = self._state.clusters
        self._unheard = {name for name in reading.clusters if name in known and known[name].join is None}
        if not self._unheard or self._grace <= 0:
            return
        self._until, self._gap = now + self._grace, GAP
        self._recorder.wakes.put(WAKE, self._until)

    def greeted(self, name: str, resend: Iterable[str]) -> None:
        """A session began; the cluster was asked for its reports of these bundles."""
        if self._until is not None:
            self._expected[name] = set(resend)
            self._heard(name)

    def reported(self, name: str, bundle: str) -> None:
        if self._until is not None and name in self._expected:
            self._expected[name].discard(bundle)
            self._heard(name)

    def _heard(self, name: str) -> None:
        if not self._expected[name]:
            self._unheard.discard(name)

    def waits_with(self, bundle: str) -> str:
        """Why a bundle is not started yet, or nothing."""
        if self._until is None or self._state.rollouts_of(bundle):
            return ""
        return (
            f"the database is new: {len(self._unheard)} clusters have not yet said what they run; it goes on when "
            f"they have, or {self._grace:.0f} s after the start"
        )

    def is_over(self, now: float) -> bool:
        """Once: the wait ended, because everybody was heard or the time is up."""
        if self._until is None or (self._unheard and now < self._until):
            return False
        self._until = None
        self._recorder.wakes.put(WAKE, None)
        return True

    # --- the choice ----------------------------------------------------------------------------------------------------

    def write_down(self, bundle: str, members: Sequence[Member], effects: Effects, now: float) -> None:
        """The bundle's last succeeded rollout, if the fleet shows one."""
        state = self._state
        if state.rollouts_of(bundle):
            return
        reports = {
            member.name: report
            for member in members
            if (report := state.clusters[member.name].reports.get(bundle)) and report.release.commit
        }
        release = _rolled_out(reports.values(), state.reading.contents.digests.get(bundle, ""), len(members))
        plan = state.reading.contents.plans.get(state.reading.contents.plan_of(bundle) or "")
        if release is None or plan is None:
            return
        holders = [
            member
            for member in members
            if member.name in reports and _healthy_on(reports[member.name], release.tree_digest)
        ]
        numbers = [number_of(bundle, reports[member.name].rollout) for member in holders]
        held = {member.name for member in holders}
        try:
            resolved = _over(resolve(plan, members, bundle), held)
        except MusterError as error:
            state.bundle_errors[bundle] = str(error)
            return
        if state.reading.contents.digests.get(bundle) != release.tree_digest:
            # Who may have the newest one already must not be taken back to this.
            others = tuple(sorted({member.name for member in members} - held))
            resolved = msgspec.structs.replace(resolved, excluded=others)
        started = ev.Started(
            at=now,
            rollout=f"{bundle}-{max(numbers, default=0) or 1:04d}",
            bundle=bundle,
            commit=release.commit,
            tree_digest=release.tree_digest,
            plan=resolved,
            by=BY,
            reason=WHY,
            attempt=max((reports[member.name].attempt for member in holders), default=0) or 1,
        )
        done = [ev.TargetDone(at=now, cluster=cluster) for wave in resolved.waves for cluster in wave.members]
        events: list[ev.AnyEvent] = [*done, ev.Ended(at=now, state="Succeeded", why=WHY)]
        machine = RolloutMachine(started)
        for event in events:
            machine.apply(event)
        state.put(machine)
        self._recorder.record(machine, [started, *events], effects, now)
        effects.lines.append(
            f"{machine.name} ({bundle}@{release.commit[:7]}) is {WHY}: {len(done)} clusters have it"
        )

    # --- numbers -------------------------------------------------------------------------------------------------------

    def next_number(self, bundle: str) -> int:
        """Of a bundle's next rollout: above every one that is stored or that a cluster still names."""
        runs = self._state.rollouts_of(bundle)
        stored = max((number_of(bundle, run.name) for run in runs), default=0)
        named = max(
            (
                number_of(bundle, report.rollout)
                for cluster in self._state.clusters.values()
                if (report := cluster.reports.get(bundle))
            ),
            default=0,
        )
        from_memory = len(runs) == 1 and runs[0].started.reason == WHY
        return max(stored, named) + 1 + (GAP if from_memory or (not runs and self._gap) else 0)

    def attempts(self, release: Release) -> int:
        """The highest attempt that a cluster names of a rollout that is not stored, for this release or as a verdict."""
        verdicts = {wire.OUTCOME_FAILED, wire.OUTCOME_RETURNED}
        return max(
            (
                report.attempt
                for cluster in self._state.clusters.values()
                if (report := cluster.reports.get(release.bundle))
                and report.rollout not in self._state.rollouts
                and (report.release.tree_digest == release.tree_digest or report.outcome in verdicts)
            ),
            default=0,
        )


def number_of(bundle: str, rollout: str) -> int:
    """``7`` of ``shop-0007`` and of its catch-ups; 0 for what is no rollout of this bundle."""
    found = re.fullmatch(re.escape(bundle) + r"-(\d{1,9})(?:\+.*)?", rollout)
    return int(found[1]) if found else 0


def _healthy_on(report: wire.Report, digest: str) -> bool:
    return report.phase == HEALTHY and report.release.tree_digest == digest


def _over(plan: ResolvedPlan, clusters: Container[str]) -> ResolvedPlan:
    """The same plan over some of its members only."""
    waves = (
        msgspec.structs.replace(wave, members=tuple(name for name in wave.members if name in clusters))
        for wave in plan.waves
    )
    return msgspec.structs.replace(plan, waves=tuple(wave for wave in waves if wave.members))


def _rolled_out(reports: Iterable[wire.Report], newest: str, targeted: int) -> Release | None:
    """The release that counts as rolled out, by what the module's text says."""
    found = list(reports)
    healthy = Counter(r.release.tree_digest for r in found if r.phase == HEALTHY)
    all_have_it = bool(found) and all(report.release.tree_digest == newest for report in found)
    if all_have_it and 2 * healthy[newest] >= targeted:
        chosen = newest
    else:
        healthy.pop(newest, None)
        if not healthy:
            return None
        chosen = max(healthy, key=lambda digest: (healthy[digest], digest))
    wanted = next(r.release for r in found if r.phase == HEALTHY and r.release.tree_digest == chosen)
    return Release(wanted.bundle, wanted.commit, wanted.tree_digest)
