"""Where every target of one rollout stands, counted as it moves.

Owns the targets, each wave's counters, and the heap of their clocks; each change is O(log n) at most, so that deciding never
scans the fleet. It never decides anything: the rules do, and replay moves it through the same calls.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from muster_core.rollout import events as ev
from muster_core.rollout.gates import WaveGates
from muster_core.rollout.hours import Hours
from muster_core.rollout.line import Line
from muster_core.rollout.plan import ResolvedPlan, ResolvedWave, quorum_count

IN_FLIGHT = frozenset({"offered", "acknowledged", "staged", "applying", "soaking"})
HARMED = frozenset({"failed", "returned", "lost"})


@dataclass(slots=True)
class Target:
    """Its clock: ``deadline`` is when it fires, ``stopped`` what a stopped one has left.

    ``alarm`` is its earliest entry in the heap of clocks, at ``deadline`` or before: a clock that is set later again and
    again has one entry, which is put right when its time comes.
    """

    cluster: str
    wave: int
    state: str = "waiting"
    attempt: int = 1
    since: float = 0.0
    deadline: float | None = None
    stopped: float | None = None
    was_offered: bool = False
    code: str = ""
    message: str = ""
    flaps: int = 0
    soak_left: float | None = None  # set while the soak stands still
    soak_broken: bool = False
    alarm: float = field(default=math.inf, compare=False, repr=False)

    @property
    def soak_runs(self) -> bool:
        return self.state == "soaking" and self.soak_left is None and not self.soak_broken

    @property
    def clock_runs_on(self) -> bool:
        """Whether its clock is one that no pause stops: a soak's, and the time that a site named."""
        return self.soak_runs or self.state == "deferred"


@dataclass(slots=True)
class WaveBoard:
    """One wave. ``flying``, ``harmed`` and ``deferred`` are sets in order of arrival.

    ``carried``: members that wait and are still busy with the rollout that this one superseded; each takes a slot.
    ``gone``: members that left the registry, which are no part of the quorum's base.
    """

    spec: ResolvedWave
    line: Line
    gates: WaveGates
    hours: Hours
    states: dict[str, int] = field(default_factory=dict)
    last_group: str = ""
    flying: dict[str, None] = field(default_factory=dict)
    harmed: dict[str, None] = field(default_factory=dict)
    deferred: dict[str, None] = field(default_factory=dict)
    carried: dict[str, None] = field(default_factory=dict)
    gone: int = 0
    quorum: int = 0
    passed: bool = False
    promoted: bool = False

    @classmethod
    def of(cls, spec: ResolvedWave) -> WaveBoard:
        board = cls(spec, Line(spec.members, spec.zones, spec.spread), WaveGates(spec), Hours(spec))
        board.states["waiting"] = len(spec.members)
        board.quorum = quorum_count(spec.quorum_percent, len(spec.members))
        return board

    def count(self, *states: str) -> int:
        return sum(self.states.get(state, 0) for state in states)

    @property
    def in_flight(self) -> int:
        """Those that hold a slot: offered to soaking, or to applying where a soak holds none; and the carried."""
        soaking = 0 if self.spec.soak_holds_slot else self.states.get("soaking", 0)
        return len(self.flying) - soaking + len(self.carried)

    @property
    def is_busy(self) -> bool:
        return bool(self.flying or self.carried)

    @property
    def has_rest(self) -> bool:
        """Whether anybody of it still waits, for whatever reason, or is on the way."""
        return bool(self.line or self.flying or self.carried or self.deferred)

    @property
    def soak(self) -> float:
        return 0.0 if self.promoted else self.spec.soak

    def next_ready(self) -> str | None:
        """Who is offered next: the head of the line, or of the one value of the spread that may be in flight now.

        Only where the window is open, as the hours were looked at last.
        """
        zones = self.hours.open
        if not self.spec.spread:
            return self.line.head(zones)
        same = self.line.head(zones, self.last_group)
        return same if same is not None or self.flying else self.line.head(zones)

    @property
    def done(self) -> int:
        return self.states.get("done", 0)

    @property
    def spent(self) -> bool:
        """A budget is used up: failed and lost together, or the lost alone where they have one of their own."""
        too_many_lost = self.spec.max_lost is not None and self.states.get("lost", 0) > self.spec.max_lost
        return len(self.harmed) > self.spec.max_failed or too_many_lost

    @property
    def waits_for_absent(self) -> int:
        """Owed members that hold the wave, where the plan waits for them."""
        return self.states.get("owed", 0) if self.spec.offline_policy == "wait" else 0

    @property
    def reached_quorum(self) -> bool:
        return self.states.get("done", 0) >= self.quorum


