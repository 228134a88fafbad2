"""The log of a rollout over real gRPC: whole and in order, followed to its end; and which release is where."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import grpc
import grpc.aio
import pytest
from muster_core.rollout import events as ev
from muster_core.sealing.keys import IdentityKey
from muster_proto.v1 import link_pb2 as wire
from muster_proto.v1 import operator_pb2 as op
from unit.coordinator.test_watch import Hub, hub, watching

__all__ = ["hub"]
WHO = (("authorization", "Bearer secret"),)
Action = op.ActOnRolloutRequest


@asynccontextmanager
async def started(hub: Hub) -> AsyncIterator[Any]:
    """One cluster, and shop-0001 that waits for it."""
    hub.register("berlin-04", IdentityKey.generate().public)
    await hub.catalog.refresh()
    async with hub.operator() as operator:
        yield operator


async def read(call: Any, count: int) -> list[op.RolloutEvent]:
    with anyio.fail_after(20):
        return [await call.read() for _ in range(count)]


async def rest(call: Any) -> list[op.RolloutEvent]:
    """What comes until the stream ends by itself."""
    found = []
    with anyio.fail_after(20):
        while (event := await call.read()) is not grpc.aio.EOF:
            found.append(event)
    return found


async def test_the_log_is_told_in_order_and_on_from_any_number(hub: Hub) -> None:
    async with started(hub) as operator:
        request = op.ListEventsRequest(rollout="shop-0001", whole=True)
        told = await rest(operator.ListEvents(request, metadata=WHO))
        assert [(e.number, e.event) for e in told] == [(1, "started"), (2, "wave-opened"), (3, "offered")]
        assert told[2].cluster == "berlin-04"
        assert told[2].text.startswith("shop-0001 offers shop@")
        assert json.loads(told[0].data)["by"] == "muster"
        later = await rest(
            operator.ListEvents(op.ListEventsRequest(rollout="shop-0001", after=2), metadata=WHO)
        )
        assert [(e.number, e.data) for e in later] == [(3, b"")]
        past = op.ListEventsRequest(rollout="shop-0001", after=2**64 - 1)
        assert await rest(operator.ListEvents(past, metadata=WHO)) == [], "no store counts so far"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await rest(operator.ListEvents(op.ListEventsRequest(rollout="nope"), metadata=WHO))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert "MUSTER-L042" in (caught.value.details() or "")


async def test_a_follower_sees_every_event_once_and_ends_with_the_rollout(hub: Hub) -> None:
    async with started(hub) as operator:
        call = operator.ListEvents(op.ListEventsRequest(rollout="shop-0001", follow=True), metadata=WHO)
        await read(call, 3)
        await operator.ActOnRollout(
            op.ActOnRolloutRequest(rollout="shop-0001", action=Action.PAUSE, reason="lunch"), metadata=WHO
        )
        withdrawn, paused = await read(call, 2)
        assert (withdrawn.event, paused.event) == ("withdrawn", "paused")
        assert withdrawn.text == "berlin-04 is offered nothing for now: attempt 1, why the rollout is paused"
        assert "lunch" in paused.text
        await operator.ActOnRollout(
            op.ActOnRolloutRequest(rollout="shop-0001", action=Action.ABORT), metadata=WHO
        )
        assert [(e.number, e.event) for e in await rest(call)] == [(6, "ended")]
        past = operator.ListEvents(
            op.ListEventsRequest(rollout="shop-0001", after=6, follow=True), metadata=WHO
        )
        assert await rest(past) == [], "nothing comes after an end, and nobody waits for it"


async def test_who_watches_briefly_is_not_sent_every_target(hub: Hub) -> None:
    async with (
        started(hub) as operator,
        watching(hub, rollouts=True, brief=True) as brief,
        watching(hub, rollouts=True) as whole,
    ):
        first, second = await brief.synced(), await whole.synced()
        assert [len(e.rollout.targets) for e in (first[0], second[0])] == [0, 1]
        await operator.ActOnRollout(
            op.ActOnRolloutRequest(rollout="shop-0001", action=Action.PAUSE), metadata=WHO
        )
        for reader, targets in ((brief, 0), (whole, 1)):
            seen = await reader.until(lambda e: e.rollout.state == "Paused")
            assert len(seen[-1].rollout.targets) == targets


async def test_which_release_is_where_is_counted_by_what_it_is_and_not_by_its_commit(hub: Hub) -> None:
    hub.register("aachen", IdentityKey.generate().public)
    await hub.catalog.refresh()
    state = hub.engine.state
    entry = state.clusters["aachen"].entry
    assert entry
    for name in ("berlin-04", "cairo"):
        state.cluster(name).entry = entry
    machine = state.rollouts[next(iter(state.rollouts))]
    now = machine.started

    def has(name: str, commit: str, digest: str, phase: str = "Ready") -> None:
        release = wire.Release(bundle="shop", commit=commit, tree_digest=digest)
        state.clusters[name].reports["shop"] = wire.Report(bundle="shop", phase=phase, release=release)

    has("aachen", "older", "another-digest", "Degraded")
    has("berlin-04", "an-unrelated-commit", now.tree_digest)
    machine.handle(ev.Tick(), 1e12)
    assert machine.targets["aachen"].state == "owed"
    async with hub.operator() as operator:
        listed = await operator.ListBundles(op.ListBundlesRequest(), metadata=WHO)
        (shop,) = (bundle for bundle in listed.bundles if bundle.name == "shop")
        assert not shop.places
        assert shop.target.commit == now.commit
        counted = [(c.release.commit, c.clusters, c.ready, c.owed) for c in shop.releases]
        assert counted == [(now.commit, 1, 1, 0), ("older", 1, 0, 1), ("", 1, 0, 0)]
        whole = await operator.ListBundles(op.ListBundlesRequest(places=True), metadata=WHO)
        (shop,) = (bundle for bundle in whole.bundles if bundle.name == "shop")
        assert {place.cluster for place in shop.places} == {"aachen", "berlin-04", "cairo"}
