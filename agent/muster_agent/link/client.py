"""The agent's side of the link.

Owns every use of gRPC in the agent: channels, one reader a stream, deadlines, and the guard that keeps cancellation sound
(grpc drops the mark by which anyio knows its own cancellations). It carries frames and decides nothing.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import grpc
import grpc.aio
from muster_core.errors import JoinError, LinkError
from muster_proto.v1 import link_pb2 as wire
from muster_proto.v1 import link_pb2_grpc

from muster_agent.state.records import Enrolment, Identity

T = TypeVar("T")
CALL_DEADLINE = 20.0
CONNECT_DEADLINE = 20.0
_CODED = re.compile(r"^MUSTER-([A-Z]\d+) (.*)$", re.DOTALL)
OPTIONS = [
    ("grpc.keepalive_time_ms", 240_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", 4 << 20),
    ("grpc.enable_retries", 0),
]


async def _guarded(call: Awaitable[T]) -> T:
    """Awaits a gRPC call so that a cancelled anyio scope is recognised as one."""
    try:
        return await call
    except BaseException:
        await anyio.lowlevel.checkpoint_if_cancelled()
        raise


def _translated(error: grpc.RpcError) -> LinkError | JoinError:
    return _coded_error(error.code(), error.details() or "")


def _coded_error(code: grpc.StatusCode, details: str) -> LinkError | JoinError:
    coded = _CODED.match(details)
    number, message = (coded[1], coded[2]) if coded else ("L020", details or code.name)
    if code == grpc.StatusCode.PERMISSION_DENIED:
        return JoinError(number, message)
    retryable = code in (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    )
    return LinkError(number, message, retryable=retryable)


def _channel(address: str, enrolment: Enrolment, identity: Identity | None) -> grpc.aio.Channel:
    credentials = grpc.ssl_channel_credentials(
        enrolment.ca_pem.encode(),
        identity.tls_key.encode() if identity else None,
        enrolment.certificate.encode() if identity else None,
    )
    return grpc.aio.secure_channel(address, credentials, options=OPTIONS)


async def join(enrolment: Enrolment, request: wire.JoinRequest) -> wire.JoinResponse:
    """One ask on the edge listener."""
    async with _channel(enrolment.edge_address, enrolment, None) as channel:
        try:
            return await _guarded(link_pb2_grpc.EnrolStub(channel).Join(request, timeout=CALL_DEADLINE))
        except grpc.RpcError as error:
            raise _translated(error) from error


@dataclass(frozen=True, slots=True)
class RoundTrips:
    """The link without a stream: a connection for each question, since the last one may be cut off already.

    ``enrolled`` gives the newest certificate.
    """

    enrolled: Callable[[], Enrolment]
    identity: Identity

    async def exchange(self, frames: Sequence[wire.AgentFrame]) -> list[wire.HubFrame]:
        """What is said, a hello first, and what the hub says to it."""
        return list((await self._ask("Exchange", wire.AgentBatch(frames=frames))).frames)

    async def renew(self, request: wire.RenewRequest) -> wire.RenewResponse:
        """A new certificate for the same identity."""
        return await self._ask("Renew", request)  # type: ignore[no-any-return]

    async def _ask(self, method: str, request: wire.AgentBatch | wire.RenewRequest) -> Any:
        enrolment = self.enrolled()
        async with _channel(enrolment.link_address, enrolment, self.identity) as channel:
            try:
                call = getattr(link_pb2_grpc.LinkStub(channel), method)
                return await _guarded(call(request, timeout=CALL_DEADLINE))
            except grpc.RpcError as error:
                raise _translated(error) from error


@dataclass(slots=True)
class Stream:
    """An open session."""

    _call: Any
    _stub: link_pb2_grpc.LinkAsyncStub
    _writing: anyio.Lock = field(default_factory=anyio.Lock)

    async def send(self, frame: wire.AgentFrame) -> None:
        try:
            async with self._writing:  # two writes at once end the call
                await _guarded(self._call.write(frame))
        except asyncio.InvalidStateError as error:  # the server ended it: it has said why
            raise await self._why_ended() from error
        except (grpc.RpcError, grpc.aio.UsageError, anyio.ClosedResourceError) as error:
            raise _ended(error) from error

    async def _why_ended(self) -> LinkError | JoinError:
        return _coded_error(await self._call.code(), await self._call.details() or "")

    async def receive(self) -> wire.HubFrame:
        """The next frame; only one task may call this. :class:`LinkError` at the end of the stream."""
        try:
            frame = await _guarded(self._call.read())
        except grpc.RpcError as error:
            raise _translated(error) from error
        if frame is grpc.aio.EOF:
            raise LinkError("L021", "the coordinator ended the session", retryable=True)
        if frame is None:
            raise LinkError("L024", "the coordinator sent bytes that are no frame", retryable=True)
        return frame  # type: ignore[no-any-return]

    async def renew(self, request: wire.RenewRequest) -> wire.RenewResponse:
        """A new certificate for the same identity, over the same connection."""
        try:
            return await _guarded(self._stub.Renew(request, timeout=CALL_DEADLINE))
        except grpc.RpcError as error:
            raise _translated(error) from error


def _ended(error: Exception) -> LinkError | JoinError:
    return (
        _translated(error)
        if isinstance(error, grpc.aio.AioRpcError)
        else LinkError("L021", "the session has ended", retryable=True)
    )


@asynccontextmanager
async def session(enrolment: Enrolment, identity: Identity) -> AsyncIterator[Stream]:
    """A session with the client certificate; ``L022`` when nobody answers."""
    async with _channel(enrolment.link_address, enrolment, identity) as channel:
        try:
            with anyio.fail_after(CONNECT_DEADLINE):
                await channel.channel_ready()
        except TimeoutError as error:
            raise LinkError(
                "L022", "the coordinator does not answer", object=enrolment.link_address, retryable=True
            ) from error
        stub = link_pb2_grpc.LinkStub(channel)
        call = stub.Session()
        try:
            yield Stream(call, stub)
        finally:
            call.cancel()
