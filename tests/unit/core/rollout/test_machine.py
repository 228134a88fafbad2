"""The rules of a rollout, one story each."""

from __future__ import annotations

import pytest
from muster_core.errors import RolloutError
from muster_core.rollout import events as ev
from muster_core.rollout.machine import RolloutMachine
from unit.core.rollout.scenario import DIGEST, Story, wave


def rings(**more: object) -> Story:
    stores = wave("stores", "s1", "s2", "s3", flying=2, failed=1)
    return Story(wave("canary", "c1"), stores, wave("edge", "e1", "e2", flying=2), **more)  # type: ignore[arg-type]


def test_waves_open_one_after_the_other_and_offers_stay_within_the_limit() -> None:
    story = rings()
    assert [story.state(name) for name in ("c1", "s1", "e1")] == ["offered", "waiting", "waiting"]
    story.healthy("c1")
    assert [story.state(name) for name in ("c1", "s1", "s2", "s3")] == [
        "done",
        "offered",
        "offered",
        "waiting",
    ]
    story.healthy("s1")
    assert story.state("s3") == "offered"
    story.healthy("s2", "s3", "e1", "e2")
    assert story.machine.state == "Succeeded"


def test_absent_is_owed_and_the_rollout_succeeds_without_it() -> None:
    story = rings(away=("e2",))
    story.healthy("c1", "s1", "s2", "s3", "e1")
    assert story.machine.state == "Running"
    story.wait(899)
    assert story.state("e2") == "offered"
    story.wait(1)
    assert story.state("e2") == "owed"
    assert story.machine.state == "Succeeded"
    assert story.machine.why == "1 owed at its end: muster rollout owed"


def test_back_while_the_rollout_runs_is_offered_normally_in_its_wave() -> None:
    story = rings(away=("s1",))
    story.healthy("c1", "s2", "s3")
    story.wait(900)
    assert (story.state("s1"), story.machine.wave) == ("owed", 2)
    story.online("s1")
    assert story.state("s1") == "offered"
    story.healthy("e1", "e2")
    assert story.machine.state == "Running", "an earlier wave's member is still on its way"
    story.healthy("s1")
    assert story.machine.state == "Succeeded"


def test_acknowledged_then_silent_is_lost_which_is_harm() -> None:
    story = rings()
    story.acknowledge("c1")
    story.online("c1", False)
    story.wait(600)
    assert story.state("c1") == "lost"
    assert story.machine.state == "Paused"
    assert story.state("s1") == "waiting"
    with pytest.raises(RolloutError, match="R013"):
        story.give(ev.Resume("ann", ""))
    story.online("c1")
    assert story.state("c1") == "lost", "contact alone proves nothing"
    story.healthy("c1")
    assert story.state("c1") == "done"
    story.give(ev.Resume("ann", ""))
    assert story.state("s1") == "offered"


def test_reporting_but_not_healthy_past_the_deadline_is_failed() -> None:
    story = rings()
    story.acknowledge("c1")
    story.give(ev.Reported("c1", 1, DIGEST, "applying"))
    story.wait(600)
    assert (story.state("c1"), story.machine.targets["c1"].code) == ("failed", "R020")


def test_status_of_another_release_or_attempt_is_stale() -> None:
    story = rings()
    story.give(ev.Reported("c1", 1, "tree-0", "healthy"))
    story.give(ev.Reported("c1", 2, DIGEST, "healthy"))
    story.give(ev.Acknowledged("c1", 2))
    assert story.state("c1") == "offered"
    story.healthy("s1")
    assert story.state("s1") == "waiting", "never offered, so nothing it says is about this offer"


def test_a_refusal_is_a_failure_with_nothing_applied() -> None:
    story = rings(action="abort")
    story.give(ev.Refused("c1", 1, "P001", "require-team: label is missing"))
    assert story.state("c1") == "failed"
    assert story.machine.state == "Failed"
    assert (
        story.machine.why == "wave canary: 1 failed or lost, 0 allowed (c1: require-team: label is missing)"
    )


def test_rollback_waits_for_what_acknowledged_and_withdraws_the_rest() -> None:
    story = Story(wave("stores", "s1", "s2", "s3", "s4", flying=3), action="rollback")
    story.acknowledge("s1", "s2")
    story.failed("s1")
    assert story.machine.state == "Running"
    assert (story.state("s3"), story.state("s4")) == ("waiting", "waiting")
    story.give(ev.Reported("s1", 1, DIGEST, "returned", "K010", "image never ready"))
    assert story.state("s1") == "returned"
    story.healthy("s2")
    assert story.machine.state == "RolledBack"
    assert story.state("s4") == "waiting"


def test_returned_by_itself_counts_as_harm() -> None:
    story = rings(action="rollback")
    story.acknowledge("c1")
    story.give(ev.Reported("c1", 1, DIGEST, "returned", "K010", "image never ready"))
    assert (story.state("c1"), story.machine.state) == ("returned", "RolledBack")


