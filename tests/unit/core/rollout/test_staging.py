"""A rollout with a time of its own: prepared at once, applied then, and told apart from both in every sentence."""

from __future__ import annotations

import math

import pytest
from msgspec import structs
from muster_core.errors import RolloutError
from muster_core.rollout import events as ev
from muster_core.rollout.explain import explain, why
from muster_core.rollout.machine import RolloutMachine
from muster_core.rollout.plan import require_not_before
from unit.core.rollout.scenario import DIGEST, START, Story, wave

T = START + 3_600  # 15:00 UTC
DEADLINE = 600.0


def waiting(*members: str, away: tuple[str, ...] = (), flying: int = 2, **more: object) -> Story:
    """A story of one wave that starts anew with a time."""
    story = Story(wave("all", *members, flying=flying), away=away, **more)  # type: ignore[arg-type]
    story.machine = RolloutMachine(structs.replace(story.machine.started, not_before=T))
    story.machine.meet(name for name in members if name not in away)
    story.log = [story.machine.started, *story.machine.begin(START)]
    return story


def stage(story: Story, *names: str) -> None:
    for name in names:
        story.give(ev.Acknowledged(name, 1))
        story.give(ev.Reported(name, 1, DIGEST, "staged"))


def at(story: Story, now: float) -> list[ev.AnyEvent]:
    story.now = now
    return story.give(ev.Tick())


def test_who_is_staged_holds_its_slot_and_its_deadline_runs_from_the_time_on() -> None:
    story = waiting("a", "b", "c")
    stage(story, "a", "b")
    assert [story.state(name) for name in "abc"] == ["staged", "staged", "waiting"]
    assert (story.machine.in_flight, story.machine.next_wake()) == (2, T + DEADLINE)
    assert at(story, T + DEADLINE - 1) == []
    at(story, T + DEADLINE)
    assert story.state("a") == "failed"


def test_staged_and_then_silent_is_lost_and_not_owed_and_not_before_the_deadline() -> None:
    story = waiting("a")
    stage(story, "a")
    story.give(ev.Contact("a", False))
    at(story, T + DEADLINE - 1)
    assert story.state("a") == "staged"
    at(story, T + DEADLINE)
    assert story.state("a") == "lost"


def test_it_is_explained_until_when_it_is_staged() -> None:
    story = waiting("a", "b", "c")
    story.give(ev.Acknowledged("a", 1))
    assert explain(story.machine, "a", START).endswith(
        "It prepares what it applies at 15:00 UTC. It has until 15:10 UTC to become healthy."
    )
    stage(story, "a", "b")
    assert explain(story.machine, "a", START) == (
        "a is staged (wave all). Staged until 15:00 UTC: all of it is prepared and nothing is applied."
        " It has until 15:10 UTC to become healthy."
    )
    assert why(story.machine) == "staged until 15:00 UTC"
    assert "a is staged, and has until 15:10 UTC" in explain(story.machine, "c", START)


def test_at_its_time_it_is_a_rollout_as_any_other() -> None:
    story = waiting("a")
    stage(story, "a")
    story.now = T
    story.give(ev.Reported("a", 1, DIGEST, "applying"))
    assert (story.state("a"), story.machine.next_wake()) == ("applying", T + DEADLINE)
    story.give(ev.Reported("a", 1, DIGEST, "healthy"))
    assert story.machine.state == "Succeeded"


def test_a_denial_before_the_time_is_failed_and_may_be_tried_again() -> None:
    story = waiting("a")
    story.give(ev.Acknowledged("a", 1))
    story.give(ev.Reported("a", 1, DIGEST, "failed", "P001", "denied"))
    assert (story.state("a"), story.machine.state) == ("failed", "Paused")
    story.give(ev.Retry("ann", ""))
    story.give(ev.Acknowledged("a", 2))
    story.give(ev.Reported("a", 2, DIGEST, "staged"))
    assert story.state("a") == "staged"


def test_a_site_that_is_closed_at_that_time_defers() -> None:
    story = waiting("a")
    stage(story, "a")
    story.now = T
    story.give(ev.Deferred("a", 1, T + 900, "the site's window is closed"))
    assert (story.state("a"), story.machine.in_flight) == ("deferred", 0)
    at(story, T + 900)
    assert story.state("a") == "offered"


def test_a_pause_before_the_time_takes_back_what_is_staged_and_its_end_offers_it_again() -> None:
    story = waiting("a", "b")
    stage(story, "a")
    events = story.give(ev.Pause("ann", "look"))
    assert [type(event).__name__ for event in events] == ["OfferWithdrawn", "OfferWithdrawn", "Paused"]
    # Words that crossed with the withdrawal count for nothing: the agent drops what it staged.
    stage(story, "a", "b")
    assert [story.state(name) for name in "ab"] == ["waiting", "waiting"]
    story.now += 1_800
    story.give(ev.Resume("ann", ""))
    stage(story, "a")
    assert (story.state("a"), story.machine.next_wake()) == ("staged", min(T + DEADLINE, story.now + 900))


def test_who_cannot_be_told_of_the_pause_stays_in_flight_and_is_told_when_it_is_back() -> None:
    story = waiting("a")
    stage(story, "a")
    story.give(ev.Contact("a", False))
    story.give(ev.Pause("ann", "look"))
    assert (story.state("a"), story.machine.in_flight) == ("staged", 1)
    events = story.give(ev.Contact("a", True))
    assert [type(event).__name__ for event in events] == ["OfferWithdrawn"]
    assert not story.machine.stands("a", 1)


def test_after_the_time_nothing_is_taken_back() -> None:
    story = waiting("a")
    stage(story, "a")
    story.now = T
    story.give(ev.Pause("ann", "look"))
    assert story.state("a") == "staged"
    with pytest.raises(RolloutError, match="R042"):
        story.give(ev.Skip("a", "ann", "rebuilt"))


def test_a_pause_before_the_time_costs_no_deadline() -> None:
    story = waiting("a")
    stage(story, "a")
    story.give(ev.Contact("a", False))
    story.give(ev.Pause("ann", "look"))
    assert story.machine.next_wake() is None
    story.now += 1_800
    story.give(ev.Resume("ann", ""))
    assert story.machine.next_wake() == T + DEADLINE


def test_a_hold_and_a_skip_take_back_what_is_staged() -> None:
    story = waiting("a", "b")
    stage(story, "a", "b")
    story.give(ev.Hold("a", "frozen"))
    assert story.state("a") == "waiting"
    story.give(ev.Skip("b", "ann", "rebuilt"))
    assert story.state("b") == "skipped"
    assert [event.cluster for event in story.log if isinstance(event, ev.OfferWithdrawn)] == ["a", "b"]


@pytest.mark.parametrize(
    ("not_before", "expire", "not_after", "refused"),
    [
        (T, None, math.inf, False),
        (T, 3_601.0, math.inf, False),
        (T, 3_600.0, math.inf, True),
        (T, None, T + 1, False),
        (T, None, T, True),
        (START, None, math.inf, True),
        (START - 1, None, math.inf, True),
    ],
)
def test_a_time_at_which_nothing_could_be_applied_is_refused(
    not_before: float, expire: float | None, not_after: float, refused: bool
) -> None:
    if not refused:
        require_not_before(not_before, START, expire=expire, not_after=not_after)
        return
    with pytest.raises(RolloutError) as caught:
        require_not_before(not_before, START, expire=expire, not_after=not_after)
    assert caught.value.code == "R053"
