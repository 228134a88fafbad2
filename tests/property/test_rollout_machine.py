"""The rollout machine under every order of inputs, on virtual time, against a recount of its log.

The recount knows only the log: it keeps one dict of states and scans it, and shares no counter with the
machine.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

from hypothesis import assume, given, note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from muster_core.errors import RolloutError
from muster_core.rollout import catchup
from muster_core.rollout import events as ev
from muster_core.rollout.board import WaveBoard
from muster_core.rollout.explain import explain
from muster_core.rollout.machine import RolloutMachine
from muster_core.rollout.plan import ResolvedPlan, ResolvedWave

FLYING = {"offered", "acknowledged", "applying", "soaking"}
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


def started(plan: ResolvedPlan) -> ev.Started:
    return ev.Started(
        at=1000.0, rollout="shop-0001", bundle="shop", commit="c1", tree_digest=THIS, plan=plan, by="test"
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

    def unpaused(self, at: float) -> float:
        """Time without pauses: what deadlines count."""
        return at - self.paused_for - (at - self.paused_at if self.paused else 0.0)

    @classmethod
    def of(cls, plan: ResolvedPlan) -> Recount:
        return cls(
            plan, {name: Place(index) for index, wave in enumerate(plan.waves) for name in wave.members}
        )

    def number(self, wave: int, states: set[str]) -> int:
        return sum(place.wave == wave and place.state in states for place in self.places.values())

    def quorum(self, wave: int) -> int:
        spec = self.plan.waves[wave]
        base = len(spec.members) - self.number(wave, {"skipped"})
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
            return
        match event:
            case ev.WaveOpened():
                assert event.wave == self.wave + 1
                assert event.wave == 0 or event.wave - 1 in self.passed
                assert not self.paused
                self.wave = event.wave
            case ev.WavePassed():
                assert not self.number(event.wave, FLYING | {"waiting"})
                assert self.number(event.wave, {"done"}) >= self.quorum(event.wave)
                if self.plan.waves[event.wave].offline_policy == "wait":
                    assert not self.number(event.wave, {"owed"})
                self.passed.add(event.wave)
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
                    assert self.passed == set(range(len(self.plan.waves)))
                    assert not states & (FLYING | {"waiting"})
                if event.state == "RolledBack":
                    assert not states & FLYING
            case ev.Held():
                waits = self.plan.waves[self.wave].offline_policy == "wait" and self.number(
                    self.wave, {"owed"}
                )
                assert waits or self.number(self.wave, {"done"}) < self.quorum(self.wave)
            case _:
                pass

    def _one_value_at_a_time(self, cluster: str, wave: int) -> None:
        """Who answered an offer that was withdrawn or owed may be of another value: nobody could stop that."""
        spread = self.plan.waves[wave].spread
        for name, place in self.places.items():
            if spread and place.wave == wave and place.state in FLYING and not place.crossed:
                assert spread[name] == spread[cluster]

    def go_on(self, at: float) -> None:
        self.paused_for, self.paused = at - self.unpaused(at), False

    def _target(self, event: ev.TargetEvent, place: Place) -> None:
        spec, at = self.plan.waves[place.wave], event.at
        if isinstance(event, (ev.TargetAcknowledged, ev.TargetFailed)) and not place.acknowledged:
            place.late = (
                place.late or place.was_owed
            )  # harm that an owed target brings when its answer was only late
        if isinstance(event, (ev.TargetAcknowledged, ev.SoakSuspended, ev.SoakBroken)):
            place.clock = self.unpaused(at)
        if isinstance(event, ev.TargetLost) or (isinstance(event, ev.TargetFailed) and event.code == "R020"):
            assert self.unpaused(at) - place.clock >= self.plan.deadline - EPSILON
        match event:
            case ev.OfferMade():
                assert place.state == "waiting"
                assert not self.paused
                assert not self.stopping
                assert place.wave <= self.wave
                holding = FLYING if spec.soak_holds_slot else FLYING - {"soaking"}
                assert self.number(place.wave, holding) < spec.max_in_flight
                self._one_value_at_a_time(event.cluster, place.wave)
                for index in range(self.wave + 1):
                    limits = self.plan.waves[index]
                    assert self.number(index, HARMED) <= limits.max_failed
                    assert limits.max_lost is None or self.number(index, {"lost"}) <= limits.max_lost
                place.state, place.offered_at, place.acknowledged, place.crossed = "offered", at, False, False
            case ev.OfferWithdrawn():
                assert place.state == "offered"
                place.state = "waiting"
            case ev.TargetAcknowledged():
                assert place.offered_at is not None
                assert place.state in {"offered", "waiting", "owed"}
                place.crossed = place.state != "offered"
                place.state, place.acknowledged = "acknowledged", True
            case ev.TargetApplying():
                assert place.state == "acknowledged"
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
                assert at - place.soak_since - place.stood >= spec.soak - EPSILON
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
                place.state = "skipped"
            case _:
                raise AssertionError(f"unknown event {event}")


def fingerprint(machine: RolloutMachine) -> object:
    """Everything that the log must give back; who is in contact is not of the log."""
    return (
        machine.state, machine.why, machine.wave, machine.stopping, machine.ended_at, machine.next_wake(),
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


class Driven:
    """A machine, its log, its shadow made by apply alone, and the recount; all compared after every input."""

    def __init__(self, plan: ResolvedPlan, now: float = 1000.0) -> None:
        self.now = now
        self.machine = RolloutMachine(started(plan))
        self.shadow = RolloutMachine(started(plan))
        self.recount = Recount.of(plan)
        self.log: list[ev.AnyEvent] = [self.machine.started]
        self.marks: list[tuple[int, object]] = [(1, fingerprint(self.machine))]
        self.take(self.machine.begin(now), ev.Tick())

    def give(self, given: ev.Input) -> list[ev.AnyEvent]:
        held = self.recount
        below = (
            held.wave >= 0
            and held.number(held.wave, {"done"}) < held.quorum(held.wave)
            and not held.number(held.wave, FLYING | {"waiting"})
        )
        try:
            events = self.machine.handle(given, self.now)
        except RolloutError:
            assert isinstance(given, (ev.Pause, ev.Resume, ev.Abort)), (
                "only an operator's command may be refused"
            )
            return []
        if isinstance(given, ev.Tick) and below:
            assert not [event for event in events if isinstance(event, (ev.WavePassed, ev.WaveOpened))]
        self.take(events, given)
        return events

    def take(self, events: list[ev.AnyEvent], given: ev.Input) -> None:
        for event in events:
            note(f"{self.now}: {event}")
            if isinstance(event, ev.SoakStarted):
                assert isinstance(given, ev.Reported)
                assert (given.cluster, given.outcome, given.tree_digest) == (event.cluster, "healthy", THIS)
                assert given.attempt == self.machine.targets[event.cluster].attempt
            if isinstance(event, ev.TargetDone):
                assert self.machine.is_online(event.cluster), "unknown is not healthy"
            self.recount.take(event)
            self.shadow.apply(ev.decode(ev.encode(event)))
        self.log += events
        assert fingerprint(self.machine) == fingerprint(self.shadow)
        self.marks.append((len(self.log), fingerprint(self.machine)))
        wake = self.machine.next_wake()
        assert wake is None or wake > self.now, "an executor that wakes for nothing"
        for name, place in self.recount.places.items():
            assert self.machine.targets[name].state == place.state

    def check_prefixes(self) -> None:
        """Replaying any stored prefix gives the state at that time."""
        replayed = RolloutMachine(started(self.recount.plan))
        applied = 1
        for length, expected in self.marks:
            for event in self.log[applied:length]:
                replayed.apply(event)
            applied = length
            assert fingerprint(replayed) == expected

    def deliver_fairly(self) -> None:
        """Every cluster is back and gets healthy; the operator resumes. It ends, or only harm keeps it."""
        for name in self.machine.targets:
            self.give(ev.Contact(name, True))
        for _ in range(20 * len(self.machine.targets) + 20):
            if self.machine.has_ended:
                return
            if self.machine.state == "Paused":
                self.give(ev.Resume("test", ""))
            for name, target in list(self.machine.targets.items()):
                if target.state == "owed":
                    self.give(ev.Contact(name, True))
                if target.state in FLYING | {"lost"}:
                    self.give(ev.Acknowledged(name, target.attempt))
                    self.give(ev.Reported(name, target.attempt, THIS, "healthy"))
            wake = self.machine.next_wake()
            self.now = wake if wake is not None else self.now + 1
            self.give(ev.Tick())
        harmed = sum(self.recount.number(index, HARMED) for index in range(self.machine.wave + 1))
        assert harmed, "nothing is harmed and it does not end"
        assert self.machine.state in {"Held", "Paused"}
        self.give(ev.Abort("test", "cannot end by itself"))
        assert self.machine.has_ended


class AnyOrder(RuleBasedStateMachine):
    """Every input in every state, at any time."""

    driven: Driven

    @initialize(plan=plans())
    def start(self, plan: ResolvedPlan) -> None:
        self.driven = Driven(plan)
        self.names = sorted(self.driven.machine.targets)

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

    @rule(number=st.integers(0, 63), attempt=st.sampled_from([1, 1, 1, 2, 0]))
    def acknowledge(self, number: int, attempt: int) -> None:
        self.driven.give(ev.Acknowledged(self.pick(number), attempt))

    @rule(number=st.integers(0, 63))
    def refuse(self, number: int) -> None:
        self.driven.give(ev.Refused(self.pick(number), 1, "P001", "denied"))

    @rule(
        number=st.integers(0, 63),
        attempt=st.sampled_from([1, 1, 1, 1, 2]),
        digest=st.sampled_from([THIS, THIS, THIS, OTHER]),
        outcome=st.sampled_from(["applying", "healthy", "healthy", "failed", "returned"]),
    )
    def report(self, number: int, attempt: int, digest: str, outcome: str) -> None:
        self.driven.give(ev.Reported(self.pick(number), attempt, digest, outcome, "K1", "said so"))  # type: ignore[arg-type]

    @rule(number=st.integers(0, 63))
    def healthy_in_contact(self, number: int) -> None:
        name = self.pick(number)
        self.driven.give(ev.Contact(name, True))
        self.driven.give(ev.Reported(name, 1, THIS, "healthy"))

    @rule(number=st.integers(0, 63), times=st.integers(1, 5))
    def flap(self, number: int, times: int) -> None:
        """Unhealthy and healthy again, in contact all the time."""
        name = self.pick(number)
        self.driven.give(ev.Contact(name, True))
        for _ in range(times):
            self.driven.give(ev.Reported(name, 1, THIS, "healthy"))
            self.driven.give(ev.Reported(name, 1, THIS, "applying", "", "crash loop"))

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
                self.driven.give(ev.Reported(name, 1, THIS, "failed", "K1", "said so"))

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

    @rule(says_so=st.booleans(), gap=st.sampled_from([0, 30, 120]))
    def coordinator_restarts(self, says_so: bool, gap: int) -> None:
        """kill -9: nothing but the log comes back; contact is told again, perhaps after a while."""
        driven = self.driven
        online = [name for name in self.names if driven.machine.is_online(name)]
        driven.machine = RolloutMachine.replay([ev.decode(ev.encode(event)) for event in driven.log])
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
                settled = wave.count("waiting", "done", "owed", "skipped", "failed", "returned", "lost")
                assert settled + len(wave.flying) == len(wave.spec.members)
            for target in machine.targets.values():
                text = explain(machine, target.cluster, self.driven.now)
                assert text.startswith(f"{target.cluster} is {target.state}")
            for flying in machine.outstanding():
                assert not flying.soak_runs or machine.is_online(flying.cluster)

    def teardown(self) -> None:
        if hasattr(self, "driven"):
            self.driven.deliver_fairly()
            self.driven.check_prefixes()
            length = len(self.driven.log)
            for name in self.names:
                self.driven.give(ev.Reported(name, 1, THIS, "failed"))
                self.driven.give(ev.Contact(name, False))
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
