"""How a chain lies in files: segments of JSON lines, rotated by size, the oldest dropped when somebody else keeps its head.

Owns the names of segments, what is cut after a crash, when a segment is full, and what may be dropped; the chain goes on over
all of it and says so itself. It is a machine: entries in, file commands out. It never touches a file; the programs perform
its commands, in order, each synced before the next.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby
from typing import NamedTuple

import msgspec

from muster_core.audit.actions import MAX_NAME_BYTES, clip
from muster_core.audit.chain import MAX_LINE_BYTES, START, Entry, Head, append, decode, encode, follows
from muster_core.errors import ValidationError

SEGMENT_BYTES = 4 << 20
TOTAL_BYTES = 64 << 20
HARD_FACTOR = 2
MAX_PENDING = 10_000
BROKEN = "audit.broken"
_NAME = re.compile(r"^audit-([0-9]{16})\.jsonl$")


class Write(msgspec.Struct, frozen=True):
    """Cut ``segment`` (made when it is not there) to ``at`` bytes, write ``data`` there, sync.

    Doing it twice is doing it once.
    """

    segment: str
    at: int
    data: bytes


class Remove(msgspec.Struct, frozen=True):
    """Remove ``segment``, if it is there."""

    segment: str


class Batch(NamedTuple):
    """Commands in their order, and the head that is durable when all are done."""

    commands: tuple[Write | Remove, ...]
    head: Head
    taken: int


class _Segment(msgspec.Struct):
    """``before`` is the head that its first entry follows; None when its first line cannot be read."""

    name: str
    first: int
    size: int
    before: Head | None


class Journal:
    """One writer's chain in one folder.

    ``sizes`` are the files of the folder in bytes, ``read(name, limit)`` the first ``limit`` bytes of one. Opening reads the
    last segment and one line of the others. ``recovered`` is the head that was found. ``MUSTER-V062`` when the folder holds
    another writer's chain.
    """

    def __init__(
        self,
        writer: str,
        sizes: Mapping[str, int],
        read: Callable[[str, int], bytes],
        at: int,
        segment_bytes: int = SEGMENT_BYTES,
        total_bytes: int = TOTAL_BYTES,
    ) -> None:
        self.writer = writer
        self._segment_bytes, self._total_bytes = segment_bytes, total_bytes
        self._pending: list[Write | Remove] = []
        self._segments: list[_Segment] = []
        self._head = self._durable = START
        self._acknowledged = 0
        self.recovered = START
        self._recover(sizes, read, at)

    @property
    def durable(self) -> Head:
        """The newest entry that is on disk: the only head that may be told to others."""
        return self._durable

    @property
    def newest(self) -> Head:
        """The newest entry, on disk or not."""
        return self._head

    @property
    def size(self) -> int:
        """Bytes of all segments."""
        return sum(segment.size for segment in self._segments)

    def segments(self, after: int = 0) -> tuple[str, ...]:
        """Names of those that hold entries after the number ``after``, oldest first."""
        ends = [segment.first - 1 for segment in self._segments[1:]] + [self._head.seq]
        return tuple(segment.name for segment, end in zip(self._segments, ends, strict=False) if end > after)

    def record(
        self,
        at: int,
        action: str,
        *,
        actor: str,
        object: str,  # noqa: A002 - the entry's own word
        result: str = "ok",
        detail: Mapping[str, str] | None = None,
    ) -> Entry:
        """The entry, not yet on disk. Texts are cut to their bounds; empty details are left out.

        ``MUSTER-V060`` for what must not be written, ``MUSTER-V063`` when too much waits for the disk.
        """
        if len(self._pending) >= MAX_PENDING:
            raise ValidationError("V063", "the audit log cannot be written, and what waits is too much")
        return self._add(at, action, actor, object, result, detail or {}, self._segment_bytes)

    def _add(
        self,
        at: int,
        action: str,
        actor: str,
        name: str,
        result: str,
        detail: Mapping[str, str],
        segment_bytes: int,
    ) -> Entry:
        entry = append(
            self._head,
            at=at,
            writer=self.writer,
            actor=clip(actor, MAX_NAME_BYTES),
            action=action,
            object=clip(name, MAX_NAME_BYTES),
            result=result,
            detail={key: clip(value) for key, value in detail.items() if value},
        )
        line = encode(entry)
        if not self._segments or 0 < self._segments[-1].size > segment_bytes - len(line):
            self._segments.append(_Segment(_name(entry.seq), entry.seq, 0, self._head))
        segment = self._segments[-1]
        self._pending.append(Write(segment.name, segment.size, line))
        segment.size += len(line)
        self._head = entry.head
        return entry

    def acknowledge(self, seq: int) -> None:
        """Somebody else durably keeps a head up to ``seq``; a number that is not written yet counts for nothing."""
        if seq <= self._durable.seq:
            self._acknowledged = max(self._acknowledged, seq)

    def take(self, at: int) -> Batch:
        """What the disk lacks. Nothing is forgotten before :meth:`done`: a batch that failed is taken again."""
        self._drop(at)
        return Batch(tuple(_merged(self._pending)), self._head, len(self._pending))

    def done(self, batch: Batch) -> None:
        """All commands of the batch were performed."""
        del self._pending[: batch.taken]
        self._durable = batch.head

    def _drop(self, at: int) -> None:
        """Plans the removal of the oldest segments of a log that is too large, the entry about it first.

        A segment that nobody acknowledged stays until the log has twice its size; then the disk of the site goes first, and
        the entry says so.
        """
        while self.size > self._total_bytes and len(self._segments) > 1 and len(self._pending) < MAX_PENDING:
            oldest, following = self._segments[:2]
            kept_elsewhere = following.first - 1 <= self._acknowledged
            if not kept_elsewhere and self.size <= self._total_bytes * HARD_FACTOR:
                return
            detail = {
                "first": str(oldest.first),
                "last": str(following.first - 1),
                "head": following.before.hash if following.before else "unreadable",
                "bytes": str(oldest.size),
                "acknowledged": "yes" if kept_elsewhere else "no",
            }
            self.record(at, "log-dropped", actor=self.writer, object=oldest.name, detail=detail)
            self._pending.append(Remove(oldest.name))
            self._segments.remove(oldest)

    def _recover(self, sizes: Mapping[str, int], read: Callable[[str, int], bytes], at: int) -> None:
        names = list(ordered(sizes))
        rest = b""
        useless: list[str] = []
        while names:
            name = names.pop()
            data = read(name, sizes[name])
            head, size = _prefix(data, name, self.writer)
            rest = data[size:] + rest
            if head is not None:
                self._head = self.recovered = head
                self._segments = [_described(each, sizes[each], read) for each in (*names, name)]
                self._segments[-1].size = size
                if not rest:
                    self._pending.append(Write(name, size, b""))  # a head counts as durable only when synced
                break
            useless.append(name)
        if rest:
            self._tell_rest(rest, at)
        used = {segment.name for segment in self._segments}
        self._pending += [Remove(name) for name in useless if name not in used]

    def _tell_rest(self, rest: bytes, at: int) -> None:
        """A line without an end is a write that was cut short. Anything else was changed: it is set aside, as evidence."""
        torn = b"\n" not in rest
        if not torn:
            self._pending.append(Write(BROKEN, 0, rest))
        detail = {
            "last": str(self._head.seq),
            "bytes": str(len(rest)),
            "reason": "cut in mid-write" if torn else f"set aside in {BROKEN}",
        }
        segment = self._segments[-1].name if self._segments else _name(1)
        # into this very segment, full or not: the cut and the entry about it are one write
        action = "log-torn" if torn else "log-broken"
        self._add(at, action, self.writer, segment, "ok", detail, sys.maxsize)


def ordered(names: Iterable[str]) -> tuple[str, ...]:
    """The segments among these file names, oldest first."""
    return tuple(sorted(name for name in names if _NAME.match(name)))


def _name(first: int) -> str:
    return f"audit-{first:016d}.jsonl"


def _described(name: str, size: int, read: Callable[[str, int], bytes]) -> _Segment:
    first = int(name[6:22])
    line, newline, _ = read(name, MAX_LINE_BYTES).partition(b"\n")
    try:
        entry = decode(line + newline)
    except ValidationError:
        return _Segment(name, first, size, None)  # a verification names it; nothing here depends on it
    return _Segment(name, first, size, Head(entry.seq - 1, entry.prev))


def _prefix(data: bytes, name: str, writer: str) -> tuple[Head | None, int]:
    """The head of the entries at the beginning of a segment that hold, and their bytes."""
    head: Head | None = None
    size = 0
    for line in data.splitlines(keepends=True):
        try:
            entry = decode(line)
        except ValidationError:
            break
        if head is None and entry.seq != int(name[6:22]):
            break
        if follows(entry, head or Head(entry.seq - 1, entry.prev)):
            break
        if entry.writer != writer:
            raise ValidationError(
                "V062",
                f"this folder holds the audit log of {entry.writer}",
                object=name,
                hint="Every cluster and every coordinator needs a folder of its own.",
            )
        head, size = entry.head, size + len(line)
    return head, size


def _merged(commands: list[Write | Remove]) -> Iterator[Write | Remove]:
    """The same effect in fewer commands: writes that touch become one."""
    for segment, run in groupby(commands, lambda command: isinstance(command, Write) and command.segment):
        if not segment:
            yield from run
            continue
        writes = [command for command in run if isinstance(command, Write)]
        yield Write(str(segment), writes[0].at, b"".join(write.data for write in writes))
