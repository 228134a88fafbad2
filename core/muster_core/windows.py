"""When something may happen: a cron expression that opens, how long it stays open, and the time zone that is meant.

Owns the rules of daylight saving time, which are Debian cron's. Where minute and hour are both named, an opening at a
local time that a clock skips is at the moment of the jump, and one at a local time that comes twice is at the first of
them. Where one of the two starts with ``*``, it opens by what the clock shows: never at a time that is skipped, and
again at one that comes again. How long it stays open is real time. Overlapping openings are one. It never reads a
clock: whoever asks says when.

Cron expressions are matched on local times without a zone, and what those are in real time is decided here: from
within a zone, ``cronsim`` takes a midnight that is skipped for one that is there, and loses times that follow a jump.
"""

from __future__ import annotations

import datetime as dt
import math
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
        minute, hour, *_ = self.cron.split()
        by_the_clock = minute.startswith("*") or hour.startswith("*")
        ask = _shown if by_the_clock else _named
        return ask(self.cron, _zone(self.zone), math.floor(after))


def _named(cron: str, zone: dt.tzinfo, after: int) -> Iterator[float]:
    """The first time that each local time is there, or the jump over it; many that one jump skips are one opening."""
    previous = after
    for wall in CronSim(cron, _wall(after, _offset(zone, after))):
        # A local time that is skipped is before the jump with the later offset, and after it with the earlier one.
        first, other = (round(wall.replace(tzinfo=zone, fold=fold).timestamp()) for fold in (0, 1))
        opening = (_change(zone, other, first) or first) if other < first else first
        if opening > previous:
            previous = opening
            yield float(opening)


def _shown(cron: str, zone: dt.tzinfo, after: int) -> Iterator[float]:
    """Every time that the clock shows such a local time, from one change of the clock to the next."""
    since, wall = after, _wall(after, _offset(zone, after))
    while True:
        offset = _offset(zone, since)
        change: int | None = None
        for shown in CronSim(cron, wall):
            opening = round(shown.replace(tzinfo=dt.UTC).timestamp()) - offset
            change = _change(zone, since, opening)
            if change is not None:
                break
            since = opening
            yield float(opening)
        if change is None:
            return
        since, wall = change, _wall(change - 1, _offset(zone, change))  # what it shows at the change counts


def _wall(at: int, offset: int) -> dt.datetime:
    """What a clock shows that is ``offset`` seconds ahead of UTC, without its zone."""
    return dt.datetime.fromtimestamp(at + offset, dt.UTC).replace(tzinfo=None)


def _offset(zone: dt.tzinfo, at: int) -> int:
    return round((dt.datetime.fromtimestamp(at, zone).utcoffset() or dt.timedelta()).total_seconds())


def _change(zone: dt.tzinfo, since: int, until: int) -> int | None:
    """The first second in ``since`` (not it) to ``until`` with another offset; no two changes are within a day."""
    offset = _offset(zone, since)
    while since < until:
        step = min(since + 86_400, until)
        if _offset(zone, step) != offset:
            while step - since > 1:
                middle = (since + step) // 2
                since, step = (middle, step) if _offset(zone, middle) == offset else (since, middle)
            return step
        since = step
    return None


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
