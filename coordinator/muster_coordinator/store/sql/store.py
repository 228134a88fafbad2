"""The store on SQLite, embedded: WAL, full sync, one writer, BEGIN IMMEDIATE.

Owns the only use of SQLAlchemy. Every unit of work is short and shielded from cancellation, since a driver that is cancelled
in the middle leaves connections behind. It never reads a clock.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import anyio
import msgspec
import sqlalchemy as sa
from muster_core.errors import MusterError
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from muster_coordinator.audit.heads import HeadRow
from muster_coordinator.store.port import (
    Batch,
    EventRow,
    JoinRow,
    OperatorRow,
    ReportRow,
    SessionRow,
    TokenRow,
)
from muster_coordinator.store.sql import schema

T = TypeVar("T")
R = TypeVar("R")


class StoreError(MusterError):
    """The database cannot be used."""


class SqlStore:
    """Open it with :meth:`open`; close it with :meth:`close`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._writer = anyio.Lock()

    @classmethod
    async def open(cls, path: Path) -> SqlStore:
        """Creates the tables in an empty file; ``MUSTER-L030`` for a file of another version."""
        engine = create_async_engine(f"sqlite+aiosqlite:///{path}", isolation_level=None)

        @sa.event.listens_for(engine.sync_engine, "connect")
        def prepare(connection: Any, _: object) -> None:
            cursor = connection.cursor()
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=5000", "foreign_keys=ON"):
                cursor.execute(f"PRAGMA {pragma}")
            cursor.close()

        store = cls(engine)
        try:
            await store._write(_create)
        except BaseException:
            await store.close()
            raise
        return store

    async def close(self) -> None:
        with anyio.CancelScope(shield=True):
            await self._engine.dispose()

    async def _write(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        results: list[T] = []
        with anyio.CancelScope(shield=True):
            async with self._writer, self._engine.connect() as connection:
                await connection.exec_driver_sql("BEGIN IMMEDIATE")
                try:
                    results.append(await work(connection))
                except BaseException:
                    await connection.exec_driver_sql("ROLLBACK")
                    raise
                await connection.exec_driver_sql("COMMIT")
        return results[0]

    async def _rows(self, query: sa.Select[Any], row: type[R]) -> list[R]:
        rows: list[R] = []
        with anyio.CancelScope(shield=True):
            async with self._engine.connect() as connection:
                rows += [row(**found._mapping) for found in await connection.execute(query)]
        return rows

    async def commit(self, batch: Batch) -> None:
        async def work(connection: AsyncConnection) -> None:
            if batch.events:
                await connection.execute(sa.insert(schema.events), [_plain(row) for row in batch.events])
            for table, rows in (
                (schema.reports, list(batch.reports.values())),
                (schema.sessions, list(batch.sessions.values())),
                (schema.joins, list(batch.joins.values())),
                (schema.audit_heads, list(batch.heads.values())),
                (schema.operators, list(batch.operators.values())),
            ):
                if rows:
                    await connection.execute(_upsert(table), [_plain(row) for row in rows])

        await self._write(work)

    async def add_token(self, token: TokenRow) -> None:
        async def work(connection: AsyncConnection) -> None:
            await connection.execute(sa.insert(schema.tokens), [_plain(token)])

        await self._write(work)

    async def consume_token(self, digest: str, cluster: str, identity: str, now: int) -> TokenRow | None:
        table = schema.tokens

        async def work(connection: AsyncConnection) -> TokenRow | None:
            found = (await connection.execute(sa.select(table).where(table.c.digest == digest))).first()
            if found is None:
                return None
            token = TokenRow(**found._mapping)
            if not token.used and token.expires > now and token.cluster == cluster:
                await connection.execute(
                    sa.update(table).where(table.c.id == token.id).values(used=now, identity=identity)
                )
            return token

        return await self._write(work)

    async def tokens(self) -> Sequence[TokenRow]:
        return await self._rows(sa.select(schema.tokens).order_by(schema.tokens.c.created), TokenRow)

    async def joins(self) -> Sequence[JoinRow]:
        return await self._rows(sa.select(schema.joins).order_by(schema.joins.c.cluster), JoinRow)

    async def sessions(self) -> Sequence[SessionRow]:
        return await self._rows(sa.select(schema.sessions), SessionRow)

    async def reports(self) -> Sequence[ReportRow]:
        return await self._rows(sa.select(schema.reports), ReportRow)

    async def audit_heads(self) -> Sequence[HeadRow]:
        return await self._rows(sa.select(schema.audit_heads).order_by(schema.audit_heads.c.writer), HeadRow)

    async def operators(self) -> Sequence[OperatorRow]:
        table = schema.operators
        return await self._rows(sa.select(table).order_by(table.c.issued, table.c.serial), OperatorRow)

    async def streams(self) -> dict[str, list[EventRow]]:
        found: dict[str, list[EventRow]] = {}
        for row in await self._rows(
            sa.select(schema.events).order_by(schema.events.c.stream, schema.events.c.number), EventRow
        ):
            found.setdefault(row.stream, []).append(row)
        return found


async def _create(connection: AsyncConnection) -> None:
    await connection.run_sync(schema.metadata.create_all)
    row = (
        await connection.execute(sa.select(schema.meta.c.value).where(schema.meta.c.key == "version"))
    ).first()
    if row is None:
        await connection.execute(sa.insert(schema.meta), [{"key": "version", "value": str(schema.VERSION)}])
    elif row[0] != str(schema.VERSION):
        raise StoreError(
            "L030",
            f"the database is of version {row[0]}, this program reads {schema.VERSION}",
            hint="Start the program that wrote it.",
        )


def _plain(row: msgspec.Struct) -> dict[str, Any]:
    return msgspec.structs.asdict(row)


def _upsert(table: sa.Table) -> Any:
    statement = upsert(table)
    keys = [column.name for column in table.primary_key]
    values = {
        column.name: statement.excluded[column.name] for column in table.columns if column.name not in keys
    }
    return statement.on_conflict_do_update(index_elements=keys, set_=values)
