"""Freezes: clusters that are offered nothing until a time, because a person said so.

Owns their log (the stream ``freezes``) and the question whether a cluster is frozen. A freeze ends by itself; what runs when
it begins is not touched. Pure: it never reads a clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
from muster_core.errors import RolloutError
from muster_core.kinds.base import Selector
from muster_core.names import RULE, is_name
from muster_core.select import matches, parse_selector
from muster_core.times import format_time

STREAM = "freezes"
LONGEST = 366 * 86400.0
MOST = 1000
MAX_TEXT = 1000


class FreezeEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    at: float
    name: str
    by: str


class FreezeCreated(FreezeEvent, frozen=True, kw_only=True, tag="created"):
    """``selector`` as it was written, over all labels of clusters; empty: every cluster. ``bundle`` empty: every bundle."""

    until: float
    selector: str
    bundle: str = ""
    reason: str = ""


class FreezeDeleted(FreezeEvent, frozen=True, kw_only=True, tag="deleted"): ...


AnyFreezeEvent = FreezeCreated | FreezeDeleted
_DECODER = msgspec.json.Decoder(AnyFreezeEvent)


def encode(event: FreezeEvent) -> bytes:
    return msgspec.json.encode(event)


def decode(data: bytes) -> AnyFreezeEvent:
    """``msgspec.DecodeError`` for what is no event of this log."""
    event: AnyFreezeEvent = _DECODER.decode(data)
    return event


@dataclass(slots=True)
class Freeze:
    """One that was not deleted; past ``created.until`` it means nothing any more."""

    created: FreezeCreated
    selector: Selector

    def covers(self, bundle: str, labels: Mapping[str, str]) -> bool:
        return self.created.bundle in ("", bundle) and matches(self.selector, labels)

    @property
    def why(self) -> str:
        reason = f": {self.created.reason}" if self.created.reason else ""
        return f"frozen by {self.created.name} until {format_time(self.created.until)}{reason}"


@dataclass(slots=True)
class Freezes:
    """All that were not deleted, by name; those that are over are dropped when :meth:`expire` is asked."""

    _all: dict[str, Freeze] = field(default_factory=dict)

    def create(self, wanted: FreezeCreated) -> FreezeCreated:
        """Checked, not applied. ``MUSTER-R082`` for a name that is taken, ``R084`` for what is no freeze."""
        name = wanted.name
        if not is_name(name):
            raise RolloutError("R084", "this is no name of a freeze", object=name[:80], hint=f"Write {RULE}.")
        if (known := self.get(name, wanted.at)) is not None:
            standing = known.created
            raise RolloutError(
                "R082",
                f"there is a freeze of this name until {format_time(standing.until)}, made by {standing.by}",
                object=name,
                hint=f"Delete it first: muster freeze delete {name}.",
            )
        if not wanted.at < wanted.until <= wanted.at + LONGEST:
            raise RolloutError(
                "R084",
                "a freeze ends within a year from now",
                object=format_time(max(0.0, min(wanted.until, 1e11))),
                hint="Pass --until with a time like 2027-01-02T06:00:00Z, or a duration like 8h.",
            )
        if max(map(len, (wanted.selector, wanted.reason))) > MAX_TEXT:
            raise RolloutError("R084", f"its texts are longer than {MAX_TEXT} characters", object=name)
        if len(self.standing(wanted.at)) >= MOST:
            raise RolloutError("R084", f"there are {MOST} freezes already", object=name)
        parse_selector(wanted.selector)
        return wanted

    def apply(self, event: AnyFreezeEvent) -> None:
        """One event, live or replayed."""
        if isinstance(event, FreezeDeleted):
            self._all.pop(event.name, None)
        else:
            self._all[event.name] = Freeze(event, parse_selector(event.selector))

    def get(self, name: str, now: float) -> Freeze | None:
        freeze = self._all.get(name)
        return freeze if freeze and freeze.created.until > now else None

    def standing(self, now: float) -> list[Freeze]:
        """By the time of their end."""
        found = [freeze for freeze in self._all.values() if freeze.created.until > now]
        return sorted(found, key=lambda freeze: (freeze.created.until, freeze.created.name))

    def why(self, bundle: str, labels: Mapping[str, str], now: float) -> str:
        """The freeze that holds this cluster the longest, in words; empty when none does."""
        found = [freeze for freeze in self.standing(now) if freeze.covers(bundle, labels)]
        return found[-1].why if found else ""

    def expire(self, now: float) -> bool:
        """Drops those that are over; whether there were any."""
        over = [name for name, freeze in self._all.items() if freeze.created.until <= now]
        for name in over:
            del self._all[name]
        return bool(over)

    def next_end(self) -> float | None:
        return min((freeze.created.until for freeze in self._all.values()), default=None)
