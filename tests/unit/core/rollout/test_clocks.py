"""The clocks of targets: set again and again, cleared, replayed, each fires at its own time and once."""

from __future__ import annotations

from muster_core.rollout import events as ev
from muster_core.rollout.machine import RolloutMachine
from muster_core.rollout.plan import ResolvedWindow
from unit.core.rollout.scenario import START, Story, wave


def test_a_clock_that_is_set_later_fires_at_its_last_time_alone() -> None:
    """Offered: 900 s from the start; acknowledged after 800: 600 s from there."""
    story = Story(wave("all", "a"))
    story.wait(800)
    story.acknowledge("a")
    assert story.machine.next_wake() == START + 1_400
    story.wait(599)
    assert story.state("a") == "acknowledged"
    story.wait(1)
    assert story.state("a") == "failed"


def test_a_clock_that_is_set_earlier_and_then_later_again_fires_at_each_of_its_times() -> None:
    story = Story(wave("all", "a", soak=30))
    story.acknowledge("a")
    story.healthy("a")
    assert story.machine.next_wake() == START + 30
    story.give(ev.Reported("a", 1, "tree-1", "applying"))
    assert story.machine.next_wake() == START + 600, "a flap: it has its whole deadline to be healthy again"
    story.wait(100)
    story.healthy("a")
    assert story.machine.next_wake() == START + 130
    story.wait(30)
    assert story.state("a") == "done"


def test_the_clock_of_one_that_was_carried_over_runs_after_a_replay() -> None:
    """Its clock of before is over; the one of its offer comes later, and is not taken for set."""
    story = Story(wave("all", "a", "b", flying=1), carried=("a",))
    story.give(ev.Settled("a"))
    story.acknowledge("a")
    machine = RolloutMachine.replay(story.log)
    machine.meet("ab")
    assert machine.next_wake() == story.machine.next_wake() == START + 600
    story = Story(wave("all", "a", "b", flying=1), carried=("b",))
    story.give(ev.Settled("b"))
    machine = RolloutMachine.replay(story.log)
    machine.meet("ab")
    machine.handle(ev.Acknowledged("a", 1), START)
    machine.handle(ev.Reported("a", 1, "tree-1", "healthy"), START)
    assert machine.targets["b"].state == "offered"
    assert machine.next_wake() == START + 900


def test_a_window_is_watched_from_the_opening_of_its_wave_though_no_slot_is_free() -> None:
    window = ResolvedWindow("0 15 * * *", 7_200.0, "UTC")
    story = Story(wave("all", "a", "b", flying=1, window=window), carried=("a",))
    assert story.machine.next_wake() == START + 600
    story.wait(600)
    assert story.machine.next_wake() == START + 3_600
