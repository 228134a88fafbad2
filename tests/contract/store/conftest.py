"""Each case of the contract runs on every engine; a case that never ran on PostgreSQL is counted as not proven."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from contract.store.places import Database, PostgresDatabase, SqliteFile, opened
from muster_coordinator.store.sql.store import SqlStore
from postgres import Postgres, open_postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with open_postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    if request.param == "sqlite":
        return SqliteFile(tmp_path / "muster.db")
    server: Postgres = request.getfixturevalue("postgres")
    return PostgresDatabase(server, server.database())


@pytest.fixture
async def store(database: Database) -> AsyncIterator[SqlStore]:
    found = await opened(database)
    yield found
    await found.close()
