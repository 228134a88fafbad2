"""``rollback`` over real gRPC: back to the release before, where it is allowed; otherwise what has to be signed."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
import pytest
from muster_core.rollout import events as ev
from muster_core.sealing.keys import IdentityKey
from muster_proto.v1 import link_pb2 as wire
from muster_proto.v1 import operator_pb2 as op
from unit.coordinator.test_watch import MAP, PLAN, SHOP, Hub, hub

__all__ = ["hub"]
WHO = (("authorization", "Bearer secret"),)


async def feed(hub: Hub, name: str, given: ev.Input) -> None:
    """What an agent would say."""
    await hub.engine.ask(
        lambda effects, now: hub.engine._recorder.feed(hub.engine.state.rollouts[name], given, effects, now)
    )


async def healthy(hub: Hub, name: str) -> None:
    """berlin-04 takes the release of this rollout, and reports it."""
    machine = hub.engine.state.rollouts[name]
    await feed(hub, name, ev.Contact("berlin-04", True))
    await feed(
        hub,
        name,
        ev.Reported(
            "berlin-04", machine.targets["berlin-04"].attempt, machine.started.tree_digest, "healthy"
        ),
    )
    release = wire.Release(
        bundle="shop", commit=machine.started.commit, tree_digest=machine.started.tree_digest
    )
    hub.engine.state.clusters["berlin-04"].reports["shop"] = wire.Report(
        bundle="shop", phase="Ready", release=release
    )


async def version(hub: Hub, number: int) -> str:
    """The next version is pushed, and starts by itself."""
    hub.commit({"bundles/shop/manifests/map.yaml": MAP + f"data: {{version: 'v{number}'}}\n"})
    await hub.catalog.refresh()
    return f"shop-{number:04d}"


async def twice(hub: Hub) -> None:
    """Two versions, both Succeeded."""
    hub.register("berlin-04", IdentityKey.generate().public)
    await hub.catalog.refresh()
    await healthy(hub, "shop-0001")
    await healthy(hub, await version(hub, 2))
    assert [run.state for run in hub.engine.state.rollouts_of("shop")] == ["Succeeded", "Succeeded"]


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


async def test_who_has_the_newest_release_goes_back_to_the_one_before(hub: Hub) -> None:
    await twice(hub)
    first, second = hub.engine.state.rollouts_of("shop")
    async with hub.operator() as operator:
        request = op.RollBackRequest(bundle="shop", reason="tills reject cards")
        view = await operator.RollBack(request, metadata=WHO)
    assert (view.name, view.returns, view.release.commit) == ("shop-0003", "shop-0002", first.started.commit)
    assert (view.started_by, view.reason) == ("admin", "taken back by admin: tills reject cards")
    assert [(t.cluster, t.state) for t in view.targets] == [("berlin-04", "offered")]
    assert second.state == "Succeeded"
    (offer,) = hub.engine.state.offers_for("berlin-04")
    assert (offer.returns, offer.release.commit) == (True, first.started.commit)
    await healthy(hub, "shop-0003")
    await hub.catalog.refresh()
    assert len(hub.engine.state.rollouts_of("shop")) == 3, (
        "what was taken back does not start again by itself"
    )


async def test_what_runs_is_ended_and_only_who_took_it_goes_back(hub: Hub) -> None:
    await twice(hub)
    third = await version(hub, 3)
    async with hub.operator() as operator:
        status, said = await refused(operator.RollBack(op.RollBackRequest(bundle="shop"), metadata=WHO))
        assert said.startswith("MUSTER-L082 no cluster has the release of shop-0003")
        assert hub.engine.state.rollouts[third].state == "Running", "a refusal ends nothing"
        await feed(hub, third, ev.Acknowledged("berlin-04", 1))
        view = await operator.RollBack(op.RollBackRequest(bundle="shop"), metadata=WHO)
    assert hub.engine.state.rollouts[third].state == "Aborted"
    assert (view.returns, view.release.commit) == (
        third,
        hub.engine.state.rollouts["shop-0002"].started.commit,
    )
    assert status is grpc.StatusCode.FAILED_PRECONDITION


async def test_further_back_says_what_to_sign(hub: Hub) -> None:
    await twice(hub)
    await healthy(hub, await version(hub, 3))
    oldest = hub.engine.state.rollouts["shop-0001"].started.commit
    before = hub.engine.state.rollouts["shop-0002"].started.commit
    async with hub.operator() as operator:
        status, said = await refused(
            operator.RollBack(op.RollBackRequest(bundle="shop", commit=oldest[:9]), metadata=WHO)
        )
        assert status is grpc.StatusCode.PERMISSION_DENIED
        assert said.startswith("MUSTER-L083 going back to")
        assert f"only {before[:7]}, the release before, needs no signature" in said
        assert f"muster rollout rollback shop --to {oldest[:9]} --reason WHY --key FILE" in said
        assert "the plan all and the clusters" in said
        named = await operator.RollBack(op.RollBackRequest(bundle="shop", commit=before[:9]), metadata=WHO)
        assert named.returns == "shop-0003"
        _, said = await refused(operator.RollBack(op.RollBackRequest(bundle="shop"), metadata=WHO))
        assert said.startswith("MUSTER-L082 shop-0004 takes it back already")


async def test_a_bundle_that_says_none_is_not_taken_back_without_a_signature(hub: Hub) -> None:
    hub.commit({"bundles/shop/bundle.yaml": SHOP.replace("targets:", "rollback: none, targets:")})
    await twice(hub)
    async with hub.operator() as operator:
        _, said = await refused(operator.RollBack(op.RollBackRequest(bundle="shop"), metadata=WHO))
        assert said.startswith("MUSTER-L083")
        assert "rollback: none" in said
    assert len(hub.engine.state.rollouts_of("shop")) == 2


async def test_there_must_be_something_to_go_back_from_and_to(hub: Hub) -> None:
    hub.register("berlin-04", IdentityKey.generate().public)
    await hub.catalog.refresh()
    async with hub.operator() as operator:
        _, said = await refused(operator.RollBack(op.RollBackRequest(bundle="shop"), metadata=WHO))
        assert said.startswith("MUSTER-L082 no release before this one succeeded")
        _, said = await refused(operator.RollBack(op.RollBackRequest(bundle="wrong"), metadata=WHO))
        assert said.startswith("MUSTER-L082 nothing of it was ever rolled out")
        status, _ = await refused(operator.RollBack(op.RollBackRequest(bundle="nope"), metadata=WHO))
        assert status is grpc.StatusCode.NOT_FOUND


async def test_nothing_is_taken_away_by_going_back(hub: Hub) -> None:
    await twice(hub)
    hub.commit({"bundles/shop/bundle.yaml": SHOP.replace("source: {path: manifests}", "remove: {}")})
    await hub.catalog.refresh()
    await healthy(hub, "shop-0003")
    assert hub.engine.state.rollouts["shop-0003"].started.removes
    hub.commit({"bundles/shop/bundle.yaml": SHOP})
    await healthy(hub, await version(hub, 4))
    async with hub.operator() as operator:
        _, said = await refused(operator.RollBack(op.RollBackRequest(bundle="shop"), metadata=WHO))
    assert said.startswith("MUSTER-L082 the release before, of shop-0003, took the bundle away")


async def test_who_was_away_is_not_brought_to_what_everybody_else_left(hub: Hub) -> None:
    """One is owed the release, one comes only later: both get the one that the fleet went back to."""
    plan = PLAN.replace("rest: true", "rest: true, maxInFlight: 9, offline: {after: 1s}")
    hub.commit({"plans/all.yaml": plan})
    await twice(hub)
    hub.register("edge-1", IdentityKey.generate().public)
    await hub.catalog.refresh()
    state = hub.engine.state
    first, second = state.rollouts_of("shop")
    assert state.ledger("shop").debts["edge-1"].tree_digest == second.started.tree_digest
    assert state.last_succeeded("shop") is second
    async with hub.operator() as operator:
        await operator.RollBack(op.RollBackRequest(bundle="shop"), metadata=WHO)
        assert state.ledger("shop").debts["edge-1"].tree_digest == first.started.tree_digest
        await healthy(hub, "shop-0003")
        hub.register("edge-2", IdentityKey.generate().public)
        await hub.catalog.refresh()
        assert state.ledger("shop").debts["edge-2"].tree_digest == first.started.tree_digest
        view = await operator.GetBundle(op.GetRequest(name="shop"), metadata=WHO)
    assert view.target.tree_digest == view.last_succeeded.tree_digest == first.started.tree_digest
    assert state.good_digests("shop") == {first.started.tree_digest}
