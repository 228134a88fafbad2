"""A real HTTP server in this process: it keeps what it was asked and answers what the test says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
from aiohttp import web


@dataclass
class Asked:
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Listener:
    """``answer`` is called for each request; the default is 200 with an empty body."""

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    answer: Callable[[Asked], Awaitable[web.StreamResponse]] | None = None
    status: int = 200
    body: bytes = b""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        asked = Asked(
            request.method, request.path, dict(request.query), dict(request.headers), await request.read()
        )
        self.asked.append(asked)
        if self.answer:
            return await self.answer(asked)
        return web.Response(status=self.status, body=self.body)

    async def has_been_asked(self, times: int, seconds: float = 10.0) -> None:
        with anyio.fail_after(seconds):
            while len(self.asked) < times:
                await anyio.sleep(0.005)


@asynccontextmanager
async def listening(port: int = 0) -> AsyncIterator[Listener]:
    listener = Listener()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", listener.handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    listener.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield listener
    finally:
        with anyio.CancelScope(shield=True):
            await runner.cleanup()
