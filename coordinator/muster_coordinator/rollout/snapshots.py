"""When a running rollout's snapshot is written, and which of those that are stored can stand for their logs at a start.

Owns the pace: often enough that a start replays few events, so seldom that an event pays less than a microsecond for it. A
snapshot goes into the transaction of the event that it ends with, so it is never ahead of the log. One that cannot be used is
said once, and the log replayed: nothing is ever decided by it that the log does not say.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import version

import msgspec
import structlog
from muster_core.rollout import events as ev
from muster_core.rollout import snapshot
from muster_core.rollout.machine import RolloutMachine

from muster_coordinator.store.port import Batch, EventRow, SnapshotRow, Store

log = structlog.get_logger()

# Replaying so many takes 50 ms, so a shorter log needs none.
FEWEST_EVENTS = 10_000


def is_due(events: int, targets: int) -> bool:
    """After so many events since the last one. Taking it costs 0.8 microseconds for each target, so an event pays as much."""
    return events >= max(FEWEST_EVENTS, targets)


class Snapshots:
    def __init__(self) -> None:
        self._program = version("muster-fleet")
        self._starts: dict[str, bytes] = {}  # running rollout -> hash of its start, as the log has it
        self._taken: dict[str, int] = {}  # with the number of the event that its newest one ends with
        self._stored: set[str] = set()  # streams of which the store has one

    # --- at a start ------------------------------------------------------------------------------------------------

    async def read(self, store: Store) -> tuple[dict[str, list[EventRow]], dict[str, RolloutMachine]]:
        """Every stream, and the rollouts that a snapshot gave: of those only the first event and the newest ones are read."""
        usable = self._usable(await store.snapshots())
        logs = await store.streams({stream: row.number for stream, row in usable.items()})
        restored = {}
        for stream in usable.keys() & logs.keys():
            machine = self._restored(usable[stream], logs[stream])
            if machine is None:
                logs[stream] = list(await store.events(stream, 0, sys.maxsize))
            else:
                restored[stream] = machine
        return logs, restored

    def _usable(self, rows: Iterable[SnapshotRow]) -> dict[str, SnapshotRow]:
        """Those that are whole and of this program. Whether they are of the store's log is seen later."""
        found = {}
        for row in rows:
            self._stored.add(row.stream)
            try:
                place = snapshot.place_of(row.data)
            except snapshot.UnusableError as error:
                _refused(row, str(error))
                continue
            if place.program != self._program:
                _refused(row, f"it is of version {place.program}")
            elif place.position != row.number:
                _refused(row, "it is of another event than its row says")
            else:
                found[row.stream] = row
        return found

    def _restored(self, kept: SnapshotRow, rows: Sequence[EventRow]) -> RolloutMachine | None:
        """``rows`` are the first event, and those from the snapshot's last one on."""
        place, first = snapshot.place_of(kept.data), rows[0]
        last = next((row for row in rows if row.number == place.position), None)
        if last is None:
            _refused(kept, "it is ahead of its log")
        elif place.start != snapshot.digest(first.data) or place.last != snapshot.digest(last.data):
            _refused(kept, "it is of another log")
        else:
            try:
                started = ev.decode(first.data)
                after = ev.decode_log(row.data for row in rows if row.number > place.position)
                if isinstance(started, ev.Started):
                    machine = snapshot.restore(started, kept.data, after)
                    self._taken[kept.stream] = place.position
                    return machine
            except (
                ValueError,
                LookupError,
                msgspec.MsgspecError,
            ) as error:  # replaying says what is wrong with the log
                _refused(kept, str(error))
        return None

    def begin(self, machine: RolloutMachine, start: bytes) -> None:
        """One that was replayed or restored, and its first event as the log has it."""
        if not machine.has_ended:
            self._starts[machine.name] = snapshot.digest(start)

    # --- while it runs ---------------------------------------------------------------------------------------------

    def follow(self, machine: RolloutMachine, newest: int, batch: Batch) -> None:
        """Before a batch is written that has everything which this machine has said; ``newest`` is its last event's number.

        Of one batch at most one is taken, so that pauses do not add up.
        """
        name = machine.name
        if machine.has_ended:
            self._end(name, batch)
            return
        if name not in self._starts:
            self._starts.update(
                (name, snapshot.digest(row.data))
                for row in batch.events
                if (row.stream, row.number) == (name, 1)
            )
        due = is_due(newest - self._taken.get(name, 0), len(machine.targets))
        if due and name in self._starts and not batch.snapshots and not machine.has_unsaid:
            self._take(machine, newest, batch)

    def _take(self, machine: RolloutMachine, newest: int, batch: Batch) -> None:
        name = machine.name
        last = next((row for row in reversed(batch.events) if row.stream == name), None)
        if (
            last is None or last.number != newest
        ):  # it ends with what this transaction writes, or is not taken
            return
        place = snapshot.Place(self._program, self._starts[name], newest, snapshot.digest(last.data))
        batch.snapshots[name] = SnapshotRow(name, newest, snapshot.take(machine, place))
        self._taken[name] = newest
        self._stored.add(name)

    def _end(self, name: str, batch: Batch) -> None:
        self._starts.pop(name, None)
        self._taken.pop(name, None)
        if name in self._stored:
            self._stored.discard(name)
            batch.outdated.add(name)

    def forget(self, running: Iterable[str], batch: Batch) -> None:
        """At a start: drops what is stored of anything but these."""
        for stream in self._stored - set(running):
            self._end(stream, batch)


def _refused(row: SnapshotRow, why: str) -> None:
    log.warning("a snapshot is not used, its log is replayed", stream=row.stream, number=row.number, why=why)
