"""The rollout machine under every order of inputs, on virtual time, against a recount of its log.

The recount knows only the log: it keeps one dict of states and scans it, and shares no counter with the
machine.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import get_args

from hypothesis import assume, given, note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec import structs
from muster_core.errors import RolloutError
from muster_core.rollout import catchup, snapshot
from muster_core.rollout import events as ev
from muster_core.rollout.board import WaveBoard
from muster_core.rollout.explain import explain
from muster_core.rollout.machine import RolloutMachine
from muster_core.rollout.plan import ResolvedGate, ResolvedPlan, ResolvedWave, ResolvedWindow
from muster_core.windows import Window

COMMANDS = get_args(ev.Command)
FLYING = {"offered", "acknowledged", "staged", "applying", "soaking"}
WAITS = {"acknowledged", "staged"}  # before its time: nothing is applied
HARMED = {"failed", "returned", "lost"}
EPSILON = 1e-6
THIS, OTHER = "digest-this", "digest-other"


@st.composite
def plans(draw: st.DrawFn) -> ResolvedPlan:
    deadline, holds = float(draw(st.sampled_from([60, 300]))), draw(st.booleans())
    waves = []
    for index in range(draw(st.integers(1, 3))):
        members = tuple(f"w{index}-{number}" for number in range(draw(st.integers(1, 5))))
        waves.append(
            ResolvedWave(
                name=f"wave{index}",
                members=members,
                max_in_flight=draw(st.integers(1, 3)),
                max_failed=draw(st.integers(0, 2)),
                quorum_percent=draw(st.sampled_from([0, 50, 80, 100])),
                soak=float(draw(st.sampled_from([0, 30, 120]))),
                offline_after={name: float(draw(st.sampled_from([60, 180, 600]))) for name in members},
                max_lost=draw(st.none() | st.integers(0, 1)),
                offline_policy=draw(st.sampled_from(["owe", "owe", "wait", "fail"])),
                soak_holds_slot=holds,
                spread=draw(st.just({}) | st.fixed_dictionaries({n: st.sampled_from("ab") for n in members})),
            )
        )
    action = draw(st.sampled_from(["pause", "abort", "rollback"]))
    return ResolvedPlan(
        name="rings", waves=tuple(waves), deadline=deadline, action=action, catch_up_in_flight=1
    )


GATES = st.one_of(
    st.builds(
        ResolvedGate,
        kind=st.just("approval"),
        count=st.integers(1, 2),
        by=st.sampled_from([(), ("bob", "dora")]),
        not_author=st.booleans(),
    ),
    st.builds(ResolvedGate, kind=st.just("time"), after=st.sampled_from([900.0, 1060.0, 1600.0])),
    st.builds(
        ResolvedGate,
        kind=st.sampled_from(["http", "prometheus"]),
        consecutive=st.integers(1, 2),
        fail_after=st.sampled_from([None, 120.0]),
    ),
)
ZONES = ("UTC", "Asia/Kolkata")  # half an hour apart


@st.composite
def full_plans(draw: st.DrawFn) -> ResolvedPlan:
    """Everything that a plan can say, on top of the simple ones; each part in about a third of them."""
    plan = draw(plans())
    some = st.integers(0, 2).map(lambda number: number == 0)
    waves = []
    for wave in plan.waves:
        if draw(some):
            zone = draw(st.sampled_from(["UTC", "site"]))
            window = ResolvedWindow(
                *draw(st.sampled_from([("*/10 * * * *", 300.0), ("0 * * * *", 900.0)])), zone
            )
            zones = {name: draw(st.sampled_from(ZONES)) for name in wave.members} if zone == "site" else {}
            wave = structs.replace(wave, window=window, zones=zones)
        if draw(some):
            before, after = (tuple(draw(st.lists(GATES, max_size=2))) for _ in range(2))
            wave = structs.replace(wave, gates_before=before, gates_after=after)
        waves.append(wave)
    return structs.replace(
        plan,
        waves=tuple(waves),
        scope=draw(st.sampled_from(["target", "wave", "rollout"])),
        max_in_flight=draw(st.sampled_from([None, None, 1, 2])),
        max_failed=draw(st.sampled_from([None, None, 0, 2])),
        max_lost=draw(st.sampled_from([None, None, 0, 1])),
        expire=draw(st.sampled_from([None, None, 900.0, 7200.0])),
        limited=draw(some),
    )


def started(
    plan: ResolvedPlan, carried: tuple[str, ...] = (), *, may_return: bool = False, not_before: float = 0.0
) -> ev.Started:
    return ev.Started(
        at=1000.0,
        rollout="shop-0001",
        bundle="shop",
        commit="c1",
        tree_digest=THIS,
        plan=plan,
        by="test",
        authors=("author",),
        carried=carried,
        may_return=may_return,
        not_before=not_before,
    )


@dataclass
class Place:
    """What the recount knows of one target."""

    wave: int
    state: str = "waiting"
    offered_at: float | None = None
    acknowledged: bool = False
    was_owed: bool = False
    crossed: bool = False  # acknowledged an offer that no longer stood
    late: bool = False
    loose: bool = False  # was held, deferred, or its wave has a window: others may have had its slot since
    busy: bool = False  # carried over from the superseded rollout
    attempt: int = 1
    flaps: int = 0
    soak_since: float = 0.0
    stood_since: float | None = None
    stood: float = 0.0
    clock: float = 0.0  # when its deadline began to run, pauses not counted


@dataclass
class Recount:
    """The log, counted by scanning."""

    plan: ResolvedPlan
    places: dict[str, Place]
    wave: int = -1
    paused: bool = False
    stopping: bool = False
    ended: str = ""
    passed: set[int] = field(default_factory=set)
    paused_at: float = 0.0
    paused_for: float = 0.0
    soaked: Counter[int] = field(default_factory=Counter)  # by wave: who soaked, where that holds no slot
    crossings: int = 0  # answers to offers that no longer stood
    promoted: set[int] = field(default_factory=set)
    expired: bool = False
    gates: dict[tuple[int, str, int], set[str]] = field(
        default_factory=dict
    )  # approvals; passed ones have "passed"
    held: set[str] = field(default_factory=set)  # of the moment: as the executor told
    allowance: int | None = None
    not_before: float = 0.0

    def unpaused(self, at: float) -> float:
        """Time without pauses, and none before the rollout's own time: what deadlines count."""
        at, paused_at = max(at, self.not_before), max(self.paused_at, self.not_before)
        return at - self.paused_for - (at - paused_at if self.paused else 0.0)

    @classmethod
    def of(cls, start: ev.Started) -> Recount:
        plan = start.plan
        places = {name: Place(index) for index, wave in enumerate(plan.waves) for name in wave.members}
        for name, place in places.items():
            place.busy = name in start.carried
            place.loose = plan.waves[place.wave].window is not None
        gates = {
            (index, phase, number): set[str]()
            for index, wave in enumerate(plan.waves)
            for phase, specs in (("before", wave.gates_before), ("after", wave.gates_after))
            for number in range(len(specs))
        }
        allowance = 0 if plan.limited else None
        return cls(plan, places, gates=gates, allowance=allowance, not_before=start.not_before)

    def passed_gates(self, wave: int, phase: str) -> bool:
        return all("passed" in seen for (w, p, _), seen in self.gates.items() if (w, p) == (wave, phase))

    def is_open(self, cluster: str, at: float) -> bool:
        spec = self.plan.waves[self.places[cluster].wave]
        if spec.window is None:
            return True
        zone = spec.zones.get(cluster, "") if spec.window.zone == "site" else spec.window.zone
        return Window(spec.window.cron, spec.window.duration, zone).is_open(at)

    def taken(self, wave: int) -> int:
        """Slots that are taken: the carried too."""
        holding = FLYING if self.plan.waves[wave].soak_holds_slot else FLYING - {"soaking"}
        busy = sum(place.busy and place.wave == wave for place in self.places.values())
        return self.number(wave, holding) + busy

    def number(self, wave: int, states: set[str]) -> int:
        return sum(place.wave == wave and place.state in states for place in self.places.values())

    def quorum(self, wave: int) -> int:
        """Of those who have not left the registry; whom an operator skipped is still in the base."""
        spec = self.plan.waves[wave]
        base = len(spec.members) - self.number(wave, {"left"})
        return max(1, math.ceil(spec.quorum_percent * base / 100)) if base else 0

    def take(self, event: ev.AnyEvent) -> None:
        """Checks that the event may happen here, then counts it."""
        assert not self.ended, f"{event} after the end"
        if isinstance(event, ev.TargetEvent):
            self._target(event, self.places[event.cluster])
            for index, spec in enumerate(self.plan.waves):
                late = sum(place.wave == index and place.late for place in self.places.values())
                freed = 0 if spec.soak_holds_slot else self.soaked[index]
                assert self.number(index, HARMED) <= spec.max_failed + spec.max_in_flight + late + freed
            if self.plan.max_failed is not None and self.plan.max_in_flight is not None:
                harmed = sum(place.state in HARMED for place in self.places.values())
                freed = 0 if self.plan.waves[0].soak_holds_slot else sum(self.soaked.values())
                assert harmed <= self.plan.max_failed + self.plan.max_in_flight + self.crossings + freed
            return
        if isinstance(event, ev.GateEvent):
            self._gate(event)
            return
        match event:
            case ev.WaveOpened():
                assert event.wave == self.wave + 1
                assert event.wave == 0 or event.wave - 1 in self.passed
                assert not self.paused
                self.wave = event.wave
            case ev.WavePassed():
                assert not self.number(event.wave, FLYING)
                assert self.passed_gates(event.wave, "before")
                assert self.passed_gates(event.wave, "after")
                if event.wave not in self.promoted:
                    assert not self.number(event.wave, {"waiting", "deferred"})
                    assert self.number(event.wave, {"done"}) >= self.quorum(event.wave)
                    if self.plan.waves[event.wave].offline_policy == "wait":
                        assert not self.number(event.wave, {"owed"})
                self.passed.add(event.wave)
            case ev.WaveSettled():
                assert not self.number(event.wave, FLYING)
            case ev.Promoted():
                self.promoted.add(event.wave)
            case ev.CarriedSettled():
                assert self.places[event.cluster].busy
                self.places[event.cluster].busy = False
            case ev.Expired():
                assert self.plan.expire is not None
                assert event.at >= 1000.0 + self.plan.expire
                self.expired = True
                for place in self.places.values():
                    assert place.state != "offered"
                    if place.state in {"waiting", "deferred"}:
                        place.state, place.was_owed, place.busy = "owed", True, False
                self.go_on(event.at)
            case ev.Paused():
                assert not self.paused
                assert not any(place.state == "offered" for place in self.places.values())
                self.paused, self.paused_at = True, event.at
            case ev.Resumed():
                assert self.paused
                self.go_on(event.at)
            case ev.Stopping():
                self.stopping = True
                self.go_on(event.at)
            case ev.Ended():
                self.ended = event.state
                states = {place.state for place in self.places.values()}
                assert "offered" not in states
                if event.state == "Succeeded":
                    assert not states & (FLYING | {"waiting", "deferred"})
                    short = set(range(len(self.plan.waves))) - self.passed
                    assert not short or self.expired
                    for wave in short - self.promoted:
                        assert self.number(wave, {"done"}) >= self.quorum(wave)
                if event.state == "RolledBack":
                    assert self.stopping
                    assert not states & FLYING
            case ev.Held():
                assert any(self._holds(event, wave) for wave in range(self.wave + 1)), event
            case _:
                pass

    def _holds(self, event: ev.Held, wave: int) -> bool:
        """Whether the reason that is given is so, of this wave."""
        spec, states = self.plan.waves[wave], {"waiting"}
        waiting = [
            name for name, p in self.places.items() if p.wave == wave and p.state in states and not p.busy
        ]
        match event.why.split(":")[0]:
            case "quorum":
                return self.number(wave, {"done"}) < self.quorum(wave) and wave not in self.promoted
            case "offline":
                return spec.offline_policy == "wait" and self.number(wave, {"owed"}) > 0
            case "held":
                return any(name in self.held for name in waiting)
            case "deferred":
                return self.number(wave, {"deferred"}) > 0
            case "gate":
                return not (self.passed_gates(wave, "before") and self.passed_gates(wave, "after"))
            case "window":
                free = [name for name in waiting if name not in self.held]
                return bool(free) and not any(self.is_open(name, event.at) for name in free)
            case "limit":
                return self.allowance == 0
            case other:
                raise AssertionError(other)

    def _gate(self, event: ev.GateEvent) -> None:
        seen = self.gates[event.wave, event.phase, event.index]
        wave = self.plan.waves[event.wave]
        spec = (wave.gates_before if event.phase == "before" else wave.gates_after)[event.index]
        assert "passed" not in seen
        assert event.wave == self.wave, "only the gates of the wave that is open are asked"
        match event:
            case ev.GateApproved():
                assert spec.kind == "approval"
                assert event.by not in seen, "one person, one approval"
                assert not spec.by or event.by in spec.by
                assert not (spec.not_author and event.by == "author")
                seen.add(event.by)
            case ev.GatePassed():
                assert spec.kind != "approval" or len(seen) >= spec.count
                assert spec.kind != "time" or event.at >= spec.after
                seen.add("passed")
            case ev.GateFailed():
                assert spec.kind != "time"
                assert spec.kind == "approval" or spec.fail_after is not None
                seen.clear()
            case _:
                raise AssertionError(f"unknown event {event}")

    def _one_value_at_a_time(self, cluster: str, wave: int) -> None:
        """Who answered an offer that was withdrawn or owed may be of another value: nobody could stop that."""
        spread = self.plan.waves[wave].spread
        for name, place in self.places.items():
            if spread and place.wave == wave and place.state in FLYING and not place.crossed:
                assert spread[name] == spread[cluster]

    def go_on(self, at: float) -> None:
        self.paused_for, self.paused = max(at, self.not_before) - self.unpaused(at), False

    def _target(self, event: ev.TargetEvent, place: Place) -> None:
        spec, at = self.plan.waves[place.wave], event.at
        if isinstance(event, (ev.TargetAcknowledged, ev.TargetFailed)) and not place.acknowledged:
            # Harm that a target brings whose offer no longer stood: others may have had its slot since.
            crosses = place.state != "offered"
            self.crossings += crosses
            place.late = place.late or place.was_owed or (crosses and place.loose)
        if isinstance(event, (ev.TargetAcknowledged, ev.SoakSuspended, ev.SoakBroken)):
            place.clock = self.unpaused(at)
        if isinstance(event, ev.TargetLost) or (isinstance(event, ev.TargetFailed) and event.code == "R020"):
            assert self.unpaused(at) - place.clock >= self.plan.deadline - EPSILON
            assert at >= self.not_before + self.plan.deadline - EPSILON, "no deadline runs before its time"
        match event:
            case ev.OfferMade():
                assert place.state == "waiting"
                assert not self.paused
                assert not self.stopping
                assert not self.expired
                assert not place.busy
                assert place.wave <= self.wave
                assert event.attempt == place.attempt
                assert self.taken(place.wave) < spec.max_in_flight
                wide = self.plan.max_in_flight
                assert wide is None or sum(map(self.taken, range(len(self.plan.waves)))) < wide
                assert event.cluster not in self.held
                assert self.is_open(event.cluster, at)
                assert self.passed_gates(place.wave, "before")
                assert self.allowance is None or self.allowance > 0
                self.allowance = None if self.allowance is None else self.allowance - 1
                total = Counter(p.state for p in self.places.values())
                assert self.plan.max_lost is None or total["lost"] <= self.plan.max_lost
                assert self.plan.max_failed is None or sum(total[s] for s in HARMED) <= self.plan.max_failed
                self._one_value_at_a_time(event.cluster, place.wave)
                for index in range(self.wave + 1):
                    limits = self.plan.waves[index]
                    assert self.number(index, HARMED) <= limits.max_failed
                    assert limits.max_lost is None or self.number(index, {"lost"}) <= limits.max_lost
                place.state, place.offered_at, place.acknowledged, place.crossed = "offered", at, False, False
            case ev.OfferWithdrawn():
                assert place.state == "offered" or (place.state in WAITS and at < self.not_before)
                place.state, place.acknowledged = "waiting", False
            case ev.TargetAcknowledged():
                assert place.offered_at is not None
                assert place.state in {"offered", "waiting", "owed", "deferred"}
                place.crossed = place.state != "offered"
                place.state, place.acknowledged = "acknowledged", True
            case ev.TargetStaged():
                assert place.state == "acknowledged"
                place.state = "staged"
            case ev.TargetApplying():
                assert place.state in WAITS
                place.state = "applying"
            case ev.SoakStarted():
                assert place.acknowledged
                self.soaked[place.wave] += place.state != "soaking"
                place.state, place.soak_since, place.stood, place.stood_since = "soaking", at, 0.0, None
            case ev.SoakSuspended():
                assert place.state == "soaking"
                place.stood_since = at
            case ev.SoakResumed():
                assert place.stood_since is not None
                place.stood, place.stood_since = place.stood + at - place.stood_since, None
            case ev.SoakBroken():
                place.flaps += 1
                assert place.flaps <= 3
            case ev.TargetDone():
                assert place.state == "soaking"
                assert place.stood_since is None
                soak = 0.0 if place.wave in self.promoted else spec.soak
                assert at - place.soak_since - place.stood >= soak - EPSILON
                place.state = "done"
            case ev.TargetFailed() | ev.TargetReturned():
                assert place.offered_at is not None
                place.state = "failed" if isinstance(event, ev.TargetFailed) else "returned"
            case ev.TargetLost():
                assert place.acknowledged
                place.state = "lost"
            case ev.TargetOwed():
                assert place.state == "offered", "only a target that never acknowledged becomes owed"
                assert spec.offline_policy != "fail"
                assert place.offered_at is not None
                assert at - place.offered_at >= spec.offline_after[event.cluster] - EPSILON
                place.state, place.was_owed = "owed", True
            case ev.TargetBack():
                assert place.state == "owed"
                place.state = "waiting"
            case ev.TargetSkipped():
                assert not event.by or place.state in {"waiting", "deferred", "owed"}
                place.state, place.busy = ("skipped" if event.by else "left"), False
            case ev.TargetRetried():
                assert place.state in HARMED
                assert event.attempt == place.attempt + 1
                place.state, place.attempt, place.flaps = "waiting", event.attempt, 0
                place.offered_at, place.acknowledged, place.was_owed, place.late = None, False, False, False
            case ev.TargetDeferred():
                assert place.offered_at is not None
                assert place.state in {"offered", "waiting", "owed", "deferred", *WAITS}
                place.state, place.clock, place.loose, place.acknowledged = (
                    "deferred",
                    event.until,
                    True,
                    False,
                )
            case ev.DeferralEnded():
                assert place.state == "deferred"
                assert at >= place.clock, "not before the time that its site named"
                place.state = "waiting"
            case _:
                raise AssertionError(f"unknown event {event}")


