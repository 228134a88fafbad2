"""Who watches, and what each has not seen yet.

Owns bounded queues: a watcher that cannot keep up is told everything anew instead of holding memory. It never blocks the
engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from muster_proto.v1 import operator_pb2 as op

QUEUE = 2_000


class Watcher:
    """Events for one ``Watch`` call. ``overflowed`` asks for the present state again.

    ``brief``: rollouts without their targets, which can be very many.
    """

    def __init__(self, wants: Callable[[op.Event], bool], brief: bool = False) -> None:
        self._wants, self.brief = wants, brief
        self._queue: asyncio.Queue[op.Event] = asyncio.Queue(QUEUE)
        self.overflowed = False

    def tell(self, event: op.Event) -> None:
        if not self._wants(event):
            return
        try:
            self._queue.put_nowait(event)
        except asyncio.QueueFull:
            self.overflowed = True
            self.drain()
            self._queue.put_nowait(event)

    def drain(self) -> None:
        """Forgets what waits."""
        while not self._queue.empty():
            self._queue.get_nowait()

    async def next(self) -> op.Event:
        return await self._queue.get()


class Watchers:
    """All watchers."""

    def __init__(self) -> None:
        self._watchers: set[Watcher] = set()

    def __iter__(self) -> Iterator[Watcher]:
        return iter(tuple(self._watchers))

    def __len__(self) -> int:
        return len(self._watchers)

    def ways(self) -> set[bool]:
        """Whether some want rollouts brief, whole, or both: what nobody wants is not made."""
        return {watcher.brief for watcher in self._watchers}

    def add(self, wants: Callable[[op.Event], bool], *, brief: bool = False) -> Watcher:
        watcher = Watcher(wants, brief)
        self._watchers.add(watcher)
        return watcher

    def remove(self, watcher: Watcher) -> None:
        self._watchers.discard(watcher)
