"""What a rollout's log leads to, in a form that is read faster than the log is replayed.

Owns the form: columns over the targets in the plan's order, packed, with a hash over all. A snapshot is a cache of the log
up to one event and never more: what is of another start, log, program or shape, or damaged, is refused, and the log is
replayed. The tables below name every field of the state: kept, or made anew. Knowledge of the moment (who is in contact, who
is held, the allowance, what gates measured, what hours say) is never in it.
"""

from __future__ import annotations

import hashlib
import math
import struct
import sys
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from muster_core.rollout import events as ev
from muster_core.rollout.board import Board, Target, WaveBoard
from muster_core.rollout.gates import GateState, PhaseGates
from muster_core.rollout.line import Order
from muster_core.rollout.machine import RolloutMachine
from muster_core.rollout.run import Run

FORMAT = 1
HASH = 16  # bytes

# Kinds of a target's column: ``word`` is one of few texts, ``number`` a float or None, ``flag`` a bool, ``rare`` a value that
# most targets have alike.
TARGET = {
    "state": "word",
    "attempt": "rare",
    "since": "number",
    "deadline": "number",
    "stopped": "number",
    "was_offered": "flag",
    "code": "rare",
    "message": "rare",
    "flaps": "rare",
    "soak_left": "number",
    "soak_broken": "flag",
}
# The same fields, read from many targets: in words, since by name it takes half as long again, and the loop waits for it.
READ: Mapping[str, Callable[[list[Target]], list[Any]]] = {
    "state": lambda targets: [target.state for target in targets],
    "attempt": lambda targets: [target.attempt for target in targets],
    "since": lambda targets: [target.since for target in targets],
    "deadline": lambda targets: [target.deadline for target in targets],
    "stopped": lambda targets: [target.stopped for target in targets],
    "was_offered": lambda targets: [target.was_offered for target in targets],
    "code": lambda targets: [target.code for target in targets],
    "message": lambda targets: [target.message for target in targets],
    "flaps": lambda targets: [target.flaps for target in targets],
    "soak_left": lambda targets: [target.soak_left for target in targets],
    "soak_broken": lambda targets: [target.soak_broken for target in targets],
}
# Kinds of a wave's field: ``plain`` is kept as it is, ``members`` are clusters in their order.
WAVE = {
    "states": "plain",
    "last_group": "plain",
    "gone": "plain",
    "quorum": "plain",
    "passed": "plain",
    "promoted": "plain",
    "flying": "members",
    "harmed": "members",
    "deferred": "members",
    "carried": "members",
    "line": "line",
    "gates": "gates",
}
RUN = ("state", "why", "wave", "stopping", "stopping_wave", "expired", "paused_by", "ended_at")
BOARD = ("harms", "_stopped")
PHASE = ("began", "left")
GATE = ("passed", "failed", "approvals", "deadline", "left", "since")
# Made anew: from the start and its plan, from what is kept, or told again.
DERIVED: Mapping[type, frozenset[str]] = {
    Target: frozenset({"cluster", "wave", "alarm"}),
    WaveBoard: frozenset({"spec", "hours"}),
    Run: frozenset(
        {"started", "plan", "expires_at", "board", "waves", "targets", "opened", "with_hours", "unspent_at"}
        | {"online", "allowance"}
    ),
    Board: frozenset({"waves", "targets", "_timers", "_winding", "_deadline", "_not_before"}),
    PhaseGates: frozenset({"gates"}),
    GateState: frozenset({"spec", "in_a_row", "detail"}),
}
SHAPE = hashlib.sha256(
    repr((FORMAT, sys.byteorder, TARGET, WAVE, RUN, BOARD, PHASE, GATE)).encode()
).digest()[:HASH]


class UnusableError(ValueError):
    """Why a snapshot cannot stand for its log."""


class Place(NamedTuple):
    """Which log, and how much of it: the number of the last event that counts, and hashes (:func:`digest`) of the stored
    start and of that event. ``program`` is the version of what wrote it.
    """

    program: str
    start: bytes
    position: int
    last: bytes


class _Whole(msgspec.Struct, array_like=True, frozen=True):
    place: Place
    run: dict[str, Any]
    board: dict[str, Any]
    targets: dict[str, Any]
    waves: list[dict[str, Any]]


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(_Whole)


def digest(stored: bytes | memoryview) -> bytes:
    """Of one event as the log has it."""
    return hashlib.sha256(stored).digest()[:HASH]


# --- taking --------------------------------------------------------------------------------------


def take(machine: RolloutMachine, place: Place) -> bytes:
    """The machine after the event at ``place``. O(members), with little for each.

    ``ValueError`` while the machine is ahead of every log (:attr:`RolloutMachine.has_unsaid`).
    """
    if machine.has_unsaid:
        raise ValueError("what time brought is applied and not said yet")
    board = machine.board
    targets = list(board.targets.values())
    body = _ENCODER.encode(
        _Whole(
            place,
            _plain(machine.run, RUN),
            _plain(board, BOARD),
            {name: _TAKEN[kind](READ[name](targets)) for name, kind in TARGET.items()},
            [_wave(wave) for wave in board.waves],
        )
    )
    return SHAPE + digest(body) + body


