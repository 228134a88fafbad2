"""The newest audit head of every agent, as told by the agent itself, and the alarm when one goes back.

Owns the comparison: a chain only grows, so a lower number is a restored or lost volume, and another hash at the same number
is a second history (a clone, or a rewritten log). It keeps the highest head until an operator acknowledges: what raised the
alarm does not overwrite the evidence. It never reads or writes a store: it is built from rows and hands out what changed.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from muster_core.audit.chain import Head


class HeadRow(msgspec.Struct, frozen=True):
    """``told_*`` is the head that raised the alarm that is open, 0 and empty when none is."""

    writer: str
    seq: int
    hash: str
    told_seq: int = 0
    told_hash: str = ""

    @property
    def head(self) -> Head:
        return Head(self.seq, self.hash)

    @property
    def alarmed(self) -> bool:
        return bool(self.told_hash)


class Alarm(msgspec.Struct, frozen=True):
    """``code`` is ``MUSTER-T090`` (the log went back) or ``MUSTER-T091`` (another history)."""

    writer: str
    code: str
    known: Head
    told: Head

    @property
    def message(self) -> str:
        what = "went back to" if self.code.endswith("T090") else "has another entry at"
        return (
            f"{self.code} the audit log of {self.writer} {what} {self.told.seq}; {self.known.seq} was told before. "
            "Was an old volume restored, or is a second agent running?"
        )

    @property
    def detail(self) -> dict[str, str]:
        """What the coordinator's own log says about it (action ``head-alarm``)."""
        return {
            "code": self.code,
            "known": str(self.known.seq),
            "told": str(self.told.seq),
            "known_hash": self.known.hash,
            "told_hash": self.told.hash,
        }


class AgentHeads:
    """Built from the rows of the store. Memory only: ``changed`` gives the rows to write with the next batch."""

    def __init__(self, rows: Iterable[HeadRow] = ()) -> None:
        self._rows = {row.writer: row for row in rows}
        self._changed: dict[str, HeadRow] = {}

    def told(self, writer: str, head: Head) -> Alarm | None:
        """What an agent says now, on a line that keeps order (hello, beat); an alarm the first time that it does not fit.

        Never for what was written down earlier and sent again: an older head in it is no news.
        """
        row = self._rows.get(writer)
        if row is None or (head.seq > row.seq and not row.alarmed):
            if head.seq:
                self._put(HeadRow(writer, *head))
            return None
        if head == row.head or (head.seq, head.hash) == (row.told_seq, row.told_hash):
            return None
        if row.alarmed:
            return self._follow(row, head)
        self._put(HeadRow(writer, row.seq, row.hash, *head))
        return Alarm(writer, "MUSTER-T090" if head.seq < row.seq else "MUSTER-T091", row.head, head)

    def _follow(self, row: HeadRow, head: Head) -> Alarm | None:
        """While an alarm is open the chain that raised it may grow; only a further step back is a further alarm."""
        self._put(HeadRow(row.writer, row.seq, row.hash, *head))
        if head.seq > row.told_seq:
            return None
        code = "MUSTER-T090" if head.seq < row.told_seq else "MUSTER-T091"
        return Alarm(row.writer, code, Head(row.told_seq, row.told_hash), head)

    def acknowledge(self, writer: str) -> HeadRow | None:
        """An operator knows why: the chain that raised the alarm is the known one from now on.

        The row as it was, or None when no alarm is open.
        """
        row = self._rows.get(writer)
        if row is None or not row.alarmed:
            return None
        self._put(HeadRow(writer, row.told_seq, row.told_hash))
        return row

    def known(self, writer: str) -> Head | None:
        row = self._rows.get(writer)
        return row.head if row else None

    def alarm(self, writer: str) -> Alarm | None:
        """The alarm that is open for this writer."""
        row = self._rows.get(writer)
        if row is None or not row.alarmed:
            return None
        told = Head(row.told_seq, row.told_hash)
        return Alarm(writer, "MUSTER-T090" if told.seq < row.seq else "MUSTER-T091", row.head, told)

    @property
    def alarms(self) -> list[HeadRow]:
        """The rows whose alarm is open, by writer."""
        return sorted((row for row in self._rows.values() if row.alarmed), key=lambda row: row.writer)

    @property
    def all(self) -> list[HeadRow]:
        """Every row, by writer: what a checkpoint signs."""
        return sorted(self._rows.values(), key=lambda row: row.writer)

    def changed(self) -> dict[str, HeadRow]:
        """Rows that changed since the last call; what could not be committed is given back with :meth:`again`."""
        changed, self._changed = self._changed, {}
        return changed

    def again(self, rows: dict[str, HeadRow]) -> None:
        self._changed = rows | self._changed

    def _put(self, row: HeadRow) -> None:
        self._rows[row.writer] = self._changed[row.writer] = row
