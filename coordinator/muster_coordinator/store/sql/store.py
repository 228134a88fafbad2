"""The store on SQLAlchemy Core, on whichever engine a place stands for.

A unit of work is one function that runs as a whole in a worker thread: an awaiting driver would go back to the event loop for
every statement of it, and that costs the loop more than the statements do. Units are short, shielded from cancellation, and
one writes at a time. It never reads a clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from muster_coordinator.audit.heads import HeadRow
from muster_coordinator.store.port import (
    EVERYTHING,
    Batch,
    EventRow,
    JoinRow,
    OperatorRow,
    ReportRow,
    SessionRow,
    SnapshotRow,
    TokenRow,
)
from muster_coordinator.store.sql import migrations, schema
from muster_coordinator.store.sql.place import Place, told
from muster_coordinator.store.sql.sqlite import SqlitePlace

T = TypeVar("T")
R = TypeVar("R", bound=msgspec.Struct)
THREADS = 4


class SqlStore:
    """Open it with :meth:`open` or :meth:`on`; close it with :meth:`close`."""

    def __init__(self, place: Place) -> None:
        self._place, self._engine = place, place.engine
        self._writer, self._threads = anyio.Lock(), anyio.CapacityLimiter(THREADS)
        dialect = place.engine.dialect
        self._events = _Rows(sa.insert(schema.events), dialect)
        self._reports = _Rows(_upsert(schema.reports, dialect), dialect)
        self._sessions = _Rows(_upsert(schema.sessions, dialect), dialect)
        self._joins = _Rows(_upsert(schema.joins, dialect), dialect)
        self._heads = _Rows(_upsert(schema.audit_heads, dialect), dialect)
        self._operators = _Rows(_upsert(schema.operators, dialect), dialect)
        self._snapshots = _Rows(_upsert(schema.snapshots, dialect), dialect)

    @classmethod
    async def open(cls, path: Path) -> SqlStore:
        """On a file, as :meth:`on`."""
        return await cls.on(SqlitePlace(path))

    @classmethod
    async def on(cls, place: Place) -> SqlStore:
        """Makes the tables of an empty database, and changes those of an older program after a copy was kept.

        ``MUSTER-L030`` for a database of a newer program, ``L031`` or ``L052`` for one that cannot be used.
        """
        store = cls(place)
        try:
            await store._in_thread(lambda: prepare(place))
        except BaseException:
            await store.close()
            raise
        return store

    async def close(self) -> None:
        """After the transaction that runs."""
        with anyio.CancelScope(shield=True):
            await self.exclusively(self._place.close)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Runs it to its end, also when who waits for it is cancelled."""
        result: list[T] = []
        with anyio.CancelScope(shield=True):
            result.append(await anyio.to_thread.run_sync(work, limiter=self._threads))
        return result[0]

    async def _write(self, work: Callable[[sa.Connection], T]) -> T:
        """Runs it in a transaction of its own."""

        def transaction() -> T:
            with told(self._place), self._place.writing() as connection:
                return work(connection)

        async with self._writer:
            return await self._in_thread(transaction)

    async def exclusively(self, work: Callable[[], T]) -> T:
        """Runs what must not meet a transaction, in a thread."""
        async with self._writer:
            return await self._in_thread(work)

    async def _rows(self, query: sa.Select[Any], row: type[R]) -> list[R]:
        # The driver's own rows, by place: a start with a long log takes four times as long by name.
        ordered = query.with_only_columns(*(query.selected_columns[name] for name in row.__struct_fields__))

        def read() -> list[R]:
            with told(self._place), self._engine.connect() as connection:
                cursor = connection.execute(ordered).cursor
                return [row(*found) for found in cursor.fetchall()] if cursor else []

        return await self._in_thread(read)

    async def commit(self, batch: Batch) -> None:
        # Made here: what a batch holds is the caller's again while the thread writes.
        writes = [
            (statement.sql, statement.values(rows))
            for statement, rows in (
                (self._events, batch.events),
                (self._reports, batch.reports.values()),
                (self._sessions, batch.sessions.values()),
                (self._joins, batch.joins.values()),
                (self._heads, batch.heads.values()),
                (self._operators, batch.operators.values()),
                (self._snapshots, batch.snapshots.values()),
            )
            if rows
        ]
        outdated = sorted(batch.outdated)

        def work(connection: sa.Connection) -> None:
            if outdated:
                table = schema.snapshots
                connection.execute(sa.delete(table).where(table.c.stream.in_(outdated)))
            for sql, values in writes:
                connection.exec_driver_sql(sql, values)

        await self._write(work)

    async def add_token(self, token: TokenRow) -> None:
        def work(connection: sa.Connection) -> None:
            connection.execute(sa.insert(schema.tokens), [_plain(token)])

        await self._write(work)

    async def consume_token(self, digest: str, cluster: str, identity: str, now: int) -> TokenRow | None:
        table = schema.tokens

        def work(connection: sa.Connection) -> TokenRow | None:
            found = connection.execute(sa.select(table).where(table.c.digest == digest)).first()
            if found is None:
                return None
            token = TokenRow(**found._mapping)
            if not token.used and token.expires > now and token.cluster == cluster:
                connection.execute(
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

    async def snapshots(self) -> Sequence[SnapshotRow]:
        return await self._rows(sa.select(schema.snapshots).order_by(schema.snapshots.c.stream), SnapshotRow)

    async def streams(self, since: Mapping[str, int] = EVERYTHING) -> dict[str, list[EventRow]]:
        table, found = schema.events, dict[str, list[EventRow]]()
        whole = sa.select(table).order_by(table.c.stream, table.c.number)
        queries = [whole.where(table.c.stream.not_in(list(since))) if since else whole]
        for stream, number in since.items():
            wanted = sa.or_(table.c.number == 1, table.c.number >= number)
            queries.append(sa.select(table).where(table.c.stream == stream, wanted).order_by(table.c.number))
        for query in queries:
            for row in await self._rows(query, EventRow):
                found.setdefault(row.stream, []).append(row)
        return found

    async def events(self, stream: str, after: int, limit: int) -> Sequence[EventRow]:
        table = schema.events
        wanted = sa.select(table).where(table.c.stream == stream, table.c.number > after)
        return await self._rows(wanted.order_by(table.c.number).limit(limit), EventRow)


def prepare(place: Place) -> None:
    """As :meth:`SqlStore.on` says. Blocks."""
    with told(place):
        with place.engine.connect() as connection:
            version = migrations.version_of(connection)
        migrations.check(version, place.name)
        if version is not None and version < schema.VERSION:
            place.keep_copy(f"v{version}")
        with place.writing() as connection:
            migrations.upgrade(connection, place.name)


def _plain(row: msgspec.Struct) -> dict[str, Any]:
    return msgspec.structs.asdict(row)


class _Rows:
    """A statement that is compiled once, for many rows of its table at a time."""

    __slots__ = ("_picked", "sql")

    def __init__(self, statement: sa.Insert, dialect: sa.Dialect) -> None:
        compiled = statement.compile(dialect=dialect)
        self.sql = str(compiled)
        self._picked: Callable[[Any], tuple[Any, ...]] = attrgetter(*(compiled.positiontup or ()))

    def values(self, rows: Iterable[msgspec.Struct]) -> list[tuple[Any, ...]]:
        """Each row's fields in the order of the statement's parameters."""
        return [self._picked(row) for row in rows]


def _upsert(table: sa.Table, dialect: sa.Dialect) -> sa.Insert:
    # Both say it in the same words.
    statement = postgresql.insert(table) if dialect.name == "postgresql" else sqlite.insert(table)
    keys = [column.name for column in table.primary_key]
    values = {
        column.name: statement.excluded[column.name] for column in table.columns if column.name not in keys
    }
    return statement.on_conflict_do_update(index_elements=keys, set_=values)
