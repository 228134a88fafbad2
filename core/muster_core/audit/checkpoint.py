"""The heads of every writer at one moment, as a file that a registrar signs into the registry branch.

Owns the file's name, its form, and what checkpoints say together about one writer. Whoever restores an old database, or
cuts a log, cannot take back what was signed. It never reads git or a clock.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Mapping

import msgspec

from muster_core.audit.chain import Head
from muster_core.errors import ValidationError

PATH = re.compile(r"audit/([0-9]{8}T[0-9]{6}Z)\.json\Z")
_HASH = re.compile(r"[0-9a-f]{64}\Z")


class Point(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One writer's newest entry."""

    seq: int
    hash: str

    @property
    def head(self) -> Head:
        return Head(self.seq, self.hash)


class Checkpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``at`` as in the file's name. ``alarms`` names writers whose log had gone back and nobody had acknowledged it."""

    format: int
    fleet: str
    at: str
    heads: dict[str, Point]
    alarms: list[str] = []


def stamp(at: float) -> str:
    """Unix seconds as a checkpoint's file says them."""
    return dt.datetime.fromtimestamp(at, dt.UTC).strftime("%Y%m%dT%H%M%SZ")


def path_of(checkpoint: Checkpoint) -> str:
    return f"audit/{checkpoint.at}.json"


def encode(checkpoint: Checkpoint) -> bytes:
    return msgspec.json.format(msgspec.json.encode(checkpoint, order="sorted"), indent=2) + b"\n"


def decode(data: bytes, path: str) -> Checkpoint:
    """``MUSTER-V066`` for a file that is no checkpoint, or not the one that its name says."""
    try:
        found = msgspec.json.decode(data, type=Checkpoint)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValidationError("V066", f"this is no checkpoint ({error})", object=path) from error
    wrong = [writer for writer, point in found.heads.items() if point.seq < 0 or not _HASH.match(point.hash)]
    if found.format != 1 or path_of(found) != path or wrong:
        raise ValidationError("V066", "this is no checkpoint", object=path)
    return found


def known_heads(checkpoints: Iterable[Checkpoint]) -> dict[str, set[Head]]:
    """What was signed of each writer."""
    known: dict[str, set[Head]] = {}
    for checkpoint in checkpoints:
        for writer, point in checkpoint.heads.items():
            if point.seq:
                known.setdefault(writer, set()).add(point.head)
    return known


def gone_back(known: Mapping[str, set[Head]], told: Mapping[str, Head]) -> dict[str, str]:
    """Writers whose head of now does not fit what was signed, with why: a log only grows."""
    found = {}
    for writer, heads in sorted(known.items()):
        newest, now = max(heads), told.get(writer)
        if now is None:
            found[writer] = f"its head is not known any more; entry {newest.seq} was signed"
        elif now.seq < newest.seq:
            found[writer] = f"its newest entry is {now.seq}; entry {newest.seq} was signed"
        elif any(head.seq == now.seq and head.hash != now.hash for head in heads):
            found[writer] = f"its entry {now.seq} is not the one that was signed"
    return found
