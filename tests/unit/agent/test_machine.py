"""One bundle's machine: what it says for each story, without a cluster or a clock."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from muster_agent.reconcile import events as ev
from muster_agent.reconcile.machine import BundleMachine
from muster_agent.state.records import Admission, BundleRecord, OfferRecord
from muster_core.release import Release

OLD, NEW = Release("shop", "a" * 40, "1" * 64), Release("shop", "b" * 40, "2" * 64)
FIRST = OfferRecord("shop-0001", 1, OLD)
SECOND = OfferRecord("shop-0002", 1, NEW)
BAD = ev.HealthSeen(1, 0, (("apps/v1/Deployment shop/web", "InProgress", "0 of 1 ready"),))
GOOD = ev.HealthSeen(1, 1, ())
DONE = ev.AppliedAll("", "", ())


def admitted(release: Release, deadline: float = 60.0, back: bool = True) -> ev.Admitted:
    return ev.Admitted(Admission(release, "r", "p"), deadline, back)


def names(commands: Sequence[ev.Command]) -> list[str]:
    return [type(command).__name__ for command in commands]


def feed(machine: BundleMachine, now: float, *events: ev.Event) -> list[ev.Command]:
    return [command for event in events for command in machine.handle(event, now)]


def healthy(offer: OfferRecord = FIRST) -> BundleMachine:
    machine = BundleMachine(BundleRecord(bundle="shop"))
    feed(machine, 0.0, ev.Offered(offer), admitted(offer.release), DONE, GOOD)
    assert (machine.phase, machine.record.outcome) == ("Ready", "healthy")
    return machine


def test_an_offer_is_on_disk_before_it_is_acknowledged() -> None:
    machine = BundleMachine(BundleRecord(bundle="shop"))
    assert names(machine.handle(ev.Offered(FIRST), 0.0)) == ["Save", "Acknowledge", "Admit"]
    assert names(machine.handle(admitted(OLD), 1.0)) == ["Save", "Report", "Apply"]
    assert machine.phase == "Applying"
    machine.handle(DONE, 2.0)
    assert names(machine.handle(GOOD, 2.0)) == ["Save", "Report"]


def test_the_same_offer_again_is_acknowledged_and_not_done_again() -> None:
    machine = healthy()
    assert names(machine.handle(ev.Offered(FIRST), 5.0)) == ["Acknowledge", "Report"]


def test_not_healthy_in_time_goes_back_to_the_last_healthy_release() -> None:
    machine = healthy()
    feed(machine, 10.0, ev.Offered(SECOND), admitted(NEW), DONE, BAD)
    assert machine.handle(ev.Tick(), 69.0) == []
    assert names(machine.handle(ev.Tick(), 70.0)) == ["Save", "Report", "Readmit"]
    assert machine.record.outcome == "applying"
    feed(machine, 71.0, admitted(OLD), DONE, GOOD)
    assert (machine.record.outcome, machine.phase) == ("returned", "Ready")
    assert machine.record.admission is not None
    assert machine.record.admission.release == OLD
    assert "0 of 1 ready" in machine.verdict[1]


@pytest.mark.parametrize("why", ["its commit says no", "nothing was healthy"])
def test_it_stays_failed_where_going_back_is_not_allowed(why: str) -> None:
    machine = BundleMachine(BundleRecord(bundle="shop")) if why.startswith("nothing") else healthy()
    feed(machine, 10.0, ev.Offered(SECOND), admitted(NEW, back=why.startswith("nothing")), DONE, BAD)
    commands = machine.handle(ev.Tick(), 70.0)
    assert names(commands) == ["Save", "Report"]
    assert (machine.record.outcome, machine.phase) == ("failed", "Degraded")


def went_back(machine: BundleMachine, rollout: str, attempt: int, now: float) -> None:
    offer = OfferRecord(rollout, attempt, NEW)
    feed(
        machine,
        now,
        ev.Offered(offer),
        admitted(NEW),
        DONE,
        BAD,
    )
    feed(machine, now + 60, ev.Tick(), admitted(OLD), DONE, GOOD)
    assert machine.record.outcome == "returned"


def test_a_release_it_went_back_from_is_taken_again_only_with_a_higher_attempt() -> None:
    machine = healthy()
    went_back(machine, "shop-0002", 1, 10.0)
    again = machine.handle(ev.Offered(OfferRecord("shop-0003", 1, NEW)), 100.0)
    assert names(again) == ["Save", "Acknowledge", "Report"]
    assert (machine.record.outcome, machine.verdict[0]) == ("failed", "T081")
    assert machine.record.admission is not None
    assert machine.record.admission.release == OLD
    assert names(machine.handle(ev.Offered(OfferRecord("shop-0003", 2, NEW)), 101.0)) == [
        "Save",
        "Acknowledge",
        "Admit",
    ]


def test_the_same_release_is_tried_three_times_a_day_at_most() -> None:
    machine = healthy()
    for attempt in (1, 2, 3):
        went_back(machine, "shop-0002", attempt, 1_000.0 * attempt)
    machine.handle(ev.Offered(OfferRecord("shop-0002", 4, NEW)), 5_000.0)
    assert (machine.record.outcome, machine.verdict[0]) == ("failed", "T082")
    tomorrow = machine.handle(ev.Offered(OfferRecord("shop-0002", 5, NEW)), 5_000.0 + 86_400)
    assert "Admit" in names(tomorrow)


def test_a_denied_release_leaves_what_runs() -> None:
    machine = healthy()
    feed(machine, 10.0, ev.Offered(SECOND), ev.Refused("P001", "policy forbids it", False))
    assert (machine.record.outcome, machine.phase) == ("failed", "Blocked")
    assert machine.record.admission is not None
    assert machine.record.admission.release == OLD
    # What runs is still healed, and being healthy does not hide the refusal.
    assert names(machine.handle(ev.Changed(), 11.0)) == ["Apply"]
    feed(machine, 11.0, DONE, GOOD)
    assert (machine.record.outcome, machine.phase, machine.code) == ("failed", "Blocked", "P001")


def test_what_may_succeed_later_is_tried_again_until_patience_ends() -> None:
    machine = BundleMachine(BundleRecord(bundle="shop"))
    machine.handle(ev.Offered(FIRST), 0.0)
    now = 0.0
    tries = 0
    while machine.record.outcome == "applying":
        machine.handle(ev.Refused("G002", "Git is away", True), now)
        wake = machine.next_wake()
        if wake is None:
            break
        now = wake
        assert names(machine.handle(ev.Tick(), now)) == ["Admit"]
        tries += 1
    assert machine.record.outcome == "failed"
    assert 5 < tries < 20


def test_an_api_server_that_is_away_is_degraded_and_tried_again() -> None:
    machine = healthy()
    machine.handle(ev.Changed(), 10.0)
    assert names(machine.handle(ev.AppliedAll("K001", "unreachable", ()), 10.0)) == ["Report"]
    assert machine.phase == "Degraded"
    wake = machine.next_wake()
    assert wake is not None
    assert names(machine.handle(ev.Tick(), wake)) == ["Apply"]
    feed(machine, wake, DONE, GOOD)
    assert (machine.phase, machine.code) == ("Ready", "")


def test_healed_drift_is_counted_and_reported() -> None:
    machine = healthy()
    commands = machine.handle(ev.AppliedAll("", "", ("v1/ConfigMap shop/web",)), 10.0)
    assert names(commands) == ["Save", "Report"]
    assert (machine.record.healed, machine.record.last_healed) == (1, "v1/ConfigMap shop/web")


def test_a_withdrawn_offer_that_still_waits_is_forgotten() -> None:
    machine = BundleMachine(BundleRecord(bundle="shop"))
    machine.handle(ev.Offered(FIRST), 0.0)
    assert machine.handle(ev.Withdrawn("shop-0009", 1), 1.0) == []
    assert names(machine.handle(ev.Withdrawn("shop-0001", 1), 1.0)) == ["Save", "Report"]
    assert machine.record.offer is None


def test_after_a_kill_the_unfinished_offer_goes_on_and_what_ran_is_kept() -> None:
    record = healthy().record
    machine = BundleMachine(record)
    assert names(machine.start(100.0)) == ["Readmit"]
    waiting = healthy()
    waiting.handle(ev.Offered(SECOND), 10.0)
    again = BundleMachine(waiting.record)
    assert names(again.start(100.0)) == ["Readmit", "Admit"]
    applying = healthy()
    feed(applying, 10.0, ev.Offered(SECOND), admitted(NEW))
    third = BundleMachine(applying.record)
    assert names(third.start(100.0)) == ["Readmit"]
    assert third.next_wake() is not None


def test_ceasing_to_match_only_reports() -> None:
    machine = healthy()
    assert names(machine.handle(ev.Deselected(True), 10.0)) == ["Report"]
    assert machine.shown_phase() == "Deselected"
    assert machine.handle(ev.Deselected(True), 11.0) == []


def test_unhealthy_after_healthy_is_said_and_so_is_the_recovery() -> None:
    machine = healthy()
    assert "Report" in names(machine.handle(BAD, 10.0))
    assert machine.record.outcome == "applying"
    assert "Report" in names(machine.handle(GOOD, 11.0))
    assert machine.record.outcome == "healthy"


BACK = OfferRecord("shop-0003", 1, OLD, returns=True)


def on_the_new_one() -> BundleMachine:
    machine = healthy()
    feed(machine, 10.0, ev.Offered(SECOND), admitted(NEW), DONE, GOOD)
    assert machine.record.previous == Admission(OLD, "r", "p")
    return machine


def test_an_offer_in_a_closed_window_changes_nothing() -> None:
    machine = healthy()
    before = machine.record
    assert machine.handle(ev.Offered(SECOND, 500.0), 10.0) == [ev.Defer(SECOND, 500.0)]
    assert machine.record == before
    # One that was acknowledged while it was open stays so.
    machine.handle(ev.Offered(SECOND), 600.0)
    assert names(machine.handle(ev.Offered(SECOND, 900.0), 700.0)) == ["Acknowledge", "Report"]


def test_an_offer_whose_window_closes_before_it_is_admitted_is_forgotten() -> None:
    machine = healthy()
    feed(machine, 10.0, ev.Offered(SECOND), ev.Refused("G002", "Git is away", True))
    assert names(machine.handle(ev.Deferred(900.0), 20.0)) == ["Save", "Defer", "Report", "Apply"]
    assert (machine.record.offer, machine.record.outcome, machine.next_wake()) == (None, "", None)
    feed(machine, 21.0, DONE, GOOD)
    assert machine.phase == "Ready"
    # What is admitted goes on: half of a release is worse than one that ends after the window.
    feed(machine, 30.0, ev.Offered(SECOND), admitted(NEW))
    assert machine.handle(ev.Deferred(900.0), 31.0) == []


def test_a_return_is_remembered_and_leads_no_further_back() -> None:
    machine = on_the_new_one()
    assert [admission.release for admission in machine.may_go_back_to()] == [NEW, OLD]
    feed(machine, 20.0, ev.Offered(BACK), admitted(OLD), DONE, GOOD)
    assert (machine.record.outcome, machine.record.previous) == ("healthy", None)
    assert [(item.tree_digest, item.attempt) for item in machine.record.returns] == [(NEW.tree_digest, 1)]
    assert [admission.release for admission in machine.may_go_back_to()] == [OLD]


def test_who_was_led_back_does_not_go_on_again_by_its_own_verdict() -> None:
    machine = on_the_new_one()
    feed(machine, 20.0, ev.Offered(BACK), admitted(OLD), DONE, BAD)
    assert names(machine.handle(ev.Tick(), 80.0)) == ["Save", "Report"]
    assert machine.record.outcome == "failed"


def test_a_return_from_what_is_not_healthy_leads_to_the_last_that_was() -> None:
    third = Release("shop", "c" * 40, "3" * 64)
    machine = on_the_new_one()
    feed(
        machine, 20.0, ev.Offered(OfferRecord("shop-0003", 1, third)), admitted(third, back=False), DONE, BAD
    )
    assert [admission.release for admission in machine.may_go_back_to()] == [third, NEW]


@pytest.mark.parametrize("killed_after", range(4))
def test_a_return_that_a_kill_cuts_ends_the_same(killed_after: int) -> None:
    """Wherever it is cut: it is admitted once, what was left is noted once, and the verdict is of what runs."""
    machine = on_the_new_one()
    steps: list[ev.Event] = [ev.Offered(BACK), admitted(OLD), DONE, GOOD]
    feed(machine, 20.0, *steps[:killed_after])
    machine = BundleMachine(machine.record)
    commands = machine.start(30.0)
    if killed_after == 0:
        assert names(commands) == ["Readmit"]
        feed(machine, 30.0, ev.Readmitted(Admission(NEW, "r", "p"), 60.0, True), DONE, GOOD, *steps)
    elif killed_after == 1:
        assert names(commands) == ["Readmit", "Admit"]
        feed(machine, 30.0, ev.Readmitted(Admission(NEW, "r", "p"), 60.0, True), DONE, GOOD)
        assert machine.record.outcome == "applying"  # what runs is healthy, which is no verdict on the offer
        feed(machine, 31.0, *steps[1:])
    else:
        assert names(commands) == ["Readmit"]
        feed(machine, 30.0, ev.Readmitted(Admission(OLD, "r", "p"), 60.0, True), DONE, GOOD)
    record = machine.record
    assert (record.outcome, record.admission, record.previous) == ("healthy", Admission(OLD, "r", "p"), None)
    assert [item.tree_digest for item in record.returns] == [NEW.tree_digest]


def test_what_runs_is_no_verdict_on_an_offer_that_waits_after_a_restart() -> None:
    machine = healthy()
    feed(machine, 10.0, ev.Offered(SECOND))
    machine = BundleMachine(machine.record)
    assert names(machine.start(20.0)) == ["Readmit", "Admit"]
    feed(machine, 20.0, ev.Readmitted(Admission(OLD, "r", "p"), 60.0, True), DONE, GOOD)
    feed(machine, 21.0, ev.Refused("P001", "policy forbids it", False))
    assert (machine.record.outcome, machine.phase) == ("failed", "Blocked")


def test_a_release_without_objects_says_what_it_left_and_only_ten_of_them() -> None:
    machine = healthy()
    kept = tuple(f"v1/Namespace n{index}" for index in range(12))
    assert names(machine.handle(ev.HealthSeen(0, 0, (), kept), 10.0)) == ["Report"]
    assert machine.message == f"taken away; kept here: {', '.join(kept[:10])} and 2 more"
    assert machine.handle(ev.HealthSeen(0, 0, (), kept), 11.0) == []


def test_who_leaves_takes_everything_away_and_no_release() -> None:
    machine = healthy()
    assert names(machine.handle(ev.Leaving(True), 10.0)) == ["Save", "Report", "TakeAway"]
    assert machine.handle(ev.Leaving(True), 11.0) == []
    assert names(machine.handle(ev.Changed(), 11.0)) == ["TakeAway"]
    assert names(feed(machine, 12.0, ev.TakenAway("", "", 2, ()))) == ["Save", "Report"]
    assert names(machine.handle(ev.Tick(), 13.0)) == ["TakeAway"]
    assert names(machine.handle(ev.Offered(SECOND), 14.0)) == ["Save", "Acknowledge", "Report"]
    assert (machine.verdict[0], machine.phase) == ("J070", "Removing")
    feed(machine, 15.0, ev.TakenAway("", "", 0, ("v1/Namespace shop",)))
    assert (machine.phase, machine.record.kept) == ("Removed", ("v1/Namespace shop",))
    # Healthy or not, nothing is judged of what is not here.
    assert machine.handle(GOOD, 16.0) == []


def test_a_kill_while_it_leaves_takes_away_the_rest_and_renders_nothing() -> None:
    machine = healthy()
    feed(machine, 10.0, ev.Leaving(True), ev.TakenAway("", "", 2, ()))
    again = BundleMachine(machine.record)
    assert names(again.start(20.0)) == ["TakeAway"]
    assert names(again.handle(ev.Leaving(False), 30.0)) == ["Save", "Report", "Readmit"]
