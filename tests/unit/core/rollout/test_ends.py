"""How rollouts end: taken back in a wave or as a whole, expired, and what is not theirs any more."""

from __future__ import annotations

import pytest
from muster_core.errors import RolloutError
from muster_core.rollout import events as ev
from muster_core.rollout.plan import ResolvedGate, ResolvedPlan, resolve_return
from unit.core.rollout.scenario import DIGEST, Story, wave

SMOKE = ResolvedGate(kind="http", url="https://smoke.example.com", fail_after=60.0)


def two_waves(scope: str, *, may_return: bool = True) -> Story:
    """The first wave is done; in the second ``b1`` runs and ``b2`` has failed, which is one too many."""
    story = Story(
        wave("one", "a1", "a2", flying=2), wave("two", "b1", "b2", "b3", flying=3),
        action="rollback", scope=scope, may_return=may_return,
    )  # fmt: skip
    story.healthy("a1", "a2")
    story.acknowledge("b1", "b2")
    story.failed("b2")
    return story


@pytest.mark.parametrize(
    ("scope", "back"), [("target", []), ("wave", ["b1"]), ("rollout", ["a1", "a2", "b1"])]
)
def test_the_healthy_ones_of_the_scope_are_taken_back_once_what_runs_is_done(
    scope: str, back: list[str]
) -> None:
    story = two_waves(scope)
    assert story.machine.state == "Running"
    assert story.state("b3") == "waiting"
    assert not story.machine.to_return(), "not before it has ended"
    story.healthy("b1")
    assert story.machine.state == "RolledBack"
    assert story.machine.to_return() == back


def test_without_a_signature_that_allows_it_healthy_clusters_are_not_taken_back() -> None:
    story = two_waves("wave", may_return=False)
    assert story.machine.state == "Paused"
    assert "a directive with returnTo, or rollback: previous in the signed bundle" in story.machine.why
    story.healthy("b1")
    assert (story.machine.state, story.machine.to_return()) == ("Paused", [])
    assert two_waves("target", may_return=False).machine.stopping, "each agent goes by its own rules"


def test_a_gate_that_fails_after_a_wave_takes_that_wave_back() -> None:
    story = Story(
        wave("one", "a", gates_after=(SMOKE,)),
        wave("two", "b"),
        action="rollback",
        scope="wave",
        may_return=True,
    )
    story.healthy("a")
    story.wait(60)
    assert (story.machine.state, story.machine.to_return(), story.state("b")) == (
        "RolledBack",
        ["a"],
        "waiting",
    )


def test_a_return_goes_over_the_healthy_ones_at_once_and_ignores_soak_gates_and_failures_within_catch_ups_budget() -> (
    None
):
    plan = ResolvedPlan(
        name="rings",
        waves=(wave("one", "a", "b", soak=600, flying=2), wave("two", "c", "d", flying=1, gates_before=(SMOKE,))),
        deadline=600.0, action="rollback", scope="rollout", catch_up_in_flight="10%", return_in_flight="50%",
    )  # fmt: skip
    back = resolve_return(plan, ["d", "a", "b"])
    (only,) = back.waves
    assert (only.members, only.max_in_flight, only.max_failed, only.soak, only.gates_before) == (
        ("a", "b", "d"),
        1,
        1,
        0.0,
        (),
    )
    assert (back.action, only.window) == ("pause", None)
    assert resolve_return(ResolvedPlan(
        name="rings", waves=plan.waves, deadline=600.0, action="rollback", catch_up_in_flight=1), ["a"]
    ).waves[0].max_in_flight == 4, "twice the largest wave's"  # fmt: skip


# --- expire ------------------------------------------------------------------------------------------


