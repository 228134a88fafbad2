"""An append-only chain of entries, one chain per writer: each names the hash of the one before it.

Owns the entry, its hash, its line of JSON, and the verdict on a list of entries. Whoever keeps a head (number and hash of the
newest entry) can tell later that the chain up to it was not changed. It never reads a file or a clock, and never decides what
may be written (``actions``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import msgspec

from muster_core.audit.actions import check
from muster_core.errors import ValidationError
from muster_core.pae import pae, u64

DOMAIN = b"muster.audit.entry.v1"
NOTHING = "0" * 64
MAX_LINE_BYTES = 65_536


class Head(NamedTuple):
    """The newest entry: its number (0: none yet) and its hash in hex."""

    seq: int
    hash: str


START = Head(0, NOTHING)


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``at`` in milliseconds since 1970; ``prev`` and ``hash`` in hex. Keys of ``detail`` are sorted when written."""

    seq: int
    at: int
    writer: str
    actor: str
    action: str
    object: str
    result: str
    detail: dict[str, str]
    prev: str
    hash: str

    @property
    def head(self) -> Head:
        return Head(self.seq, self.hash)


class Verdict(msgspec.Struct, frozen=True):
    """``broken_seq`` is the first number that does not hold (None: all hold), ``code`` one word for why.

    Codes: ``writer`` (entries of two writers), ``edited``, ``gap``, ``reordered``, ``link`` (does not follow the entry
    before it), ``beginning`` (older entries are missing without a word), ``forked`` (another entry than the known one has
    this number), ``truncated`` (a known entry is missing at the end), ``forbidden`` (says what ``actions`` does not allow),
    ``unreadable`` (a line that is no entry).
    """

    head: Head
    count: int
    broken_seq: int | None = None
    code: str = ""
    reason: str = ""

    @property
    def holds(self) -> bool:
        return self.broken_seq is None


def digest(entry: Entry) -> str:
    """SHA-256 in hex over the entry's fields but ``hash``, in an encoding that has one meaning."""
    detail = [part.encode() for key in sorted(entry.detail) for part in (key, entry.detail[key])]
    return hashlib.sha256(
        pae(
            DOMAIN,
            u64(entry.seq),
            u64(entry.at),
            entry.writer.encode(),
            entry.actor.encode(),
            entry.action.encode(),
            entry.object.encode(),
            entry.result.encode(),
            pae(*detail),
            entry.prev.encode(),
        )
    ).hexdigest()


def append(
    head: Head,
    *,
    at: int,
    writer: str,
    actor: str,
    action: str,
    object: str,  # noqa: A002 - the entry's own word
    result: str = "ok",
    detail: Mapping[str, str] | None = None,
) -> Entry:
    """The entry after ``head``; ``MUSTER-V060`` for what must not be written."""
    given = dict(sorted((detail or {}).items()))
    check(action, result, (writer, actor, object), given)
    entry = Entry(head.seq + 1, at, writer, actor, action, object, result, given, head.hash, "")
    return msgspec.structs.replace(entry, hash=digest(entry))


def encode(entry: Entry) -> bytes:
    """One line of JSON with its newline."""
    return msgspec.json.encode(entry, order="deterministic") + b"\n"


def decode(line: bytes) -> Entry:
    """The strict inverse of :func:`encode`; ``MUSTER-V061`` for anything that it would not have written."""
    if len(line) > MAX_LINE_BYTES:
        raise ValidationError("V061", "this is no line of an audit log: it is too long")
    try:
        entry = msgspec.json.decode(line, type=Entry)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValidationError("V061", f"this is no line of an audit log: {error}") from error
    if encode(entry) != line:
        raise ValidationError("V061", "this is no line of an audit log: it is not as it was written")
    if not 0 < entry.seq < 2**63 or not 0 <= entry.at < 2**63:
        raise ValidationError("V061", "this is no line of an audit log: a number is out of range")
    return entry


