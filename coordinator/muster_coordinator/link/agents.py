"""Agents on the line: joining, sessions, renewal.

Owns who a peer is by its certificate, deadlines, and the session's reader and writer. It decides nothing:
enrolment and engine do."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import anyio
import grpc
import grpc.aio
import structlog
from muster_core.errors import JoinError, LinkError, MusterError
from muster_proto.v1 import link_pb2 as wire
from muster_proto.v1 import link_pb2_grpc

from muster_coordinator.api.operator import CAPABILITY
from muster_coordinator.enrol.enrolment import Enrolment, unread_registry
from muster_coordinator.link.statuses import fail
from muster_coordinator.rollout.engine import Engine

log = structlog.get_logger()

OUTGOING = 1_000
SILENCE_BEATS = 2.5
REVOKED_RETRY = 60
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


def _peer(context: grpc.aio.ServicerContext[Any, Any]) -> _Peer:
    authenticated = context.auth_context()
    names = [value.decode() for value in authenticated.get("x509_common_name", [])]
    uris = [value.decode() for value in authenticated.get("x509_subject_alternative_name", [])]
    found = next((match for uri in uris if (match := _URI.match(uri))), None)
    return _Peer(names[0], found[1], found[2]) if names and found else _Peer("", "", "")


class LinkServicer(link_pb2_grpc.LinkServicer):
    """``beat`` is how often agents say that they live, in seconds."""

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
        self.streams = 0

    async def _known(self, context: grpc.aio.ServicerContext[Any, Any]) -> _Peer:
        """Who it is, if the registry has it with this very identity: an older one's certificate is worth nothing."""
        peer = _peer(context)
        if not self._engine.state.reading.heads.commit:
            await fail(context, unread_registry())
        if not self._registered(peer):
            await fail(context, JoinError("J030", "this cluster is not in the registry", object=peer.name))
        return peer

    def _registered(self, peer: _Peer) -> bool:
        cluster = self._engine.state.clusters.get(peer.name)
        entry = cluster.entry.spec if cluster and cluster.entry else None
        return (
            entry is not None and entry.uid == peer.uid and entry.identity_key == f"ed25519:{peer.identity}"
        )

    def _welcome(self) -> wire.Welcome:
        return wire.Welcome(
            capability=CAPABILITY,
            beat_seconds=self._beat,
            backoff_min_seconds=self._backoff[0],
            backoff_max_seconds=self._backoff[1],
        )

    async def Session(  # type: ignore[override]  # reads and writes through the context
        self, request_iterator: AsyncIterator[wire.AgentFrame], context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        peer = await self._known(context)
        name = peer.name
        first = await context.read()
        if first is grpc.aio.EOF or not first.HasField("hello"):
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                str(LinkError("L050", "the first frame must be a hello", object=name)),
            )
        connection = next(self._connections)
        outgoing: asyncio.Queue[wire.HubFrame] = asyncio.Queue(OUTGOING)
        session = _Outgoing(outgoing, lambda: self._registered(peer))
        self.streams += 1
        try:
            await self._engine.submit(
                self._engine.connected(name, first.hello, connection, session.send, self._welcome())
            )
            async with anyio.create_task_group() as group:
                group.start_soon(self._read, peer, context, group.cancel_scope)
                group.start_soon(self._watch_silence, name, session, group.cancel_scope)
                while True:
                    frame = await outgoing.get()
                    await context.write(frame)
                    if frame.HasField("bye"):
                        group.cancel_scope.cancel()
                        break
        finally:
            self.streams -= 1
            with anyio.CancelScope(shield=True):
                await self._engine.submit(self._engine.disconnected(name, connection))

    async def _read(
        self, peer: _Peer, context: grpc.aio.ServicerContext[Any, Any], scope: anyio.CancelScope
    ) -> None:
        """The one reader of a stream; ends the session at its end. Who is not registered any more is not heard."""
        name = peer.name
        try:
            while (frame := await context.read()) is not grpc.aio.EOF:
                if not self._registered(peer):
                    continue
                if frame.HasField("beat") or not frame.WhichOneof("body"):
                    self._engine.seen(name, self._clock())
                else:
                    await self._engine.submit(self._engine.said(name, frame))
        except (grpc.RpcError, grpc.aio.AioRpcError, grpc.aio.UsageError):
            log.debug("stream broke", cluster=name)
        scope.cancel()

    async def _watch_silence(self, name: str, session: _Outgoing, scope: anyio.CancelScope) -> None:
        limit = self._beat * SILENCE_BEATS
        while True:
            await anyio.sleep(self._beat / 2)
            if session.overflowed or self._clock() - self._engine.state.cluster(name).last_seen > limit:
                log.info("session ended by the hub", cluster=name, overflowed=session.overflowed)
                scope.cancel()

    async def Exchange(
        self, request: wire.AgentBatch, context: grpc.aio.ServicerContext[Any, Any]
    ) -> wire.HubBatch:
        peer = await self._known(context)
        name = peer.name
        if not request.frames or not request.frames[0].HasField("hello"):
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                str(LinkError("L050", "the first frame must be a hello", object=name)),
            )
        connection = next(self._connections)
        outgoing: asyncio.Queue[wire.HubFrame] = asyncio.Queue(OUTGOING)
        session = _Outgoing(outgoing, lambda: self._registered(peer))
        await self._engine.submit(
            self._engine.connected(name, request.frames[0].hello, connection, session.send, self._welcome())
        )
        try:
            for frame in request.frames[1:]:
                await self._engine.submit(self._engine.said(name, frame))
            await self._engine.ask(lambda effects, now: None)
        finally:
            with anyio.CancelScope(shield=True):
                await self._engine.submit(self._engine.disconnected(name, connection))
        frames = []
        while not outgoing.empty():
            frames.append(outgoing.get_nowait())
        return wire.HubBatch(frames=frames)

    async def Renew(
        self, request: wire.RenewRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> wire.RenewResponse:
        peer = await self._known(context)
        try:
            return await self._enrolment.renew(peer.name, bytes.fromhex(peer.identity), request)
        except MusterError as error:
            await fail(context, error)


class _Outgoing:
    """The engine's side of a session: nothing before the welcome, never blocking, and a good-bye to who is not
    registered.

    Every new reading of the registry sends a head, so a cluster that was removed is told at once.
    """

    def __init__(self, queue: asyncio.Queue[wire.HubFrame], registered: Callable[[], bool]) -> None:
        self._queue, self._registered, self._welcomed = queue, registered, False
        self.overflowed = False

    def send(self, frame: wire.HubFrame) -> None:
        if not self._registered():
            error = JoinError("J030", "this cluster is not in the registry")
            frame = wire.HubFrame(bye=wire.Bye(retry_after_seconds=REVOKED_RETRY, why=str(error)))
            self._welcomed = True
        if frame.HasField("welcome"):
            self._welcomed = True
        if not self._welcomed:
            return
        try:
            self._queue.put_nowait(frame)
        except asyncio.QueueFull:
            self.overflowed = True  # the session ends; the agent comes back and is told what it missed
