"""One rollout as a machine: inputs and now in, events out; the log of events is its whole memory.

Owns every rule of DESIGN §10 that is built: budgets, three clocks, owed and lost, quorum, soak, pause, and what a spent
budget does. Counters are incremental and timers lie in a heap, so that deciding does not scan the fleet. It never reads a
clock, never logs, and never raises for what the world says; only an operator's command that does not apply is an error.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from muster_core.durations import format_duration
from muster_core.errors import RolloutError
from muster_core.rollout import events as ev
from muster_core.rollout.plan import ResolvedWave, quorum_count

IN_FLIGHT = frozenset({"offered", "acknowledged", "applying", "soaking"})
HARMED = frozenset({"failed", "returned", "lost"})
ENDED = frozenset({"Succeeded", "Failed", "Aborted", "RolledBack"})
MAX_FLAPS = 3


@dataclass(slots=True)
class Target:
    """One cluster's place. ``deadline`` is the time at which its timer fires, if it has one."""

    cluster: str
    wave: int
    state: str = "waiting"
    attempt: int = 1
    since: float = 0.0
    deadline: float | None = None
    code: str = ""
    message: str = ""
    flaps: int = 0
    soak_left: float | None = None  # set while the soak stands still
    soak_broken: bool = False


@dataclass(slots=True)
class WaveCount:
    """A wave's counters, kept as targets move."""

    spec: ResolvedWave
    states: dict[str, int] = field(default_factory=dict)
    waiting: deque[str] = field(default_factory=deque)
    passed: bool = False

    def count(self, *states: str) -> int:
        return sum(self.states.get(state, 0) for state in states)

    @property
    def in_flight(self) -> int:
        return self.count(*IN_FLIGHT)

    @property
    def harmed(self) -> int:
        return self.count(*HARMED)

    @property
    def quorum(self) -> int:
        return quorum_count(self.spec.quorum_percent, len(self.spec.members) - self.count("skipped"))

    @property
    def spent(self) -> bool:
        """The failure budget is used up: maxLost defaults to maxFailed."""
        return self.harmed > self.spec.max_failed


