"""What the hub has taken from one agent.

Owns de-duplication by (epoch, number): delivery is at least once, taking is exactly once. Gaps are normal,
since a newer report replaces an older one before it is sent.
"""

from __future__ import annotations

from dataclasses import dataclass

# Nobody numbers so many messages, and every store holds the number.
LAST_SEQ = 1 << 62


@dataclass(slots=True)
class Inbox:
    """``last`` is the highest number made durable in this epoch."""

    epoch: str = ""
    last: int = 0

    def resume(self, epoch: str) -> int:
        """Begins a session; a new epoch starts at zero. Returns what the agent may forget."""
        if epoch != self.epoch:
            self.epoch, self.last = epoch, 0
        return self.last

    def is_new(self, seq: int) -> bool:
        return seq > self.last

    def stored(self, seq: int) -> None:
        """To be called after the message is durable."""
        self.last = max(self.last, seq)
