"""The engines that the store's contract runs on, each with a fresh database that can be opened again.

Owns what differs between them in a test: how it is opened, and one statement from outside.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from muster_coordinator.store.address import DatabaseUrl
from muster_coordinator.store.sql.postgres import PostgresPlace
from muster_coordinator.store.sql.sqlite import SqlitePlace
from muster_coordinator.store.sql.store import Place, SqlStore
from postgres import Postgres


class Database(Protocol):
    name: str

    def place(self) -> Place: ...

    def script(self, statements: str) -> None: ...

    def rows(self, query: str) -> list[tuple[object, ...]]: ...


@dataclass
class SqliteFile:
    path: Path
    name: str = "sqlite"

    def place(self) -> Place:
        return SqlitePlace(self.path)

    def script(self, statements: str) -> None:
        with sqlite3.connect(self.path) as connection:
            connection.executescript(statements)
        connection.close()

    def rows(self, query: str) -> list[tuple[object, ...]]:
        with sqlite3.connect(self.path) as connection:
            found = connection.execute(query).fetchall()
        connection.close()
        return found


@dataclass
class PostgresDatabase:
    server: Postgres
    url: str
    name: str = "postgresql"

    def place(self) -> PostgresPlace:
        """With the seat, as a coordinator that leads has it."""
        place = PostgresPlace(DatabaseUrl.parse(self.url))
        assert place.try_lead()
        return place

    def script(self, statements: str) -> None:
        self.server.ask(statements, self.url.rpartition("/")[2])

    def rows(self, query: str) -> list[tuple[object, ...]]:
        return self.server.ask(query, self.url.rpartition("/")[2])


async def opened(database: Database) -> SqlStore:
    place = database.place()
    store = await SqlStore.on(place)
    if isinstance(place, PostgresPlace):
        place.begin_term({})
    return store
