"""The two listeners: ``edge`` (server TLS: enrol, operators) and ``link`` (client certificates: agents).

Owns every use of gRPC in the coordinator: credentials, who a peer is, deadlines, the session's reader and writer, and the
translation of errors to statuses. It decides nothing.
"""

from __future__ import annotations

import asyncio
import hmac
import itertools
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import anyio
import grpc
import grpc.aio
import structlog
from muster_core.errors import JoinError, LinkError, MusterError, RolloutError
from muster_proto.v1 import link_pb2 as wire
from muster_proto.v1 import link_pb2_grpc, operator_pb2_grpc
from muster_proto.v1 import operator_pb2 as op

from muster_coordinator.api.directives import DirectiveApi
from muster_coordinator.api.operator import CAPABILITY, NotFoundError, OperatorApi
from muster_coordinator.enrol.enrolment import Enrolment, unread_registry
from muster_coordinator.enrol.x509 import ServerCertificate
from muster_coordinator.rollout.engine import Engine

log = structlog.get_logger()

MAX_MESSAGE = 4 << 20
OUTGOING = 1_000
SILENCE_BEATS = 2.5
REVOKED_RETRY = 60
_URI = re.compile(r"^muster://cluster/([^/]+)/([0-9a-f]{64})$")

OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.so_reuseport", 0),
]


@dataclass(frozen=True, slots=True)
class Listener:
    """A running server and the port it got."""

    server: grpc.aio.Server
    port: int


async def _fail(context: grpc.aio.ServicerContext[Any, Any], error: MusterError) -> NoReturn:
    status = grpc.StatusCode.INVALID_ARGUMENT
    if isinstance(error, NotFoundError):
        status = grpc.StatusCode.NOT_FOUND
    elif isinstance(error, JoinError):
        status = grpc.StatusCode.PERMISSION_DENIED
    elif isinstance(error, RolloutError):
        status = grpc.StatusCode.FAILED_PRECONDITION
    elif error.retryable:
        status = grpc.StatusCode.ABORTED
    await context.abort(status, str(error))


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
            await _fail(context, error)


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
            await _fail(context, unread_registry())
        if not self._registered(peer):
            await _fail(context, JoinError("J030", "this cluster is not in the registry", object=peer.name))
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
            await _fail(context, error)


