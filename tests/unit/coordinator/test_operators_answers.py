"""What an operator is told: what is wrong in Git, what already runs, what became of a debt."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from muster_core.rollout import events as ev
from muster_core.sealing.keys import IdentityKey
from muster_proto.v1 import link_pb2 as wire
from muster_proto.v1 import operator_pb2 as op
from unit.coordinator.test_watch import PLAN, SHOP, Hub, hub

__all__ = ["hub"]
WHO = (("authorization", "Bearer secret"),)


@asynccontextmanager
async def asking(hub: Hub) -> AsyncIterator[Any]:
    async with hub.operator() as operator:
        yield operator


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


async def test_what_is_wrong_in_git_is_told_with_every_look(hub: Hub) -> None:
    hub.register("berlin-04", IdentityKey.generate().public)
    await hub.catalog.refresh()
    async with asking(hub) as operator:
        assert (await operator.GetInfo(op.GetInfoRequest(), metadata=WHO)).catalog_error == ""
        hub.commit({"plans/all.yaml": PLAN + "  - ["})
        await hub.catalog.refresh()
        info = await operator.GetInfo(op.GetInfoRequest(), metadata=WHO)
        assert info.catalog_error.startswith("plans/all.yaml:")
        status, said = await refused(
            operator.StartRollout(op.StartRolloutRequest(bundle="shop"), metadata=WHO)
        )
        assert status is grpc.StatusCode.FAILED_PRECONDITION
        assert said.startswith("MUSTER-R007 plans/all.yaml:"), said
        status, said = await refused(
            operator.StartRollout(op.StartRolloutRequest(bundle="nope"), metadata=WHO)
        )
        assert status is grpc.StatusCode.NOT_FOUND
        assert said.endswith("See them: muster get bundles."), said


async def test_a_start_by_hand_meets_the_rollout_that_the_push_has_started(hub: Hub) -> None:
    hub.register("berlin-04", IdentityKey.generate().public)
    async with asking(hub) as operator:
        first = await operator.StartRollout(op.StartRolloutRequest(bundle="shop"), metadata=WHO)
        again = await operator.StartRollout(op.StartRolloutRequest(bundle="shop"), metadata=WHO)
        assert (first.name, again.name, again.state) == ("shop-0001", "shop-0001", "Running")
        _, said = await refused(
            operator.StartRollout(op.StartRolloutRequest(bundle="shop", again=True), metadata=WHO)
        )
        assert said.startswith("MUSTER-R005 shop-0001 is still Running")


async def test_a_bundle_that_cannot_be_read_any_more_is_where_it_was(hub: Hub) -> None:
    hub.register("berlin-04", IdentityKey.generate().public)
    await hub.catalog.refresh()
    report = wire.Report(bundle="shop", phase="Ready", release=wire.Release(bundle="shop", commit="c"))
    hub.engine.state.clusters["berlin-04"].reports["shop"] = report
    hub.commit({"bundles/shop/bundle.yaml": SHOP + "]"})
    await hub.catalog.refresh()
    async with asking(hub) as operator:
        view = await operator.GetBundle(op.GetRequest(name="shop"), metadata=WHO)
    assert view.error
    assert (view.ready, view.matched, [place.cluster for place in view.places]) == (1, 1, ["berlin-04"])


async def test_a_target_that_was_owed_is_told_as_it_is_now(hub: Hub) -> None:
    hub.register("berlin-04", IdentityKey.generate().public)
    await hub.catalog.refresh()
    state = hub.engine.state
    machine, now = state.rollouts["shop-0001"], 1e12
    machine.handle(ev.Tick(), now)
    assert machine.targets["berlin-04"].state == "owed"
    machine.apply(ev.Ended(at=now, state="Succeeded", why=""))
    release = machine.started
    owe = state.ledger("shop")
    request = op.ExplainRequest(rollout="shop-0001", cluster="berlin-04")
    async with asking(hub) as operator:
        from muster_core.rollout.catchup import Succeeded

        owe.owe("berlin-04", Succeeded("shop-0001", release.commit, release.tree_digest), now)
        told = await operator.Explain(request, metadata=WHO)
        assert told.text.endswith("It is offered when the cluster returns: muster rollout owed.")
        owe.drop("berlin-04", now)
        state.clusters["berlin-04"].reports["shop"] = wire.Report(
            bundle="shop",
            release=wire.Release(bundle="shop", commit=release.commit, tree_digest=release.tree_digest),
        )
        told = await operator.Explain(request, metadata=WHO)
        assert "It has caught up since" in told.text
        assert "returns" not in told.text
        status, said = await refused(
            operator.Explain(op.ExplainRequest(rollout="shop-0001", cluster="nope"), metadata=WHO)
        )
        assert (status, said.split(" ")[0]) == (grpc.StatusCode.NOT_FOUND, "MUSTER-L040")


@pytest.mark.parametrize("letter", ["x", "é", "💥", "%", "\n"])
async def test_what_is_refused_keeps_its_code_and_hint_whatever_its_length(hub: Hub, letter: str) -> None:
    async with asking(hub) as operator:
        status, said = await refused(operator.GetBundle(op.GetRequest(name=letter * 4096), metadata=WHO))
    assert status is grpc.StatusCode.NOT_FOUND
    assert said.startswith("MUSTER-L041 ")
    assert said.endswith("See them: muster get bundles.")
    assert len(said) < 5000


@pytest.mark.parametrize("text", ["x" * 4097, "\x1b[31mred", "a\u202eb", "a\x00"])
async def test_a_text_that_no_terminal_should_get_is_kept_nowhere(hub: Hub, text: str) -> None:
    hub.register("berlin-04", IdentityKey.generate().public)
    await hub.catalog.refresh()
    pause = op.ActOnRolloutRequest(rollout="shop-0001", action=op.ActOnRolloutRequest.PAUSE, reason=text)
    async with asking(hub) as operator:
        status, said = await refused(operator.ActOnRollout(pause, metadata=WHO))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in operator.ListEvents(op.ListEventsRequest(rollout=text), metadata=WHO):
                pass
    assert (status, said.split(" ")[0]) == (grpc.StatusCode.INVALID_ARGUMENT, "MUSTER-L084")
    assert "MUSTER-L084" in (caught.value.details() or "")
    assert hub.engine.state.rollouts["shop-0001"].state == "Running"