def fingerprint(machine: RolloutMachine) -> object:
    """Everything that the log must give back; who is in contact is not of the log."""
    return (
        machine.state, machine.why, machine.wave, machine.stopping, machine.ended_at, machine.board.next_due(),
        machine.run.expired, machine.run.paused_by,
        repr(machine.targets), [picture(wave) for wave in machine.waves],
    )  # fmt: skip


def picture(wave: WaveBoard) -> object:
    """A wave without what is of the moment: who is held, and what gates measured."""
    gates = [(g.began, g.left, [(a.passed, a.failed, a.approvals, a.deadline, a.left, a.since) for a in g.gates])
             for g in (wave.gates.before, wave.gates.after)]  # fmt: skip
    return repr((
        sorted(wave.line), wave.states, wave.last_group, list(wave.flying), list(wave.harmed), list(wave.deferred),
        list(wave.carried), wave.gone, wave.quorum, wave.passed, wave.promoted, repr(gates),
    ))  # fmt: skip


def whole(machine: RolloutMachine) -> object:
    """As :func:`fingerprint`, with the order of every line and all clocks."""
    lines = [
        (wave.line._first, wave.line._last, wave.line._moved, sorted(wave.line._waiting.items()))
        for wave in machine.waves
    ]
    clocks = sorted((target.deadline, name) for name, target in machine.targets.items() if target.deadline)
    return fingerprint(machine), lines, clocks, machine.board._stopped, machine.board.harms


