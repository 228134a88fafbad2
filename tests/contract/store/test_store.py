"""What every store must hold: a batch is durable when ``commit`` returns, a token is used once, events keep their order."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import msgspec
import pytest
import sqlalchemy as sa
from muster_coordinator.audit.heads import HeadRow
from muster_coordinator.store.port import (
    Batch,
    EventRow,
    JoinRow,
    OperatorRow,
    ReportRow,
    SessionRow,
    StoreError,
    TokenRow,
)
from muster_coordinator.store.sql.store import SqlStore

TOKEN = TokenRow("t1", "hash", "berlin-04", created=10, expires=100)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    opened = await SqlStore.open(tmp_path / "muster.db")
    yield opened
    await opened.close()


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


async def test_a_batch_survives_closing_and_the_newest_row_stays(store: SqlStore, tmp_path: Path) -> None:
    session = SessionRow("berlin-04", "epoch", 7, 1, "0.1.0", "1.30")
    join = JoinRow("berlin-04", "uid", b"i", b"s", 1, b"g", b"csr", 1, "0.1.0")
    batch = Batch([event(1), event(2), event(1, "catchup/shop")])
    batch.reports["berlin-04", "shop"] = ReportRow("berlin-04", "shop", b"old")
    batch.sessions["berlin-04"], batch.joins["berlin-04"] = session, join
    await store.commit(batch)
    newer = Batch([event(3)])
    newer.reports["berlin-04", "shop"] = ReportRow("berlin-04", "shop", b"new")
    await store.commit(newer)
    other = await SqlStore.open(tmp_path / "muster.db")
    try:
        assert await other.streams() == {
            "shop-0001": [event(1), event(2), event(3)],
            "catchup/shop": [event(1, "catchup/shop")],
        }
        assert [row.data for row in await other.reports()] == [b"new"]
        assert (await other.sessions(), await other.joins()) == ([session], [join])
    finally:
        await other.close()


async def test_a_batch_is_whole_or_not_at_all(store: SqlStore) -> None:
    await store.commit(Batch([event(1)]))
    broken = Batch([event(2), event(1)])
    with pytest.raises(sa.exc.IntegrityError):
        await store.commit(broken)
    assert await store.streams() == {"shop-0001": [event(1)]}


async def test_a_database_of_another_version_is_refused(store: SqlStore, tmp_path: Path) -> None:
    with store._engine.connect() as connection:
        connection.exec_driver_sql("UPDATE meta SET value = '99'")
        connection.commit()
    with pytest.raises(StoreError, match="version 99"):
        await SqlStore.open(tmp_path / "muster.db")


async def test_heads_of_audit_logs_and_operators_survive_closing_and_the_newest_row_stays(
    store: SqlStore, tmp_path: Path
) -> None:
    alarmed = HeadRow("cluster/5f0c", 9, "a" * 64, 4, "b" * 64)
    ada = OperatorRow("1f", "ada", "operator", issued=10, expires=100)
    bob = OperatorRow("2f", "bob", "viewer", issued=5, expires=100)
    await store.commit(Batch(heads={"cluster/5f0c": HeadRow("cluster/5f0c", 9, "a" * 64)}))
    await store.commit(Batch(heads={"cluster/5f0c": alarmed}, operators={"1f": ada, "2f": bob}))
    await store.commit(Batch(operators={"1f": msgspec.structs.replace(ada, revoked=50)}))
    other = await SqlStore.open(tmp_path / "muster.db")
    try:
        assert await other.audit_heads() == [alarmed]
        assert [(row.name, row.revoked) for row in await other.operators()] == [("bob", 0), ("ada", 50)]
    finally:
        await other.close()


async def test_a_database_from_before_a_table_was_there_gets_it(store: SqlStore, tmp_path: Path) -> None:
    with store._engine.connect() as connection:
        connection.exec_driver_sql("DROP TABLE audit_heads")
        connection.commit()
    other = await SqlStore.open(tmp_path / "muster.db")
    try:
        assert await other.audit_heads() == []
    finally:
        await other.close()
