"""Releases that are prepared now and applied at their time, by the agent's own clock."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest
from muster_agent.reconcile import events as ev
from muster_agent.reconcile.machine import BundleMachine
from muster_agent.state.records import Admission, BundleRecord, OfferRecord
from muster_core.release import Release
from muster_proto.v1 import link_pb2 as wire
from unit.agent.signed import Fleet
from unit.agent.stage import FLEET_ID, KIND, config_map
from unit.agent.test_machine import BAD, DONE, GOOD, admitted, feed, healthy, names
from unit.agent.test_pipeline import MAPS, Stage, anyio_backend, stage
from unit.agent.test_site import NIGHT, Clock, berlin, replies

__all__ = ["anyio_backend", "stage"]

HOUR = 3600.0
NEW = Release("shop", "b" * 40, "2" * 64)
LATER = OfferRecord("shop-0002", 1, NEW, not_before=1_000)
NAKED = "apiVersion: v1\nkind: Pod\nmetadata: {name: naked}\nspec: {hostNetwork: true, containers: [{name: a, image: a}]}\n"


def values(value: str) -> dict[str, str | None]:
    return {"bundles/shop/map.yaml": config_map("web", value)}


async def wake(stage: Stage, clock: Clock, now: float) -> None:
    """The agent's clock says so, and it looks at what it has to do."""
    clock.now = now
    await stage.reconciler.receive(wire.HubFrame(head=wire.Head(commit="f" * 40)))


def staged_until(stage: Stage) -> float | None:
    bundle = stage.reconciler._bundles.get("shop")
    return bundle.machine.staged_until if bundle else None


# --- the whole way -------------------------------------------------------------------------------------------------


async def test_it_is_prepared_at_once_and_applied_at_its_time_without_git_and_after_a_restart(
    stage: Stage,
) -> None:
    stage.clock = clock = Clock(now := time.time())
    host, start = stage.origin.folder / "origin.git", int(now + HOUR)
    two = stage.commit(values("two"))
    async with stage.agent():
        await stage.offer(stage.commits[0], "shop-0001")
        await stage.outcome("shop-0001", wire.OUTCOME_HEALTHY)
        await stage.offer(two, "shop-0002", not_before_unix=start)
        report = await stage.outcome("shop-0002", wire.OUTCOME_STAGED)
        assert (report.release.commit, report.phase) == (stage.commits[0], "Ready")
        assert replies(stage)[-1].answer == wire.OfferReply.ACKNOWLEDGED
        host.rename(host.with_name("gone.git"))
        # What runs is healed to what runs, a second before the time too.
        await stage("PATCH", f"{MAPS}/web", {"data": {"a": "edited"}})
        await stage.until(lambda: stage.last().healed_count == 1)
        await wake(stage, clock, start - 1)
        await stage("PATCH", f"{MAPS}/web", {"data": {"a": "edited"}})
        await stage.until(lambda: stage.last().healed_count == 2)
        assert (await stage.value(), stage.last().outcome) == ("one", wire.OUTCOME_STAGED)
    stage.frames.clear()
    async with stage.agent(alone=True):
        await stage.until(lambda: staged_until(stage) == start)
        assert await stage.value() == "one"
        await wake(stage, clock, start)
        await stage.outcome("shop-0002", wire.OUTCOME_HEALTHY)
    assert await stage.value() == "two"


async def test_a_time_that_came_while_the_agent_was_down_is_kept_when_it_starts(stage: Stage) -> None:
    stage.clock = clock = Clock(now := time.time())
    async with stage.agent():
        await stage.offer(stage.commits[0], "shop-0001", not_before_unix=int(now + HOUR))
        await stage.outcome("shop-0001", wire.OUTCOME_STAGED)
        assert await stage.value() is None
    clock.now = now + 2 * HOUR
    async with stage.agent(alone=True):
        await stage.outcome("shop-0001", wire.OUTCOME_HEALTHY)
    assert await stage.value() == "one"


async def test_a_denial_is_told_at_once_and_what_was_taken_back_is_not_applied(stage: Stage) -> None:
    stage.clock = clock = Clock(now := time.time())
    start = int(now + HOUR)
    security = "{id: " + FLEET_ID + ", defaults: {plan: rings}, policies: {podSecurity: {enforce: baseline}}}"
    stage.commit({"fleet.yaml": KIND.format(kind="Fleet", name="acme", spec=security)})
    denied = stage.commit({"bundles/shop/pod.yaml": NAKED})
    two = stage.commit({"bundles/shop/pod.yaml": None, **values("two")})
    async with stage.agent():
        await stage.offer(stage.commits[0], "shop-0001")
        await stage.outcome("shop-0001", wire.OUTCOME_HEALTHY)
        await stage.offer(denied, "shop-0002", not_before_unix=start)
        report = await stage.outcome("shop-0002", wire.OUTCOME_FAILED)
        assert (report.code, report.phase) == ("P001", "Blocked")
        await stage.offer(two, "shop-0003", not_before_unix=start)
        await stage.outcome("shop-0003", wire.OUTCOME_STAGED)
        withdraw = wire.Withdraw(rollout="shop-0003", bundle="shop", attempt=1)
        await stage.reconciler.receive(wire.HubFrame(withdraw=withdraw))
        await stage.until(lambda: stage.last().rollout == "")
        await wake(stage, clock, start + 1)
        await stage("PATCH", f"{MAPS}/web", {"data": {"a": "edited"}})
        await stage.until(lambda: stage.last().healed_count)
        assert await stage.value() == "one"


