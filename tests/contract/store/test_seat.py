"""One coordinator leads a shared database: who lost the seat writes nothing, however it was lost."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import anyio
import pytest
from contract.store.places import PostgresDatabase, opened
from muster_coordinator import leadership
from muster_coordinator.store.address import DatabaseUrl
from muster_coordinator.store.port import Batch, EventRow, StoreError
from muster_coordinator.store.sql import postgres as seats
from muster_coordinator.store.sql.postgres import PostgresPlace
from muster_coordinator.store.sql.store import SqlStore
from postgres import Postgres

SEATS = """SELECT pid FROM pg_locks WHERE locktype = 'advisory'
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""
END_SEATS = SEATS.replace("SELECT pid", "SELECT pg_terminate_backend(pid)", 1)


@pytest.fixture
def database(postgres: Postgres) -> PostgresDatabase:
    return PostgresDatabase(postgres, postgres.database())


@pytest.fixture
async def store(database: PostgresDatabase) -> AsyncIterator[SqlStore]:
    found = await opened(database)
    yield found
    await found.close()


def event(number: int) -> Batch:
    return Batch([EventRow("shop-0001", number, b"x")])


def standby(database: PostgresDatabase) -> PostgresPlace:
    return PostgresPlace(DatabaseUrl.parse(database.url))


def leads_within(place: PostgresPlace, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not place.try_lead():
        assert time.monotonic() < end


async def refused(store: SqlStore, number: int) -> str:
    with pytest.raises(StoreError) as error:
        await store.commit(event(number))
    return error.value.code


async def test_a_second_coordinator_gets_the_seat_when_the_first_leaves(
    store: SqlStore, database: PostgresDatabase
) -> None:
    other = standby(database)
    try:
        assert not other.try_lead()
        assert not other.try_lead()
        await store.close()
        assert other.try_lead()
    finally:
        other.close()


async def test_who_lost_the_session_writes_nothing_and_never_sits_down_again(
    store: SqlStore, database: PostgresDatabase
) -> None:
    await store.commit(event(1))
    database.rows(END_SEATS)
    assert await refused(store, 2) == "L052"
    # A driver that made the session anew would get through here.
    assert await refused(store, 3) == "L052"
    assert database.rows("SELECT number FROM events") == [(1,)]
    assert database.rows(SEATS) == []


async def test_a_commit_of_an_earlier_leader_is_refused_even_on_a_session_that_lives(
    store: SqlStore, database: PostgresDatabase
) -> None:
    """A pooler between can keep a session whose lock is gone: the term is checked in the transaction itself."""
    await store.commit(event(1))
    database.rows("UPDATE meta SET value = (value::int + 1)::text WHERE key = 'epoch'")
    assert await refused(store, 2) == "L054"
    database.rows("UPDATE meta SET value = (value::int - 1)::text WHERE key = 'epoch'")
    assert await refused(store, 3) == "L052"  # what was lost stays lost
    assert database.rows("SELECT number FROM events") == [(1,)]


async def test_a_leader_that_leaves_by_itself_is_not_ended_by_its_own_beat(
    store: SqlStore, database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever stops a leader gets a good end, also when it is just asking whether it leads."""
    monkeypatch.setattr(leadership, "BEAT_SECONDS", 0.0)
    place = store._place
    assert isinstance(place, PostgresPlace)
    beats = 0
    ask = place.still_leads

    def counted() -> None:
        nonlocal beats
        beats += 1
        ask()

    async def beaten(times: int) -> None:
        end = beats + times
        with anyio.fail_after(20):
            while beats < end:
                await anyio.sleep(0.001)

    monkeypatch.setattr(place, "still_leads", counted)
    async with anyio.create_task_group() as group:
        group.start_soon(leadership.keep, place, store)
        await beaten(3)
        await store.close()
        await beaten(3)
        group.cancel_scope.cancel()
    assert await refused(store, 1) == "L052"
    assert database.rows(SEATS) == []


async def test_each_leader_has_a_term_of_its_own(store: SqlStore, database: PostgresDatabase) -> None:
    first = database.rows("SELECT value FROM meta WHERE key = 'epoch'")
    await store.close()
    other = await opened(database)
    try:
        assert database.rows("SELECT value FROM meta WHERE key = 'epoch'") == [
            (str(int(str(first[0][0])) + 1),)
        ]
    finally:
        await other.close()


async def test_a_leader_that_is_silent_loses_the_seat_to_the_server(
    database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(seats.SEAT, "idle_session_timeout", "300ms")
    frozen, other = await opened(database), standby(database)
    try:
        leads_within(other, 20)
        assert await refused(frozen, 1) == "L052"
    finally:
        await frozen.close()
        other.close()


async def test_two_fleets_share_a_database_by_schemas_and_each_has_a_leader(
    postgres: Postgres, database: PostgresDatabase
) -> None:
    database.script("CREATE SCHEMA north")
    database.script("CREATE SCHEMA south")
    north = PostgresDatabase(postgres, database.url + "?options=-csearch_path%3Dnorth")
    south = PostgresDatabase(postgres, database.url + "?options=-csearch_path%3Dsouth")
    one, two = await opened(north), await opened(south)
    try:
        await one.commit(event(1))
        assert await two.streams() == {}
    finally:
        await one.close()
        await two.close()


async def test_a_password_stands_in_no_message(database: PostgresDatabase) -> None:
    secret = "5ecret-w0rd"
    url = DatabaseUrl.parse(
        database.url.replace(database.server.password, secret) + f"?sslpassword={secret}x"
    )
    assert secret in url.reveal()
    assert secret not in f"{url} {url!r}"
    place = PostgresPlace(url)
    try:
        with pytest.raises(StoreError) as error:
            await SqlStore.on(place)
        assert error.value.code == "L052"
        assert "password authentication failed" in str(error.value)
        assert secret not in str(error.value)
    finally:
        place.close()
