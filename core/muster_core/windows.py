"""When something may happen: a cron expression that opens, how long it stays open, and the time zone that is meant.

Owns the rules of daylight saving time, which are Debian cron's: an opening at a local time that a clock skips is at
the moment of the jump; one at a local time that comes twice is at the first of them. How long it stays open is real
time. Overlapping openings are one. It never reads a clock: whoever asks says when.
"""

from __future__ import annotations

import datetime as dt
import re
import zoneinfo
from collections.abc import Iterator
from functools import lru_cache

import msgspec
from cronsim import CronSim, CronSimError

from muster_core.durations import parse_duration
from muster_core.errors import ValidationError

SHORTEST, LONGEST = 60.0, 366 * 86_400.0
LOOK_AHEAD = 500  # openings that a question for the end of overlapping ones goes through
MAX_TEXT = 100
_ZONE = re.compile(r"[A-Z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*")
_SINCE = dt.datetime(2025, 1, 1, tzinfo=dt.UTC)


class Window(msgspec.Struct, frozen=True):
    """``cron`` has five fields, ``duration`` is seconds, ``zone`` an IANA name; made by :func:`parse_window`."""

    cron: str
    duration: float
    zone: str

    def is_open(self, at: float) -> bool:
        """Whether an opening was in the last ``duration`` seconds; ``at`` is unix seconds, here and below."""
        return self._first(at) <= at

    def opens_at(self, at: float) -> float:
        """``at`` itself while open, else the next opening."""
        return max(at, self._first(at))

    def closes_at(self, at: float) -> float:
        """The end of the time that is open at ``at``, or of the next one; always later than ``at``.

        Where openings overlap without an end, the end of as many as are looked at: ask again then.
        """
        end = 0.0
        for count, opening in enumerate(self._openings(at - self.duration)):
            if count and (opening > end or count > LOOK_AHEAD):
                break
            end = opening + self.duration
        return end

    def _first(self, at: float) -> float:
        """The first opening that does not end before, or at, ``at``."""
        return next(self._openings(at - self.duration))

    def _openings(self, after: float) -> Iterator[float]:
        """Every opening later than ``after``, in order."""
        zone = _zone(self.zone)
        previous = after
        for tick in CronSim(self.cron, dt.datetime.fromtimestamp(after, dt.UTC).astimezone(zone)):
            opening = tick.timestamp()
            if (
                opening > previous
            ):  # of a local time that comes twice, cron names the first, which may be past
                previous = opening
                yield opening


def parse_window(cron: str, duration: str, zone: str) -> Window:
    """A window that can be used: ``V070`` for the cron expression, ``V071`` for the zone, ``V072`` when it never opens,
    ``V073`` for the duration, ``V031`` when that is none."""
    seconds = parse_duration(duration)
    if not SHORTEST <= seconds <= LONGEST:
        raise ValidationError(
            "V073", "a window is open for a minute at least and for 366 days at most", object=duration
        )
    if len(cron) > MAX_TEXT or len(cron.split()) != 5:
        raise _bad_cron(cron, "it has not five fields")
    try:
        _zone(zone)
    except (KeyError, ValueError, OSError) as error:
        raise ValidationError(
            "V071",
            "the time zone is not known",
            object=zone[:MAX_TEXT],
            hint="Write an IANA name like Europe/Berlin, or UTC.",
        ) from error
    try:
        next(CronSim(cron, _SINCE))
    except StopIteration as error:
        raise _never(cron) from error
    except CronSimError as error:
        if _opens_in_no_month(cron):
            raise _never(cron) from error
        raise _bad_cron(cron, str(error)[:1].lower() + str(error)[1:]) from error
    return Window(cron, seconds, zone)


@lru_cache(maxsize=256)
def _zone(name: str) -> zoneinfo.ZoneInfo:
    """Files of a machine that are no time zone of their own (its local time, those with leap seconds) are none here."""
    if len(name) > MAX_TEXT or not _ZONE.fullmatch(name):
        raise ValueError(name)
    return zoneinfo.ZoneInfo(name)


def _opens_in_no_month(cron: str) -> bool:
    """Whether it is only the day that no such month has."""
    minute, hour, _, month, weekday = cron.split()
    try:
        CronSim(" ".join((minute, hour, "1", month, weekday)), _SINCE)
        CronSim(" ".join(("0", "0", cron.split()[2], "1", weekday)), _SINCE)
    except CronSimError:
        return False
    return True


def _never(cron: str) -> ValidationError:
    return ValidationError(
        "V072", "a window with this cron expression never opens", object=cron, hint="No month has such a day."
    )


def _bad_cron(cron: str, why: str) -> ValidationError:
    return ValidationError(
        "V070",
        f"the cron expression of a window cannot be used, {why}",
        object=cron[:MAX_TEXT],
        hint="Write minute, hour, day, month and weekday, like 0 1 * * *.",
    )
