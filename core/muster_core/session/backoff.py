"""How long to wait before dialling again.

Owns full jitter between zero and a doubling bound, within limits that the server sends; a connection that
stayed up long enough starts it anew. Randomness is given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

LONGEST = 3_600.0


@dataclass(slots=True)
class Backoff:
    """``uniform(a, b)`` gives randomness; seconds everywhere."""

    uniform: Callable[[float, float], float]
    minimum: float = 1.0
    maximum: float = 60.0
    stable_after: float = 30.0
    _failures: int = 0

    def next_delay(self) -> float:
        bound = min(self.maximum, self.minimum * 2**self._failures)
        self._failures = min(self._failures + 1, 32)
        return self.uniform(min(self.minimum / 2, bound), bound)

    def limits(self, minimum: float, maximum: float) -> None:
        """What the server asked for, within an hour: nobody is silenced for longer by one word."""
        self.minimum = min(max(0.1, minimum), LONGEST)
        self.maximum = min(max(minimum, maximum), LONGEST)

    def connected_for(self, seconds: float) -> None:
        if seconds >= self.stable_after:
            self._failures = 0
