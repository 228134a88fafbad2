"""From the database of an older program to this one's tables, in one transaction.

Owns the steps between versions and the check of a database's version. A step is statements that both engines read, and the
values of columns that older rows lack (a restored backup needs them as well). It never goes back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import sqlalchemy as sa

from muster_coordinator.store.port import StoreError
from muster_coordinator.store.sql import schema


class Step(NamedTuple):
    """What makes a database of the version before into one of this. New tables need no step: they are made if missing."""

    statements: tuple[str, ...] = ()
    defaults: Mapping[tuple[str, str], object] = {}


STEPS: dict[int, Step] = {
    2: Step(
        ("ALTER TABLE joins ADD COLUMN refused BIGINT NOT NULL DEFAULT 0",),
        {("joins", "refused"): 0},
    ),
}
OLDEST = schema.VERSION - len(STEPS)


def version_of(connection: sa.Connection) -> int | None:
    """Of the database's tables; None when it has none of ours."""
    if not sa.inspect(connection).has_table(schema.meta.name):
        return None
    found = setting(connection, "version")
    return int(found) if found is not None and found.isdigit() else None


def check(version: int | None, where: str) -> None:
    """``MUSTER-L030`` for what this program does not read."""
    if version is None or OLDEST <= version <= schema.VERSION:
        return
    newer = version > schema.VERSION
    raise StoreError(
        "L030",
        f"the database is of version {version}, this program reads {OLDEST} to {schema.VERSION}",
        object=where,
        hint="Start the program that wrote it, or a newer one."
        if newer
        else "Start the programs between, one after the other.",
    )


def upgrade(connection: sa.Connection, where: str) -> None:
    """Makes the tables that are missing and takes every step that is; all in the caller's transaction."""
    found = version_of(connection)
    check(found, where)
    if found is not None:
        for version in range(found + 1, schema.VERSION + 1):
            for statement in STEPS[version].statements:
                connection.exec_driver_sql(statement)
    schema.metadata.create_all(connection)
    put_setting(connection, "version", str(schema.VERSION))


def defaults_since(version: int) -> dict[tuple[str, str], object]:
    """Values of (table, column) that rows of this older version lack."""
    found: dict[tuple[str, str], object] = {}
    for later in range(version + 1, schema.VERSION + 1):
        found.update(STEPS[later].defaults)
    return found


def setting(connection: sa.Connection, key: str) -> str | None:
    """A row of ``meta``."""
    found = connection.execute(sa.select(schema.meta.c.value).where(schema.meta.c.key == key)).first()
    return str(found[0]) if found else None


def put_setting(connection: sa.Connection, key: str, value: str) -> None:
    table = schema.meta
    changed = connection.execute(sa.update(table).where(table.c.key == key).values(value=value))
    if not changed.rowcount:
        connection.execute(sa.insert(table), [{"key": key, "value": value}])


def keep_only(connection: sa.Connection, keys: Sequence[str]) -> None:
    connection.execute(sa.delete(schema.meta).where(schema.meta.c.key.not_in(keys)))
