"""Gates before and after a wave: approvals, start times, and what is measured."""

from __future__ import annotations

import pytest
from muster_core.errors import RolloutError
from muster_core.rollout import events as ev
from muster_core.rollout.machine import RolloutMachine
from muster_core.rollout.plan import ResolvedGate
from unit.core.rollout.scenario import START, Story, wave

ERRORS = ResolvedGate(
    kind="prometheus",
    server="metrics",
    query="errors",
    below=0.01,
    consecutive=3,
    interval=60.0,
    fail_after=600.0,
)
SMOKE = ResolvedGate(kind="http", url="https://smoke.example.com")


def approval(count: int = 1, *by: str, not_author: bool = True) -> ResolvedGate:
    return ResolvedGate(kind="approval", count=count, by=by, not_author=not_author)


def measured(story: Story, passed: bool, phase: ev.Phase = "before", wave: int = 0, index: int = 0) -> None:
    story.give(ev.GateMeasured(wave, phase, index, passed, "0.02" if not passed else "0.001"))


def test_nobody_is_offered_anything_before_the_gates_before_a_wave_have_passed() -> None:
    story = Story(wave("all", "a", gates_before=(SMOKE,)))
    assert story.state("a") == "waiting"
    (gate,) = story.machine.pending_gates()
    assert (gate.wave, gate.phase, gate.index, gate.gate, gate.since) == (0, "before", 0, SMOKE, START)
    assert story.machine.state == "Held"
    assert story.machine.why == "gate: before wave all: http https://smoke.example.com"
    measured(story, True)
    assert (story.state("a"), story.machine.pending_gates(), story.machine.state) == (
        "offered",
        [],
        "Running",
    )


def test_measurements_count_in_a_row_and_a_bad_one_starts_anew() -> None:
    story = Story(wave("all", "a", gates_before=(ERRORS,)))
    for passed in (True, True, False, True, True):
        measured(story, passed)
        assert story.state("a") == "waiting"
    measured(story, True)
    assert story.state("a") == "offered"


def test_a_gate_that_does_not_pass_in_its_time_does_what_the_plan_says() -> None:
    story = Story(wave("all", "a", gates_before=(ERRORS,)))
    measured(story, False)
    story.wait(599)
    assert story.machine.state == "Held"
    story.wait(1)
    assert story.machine.state == "Paused"
    assert "gate before wave all: prometheus metrics: errors did not pass in 10m (0.02)" in story.machine.why
    assert not story.machine.pending_gates()
    measured(story, True)
    assert story.machine.state == "Paused"
    story.give(ev.Resume("ann", "the exporter was down"))
    assert story.machine.pending_gates()[0].since == story.now
    story.wait(599)
    assert story.machine.state == "Held", "it has its whole time again"
    for _ in range(3):
        measured(story, True)
    assert story.state("a") == "offered"


def test_without_fail_after_it_holds_for_ever() -> None:
    story = Story(wave("all", "a", gates_before=(SMOKE,)), action="abort")
    measured(story, False)
    story.wait(365 * 86_400)
    assert (story.machine.state, story.machine.next_wake()) == ("Held", None)


def test_a_pause_stops_the_clock_of_a_gate() -> None:
    story = Story(wave("all", "a", gates_before=(ERRORS,)), action="abort")
    story.wait(300)
    story.give(ev.Pause("ann", "lunch"))
    story.wait(86_400)
    story.give(ev.Resume("ann", ""))
    story.wait(299)
    assert story.machine.state == "Held"
    story.wait(1)
    assert story.machine.state == "Failed"


def test_what_was_measured_before_a_pause_is_not_in_a_row_with_what_is_after_it() -> None:
    story = Story(wave("all", "a", gates_before=(ERRORS,)))
    measured(story, True)
    measured(story, True)
    story.give(ev.Pause("ann", "lunch"))
    measured(story, True)  # a look that was on its way
    story.give(ev.Resume("ann", ""))
    measured(story, True)
    measured(story, True)
    assert story.state("a") == "waiting"
    measured(story, True)
    assert story.state("a") == "offered"


def test_a_start_time_holds_until_it_comes() -> None:
    story = Story(wave("all", "a", gates_before=(ResolvedGate(kind="time", after=START + 3600),)))
    assert story.machine.next_wake() == START + 3600
    story.wait(3599)
    assert story.state("a") == "waiting"
    story.wait(1)
    assert story.state("a") == "offered"


