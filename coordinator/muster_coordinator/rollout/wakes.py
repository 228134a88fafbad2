"""When each rollout and each ledger has something to do next, if nothing else happens.

Owns one heap, so that asking costs nothing however many are running. It never reads a clock.
"""

from __future__ import annotations

import heapq

SLACK = 64


class Wakes:
    """The newest word about a key counts; older ones are passed over when they come up."""

    def __init__(self) -> None:
        self._at: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []

    def put(self, key: str, at: float | None) -> None:
        """``at`` in unix seconds; None when there is nothing to wake for."""
        if at is None:
            self._at.pop(key, None)
        elif self._at.get(key) != at:
            self._at[key] = at
            heapq.heappush(self._heap, (at, key))
            if len(self._heap) > 2 * len(self._at) + SLACK:
                self._heap = [(at, key) for key, at in self._at.items()]
                heapq.heapify(self._heap)

    def next(self) -> float | None:
        """The earliest."""
        while self._heap:
            at, key = self._heap[0]
            if self._at.get(key) == at:
                return at
            heapq.heappop(self._heap)
        return None

    def due(self, now: float) -> list[str]:
        """Takes out whose time has come, the earliest first; each has to be put in again."""
        keys = []
        while (at := self.next()) is not None and at <= now:
            key = heapq.heappop(self._heap)[1]
            del self._at[key]
            keys.append(key)
        return keys