def test_below_quorum_it_is_held_until_members_return() -> None:
    story = Story(wave("all", "a", "b", "c", flying=3, quorum=80), wave("rest", "d"), away=("b", "c"))
    story.healthy("a")
    story.wait(900)
    assert (story.machine.state, story.machine.why) == ("Held", "quorum: wave all has 1 of 3 done")
    story.wait(365 * 86_400)
    assert story.machine.state == "Held"
    story.online("b")
    assert (story.machine.state, story.state("b")) == ("Running", "offered")
    story.online("c")
    story.healthy("b", "c")
    assert story.machine.wave == 1


def test_leaving_the_registry_shrinks_the_base_of_the_quorum() -> None:
    story = Story(wave("all", "a", "b", "c", flying=3, quorum=100), away=("c",))
    story.healthy("a", "b")
    story.wait(900)
    assert story.machine.state == "Held"
    story.give(ev.MemberRemoved("c", "removed from the registry"))
    assert story.machine.state == "Succeeded"


def test_soak_stands_still_out_of_contact() -> None:
    story = Story(wave("canary", "c1", soak=120))
    story.healthy("c1")
    story.wait(100)
    story.online("c1", False)
    story.wait(300)
    assert story.state("c1") == "soaking"
    story.online("c1")
    story.wait(19)
    assert story.state("c1") == "soaking"
    story.wait(1)
    assert story.state("c1") == "done"


def test_soaking_and_never_back_is_lost() -> None:
    story = Story(wave("canary", "c1", soak=120))
    story.healthy("c1")
    story.online("c1", False)
    story.wait(600)
    assert story.state("c1") == "lost"


def test_a_report_of_one_out_of_contact_does_not_start_its_soak_clock() -> None:
    story = Story(wave("canary", "c1", soak=120), away=("c1",))
    story.healthy("c1")
    story.wait(300)
    story.online("c1")
    story.wait(119)
    assert story.state("c1") == "soaking"
    story.wait(1)
    assert story.state("c1") == "done"


def test_a_flap_restarts_the_soak_three_times_then_it_failed() -> None:
    story = Story(wave("canary", "c1", soak=120))
    story.healthy("c1")
    for _ in range(3):
        story.wait(119)
        story.give(ev.Reported("c1", 1, DIGEST, "applying", "", "crash loop"))
        story.wait(60)
        story.healthy("c1")
        assert story.state("c1") == "soaking"
    story.give(ev.Reported("c1", 1, DIGEST, "applying", "", "crash loop"))
    target = story.machine.targets["c1"]
    assert (target.state, target.code, target.message) == (
        "failed",
        "R021",
        "unhealthy 4 times while soaking: crash loop",
    )


def test_paused_withdraws_offers_stops_deadlines_and_lets_soaks_run() -> None:
    story = Story(wave("all", "a", "b", "c", flying=3, soak=120))
    story.acknowledge("a")
    story.healthy("b")
    story.wait(60)
    story.give(ev.Pause("ann", "lunch"))
    assert [story.state(name) for name in "abc"] == ["acknowledged", "soaking", "waiting"]
    story.wait(3600)
    assert [story.state(name) for name in "abc"] == ["acknowledged", "done", "waiting"]
    assert story.machine.next_wake() is None
    story.give(ev.Resume("ann", ""))
    assert story.state("c") == "offered"
    story.wait(539)
    assert story.state("a") == "acknowledged"
    story.wait(1)
    assert story.state("a") == "failed"


def test_an_acknowledgement_that_crossed_its_withdrawal_counts() -> None:
    story = Story(wave("all", "a", "b", flying=1))
    story.give(ev.Pause("ann", ""))
    story.acknowledge("a", "b")
    assert [story.state(name) for name in "ab"] == ["acknowledged", "waiting"]
    story.give(ev.Resume("ann", ""))
    assert story.state("b") == "waiting"


def test_who_saw_an_offer_is_first_to_get_it_again() -> None:
    story = Story(wave("all", "a", "b", "c", "d", flying=2))
    story.give(ev.Pause("ann", ""))
    story.give(ev.Resume("ann", ""))
    assert [story.state(name) for name in "abcd"] == ["offered", "offered", "waiting", "waiting"]
    for name in "ab":
        story.failed(name)
    assert [story.state(name) for name in "abcd"] == ["failed", "failed", "waiting", "waiting"]


def test_the_deadline_of_what_answers_during_a_pause_begins_after_it() -> None:
    story = Story(wave("all", "a", "b", flying=1))
    story.give(ev.Pause("ann", ""))
    story.acknowledge("a")
    story.wait(86_400)
    assert story.state("a") == "acknowledged"
    story.give(ev.Resume("ann", ""))
    story.wait(599)
    assert story.state("a") == "acknowledged"
    story.wait(1)
    assert story.state("a") == "failed"


def test_commands_that_do_not_apply_are_refused_by_name() -> None:
    story = rings()
    with pytest.raises(RolloutError, match="R012"):
        story.give(ev.Resume("ann", ""))
    story.give(ev.Pause("ann", "lunch"))
    with pytest.raises(RolloutError, match="R011"):
        story.give(ev.Pause("ann", ""))
    story.give(ev.Abort("ann", "wrong"))
    assert (story.machine.state, story.machine.why) == ("Aborted", "by ann: wrong")
    for given in (ev.Pause("ann", ""), ev.Resume("ann", ""), ev.Abort("ann", "")):
        with pytest.raises(RolloutError, match="R010"):
            story.give(given)
    story.healthy("c1")
    assert story.state("c1") == "waiting"
    assert not story.machine.outstanding()
    assert story.machine.next_wake() is None


