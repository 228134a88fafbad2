"""Rows out of one database and into another, whatever their engines.

Owns which tables and facts a backup has, and the one transaction in which a restored database becomes what the backup says.
Terms and names of the coordinators that share a database are the database's own, and never in a backup.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from muster_coordinator.store.backup import ROWS_A_LINE, Backup
from muster_coordinator.store.port import StoreError
from muster_coordinator.store.sql import migrations, schema
from muster_coordinator.store.sql.place import Place, told

APART = (schema.meta, schema.snapshots)  # a snapshot of another log must not outlive a restore
TABLES = tuple(table for table in schema.metadata.sorted_tables if table not in APART)
# Plain texts: SQLAlchemy's own kind is no JSON.
COLUMNS = {str(table.name): [str(column.name) for column in table.columns] for table in TABLES}


def rows_of(connection: sa.Connection) -> Iterator[tuple[str, Sequence[Sequence[Any]]]]:
    """Every row of every table, some at a time; all of one moment when the connection is a snapshot."""
    for table in TABLES:
        query = sa.select(table).order_by(*table.primary_key)
        found = connection.execution_options(yield_per=ROWS_A_LINE).execute(query)
        for part in found.partitions(ROWS_A_LINE):
            yield str(table.name), part


def require_current(connection: sa.Connection, where: str) -> None:
    """``MUSTER-L030``: only tables of this program's version are read."""
    version = migrations.version_of(connection)
    if version != schema.VERSION:
        raise StoreError(
            "L030",
            f"the database is of version {version or 0}, this program backs up {schema.VERSION}",
            object=where,
            hint="Start a coordinator of this version on it first, or use the program that wrote it.",
        )


def is_empty(connection: sa.Connection) -> bool:
    """No row of anything, or no tables at all."""
    there = set(sa.inspect(connection).get_table_names())
    return all(
        connection.execute(sa.select(sa.literal(1)).select_from(table).limit(1)).first() is None
        for table in TABLES
        if table.name in there
    )


def put_back(place: Place, backup: Backup) -> None:
    """Everything that the database holds is replaced by the backup's rows, in one transaction. Blocks.

    ``MUSTER-L030`` for a backup of a version that this program does not read, ``L057`` for columns that it does not know.
    """
    version = backup.header.schema
    migrations.check(version, str(backup.path))
    defaults = migrations.defaults_since(version)
    for name, columns in backup.header.tables.items():
        added = {column for table, column in defaults if table == name}
        if name not in COLUMNS or set(columns) | added != set(COLUMNS[name]):
            raise StoreError(
                "L057", f"this is no whole backup: table {name[:40]!r} is unknown", object=str(backup.path)
            )
    with told(place), place.writing() as connection:
        migrations.upgrade(connection, place.name)
        for table in (*TABLES, schema.snapshots):
            connection.execute(sa.delete(table))
        # Whose it was is not whose it is: the next leader writes its CA and its name.
        migrations.keep_only(connection, ("version", "epoch"))
        try:
            for part in backup.rows():
                columns = backup.header.tables[part.table]
                _insert(connection, schema.metadata.tables[part.table], columns, part.rows, defaults)
        except (ValueError, sa.exc.IntegrityError) as error:
            raise StoreError(
                "L057", "this is no whole backup: a row is none of its table", object=str(backup.path)
            ) from error


def _insert(
    connection: sa.Connection,
    table: sa.Table,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    defaults: Mapping[tuple[str, str], object],
) -> None:
    """``ValueError`` for bytes that are none."""
    missing = {column: value for (of, column), value in defaults.items() if of == table.name}
    binary = {column.name for column in table.columns if isinstance(column.type, sa.LargeBinary)}
    values = [
        missing | {c: _value(v, c in binary) for c, v in zip(columns, row, strict=True)} for row in rows
    ]
    if values:
        connection.execute(sa.insert(table), values)


def _value(value: object, is_bytes: bool) -> object:
    return base64.b64decode(str(value), validate=True) if is_bytes else value
