"""What an agent has to say and has not seen acknowledged.

Owns coalescing (the newest report of a bundle replaces an unsent or unacknowledged older one), numbering, and what is sent
again after a break. The size is bounded by the number of bundles. It never drops the last state of a bundle.
"""

from __future__ import annotations

import msgspec


class Entry(msgspec.Struct, frozen=True):
    """One message: its key (a newer one of the same key replaces it), number and bytes."""

    key: str
    seq: int
    data: bytes


class OutboxState(msgspec.Struct, frozen=True):
    """What is stored. ``epoch`` is random per agent state; a new one tells the hub that state was lost."""

    epoch: str
    next_seq: int = 1
    entries: tuple[Entry, ...] = ()


class Outbox:
    """Messages in order of their numbers. Numbers rise for ever within an epoch."""

    def __init__(self, state: OutboxState) -> None:
        self.epoch = state.epoch
        self._next = state.next_seq
        self._entries = {entry.key: entry for entry in state.entries}
        self._sent = 0

    def snapshot(self) -> OutboxState:
        return OutboxState(self.epoch, self._next, tuple(sorted(self._entries.values(), key=lambda e: e.seq)))

    def put(self, key: str, data: bytes) -> int:
        """Queues a message and returns its number; store :meth:`snapshot` before it is sent."""
        seq, self._next = self._next, self._next + 1
        self._entries[key] = Entry(key, seq, data)
        return seq

    def unsent(self) -> list[Entry]:
        """What this connection has not been given yet, in order; marks it as sent."""
        due = sorted((entry for entry in self._entries.values() if entry.seq > self._sent), key=lambda e: e.seq)
        if due:
            self._sent = due[-1].seq
        return due

    def acknowledged(self, seq: int) -> bool:
        """Forgets everything up to ``seq``; whether anything was forgotten."""
        done = [key for key, entry in self._entries.items() if entry.seq <= seq]
        for key in done:
            del self._entries[key]
        return bool(done)

    def reconnected(self, last_seen: int) -> None:
        """The hub made everything up to ``last_seen`` durable; the rest goes again. Numbers never fall behind the hub."""
        self.acknowledged(last_seen)
        self._next = max(self._next, last_seen + 1)
        self._sent = last_seen

    def __len__(self) -> int:
        return len(self._entries)