async def test_a_site_window_that_is_closed_at_that_time_defers_and_one_that_is_closed_before_does_not(
    stage: Stage,
) -> None:
    stage.clock = clock = Clock(berlin(12, day=1))
    stage.register(NIGHT)
    async with stage.agent():
        await stage.offer(stage.commits[0], "shop-0001", not_before_unix=int(berlin(5, day=2)))
        await stage.outcome("shop-0001", wire.OUTCOME_STAGED)
        await wake(stage, clock, berlin(5, day=2))
        await stage.until(lambda: replies(stage)[-1].answer == wire.OfferReply.DEFERRED)
        assert replies(stage)[-1].deferred_until_unix == berlin(1, day=3)
        await stage.offer(stage.commits[0], "shop-0002", not_before_unix=int(berlin(1, day=3)))
        await stage.outcome("shop-0002", wire.OUTCOME_STAGED)
        assert await stage.value() is None
        await wake(stage, clock, berlin(1, day=3))
        await stage.outcome("shop-0002", wire.OUTCOME_HEALTHY)


async def test_a_directive_names_the_time_whatever_the_offer_says(stage: Stage) -> None:
    fleet = Fleet(stage, "directives")
    stage.clock = clock = Clock(now := time.time())
    start = int(now + 300)
    async with stage.agent():
        offer = await fleet.directed(stage.commits[0], not_before=start)
        fields = {
            "directive": offer.directive,
            "directive_signature": offer.directive_signature,
            "proof": offer.proof,
        }
        await stage.offer(stage.commits[0], "shop-0001", **fields)
        await stage.outcome("shop-0001", wire.OUTCOME_STAGED)
        await wake(stage, clock, start - 1)
        assert await stage.value() is None
        await wake(stage, clock, start)
        await stage.outcome("shop-0001", wire.OUTCOME_HEALTHY)


# --- one bundle's machine ------------------------------------------------------------------------------------------


def staged() -> BundleMachine:
    machine = healthy()
    assert names(feed(machine, 10.0, ev.Offered(LATER))) == ["Save", "Acknowledge", "Admit"]
    assert names(feed(machine, 11.0, ev.Staged(1_000.0))) == ["Save", "Report", "Apply"]
    return machine


def outcome(machine: BundleMachine) -> tuple[str, str]:
    return machine.phase, machine.record.outcome


def test_what_runs_is_healed_and_judged_while_a_release_waits_for_its_time() -> None:
    machine = staged()
    feed(machine, 12.0, DONE, BAD)
    assert outcome(machine) == ("Degraded", "staged")
    assert names(machine.handle(ev.Changed(), 13.0)) == ["Apply"]
    feed(machine, 14.0, DONE, GOOD)
    assert outcome(machine) == ("Ready", "staged")
    assert machine.next_wake() == 1_000.0
    assert machine.handle(ev.Tick(), 999.0) == []
    assert names(machine.handle(ev.Tick(), 1_000.0)) == ["Save", "Admit"]
    assert names(machine.handle(admitted(NEW), 1_000.0)) == ["Save", "Report", "Apply"]
    feed(machine, 1_001.0, DONE, GOOD)
    assert machine.record.last_healthy == Admission(NEW, "r", "p")


@pytest.mark.parametrize(
    "event", [ev.Withdrawn("shop-0002", 1), ev.Leaving(True), ev.Offered(OfferRecord("shop-0003", 1, NEW))]
)
def test_nothing_that_ends_the_waiting_leaves_a_time_behind(event: ev.Event) -> None:
    machine = staged()
    machine.handle(event, 20.0)
    assert machine.staged_until is None
    assert "Admit" not in names(machine.handle(ev.Tick(), 2_000.0))
    assert machine.handle(ev.Due(), 2_000.0) == []


def test_a_verdict_that_was_still_to_come_is_not_passed_on_what_waits() -> None:
    machine = BundleMachine(BundleRecord(bundle="shop"))
    feed(machine, 0.0, ev.Offered(OfferRecord("shop-0001", 1, Release("shop", "a" * 40, "1" * 64))))
    feed(machine, 0.0, admitted(Release("shop", "a" * 40, "1" * 64)), DONE, BAD)
    feed(machine, 5.0, ev.Offered(LATER), ev.Staged(1_000.0))
    assert machine.handle(ev.Tick(), 500.0) == []
    assert machine.record.outcome == "staged"


def test_an_offer_that_comes_again_is_told_again_and_not_prepared_again() -> None:
    assert names(staged().handle(ev.Offered(LATER), 20.0)) == ["Acknowledge", "Report"]


def test_what_cannot_be_prepared_yet_is_tried_until_its_time_and_no_shorter_than_ever() -> None:
    machine, away = healthy(), ev.Refused("G002", "Git is away", True)
    feed(machine, 10.0, ev.Offered(LATER), away)
    feed(machine, 900.0, away)
    assert machine.record.outcome == "applying"
    feed(machine, 1_059.0, away)
    assert machine.record.outcome == "applying"
    feed(machine, 1_061.0, away)
    assert outcome(machine) == ("Blocked", "failed")


def test_a_restart_prepares_it_again_also_where_it_is_the_release_that_runs() -> None:
    machine = healthy()
    again = OfferRecord("shop-0002", 1, Release("shop", "a" * 40, "1" * 64), not_before=1_000)
    feed(machine, 10.0, ev.Offered(again), ev.Staged(1_000.0))
    machine = BundleMachine(machine.record)
    assert names(machine.start(20.0)) == ["Readmit", "Admit"]
    commands: Sequence[ev.Command] = feed(machine, 20.0, ev.Staged(1_000.0))
    assert names(commands) == ["Save", "Report", "Apply"]
    assert machine.next_wake() == 1_000.0