class RolloutMachine:
    """The state of one rollout. Build it from its log with :meth:`replay`, or from a :class:`Started` event."""

    def __init__(self, started: ev.Started) -> None:
        self.started = started
        self.state = "Running"
        self.why = ""
        self.wave = -1
        self.stopping = ""
        self.ended_at: float | None = None
        self.paused_at: float | None = None
        self.waves = [WaveCount(spec) for spec in started.plan.waves]
        self.targets: dict[str, Target] = {}
        for index, wave in enumerate(self.waves):
            wave.states["waiting"] = len(wave.spec.members)
            wave.waiting.extend(wave.spec.members)
            for cluster in wave.spec.members:
                self.targets[cluster] = Target(cluster, index, since=started.at)
        self._timers: list[tuple[float, str]] = []
        self._online: set[str] = set()

    @classmethod
    def replay(cls, log: Iterable[ev.AnyEvent]) -> RolloutMachine:
        """The machine after these events; the first must be :class:`Started`."""
        iterator = iter(log)
        first = next(iterator, None)
        if not isinstance(first, ev.Started):
            raise RolloutError("R003", "the log of a rollout does not begin with its start")
        machine = cls(first)
        for event in iterator:
            machine.apply(event)
        return machine

    # --- questions ---------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self.started.rollout

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED

    def count(self, *states: str) -> int:
        return sum(wave.count(*states) for wave in self.waves)

    def outstanding(self) -> list[Target]:
        """Targets whose offer stands, to be sent again to whoever connects."""
        return [] if self.has_ended else [t for t in self.targets.values() if t.state in IN_FLIGHT]

    def next_wake(self) -> float | None:
        """When a :class:`Tick` will have something to do, if nothing else happens."""
        while self._timers:
            at, cluster = self._timers[0]
            if not self.has_ended and self.targets[cluster].deadline == at:
                return at
            heapq.heappop(self._timers)
        return None

    def is_online(self, cluster: str) -> bool:
        return cluster in self._online

    # --- inputs ------------------------------------------------------------------------------------------------

    def handle(self, given: ev.Input, now: float) -> list[ev.AnyEvent]:
        """Takes one input and returns what follows from it, already applied. Store the events before acting on them."""
        if isinstance(given, ev.Contact):
            (self._online.add if given.online else self._online.discard)(given.cluster)
        if self.has_ended:
            if isinstance(given, (ev.Pause, ev.Resume, ev.Abort)):
                raise RolloutError("R010", f"the rollout has ended ({self.state})", object=self.name,
                                   hint="Start another one: muster rollout start.")
            return []
        out: list[ev.AnyEvent] = []
        match given:
            case ev.Tick():
                pass
            case ev.Acknowledged():
                self._acknowledged(given, now, out)
            case ev.Reported():
                self._reported(given, now, out)
            case ev.Contact():
                self._contact(given, now, out)
            case ev.MemberRemoved():
                target = self.targets.get(given.cluster)
                if target and target.state not in {"done", "skipped", *HARMED}:
                    self._emit(ev.TargetSkipped(at=now, cluster=given.cluster, why=given.why), out)
            case ev.Pause():
                self._pause(given.by, given.reason, now, out)
            case ev.Resume():
                self._resume(given, now, out)
            case ev.Abort():
                self._withdraw_offers("the rollout was aborted", now, out)
                self._emit(ev.Ended(at=now, state="Aborted", why=_by(given.by, given.reason)), out)
        self._timeouts(now, out)
        self._advance(now, out)
        return out

    def begin(self, now: float) -> list[ev.AnyEvent]:
        """The first offers, after :class:`Started` is stored."""
        return self.handle(ev.Tick(), now)

    def _emit(self, event: ev.AnyEvent, out: list[ev.AnyEvent]) -> None:
        self.apply(event)
        out.append(event)

    def _acknowledged(self, given: ev.Acknowledged, now: float, out: list[ev.AnyEvent]) -> None:
        target = self.targets.get(given.cluster)
        # "waiting" too: the withdrawal of an offer may cross its acknowledgement, and what an agent took it runs.
        if target and target.attempt == given.attempt and target.state in {"offered", "waiting", "owed"}:
            if target.state != "offered" and target.since == self.started.at:
                return
            self._emit(ev.TargetAcknowledged(at=now, cluster=given.cluster), out)

    def _reported(self, given: ev.Reported, now: float, out: list[ev.AnyEvent]) -> None:
        target = self.targets.get(given.cluster)
        if not target or given.attempt != target.attempt or given.tree_digest != self.started.tree_digest:
            return
        self._acknowledged(ev.Acknowledged(given.cluster, given.attempt), now, out)
        cluster, state = given.cluster, target.state
        match given.outcome:
            case "applying" if state == "acknowledged":
                self._emit(ev.TargetApplying(at=now, cluster=cluster), out)
            case "applying" if state == "soaking" and not target.soak_broken:
                if target.flaps >= MAX_FLAPS:
                    message = f"unhealthy {MAX_FLAPS + 1} times while soaking: {given.message}"
                    self._emit(ev.TargetFailed(at=now, cluster=cluster, code=given.code or "R021", message=message), out)
                else:
                    self._emit(ev.SoakBroken(at=now, cluster=cluster), out)
            case "healthy" if state in {"acknowledged", "applying"} or (state == "soaking" and target.soak_broken):
                self._emit(ev.SoakStarted(at=now, cluster=cluster), out)
            case "healthy" if state == "lost":
                self._emit(ev.TargetDone(at=now, cluster=cluster), out)
            case "failed" if state in {"acknowledged", "applying", "soaking", "lost"}:
                self._emit(ev.TargetFailed(at=now, cluster=cluster, code=given.code, message=given.message), out)
            case "returned" if state in {"acknowledged", "applying", "soaking", "lost", "failed"}:
                self._emit(ev.TargetReturned(at=now, cluster=cluster, code=given.code, message=given.message), out)
            case _:
                pass

    def _contact(self, given: ev.Contact, now: float, out: list[ev.AnyEvent]) -> None:
        target = self.targets.get(given.cluster)
        if not target:
            return
        if given.online and target.state == "owed" and not self.stopping:
            self._emit(ev.TargetBack(at=now, cluster=given.cluster), out)
        elif target.state == "soaking" and not target.soak_broken:
            if not given.online and target.soak_left is None:
                self._emit(ev.SoakSuspended(at=now, cluster=given.cluster), out)
            elif given.online and target.soak_left is not None:
                self._emit(ev.SoakResumed(at=now, cluster=given.cluster), out)

    def _pause(self, by: str, reason: str, now: float, out: list[ev.AnyEvent]) -> None:
        if self.state == "Paused":
            raise RolloutError("R011", "the rollout is paused already", object=self.name)
        self._withdraw_offers("the rollout is paused", now, out)
        self._emit(ev.Paused(at=now, by=by, reason=reason), out)

    def _resume(self, given: ev.Resume, now: float, out: list[ev.AnyEvent]) -> None:
        if self.state != "Paused":
            raise RolloutError("R012", "the rollout is not paused", object=self.name)
        spent = next((wave for wave in self.waves if wave.spent), None)
        if spent:
            raise RolloutError(
                "R013", f"wave {spent.spec.name} has {spent.harmed} failed or lost and allows {spent.spec.max_failed}", object=self.name,
                hint=f"Mend it with a new commit: muster rollout abort {self.name} lets the next one start.",
            )
        self._emit(ev.Resumed(at=now, by=given.by, reason=given.reason), out)

    def _withdraw_offers(self, why: str, now: float, out: list[ev.AnyEvent]) -> None:
        for target in self.targets.values():
            if target.state == "offered":
                self._emit(ev.OfferWithdrawn(at=now, cluster=target.cluster, attempt=target.attempt, why=why), out)

    # --- time --------------------------------------------------------------------------------------------------

    def _timeouts(self, now: float, out: list[ev.AnyEvent]) -> None:
        frozen: list[tuple[float, str]] = []
        while not self.has_ended and self._timers and self._timers[0][0] <= now:
            at, cluster = heapq.heappop(self._timers)
            target = self.targets[cluster]
            if target.deadline != at:
                continue
            if self.state == "Paused" and not (target.state == "soaking" and self._soak_runs(target)):
                frozen.append((at, cluster))  # deadlines stand still; Resumed moves them
                continue
            self._timeout(target, now, out)
        for timer in frozen:
            heapq.heappush(self._timers, timer)

    def _soak_runs(self, target: Target) -> bool:
        return target.soak_left is None and not target.soak_broken

    def _timeout(self, target: Target, now: float, out: list[ev.AnyEvent]) -> None:
        cluster = target.cluster
        if target.state == "offered":
            self._emit(ev.TargetOwed(at=now, cluster=cluster), out)
        elif target.state == "soaking" and self._soak_runs(target):
            if cluster in self._online:
                self._emit(ev.TargetDone(at=now, cluster=cluster), out)
            else:
                self._emit(ev.SoakSuspended(at=now, cluster=cluster), out)
        elif cluster in self._online:
            limit = format_duration(self.started.plan.deadline)
            self._emit(ev.TargetFailed(at=now, cluster=cluster, code="R020", message=f"not healthy within {limit}"), out)
        else:
            self._emit(ev.TargetLost(at=now, cluster=cluster), out)

    # --- progress ----------------------------------------------------------------------------------------------

    def _advance(self, now: float, out: list[ev.AnyEvent]) -> None:
        """Everything that follows without a further input: breach, drain, offers, wave ends."""
        while not self.has_ended and self._step(now, out):
            pass

    def _step(self, now: float, out: list[ev.AnyEvent]) -> bool:
        if self.wave < 0:
            self._emit(ev.WaveOpened(at=now, wave=0), out)
            return True
        if self.stopping:
            return self._drain(now, out)
        spent = next((wave for wave in self.waves[: self.wave + 1] if wave.spent), None)
        if spent:
            return self._breach(spent, now, out)
        if self.state == "Paused":
            return False
        offered = False
        for wave in self.waves[: self.wave + 1]:
            while wave.waiting and wave.in_flight < wave.spec.max_in_flight:
                self._emit(ev.OfferMade(at=now, cluster=wave.waiting[0], attempt=1), out)
                offered = True
        current = self.waves[self.wave]
        if current.waiting or current.in_flight:
            if self.state == "Held":
                self._emit(ev.Released(at=now), out)
            return offered
        if current.count("done") >= current.quorum:
            self._emit(ev.WavePassed(at=now, wave=self.wave), out)
            if self.wave + 1 < len(self.waves):
                self._emit(ev.WaveOpened(at=now, wave=self.wave + 1), out)
            elif not any(wave.waiting or wave.in_flight for wave in self.waves):
                self._emit(ev.Ended(at=now, state="Succeeded", why=self._success()), out)
            return True
        if self.state != "Held":
            why = f"quorum: wave {current.spec.name} has {current.count('done')} of {current.quorum} done"
            self._emit(ev.Held(at=now, why=why), out)
        return False

    def _success(self) -> str:
        owed = self.count("owed")
        return f"{owed} owed, to be caught up when they return" if owed else ""

    def _breach(self, wave: WaveCount, now: float, out: list[ev.AnyEvent]) -> bool:
        first = next((t for c in wave.spec.members if (t := self.targets[c]).state in HARMED), None)
        what = f" ({first.cluster}: {first.message or first.state})" if first else ""
        why = f"wave {wave.spec.name}: {wave.harmed} failed or lost, {wave.spec.max_failed} allowed{what}"
        action = self.started.plan.action
        if action == "pause":
            if self.state == "Paused":
                return False
            self._withdraw_offers(why, now, out)
            self._emit(ev.Paused(at=now, by="plan", reason=why), out)
            return False
        self._withdraw_offers(why, now, out)
        if action == "abort":
            self._emit(ev.Ended(at=now, state="Failed", why=why), out)
        else:
            self._emit(ev.Stopping(at=now, why=why), out)
        return True

    def _drain(self, now: float, out: list[ev.AnyEvent]) -> bool:
        """Rolling back: it ends when nothing that acknowledged is still on its way."""
        self._withdraw_offers(self.stopping, now, out)
        if any(wave.in_flight for wave in self.waves):
            return False
        self._emit(ev.Ended(at=now, state="RolledBack", why=self.stopping), out)
        return True

    # --- the one function of live path and replay ----------------------------------------------------------------

    def apply(self, event: ev.AnyEvent) -> None:
        """O(1), but for Paused, Resumed and Ended, which touch what is in flight."""
        match event:
            case ev.OfferMade():
                target = self._move(event, "offered")
                self._arm(target, event.at + self.waves[target.wave].spec.offline_after[target.cluster])
            case ev.OfferWithdrawn():
                self._move(event, "waiting")
            case ev.TargetAcknowledged():
                self._arm(self._move(event, "acknowledged"), event.at + self.started.plan.deadline)
            case ev.TargetApplying():
                target = self.targets[event.cluster]
                deadline = target.deadline
                self._move(event, "applying").deadline = deadline
            case ev.SoakStarted():
                target = self._move(event, "soaking")
                target.soak_broken, target.soak_left = False, None
                self._arm(target, event.at + self.waves[target.wave].spec.soak)
            case ev.SoakSuspended():
                target = self.targets[event.cluster]
                target.soak_left = max(0.0, (target.deadline or event.at) - event.at)
                self._arm(target, event.at + self.started.plan.deadline)
            case ev.SoakResumed():
                target = self.targets[event.cluster]
                self._arm(target, event.at + (target.soak_left or 0.0))
                target.soak_left = None
            case ev.SoakBroken():
                target = self.targets[event.cluster]
                target.flaps += 1
                target.soak_broken, target.soak_left = True, None
                self._arm(target, event.at + self.started.plan.deadline)
            case ev.TargetFailed() | ev.TargetReturned():
                target = self._move(event, "failed" if isinstance(event, ev.TargetFailed) else "returned")
                target.code, target.message = event.code or target.code, event.message or target.message
            case ev.TargetDone():
                self._move(event, "done")
            case ev.TargetLost():
                self._move(event, "lost").message = "acknowledged, then silent"
            case ev.TargetOwed():
                self._move(event, "owed")
            case ev.TargetBack():
                self._move(event, "waiting")
            case ev.TargetSkipped():
                self._move(event, "skipped").message = event.why
            case _:
                self._apply_to_rollout(event)

    def _apply_to_rollout(self, event: ev.AnyEvent) -> None:
        match event:
            case ev.WaveOpened():
                self.wave, self.state, self.why = event.wave, "Running", ""
            case ev.WavePassed():
                self.waves[event.wave].passed = True
            case ev.Held():
                self.state, self.why = "Held", event.why
            case ev.Released():
                self.state, self.why = "Running", ""
            case ev.Paused():
                self.state, self.why, self.paused_at = "Paused", _by(event.by, event.reason), event.at
            case ev.Resumed():
                self._shift_deadlines(event.at - (self.paused_at or event.at))
                self.state, self.why, self.paused_at = "Running", "", None
            case ev.Stopping():
                self.stopping = self.why = event.why
                if self.paused_at is not None:
                    self._shift_deadlines(event.at - self.paused_at)
                self.state, self.paused_at = "Running", None
            case ev.Ended():
                self.state, self.why, self.ended_at = event.state, event.why, event.at
            case _:
                pass

    def _shift_deadlines(self, seconds: float) -> None:
        for target in self.targets.values():
            if target.deadline is not None and not (target.state == "soaking" and self._soak_runs(target)):
                self._arm(target, target.deadline + seconds)

    def _move(self, event: ev.TargetEvent, state: str) -> Target:
        target = self.targets[event.cluster]
        wave = self.waves[target.wave]
        if target.state == "waiting":
            if wave.waiting and wave.waiting[0] == target.cluster:
                wave.waiting.popleft()
            else:
                wave.waiting.remove(target.cluster)
        wave.states[target.state] -= 1
        wave.states[state] = wave.states.get(state, 0) + 1
        if state == "waiting":
            wave.waiting.append(target.cluster)
        target.state, target.since, target.deadline = state, event.at, None
        return target

    def _arm(self, target: Target, at: float) -> None:
        target.deadline = at
        heapq.heappush(self._timers, (at, target.cluster))


def _by(by: str, reason: str) -> str:
    return f"by {by}: {reason}" if reason else f"by {by}"
