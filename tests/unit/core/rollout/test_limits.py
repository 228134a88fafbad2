"""Who may not be offered anything now: held clusters, the fleet's and the rollout's own limits, sites that say later."""

from __future__ import annotations

from muster_core.rollout import events as ev
from muster_core.rollout.machine import RolloutMachine
from unit.core.rollout.scenario import DIGEST, Story, wave


def test_a_held_cluster_is_passed_over_and_takes_its_place_when_it_is_let_go() -> None:
    story = Story(wave("all", "a", "b", "c", flying=1), held={"a": "frozen until 18:00"})
    assert [story.state(name) for name in "abc"] == ["waiting", "offered", "waiting"]
    story.give(ev.Unhold("a"))
    story.healthy("b")
    assert [story.state(name) for name in "abc"] == ["offered", "done", "waiting"]


def test_an_offer_that_nobody_took_is_withdrawn_from_a_cluster_that_is_held() -> None:
    story = Story(wave("all", "a", "b", flying=1))
    (withdrawn, offered) = story.give(ev.Hold("a", "frozen"))
    assert isinstance(withdrawn, ev.OfferWithdrawn)
    assert isinstance(offered, ev.OfferMade)
    assert (withdrawn.cluster, withdrawn.why, offered.cluster) == ("a", "frozen", "b")


def test_what_runs_goes_on_while_its_cluster_is_held() -> None:
    story = Story(wave("all", "a"))
    story.acknowledge("a")
    assert not story.give(ev.Hold("a", "frozen"))
    story.healthy("a")
    assert story.machine.state == "Succeeded"


def test_a_wave_of_which_only_held_ones_are_left_is_held_and_says_why() -> None:
    story = Story(wave("all", "a", "b", "c", flying=3), held={"b": "ingress is not Ready", "c": "frozen"})
    story.healthy("a")
    assert story.machine.state == "Held"
    assert story.machine.why == "held: wave all waits for b (ingress is not Ready) and 1 more"
    story.give(ev.Unhold("c"))
    story.healthy("c")
    story.give(ev.Unhold("b"))
    story.healthy("b")
    assert story.machine.state == "Succeeded"


def test_after_a_replay_nobody_is_held_until_told() -> None:
    story = Story(wave("all", "a", "b"), held={"a": "frozen"})
    machine = RolloutMachine.replay(story.log)
    machine.meet("ab")
    machine.hold("a", "frozen")
    machine.handle(ev.Reported("b", 1, DIGEST, "healthy"), story.now)
    assert [machine.targets[name].state for name in "ab"] == ["waiting", "done"]


def test_under_a_fleet_limit_nothing_is_offered_before_the_allowance_is_told() -> None:
    story = Story(wave("all", "a", "b", "c", flying=3), limited=True)
    assert [story.state(name) for name in "abc"] == ["waiting"] * 3
    assert (story.machine.state, story.machine.why.split(":")[0]) == ("Held", "limit")
    story.give(ev.Allowance(2))
    assert [story.state(name) for name in "abc"] == ["offered", "offered", "waiting"]
    story.healthy("a")
    assert story.state("c") == "waiting", "every offer takes one of it"
    story.give(ev.Allowance(1))
    assert story.state("c") == "offered"
    machine = RolloutMachine.replay(story.log)
    assert not [
        e for e in machine.handle(ev.Refused("b", 1, "P1", ""), story.now) if isinstance(e, ev.OfferMade)
    ]


def test_no_fleet_limit_is_no_allowance() -> None:
    story = Story(wave("all", "a", "b", flying=2), limited=True)
    story.give(ev.Allowance(None))
    assert [story.state(name) for name in "ab"] == ["offered", "offered"]


def test_the_rollout_has_limits_beside_those_of_its_waves() -> None:
    one, two = wave("one", "a", "b", flying=2, failed=2), wave("two", "c", "d", flying=2, failed=2)
    story = Story(one, two, away=("a",), max_in_flight=1)
    assert [story.state(name) for name in "ab"] == ["offered", "waiting"]
    story.wait(900)
    story.healthy("b")
    assert [story.state(name) for name in "cd"] == ["offered", "waiting"]
    story.online("a")
    assert story.state("a") == "waiting", "the one slot of the rollout is another wave's"
    story.healthy("c")
    assert story.state("a") == "offered"


def test_the_failed_of_all_waves_together_have_a_budget() -> None:
    one, two = wave("one", "a", "b", flying=2, failed=1), wave("two", "c", "d", flying=2, failed=1)
    story = Story(one, two, max_failed=1)
    story.failed("a")
    story.healthy("b")
    story.failed("c")
    assert story.machine.state == "Paused"
    assert "the rollout: 2 failed or lost, 1 allowed" in story.machine.why


def test_the_lost_of_all_waves_together_have_a_budget() -> None:
    one, two = wave("one", "a", "b", flying=2, failed=1), wave("two", "c", "d", flying=2, failed=1)
    story = Story(one, two, max_lost=1)
    for name in "ac":
        story.acknowledge(name)
        story.online(name, False)
        story.healthy("b") if name == "a" else None
        story.wait(600)
    assert (story.state("a"), story.state("c"), story.machine.state) == ("lost", "lost", "Paused")


# --- sites that say: not before then ----------------------------------------------------------------


def test_a_site_that_defers_frees_its_slot_and_is_offered_first_at_its_time() -> None:
    story = Story(wave("all", "a", "b", "c", "d", flying=1))
    story.give(ev.Deferred("a", 1, story.now + 3600, "the site's window opens at 15:00"))
    assert [story.state(name) for name in "ab"] == ["deferred", "offered"]
    story.wait(600)
    story.acknowledge("b")
    story.wait(590)
    story.healthy("b")
    story.acknowledge("c")
    story.healthy("c")
    assert story.state("d") == "offered"
    story.acknowledge("d")
    story.healthy("d")
    assert (story.machine.state, story.machine.why.split(":")[0]) == ("Held", "deferred")
    story.wait(3600 - 600 - 590)
    assert story.state("a") == "offered"


def test_a_deferral_is_never_harm_and_never_done() -> None:
    story = Story(wave("all", "a", "b", flying=2, quorum=100))
    story.give(ev.Deferred("a", 1, story.now + 3600, "closed"))
    story.healthy("b")
    assert (story.machine.state, story.machine.count("failed", "lost", "owed")) == ("Held", 0)


def test_a_site_that_defers_to_now_again_and_again_does_not_make_a_storm() -> None:
    story = Story(wave("all", "a"))
    story.give(ev.Deferred("a", 1, story.now - 5, "closed"))
    assert story.state("a") == "deferred"
    assert story.machine.next_wake() == story.now + 60


def test_one_that_acknowledged_and_forgot_it_may_defer_still() -> None:
    story = Story(wave("all", "a"))
    story.acknowledge("a")
    story.give(ev.Deferred("a", 1, story.now + 3600, "closed"))
    assert story.state("a") == "deferred"
    story.wait(3600)
    story.healthy("a")
    assert story.machine.state == "Succeeded"


def test_a_pause_does_not_stop_a_sites_own_time() -> None:
    story = Story(wave("all", "a"))
    story.give(ev.Deferred("a", 1, story.now + 3600, "closed"))
    story.give(ev.Pause("ann", ""))
    story.wait(3600)
    assert story.state("a") == "waiting"
    story.give(ev.Resume("ann", ""))
    assert story.state("a") == "offered"
