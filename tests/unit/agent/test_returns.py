"""Going back: where a cluster may be led, by whom, and that a hub alone leads it nowhere else."""

from __future__ import annotations

from typing import Any

import pytest
from muster_core.fleet import read_fleet
from muster_core.release import Release
from muster_proto.v1 import link_pb2 as wire
from unit.agent.signed import Fleet
from unit.agent.stage import bundle, config_map
from unit.agent.test_pipeline import Stage, anyio_backend, stage

__all__ = ["anyio_backend", "stage"]


def values(value: str) -> dict[str, str | None]:
    return {"bundles/shop/map.yaml": config_map("web", value)}


@pytest.fixture
def fleet(stage: Stage) -> Fleet:
    return Fleet(stage)


async def taken(stage: Stage, commit: str, number: int, **more: Any) -> wire.Report:
    await stage.offer(commit, f"shop-{number:04d}", **more)
    return await stage.outcome(f"shop-{number:04d}", wire.OUTCOME_HEALTHY)


async def refused(stage: Stage, commit: str, number: int, **more: Any) -> str:
    await stage.offer(commit, f"shop-{number:04d}", **more)
    report = await stage.outcome(f"shop-{number:04d}", wire.OUTCOME_FAILED)
    assert report.release.commit != commit
    return report.code


async def test_it_goes_back_to_what_was_healthy_before_and_its_floor_does_not(fleet: Fleet) -> None:
    stage = fleet.stage
    one, two = fleet.commit(values("one")), fleet.commit(values("two"))
    async with stage.agent() as reconciler:
        await taken(stage, one, 1)
        await taken(stage, two, 2)
        report = await taken(stage, one, 3, returns=True)
        assert await stage.value() == "one"
        assert report.release.commit == one
        assert reconciler._desired._floors.floors.bundles == {"shop": two}
        # Nothing of this is a way around the floor: as an ordinary release only what is newer comes.
        assert await refused(stage, stage.commits[0], 4) == "T012"
    assert await stage.value() == "one"


async def test_a_hub_leads_it_nowhere_else_and_not_twice(fleet: Fleet) -> None:
    """A hub that says ``returns`` of what it likes: older ones, one never seen, a newer one, and step by step."""
    stage = fleet.stage
    one, two, three = (fleet.commit(values(value)) for value in ("first", "two", "three"))
    async with stage.agent() as reconciler:
        await taken(stage, one, 1)
        await taken(stage, three, 2)
        assert await refused(stage, stage.commits[0], 3, returns=True) == "T093"
        assert await refused(stage, two, 4, returns=True) == "T093"
        newer = fleet.commit(values("newer"))
        await reconciler.receive(wire.HubFrame(head=wire.Head(commit=newer)))
        await stage.until(lambda: reconciler.head.commit == newer)
        assert await refused(stage, newer, 5, returns=True) == "T093"
        assert await refused(stage, one, 6) == "T012"
        assert await stage.value() == "three"
        await taken(stage, one, 7, returns=True)
        for number, commit in enumerate((stage.commits[0], two, three), 8):
            assert await refused(stage, commit, number, returns=True) == "T093"
    assert await stage.value() == "first"


async def test_what_it_was_led_back_from_is_taken_again_by_a_higher_attempt_only_three_times_a_day(
    fleet: Fleet,
) -> None:
    stage = fleet.stage
    one, two = fleet.commit(values("one")), fleet.commit(values("two"))
    async with stage.agent() as reconciler:
        await taken(stage, one, 1)
        digest = read_fleet(await reconciler._source.tree(two)).digests["shop"]
        number = 2
        for attempt in (1, 2, 3):
            offer = wire.Offer(
                rollout=f"shop-{number:04d}",
                release=wire.Release(bundle="shop", commit=two, tree_digest=digest),
                attempt=attempt,
            )
            await reconciler.receive(wire.HubFrame(offer=offer))
            await stage.outcome(offer.rollout, wire.OUTCOME_HEALTHY)
            await taken(stage, one, number + 1, returns=True)
            again = wire.Offer(rollout="again", release=offer.release, attempt=attempt)
            await reconciler.receive(wire.HubFrame(offer=again))
            assert (await stage.outcome("again", wire.OUTCOME_FAILED)).code == "T081"
            number += 2
        again = wire.Offer(rollout="fourth", release=offer.release, attempt=4)
        await reconciler.receive(wire.HubFrame(offer=again))
        assert (await stage.outcome("fourth", wire.OUTCOME_FAILED)).code == "T082"
    assert await stage.value() == "one"


