"""Freezes over real gRPC: whom they hold, what a held cluster is told to wait for, and what is refused."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from muster_core.sealing.keys import IdentityKey
from muster_core.times import format_time
from muster_proto.v1 import operator_pb2 as op
from unit.coordinator.test_operator_decisions import WHO, refused
from unit.coordinator.test_watch import Hub, hub

__all__ = ["hub"]
END = int(time.time()) + 8 * 3600


@asynccontextmanager
async def operating(hub: Hub) -> AsyncIterator[Any]:
    """An operator's stub, and one registered cluster that the next read of the repository offers shop-0001."""
    await hub.catalog.refresh()
    hub.register("berlin-04", IdentityKey.generate().public)
    async with hub.operator() as operator:
        yield operator


async def freeze(operator: Any, name: str = "sale", until: int = END, **more: str) -> op.Freeze:
    request = op.CreateFreezeRequest(name=name, until_unix=until, **more)
    made: op.Freeze = await operator.CreateFreeze(request, metadata=WHO)
    return made


async def explained(operator: Any) -> op.Explanation:
    request = op.ExplainRequest(rollout="shop-0001", cluster="berlin-04")
    found: op.Explanation = await operator.Explain(request, metadata=WHO)
    return found


async def test_a_frozen_target_says_which_freeze_holds_it_and_until_when(hub: Hub) -> None:
    async with operating(hub) as operator:
        made = await freeze(operator, reason="black friday")
        assert (made.name, made.by, made.until_unix, made.clusters) == ("sale", "admin", END, 0)
        await hub.catalog.refresh()
        found = await explained(operator)
        assert found.target.state == "waiting"
        held = f"It is held: frozen by sale until {format_time(END)}: black friday."
        assert found.text.endswith(held)
        listed = await operator.ListFreezes(op.ListFreezesRequest(), metadata=WHO)
        assert [(one.name, one.reason, one.clusters) for one in listed.freezes] == [
            ("sale", "black friday", 1)
        ]
        ended = await operator.DeleteFreeze(op.GetRequest(name="sale"), metadata=WHO)
        assert (ended.name, ended.clusters) == ("sale", 1)
        assert (await explained(operator)).target.state == "offered"
        listed = await operator.ListFreezes(op.ListFreezesRequest(), metadata=WHO)
        assert not listed.freezes


async def test_who_is_not_meant_is_not_held(hub: Hub) -> None:
    async with operating(hub) as operator:
        await freeze(operator, "stores", selector="tier=store")
        await freeze(operator, "last", until=END + 60, selector="tier notin (store)", bundle="shop")
        await hub.catalog.refresh()
        assert "frozen by last" in (await explained(operator)).text
        listed = await operator.ListFreezes(op.ListFreezesRequest(), metadata=WHO)
        assert [(one.name, one.clusters) for one in listed.freezes] == [("stores", 0), ("last", 1)]
        await operator.DeleteFreeze(op.GetRequest(name="last"), metadata=WHO)
        assert (await explained(operator)).target.state == "offered"


async def test_what_is_refused_says_why_and_what_to_do(hub: Hub) -> None:
    wrong, missing = grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND
    async with operating(hub) as operator:
        await freeze(operator, "taken", bundle="shop")
        none = operator.DeleteFreeze(op.GetRequest(name="none"), metadata=WHO)
        for call, status, said in [
            (freeze(operator, "taken"), wrong, ("R082", "made by admin", "muster freeze delete taken")),
            (freeze(operator, until=1), wrong, ("R084", "within a year", "--until")),
            (freeze(operator, until=2**62), wrong, ("R084", "within a year")),
            (freeze(operator, "A B"), wrong, ("R084", "no name")),
            (freeze(operator, selector="tier=("), grpc.StatusCode.INVALID_ARGUMENT, ("V032",)),
            (freeze(operator, bundle="shoes"), missing, ("L041", "shoes")),
            (none, missing, ("R083", "muster get freezes")),
        ]:
            found, text = await refused(call)
            assert (found, [part for part in said if part not in text]) == (status, []), text
        listed = await operator.ListFreezes(op.ListFreezesRequest(), metadata=WHO)
        assert [one.name for one in listed.freezes] == ["taken"]


async def test_a_freeze_is_written_down_with_whom_it_holds_and_until_when(hub: Hub, tmp_path: Any) -> None:
    async with operating(hub) as operator:
        await freeze(operator, selector="tier=store", reason="black friday")
        await operator.DeleteFreeze(op.GetRequest(name="sale"), metadata=WHO)
    lines = "".join(file.read_text() for file in (tmp_path / "data" / "audit").glob("audit-*.jsonl"))
    for part in ("CreateFreeze sale", "DeleteFreeze sale", "tier=store", format_time(END), "black friday"):
        assert part in lines