def test_past_its_expiry_whoever_waits_is_owed_and_what_runs_is_waited_for() -> None:
    story = Story(wave("all", "a", "b", "c", "d", flying=2, quorum=50), expire=500.0)
    story.acknowledge("a", "b")
    story.wait(400)
    story.healthy("a")
    assert story.state("c") == "offered"
    story.wait(100)
    assert [story.state(name) for name in "abcd"] == ["done", "acknowledged", "owed", "owed"]
    assert [e.why for e in story.log if isinstance(e, ev.OfferWithdrawn)] == ["the rollout has expired"]
    story.healthy("b")
    assert (story.machine.state, story.machine.why) == (
        "Succeeded",
        "expired with 2 owed: muster rollout owed",
    )


@pytest.mark.parametrize("expires_first", [True, False])
def test_expired_without_a_signature_for_the_way_back_it_ends_and_waits_for_nobody(
    *, expires_first: bool
) -> None:
    """A pause would have no way on: nothing may be resumed over a spent budget, nor offered again past the expiry."""
    story = Story(
        wave("all", "a", "b", flying=2), action="rollback", scope="wave", may_return=False, expire=300.0
    )
    story.acknowledge("a", "b")
    if expires_first:
        story.wait(300)
    story.failed("a")
    story.wait(300)
    assert story.machine.state == "Failed"
    assert "a directive with returnTo" in story.machine.why


def test_expired_below_a_quorum_it_has_failed() -> None:
    story = Story(wave("one", "a", "b", flying=2, quorum=100), wave("two", "c"), away=("b",), expire=1800.0)
    story.healthy("a")
    story.wait(900)
    assert story.machine.state == "Held"
    story.wait(900)
    assert (story.machine.state, story.machine.why) == ("Failed", "expired: wave one has 1 of 2 done")
    assert [story.state(name) for name in "abc"] == ["done", "owed", "owed"]


def test_no_expiry_passes_an_approval() -> None:
    gate = ResolvedGate(kind="approval")
    story = Story(wave("one", "a", gates_after=(gate,)), expire=60.0)
    story.healthy("a")
    story.wait(60)
    assert (story.machine.state, story.machine.why.split(":")[0]) == ("Failed", "expired")


def test_who_comes_back_after_the_expiry_is_not_offered_and_late_answers_still_count() -> None:
    story = Story(wave("all", "a", "b", "c", flying=3), away=("c",), expire=700.0)
    story.acknowledge("a")
    story.wait(599)
    story.wait(101)
    assert story.state("a") == "failed"
    story = Story(wave("all", "a", "b", "c", flying=3, failed=1), away=("c",), expire=500.0)
    story.acknowledge("a")
    story.wait(500)
    story.online("c")
    assert story.state("c") == "owed"
    story.acknowledge("b")
    assert story.state("b") == "acknowledged"
    story.healthy("a", "b")
    assert story.machine.state == "Succeeded"


def test_a_budget_that_is_spent_after_the_expiry_ends_it() -> None:
    story = Story(wave("all", "a", "b", flying=2), expire=100.0)
    story.acknowledge("a")
    story.wait(100)
    story.failed("a")
    assert story.machine.state == "Failed"


def test_an_expired_rollout_takes_no_orders_but_its_end() -> None:
    story = Story(wave("all", "a", "b", flying=2), expire=100.0)
    story.acknowledge("a")
    story.wait(100)
    for order in (
        ev.Pause("ann", ""),
        ev.Promote("ann", "x"),
        ev.Retry("ann", ""),
        ev.Supersede("shop-0008"),
    ):
        with pytest.raises(RolloutError, match="R014"):
            story.give(order)
    story.give(ev.Abort("ann", ""))
    assert story.machine.state == "Aborted"


def test_deferred_sites_hold_a_wave_until_the_rollout_expires() -> None:
    story = Story(wave("all", "a", "b", flying=2), expire=7200.0)
    story.healthy("a")
    story.give(ev.Deferred("b", 1, story.now + 86_400, "closed"))
    story.wait(7199)
    assert story.machine.state == "Held"
    story.wait(1)
    assert (story.state("b"), story.machine.state) == ("owed", "Succeeded")
    story.give(ev.Reported("b", 1, DIGEST, "healthy"))
    assert story.state("b") == "owed", "no target changes after its rollout ended"
