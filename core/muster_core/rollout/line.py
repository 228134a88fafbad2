"""Who of a wave is offered next.

Owns the waiting members of one wave in their order: by time zone where its window is each site's own, by value of the spread
label, and apart from them those that are held. Putting in, taking out and asking cost O(log n) and the number of zones; a
held member costs nothing. It never decides whether anything may be offered.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

NOTHING: Mapping[str, str] = {}
SLACK = 64


class Order(NamedTuple):
    """Beside who waits, all of a line: the ranks that were given last, and who was moved where, packed."""

    first: int
    last: int
    moved: bytes
    ranks: bytes


class Line:
    """``zones`` and ``spread`` give each member's zone and value; a member that they lack has the empty one."""

    def __init__(
        self,
        members: tuple[str, ...],
        zones: Mapping[str, str] = NOTHING,
        spread: Mapping[str, str] = NOTHING,
    ) -> None:
        self._zones, self._spread = zones, spread
        self.numbers = {cluster: number for number, cluster in enumerate(members)}  # never changes
        self._moved: dict[
            str, int
        ] = {}  # who was put before or behind all others, with the rank of the last time
        self._waiting: dict[str, int] = dict(self.numbers)  # who waits, with the rank that its entry has
        self._first, self._last = 0, len(members)
        self.held: dict[str, str] = {}  # who waits or may come back to wait, with the reason
        self._held_waiting = 0
        # Per zone a heap of (rank, cluster), and one more per value; what is not so any more is passed over.
        self._lanes: dict[str, list[tuple[int, str]]] = {}
        self._values: dict[tuple[str, str], list[tuple[int, str]]] = {}
        if not zones and not spread:
            self._lanes[""] = list(enumerate(members))
            return
        for cluster, rank in self.numbers.items():  # in order, so each is a heap already
            for lane in self._lanes_of(cluster):
                lane.append((rank, cluster))

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[str]:
        """Who waits, held ones too; in no order that means anything."""
        return iter(self._waiting)

    def __contains__(self, cluster: str) -> bool:
        return cluster in self._waiting

    @property
    def ready(self) -> int:
        """How many wait and are not held."""
        return len(self._waiting) - self._held_waiting

    @property
    def held_waiting(self) -> int:
        return self._held_waiting

    def first_held(self) -> tuple[str, str]:
        """One that is held and waits, with the reason."""
        return next((c, why) for c, why in self.held.items() if c in self._waiting)

    def put(self, cluster: str, *, place: str) -> None:
        """``place``: ``own`` for the one it has in the order, ``first`` or ``last``."""
        if place == "first":
            self._first -= 1
            rank = self._moved[cluster] = self._first
        elif place == "last":
            self._last += 1
            rank = self._moved[cluster] = self._last
        else:
            rank = self._moved.get(cluster, self.numbers[cluster])
        self._waiting[cluster] = rank
        if cluster in self.held:
            self._held_waiting += 1
        else:
            self._push(cluster)

    def take(self, cluster: str) -> None:
        if self._waiting.pop(cluster, None) is not None and cluster in self.held:
            self._held_waiting -= 1

    def hold(self, cluster: str, why: str) -> None:
        if cluster not in self.held and cluster in self._waiting:
            self._held_waiting += 1
        self.held[cluster] = why

    def unhold(self, cluster: str) -> None:
        if self.held.pop(cluster, None) is not None and cluster in self._waiting:
            self._held_waiting -= 1
            self._push(cluster)

    def head(self, zones: Container[str], value: str | None = None) -> str | None:
        """The first that is ready in one of these zones, of one value of the spread or (None) of any."""
        found: tuple[int, str] | None = None
        for zone in self._lanes:
            if zone in zones:
                entry = self._first_of(
                    self._lanes[zone] if value is None else self._values.get((zone, value), [])
                )
                if entry and (found is None or entry < found):
                    found = entry
        return found[1] if found else None

    def zones_outside(self, zones: Container[str]) -> Iterator[str]:
        """Where somebody is ready that none of ``zones`` is. O(zones)."""
        return (
            zone
            for zone, lane in self._lanes.items()
            if zone not in zones and self._first_of(lane) is not None
        )

    def order(self) -> Order:
        moved = array("I", map(self.numbers.__getitem__, self._moved))
        return Order(self._first, self._last, moved.tobytes(), array("q", self._moved.values()).tobytes())

    def put_all(self, order: Order, members: Sequence[str], waiting: Iterable[str]) -> None:
        """Who waits, and nobody is held. O(n log n)."""
        self._first, self._last = order.first, order.last
        numbers, ranks = array("I", order.moved), array("q", order.ranks)
        self._moved = {members[number]: rank for number, rank in zip(numbers, ranks, strict=True)}
        self._waiting = {cluster: self._moved.get(cluster, self.numbers[cluster]) for cluster in waiting}
        self._lanes.clear()
        self._values.clear()
        for rank, cluster in sorted((rank, cluster) for cluster, rank in self._waiting.items()):
            for lane in self._lanes_of(cluster):
                lane.append((rank, cluster))

    def before(self, cluster: str) -> int:
        """How many that are ready go before it. O(waiting): for people's questions, not for deciding."""
        rank = self._waiting[cluster]
        return sum(other < rank and name not in self.held for name, other in self._waiting.items())

    def zone_of(self, cluster: str) -> str:
        return self._zones.get(cluster, "")

    def _lanes_of(self, cluster: str) -> Iterator[list[tuple[int, str]]]:
        zone = self.zone_of(cluster)
        yield self._lanes.setdefault(zone, [])
        if self._spread:
            yield self._values.setdefault((zone, self._spread.get(cluster, "")), [])

    def _push(self, cluster: str) -> None:
        rank = self._waiting[cluster]
        for lane in self._lanes_of(cluster):
            if len(lane) > 2 * len(self._waiting) + SLACK:  # whoever is held and let go again, over and over
                lane[:] = sorted({entry for entry in lane if self._is_ready(entry)})
            heapq.heappush(lane, (rank, cluster))

    def _is_ready(self, entry: tuple[int, str]) -> bool:
        rank, cluster = entry
        return self._waiting.get(cluster) == rank and cluster not in self.held

    def _first_of(self, lane: list[tuple[int, str]]) -> tuple[int, str] | None:
        while lane:
            if self._is_ready(lane[0]):
                return lane[0]
            heapq.heappop(lane)
        return None
