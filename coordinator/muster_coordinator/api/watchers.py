"""Who watches, and what each has not seen yet.

Owns bounded queues: a watcher that cannot keep up is told everything anew instead of holding memory. It never blocks the
engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

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
            while not self._queue.empty():
                self._queue.get_nowait()
            self._queue.put_nowait(event)

    async def next(self) -> op.Event:
        return await self._queue.get()


class Follower:
    """Who reads one rollout's log where it is stored, and only has to know that there is more."""

    def __init__(self) -> None:
        self._more = asyncio.Event()

    def wake(self) -> None:
        self._more.set()

    async def wait(self) -> None:
        """Until something happened since the last time; however much it was, once."""
        await self._more.wait()
        self._more.clear()


class Watchers:
    """All watchers, and by rollout all followers."""

    def __init__(self) -> None:
        self._watchers: set[Watcher] = set()
        self._followers: dict[str, set[Follower]] = {}

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

    @contextmanager
    def follow(self, rollout: str) -> Iterator[Follower]:
        follower = Follower()
        self._followers.setdefault(rollout, set()).add(follower)
        try:
            yield follower
        finally:
            self._followers[rollout].discard(follower)
            if not self._followers[rollout]:
                del self._followers[rollout]

    def wake(self, rollouts: Iterable[str]) -> None:
        """What happened to these is durable."""
        if self._followers:
            for name in rollouts:
                for follower in self._followers.get(name, ()):
                    follower.wake()
