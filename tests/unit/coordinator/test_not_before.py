"""A rollout that clusters prepare now and apply at its time: what goes over the wire, and what is taken back."""

from __future__ import annotations

from pathlib import Path

import pytest
from muster_coordinator.rollout.launch import Start
from muster_core.errors import RolloutError
from muster_core.release import Release
from muster_core.rollout import events as ev
from muster_core.sealing.keys import IdentityKey
from muster_proto.v1 import link_pb2 as wire
from muster_proto.v1 import operator_pb2 as op
from unit.coordinator.test_engine import MINUTE, Brain, brain, cluster, reply
from unit.coordinator.test_operators_answers import WHO, refused
from unit.coordinator.test_watch import Hub, hub

__all__ = ["hub"]
NAME = "shop-0002"


async def begun(at: Brain, *clusters: str, after: float = 60 * MINUTE) -> int:
    """The push's own rollout was ended; the same release starts anew, for a time."""
    await at.reads(1, *(cluster(name) for name in clusters))
    for name in clusters:
        await at.connect(name)
    await at.engine.ask(at.engine.act("shop-0001", ev.Abort("ann", "")))
    started = at.engine.state.rollouts["shop-0001"].started
    release, time = Release("shop", started.commit, started.tree_digest), int(at.now[0] + after)
    start = Start(release, "", "ann", "", not_before=time)
    await at.engine.ask(lambda effects, now: at.engine.start(start, effects, now))
    return time


def staged(attempt: int = 2) -> wire.AgentFrame:
    """It says so of what it runs still, which is nothing."""
    return wire.AgentFrame(
        report=wire.Report(bundle="shop", rollout=NAME, attempt=attempt, outcome=wire.OUTCOME_STAGED)
    )


async def takes(at: Brain, name: str) -> None:
    await at.says(name, wire.AgentFrame(offer_reply=reply(at.offers(name)[-1])))
    await at.says(name, staged())


def state(at: Brain, name: str) -> str:
    return at.engine.state.rollouts[NAME].targets[name].state


def withdrawals(at: Brain, name: str) -> int:
    return sum(frame.HasField("withdraw") and frame.withdraw.rollout == NAME for frame in at.sent[name])


async def test_the_offer_says_from_when_and_a_restart_forgets_nothing_of_it(tmp_path: Path) -> None:
    async with brain(tmp_path) as at:
        time = await begun(at, "a")
        assert at.offers("a")[-1].not_before_unix == time
        for name in ("shop-0001", NAME):  # what is written is what is read, to the letter
            written = ev.encode(at.engine.state.rollouts[name].started)
            assert ev.encode(ev.decode(written)) == written
        await takes(at, "a")
        assert state(at, "a") == "staged"
    async with brain(tmp_path) as at:
        machine = at.engine.state.rollouts[NAME]
        assert (state(at, "a"), machine.started.not_before) == ("staged", time)
        await at.connect("a")
        assert (at.offers("a")[-1].rollout, at.offers("a")[-1].not_before_unix) == (NAME, time)
        assert withdrawals(at, "a") == 0


async def test_what_is_taken_back_is_told_and_told_again_to_who_was_away(tmp_path: Path) -> None:
    async with brain(tmp_path) as at:
        await begun(at, "a")
        await takes(at, "a")
        await at.engine.ask(at.engine.act(NAME, ev.Pause("ann", "look")))
        assert (state(at, "a"), withdrawals(at, "a")) == ("waiting", 1)
        # It said so before it heard of that.
        await at.says("a", staged())
        assert (state(at, "a"), withdrawals(at, "a")) == ("waiting", 2)
        await at.engine.ask(at.engine.act(NAME, ev.Resume("ann", "")))
        await takes(at, "a")
        await at.lose("a")
        await at.engine.ask(at.engine.act(NAME, ev.Abort("ann", "")))
        at.sent["a"].clear()
        await at.connect("a")
        assert withdrawals(at, "a") == 1
        await at.says("a", wire.AgentFrame(report=wire.Report(bundle="shop")))
        await at.lose("a")
        at.sent["a"].clear()
        await at.connect("a")
        assert withdrawals(at, "a") == 0


async def test_a_time_that_has_passed_starts_nothing(tmp_path: Path) -> None:
    async with brain(tmp_path) as at:
        with pytest.raises(RolloutError) as caught:
            await begun(at, "a", after=-1.0)
        assert caught.value.code == "R053"
        assert NAME not in at.engine.state.rollouts


async def test_a_rollout_that_runs_already_is_not_said_to_wait(hub: Hub) -> None:
    hub.register("berlin-04", IdentityKey.generate().public)
    async with hub.operator() as operator:
        await operator.StartRollout(op.StartRolloutRequest(bundle="shop"), metadata=WHO)
        late = op.StartRolloutRequest(bundle="shop", not_before_unix=4_000_000_000)
        _, said = await refused(operator.StartRollout(late, metadata=WHO))
        assert said.startswith("MUSTER-R053"), said
        await operator.ActOnRollout(
            op.ActOnRolloutRequest(rollout="shop-0001", action=op.ActOnRolloutRequest.ABORT), metadata=WHO
        )
        late.again = True
        view = await operator.StartRollout(late, metadata=WHO)
        assert (view.name, view.not_before_unix) == ("shop-0002", 4_000_000_000)
        late.again = False
        assert (await operator.StartRollout(late, metadata=WHO)).name == "shop-0002"
