"""How many hellos are worked on at once, so that a fleet that comes back in one moment leaves time for those that are there.

Owns the limit, the queue before it and when who waited too long is to come again. It knows no wire and no cluster.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

AT_ONCE = 64
# Less than an agent waits for its welcome (20 s), so that it is told when to come again.
PATIENCE = 10.0


class Place:
    """A hello that is worked on; :meth:`leave` once or more often."""

    __slots__ = ("_limit",)

    def __init__(self, limit: asyncio.Semaphore) -> None:
        self._limit: asyncio.Semaphore | None = limit

    def leave(self) -> None:
        if self._limit is not None:
            self._limit.release()
            self._limit = None


class Handshakes:
    """``retry`` are the bounds between which :meth:`retry_after` draws, in seconds; ``uniform(a, b)`` gives randomness."""

    def __init__(
        self,
        retry: tuple[int, int],
        uniform: Callable[[float, float], float],
        at_once: int = AT_ONCE,
        patience: float = PATIENCE,
    ) -> None:
        self._retry, self._uniform, self._patience = retry, uniform, patience
        self._limit = asyncio.Semaphore(at_once)

    async def enter(self) -> Place | None:
        """In the order of arrival; None for who would have to wait for longer than the patience."""
        try:
            async with asyncio.timeout(self._patience):
                await self._limit.acquire()
        except TimeoutError:
            return None
        return Place(self._limit)

    def retry_after(self) -> int:
        """Seconds, anew for each: those that were turned away together do not come back together."""
        return max(1, round(self._uniform(*self._retry)))
