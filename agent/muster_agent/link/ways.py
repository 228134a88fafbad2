"""Which way an agent speaks: by a stream, or by round trips where no stream stands.

Owns the judgement of a line by the streams that broke on it. It opens nothing and reads no clock.
"""

from __future__ import annotations

SOON = 10.0
BREAKS = 3
AGAIN_AFTER = 600.0


class Ways:
    """Streams, until three in a row broke within ten seconds of being opened; then round trips for ten minutes.

    Times are seconds of one clock that never goes back.
    """

    def __init__(self) -> None:
        self._breaks = 0
        self._trips_until: float | None = None

    def by_trips(self, now: float) -> bool:
        """Whether the next word goes by a round trip; a stream is tried anew when the time is over."""
        if self._trips_until is not None and now >= self._trips_until:
            self._trips_until, self._breaks = None, 0
        return self._trips_until is not None

    def left(self, now: float) -> float:
        """Seconds until a stream is tried again; 0 when now."""
        return max(0.0, self._trips_until - now) if self._trips_until is not None else 0.0

    def broke(self, opened: float, now: float) -> None:
        """A stream that had been opened then was cut off now: by the line, not by a word of the other side."""
        self._breaks = self._breaks + 1 if now - opened < SOON else 0
        if self._breaks >= BREAKS:
            self._trips_until = now + AGAIN_AFTER

    def stood(self) -> None:
        """A stream ended in another way, so the line carries streams."""
        self._breaks = 0
