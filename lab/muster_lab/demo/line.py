"""A line between a site and the world that can be cut and mended, as lines are.

Owns a TCP relay on loopback. It never looks into what it carries.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import anyio.abc
from anyio.abc import SocketStream


@dataclass(slots=True)
class Line:
    """Relays connections to ``target``; while it is cut, open ones are dropped and new ones refused at once."""

    target: tuple[str, int]
    port: int = 0
    is_cut: bool = False
    beside: Line | None = None  # a second service over the same line
    _open: set[SocketStream] = field(default_factory=set)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def extra_address(self) -> str:
        return self.beside.address if self.beside else ""

    async def cut(self) -> None:
        self.is_cut = True
        if self.beside:
            await self.beside.cut()
        for stream in tuple(self._open):
            await stream.aclose()

    def mend(self) -> None:
        self.is_cut = False
        if self.beside:
            self.beside.mend()

    async def _carry(self, near: SocketStream) -> None:
        async with near:
            if self.is_cut:
                return
            try:
                far = await anyio.connect_tcp(*self.target)
            except OSError:
                return
            self._open |= {near, far}
            try:
                async with far, anyio.create_task_group() as group:
                    group.start_soon(_copy, near, far)
                    group.start_soon(_copy, far, near)
            finally:
                self._open -= {near, far}


async def _copy(source: SocketStream, sink: SocketStream) -> None:
    try:
        async for chunk in source:
            await sink.send(chunk)
        await sink.send_eof()
    except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
        await sink.aclose()


@asynccontextmanager
async def open_line(host: str, port: int) -> AsyncIterator[Line]:
    """A line to ``host:port`` on a free port of loopback, carried until the block is left."""
    line = Line((host, port))
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    line.port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, line._carry)
        yield line
        group.cancel_scope.cancel()
