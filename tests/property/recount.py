"""A rollout counted again from its log, and plans and a driver for whoever lets a machine run beside the recount.

The recount knows only the log: it keeps one dict of states and scans it, and shares no counter with the machine.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import get_args

from hypothesis import note
from muster_core.errors import RolloutError
from muster_core.rollout import events as ev
from muster_core.rollout import snapshot
from muster_core.rollout.board import WaveBoard
from muster_core.rollout.machine import RolloutMachine
from muster_core.rollout.plan import ResolvedPlan
from muster_core.windows import Window

COMMANDS = get_args(ev.Command)
FLYING = {"offered", "acknowledged", "staged", "applying", "soaking"}
WAITS = {"acknowledged", "staged"}  # before its time: nothing is applied
HARMED = {"failed", "returned", "lost"}
EPSILON = 1e-6
THIS, OTHER = "digest-this", "digest-other"


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