def follows(entry: Entry, before: Head) -> tuple[str, str] | None:
    """Why ``entry`` is not the one after ``before`` (a code and a sentence), or None."""
    if entry.seq > before.seq + 1:
        return "gap", f"entry {before.seq + 1} is missing: {entry.seq} follows {before.seq}"
    if entry.seq <= before.seq:
        return "reordered", f"entry {entry.seq} comes after {before.seq}"
    if entry.hash != digest(entry):
        return "edited", f"entry {entry.seq} was changed: its hash does not hold"
    if entry.prev != before.hash:
        return "link", f"entry {entry.seq} does not follow the entry {before.seq} that is here"
    return None


def verify(
    entries: Iterable[Entry],
    *,
    expected_head: Head | None = None,
    known_heads: Iterable[Head] = (),
    after: Head | None = None,
) -> Verdict:
    """Whether these are all entries of one writer, in order and unchanged.

    ``expected_head`` must be the last entry exactly. Every one of ``known_heads`` (told in reports, or signed into a
    checkpoint) must be among the entries, unless it is older than the first of them. ``after`` says that the list is an
    excerpt that starts behind this head; without it a list that does not start at entry 1 must say itself, by
    ``log-dropped``, what was dropped.
    """
    known: dict[int, str] = {}
    for head in known_heads:
        if known.setdefault(head.seq, head.hash) != head.hash:
            return Verdict(START, 0, head.seq, "forked", f"two known heads have the number {head.seq}")
    before = after or START
    first: Entry | None = None
    explained = after is not None
    count = 0
    for entry in entries:
        if first is None:
            first = entry
            if after is None and entry.seq > 1:
                before = Head(entry.seq - 1, entry.prev)
        problem = _problem(entry, before, first.writer, known)
        if problem:
            return Verdict(before, count, entry.seq, *problem)
        if entry.action == "log-dropped":
            detail = entry.detail
            explained |= (detail.get("last"), detail.get("head")) == (str(first.seq - 1), first.prev)
        before, count = entry.head, count + 1
    if first is not None and first.seq > 1 and not explained:
        return Verdict(
            before,
            count,
            first.seq,
            "beginning",
            f"the entries before {first.seq} are missing without a word",
        )
    return _ending(before, count, expected_head, known)


def verify_lines(
    lines: Iterable[bytes],
    *,
    expected_head: Head | None = None,
    known_heads: Iterable[Head] = (),
    after: Head | None = None,
) -> Verdict:
    """As :func:`verify`, for lines as they are stored or exported; ``unreadable`` names the first that is none."""
    bad: list[str] = []

    def readable() -> Iterator[Entry]:
        for line in lines:
            try:
                yield decode(line)
            except ValidationError as error:
                bad.append(error.message)
                return

    verdict = verify(readable(), expected_head=expected_head, known_heads=known_heads, after=after)
    if bad and (verdict.holds or verdict.code in ("truncated", "beginning")):
        return Verdict(verdict.head, verdict.count, verdict.head.seq + 1, "unreadable", bad[0])
    return verdict


def _problem(entry: Entry, before: Head, writer: str, known: Mapping[int, str]) -> tuple[str, str] | None:
    if entry.writer != writer:
        return "writer", f"entry {entry.seq} is of {entry.writer}, the first is of {writer}"
    if problem := follows(entry, before):
        return problem
    try:
        check(entry.action, entry.result, (entry.writer, entry.actor, entry.object), entry.detail)
    except ValidationError as error:
        return "forbidden", f"entry {entry.seq} says what must not be written: {error.object}"
    if known.get(entry.seq, entry.hash) != entry.hash:
        return "forked", f"entry {entry.seq} is not the one that is known from elsewhere"
    if known.get(before.seq, before.hash) != before.hash:
        return "forked", f"what entry {entry.seq} follows is not what is known from elsewhere"
    return None


def _ending(before: Head, count: int, expected: Head | None, known: Mapping[int, str]) -> Verdict:
    newest = max(known, default=0)
    if expected is not None and expected.seq > newest:
        newest = expected.seq
    if newest > before.seq:
        reason = f"entries up to {newest} are known from elsewhere; the last one here is {before.seq}"
        return Verdict(before, count, before.seq + 1, "truncated", reason)
    if expected is not None and expected != before:
        reason = f"the last entry here is {before.seq}, expected is {expected.seq}"
        return Verdict(before, count, min(expected.seq + 1, before.seq), "forked", reason)
    return Verdict(before, count)
