"""A fleet that comes back in one moment: a few hellos at a time, the others wait or are told when to come again."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import random
from pathlib import Path

import anyio
import grpc
import grpc.aio
import pytest
from bench import stubfleet
from muster_agent.state.records import Identity
from muster_coordinator.enrol.x509 import Authority
from muster_coordinator.link import agents
from muster_coordinator.link.handshakes import Handshakes, Place
from muster_core.kinds.base import Metadata
from muster_core.kinds.model import Cluster, ClusterSpec
from muster_core.sealing.keys import encode_identity
from muster_proto.v1 import link_pb2 as wire
from unit.agent.hub import Agent, Hub, entry, first_certificate, hub, identity, until
from unit.coordinator.test_sessions import HELLO, line

STUBS = 300 if os.environ.get("MUSTER_LONG") else 60
PATIENCE = 40.0  # seconds, of the tests; none is spent where nothing is wrong


async def turned_away(places: Handshakes) -> bool:
    return await places.enter() is None


async def test_who_comes_first_is_next() -> None:
    places = Handshakes((1, 30), random.uniform, at_once=1, patience=10.0)
    first = await places.enter()
    assert first is not None
    entered: list[str] = []

    async def come(name: str) -> None:
        place = await places.enter()
        assert place is not None
        entered.append(name)
        place.leave()

    waiting = []
    for name in ("a", "b", "c"):
        waiting.append(asyncio.create_task(come(name)))
        await asyncio.sleep(0)
    assert entered == []
    first.leave()
    await asyncio.gather(*waiting)
    assert entered == ["a", "b", "c"]


async def test_a_place_is_given_back_once_and_by_who_waits_no_more() -> None:
    places = Handshakes((1, 30), random.uniform, at_once=1, patience=0.05)
    held = await places.enter()
    assert isinstance(held, Place)
    gone = asyncio.create_task(places.enter())
    await asyncio.sleep(0)
    gone.cancel()
    assert await turned_away(places)
    held.leave()
    held.leave()
    assert not await turned_away(places)
    assert await turned_away(places), "twice left is one place, not two"


def test_those_turned_away_together_come_back_apart() -> None:
    places = Handshakes((1, 30), random.Random(7).uniform)
    drawn = [places.retry_after() for _ in range(1_000)]
    assert set(drawn) == set(range(1, 31))


@pytest.fixture
def who() -> Identity:
    return identity()


async def test_a_hello_that_waits_too_long_is_told_when_to_come_again(tmp_path: Path, who: Identity) -> None:
    async with hub(tmp_path / "hub") as at:
        await at.register(entry(who))
        at.servicer.handshakes = Handshakes((3, 9), random.uniform, at_once=1, patience=0.2)
        place = await at.servicer.handshakes.enter()
        assert place is not None
        async with line(at, who) as stub:
            call = stub.Session()
            await call.write(HELLO)
            bye = (await call.read()).bye
            assert 3 <= bye.retry_after_seconds <= 9
            assert await call.read() is grpc.aio.EOF
            batch = await stub.Exchange(wire.AgentBatch(frames=[HELLO]), timeout=10)
            assert [frame.WhichOneof("body") for frame in batch.frames] == ["bye"]
            assert not at.engine.state.cluster("berlin-04").online
            place.leave()
            for _ in range(3):  # each gives its place back
                call = stub.Session()
                await call.write(HELLO)
                assert (await call.read()).HasField("welcome")
                batch = await stub.Exchange(wire.AgentBatch(frames=[HELLO]), timeout=10)
                assert batch.frames[0].HasField("welcome")


async def test_an_agent_comes_again_when_it_was_told_to(tmp_path: Path, who: Identity) -> None:
    agent = Agent(tmp_path / "state", who)
    async with hub(tmp_path / "hub") as at:
        await at.register(entry(who))
        agent.open(at, first_certificate(at, who))
        at.servicer.handshakes = Handshakes((1, 1), random.uniform, at_once=1, patience=0.1)
        place = await at.servicer.handshakes.enter()
        assert place is not None
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(agent.link.run)
                await until(lambda: agent.link._backoff.maximum == 300.0)
                assert not agent.link.connected
                place.leave()
                await until(lambda: agent.link.connected)
                group.cancel_scope.cancel()
        finally:
            agent.close()


async def test_a_stream_without_a_hello_is_ended(
    tmp_path: Path, who: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents, "HELLO_DEADLINE", 0.3)
    async with hub(tmp_path / "hub") as at:
        await at.register(entry(who))
        async with line(at, who) as stub:
            call = stub.Session()
            with pytest.raises(grpc.aio.AioRpcError, match="L050"):
                await call.read()


async def test_everybody_who_was_turned_away_comes_again_and_none_is_lost(tmp_path: Path) -> None:
    """Far more than places: the first time nobody gets one, then all get through two.

    No place is lost by time: with an impatient queue a loaded machine would turn away faster than it lets in, since each try
    is a new connection, whose cost is this process's own.
    """
    seen: list[stubfleet.Sighting] = []
    async with hub(tmp_path / "hub", beat=60) as at:
        stubs = [stub_of(at, number, seen) for number in range(STUBS)]
        names = {stub.name for stub in stubs}
        await at.register(*(registered(stub) for stub in stubs))
        at.servicer.handshakes = closed = Handshakes((1, 3), random.uniform, at_once=2, patience=0.05)
        held = [await closed.enter(), await closed.enter()]
        assert all(held)
        sessions = [asyncio.create_task(stub.run()) for stub in stubs]
        try:
            turned_away = lambda: {one.cluster for one in seen if "too many" in one.why}  # noqa: E731
            await until(lambda: turned_away() == names, PATIENCE)
            assert at.engine.state.clusters.keys() >= names
            assert not any(cluster.online for cluster in at.engine.state.clusters.values())
            at.servicer.handshakes = Handshakes((1, 3), random.uniform, at_once=2, patience=PATIENCE)
            await until(lambda: {one.cluster for one in seen if one.what == "welcome"} == names, PATIENCE)
            assert all(cluster.online for cluster in at.engine.state.clusters.values())
            assert at.servicer.streams == STUBS
        finally:
            for session in sessions:
                session.cancel()
            await asyncio.gather(*sessions, return_exceptions=True)


def stub_of(at: Hub, number: int, seen: list[stubfleet.Sighting]) -> stubfleet.Stub:
    where = stubfleet.Hub(at.edge, at.authority.pem, "", at.link, "f")
    stub = stubfleet.Stub(f"stub-{number:03}", where, seen.append, stubfleet.Pace(0.1))
    stub.admitted(certificate(at.authority, stub))
    return stub


def certificate(authority: Authority, stub: stubfleet.Stub) -> bytes:
    return authority.client(stub._csr, stub.name, stub.uid, stub._identity.public, dt.datetime.now(dt.UTC))


def registered(stub: stubfleet.Stub) -> Cluster:
    return Cluster(
        api_version="muster.dev/v1alpha1",
        kind="Cluster",
        metadata=Metadata(name=stub.name),
        spec=ClusterSpec(uid=stub.uid, identity_key=encode_identity(stub._identity.public)),
    )
