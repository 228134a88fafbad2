"""What people decide about a rollout, over real gRPC: gates, retries, skips, promotions; who may, and what is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import msgspec
import pytest
from muster_coordinator.access.errors import DeniedError
from muster_coordinator.access.principal import Principal
from muster_coordinator.access.roles import ROLLOUT_ACTIONS, Role
from muster_coordinator.api import decisions
from muster_core.rollout import events as ev
from muster_core.sealing.keys import IdentityKey
from muster_proto.v1 import operator_pb2 as op
from unit.coordinator.test_watch import HEAD, Hub, hub

__all__ = ["hub"]
WHO = (("authorization", "Bearer secret"),)
Action = op.ActOnRolloutRequest
GATED = HEAD.format(
    kind="RolloutPlan",
    name="all",
    spec="{waves: [{name: all, rest: true, soak: 1h, maxFailed: 1, gates: {before: [{approval: {count: 1}}]}}]}",
)


@asynccontextmanager
async def started(hub: Hub, plan: str = "") -> AsyncIterator[Any]:
    """One cluster, and shop-0001."""
    if plan:
        hub.commit({"plans/all.yaml": plan})
    hub.register("berlin-04", IdentityKey.generate().public)
    await hub.catalog.refresh()
    async with hub.operator() as operator:
        yield operator


async def act(operator: Any, action: int, *clusters: str, reason: str = "") -> op.RolloutView:
    request = op.ActOnRolloutRequest(
        rollout="shop-0001",
        action=action,  # type: ignore[arg-type]
        reason=reason,
        clusters=clusters,
    )
    view: op.RolloutView = await operator.ActOnRollout(request, metadata=WHO)
    return view


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


async def feed(hub: Hub, given: ev.Input) -> None:
    """What an agent would say."""
    await hub.engine.ask(
        lambda effects, now: hub.engine._recorder.feed(
            hub.engine.state.rollouts["shop-0001"], given, effects, now
        )
    )


def state_of(view: op.RolloutView) -> str:
    return view.targets[0].state


async def test_an_approval_opens_the_gate_and_is_shown_with_who_gave_it(hub: Hub) -> None:
    """Azure/AKS#4828, #4585: approval as a gate, and a word to whoever may give it."""
    async with started(hub, GATED) as operator:
        held = await operator.GetRollout(op.GetRequest(name="shop-0001"), metadata=WHO)
        (gate,) = held.waves[0].gates
        assert (held.state, state_of(held), gate.state, gate.wanted) == ("Held", "waiting", "Asked", 1)
        assert held.why.startswith("gate: wave all waits for approval")
        approved = await act(operator, Action.APPROVE, reason="looks good")
        (gate,) = approved.waves[0].gates
        assert (state_of(approved), gate.state) == ("offered", "Passed")
        assert [(one.by, one.reason) for one in gate.approvals] == [("admin", "looks good")]
        status, said = await refused(act(operator, Action.APPROVE))
        assert (status, said.split()[0]) == (grpc.StatusCode.FAILED_PRECONDITION, "MUSTER-R045")


async def test_an_author_may_not_approve_and_is_told_who_may(hub: Hub) -> None:
    async with started(hub, GATED) as operator:
        machine = hub.engine.state.rollouts["shop-0001"]
        machine.run.started = msgspec.structs.replace(machine.run.started, authors=("admin",))
        status, said = await refused(act(operator, Action.APPROVE))
        assert status is grpc.StatusCode.PERMISSION_DENIED
        assert said.startswith("MUSTER-R046 admin started this or wrote it")
        assert "Who may: any approver" in said


async def test_a_rejection_is_what_the_plan_says(hub: Hub) -> None:
    async with started(hub, GATED) as operator:
        rejected = await act(operator, Action.REJECT, reason="wrong rates")
        assert rejected.state in {"Paused", "RolledBack", "Failed"}
        assert "gate before wave all: rejected by admin: wrong rates" in rejected.why


