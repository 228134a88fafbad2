"""A coordinator in the attacker's hands: the real wire, real TLS, and whatever its script tells it to say.

A program of its own. It owns the two listeners, gives certificates to whom the script approves, and records every frame
of an agent. Commands come as JSON lines on standard input, what happens goes out as JSON lines on standard output;
messages are base64 of their wire form, so that a script can also say what no proper program would. It never judges.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import datetime as dt
import json
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from muster_coordinator.enrol.x509 import Authority
from muster_proto.v1 import link_pb2 as wire

WELCOME = wire.Welcome(capability=1, beat_seconds=1, backoff_min_seconds=1, backoff_max_seconds=1)


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def say(event: str, **fields: Any) -> None:
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


class Hub:
    """State that the script changes: whom to approve, how to greet, what to answer operators."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        self.approving = False
        self.acknowledging = True
        self.welcome = wire.HubFrame(welcome=WELCOME).SerializeToString()
        self.ca_pem = b""
        self.operators: dict[str, bytes] = {}
        self.outgoing: asyncio.Queue[bytes | Callable[[Any], Any]] = asyncio.Queue()

    # --- what agents call ----------------------------------------------------------------------------------------

    async def join(self, request: wire.JoinRequest, context: Any) -> bytes:
        say("join", request=_b64(request.SerializeToString()))
        if not self.approving:
            pending = wire.JoinResponse(state=wire.JoinResponse.PENDING, retry_after_seconds=1)
            return pending.SerializeToString()
        certificate = self.authority.client(
            request.csr_der, request.cluster_name, request.cluster_uid, request.identity_key, _now()
        )
        return wire.JoinResponse(
            state=wire.JoinResponse.APPROVED, certificate_pem=certificate, ca_pem=self.ca_pem
        ).SerializeToString()

    async def session(self, frames: AsyncIterator[wire.AgentFrame], context: Any) -> None:
        say("session")
        reading = asyncio.create_task(self._read(frames, context))
        getting: asyncio.Task[Any] | None = None
        try:
            await context.write(self.welcome)
            while not reading.done():
                getting = asyncio.create_task(self.outgoing.get())
                await asyncio.wait({getting, reading}, return_when=asyncio.FIRST_COMPLETED)
                if not getting.done():
                    break
                item = getting.result()
                if isinstance(item, bytes):
                    await context.write(item)
                else:
                    await item(context)
        finally:
            reading.cancel()
            if getting is not None:
                getting.cancel()  # else it would take what is meant for the next session
            say("ended")

    async def _read(self, frames: AsyncIterator[wire.AgentFrame], context: Any) -> None:
        async for frame in frames:
            say("frame", frame=_b64(frame.SerializeToString()))
            if frame.seq and self.acknowledging:
                self.outgoing.put_nowait(wire.HubFrame(ack=frame.seq).SerializeToString())

    async def renew(self, request: wire.RenewRequest, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, "MUSTER-J032 said by the attacker")
        raise AssertionError

    # --- what the script asks ------------------------------------------------------------------------------------

    def do(self, command: dict[str, Any]) -> None:
        what = command.pop("do")
        match what:
            case "approve":
                self.approving = True
            case "mute":
                self.acknowledging = False
            case "welcome":
                self.welcome = base64.b64decode(command["frame"])
            case "ca":
                self.ca_pem = command["pem"].encode()
            case "operator":
                self.operators[command["method"]] = base64.b64decode(command["answer"])
            case "send":
                self.outgoing.put_nowait(base64.b64decode(command["frame"]))
            case "huge":
                self.outgoing.put_nowait(lambda context: _huge(context, command["size"]))
            case "flood":
                self.outgoing.put_nowait(lambda context: _flood(context, command))
            case _:
                raise ValueError(what)


async def _huge(context: Any, size: int) -> None:
    say("sending", size=size)
    await context.write(bytes(size))


async def _flood(context: Any, command: dict[str, Any]) -> None:
    """``count`` offers like the given one, each with another rollout or another bundle."""
    offer = wire.Offer.FromString(base64.b64decode(command["offer"]))
    name = offer.release.bundle
    for number in range(command["count"]):
        if command["vary"] == "bundle":
            offer.release.bundle = f"{name}-{number}"
        else:
            offer.rollout = f"flood-{number}"
        await context.write(wire.HubFrame(offer=offer).SerializeToString())
    say("flooded", count=command["count"])


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


class Operators(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers whatever operators ask with what the script said."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        service, _, method = details.method.rpartition("/")
        if service != "/muster.v1.Operator":
            return None

        async def answer(request: bytes, context: Any) -> bytes:
            say("asked", method=method, request=_b64(request))
            if method not in self._hub.operators:
                await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"nothing to say to {method}")
            return self._hub.operators[method]

        return grpc.unary_unary_rpc_method_handler(answer)


def _handlers(hub: Hub) -> tuple[Any, ...]:
    enrol = {"Join": grpc.unary_unary_rpc_method_handler(hub.join, wire.JoinRequest.FromString)}
    link = {
        "Session": grpc.stream_stream_rpc_method_handler(hub.session, wire.AgentFrame.FromString),
        "Renew": grpc.unary_unary_rpc_method_handler(hub.renew, wire.RenewRequest.FromString),
    }
    return (
        grpc.method_handlers_generic_handler("muster.v1.Enrol", enrol),
        grpc.method_handlers_generic_handler("muster.v1.Link", link),
        Operators(hub),
    )


async def serve(authority: Authority, link: str, edge: str) -> None:
    hub, loop = Hub(authority), asyncio.get_running_loop()
    made = authority.server(["127.0.0.1"], _now())
    servers = []
    for address, root in ((link, authority.pem), (edge, None)):
        server = grpc.aio.server(options=[("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0)])
        server.add_generic_rpc_handlers(_handlers(hub))
        credentials = grpc.ssl_server_credentials(
            [(made.key, made.certificate)], root_certificates=root, require_client_auth=root is not None
        )
        server.add_secure_port(address, credentials)
        await server.start()
        servers.append(server)
    closed = asyncio.Event()

    def read() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(hub.do, json.loads(line))
        loop.call_soon_threadsafe(closed.set)

    threading.Thread(target=read, daemon=True).start()
    say("ready")
    await closed.wait()
    for server in servers:
        await server.stop(0)


def main() -> None:
    parser = argparse.ArgumentParser(description="A coordinator in the attacker's hands (tests only).")
    parser.add_argument("--ca-dir", type=Path, required=True, help="ca.crt and ca.key; made when absent")
    parser.add_argument("--link", required=True)
    parser.add_argument("--edge", required=True)
    arguments = parser.parse_args()
    arguments.ca_dir.mkdir(parents=True, exist_ok=True)
    authority = Authority.load_or_make(arguments.ca_dir, _now())
    asyncio.run(serve(authority, arguments.link, arguments.edge))


if __name__ == "__main__":
    main()
