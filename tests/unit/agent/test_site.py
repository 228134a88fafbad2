"""A site's own window and veto: what a cluster takes, when, and what goes on regardless."""

from __future__ import annotations

import datetime as dt
import zoneinfo

import pytest
from muster_core.times import format_time
from muster_proto.v1 import link_pb2 as wire
from unit.agent.signed import Fleet
from unit.agent.stage import bundle, config_map
from unit.agent.test_pipeline import MAPS, Stage, anyio_backend, stage

__all__ = ["anyio_backend", "stage"]

NIGHT = ", site: {timeZone: Europe/Berlin, window: {cron: '0 1 * * *', duration: 4h}}"


def berlin(hour: int, day: int = 1) -> float:
    return dt.datetime(2027, 6, day, hour, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")).timestamp()


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(stage: Stage) -> Clock:
    stage.clock = clock = Clock(berlin(2))
    stage.register(NIGHT)
    return clock


def replies(stage: Stage) -> list[wire.OfferReply]:
    return [frame.offer_reply for frame in stage.frames if frame.HasField("offer_reply")]


async def deferred(stage: Stage, rollout: str) -> wire.OfferReply:
    await stage.until(lambda: any(r.rollout == rollout for r in replies(stage)))
    reply = replies(stage)[-1]
    assert reply.answer == wire.OfferReply.DEFERRED
    return reply


def values(value: str) -> dict[str, str | None]:
    return {"bundles/shop/map.yaml": config_map("web", value)}


async def test_outside_the_window_an_offer_is_deferred_until_it_opens_and_forgotten(
    stage: Stage, clock: Clock
) -> None:
    two = stage.commit(values("two"))
    async with stage.agent():
        await stage.offer(stage.commits[0], "shop-0001")
        await stage.outcome("shop-0001", wire.OUTCOME_HEALTHY)
        clock.now = berlin(5)
        await stage.offer(two, "shop-0002")
        reply = await deferred(stage, "shop-0002")
        assert reply.deferred_until_unix == berlin(1, day=2)
        assert format_time(berlin(1, day=2)) in reply.message
        assert stage.last().rollout == "shop-0001"
        assert await stage.value() == "one"
        # What runs is healed all the same.
        await stage("PATCH", f"{MAPS}/web", {"data": {"a": "edited"}})
        await stage.until(lambda: stage.last().healed_count)
        assert await stage.value() == "one"
        # The very same offer is taken when the window is open.
        clock.now = berlin(1, day=2)
        await stage.offer(two, "shop-0002")
        await stage.outcome("shop-0002", wire.OUTCOME_HEALTHY)
    assert await stage.value() == "two"


async def test_a_deferred_offer_is_forgotten_by_a_restart_too(stage: Stage, clock: Clock) -> None:
    clock.now = berlin(12)
    async with stage.agent():
        await stage.offer(stage.commits[0], "shop-0001")
        await deferred(stage, "shop-0001")
    clock.now = berlin(2, day=2)
    stage.frames.clear()
    async with stage.agent():
        await stage.offer(stage.commits[0], "shop-0002")
        await stage.outcome("shop-0002", wire.OUTCOME_HEALTHY)
    assert {reply.rollout for reply in replies(stage)} == {"shop-0002"}


async def test_an_offer_that_waits_for_git_until_the_window_closes_is_deferred(
    stage: Stage, clock: Clock
) -> None:
    two = stage.commit(values("two"))
    host = stage.origin.folder / "origin.git"
    async with stage.agent():
        await stage.offer(stage.commits[0], "shop-0001")
        await stage.outcome("shop-0001", wire.OUTCOME_HEALTHY)
        three = stage.commit(values("three"))
        host.rename(host.with_name("gone.git"))
        clock.now = berlin(4)
        release = wire.Release(bundle="shop", commit=three, tree_digest="1" * 64)
        offer = wire.Offer(rollout="shop-0002", release=release, attempt=1)
        await stage.reconciler.receive(wire.HubFrame(offer=offer))
        await stage.until(lambda: stage.last().rollout == "shop-0002" and stage.last().code.startswith("G"))
        assert replies(stage)[-1].answer == wire.OfferReply.ACKNOWLEDGED
        clock.now = berlin(6)
        await stage.until(lambda: replies(stage)[-1].answer == wire.OfferReply.DEFERRED)
        assert replies(stage)[-1].deferred_until_unix == berlin(1, day=2)
        host.with_name("gone.git").rename(host)
        # Nothing of it is left: neither Git's return nor a restart takes it up.
        await stage.until(lambda: stage.last().rollout == "")
    stage.frames.clear()
    async with stage.agent():
        await stage("PATCH", f"{MAPS}/web", {"data": {"a": "edited"}})
        await stage.until(lambda: stage.last().healed_count)
        await stage.offer(two, "shop-0003")
        await deferred(stage, "shop-0003")
    assert await stage.value() == "one"


async def test_a_clock_that_is_set_back_opens_no_window(stage: Stage) -> None:
    fleet = Fleet(stage, issued=format_time(berlin(12)))
    fleet.stage.origin = fleet.unsigned.signed_by(fleet.key(fleet.people["registrar"]))
    stage.register(NIGHT)
    stage.clock = Clock(berlin(2))
    async with stage.agent():
        await stage.offer(stage.commits[0], "shop-0001")
        reply = await deferred(stage, "shop-0001")
    assert reply.deferred_until_unix == berlin(1, day=2)


async def test_going_back_ignores_the_window_and_going_on_does_not_say_that_it_goes_back(
    stage: Stage, clock: Clock
) -> None:
    two, three = stage.commit(values("two")), stage.commit(values("three"))
    async with stage.agent():
        for number, commit in enumerate((stage.commits[0], two), 1):
            await stage.offer(commit, f"shop-000{number}")
            await stage.outcome(f"shop-000{number}", wire.OUTCOME_HEALTHY)
        clock.now = berlin(12)
        await stage.offer(three, "shop-0003", returns=True)
        assert (await stage.outcome("shop-0003", wire.OUTCOME_FAILED)).code == "T093"
        assert await stage.value() == "two"
        await stage.offer(stage.commits[0], "shop-0004", returns=True)
        await stage.outcome("shop-0004", wire.OUTCOME_HEALTHY)
    assert await stage.value() == "one"


async def test_a_veto_refuses_every_release_of_its_bundle_and_healing_goes_on(stage: Stage) -> None:
    two = stage.commit(values("two"))
    async with stage.agent(poll=0.1) as reconciler:
        for number, commit in enumerate((stage.commits[0], two), 1):
            await stage.offer(commit, f"shop-000{number}")
            await stage.outcome(f"shop-000{number}", wire.OUTCOME_HEALTHY)
        three = stage.commit(values("three"))
        head = stage.register(", site: {veto: [shop]}")
        await stage.until(lambda: reconciler.head.registry == head)
        await stage.offer(three, "shop-0003")
        assert (await stage.outcome("shop-0003", wire.OUTCOME_FAILED)).code == "T092"
        await stage.offer(stage.commits[0], "shop-0004", returns=True)
        assert (await stage.outcome("shop-0004", wire.OUTCOME_FAILED)).code == "T092"
        await stage("DELETE", f"{MAPS}/web")
        await stage.until(lambda: stage.last().healed_count)
        assert await stage.value() == "two"
        head = stage.register(", site: {veto: [other]}")
        await stage.until(lambda: reconciler.head.registry == head)
        await stage.offer(three, "shop-0005")
        await stage.outcome("shop-0005", wire.OUTCOME_HEALTHY)
    assert await stage.value() == "three"


async def test_a_rollback_of_its_own_verdict_ignores_window_and_veto(stage: Stage, clock: Clock) -> None:
    bad = stage.commit({"bundles/shop/bundle.yaml": bundle(", health: {deadline: 1s}"), **NEVER})
    async with stage.agent(poll=0.1) as reconciler:
        await stage.offer(stage.commits[0], "shop-0001")
        await stage.outcome("shop-0001", wire.OUTCOME_HEALTHY)
        await stage.offer(bad, "shop-0002")
        await stage.until(lambda: stage.last().outcome == wire.OUTCOME_APPLYING)
        clock.now = berlin(12)
        head = stage.register(NIGHT.replace("}}", "}, veto: [shop]}"))
        await stage.until(lambda: reconciler.head.registry == head)
        await stage.outcome("shop-0002", wire.OUTCOME_RETURNED)


NEVER: dict[str, str | None] = {
    "plans/rings.yaml": "apiVersion: muster.dev/v1alpha1\nkind: RolloutPlan\nmetadata: {name: rings}\n"
    "spec: {waves: [{name: all, rest: true}], onFailure: {action: rollback}}\n",
    "bundles/shop/web.yaml": "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\n"
    "spec: {containers: [{name: web, image: 'registry.example/web:1-never'}]}\n",
}
