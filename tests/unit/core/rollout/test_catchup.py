"""Debts after a rollout, one story each."""

from __future__ import annotations

from muster_core.rollout import catchup as cu
from muster_core.rollout import events as ev
from unit.core.rollout.scenario import DIGEST, Story, wave

OLD = cu.Succeeded("shop-0006", "0ld", "tree-0")
NEW = cu.Succeeded("shop-0007", "3f2c9d1", DIGEST)


def ended(action: str) -> Story:
    story = Story(wave("all", "a", "b", "c", flying=2), action=action, away=("b",))
    story.acknowledge("a")
    story.healthy("a")
    story.healthy("c")
    story.wait(900)
    return story


def test_a_success_is_what_its_absent_clusters_are_owed() -> None:
    story = ended("pause")
    assert story.machine.state == "Succeeded"
    assert cu.debts_after(story.machine, OLD) == cu.Settlement((("b", NEW),), ("a", "c"))


def test_an_aborted_release_is_never_caught_up() -> None:
    story = Story(wave("all", "a", "b", "c", flying=2, quorum=100), away=("b",))
    story.healthy("a", "c")
    story.wait(900)
    story.give(ev.Abort("ann", ""))
    assert cu.debts_after(story.machine, OLD) == cu.Settlement((("b", OLD),), ("a", "c"))
    assert cu.debts_after(story.machine, None).owe == ()


def test_what_it_never_reached_keeps_its_older_debt() -> None:
    ledger = cu.CatchUp("shop")
    ledger.owe("z", OLD, 0.0)
    story = Story(wave("one", "a"), wave("two", "z"))
    story.give(ev.Abort("ann", ""))
    ledger.settle(cu.debts_after(story.machine, OLD), 1.0)
    assert ledger.debts["z"].tree_digest == "tree-0"


def test_a_rollout_that_starts_and_is_aborted_forgets_nobody() -> None:
    ledger = cu.CatchUp("shop")
    for name in ("a", "z"):
        ledger.owe(name, OLD, 0.0)
        ledger.contact(name, True, 0.0)
    ledger.offers(2, 0.0)
    ledger.acknowledged("z", "shop-0006", 0.0)
    story = Story(wave("one", "a"), wave("two", "z"))
    assert len(ledger.give_way(story.machine.targets, 1.0)) == 2
    assert not ledger.offers(9, 2.0, lambda debt: debt.cluster not in story.machine.targets)
    story.healthy("a")
    story.give(ev.Abort("ann", ""))
    ledger.settle(cu.debts_after(story.machine, OLD), 3.0)
    assert "a" not in ledger.debts, "it has a newer release now"
    story = Story(wave("one", "a"), wave("two", "z"))
    ledger.owe("z", OLD, 4.0)
    ledger.give_way(story.machine.targets, 5.0)
    story.give(ev.Abort("ann", ""))
    ledger.settle(cu.debts_after(story.machine, OLD), 6.0)
    assert [(d.cluster, d.tree_digest, d.state) for d in ledger.owed()] == [("z", "tree-0", "owed")]


def test_back_it_is_offered_within_the_limit_and_settles_by_its_own_report() -> None:
    ledger = cu.CatchUp("shop")
    for name in "abc":
        ledger.owe(name, NEW, 0.0)
        assert not ledger.offers(9, 0.0), "not to one out of contact"
    for name in "abc":
        ledger.contact(name, True, 10.0)
    assert [event.cluster for event in ledger.offers(2, 10.0)] == ["a", "b"]
    assert not ledger.offers(2, 10.0)
    ledger.acknowledged("a", "shop-0007", 11.0)
    assert not ledger.reported("a", "tree-0", "healthy", "", 12.0)
    ledger.reported("a", DIGEST, "healthy", "", 12.0)
    assert "a" not in ledger.debts
    assert [event.cluster for event in ledger.offers(2, 12.0)] == ["c"]
    assert not ledger.offers(9, 12.0, lambda debt: debt.cluster != "b")


def test_out_of_contact_before_it_acknowledged_it_is_owed_as_before() -> None:
    ledger = cu.CatchUp("shop")
    ledger.owe("a", NEW, 0.0)
    ledger.contact("a", True, 0.0)
    ledger.offers(1, 0.0)
    ledger.contact("a", False, 1.0)
    assert (ledger.debts["a"].state, ledger.busy) == ("owed", 0)
    assert not ledger.offers(1, 2.0)


def test_acknowledged_then_silent_frees_the_slot_as_harm() -> None:
    ledger = cu.CatchUp("shop", deadline=60)
    ledger.owe("a", NEW, 0.0)
    ledger.contact("a", True, 0.0)
    ledger.offers(1, 0.0)
    ledger.acknowledged("a", "shop-0007", 1.0)
    ledger.contact("a", False, 2.0)
    assert ledger.next_wake() == 61.0
    ledger.tick(61.0)
    assert (ledger.debts["a"].state, ledger.busy, ledger.harmed) == ("lost", 0, 1)
    ledger.reported("a", DIGEST, "healthy", "", 99.0)
    assert not ledger.debts
    assert not ledger.harmed