class _Outgoing:
    """The engine's side of a session: nothing before the welcome, never blocking, and a good-bye to who is not registered.

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


class OperatorServicer(operator_pb2_grpc.OperatorServicer):
    """Checks the credential, then passes on."""

    def __init__(self, api: OperatorApi, token: str) -> None:
        self._api, self._token = api, f"Bearer {token}".encode()
        self._directives = DirectiveApi(api.engine)

    async def _answer(self, context: grpc.aio.ServicerContext[Any, Any], call: Callable[[], Any]) -> Any:
        await self._admit(context)
        try:
            result = call()
            return await result if isinstance(result, Awaitable) else result
        except MusterError as error:
            await _fail(context, error)

    async def _admit(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        given = dict(context.invocation_metadata() or ()).get("authorization", "")
        if not hmac.compare_digest(str(given).encode(), self._token):
            error = LinkError(
                "L001",
                "this needs an operator's credential",
                hint="Use the context file that `muster serve` wrote.",
            )
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))

    async def GetInfo(self, request: op.GetInfoRequest, context: Any) -> op.Info:
        return await self._answer(context, self._api.info)  # type: ignore[no-any-return]

    async def Refresh(self, request: op.RefreshRequest, context: Any) -> op.Info:
        return await self._answer(context, self._api.refresh)  # type: ignore[no-any-return]

    async def CreateToken(self, request: op.CreateTokenRequest, context: Any) -> op.CreateTokenResponse:
        return await self._answer(context, lambda: self._api.create_token(request))  # type: ignore[no-any-return]

    async def ListTokens(self, request: op.ListTokensRequest, context: Any) -> op.TokenList:
        return await self._answer(context, self._api.list_tokens)  # type: ignore[no-any-return]

    async def ListJoins(self, request: op.ListJoinsRequest, context: Any) -> op.JoinList:
        return await self._answer(context, self._api.list_joins)  # type: ignore[no-any-return]

    async def ListClusters(self, request: op.ListClustersRequest, context: Any) -> op.ClusterList:
        return await self._answer(context, lambda: self._api.list_clusters(request.selector))  # type: ignore[no-any-return]

    async def ListBundles(self, request: op.ListBundlesRequest, context: Any) -> op.BundleList:
        return await self._answer(context, lambda: self._api.list_bundles(request.selector))  # type: ignore[no-any-return]

    async def ListRollouts(self, request: op.ListRolloutsRequest, context: Any) -> op.RolloutList:
        return await self._answer(context, lambda: self._api.list_rollouts(request.bundle))  # type: ignore[no-any-return]

    async def GetCluster(self, request: op.GetRequest, context: Any) -> op.ClusterView:
        return await self._answer(context, lambda: self._api.get_cluster(request.name))  # type: ignore[no-any-return]

    async def GetBundle(self, request: op.GetRequest, context: Any) -> op.BundleView:
        return await self._answer(context, lambda: self._api.get_bundle(request.name))  # type: ignore[no-any-return]

    async def GetRollout(self, request: op.GetRequest, context: Any) -> op.RolloutView:
        return await self._answer(context, lambda: self._api.get_rollout(request.name))  # type: ignore[no-any-return]

    async def StartRollout(self, request: op.StartRolloutRequest, context: Any) -> op.RolloutView:
        return await self._answer(context, lambda: self._api.start_rollout(request))  # type: ignore[no-any-return]

    async def ActOnRollout(self, request: op.ActOnRolloutRequest, context: Any) -> op.RolloutView:
        return await self._answer(context, lambda: self._api.act(request))  # type: ignore[no-any-return]

    async def RenewDirective(self, request: op.RenewDirectiveRequest, context: Any) -> op.BundleView:
        return await self._answer(context, lambda: self._directives.renew(request))  # type: ignore[no-any-return]

    async def AcknowledgeFloor(self, request: op.GetRequest, context: Any) -> op.ClusterView:
        return await self._answer(context, lambda: self._directives.acknowledge_floor(request.name))  # type: ignore[no-any-return]

    async def ListOwed(self, request: op.ListOwedRequest, context: Any) -> op.OwedList:
        return await self._answer(context, lambda: self._directives.owed(request))  # type: ignore[no-any-return]

    async def Explain(self, request: op.ExplainRequest, context: Any) -> op.Explanation:
        return await self._answer(context, lambda: self._api.explain(request))  # type: ignore[no-any-return]

    async def Watch(self, request: op.WatchRequest, context: Any) -> AsyncIterator[op.Event]:
        await self._admit(context)
        events = self._api.watch(request)
        try:
            async for event in events:
                yield event
        finally:
            await events.aclose()  # type: ignore[attr-defined]


async def listen(
    address: str,
    certificate: ServerCertificate,
    ca_pem: bytes | None,
    *servicers: tuple[Callable[[Any, grpc.aio.Server], None], object],
) -> Listener:
    """A started server; with ``ca_pem`` a client certificate is required. ``MUSTER-L002`` when the address is taken."""
    server = grpc.aio.server(options=OPTIONS)
    for add, servicer in servicers:
        add(servicer, server)
    credentials = grpc.ssl_server_credentials(
        [(certificate.key, certificate.certificate)], ca_pem, require_client_auth=ca_pem is not None
    )
    try:
        port = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise LinkError("L002", "this address cannot be listened on", object=address) from error
    await server.start()
    return Listener(server, port)


def edge_servicers(
    enrolment: Enrolment, api: OperatorApi, token: str
) -> list[tuple[Callable[[Any, grpc.aio.Server], None], object]]:
    return [
        (link_pb2_grpc.add_EnrolServicer_to_server, EnrolServicer(enrolment)),
        (operator_pb2_grpc.add_OperatorServicer_to_server, OperatorServicer(api, token)),
    ]


def link_servicers(servicer: LinkServicer) -> list[tuple[Callable[[Any, grpc.aio.Server], None], object]]:
    return [(link_pb2_grpc.add_LinkServicer_to_server, servicer)]
