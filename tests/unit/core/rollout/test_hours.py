"""Windows of waves: offers go out only while they are open, each site's by its own clock, and a closed one is no failure."""

from __future__ import annotations

import pytest
from muster_core.errors import RolloutError
from muster_core.rollout import events as ev
from muster_core.rollout.hours import Hours
from muster_core.rollout.machine import RolloutMachine
from muster_core.rollout.plan import ResolvedGate, ResolvedPlan, ResolvedWindow, require_time
from unit.core.rollout.scenario import START, Story, wave

HOUR = 3600.0
# The story begins at 14:00 UTC on 1 January 1970.
AFTERNOON = ResolvedWindow("0 15 * * *", 2 * HOUR, "UTC")
NIGHT = ResolvedWindow("0 1 * * *", 4 * HOUR, "site")


def test_nothing_is_offered_before_the_window_opens_and_the_wait_is_no_failure() -> None:
    story = Story(wave("stores", "a", "b", flying=2, window=AFTERNOON))
    assert (story.machine.state, story.machine.why) == (
        "Held",
        "window: wave stores opens at 1970-01-01T15:00:00Z",
    )
    assert story.machine.next_wake() == START + HOUR
    story.wait(HOUR - 1)
    assert story.state("a") == "waiting"
    story.wait(1)
    assert [story.state(name) for name in "ab"] == ["offered", "offered"]
    assert story.machine.state == "Running"


def test_an_offer_that_nobody_took_is_withdrawn_when_the_window_closes() -> None:
    story = Story(wave("stores", "a", "b", "c", flying=2, window=AFTERNOON, offline_policy="fail"))
    story.wait(3 * HOUR - 60)
    assert story.state("a") == "failed", "so the plan says of whoever is silent for 15 minutes"
    story = Story(wave("stores", "a", "b", "c", flying=2, window=AFTERNOON))
    story.wait(HOUR)
    story.acknowledge("a")
    story.now = START + 3 * HOUR
    events = story.give(ev.Tick())
    assert [type(e) for e in events if isinstance(e, ev.TargetEvent) and e.cluster == "b"] == [ev.TargetOwed]
    story = Story(wave("stores", "a", "b", "c", flying=2, window=ResolvedWindow("0 15 * * *", 600.0, "UTC")))
    story.wait(HOUR)
    story.acknowledge("a")
    story.wait(590)
    story.healthy("a")
    assert [story.state(name) for name in "abc"] == ["done", "offered", "offered"]
    story.wait(10)
    assert [story.state(name) for name in "abc"] == ["done", "waiting", "waiting"]
    assert story.machine.why == "window: wave stores opens at 1970-01-02T15:00:00Z"
    story.wait(24 * HOUR - 601)
    story.wait(1)
    assert [story.state(name) for name in "abc"] == ["done", "offered", "offered"]
    assert not story.machine.count("failed", "lost", "owed")


def test_what_runs_when_the_window_closes_runs_on() -> None:
    story = Story(wave("stores", "a", soak=4 * HOUR, window=AFTERNOON))
    story.wait(HOUR)
    story.acknowledge("a")
    story.wait(300)
    story.healthy("a")
    story.wait(4 * HOUR)
    assert story.machine.state == "Succeeded"


def test_each_site_has_its_own_night() -> None:
    zones = {"tokyo": "Asia/Tokyo", "berlin": "Europe/Berlin", "lima": "America/Lima"}
    story = Story(wave("edge", "berlin", "lima", "tokyo", flying=3, window=NIGHT, zones=zones))
    opened = {}
    while len(opened) < 3:
        for name in zones:
            if story.state(name) == "offered":
                opened[name] = (story.now - START) / HOUR
                story.healthy(name)
        if len(opened) < 3:
            story.now = story.machine.next_wake() or 0
            story.give(ev.Tick())
    assert opened == {"tokyo": 2.0, "berlin": 10.0, "lima": 16.0}, "01:00 there is 16:00, 00:00 and 06:00 UTC"
    assert story.machine.state == "Succeeded"


def test_the_order_of_the_wave_holds_among_the_zones_that_are_open() -> None:
    zones = {"a": "UTC", "b": "Asia/Tokyo", "c": "UTC", "d": "Asia/Tokyo"}
    window = ResolvedWindow("0 0 * * *", 24 * HOUR, "site")
    story = Story(wave("edge", "a", "b", "c", "d", window=window, zones=zones))
    order = []
    while not story.machine.has_ended:
        (target,) = story.machine.outstanding()
        order.append(target.cluster)
        story.healthy(target.cluster)
    assert order == ["a", "b", "c", "d"]


def test_a_window_that_closed_while_the_coordinator_was_away_takes_back_its_offers() -> None:
    story = Story(wave("stores", "a", window=AFTERNOON))
    story.wait(HOUR)
    assert story.state("a") == "offered"
    machine = RolloutMachine.replay(story.log)
    back = START + 4 * HOUR
    assert [type(event) for event in machine.reconnecting(back, back + 60)] == [ev.OfferWithdrawn]
    machine.handle(ev.Tick(), back + 60)
    assert machine.targets["a"].state == "waiting"


def test_hours_ask_the_window_only_when_it_opens_or_closes() -> None:
    hours = Hours(wave("stores", "a", window=AFTERNOON))
    assert hours.look(START)
    assert not any(hours.look(START + second) for second in range(0, 3600, 7))
    assert hours.look(START + HOUR)
    assert hours.look(START), "a clock that was set back is believed"
    always = Hours(wave("stores", "a"))
    assert not always.look(START)
    assert always.until is None


def test_a_plan_that_expires_before_its_window_opens_does_not_start() -> None:
    def plan(**more: object) -> ResolvedPlan:
        return ResolvedPlan(
            name="rings", waves=(wave("stores", "a", **more),), deadline=600.0, action="pause",  # type: ignore[arg-type]
            catch_up_in_flight=1, expire=HOUR,
        )  # fmt: skip

    require_time(plan(), START)
    require_time(plan(window=AFTERNOON), START + 60)
    with pytest.raises(RolloutError, match="R052"):
        require_time(plan(window=AFTERNOON), START - 60)
    with pytest.raises(RolloutError, match="R052"):
        require_time(plan(gates_before=(ResolvedGate(kind="time", after=START + HOUR),)), START)
