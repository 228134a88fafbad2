"""The opening hours of one wave, in each of its members' time zones.

Owns the answer to "where may offers go out now", kept until the next opening or closing, so that asking costs nothing
between. It never reads a clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from muster_core.rollout.plan import ResolvedWave
from muster_core.windows import Window

SITE = "site"
EVERYWHERE = ""


class Hours:
    """Zones as the line of the wave has them: the empty one where a window is not each site's own."""

    def __init__(self, spec: ResolvedWave) -> None:
        self._windows: dict[str, Window] = {}
        if spec.window:
            cron, duration, zone = spec.window.cron, spec.window.duration, spec.window.zone
            zones = {zone: EVERYWHERE} if zone != SITE else {name: name for name in spec.zones.values()}
            self._windows = {key: Window(cron, duration, name) for name, key in zones.items()}
        self.always = not self._windows
        self._since, self._until = math.inf, -math.inf
        self.changes: dict[str, float] = {}  # when each zone opens or closes next
        self.open: frozenset[str] = frozenset({EVERYWHERE}) if not self._windows else frozenset()

    @property
    def until(self) -> float | None:
        """The next opening or closing, after the time that was looked at last; None without a window."""
        return self._until if self._windows else None

    def look(self, now: float) -> bool:
        """Brings :attr:`open` up to date; whether an opening or a closing was passed."""
        if not self._windows or self._since <= now < self._until:
            return False
        is_open = {zone: window.is_open(now) for zone, window in self._windows.items()}
        self.open = frozenset(zone for zone, opened in is_open.items() if opened)
        self.changes = {
            zone: window.closes_at(now) if is_open[zone] else window.opens_at(now)
            for zone, window in self._windows.items()
        }
        self._since, self._until = now, min(self.changes.values())
        return True

    def opens_at(self, zones: Iterable[str]) -> float:
        """The earliest opening of zones that are closed, as looked at last."""
        return min((self.changes[zone] for zone in zones if zone not in self.open), default=math.inf)
