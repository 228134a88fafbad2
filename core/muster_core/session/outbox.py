"""What an agent has to say and has not seen acknowledged.

Owns coalescing (the newest message of a key replaces an older one that is not acknowledged), numbering, and
what is sent again after a break. The size is bounded by the number of keys: bundles, and offers in the air.
It never drops the last state of a bundle.
"""

from __future__ import annotations

import msgspec


class Entry(msgspec.Struct, frozen=True):
    """One message: its key (a newer one of the same key replaces it), number and bytes."""

    key: str
    seq: int
    data: bytes


class OutboxState(msgspec.Struct, frozen=True):
    """What is stored. ``epoch`` is random per agent state; a new one tells the hub that state was lost.

    ``acked`` is the highest number that a hub has said to hold for good.
    """

    epoch: str
    next_seq: int = 1
    entries: tuple[Entry, ...] = ()
    version: int = 1
    acked: int = 0


class Outbox:
    """Messages in order of their numbers. Numbers rise for ever within an epoch; gaps are normal."""

    def __init__(self, state: OutboxState) -> None:
        self.epoch, self.acked = state.epoch, state.acked
        self._next = state.next_seq
        self._entries = {entry.key: entry for entry in sorted(state.entries, key=lambda entry: entry.seq)}
        self._sent = 0

    def snapshot(self) -> OutboxState:
        return OutboxState(self.epoch, self._next, tuple(self._entries.values()), acked=self.acked)

    @property
    def newest(self) -> int:
        """The highest number that was ever given; 0 before the first."""
        return self._next - 1

    def put(self, key: str, data: bytes) -> int:
        """Queues a message and returns its number; store :meth:`snapshot` before it is sent."""
        seq, self._next = self._next, self._next + 1
        self._entries.pop(key, None)
        self._entries[key] = Entry(key, seq, data)
        return seq

    def unsent(self) -> list[Entry]:
        """What this connection has not been given yet, in order; marks it as sent."""
        due = [entry for entry in self._entries.values() if entry.seq > self._sent]
        if due:
            self._sent = due[-1].seq
        return due

    def acknowledged(self, seq: int) -> bool:
        """Forgets everything up to ``seq``; whether anything was forgotten. Numbers that were never given prove nothing."""
        self.acked = max(self.acked, min(seq, self._next - 1))
        done = [key for key, entry in self._entries.items() if entry.seq <= seq]
        for key in done:
            del self._entries[key]
        return bool(done)

    def reconnected(self, last_seen: int) -> bool:
        """A new connection: the hub made everything up to ``last_seen`` durable, the rest goes again.

        A hub that has seen more than was ever numbered here means that this state was restored from an older
        copy: what waits is numbered anew, past the hub's, so that nothing is taken for old. True when
        :meth:`snapshot` changed.
        """
        if last_seen < self._next:
            changed = self.acknowledged(last_seen)
        else:
            waiting, self._entries, self._next = list(self._entries.values()), {}, last_seen + 1
            for entry in waiting:
                self.put(entry.key, entry.data)
            self.acked = max(self.acked, last_seen)
            changed = True
        self._sent = last_seen
        return changed

    def __len__(self) -> int:
        return len(self._entries)