def test_after_a_restart_nobody_is_in_contact_until_told() -> None:
    story = Story(wave("canary", "c1", soak=120))
    story.healthy("c1")
    story.wait(60)
    machine = RolloutMachine.replay(ev.decode(ev.encode(event)) for event in story.log)
    assert [type(event) for event in machine.reconnecting(story.now, story.now + 45)] == [ev.SoakSuspended]
    machine.handle(ev.Contact("c1", True), story.now + 30)
    assert machine.next_wake() == story.now + 90
    assert machine.offer_for("c1") is machine.targets["c1"]
    assert machine.offer_for("stranger") is None


def test_silence_does_not_count_while_the_coordinator_was_away() -> None:
    story = Story(wave("all", "c1", "c2", flying=2))
    story.acknowledge("c1")
    machine = RolloutMachine.replay(story.log)
    back = story.now + 10_000
    log = machine.reconnecting(back, back + 45)
    assert log == [ev.ClocksDeferred(at=back, until=back + 45)]
    assert not machine.handle(ev.Tick(), back + 44)
    machine.handle(ev.Contact("c1", True), back + 44)
    machine.handle(ev.Reported("c1", 1, DIGEST, "healthy"), back + 44)
    assert machine.targets["c1"].state == "done"
    machine.handle(ev.Tick(), back + 45)
    assert machine.targets["c2"].state == "owed", "the grace is over and it never acknowledged"


def test_who_stays_silent_after_the_grace_is_lost() -> None:
    story = Story(wave("all", "c1", "c2", flying=2))
    story.acknowledge("c1")
    machine = RolloutMachine.replay(story.log)
    back = story.now + 10_000
    machine.reconnecting(back, back + 45)
    machine.handle(ev.Tick(), back + 45)
    assert machine.targets["c1"].state == "lost"


def test_a_soak_that_ends_before_its_cluster_is_heard_of_again_waits_for_it() -> None:
    story = Story(wave("canary", "c1", soak=120))
    story.healthy("c1")
    machine = RolloutMachine.replay(story.log)
    assert [type(event) for event in machine.handle(ev.Tick(), story.now + 120)] == [ev.SoakSuspended]
    machine.handle(ev.Contact("c1", True), story.now + 130)
    assert machine.state == "Succeeded"


def test_a_log_must_begin_with_its_start() -> None:
    with pytest.raises(RolloutError, match="R003"):
        RolloutMachine.replay([ev.Released(at=1.0)])


def test_failures_within_the_budget_do_not_stop_a_wave() -> None:
    story = rings()
    story.healthy("c1")
    story.acknowledge("s1")
    story.failed("s1")
    story.healthy("s2", "s3")
    assert (story.machine.wave, story.machine.state) == (2, "Running")


def test_the_lost_have_a_budget_of_their_own() -> None:
    story = Story(wave("all", "a", "b", "c", "d", flying=4, failed=3, max_lost=0))
    story.acknowledge("a", "b")
    story.online("a", False)
    story.wait(600)
    assert story.state("a") == "lost"
    assert story.machine.state == "Paused"


def test_a_soak_that_holds_no_slot_lets_the_next_ones_go() -> None:
    story = Story(wave("all", "a", "b", "c", soak=600, soak_holds_slot=False))
    story.healthy("a")
    assert (story.state("a"), story.state("b")) == ("soaking", "offered")
    story.healthy("b")
    assert story.state("c") == "offered"


def test_one_value_of_the_spread_is_in_flight_at_a_time() -> None:
    regions = {"a": "eu", "b": "us", "c": "eu", "d": "us"}
    story = Story(wave("all", "a", "b", "c", "d", flying=3, spread=regions))
    assert [story.state(name) for name in "abcd"] == ["offered", "waiting", "offered", "waiting"]
    story.healthy("a")
    assert story.state("b") == "waiting", "the other one of its region is still on its way"
    story.healthy("c")
    assert [story.state(name) for name in "bd"] == ["offered", "offered"]


def test_a_plan_that_waits_for_the_absent_is_held_by_them_and_by_nothing_else() -> None:
    story = Story(wave("all", "a", "b", flying=1, offline_policy="wait"), wave("next", "c"), away=("a",))
    story.wait(900)
    assert story.state("a") == "owed", "its slot is free"
    story.healthy("b")
    assert (story.machine.state, story.state("c")) == ("Held", "waiting")
    assert "waits for 1 that are away" in story.machine.why
    story.online("a")
    story.healthy("a")
    assert story.state("c") == "offered"


def test_where_absence_is_failure_it_counts_as_harm() -> None:
    story = Story(wave("all", "a", "b", offline_policy="fail"), away=("a",))
    story.wait(900)
    assert story.state("a") == "failed"
    assert story.machine.targets["a"].code == "R022"
    assert story.machine.state == "Paused"
