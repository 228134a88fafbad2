"""What people are told, and what became of it: the log of notifications.

Owns the notice, its events in the stream ``notify``, and the outbox that they lead to. A notice is written down in the
transaction of what it is about, so a crash forgets none; its id is made of the rollout and the event's number, so nothing is
told twice for the same reason. Pure: it never sends and never reads a clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

STREAM = "notify"
MAX_PENDING = 1000
MAX_TEXT = 500


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """``on`` is the occasion, ``text`` what happened, ``hint`` what to do. Without a rollout there is no commit."""

    id: str
    on: Literal["paused", "failed", "approval", "owed", "frozen"]
    at: float
    rollout: str
    bundle: str
    commit: str
    text: str
    hint: str = ""


class NotifyEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    at: float


class Wanted(NotifyEvent, frozen=True, kw_only=True, tag="wanted"):
    """``to`` are the endpoints that asked for it at that time."""

    notice: Notice
    to: tuple[str, ...]


class Sent(NotifyEvent, frozen=True, kw_only=True, tag="sent"):
    id: str
    to: str


class Dropped(NotifyEvent, frozen=True, kw_only=True, tag="dropped"):
    """Nobody took it for too long, or too many waited before it."""

    id: str
    to: str
    why: str


AnyNotifyEvent = Wanted | Sent | Dropped
_DECODER = msgspec.json.Decoder(AnyNotifyEvent)


def encode(event: NotifyEvent) -> bytes:
    return msgspec.json.encode(event)


def decode(data: bytes) -> AnyNotifyEvent:
    """``msgspec.DecodeError`` for what is no event of this log."""
    event: AnyNotifyEvent = _DECODER.decode(data)
    return event


class Outbox:
    """What waits for whom, the oldest first."""

    def __init__(self) -> None:
        self._waiting: dict[str, dict[str, Notice]] = {}
        self._known: set[str] = set()

    def want(self, notice: Notice, to: Iterable[str], now: float) -> list[AnyNotifyEvent]:
        """Nothing for a notice that was wanted before. Where too many wait, the oldest goes."""
        names = tuple(sorted(to))
        if not names or notice.id in self._known:
            return []
        out: list[AnyNotifyEvent] = []
        self._emit(Wanted(at=now, notice=notice, to=names), out)
        for name in names:
            waiting = self._waiting[name]
            if len(waiting) > MAX_PENDING:
                why = f"more than {MAX_PENDING} wait"
                self._emit(Dropped(at=now, id=next(iter(waiting)), to=name, why=why), out)
        return out

    def sent(self, notice_id: str, to: str, now: float) -> list[AnyNotifyEvent]:
        out: list[AnyNotifyEvent] = []
        if notice_id in self._waiting.get(to, ()):
            self._emit(Sent(at=now, id=notice_id, to=to), out)
        return out

    def drop(self, notice_id: str, to: str, why: str, now: float) -> list[AnyNotifyEvent]:
        out: list[AnyNotifyEvent] = []
        if notice_id in self._waiting.get(to, ()):
            self._emit(Dropped(at=now, id=notice_id, to=to, why=why), out)
        return out

    def next_for(self, endpoint: str) -> Notice | None:
        return next(iter(self._waiting.get(endpoint, {}).values()), None)

    def waiting_for(self, endpoint: str) -> int:
        return len(self._waiting.get(endpoint, ()))

    def wanted(self, notice_id: str) -> bool:
        return notice_id in self._known

    def _emit(self, event: AnyNotifyEvent, out: list[AnyNotifyEvent]) -> None:
        self.apply(event)
        out.append(event)

    def apply(self, event: AnyNotifyEvent) -> None:
        """One event, live or replayed."""
        match event:
            case Wanted():
                self._known.add(event.notice.id)
                for name in event.to:
                    self._waiting.setdefault(name, {})[event.notice.id] = event.notice
            case Sent() | Dropped():
                self._waiting.get(event.to, {}).pop(event.id, None)


def one_line(text: str) -> str:
    """What somebody else wrote, bounded, without what a terminal or a chat could take for more than text."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * MAX_TEXT]).split())
    return line if len(line) <= MAX_TEXT else line[: MAX_TEXT - 1] + "…"