def test_a_second_failure_in_a_small_round_stops_it() -> None:
    ledger = cu.CatchUp("shop")
    for name in "abc":
        ledger.owe(name, NEW, 0.0)
        ledger.contact(name, True, 0.0)
    for name in "ab":
        assert not ledger.stopped
        ledger.offers(1, 1.0)
        ledger.refused(name, "shop-0007", "denied", 1.0)
    assert ledger.stopped
    assert not ledger.offers(1, 2.0)
    assert [debt.cluster for debt in ledger.owed()] == ["c"]


def test_the_allowed_share_is_of_the_whole_round_not_of_who_is_left() -> None:
    ledger = cu.CatchUp("shop")
    names = [f"n{number:02}" for number in range(40)]
    for name in names:
        ledger.owe(name, NEW, 0.0)
    assert ledger.max_failed() == 2
    for name in names[:39]:
        ledger.reported(name, DIGEST, "healthy", "", 1.0)
    assert ledger.max_failed() == 2
    ledger.reported(names[39], DIGEST, "healthy", "", 1.0)
    ledger.owe("x", NEW, 2.0)
    assert ledger.max_failed() == 1


def test_the_newest_success_wins_and_the_same_again_changes_nothing() -> None:
    ledger = cu.CatchUp("shop")
    ledger.owe("a", OLD, 0.0)
    assert ledger.owe("a", NEW, 1.0)
    assert not ledger.owe("a", NEW, 2.0)
    assert ledger.debts["a"].origin == "shop-0007"
    assert not ledger.acknowledged("a", "shop-0006", 3.0), "an answer to the older offer"


def test_a_catch_up_is_not_lost_while_the_coordinator_was_away() -> None:
    ledger = cu.CatchUp("shop")
    log = [*ledger.owe("a", NEW, 0.0), *ledger.contact("a", True, 0.0), *ledger.offers(1, 0.0)]
    log += ledger.acknowledged("a", NEW.origin, 1.0)
    again = cu.CatchUp.replay("shop", (cu.decode(cu.encode(event)) for event in log))
    assert again.reconnecting(50_000.0, 50_045.0) == [cu.Deferred(at=50_000.0, cluster="a", until=50_045.0)]
    assert not again.tick(50_044.0)
    assert [type(event) for event in again.tick(50_045.0)] == [cu.Lost]


# --- the return ledger -----------------------------------------------------------------------------


def rolled_back(scope: str) -> Story:
    """``away`` took the release and fell silent, ``never`` never answered; ``good`` is healthy, ``bad`` ends it."""
    story = Story(
        wave("all", "good", "away", "bad", "never", flying=4),
        action="rollback", scope=scope, may_return=True, away=("never",),
    )  # fmt: skip
    story.healthy("good")
    story.acknowledge("away", "bad")
    story.online("away", False)
    story.failed("bad")
    story.wait(900)
    assert story.machine.state == "RolledBack"
    return story


def test_who_took_a_release_that_was_taken_back_and_is_away_is_owed_its_return() -> None:
    story = rolled_back("wave")
    assert (story.machine.to_return(), story.machine.returns_owed()) == (["good"], ["away"])
    ledger = cu.CatchUp("shop")
    ledger.settle(cu.debts_after(story.machine, OLD), 1.0)
    debt = ledger.debts["away"]
    assert (debt.tree_digest, debt.origin, debt.returns) == ("tree-0", "shop-0006", "shop-0007")
    assert set(ledger.debts) == {"away"}, "who never took it has nothing to give back"
    ledger.contact("away", True, 2.0)
    (offered,) = ledger.offers(1, 2.0)
    assert isinstance(offered, cu.Offered)
    again = cu.CatchUp.replay("shop", [cu.decode(cu.encode(offered))])
    assert not again.debts, "an offer without a debt is none"


def test_where_each_cluster_returns_by_itself_nobody_is_owed_a_return() -> None:
    settlement = cu.debts_after(rolled_back("target").machine, OLD)
    assert not settlement.returns
    assert "away" not in dict(settlement.owe)


def test_members_of_a_return_that_are_away_are_owed_it_and_go_first() -> None:
    story = Story(wave("return", "a", "b", flying=2, quorum=0), away=("b",), returns="shop-0006")
    story.healthy("a")
    story.wait(900)
    assert story.machine.state == "Succeeded"
    settlement = cu.debts_after(story.machine, OLD)
    assert settlement.returns == {"b": "shop-0006"}
    ledger = cu.CatchUp("shop")
    ledger.owe("z", NEW, 0.0)
    ledger.owe("b", NEW, 0.5)
    ledger.settle(settlement, 1.0)
    for name in "bz":
        ledger.contact(name, True, 2.0)
    assert [event.cluster for event in ledger.offers(1, 2.0)] == ["b"]


def test_what_a_site_deferred_or_an_operator_skipped_keeps_its_older_debt() -> None:
    story = Story(wave("all", "a", "b", "c", flying=3))
    story.give(ev.Deferred("a", 1, story.now + 3600, "closed"))
    story.give(ev.Skip("b", "ann", ""))
    story.give(ev.Abort("ann", ""))
    ledger = cu.CatchUp("shop")
    for name in "ab":
        ledger.owe(name, OLD, 0.0)
    ledger.settle(cu.debts_after(story.machine, OLD), 1.0)
    assert set(ledger.debts) == {"a", "b"}