async def test_nothing_is_tried_again_that_did_not_fail(hub: Hub) -> None:
    async with started(hub) as operator:
        status, said = await refused(act(operator, Action.RETRY, "berlin-04"))
        assert (status, said.split()[0]) == (grpc.StatusCode.FAILED_PRECONDITION, "MUSTER-R040")
        _, said = await refused(act(operator, Action.RETRY))
        assert said.split()[0] == "MUSTER-R041"


async def test_retry_after_a_refusal_offers_the_same_release_again(hub: Hub) -> None:
    plan = GATED.replace(", gates: {before: [{approval: {count: 1}}]}", "")
    async with started(hub, plan) as operator:
        await feed(hub, ev.Refused("berlin-04", 1, "P001", "denied by require-team"))
        view = await operator.GetRollout(op.GetRequest(name="shop-0001"), metadata=WHO)
        assert (view.failed, view.state) == (1, "Held")
        again = await act(operator, Action.RETRY, reason="the policy is mended")
        assert (state_of(again), again.targets[0].attempt) == ("offered", 2)


async def test_a_target_is_skipped_once_and_by_name(hub: Hub) -> None:
    async with started(hub) as operator:
        for clusters in ((), ("a", "b")):
            status, said = await refused(act(operator, Action.SKIP, *clusters))
            assert (status, said.split()[0]) == (grpc.StatusCode.INVALID_ARGUMENT, "MUSTER-L081")
        skipped = await act(operator, Action.SKIP, "berlin-04", reason="moves house")
        assert (skipped.skipped, skipped.targets[0].message) == (1, "skipped by admin: moves house")
        _, said = await refused(act(operator, Action.SKIP, "berlin-04"))
        assert said.split()[0] == "MUSTER-R042"


async def test_a_promotion_passes_the_soak_and_needs_a_reason(hub: Hub) -> None:
    plan = GATED.replace(", gates: {before: [{approval: {count: 1}}]}", "")
    async with started(hub, plan) as operator:
        digest = hub.engine.state.rollouts["shop-0001"].started.tree_digest
        await feed(hub, ev.Contact("berlin-04", True))
        await feed(hub, ev.Reported("berlin-04", 1, digest, "healthy"))
        view = await operator.GetRollout(op.GetRequest(name="shop-0001"), metadata=WHO)
        assert (view.waves[0].soaking, state_of(view)) == (1, "soaking")
        assert view.waves[0].soak_until_unix_ms > view.started_unix_ms + 3_500_000
        _, said = await refused(act(operator, Action.PROMOTE))
        assert said.split()[0] == "MUSTER-R043"
        promoted = await act(operator, Action.PROMOTE, reason="seen to work")
        assert (promoted.state, promoted.waves[0].promoted) == ("Succeeded", True)


async def test_an_action_about_the_whole_takes_no_clusters(hub: Hub) -> None:
    async with started(hub) as operator:
        status, said = await refused(act(operator, Action.ABORT, "berlin-04"))
        assert (status, said.split()[0]) == (grpc.StatusCode.INVALID_ARGUMENT, "MUSTER-L081")
        status, said = await refused(act(operator, 99))
        assert said.split()[0] == "MUSTER-L043"


def test_every_action_has_a_role_and_an_order() -> None:
    wire = {name for name in Action.Action.keys() if name != "UNSPECIFIED"}  # noqa: SIM118 - an enum wrapper
    assert wire == set(ROLLOUT_ACTIONS)
    assert {Action.Action.Name(number) for number in decisions.ACTIONS} == wire  # type: ignore[arg-type]


@pytest.mark.parametrize("action", sorted(ROLLOUT_ACTIONS))
def test_a_refusal_names_the_roles_that_may_and_how_to_get_one(action: str) -> None:
    least = Role.APPROVER if action in {"APPROVE", "REJECT", "PROMOTE"} else Role.OPERATOR
    for role in Role:
        principal = Principal("bob", role, "certificate")
        if role >= least:
            principal.require_action(action)
            continue
        with pytest.raises(DeniedError) as caught:
            principal.require_action(action)
        assert caught.value.code == "L062"
        assert f"Who may: {least.and_above}." in str(caught.value)
        assert f"muster operator certificate bob --role {least.word}" in str(caught.value)
