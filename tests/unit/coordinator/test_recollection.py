"""An old database that was put back is known by what agents were told; a new one is only new."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from muster_coordinator.rollout.fleetstate import ClusterState
from muster_core.session.inbox import LAST_SEQ
from muster_proto.v1 import link_pb2 as wire
from unit.coordinator.test_engine import Brain, brain, cluster

Noted = list[tuple[str, str, int, int]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def listen(at: Brain) -> Noted:
    noted: Noted = []

    def note(what: str, cluster: ClusterState, known: int, told: int) -> None:
        noted.append((what, cluster.name, known, told))

    at.engine.agents.recollection.noted = note
    return noted


async def hello(at: Brain, name: str, acked: int, epoch: str = "e") -> int:
    """Connects; what the welcome says is held."""
    at.connections += 1
    frames = at.sent[name] = []
    said = wire.Hello(capability=1, session_epoch=epoch, acked_seq=acked)
    work = at.engine.agents.connected(name, said, at.connections, frames.append, wire.Welcome())
    await at.engine.submit(work)
    await at.settled()
    return next(frame.welcome.last_agent_seq for frame in frames if frame.HasField("welcome"))


def beat(at: Brain, name: str) -> wire.AgentFrame:
    return wire.AgentFrame(report=wire.Report(bundle="shop", phase="Ready", message=f"{at.said}"))


async def test_an_agent_that_was_told_more_than_is_known_raises_an_alarm_that_stays(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    async with brain(tmp_path) as at:
        await at.reads(1, cluster("a"), cluster("b"))
        for name in ("a", "b"):
            await hello(at, name, 0)
            await at.says(name, beat(at, name))
    shutil.copytree(tmp_path, old, dirs_exist_ok=True, ignore=shutil.ignore_patterns("old"))
    async with brain(old) as at:
        noted = listen(at)
        await at.reads(1, cluster("a"), cluster("b"))
        assert await hello(at, "a", 9) == 9
        assert await hello(at, "b", 2) == 2  # nothing was lost of it
        assert noted == [("forgotten", "a", 1, 9)]
        a, b = at.engine.state.clusters["a"], at.engine.state.clusters["b"]
        assert a.forgot.startswith("MUSTER-L046")
        assert b.forgot == ""
        await hello(at, "a", 9)
        assert len(noted) == 1
    for _ in range(2):  # it outlives starts of the coordinator
        async with brain(old) as at:
            assert at.engine.state.clusters["a"].forgot.startswith("MUSTER-L046")
    async with brain(old) as at:
        await at.engine.ask(at.engine.agents.acknowledge_floor("a"))
        assert at.engine.state.clusters["a"].forgot == ""
        assert not [f for frames in at.sent.values() for f in frames if f.HasField("floor_acknowledged")]
    async with brain(old) as at:
        noted = listen(at)
        assert at.engine.state.clusters["a"].forgot == ""
        await hello(at, "a", 9)
        assert noted == []


async def test_a_new_database_is_rebuilt_once_and_alarms_about_nobody(tmp_path: Path) -> None:
    async with brain(tmp_path) as at:
        noted = listen(at)
        await at.reads(1, cluster("a"), cluster("b"))
        assert await hello(at, "a", 7) == 7
        assert await hello(at, "b", 9) == 9
        assert noted == [("rebuilt", "a", 0, 7)]
        await hello(at, "a", 7)
    async with brain(tmp_path) as at:
        noted = listen(at)
        await at.reads(1, cluster("a"), cluster("b"), cluster("c"))
        assert await hello(at, "c", 5) == 5  # it comes after the coordinator's next start
        await hello(at, "b", 9)
        assert noted == []
        assert not [c.name for c in at.engine.state.clusters.values() if c.forgot]


async def test_first_words_and_lost_state_are_no_alarm(tmp_path: Path) -> None:
    async with brain(tmp_path) as at:
        noted = listen(at)
        await at.reads(1, cluster("a"))
        assert await hello(at, "a", 0) == 0
        await at.says("a", beat(at, "a"))
        assert await hello(at, "a", 1) == 1
        assert await hello(at, "a", 0, "another") == 0  # its state is lost
        assert await hello(at, "a", 3, "a third") == 3  # an old copy of its state
        await hello(at, "a", 3, "a third")
        assert noted == []


@pytest.mark.parametrize("number", [LAST_SEQ + 1, 2**63, 2**64 - 1])
async def test_numbers_that_nobody_reaches_are_not_heard_and_end_nothing(tmp_path: Path, number: int) -> None:
    """They would not fit into the database either."""
    async with brain(tmp_path) as at:
        noted = listen(at)
        await at.reads(1, cluster("a"))
        assert await hello(at, "a", number) == 0
        report = wire.AgentFrame(seq=number, report=wire.Report(bundle="shop", phase="Degraded"))
        await at.engine.submit(at.engine.agents.said("a", report))
        await at.settled()
        assert at.engine.state.clusters["a"].reports == {}
        await at.says("a", beat(at, "a"))
        assert await hello(at, "a", 1) == 1
        assert noted == []
