"""``/metrics``, ``/healthz`` and ``/readyz`` over plain HTTP.

Owns a tiny server for probes: GET only, one request a connection, everything bounded. It never serves anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import anyio
import anyio.to_thread
from anyio.abc import SocketStream, TaskStatus
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

DEADLINE = 5.0
MAX_REQUEST = 8192
TEXT = "text/plain; charset=utf-8"
TOO_LARGE = ("431 Request Header Fields Too Large", TEXT, b"a probe is a small GET\n")


async def serve(
    host: str,
    port: int,
    registry: CollectorRegistry,
    ready: Callable[[], str],
    *,
    task_status: TaskStatus[int] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """``ready()`` gives an empty text or why not. Reports the port that it got."""

    async def answer(stream: SocketStream) -> None:
        async with stream:
            with anyio.move_on_after(DEADLINE):
                request = b""
                while b"\r\n\r\n" not in request and len(request) < MAX_REQUEST:
                    try:
                        request += await stream.receive()
                    except (anyio.EndOfStream, anyio.BrokenResourceError):
                        return
                if b"\r\n\r\n" in request:
                    line = request.split(b"\r\n", 1)[0].decode("latin-1")
                    status, kind, body = await _page(line, registry, ready)
                else:
                    status, kind, body = TOO_LARGE
                lines = (
                    f"HTTP/1.1 {status}",
                    f"Content-Type: {kind}",
                    f"Content-Length: {len(body)}",
                    "Connection: close",
                    "",
                    "",
                )
                head = "\r\n".join(lines)
                try:
                    await stream.send(head.encode() + body)
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    return

    listener = await anyio.create_tcp_listener(local_host=host, local_port=port)
    async with listener:
        task_status.started(listener.extra(anyio.abc.SocketAttribute.local_port))
        await listener.serve(answer)


async def _page(line: str, registry: CollectorRegistry, ready: Callable[[], str]) -> tuple[str, str, bytes]:
    method, _, rest = line.partition(" ")
    path = rest.partition(" ")[0].partition("?")[0]
    if method != "GET":
        return "405 Method Not Allowed", TEXT, b"only GET\n"
    if path == "/metrics":
        # Counted here, where nothing changes meanwhile; only the writing is a thread's.
        counted = _Counted(registry.collect())
        body = await anyio.to_thread.run_sync(generate_latest, counted)
        return "200 OK", "text/plain; version=0.0.4; charset=utf-8", body
    if path == "/healthz":
        return "200 OK", TEXT, b"ok\n"
    if path == "/readyz":
        why = ready()
        return ("503 Service Unavailable", TEXT, why.encode() + b"\n") if why else ("200 OK", TEXT, b"ok\n")
    return "404 Not Found", TEXT, b"try /metrics, /healthz or /readyz\n"


class _Counted(Collector):
    """A registry as it was at one moment."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families