@pytest.mark.parametrize("where", ["the release", "the newest head alone"])
async def test_a_bundle_that_says_so_does_not_go_back(fleet: Fleet, where: str) -> None:
    stage = fleet.stage
    one = fleet.commit(values("one"))
    stays: dict[str, str | None] = {"bundles/shop/bundle.yaml": bundle(", rollback: none")}
    two = fleet.commit({**values("two"), **(stays if where == "the release" else {})})
    async with stage.agent() as reconciler:
        await taken(stage, one, 1)
        await taken(stage, two, 2)
        if where != "the release":
            newest = fleet.commit(stays)
            await reconciler.receive(wire.HubFrame(head=wire.Head(commit=newest)))
            await stage.until(lambda: reconciler.head.commit == newest)
        assert await refused(stage, one, 3, returns=True) == "T093"
    assert await stage.value() == "two"


@pytest.mark.parametrize("mode", ["directives", "both"])
async def test_where_releases_ask_for_a_directive_going_back_does_too(stage: Stage, mode: str) -> None:
    fleet = Fleet(stage, mode)
    one, two = fleet.commit(values("one")), fleet.commit(values("two"))
    async with stage.agent() as reconciler:
        digest = read_fleet(await reconciler._source.tree(one)).digests["shop"]
        back = Release("shop", one, digest)
        await taken(stage, one, 1, **credentials(await fleet.directed(one)))
        second = await fleet.directed(two, sequence=3, return_to=back)
        await taken(stage, two, 2, **credentials(second))
        assert await refused(stage, one, 3, returns=True) == "T093"
        other = await fleet.directed(two, sequence=4, return_to=Release("shop", stage.commits[0], digest))
        assert await refused(stage, one, 4, returns=True, **credentials(other)) == "T093"
        forged = await fleet.directed(two, sequence=5, by="stranger", return_to=back)
        assert await refused(stage, one, 5, returns=True, **credentials(forged)) == "T071"
        assert await stage.value() == "two"
        await taken(stage, one, 6, returns=True, **credentials(second))
        assert reconciler._desired._floors.floors.bundles == {"shop": two}
    assert await stage.value() == "one"


def credentials(signed: wire.Offer) -> dict[str, Any]:
    return {
        "directive": signed.directive,
        "directive_signature": signed.directive_signature,
        "proof": signed.proof,
    }


async def test_after_a_return_a_changed_entry_is_taken_with_the_release_that_runs(fleet: Fleet) -> None:
    """An ordinary catch-up of the very release that runs is no way back, though it is below the floor."""
    stage = fleet.stage
    one, two = fleet.commit(values("one")), fleet.commit(values("two"))
    async with stage.agent(poll=0.1) as reconciler:
        await taken(stage, one, 1)
        await taken(stage, two, 2)
        before = await taken(stage, one, 3, returns=True)
        fleet.by("registrar")
        head = stage.register(", values: {colour: red}")
        await stage.until(lambda: reconciler.head.registry == head)
        after = await taken(stage, one, 4)
    assert (after.release, after.registry_digest != before.registry_digest) == (before.release, True)


async def test_a_return_goes_on_after_a_restart(fleet: Fleet) -> None:
    stage = fleet.stage
    one, two = fleet.commit(values("one")), fleet.commit(values("two"))
    async with stage.agent():
        await taken(stage, one, 1)
        await taken(stage, two, 2)
    async with stage.agent():
        await stage.offer(one, "shop-0003", returns=True)
        await stage.until(lambda: any(f.offer_reply.rollout == "shop-0003" for f in stage.frames))
    async with stage.agent():
        await stage.outcome("shop-0003", wire.OUTCOME_HEALTHY)
    assert await stage.value() == "one"
