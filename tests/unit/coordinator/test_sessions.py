"""The hub's side of identities and sessions, asked by hand over the real wire."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import grpc
import grpc.aio
import pytest
from muster_agent.identity import join as joining
from muster_agent.identity import x509
from muster_agent.state.records import Enrolment, Identity
from muster_coordinator.catalog.catalog import Reading
from muster_coordinator.catalog.repository import Heads
from muster_coordinator.enrol import tokens
from muster_coordinator.rollout.fleetstate import ClusterState
from muster_core.fleet import read_fleet
from muster_core.tree import MemoryTree
from muster_proto.v1 import link_pb2 as wire
from muster_proto.v1 import link_pb2_grpc
from unit.agent.hub import UID, Hub, entry, first_certificate, hub, identity, until

HELLO = wire.AgentFrame(hello=wire.Hello(capability=1, session_epoch="e1"))


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Hub]:
    async with hub(tmp_path / "hub") as found:
        yield found


@pytest.fixture
def who() -> Identity:
    return identity()


def enrolled(at: Hub, secret: str = "", certificate: str = "", renewals: int = 0) -> Enrolment:
    return Enrolment(
        cluster="berlin-04", uid=UID, edge_address=at.edge, link_address=at.link, ca_pem=at.authority.pem.decode(),
        mode="open", trust_digest="", fleet_id="f", repositories=(), token_secret=secret, certificate=certificate,
        renewals=renewals,
    )  # fmt: skip


@asynccontextmanager
async def line(at: Hub, who: Identity) -> AsyncIterator[link_pb2_grpc.LinkAsyncStub]:
    credentials = grpc.ssl_channel_credentials(
        at.authority.pem, who.tls_key.encode(), first_certificate(at, who)
    )
    async with grpc.aio.secure_channel(at.link, credentials) as channel:
        yield link_pb2_grpc.LinkStub(channel)  # type: ignore[misc]


async def join(at: Hub, request: wire.JoinRequest) -> wire.JoinResponse:
    credentials = grpc.ssl_channel_credentials(at.authority.pem)
    async with grpc.aio.secure_channel(at.edge, credentials) as channel:
        return await link_pb2_grpc.EnrolStub(channel).Join(request, timeout=10)  # type: ignore[no-any-return]


async def answer(call: Callable[[], Awaitable[object]]) -> str:
    """``ok``, or the code of the refusal."""
    try:
        await call()
    except grpc.aio.AioRpcError as error:
        return (error.details() or "").split(" ", 1)[0]
    return "ok"


def renewal(who: Identity, counter: int) -> wire.RenewRequest:
    return wire.RenewRequest(csr_der=x509.request(who.tls_key, "berlin-04"), counter=counter)


async def test_one_number_gives_one_certificate_also_when_two_ask_at_once(at: Hub, who: Identity) -> None:
    await at.register(entry(who))
    answers: list[str] = []
    async with line(at, who) as first, line(at, who) as second, anyio.create_task_group() as group:

        async def ask(stub: link_pb2_grpc.LinkAsyncStub) -> None:
            answers.append(await answer(lambda: stub.Renew(renewal(who, 5), timeout=10)))  # type: ignore[arg-type]

        for _ in range(4):
            group.start_soon(ask, first)
            group.start_soon(ask, second)
    assert sorted(answers) == ["MUSTER-J032"] * 7 + ["ok"]


async def test_a_lower_number_than_the_highest_is_refused_after_a_restart(
    tmp_path: Path, who: Identity
) -> None:
    async with hub(tmp_path / "again") as at:
        await at.register(entry(who))
        async with line(at, who) as stub:
            assert await answer(lambda: stub.Renew(renewal(who, 7), timeout=10)) == "ok"  # type: ignore[arg-type]
    async with hub(tmp_path / "again") as at:
        await at.register(entry(who))
        async with line(at, who) as stub:
            for counter, said in ((7, "MUSTER-J032"), (6, "MUSTER-J032"), (8, "ok")):
                assert await answer(lambda c=counter: stub.Renew(renewal(who, c), timeout=10)) == said  # type: ignore[misc]


async def test_a_token_gives_nothing_after_the_first_renewal(at: Hub, who: Identity) -> None:
    """A copy of a state folder from before the approval still has the token, and the right key."""
    store = at.enrolment._store
    _, secret = await tokens.create(store, "berlin-04", 60, 1, lambda n: b"x" * n)
    token = joining.join_request(who, enrolled(at, secret))
    at.enrolment._clock = lambda: 30.0  # within the token's life
    assert (await join(at, token)).state == wire.JoinResponse.PENDING
    await at.register(entry(who))
    assert (await join(at, token)).state == wire.JoinResponse.APPROVED
    assert (await join(at, token)).state == wire.JoinResponse.APPROVED  # the first answer may have been lost
    async with line(at, who) as stub:
        assert await answer(lambda: stub.Renew(renewal(who, 1), timeout=10)) == "ok"  # type: ignore[arg-type]
    assert await answer(lambda: join(at, token)) == "MUSTER-J004"


async def test_a_token_for_another_cluster_is_refused_by_the_hub_too(at: Hub, who: Identity) -> None:
    _, secret = await tokens.create(at.enrolment._store, "munich-01", 60, 1, lambda n: b"y" * n)
    at.enrolment._clock = lambda: 30.0
    request = joining.join_request(who, enrolled(at, secret))
    assert await answer(lambda: join(at, request)) == "MUSTER-J006"
    assert "berlin-04" not in at.engine.state.clusters


async def test_who_left_the_registry_is_not_heard(at: Hub, who: Identity) -> None:
    await at.register(entry(who))
    async with line(at, who) as stub:
        call = stub.Session()
        await call.write(HELLO)
        assert (await call.read()).HasField("welcome")
        await at.register()
        frames = []
        while (frame := await call.read()) is not grpc.aio.EOF:
            frames.append(frame)
        assert frames[-1].HasField("bye")
        assert "J030" in frames[-1].bye.why
        report = wire.AgentFrame(seq=1, report=wire.Report(bundle="shop", phase="Ready"))
        batch = wire.AgentBatch(frames=[HELLO, report])
        assert await answer(lambda: stub.Exchange(batch, timeout=10)) == "MUSTER-J030"  # type: ignore[arg-type]
        again = stub.Session()
        await again.write(HELLO)
        with pytest.raises(grpc.aio.AioRpcError, match="J030"):
            await again.read()
    await until(lambda: at.servicer.streams == 0)
    assert at.held() == {}


async def test_a_silent_stream_is_ended(tmp_path: Path, who: Identity) -> None:
    async with hub(tmp_path / "brisk", beat=1) as at:
        await at.register(entry(who))
        async with line(at, who) as stub:
            call = stub.Session()
            await call.write(HELLO)
            await until(lambda: at.engine.state.cluster("berlin-04").online)
            await until(lambda: not at.engine.state.cluster("berlin-04").online, 8.0)
            assert at.servicer.streams == 0


async def test_a_stream_says_that_it_lives_as_often_as_its_site_class_is_contacted(
    at: Hub, who: Identity
) -> None:
    fleet = (
        "apiVersion: muster.dev/v1alpha1\nkind: Fleet\nmetadata: {name: acme}\n"
        'spec: {id: "0123456789abcdef", mode: open, siteClasses: {connected: {contactInterval: 4m}}}\n'
    )
    contents = read_fleet(MemoryTree({"fleet.yaml": fleet.encode()}))
    known = entry(who)
    for reading, beat in (
        (Reading(Heads("c" * 40, "1" * 40), contents, {"berlin-04": known}), 240),
        (Reading(Heads("c" * 40, "2" * 40), clusters={"berlin-04": known}), 5),
    ):
        await at.engine.ask(at.engine.read_catalog(reading))
        async with line(at, who) as stub:
            call = stub.Session()
            await call.write(HELLO)
            assert (await call.read()).welcome.beat_seconds == beat


async def test_round_trips_are_contact_until_none_came_for_long(tmp_path: Path, who: Identity) -> None:
    async with hub(tmp_path / "poor", beat=1) as at:
        await at.register(entry(who))
        state = at.engine.state.cluster("berlin-04")
        async with line(at, who) as stub:
            for _ in range(3):
                await stub.Exchange(wire.AgentBatch(frames=[HELLO]), timeout=10)
                assert state.online
            assert at.lines.count("berlin-04 is in contact") == 1
            assert "berlin-04 is out of contact" not in at.lines
            await until(lambda: not state.online, 8.0)
            assert at.servicer._exchanged == {}


async def test_what_came_up_between_two_round_trips_goes_out_with_the_next(at: Hub, who: Identity) -> None:
    await at.register(entry(who))
    async with line(at, who) as stub:
        await stub.Exchange(wire.AgentBatch(frames=[HELLO]), timeout=10)
        await at.engine.ask(at.engine.agents.acknowledge_floor("berlin-04"))
        await at.register(entry(who))
        report = wire.AgentFrame(seq=1, report=wire.Report(bundle="shop", phase="Ready"))
        answer = await stub.Exchange(wire.AgentBatch(frames=[HELLO, report]), timeout=10)
        kinds = [frame.WhichOneof("body") for frame in answer.frames]
        assert kinds == ["welcome", "floor_acknowledged", "head"]
        assert max(frame.ack for frame in answer.frames) == 1, "taken, and said so in the same round trip"


async def test_a_stream_that_does_not_read_is_ended(at: Hub, who: Identity) -> None:
    """Nothing is written while the agent's window is full; what does not fit any more ends the session."""
    await at.register(entry(who))
    async with line(at, who) as stub:
        call = stub.Session()
        await call.write(HELLO)
        assert (await call.read()).HasField("welcome")
        send = at.engine.state.cluster("berlin-04").send
        assert send is not None
        for _ in range(2_000):
            send(wire.HubFrame(withdraw=wire.Withdraw(rollout="shop-0001", bundle="x" * 200)))
        await until(lambda: at.servicer.streams == 0)
        assert not at.engine.state.cluster("berlin-04").online


async def test_a_beat_carries_the_head_of_the_agent_s_log(at: Hub, who: Identity) -> None:
    heard: list[tuple[str, int, bytes]] = []

    def hears(cluster: ClusterState, seq: int, digest: bytes) -> int:
        heard.append((cluster.name, seq, digest))
        return 0

    at.engine.agents.heard_head = hears
    await at.register(entry(who))
    async with line(at, who) as stub:
        call = stub.Session()
        await call.write(HELLO)
        assert (await call.read()).HasField("welcome")
        heard.clear()
        await call.write(wire.AgentFrame(beat=wire.Beat()))
        await call.write(wire.AgentFrame(beat=wire.Beat(audit_seq=7, audit_hash=b"h" * 32)))
        await until(lambda: bool(heard))
        assert heard == [("berlin-04", 7, b"h" * 32)]