def through_a_snapshot(machine: RolloutMachine, log: list[ev.AnyEvent], position: int) -> RolloutMachine:
    """This machine, which is as the first ``position`` events say, and then the other events."""
    place = snapshot.Place("1", b"start", position, b"last")
    return snapshot.restore(machine.started, snapshot.take(machine, place), log[position:])


class Driven:
    """A machine, its log, its shadow made by apply alone, and the recount; all compared after every input."""

    def __init__(
        self,
        plan: ResolvedPlan,
        now: float = 1000.0,
        carried: tuple[str, ...] = (),
        *,
        may_return: bool = False,
        not_before: float = 0.0,
    ) -> None:
        self.now = now
        self.start = started(plan, carried, may_return=may_return, not_before=not_before)
        self.machine = RolloutMachine(self.start)
        self.shadow = RolloutMachine(self.start)
        self.recount = Recount.of(self.start)
        self.log: list[ev.AnyEvent] = [self.machine.started]
        self.marks: list[tuple[int, object]] = [(1, fingerprint(self.machine))]
        self.take(self.machine.begin(now), ev.Tick())

    def give(self, given: ev.Input) -> list[ev.AnyEvent]:
        held = self.recount
        below = (
            held.wave >= 0
            and held.number(held.wave, {"done"}) < held.quorum(held.wave)
            and not held.number(held.wave, FLYING | {"waiting", "deferred"})
            and held.wave not in held.promoted
        )
        match given:
            case ev.Hold(cluster=cluster):
                held.held.add(cluster)
                if cluster in held.places:
                    held.places[cluster].loose = True
            case ev.Unhold(cluster=cluster):
                held.held.discard(cluster)
            case ev.Allowance(offers=offers):
                held.allowance = offers
            case _:
                pass
        try:
            events = self.machine.handle(given, self.now)
        except RolloutError as error:
            assert isinstance(given, COMMANDS), "only an operator's order may be refused"
            note(f"{self.now}: {error}")
            wake = self.machine.next_wake()
            if wake is not None and wake <= self.now:
                self.take(self.machine.handle(ev.Tick(), self.now), ev.Tick())
            return []
        if isinstance(given, ev.Tick) and below:
            assert not [event for event in events if isinstance(event, (ev.WavePassed, ev.WaveOpened))]
        self.take(events, given)
        return events

    def replayed(self, snapshot_at: float = 0.0) -> RolloutMachine:
        """What a coordinator has after kill -9: the log, and the moment's knowledge told anew.

        ``snapshot_at``: how much of the log a snapshot has, 0 to 1; none of it: there is no snapshot.
        """
        log = [ev.decode(ev.encode(event)) for event in self.log]
        position = math.ceil(len(log) * snapshot_at)
        machine = RolloutMachine.replay(log[: position or len(log)])
        if position:
            machine = through_a_snapshot(machine, log, position)
        for cluster in sorted(self.recount.held):
            machine.hold(cluster, "told again")
        machine.allow(self.recount.allowance)
        return machine

    def take(self, events: list[ev.AnyEvent], given: ev.Input) -> None:
        for event in events:
            note((self.now, event))  # put into words only where they are shown
            if isinstance(event, ev.SoakStarted):
                assert isinstance(given, ev.Reported)
                assert (given.cluster, given.outcome, given.tree_digest) == (event.cluster, "healthy", THIS)
                assert given.attempt == self.machine.targets[event.cluster].attempt
            if isinstance(event, ev.TargetDone):
                assert self.machine.is_online(event.cluster), "unknown is not healthy"
            self.recount.take(event)
            self.shadow.apply(ev.decode(ev.encode(event)))
        self.log += events
        now = fingerprint(self.machine)
        # Where nothing was logged, the shadow is as it was: so must the machine be.
        assert now == (fingerprint(self.shadow) if events else self.marks[-1][1])
        if events:
            self.marks.append((len(self.log), now))
        wake = self.machine.next_wake()
        assert wake is None or wake > self.now, "an executor that wakes for nothing"
        for name, place in self.recount.places.items():
            assert self.machine.targets[name].state == place.state.replace("left", "skipped")
            assert self.machine.targets[name].attempt == place.attempt
        assert self.machine.in_flight == (
            0 if self.machine.has_ended else sum(map(self.recount.taken, range(len(self.recount.plan.waves))))
        )

    def check_prefixes(self) -> None:
        """Replaying any stored prefix gives the state at that time, and so does each through a snapshot of the one before."""
        replayed, restored = RolloutMachine(self.start), RolloutMachine(self.start)
        applied = 1
        for length, expected in self.marks:
            for event in self.log[applied:length]:
                replayed.apply(event)
            restored = through_a_snapshot(restored, self.log[:length], applied)
            applied = length
            assert fingerprint(replayed) == expected
            assert whole(restored) == whole(replayed)
        self.check_rests(replayed)

    def check_rests(self, replayed: RolloutMachine) -> None:
        """A snapshot of any prefix, and then the rest of the log, is all of it: eight of them, from none to all."""
        prefix, applied = RolloutMachine(self.start), 1
        for part in range(8):
            position = max(1, len(self.log) * part // 7)
            for event in self.log[applied:position]:
                prefix.apply(event)
            applied = position
            assert whole(through_a_snapshot(prefix, self.log, position)) == whole(replayed)

    def deliver_fairly(self) -> None:
        """Every cluster is back and gets healthy, gates pass, and people do what they can. It ends by itself."""
        self.give(ev.Allowance(None))
        for name in self.machine.targets:
            self.give(ev.Unhold(name))
            self.give(ev.Settled(name))
        for _ in range(40 * len(self.machine.targets) + 100):
            if self.machine.has_ended:
                return
            self.people()
            for gate in self.machine.pending_gates():
                for _ in range(gate.gate.consecutive):
                    self.give(ev.GateMeasured(gate.wave, gate.phase, gate.index, True, "fine"))
            for name, target in list(self.machine.targets.items()):
                if not self.machine.is_online(name) or target.state == "owed":
                    self.give(ev.Contact(name, True))
                if target.state in FLYING | {"lost"}:
                    self.give(ev.Acknowledged(name, target.attempt))
                    self.give(ev.Reported(name, target.attempt, THIS, "healthy"))
            wake = self.machine.next_wake()
            self.now = wake if wake is not None else self.now + 1
            self.give(ev.Tick())
        raise AssertionError(f"it does not end: {self.machine.state} {self.machine.why}")

    def people(self) -> None:
        """Approvers approve; who is on duty tries again what failed, and promotes a wave that nothing else can pass."""
        machine = self.machine
        for who in ("bob", "dora") if machine.wanted_approvals() else ():
            self.give(ev.Approve(who, "fine"))
        if machine.state in {"Paused", "Held"} and machine.count(*HARMED):
            self.give(ev.Retry("test", "again"))
        if machine.state == "Paused":
            self.give(ev.Resume("test", ""))
        if machine.state == "Held" and machine.why.startswith("quorum") and not machine.count("owed"):
            self.give(ev.Promote("test", "those who are left are enough"))


class AnyOrder(RuleBasedStateMachine):
    """Every input in every state, at any time."""

    driven: Driven

    @initialize(
        plan=full_plans(),
        carried=st.integers(0, 255),
        may_return=st.booleans(),
        not_before=st.sampled_from([0.0, 0.0, 1030.0, 1300.0, 2000.0]),
    )
    def start(self, plan: ResolvedPlan, carried: int, may_return: bool, not_before: float) -> None:
        names = sorted(name for wave in plan.waves for name in wave.members)
        busy = (
            tuple(name for number, name in enumerate(names) if carried >> number & 1)
            if carried % 3 == 0
            else ()
        )
        self.driven = Driven(plan, carried=busy, may_return=may_return, not_before=not_before)
        self.names = sorted(self.driven.machine.targets)

    def attempt(self, name: str) -> int:
        return self.driven.machine.targets[name].attempt

    def pick(self, number: int) -> str:
        """Mostly one that something happens to: in flight or waiting for it."""
        flying = [target.cluster for target in self.driven.machine.outstanding()]
        pool = flying if flying and number % 4 else self.names
        return pool[number // 4 % len(pool)]

    @rule(seconds=st.sampled_from([0, 1, 29, 30, 60, 179, 300, 601, 86_400]))
    def time_passes(self, seconds: int) -> None:
        self.driven.now += seconds
        self.driven.give(ev.Tick())

    @rule()
    def time_comes(self) -> None:
        self.driven.now = self.driven.machine.next_wake() or self.driven.now
        self.driven.give(ev.Tick())

    @rule(number=st.integers(0, 63), off=st.sampled_from([0, 0, 0, 1, -1]))
    def acknowledge(self, number: int, off: int) -> None:
        name = self.pick(number)
        self.driven.give(ev.Acknowledged(name, self.attempt(name) + off))

    @rule(number=st.integers(0, 63))
    def refuse(self, number: int) -> None:
        name = self.pick(number)
        self.driven.give(ev.Refused(name, self.attempt(name), "P001", "denied"))

    @rule(number=st.integers(0, 63), seconds=st.sampled_from([-10, 30, 600, 86_400]))
    def defer(self, number: int, seconds: int) -> None:
        name = self.pick(number)
        self.driven.give(ev.Deferred(name, self.attempt(name), self.driven.now + seconds, "closed"))

    @rule(
        number=st.integers(0, 63),
        off=st.sampled_from([0, 0, 0, 0, 1, -1]),
        digest=st.sampled_from([THIS, THIS, THIS, OTHER]),
        outcome=st.sampled_from(["staged", "staged", "applying", "healthy", "healthy", "failed", "returned"]),
    )
    def report(self, number: int, off: int, digest: str, outcome: str) -> None:
        name = self.pick(number)
        self.driven.give(ev.Reported(name, self.attempt(name) + off, digest, outcome, "K1", "said so"))  # type: ignore[arg-type]

    @rule(number=st.integers(0, 63))
    def healthy_in_contact(self, number: int) -> None:
        name = self.pick(number)
        self.driven.give(ev.Contact(name, True))
        self.driven.give(ev.Reported(name, self.attempt(name), THIS, "healthy"))

    @rule(number=st.integers(0, 63), times=st.integers(1, 5))
    def flap(self, number: int, times: int) -> None:
        """Unhealthy and healthy again, in contact all the time."""
        name = self.pick(number)
        self.driven.give(ev.Contact(name, True))
        for _ in range(times):
            self.driven.give(ev.Reported(name, self.attempt(name), THIS, "healthy"))
            self.driven.give(ev.Reported(name, self.attempt(name), THIS, "applying", "", "crash loop"))

    @rule(number=st.integers(0, 63))
    def hold(self, number: int) -> None:
        self.driven.give(ev.Hold(self.pick(number), "frozen"))

    @rule()
    def unhold_all(self) -> None:
        for name in sorted(self.driven.recount.held):
            self.driven.give(ev.Unhold(name))

    @rule(offers=st.sampled_from([0, 1, 2, None]))
    def allowance(self, offers: int | None) -> None:
        self.driven.give(ev.Allowance(offers))

    @rule(number=st.integers(0, 63))
    def settled(self, number: int) -> None:
        self.driven.give(ev.Settled(self.pick(number)))

    @rule(passed=st.sampled_from([True, True, False]), stray=st.integers(0, 7))
    def measure(self, passed: bool, stray: int) -> None:
        for gate in self.driven.machine.pending_gates():
            self.driven.give(ev.GateMeasured(gate.wave, gate.phase, gate.index, passed, "seen"))
        self.driven.give(ev.GateMeasured(stray % 3, "before" if stray % 2 else "after", stray, True, "stray"))

    @rule(who=st.sampled_from(["author", "bob", "dora", "eve"]), rejects=st.integers(0, 4))
    def approve(self, who: str, rejects: int) -> None:
        self.driven.give(ev.Approve(who, "") if rejects else ev.Reject(who, "no"))

    @rule(number=st.integers(0, 63), everybody=st.booleans())
    def retry(self, number: int, everybody: bool) -> None:
        self.driven.give(ev.Retry("test", "", () if everybody else (self.pick(number),)))

    @rule(number=st.integers(0, 63))
    def skip(self, number: int) -> None:
        self.driven.give(ev.Skip(self.names[number % len(self.names)], "test", "rebuilt"))

    @rule(reason=st.sampled_from(["", "enough", "enough"]))
    def promote(self, reason: str) -> None:
        self.driven.give(ev.Promote("test", reason))

    @precondition(lambda self: len(self.driven.log) > 12)
    @rule(number=st.integers(0, 3))
    def supersede(self, number: int) -> None:
        if number == 0:
            self.driven.give(ev.Supersede("shop-0002"))

    @rule(number=st.integers(0, 63), online=st.booleans())
    def contact(self, number: int, online: bool) -> None:
        self.driven.give(ev.Contact(self.pick(number), online))

    @rule()
    def pause(self) -> None:
        self.driven.give(ev.Pause("test", "look"))

    @rule()
    def resume(self) -> None:
        self.driven.give(ev.Resume("test", ""))

    @rule()
    def pause_for_a_moment(self) -> None:
        """Offers are withdrawn and made again; answers to the first ones may still come."""
        self.driven.give(ev.Pause("test", "look"))
        self.driven.give(ev.Resume("test", ""))

    @rule()
    def all_that_took_an_offer_fail(self) -> None:
        """The worst news at once, from everybody who could have it."""
        for name, place in self.driven.recount.places.items():
            if place.offered_at is not None and place.state in FLYING | {"waiting"}:
                self.driven.give(ev.Reported(name, self.attempt(name), THIS, "failed", "K1", "said so"))

    @precondition(lambda self: len(self.driven.log) > 12)
    @rule()
    def abort(self) -> None:
        self.driven.give(ev.Abort("test", ""))

    @rule(number=st.integers(0, 63))
    def leave(self, number: int) -> None:
        if number % 8 == 0:
            self.driven.give(ev.MemberRemoved(self.pick(number), "left the registry"))

    @rule(number=st.integers(0, 63))
    def stranger(self, number: int) -> None:
        self.driven.give(ev.Reported(f"stranger-{number}", 1, THIS, "healthy"))
        self.driven.give(ev.Contact(f"stranger-{number}", True))

    @rule(
        says_so=st.booleans(), gap=st.sampled_from([0, 30, 120]), kept=st.sampled_from([0.0, 0.5, 0.9, 1.0])
    )
    def coordinator_restarts(self, says_so: bool, gap: int, kept: float) -> None:
        """kill -9: nothing but the log comes back, or a snapshot and the rest of it; contact is told again, perhaps later."""
        driven = self.driven
        online = [name for name in self.names if driven.machine.is_online(name)]
        driven.machine = driven.replayed(kept)
        if says_so:
            driven.take(driven.machine.reconnecting(driven.now, driven.now + 60), ev.Tick())
        driven.now += gap
        driven.give(ev.Tick())
        for name in online:
            driven.give(ev.Contact(name, True))

    @invariant()
    def words(self) -> None:
        if hasattr(self, "driven"):
            machine = self.driven.machine
            assert sum(len(wave.spec.members) for wave in machine.waves) == len(self.names)
            for wave in machine.waves:
                settled = wave.count(
                    "waiting", "deferred", "done", "owed", "skipped", "failed", "returned", "lost"
                )
                assert settled + len(wave.flying) == len(wave.spec.members)
            for target in machine.targets.values():
                text = explain(machine, target.cluster, self.driven.now)
                assert text.startswith(f"{target.cluster} is {target.state}")
            for flying in machine.outstanding():
                assert not flying.soak_runs or machine.is_online(flying.cluster)
                if flying.state in WAITS and self.driven.now < machine.started.not_before:
                    assert not machine.is_online(flying.cluster) or not (
                        machine.state == "Paused"
                        or machine.stopping
                        or flying.cluster in self.driven.recount.held
                    ), "who can be told has no offer that waits for its time"
                if flying.state == "offered":
                    assert flying.cluster not in self.driven.recount.held, "an offer to a held cluster stands"
                    assert self.driven.recount.is_open(flying.cluster, self.driven.now), (
                        "it stands in a closed window"
                    )

    def teardown(self) -> None:
        if hasattr(self, "driven"):
            self.driven.deliver_fairly()
            self.driven.check_prefixes()
            length = len(self.driven.log)
            for name in self.names:
                self.driven.give(ev.Reported(name, self.attempt(name), THIS, "failed"))
                self.driven.give(ev.Contact(name, False))
                self.driven.give(ev.Deferred(name, self.attempt(name), self.driven.now + 60, ""))
                self.driven.give(ev.Settled(name))
                self.driven.give(ev.Unhold(name))
            assert len(self.driven.log) == length, "nothing changes after the end"
            self.check_debts()

    def check_debts(self) -> None:
        """An aborted release is never caught up: debts name a release that succeeded, or there are none."""
        machine = self.driven.machine
        before = catchup.Succeeded("shop-0000", "c0", OTHER)
        settlement = catchup.debts_after(machine, before)
        digests = {release.tree_digest for _, release in settlement.owe}
        assert digests <= ({THIS} if machine.state == "Succeeded" else {OTHER})
        if machine.state != "Succeeded":
            assert not catchup.debts_after(machine, None).owe
        assert not settlement.returns or (machine.state, machine.started.plan.scope) != (
            "RolledBack",
            "target",
        )
        back = set(machine.to_return())
        assert not back or machine.state == "RolledBack"
        assert all(self.driven.recount.places[name].state == "done" for name in back)
        assert not back & set(settlement.returns)


TestAnyOrder = AnyOrder.TestCase


@given(plan=plans(), order=st.randoms(use_true_random=False))
def test_a_release_that_cuts_clusters_off_stops_at_the_first_wave(plan: ResolvedPlan, order: object) -> None:
    driven = Driven(plan)
    for name in driven.machine.targets:
        driven.give(ev.Contact(name, True))
    for _ in range(200):
        if driven.machine.has_ended or driven.machine.state == "Paused":
            break
        flying = [t for t in driven.machine.outstanding() if t.state == "offered"]
        order.shuffle(flying)  # type: ignore[attr-defined]
        for target in flying:
            driven.give(ev.Acknowledged(target.cluster, 1))
            driven.give(ev.Reported(target.cluster, 1, THIS, "applying"))
            driven.give(ev.Contact(target.cluster, False))  # and is never heard of again
        driven.now = driven.machine.next_wake() or driven.now + 1
        driven.give(ev.Tick())
    assert driven.machine.wave == 0
    assert driven.machine.state in {"Paused", "Failed", "RolledBack", "Held"}
    first = plan.waves[0]
    assert driven.recount.number(0, HARMED) <= first.max_failed + first.max_in_flight
    assert all(place.state == "waiting" for place in driven.recount.places.values() if place.wave)


@given(plan=plans(), years=st.integers(1, 10))
def test_time_alone_never_passes_a_wave_below_quorum(plan: ResolvedPlan, years: int) -> None:
    assume(all(wave.offline_policy == "owe" for wave in plan.waves))
    driven = Driven(plan)
    for _ in range(50 * years):
        driven.now = driven.machine.next_wake() or driven.now + 7 * 86_400
        driven.give(ev.Tick())
    assert driven.machine.wave == 0
    assert driven.machine.state == "Held"
    assert {place.state for place in driven.recount.places.values() if not place.wave} == {"owed"}
    driven.deliver_fairly()
    assert driven.machine.state == "Succeeded"


@given(plan=plans(), away=st.integers(0, 2**15 - 1))
def test_absent_clusters_are_owed_and_block_nothing(plan: ResolvedPlan, away: int) -> None:
    """With quorum reached by the others, the rollout succeeds, owing exactly the absent ones."""
    assume(all(wave.offline_policy == "owe" for wave in plan.waves))
    names = [name for wave in plan.waves for name in wave.members]
    absent = {name for index, name in enumerate(names) if away >> index & 1}
    driven = Driven(plan)
    for name in names:
        driven.give(ev.Contact(name, name not in absent))
    for _ in range(400):
        if driven.machine.has_ended or driven.machine.state == "Held":
            break
        present = [
            t for t in driven.machine.outstanding() if t.state == "offered" and t.cluster not in absent
        ]
        for target in present:
            driven.give(ev.Reported(target.cluster, 1, THIS, "healthy"))
        if present:
            continue
        driven.now = driven.machine.next_wake() or driven.now
        driven.give(ev.Tick())
    enough = [
        len(set(wave.members) - absent) >= driven.recount.quorum(index)
        for index, wave in enumerate(plan.waves)
    ]
    if all(enough):
        assert driven.machine.state == "Succeeded"
        assert {name for name, place in driven.recount.places.items() if place.state == "owed"} == absent
    else:
        assert driven.machine.state == "Held"
        assert driven.machine.wave == enough.index(False)
