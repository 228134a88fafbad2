"""Agents on the line: joining, sessions, exchanges, renewal.

Owns who a peer is by its certificate, how often it is to say that it lives, and the reader and writer of a session. It
decides nothing: enrolment and engine do."""

from __future__ import annotations

import asyncio
import itertools
import random
import re
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import anyio
import grpc
import grpc.aio
import structlog
from muster_core.errors import JoinError, LinkError, MusterError
from muster_core.kinds.model import Cluster
from muster_core.session.capability import CAPABILITY
from muster_proto.v1 import link_pb2 as wire
from muster_proto.v1 import link_pb2_grpc

from muster_coordinator.enrol.enrolment import Enrolment, unread_registry
from muster_coordinator.link.contacts import Contacts
from muster_coordinator.link.handshakes import Handshakes
from muster_coordinator.link.statuses import fail
from muster_coordinator.rollout.engine import Engine

log = structlog.get_logger()

OUTGOING = 1_000
REVOKED_RETRY = 60
HELLO_DEADLINE = 20.0
_URI = re.compile(r"^muster://cluster/([^/]+)/([0-9a-f]{64})$")


class EnrolServicer(link_pb2_grpc.EnrolServicer):
    def __init__(self, enrolment: Enrolment) -> None:
        self._enrolment = enrolment

    async def Join(
        self, request: wire.JoinRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> wire.JoinResponse:
        try:
            return await self._enrolment.join(request)
        except MusterError as error:
            log.warning("join refused", cluster=request.cluster_name, error=str(error))
            await fail(context, error)


class _Peer(NamedTuple):
    """Who the verified client certificate says is there; ``identity`` in hex."""

    name: str
    uid: str
    identity: str

    @property
    def key(self) -> str:
        """As a registry entry has it."""
        return f"ed25519:{self.identity}"


def _peer(context: grpc.aio.ServicerContext[Any, Any]) -> _Peer:
    authenticated = context.auth_context()
    names = [value.decode() for value in authenticated.get("x509_common_name", [])]
    uris = [value.decode() for value in authenticated.get("x509_subject_alternative_name", [])]
    found = next((match for uri in uris if (match := _URI.match(uri))), None)
    return _Peer(names[0], found[1], found[2]) if names and found else _Peer("", "", "")


class LinkServicer(link_pb2_grpc.LinkServicer):
    """``beat`` is how often agents say that they live, in seconds, where the fleet does not name their site class."""

    def __init__(
        self,
        engine: Engine,
        enrolment: Enrolment,
        clock: Callable[[], float],
        beat: int,
        backoff: tuple[int, int],
    ) -> None:
        self._engine, self._enrolment, self._clock, self._beat, self._backoff = (
            engine,
            enrolment,
            clock,
            beat,
            backoff,
        )
        self._connections = itertools.count(1)
        self._contacts = Contacts()
        self._exchanged: dict[str, _Exchanged] = {}
        self.handshakes = Handshakes(backoff, random.uniform)
        self.streams = 0

    async def _known(self, context: grpc.aio.ServicerContext[Any, Any]) -> _Peer:
        """Who it is, if the registry has it with this very identity: an older one's certificate is worth nothing."""
        peer = _peer(context)
        if not self._engine.state.reading.heads.commit:
            await fail(context, unread_registry())
        if self._entry(peer) is None:
            await fail(context, JoinError("J030", "this cluster is not in the registry", object=peer.name))
        return peer

    def _entry(self, peer: _Peer) -> Cluster | None:
        cluster = self._engine.state.clusters.get(peer.name)
        entry = cluster.entry if cluster else None
        if entry is None or entry.spec.uid != peer.uid or entry.spec.identity_key != peer.key:
            return None
        return entry

    def _welcome(self, peer: _Peer) -> wire.Welcome:
        entry = self._entry(peer)
        site_class = entry.spec.site_class if entry else ""
        return wire.Welcome(
            capability=CAPABILITY,
            beat_seconds=max(1, int(self._engine.state.contact_interval(site_class, self._beat))),
            backoff_min_seconds=self._backoff[0],
            backoff_max_seconds=self._backoff[1],
        )

    async def Session(  # type: ignore[override]  # reads and writes through the context
        self, request_iterator: AsyncIterator[wire.AgentFrame], context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        try:
            async with asyncio.timeout(HELLO_DEADLINE):
                first = await context.read()
        except TimeoutError:
            first = grpc.aio.EOF
        # After the hello: a refusal that crosses it reaches the agent as an error of its own write, without its reason.
        peer = await self._known(context)
        if first is grpc.aio.EOF or not first.HasField("hello"):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(_no_hello(peer)))
        place = await self.handshakes.enter()
        if place is None:
            await context.write(self._put_off(peer))
            return
        connection, welcome = next(self._connections), self._welcome(peer)
        session = _Session(
            peer.name, welcome.beat_seconds, lambda: self._entry(peer) is not None, context.write, place.leave
        )
        self.streams += 1
        self._contacts.add(session)
        try:
            work = self._engine.agents.connected(
                peer.name, first.hello, connection, session.outgoing.send, welcome
            )
            await self._engine.submit(work)
            await self._read(peer, context, session)
        except asyncio.CancelledError:
            if not session.ended:
                raise  # the line is gone
            session.returned()
        finally:
            place.leave()
            session.close()
            self._contacts.remove(session)
            self.streams -= 1
            with anyio.CancelScope(shield=True):
                await self._engine.submit(self._engine.agents.disconnected(peer.name, connection))

    async def _read(
        self, peer: _Peer, context: grpc.aio.ServicerContext[Any, Any], session: _Session
    ) -> None:
        """The one reader of a stream, to its end. Who is not registered any more is not heard."""
        agents, read, loop = self._engine.agents, context.read, asyncio.get_running_loop()
        try:
            while (frame := await read()) is not grpc.aio.EOF:
                if self._entry(peer) is None:
                    continue
                session.heard = loop.time()
                body = frame.WhichOneof("body")
                if body in {"beat", None}:
                    agents.seen(peer.name, self._clock(), frame.beat if body else None)
                else:
                    await self._engine.submit(agents.said(peer.name, frame))
        except (grpc.RpcError, grpc.aio.AioRpcError, grpc.aio.UsageError):
            log.debug("stream broke", cluster=peer.name)

    async def Exchange(
        self, request: wire.AgentBatch, context: grpc.aio.ServicerContext[Any, Any]
    ) -> wire.HubBatch:
        """One round trip. Its cluster counts as in contact until it has been silent as long as a stream may be."""
        peer = await self._known(context)
        if not request.frames or not request.frames[0].HasField("hello"):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(_no_hello(peer)))
        place = await self.handshakes.enter()
        if place is None:
            return wire.HubBatch(frames=[self._put_off(peer)])
        try:
            return await self._exchange(peer, request)
        finally:
            place.leave()

    async def _exchange(self, peer: _Peer, request: wire.AgentBatch) -> wire.HubBatch:
        agents, connection, welcome = self._engine.agents, next(self._connections), self._welcome(peer)
        outgoing = _Outgoing(lambda: self._entry(peer) is not None)
        hello = request.frames[0].hello
        held = _Exchanged(
            welcome.beat_seconds,
            outgoing,
            lambda: self._engine.submit_nowait(agents.disconnected(peer.name, connection)),
            lambda: self._forget(peer.name, connection),
            connection,
        )
        before = self._exchanged.get(peer.name)
        if before:
            self._contacts.remove(before)
        self._exchanged[peer.name] = held
        self._contacts.add(held)
        await self._engine.submit(agents.connected(peer.name, hello, connection, outgoing.send, welcome))
        for frame in request.frames[1:]:
            await self._engine.submit(agents.said(peer.name, frame))
        await self._engine.ask(lambda effects, now: None)
        frames = outgoing.take()
        if before:
            frames[1:1] = before.left()
        return wire.HubBatch(frames=frames)

    def _put_off(self, peer: _Peer) -> wire.HubFrame:
        """Too many come at once; nothing of it was heard."""
        retry = self.handshakes.retry_after()
        log.debug("put off: too many come at once", cluster=peer.name, retry_after=retry)
        return wire.HubFrame(bye=wire.Bye(retry_after_seconds=retry, why="too many clusters come at once"))

    def _forget(self, name: str, connection: int) -> None:
        held = self._exchanged.get(name)
        if held and held.connection == connection:
            self._contacts.remove(self._exchanged.pop(name))

    async def Renew(
        self, request: wire.RenewRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> wire.RenewResponse:
        peer = await self._known(context)
        try:
            return await self._enrolment.renew(peer.name, bytes.fromhex(peer.identity), request)
        except MusterError as error:
            await fail(context, error)


def _no_hello(peer: _Peer) -> LinkError:
    return LinkError("L050", "the first frame must be a hello", object=peer.name)


class _Outgoing:
    """The engine's side of a session: nothing before the welcome, never blocking, and a good-bye to who is not
    registered.

    Every new reading of the registry sends a head, so a cluster that was removed is told at once. Acknowledgements wait
    for the next frame and go out with it; without one they go out alone. ``full`` is whether something did not fit.
    """

    __slots__ = ("_ack", "_frames", "_greeted", "_registered", "_welcomed", "full", "wake")

    def __init__(
        self,
        registered: Callable[[], bool],
        wake: Callable[[], None] = lambda: None,
        greeted: Callable[[], None] = lambda: None,
    ) -> None:
        self._frames, self._registered, self._welcomed = deque[wire.HubFrame](), registered, False
        self._ack, self._greeted = 0, greeted
        self.full, self.wake = False, wake

    def send(self, frame: wire.HubFrame) -> None:
        """Takes the frame over: it is this session's from now on."""
        if not self._registered():
            error = JoinError("J030", "this cluster is not in the registry")
            frame = wire.HubFrame(bye=wire.Bye(retry_after_seconds=REVOKED_RETRY, why=str(error)))
            self._welcomed = True
        body = frame.WhichOneof("body")
        if body == "welcome":
            self._welcomed = True
            self._greeted()
        if not self._welcomed:
            return
        if body is None:
            self._ack = max(self._ack, frame.ack)
        elif len(self._frames) < OUTGOING:
            self._frames.append(frame)
        else:
            self.full = True
        self.wake()

    def next(self) -> wire.HubFrame | None:
        frame = self._frames.popleft() if self._frames else wire.HubFrame() if self._ack else None
        if frame is not None and self._ack:
            frame.ack, self._ack = self._ack, 0
        return frame

    def take(self) -> list[wire.HubFrame]:
        """All of it."""
        frames = []
        while (frame := self.next()) is not None:
            frames.append(frame)
        return frames


class _Session:
    """One stream: the handler's task reads it, and a writer is there only while something is to be written."""

    __slots__ = ("_closed", "_name", "_task", "_write", "_writer", "beat", "ended", "heard", "outgoing")

    def __init__(
        self,
        name: str,
        beat: int,
        registered: Callable[[], bool],
        write: Callable[[wire.HubFrame], Awaitable[None]],
        greeted: Callable[[], None],
    ) -> None:
        self._name, self.beat, self._write = name, beat, write
        self.outgoing = _Outgoing(registered, self._wake, greeted)
        self.heard = asyncio.get_running_loop().time()
        self._task = asyncio.current_task()
        self._writer: asyncio.Task[None] | None = None
        self._closed = self.ended = False

    def silent(self) -> None:
        log.info("session ended by the coordinator", cluster=self._name, overflowed=False)
        self.end()

    def end(self) -> None:
        """From outside of the handler: it returns as if the agent had ended the stream."""
        if not (self._closed or self.ended):
            self.ended = True
            if self._task:
                self._task.cancel()

    def returned(self) -> None:
        """The handler has taken note of :meth:`end`."""
        if self._task:
            self._task.uncancel()

    def close(self) -> None:
        """At the end of the handler."""
        self._closed = True
        if self._writer:
            self._writer.cancel()

    def _wake(self) -> None:
        if self.outgoing.full and not self.ended:
            # The agent comes back and is told what it missed.
            log.info("session ended by the coordinator", cluster=self._name, overflowed=True)
            self.end()
        elif self._writer is None and not self._closed:
            self._writer = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        try:
            while (frame := self.outgoing.next()) is not None:
                await self._write(frame)
                if frame.HasField("bye"):
                    self.end()
                    return
        except (grpc.RpcError, grpc.aio.AioRpcError, grpc.aio.UsageError):
            log.debug("stream broke", cluster=self._name)
            self.end()
        finally:
            self._writer = None


class _Exchanged:
    """Contact by round trips: it lasts from one to the next.

    What the engine sends between two of them goes out with the next, but for what a welcome brings anew.
    """

    __slots__ = ("_forget", "_lost", "_outgoing", "beat", "connection", "heard")

    def __init__(
        self,
        beat: int,
        outgoing: _Outgoing,
        lost: Callable[[], None],
        forget: Callable[[], None],
        connection: int,
    ) -> None:
        self.beat, self.connection = beat, connection
        self._outgoing, self._lost, self._forget = outgoing, lost, forget
        self.heard = asyncio.get_running_loop().time()

    def left(self) -> list[wire.HubFrame]:
        said_anew = {"welcome", "head", "offer", None}
        return [frame for frame in self._outgoing.take() if frame.WhichOneof("body") not in said_anew]

    def silent(self) -> None:
        try:
            self._lost()
        except anyio.WouldBlock:
            return  # told again at the next sweep
        except anyio.ClosedResourceError:
            log.debug("nobody listens any more")
        self._forget()
