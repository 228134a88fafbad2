"""What every store must hold: a batch is durable when ``commit`` returns, a token is used once, events keep their order."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import msgspec
import pytest
import sqlalchemy as sa
from contract.store.places import Database, opened
from muster_coordinator.audit.heads import HeadRow
from muster_coordinator.store.port import (
    Batch,
    EventRow,
    JoinRow,
    OperatorRow,
    ReportRow,
    SessionRow,
    SnapshotRow,
    StoreError,
    TokenRow,
)
from muster_coordinator.store.sql.store import SqlStore

TOKEN = TokenRow("t1", "hash", "berlin-04", created=10, expires=100)
# What one batch of a busy coordinator may hold, and more than a statement has parameters for.
LARGE = 20_000


@asynccontextmanager
async def again(store: SqlStore, database: Database) -> AsyncIterator[SqlStore]:
    """The same database after the program ended."""
    await store.close()
    other = await opened(database)
    try:
        yield other
    finally:
        await other.close()


def event(number: int, stream: str = "shop-0001") -> EventRow:
    return EventRow(stream, number, b"%d" % number)


async def test_one_log_is_read_in_order_from_anywhere(store: SqlStore) -> None:
    await store.commit(Batch(events=[event(n) for n in (1, 2, 3)] + [event(1, "other-0001")]))
    assert [row.number for row in await store.events("shop-0001", 0, 2)] == [1, 2]
    assert [row.data for row in await store.events("shop-0001", 2, 2)] == [b"3"]
    assert not await store.events("shop-0001", 3, 2)


async def test_a_token_is_taken_by_one_of_many_at_once(store: SqlStore) -> None:
    await store.add_token(TOKEN)
    winners = []

    async def take(identity: str) -> None:
        before = await store.consume_token("hash", "berlin-04", identity, 50)
        if before is not None and not before.used:
            winners.append(identity)

    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(take, f"identity-{number}")
    assert len(winners) == 1
    (kept,) = await store.tokens()
    assert (kept.used, kept.identity) == (50, winners[0])


@pytest.mark.parametrize(("cluster", "now"), [("munich-01", 50), ("berlin-04", 100)])
async def test_a_token_is_not_spent_by_another_name_or_too_late(
    store: SqlStore, cluster: str, now: int
) -> None:
    await store.add_token(TOKEN)
    await store.consume_token("hash", cluster, "someone", now)
    assert await store.tokens() == [TOKEN]


async def test_an_unknown_token_is_none(store: SqlStore) -> None:
    assert await store.consume_token("hash", "berlin-04", "someone", 50) is None


async def test_tokens_come_in_the_order_of_their_making(store: SqlStore) -> None:
    made = [TokenRow(f"t{n}", f"hash-{n}", "berlin-04", created=n, expires=100) for n in (3, 1, 2)]
    for token in made:
        await store.add_token(token)
    assert [token.created for token in await store.tokens()] == [1, 2, 3]


async def test_a_batch_survives_closing_and_the_newest_row_stays(store: SqlStore, database: Database) -> None:
    session = SessionRow("berlin-04", "epoch", 7, 1, "0.1.0", "1.30")
    join = JoinRow("berlin-04", "uid", b"i", b"s", 1, b"g", b"csr", 1, "0.1.0")
    batch = Batch([event(1), event(2), event(1, "catchup/shop")])
    batch.reports["berlin-04", "shop"] = ReportRow("berlin-04", "shop", b"old")
    batch.sessions["berlin-04"], batch.joins["berlin-04"] = session, join
    await store.commit(batch)
    newer = Batch([event(3)])
    newer.reports["berlin-04", "shop"] = ReportRow("berlin-04", "shop", b"new")
    await store.commit(newer)
    async with again(store, database) as other:
        assert await other.streams() == {
            "shop-0001": [event(1), event(2), event(3)],
            "catchup/shop": [event(1, "catchup/shop")],
        }
        assert [row.data for row in await other.reports()] == [b"new"]
        assert (await other.sessions(), await other.joins()) == ([session], [join])


async def test_a_batch_is_whole_or_not_at_all(store: SqlStore) -> None:
    await store.commit(Batch([event(1)]))
    broken = Batch([event(2), event(1)], sessions={"a": SessionRow("a", "e", 1, 1, "", "")})
    with pytest.raises(sa.exc.IntegrityError):
        await store.commit(broken)
    assert await store.streams() == {"shop-0001": [event(1)]}
    assert await store.sessions() == []
    await store.commit(Batch([event(2)]))  # and the store goes on
    assert await store.streams() == {"shop-0001": [event(1), event(2)]}


async def test_events_come_in_the_order_of_their_numbers_however_they_were_written(store: SqlStore) -> None:
    numbers = list(range(1, 301))
    random.Random(4).shuffle(numbers)
    for start in range(0, len(numbers), 50):
        part = numbers[start : start + 50]
        await store.commit(Batch([event(n, stream) for n in part for stream in ("b-0002", "b-0010")]))
    found = await store.streams()
    assert set(found) == {"b-0002", "b-0010"}
    for rows in found.values():
        assert [row.number for row in rows] == list(range(1, 301))


async def test_batches_that_are_written_at_once_are_each_whole(store: SqlStore) -> None:
    async def write(stream: str) -> None:
        for number in range(1, 11):
            await store.commit(Batch([event(2 * number - 1, stream), event(2 * number, stream)]))

    async with anyio.create_task_group() as group:
        for name in "abcdef":
            group.start_soon(write, name)
    found = await store.streams()
    assert {stream: [row.number for row in rows] for stream, rows in found.items()} == {
        name: list(range(1, 21)) for name in "abcdef"
    }


async def test_a_large_batch_is_one_batch(store: SqlStore, database: Database) -> None:
    batch = Batch([event(n) for n in range(1, LARGE + 1)])
    batch.reports = {
        (f"c{n}", "shop"): ReportRow(f"c{n}", "shop", bytes(range(256))) for n in range(LARGE // 10)
    }
    await store.commit(batch)
    again_with_news = Batch(
        reports={key: ReportRow(*key, b"new") for key in batch.reports}, events=[event(LARGE + 1)]
    )
    await store.commit(again_with_news)
    async with again(store, database) as other:
        assert [row.number for row in (await other.streams())["shop-0001"]] == list(range(1, LARGE + 2))
        reports = await other.reports()
        assert (len(reports), {row.data for row in reports}) == (LARGE // 10, {b"new"})


async def test_bytes_and_texts_of_any_kind_come_back_as_they_were(store: SqlStore) -> None:
    odd = "ü'\"\\ %s %(a)s :b {} ; -- 漢"
    await store.commit(
        Batch(
            [EventRow(odd, 1, bytes(range(256)) * 3)],
            sessions={odd: SessionRow(odd, odd, 2**53, 2**62, "", odd)},
        )
    )
    assert (await store.streams())[odd][0].data == bytes(range(256)) * 3
    assert await store.sessions() == [SessionRow(odd, odd, 2**53, 2**62, "", odd)]


async def test_who_waits_is_cancelled_and_the_batch_is_whole_all_the_same(store: SqlStore) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await store.commit(Batch([event(n) for n in range(1, 101)]))
    found = await store.streams()
    assert len(found.get("shop-0001", [])) in {0, 100}
    await store.commit(Batch([event(1, "after")]))
    assert "after" in await store.streams()


async def test_a_database_of_a_newer_program_is_refused_and_left_as_it_is(
    store: SqlStore, database: Database
) -> None:
    await store.commit(Batch([event(1)]))
    await store.close()
    database.script("UPDATE meta SET value = '99' WHERE key = 'version'")
    with pytest.raises(StoreError, match="version 99") as refused:
        await opened(database)
    assert refused.value.code == "L030"
    assert database.rows("SELECT value FROM meta WHERE key = 'version'") == [("99",)]
    assert len(database.rows("SELECT number FROM events")) == 1


async def test_heads_of_audit_logs_and_operators_survive_closing_and_the_newest_row_stays(
    store: SqlStore, database: Database
) -> None:
    alarmed = HeadRow("cluster/5f0c", 9, "a" * 64, 4, "b" * 64)
    ada = OperatorRow("1f", "ada", "operator", issued=10, expires=100)
    bob = OperatorRow("2f", "bob", "viewer", issued=5, expires=100)
    await store.commit(Batch(heads={"cluster/5f0c": HeadRow("cluster/5f0c", 9, "a" * 64)}))
    await store.commit(Batch(heads={"cluster/5f0c": alarmed}, operators={"1f": ada, "2f": bob}))
    await store.commit(Batch(operators={"1f": msgspec.structs.replace(ada, revoked=50)}))
    async with again(store, database) as other:
        assert await other.audit_heads() == [alarmed]
        assert [(row.name, row.revoked) for row in await other.operators()] == [("bob", 0), ("ada", 50)]


async def test_a_database_from_before_a_table_was_there_gets_it(store: SqlStore, database: Database) -> None:
    await store.close()
    database.script("DROP TABLE audit_heads")
    other = await opened(database)
    try:
        assert await other.audit_heads() == []
    finally:
        await other.close()


async def test_of_a_snapshot_the_newest_stays_until_it_is_outdated(
    store: SqlStore, database: Database
) -> None:
    large = bytes(range(256)) * 10_000
    rows = {name: SnapshotRow(name, 1, b"old") for name in ("shop-0001", "till-0001")}
    await store.commit(Batch([event(1)], snapshots=rows))
    await store.commit(Batch([event(2)], snapshots={"shop-0001": SnapshotRow("shop-0001", 2, large)}))
    async with again(store, database) as other:
        assert await other.snapshots() == [SnapshotRow("shop-0001", 2, large), rows["till-0001"]]
        await other.commit(Batch([event(3)], outdated={"shop-0001", "never-there"}))
        assert await other.snapshots() == [rows["till-0001"]]


async def test_a_snapshot_is_never_ahead_of_the_events_that_it_came_with(store: SqlStore) -> None:
    await store.commit(Batch([event(1)]))
    with pytest.raises(sa.exc.IntegrityError):
        await store.commit(
            Batch([event(2), event(1)], snapshots={"shop-0001": SnapshotRow("shop-0001", 2, b"x")})
        )
    assert await store.snapshots() == []


async def test_of_a_log_with_a_snapshot_only_the_start_and_the_newest_events_are_read(
    store: SqlStore,
) -> None:
    await store.commit(Batch([event(n, stream) for n in range(1, 6) for stream in ("a", "b", "c", "d")]))
    found = await store.streams({"b": 4, "c": 6, "d": 1, "gone": 2})
    assert {stream: [row.number for row in rows] for stream, rows in found.items()} == {
        "a": [1, 2, 3, 4, 5],
        "b": [1, 4, 5],
        "c": [1],
        "d": [1, 2, 3, 4, 5],
    }


async def test_a_database_from_before_snapshots_gets_their_table(store: SqlStore, database: Database) -> None:
    await store.commit(Batch([event(1)]))
    await store.close()
    database.script("DROP TABLE snapshots")
    other = await opened(database)
    try:
        assert await other.snapshots() == []
        await other.commit(Batch([event(2)], snapshots={"shop-0001": SnapshotRow("shop-0001", 2, b"x")}))
        assert len(await other.snapshots()) == 1
    finally:
        await other.close()
