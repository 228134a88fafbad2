"""The two listeners: ``edge`` (server TLS: enrol, operators) and ``link`` (client certificates: agents, operators).

Owns addresses, credentials of the server, limits of the transport, and which services stand on which listener.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import anyio
import grpc
import grpc.aio
from muster_core.errors import LinkError
from muster_proto.v1 import link_pb2_grpc, operator_pb2_grpc

from muster_coordinator.access.calls import Calls
from muster_coordinator.enrol.enrolment import Enrolment
from muster_coordinator.enrol.x509 import ServerCertificate
from muster_coordinator.link.agents import EnrolServicer, LinkServicer
from muster_coordinator.link.operators import OperatorInterceptor, OperatorServicer

MAX_MESSAGE = 4 << 20
RETRY_SECONDS = 0.2
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


async def listen(
    address: str,
    certificate: ServerCertificate,
    ca_pem: bytes | None,
    *servicers: tuple[Callable[[Any, grpc.aio.Server], None], object],
    calls: Calls,
    patience: float = 0.0,
) -> Listener:
    """A started server, operators' calls behind ``calls``; with ``ca_pem`` a client certificate is required.

    ``MUSTER-L002`` when the address is taken, and still is after ``patience`` seconds.
    """
    until = anyio.current_time() + patience
    while True:
        try:
            return await _listen(address, certificate, ca_pem, servicers, calls)
        except LinkError:
            if anyio.current_time() >= until:
                raise
            await anyio.sleep(RETRY_SECONDS)


async def _listen(
    address: str,
    certificate: ServerCertificate,
    ca_pem: bytes | None,
    servicers: Sequence[tuple[Callable[[Any, grpc.aio.Server], None], object]],
    calls: Calls,
) -> Listener:
    server = grpc.aio.server(interceptors=[OperatorInterceptor(calls)], options=OPTIONS)
    for add, servicer in servicers:
        add(servicer, server)
    credentials = grpc.ssl_server_credentials(
        [(certificate.key, certificate.certificate)], ca_pem, require_client_auth=ca_pem is not None
    )
    try:
        port = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        await server.stop(None)
        raise taken(address) from error
    await server.start()
    return Listener(server, port)


def taken(address: str) -> LinkError:
    """The error for an address that cannot be listened on, whichever listener it is for."""
    return LinkError(
        "L002",
        "this address cannot be listened on",
        object=address,
        hint="Does another coordinator run here? Pass --link, --edge or --metrics HOST:PORT.",
    )


Servicer = tuple[Callable[[Any, grpc.aio.Server], None], object]


def edge_servicers(enrolment: Enrolment, operators: OperatorServicer) -> list[Servicer]:
    return [
        (link_pb2_grpc.add_EnrolServicer_to_server, EnrolServicer(enrolment)),
        (operator_pb2_grpc.add_OperatorServicer_to_server, operators),
    ]


def link_servicers(agents: LinkServicer, operators: OperatorServicer) -> list[Servicer]:
    return [
        (link_pb2_grpc.add_LinkServicer_to_server, agents),
        (operator_pb2_grpc.add_OperatorServicer_to_server, operators),
    ]