def _plain(of: object, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(of, name) for name in names}


def _wave(wave: WaveBoard) -> dict[str, Any]:
    numbers = wave.line.numbers
    return {
        "line": wave.line.order(),
        "gates": [
            [_plain(phase, PHASE), [_plain(gate, GATE) for gate in phase.gates]]
            for phase in (wave.gates.before, wave.gates.after)
        ],
        **{
            name: array("I", map(numbers.__getitem__, getattr(wave, name))).tobytes()
            if kind == "members"
            else getattr(wave, name)
            for name, kind in WAVE.items()
            if kind in {"plain", "members"}
        },
    }


def _words(values: list[str]) -> Any:
    words = list(dict.fromkeys(values))
    codes = {word: code for code, word in enumerate(words)}
    return [words, bytes(map(codes.__getitem__, values))]


def _numbers(values: list[float | None]) -> Any:
    unset = values.count(None)
    if unset == len(values):
        return None
    set_ones = [math.nan if value is None else value for value in values] if unset else values
    return struct.pack(f"{len(set_ones)}d", *set_ones)


def _rare(values: list[Any]) -> Any:
    usual = values[0] if values else None
    if values.count(usual) == len(values):
        return [usual, b"", []]
    unlike = [number for number, value in enumerate(values) if value != usual]
    return [usual, array("I", unlike).tobytes(), [values[number] for number in unlike]]


_TAKEN: Mapping[str, Callable[[list[Any]], Any]] = {
    "word": _words,
    "number": _numbers,
    "flag": bytes,
    "rare": _rare,
}


# --- restoring -----------------------------------------------------------------------------------


def place_of(data: bytes) -> Place:
    """Of what log it is, once it is whole; :class:`UnusableError` when it is damaged or of another shape."""
    return _whole(data).place


def _whole(data: bytes) -> _Whole:
    shape, seal, body = data[:HASH], data[HASH : 2 * HASH], memoryview(data)[2 * HASH :]
    if shape != SHAPE:
        raise UnusableError("it is of another form")
    if seal != digest(body):
        raise UnusableError("it is damaged")
    try:
        return _DECODER.decode(body)
    except msgspec.MsgspecError as error:
        raise UnusableError("it is damaged") from error


def restore(started: ev.Started, data: bytes, after: Iterable[ev.AnyEvent] = ()) -> RolloutMachine:
    """The machine that replaying the log up to the snapshot and then ``after`` gives.

    ``UnusableError`` when the snapshot is no whole one, or its plan has another number of members.
    """
    whole, machine = _whole(data), RolloutMachine(started)
    run, board = machine.run, machine.board
    with board.replaying():
        _put(run, whole.run)
        _put(board, whole.board)
        targets = list(board.targets.values())
        for name, kind in TARGET.items():
            _fill(targets, name, kind, whole.targets[name])
        if len(whole.waves) != len(board.waves):
            raise UnusableError("it has another number of waves")
        for wave, found in zip(board.waves, whole.waves, strict=True):
            _fill_wave(wave, found)
            members, at = wave.spec.members, board.targets
            waiting = [name for name in members if at[name].state == "waiting" and name not in wave.carried]
            wave.line.put_all(Order(*found["line"]), members, waiting)
        run.see_opened()
        for event in after:
            run.apply(event)
    return machine


def _put(into: object, found: Mapping[str, Any]) -> None:
    for name, value in found.items():
        setattr(into, name, value)


def _fill(targets: list[Target], name: str, kind: str, found: Any) -> None:
    """One field of every target. Through the slot itself: ``setattr`` takes twice as long."""
    put = getattr(Target, name).__set__
    if kind == "rare":
        usual, places, values = found
        _each(put, targets, [usual] * len(targets))
        for number, value in zip(_unpacked("I", places), values, strict=True):
            put(targets[number], value)
        return
    column: Sequence[Any]
    match kind:
        case "word":
            words = [sys.intern(word) for word in found[0]]
            column = [words[code] for code in found[1]]
        case "number":
            column = _numbers_of(found) if found else [None] * len(targets)
        case _:
            column = [flag == 1 for flag in found]
    if len(column) != len(targets):
        raise UnusableError("it has another number of members")
    _each(put, targets, column)


def _each(put: Callable[[Target, Any], None], targets: list[Target], values: Sequence[Any]) -> None:
    deque(map(put, targets, values), maxlen=0)


def _numbers_of(found: bytes) -> list[float | None]:
    return [None if math.isnan(value) else value for value in _unpacked("d", found)]


def _unpacked(kind: str, found: bytes) -> list[Any]:
    return array(kind, found).tolist()


def _fill_wave(wave: WaveBoard, found: Mapping[str, Any]) -> None:
    members = wave.spec.members
    for name, kind in WAVE.items():
        if kind == "plain":
            setattr(wave, name, found[name])
        elif kind == "members":
            setattr(wave, name, dict.fromkeys([members[number] for number in _unpacked("I", found[name])]))
    for phase, (whole, gates) in zip((wave.gates.before, wave.gates.after), found["gates"], strict=True):
        _put(phase, whole)
        for gate, values in zip(phase.gates, gates, strict=True):
            _put(gate, values)
