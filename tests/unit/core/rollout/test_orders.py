"""What operators say to a rollout: what it does, and the refusals with their reasons."""

from __future__ import annotations

import pytest
from muster_core.errors import RolloutError
from muster_core.rollout import events as ev
from unit.core.rollout.scenario import DIGEST, Story, wave


def spent() -> Story:
    """Two waves; the one canary failed, so the plan has paused it."""
    story = Story(wave("canary", "c1"), wave("rest", "r1", "r2", flying=2))
    story.acknowledge("c1")
    story.failed("c1")
    assert story.machine.state == "Paused"
    return story


def test_a_retry_is_the_next_attempt_and_lets_a_rollout_go_on_that_its_plan_paused() -> None:
    story = spent()
    story.give(ev.Retry("ann", "the registry is back"))
    assert (story.machine.state, story.state("c1"), story.machine.targets["c1"].attempt) == (
        "Running",
        "offered",
        2,
    )
    story.give(ev.Reported("c1", 1, DIGEST, "failed", "K010", "late news of the first attempt"))
    assert story.state("c1") == "offered", "stale status"
    story.give(ev.Reported("c1", 2, DIGEST, "healthy"))
    assert story.machine.wave == 1


def test_a_retry_leaves_paused_what_a_person_paused_and_what_is_still_beyond_its_budget() -> None:
    story = Story(wave("all", "a", "b", "c", flying=3, failed=3))
    story.failed("a")
    story.give(ev.Pause("ann", "lunch"))
    story.give(ev.Retry("bob", ""))
    assert (story.machine.state, story.state("a")) == ("Paused", "waiting")
    story = Story(wave("all", "a", "b", "c", flying=3))
    story.failed("a")
    story.acknowledge("b")
    story.failed("b")
    story.give(ev.Retry("ann", "", ("a",)))
    assert (story.machine.state, story.state("a"), story.state("b")) == ("Paused", "waiting", "failed")


def test_a_retry_takes_only_what_failed_or_is_lost() -> None:
    story = spent()
    with pytest.raises(RolloutError, match="R040"):
        story.give(ev.Retry("ann", "", ("r1",)))
    with pytest.raises(RolloutError, match="R004"):
        story.give(ev.Retry("ann", "", ("zurich",)))
    story.give(ev.Retry("ann", ""))
    with pytest.raises(RolloutError, match="R041"):
        story.give(ev.Retry("ann", ""))


def test_a_skip_takes_one_out_and_leaves_the_quorums_base() -> None:
    story = Story(wave("all", "a", "b", "c", flying=3, quorum=100), away=("c",))
    story.healthy("a", "b")
    story.wait(900)
    assert story.machine.state == "Held"
    story.give(ev.Skip("c", "ann", "its site is being rebuilt"))
    assert (story.state("c"), story.machine.state) == ("skipped", "Held"), (
        "only the registry makes a wave smaller"
    )
    story.give(ev.Promote("bob", "two of three are enough here"))
    assert story.machine.state == "Succeeded"


def test_an_offer_to_a_skipped_cluster_is_withdrawn_and_what_runs_or_failed_is_not_skipped() -> None:
    story = Story(wave("all", "a", "b", flying=1, failed=2))
    events = story.give(ev.Skip("a", "ann", ""))
    assert [type(event) for event in events[:2]] == [ev.OfferWithdrawn, ev.TargetSkipped]
    story.acknowledge("b")
    with pytest.raises(RolloutError, match="R042"):
        story.give(ev.Skip("b", "ann", ""))
    story.failed("b")
    with pytest.raises(RolloutError, match="R042"):
        story.give(ev.Skip("b", "ann", "hide it"))


def test_promoting_ends_the_soaks_of_a_wave_now_and_for_those_that_follow() -> None:
    story = Story(wave("canary", "a", "b", soak=3600), wave("rest", "c", soak=3600))
    story.healthy("a")
    story.give(ev.Promote("bob", "hotfix"))
    assert (story.state("a"), story.state("b")) == ("done", "offered")
    story.healthy("b")
    assert (story.state("b"), story.state("c")) == ("done", "offered")
    story.healthy("c")
    assert story.state("c") == "soaking", "the next wave soaks as planned"


def test_promoting_does_not_call_unknown_healthy() -> None:
    story = Story(wave("canary", "a", soak=3600))
    story.healthy("a")
    story.online("a", False)
    story.give(ev.Promote("bob", "hotfix"))
    assert story.state("a") == "soaking"
    story.online("a")
    assert story.state("a") == "done"


def test_promoting_needs_a_reason_something_to_pass_over_and_budgets_that_hold() -> None:
    story = Story(wave("canary", "a"))
    with pytest.raises(RolloutError, match="R043"):
        story.give(ev.Promote("bob", ""))
    with pytest.raises(RolloutError, match="R044"):
        story.give(ev.Promote("bob", "now"))
    with pytest.raises(RolloutError, match="R013"):
        spent().give(ev.Promote("bob", "now"))


def test_what_time_brought_before_a_refused_order_is_not_forgotten() -> None:
    story = Story(wave("all", "a", "b", flying=1, failed=1))
    story.acknowledge("a")
    story.now += 600
    with pytest.raises(RolloutError, match="R012"):
        story.give(ev.Resume("ann", ""))
    assert story.machine.next_wake() == story.now
    events = story.give(ev.Tick())
    assert [type(event) for event in events] == [ev.TargetFailed, ev.OfferMade]
    assert (story.machine.next_wake() or 0) > story.now


def test_after_the_end_every_order_is_refused_by_name() -> None:
    story = Story(wave("all", "a"))
    story.healthy("a")
    orders: list[ev.Input] = [
        ev.Retry("x", ""), ev.Skip("a", "x", ""), ev.Promote("x", "y"), ev.Approve("x", ""), ev.Reject("x", ""),
        ev.Supersede("shop-0008"),
    ]  # fmt: skip
    for order in orders:
        with pytest.raises(RolloutError, match="R010"):
            story.give(order)


# --- superseding -----------------------------------------------------------------------------------


def test_superseded_withdraws_what_nobody_took_and_hands_over_what_runs() -> None:
    story = Story(wave("all", "a", "b", "c", "d", flying=3, soak=60))
    story.acknowledge("a")
    story.healthy("b")
    story.give(ev.Supersede("shop-0008"))
    assert (story.machine.state, story.machine.why) == ("Superseded", "by shop-0008")
    assert story.machine.to_carry() == ["a", "b"]
    assert [story.state(name) for name in "abcd"] == ["acknowledged", "soaking", "waiting", "waiting"]


def test_what_was_carried_over_takes_a_slot_until_it_has_settled_and_is_then_offered() -> None:
    story = Story(wave("all", "a", "b", "c", flying=2), carried=("a", "elsewhere"))
    assert [story.state(name) for name in "abc"] == ["waiting", "offered", "waiting"]
    story.give(ev.Settled("elsewhere"))
    story.give(ev.Settled("a"))
    assert [story.state(name) for name in "abc"] == ["offered", "offered", "waiting"]
    assert not [e for e in story.give(ev.Settled("a")) if isinstance(e, ev.CarriedSettled)]


def test_what_was_carried_over_and_never_heard_of_again_is_free_after_the_deadline() -> None:
    story = Story(wave("all", "a", "b", flying=1), carried=("a",))
    assert not story.machine.outstanding()
    story.wait(599)
    assert not story.machine.outstanding()
    story.wait(1)
    assert story.state("a") == "offered"
