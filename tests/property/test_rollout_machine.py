"""The rollout machine under every order of inputs, on virtual time, against a recount of its log."""

from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from muster_core.rollout import catchup
from muster_core.rollout import events as ev
from muster_core.rollout.explain import explain
from muster_core.rollout.plan import ResolvedPlan
from property.plans import full_plans, plans
from property.recount import FLYING, HARMED, OTHER, THIS, WAITS, Driven


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
