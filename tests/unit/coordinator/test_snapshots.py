"""A start from a snapshot knows what one from the log knows; one that cannot be used is said once, and the log replayed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from muster_coordinator.rollout import snapshots
from muster_coordinator.store.port import Batch, EventRow, SnapshotRow
from muster_coordinator.store.sql.store import SqlStore
from muster_core.rollout import events as ev
from muster_core.rollout import snapshot
from muster_core.rollout.machine import RolloutMachine
from structlog.testing import capture_logs
from unit.coordinator.test_engine import Brain, brain, cluster

FLEET = tuple(cluster(name) for name in "abcd")
NAME = "shop-0001"


@pytest.fixture(autouse=True)
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def seldom_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """After as many events as there are targets."""
    monkeypatch.setattr(snapshots, "FEWEST_EVENTS", 1)


async def two_are_done(folder: Path) -> None:
    """Four were offered; two have said all."""
    async with brain(folder) as at:
        for name in "abcd":
            await at.connect(name)
        await at.reads(1, *FLEET)
        await at.healthy("a")
        await at.healthy("b")


def rows(folder: Path, query: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(folder / "muster.db") as connection:
        found = connection.execute(query).fetchall()
    connection.close()
    return found


def kept(folder: Path) -> tuple[int, bytes]:
    ((number, data),) = rows(folder, "SELECT number, data FROM snapshots")
    return int(str(number)), bytes(data)  # type: ignore[call-overload]


def change(folder: Path, statement: str, *values: object) -> None:
    with sqlite3.connect(folder / "muster.db") as connection:
        connection.execute(statement, values)
    connection.close()


def logged(folder: Path) -> list[bytes]:
    query = "SELECT data FROM events WHERE stream = 'shop-0001' ORDER BY number"
    return [bytes(data) for (data,) in rows(folder, query)]  # type: ignore[call-overload]


def replayed(log: list[bytes]) -> str:
    return repr(RolloutMachine.replay(ev.decode_log(log)).targets)


def machine_of(at: Brain) -> str:
    return repr(at.engine.state.rollouts[NAME].targets)


async def test_a_start_reads_the_newest_snapshot_and_only_the_events_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await two_are_done(tmp_path)
    number, _ = kept(tmp_path)
    log = logged(tmp_path)
    assert 4 < number <= len(log) < number + 4
    read: list[int] = []
    streams, restore = SqlStore.streams, snapshot.restore

    async def seen(store: SqlStore, since: dict[str, int]) -> dict[str, list[EventRow]]:
        found = await streams(store, since)
        read.extend(row.number for row in found[NAME])
        return found

    states = []

    def restored(*given: object) -> RolloutMachine:
        machine = restore(*given)  # type: ignore[arg-type]
        states.append(repr(machine.targets))
        return machine

    monkeypatch.setattr(SqlStore, "streams", seen)
    monkeypatch.setattr(snapshot, "restore", restored)
    with capture_logs() as said:
        async with brain(tmp_path) as at:
            assert states == [replayed(log)]
            assert read == [1, *range(number, len(log) + 1)]
            for name in "cd":
                await at.connect(name)
                await at.healthy(name)
            assert at.states() == {NAME: "Succeeded"}
            live = machine_of(at)
    assert not [one for one in said if "snapshot" in one["event"]]
    assert live == replayed(logged(tmp_path))


async def test_a_rollout_that_has_ended_has_no_snapshot(tmp_path: Path) -> None:
    await two_are_done(tmp_path)
    assert kept(tmp_path)
    async with brain(tmp_path) as at:
        for name in "cd":
            await at.connect(name)
            await at.healthy(name)
    assert rows(tmp_path, "SELECT * FROM snapshots") == []


async def test_one_of_a_log_that_is_gone_or_has_ended_is_dropped_at_the_next_start(tmp_path: Path) -> None:
    await test_a_rollout_that_has_ended_has_no_snapshot(tmp_path)
    store = await SqlStore.open(tmp_path / "muster.db")
    await store.commit(Batch(snapshots={name: SnapshotRow(name, 1, b"") for name in (NAME, "gone-0001")}))
    await store.close()
    async with brain(tmp_path) as at:
        assert at.states() == {NAME: "Succeeded"}
        await at.settled()
    assert rows(tmp_path, "SELECT * FROM snapshots") == []


def damaged(folder: Path) -> None:
    _, data = kept(folder)
    change(folder, "UPDATE snapshots SET data = ?", data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])


def of_another_form(folder: Path) -> None:
    _, data = kept(folder)
    change(folder, "UPDATE snapshots SET data = ?", bytes(snapshot.HASH) + data[snapshot.HASH :])


def placed(change_place: Callable[[snapshot.Place], snapshot.Place]) -> Callable[[Path], None]:
    """A whole one that says something else of its place; its machine is one that never was."""

    def made(folder: Path) -> None:
        _, data = kept(folder)
        place = change_place(snapshot.place_of(data))
        log = ev.decode_log(logged(folder))
        wrong = snapshot.take(RolloutMachine.replay(log[:2]), place)
        change(folder, "UPDATE snapshots SET data = ?, number = ?", wrong, place.position)

    return made


def with_another_number(folder: Path) -> None:
    change(folder, "UPDATE snapshots SET number = number - 1")


BAD = {
    "it is damaged": damaged,
    "it is of another form": of_another_form,
    "it is of version 0.0.1": placed(lambda place: place._replace(program="0.0.1")),
    "it is of another log": placed(lambda place: place._replace(start=snapshot.digest(b"another start"))),
    "it is of another log, past its end": placed(
        lambda place: place._replace(last=snapshot.digest(b"other"))
    ),
    "it is ahead of its log": placed(lambda place: place._replace(position=place.position + 100)),
    "it is of another event than its row says": with_another_number,
}


@pytest.mark.parametrize("why", BAD)
async def test_one_that_cannot_be_used_is_said_once_and_the_log_is_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    await two_are_done(tmp_path)
    BAD[why](tmp_path)
    log = logged(tmp_path)
    replays: list[int] = []
    replay = RolloutMachine.replay

    def seen(events: list[ev.AnyEvent]) -> RolloutMachine:
        machine = replay(events)
        replays.append(len(events))
        assert repr(machine.targets) == replayed_quietly(log)
        return machine

    def replayed_quietly(stored: list[bytes]) -> str:
        return repr(replay(ev.decode_log(stored)).targets)

    monkeypatch.setattr(RolloutMachine, "replay", seen)
    with capture_logs() as said:
        async with brain(tmp_path) as at:
            for name in "cd":
                await at.connect(name)
                await at.healthy(name)
            assert at.states() == {NAME: "Succeeded"}
    assert replays == [len(log)]
    (line,) = [one for one in said if "snapshot" in one["event"]]
    assert (line["stream"], line["log_level"]) == (NAME, "warning")
    assert line["why"] == why.split(",")[0]


async def test_one_that_could_not_be_used_is_replaced_by_the_next(tmp_path: Path) -> None:
    await two_are_done(tmp_path)
    damaged(tmp_path)
    async with brain(tmp_path) as at:
        await at.connect("c")
        await at.healthy("c")
    assert snapshot.place_of(kept(tmp_path)[1]).position == kept(tmp_path)[0]


async def test_none_is_written_before_it_is_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "FEWEST_EVENTS", 1_000)
    await two_are_done(tmp_path)
    assert rows(tmp_path, "SELECT * FROM snapshots") == []


def test_the_larger_a_rollout_the_rarer_its_snapshots() -> None:
    assert [snapshots.is_due(events, targets) for events, targets in ((3, 4), (4, 4), (99_999, 100_000))] == [
        False,
        True,
        False,
    ]