class Board:
    """All waves of a rollout. No deadline runs before ``not_before``: until then nothing may be healthy."""

    def __init__(
        self,
        plan: ResolvedPlan,
        at: float,
        attempt: int = 1,
        carried: Sequence[str] = (),
        not_before: float = 0.0,
    ) -> None:
        self.waves = [WaveBoard.of(spec) for spec in plan.waves]
        self.targets: dict[str, Target] = {}
        self._timers: list[tuple[float, str]] = []
        self.harms = 0  # how often a target failed or was lost
        self._winding = True
        self._stopped = False
        self._deadline = plan.deadline
        self._not_before = not_before
        for index, wave in enumerate(self.waves):
            for cluster in wave.spec.members:
                self.targets[cluster] = Target(cluster, index, attempt=attempt, since=at)
        for cluster in carried:
            if target := self.targets.get(cluster):
                wave = self.waves[target.wave]
                wave.line.take(cluster)
                wave.carried[cluster] = None
                self.arm(target, at, plan.deadline)

    def in_flight(self) -> Iterator[Target]:
        return (self.targets[cluster] for wave in self.waves for cluster in wave.flying)

    def wave_of(self, cluster: str) -> WaveBoard:
        return self.waves[self.targets[cluster].wave]

    # --- moving ----------------------------------------------------------------------------------

    def move(self, target: Target, state: str, at: float, *, place: str = "own") -> Target:
        """Into another state, its clock cleared. ``place`` is where one that waits stands in line."""
        wave, cluster, old = self.waves[target.wave], target.cluster, target.state
        wave.states[old] -= 1
        wave.states[state] = wave.states.get(state, 0) + 1
        if old == "waiting":
            wave.line.take(cluster)
            wave.carried.pop(cluster, None)
        elif old in IN_FLIGHT and state not in IN_FLIGHT:
            wave.flying.pop(cluster, None)
        elif old in HARMED and state not in HARMED:
            wave.harmed.pop(cluster, None)
        elif old == "deferred":
            wave.deferred.pop(cluster, None)
        if state == "waiting":
            wave.line.put(cluster, place=place)
        elif state in IN_FLIGHT:
            wave.flying[cluster] = None
        elif state in HARMED:
            wave.harmed[cluster] = None
            self.harms += 1
        elif state == "deferred":
            wave.deferred[cluster] = None
        target.state, target.since, target.deadline, target.stopped = state, at, None, None
        return target

    def apply(self, event: ev.TargetEvent) -> None:
        """One step of one target, live or replayed."""
        target, at = self.targets[event.cluster], event.at
        match event:
            case ev.OfferMade():
                wave = self.waves[target.wave]
                wave.last_group = wave.spec.spread.get(target.cluster, "")
                self.move(target, "offered", at).was_offered = True
                self.arm(target, at, wave.spec.offline_after[target.cluster])
            case ev.TargetAcknowledged():
                self._time(self.move(target, "acknowledged", at), at)
            case ev.TargetStaged() | ev.TargetApplying():  # the clock of the acknowledgement runs on
                left, stopped = target.deadline, target.stopped
                self.move(target, "staged" if isinstance(event, ev.TargetStaged) else "applying", at)
                target.deadline, target.stopped = left, stopped
            case ev.SoakStarted():
                target.soak_broken, target.soak_left, target.message, target.code = False, None, "", ""
                self.arm(self.move(target, "soaking", at), at, self.waves[target.wave].soak)
            case ev.TargetDone():
                self.move(target, "done", at)
            case ev.OfferWithdrawn():
                self.move(target, "waiting", at, place="first")
            case ev.SoakSuspended():
                target.soak_left = max(0.0, (target.deadline or at) - at)
                self._time(target, at)
            case ev.SoakResumed():
                left, target.soak_left = target.soak_left or 0.0, None
                self.arm(target, at, left)
            case ev.SoakBroken():
                target.flaps += 1
                target.soak_broken, target.soak_left = True, None
                self._time(target, at)
            case ev.TargetFailed() | ev.TargetReturned():
                self.move(target, "failed" if isinstance(event, ev.TargetFailed) else "returned", at)
                target.code, target.message = event.code or target.code, event.message or target.message
            case ev.TargetLost():
                self.move(target, "lost", at).message = "acknowledged, then silent"
            case ev.TargetOwed():
                self.move(target, "owed", at)
            case ev.TargetBack():
                self.move(target, "waiting", at, place="last")
            case ev.TargetSkipped():
                self.move(target, "skipped", at).message = event.why
                if not event.by:
                    self._left(self.waves[target.wave])
            case ev.TargetRetried():
                self.move(target, "waiting", at, place="last")
                target.attempt, target.was_offered, target.flaps = event.attempt, False, 0
                target.soak_left, target.soak_broken, target.code, target.message = None, False, "", ""
            case ev.TargetDeferred():
                self.move(target, "deferred", at).message = event.why
                self.arm(target, at, event.until - at)
            case ev.DeferralEnded():
                self.move(target, "waiting", at, place="first").message = ""
            case _:
                pass

    @staticmethod
    def _left(wave: WaveBoard) -> None:
        wave.gone += 1
        wave.quorum = quorum_count(wave.spec.quorum_percent, len(wave.spec.members) - wave.gone)

    def settle(self, cluster: str, at: float) -> None:
        """No longer busy with the superseded rollout: in line at its place."""
        wave, target = self.wave_of(cluster), self.targets[cluster]
        if wave.carried.pop(cluster, "") is None:
            wave.line.put(cluster, place="own")
            target.since, target.deadline, target.stopped = at, None, None

    def promote(self, wave: WaveBoard, at: float) -> None:
        """Its soaks are over: those that run end now, those that stand still when they go on. O(in flight)."""
        wave.promoted = True
        for cluster in wave.flying:
            target = self.targets[cluster]
            if target.soak_runs:
                self.arm(target, at, 0.0)
            elif target.soak_left is not None:
                target.soak_left = 0.0

    def expire(self, at: float) -> None:
        """Whoever waits or is deferred is owed. O(of these), once."""
        for wave in self.waves:
            for cluster in [*wave.line, *wave.carried, *wave.deferred]:
                self.move(self.targets[cluster], "owed", at)

    # --- clocks ----------------------------------------------------------------------------------

    def arm(self, target: Target, at: float, seconds: float) -> None:
        """Its clock runs ``seconds`` from ``at``; while clocks are stopped only those do that no pause stops."""
        if self._stopped and not target.clock_runs_on:
            target.deadline, target.stopped = None, seconds
            return
        deadline = target.deadline = at + seconds
        target.stopped = None
        if deadline < target.alarm and self._winding:
            target.alarm = deadline
            heapq.heappush(self._timers, (deadline, target.cluster))

    def _time(self, target: Target, at: float) -> None:
        """From here on it has the plan's deadline."""
        self.arm(target, self._runs_from(target, at), self._deadline)

    def _runs_from(self, target: Target, at: float) -> float:
        """From when its clock runs, if it is started at ``at``: only that of an offer runs before ``not_before``."""
        return at if target.state == "offered" else max(at, self._not_before)

    @contextmanager
    def replaying(self) -> Iterator[None]:
        """Nobody asks for the next clock meanwhile: the heap is made at the end, of those that run then. O(members)."""
        self._winding = False
        yield
        self._winding = True
        timers = self._timers = []
        for target in self.targets.values():
            target.alarm = math.inf if target.deadline is None else target.deadline
            if target.deadline is not None:
                timers.append((target.deadline, target.cluster))
        heapq.heapify(timers)

    def stop_clocks(self, at: float) -> None:
        """Paused: deadlines stand still, soaks run on. O(in flight)."""
        self._stopped = True
        for target in self.in_flight():
            deadline = target.deadline
            if deadline is not None and not target.soak_runs:
                left = max(0.0, deadline - self._runs_from(target, at))
                target.deadline, target.stopped = None, left

    def start_clocks(self, at: float) -> None:
        self._stopped = False
        for target in self.in_flight():
            if target.stopped is not None:
                self.arm(target, self._runs_from(target, at), target.stopped)

    def due_before(self, until: float) -> bool:
        """Whether a deadline (not a soak that runs) fires before ``until``. O(in flight)."""
        return any(
            t.deadline is not None and t.deadline < until and not t.soak_runs for t in self.in_flight()
        )

    def defer_clocks(self, until: float) -> None:
        """No deadline fires before ``until``; soaks that run are not touched. O(in flight)."""
        for target in self.in_flight():
            if target.deadline is not None and target.deadline < until and not target.soak_runs:
                target.deadline = until  # the alarm rings before

    def next_due(self) -> float | None:
        """When the next clock fires."""
        timers, targets = self._timers, self.targets
        while timers:
            at, cluster = timers[0]
            target = targets[cluster]
            if target.deadline == at:
                return at
            self._put_right(target, at)
        return None

    def _put_right(self, target: Target, at: float) -> None:
        """The first entry is of a clock that was cleared since, or set to a later time. O(log n)."""
        if target.alarm != at:
            heapq.heappop(self._timers)
        elif target.deadline is None:
            target.alarm = math.inf
            heapq.heappop(self._timers)
        else:
            target.alarm = target.deadline
            heapq.heapreplace(self._timers, (target.deadline, target.cluster))

    def take_due(self, now: float) -> Target | None:
        """The next target whose clock has fired, taken from the heap."""
        timers, targets = self._timers, self.targets
        while timers and timers[0][0] <= now:
            at, cluster = timers[0]
            target = targets[cluster]
            if target.deadline == at:
                heapq.heappop(timers)
                target.alarm = math.inf
                return target
            self._put_right(target, at)
        return None