def test_gates_after_a_wave_are_asked_when_it_is_done_and_soaked() -> None:
    """Azure/AKS#5423: an approval was accepted although the target could not go on."""
    story = Story(
        wave("canary", "a", soak=60, gates_after=(approval(),)), wave("rest", "b"), authors=("ann",)
    )
    story.healthy("a")
    with pytest.raises(RolloutError, match="R045") as caught:
        story.give(ev.Approve("bob", "too early"))
    assert "asks for one when its targets are done and soaked" in str(caught.value)
    story.wait(60)
    (wanted,) = story.machine.wanted_approvals()
    assert (wanted.wave, wanted.phase, wanted.since, wanted.given) == (0, "after", story.now, ())
    story.wait(86_400)
    assert (story.machine.state, story.state("b")) == ("Held", "waiting")
    story.give(ev.Approve("bob", "graphs are fine"))
    assert story.state("b") == "offered"


def test_an_author_may_not_approve_unless_the_plan_lets_them() -> None:
    story = Story(wave("all", "a", gates_before=(approval(),)), authors=("ann", "carol"))
    with pytest.raises(RolloutError, match="R046") as caught:
        story.give(ev.Approve("carol", ""))
    assert "its authors may not approve it" in str(caught.value)
    assert "any approver" in str(caught.value)
    story = Story(wave("all", "a", gates_before=(approval(not_author=False),)), authors=("ann",))
    story.give(ev.Approve("ann", ""))
    assert story.state("a") == "offered"


def test_so_many_different_people_of_those_who_are_named() -> None:
    story = Story(wave("all", "a", gates_before=(approval(2, "bob", "dora"),)))
    with pytest.raises(RolloutError, match="R046") as caught:
        story.give(ev.Approve("eve", ""))
    assert "Who may: bob, dora." in str(caught.value)
    story.give(ev.Approve("bob", ""))
    with pytest.raises(RolloutError, match="2 different people"):
        story.give(ev.Approve("bob", "once more"))
    assert story.machine.wanted_approvals()[0].given == ("bob",)
    story.give(ev.Approve("dora", ""))
    assert story.state("a") == "offered"


def test_a_rejection_is_a_failed_gate_and_approvals_before_it_are_void() -> None:
    story = Story(wave("all", "a", gates_before=(approval(2),)))
    story.give(ev.Approve("bob", ""))
    story.give(ev.Reject("dora", "wrong day"))
    assert (story.machine.state, story.machine.why) == (
        "Paused",
        "by plan: gate before wave all: rejected by dora: wrong day",
    )
    with pytest.raises(RolloutError, match="R045"):
        story.give(ev.Approve("eve", "but I like it"))
    story.give(ev.Resume("ann", "tomorrow"))
    story.give(ev.Approve("dora", ""))
    assert story.state("a") == "waiting"
    story.give(ev.Approve("bob", ""))
    assert story.state("a") == "offered"
    story = Story(wave("all", "a", gates_before=(approval(1, "bob"),)), action="abort")
    with pytest.raises(RolloutError, match="R046"):
        story.give(ev.Reject("eve", ""))
    story.give(ev.Reject("bob", "no"))
    assert story.machine.state == "Failed"


def test_gates_of_one_phase_are_asked_together() -> None:
    """KubeFleet's waits and approvals after a stage run side by side; so do ours."""
    gates = (ResolvedGate(kind="time", after=START + 60), approval(), SMOKE)
    story = Story(wave("all", "a", gates_before=gates))
    measured(story, True, index=2)
    story.give(ev.Approve("bob", ""))
    assert story.state("a") == "waiting"
    story.wait(60)
    assert story.state("a") == "offered"


def test_a_look_at_a_gate_that_is_not_asked_says_nothing() -> None:
    story = Story(wave("one", "a", gates_before=(SMOKE,)), wave("two", "b", gates_before=(SMOKE,)))
    measured(story, True, wave=1)
    measured(story, True, "after")
    measured(story, True, index=7)
    assert story.state("a") == "waiting"


def test_approvals_and_passed_gates_are_of_the_log_and_looks_are_not() -> None:
    story = Story(wave("all", "a", gates_before=(approval(2), ERRORS, SMOKE)))
    story.give(ev.Approve("bob", ""))
    measured(story, True, index=1)
    measured(story, True, index=1)
    measured(story, True, index=2)
    machine = RolloutMachine.replay(ev.decode(ev.encode(event)) for event in story.log)
    assert machine.wanted_approvals()[0].given == ("bob",)
    assert [gate.index for gate in machine.pending_gates()] == [1]
    machine.handle(ev.Approve("dora", ""), story.now)
    for count in (1, 2, 3):
        assert machine.targets["a"].state == "waiting"
        machine.handle(ev.GateMeasured(0, "before", 1, True, ""), story.now + count)
    assert machine.targets["a"].state == "offered"
