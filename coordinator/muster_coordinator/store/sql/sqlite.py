"""A database file beside the coordinator: WAL, full sync, one writer, BEGIN IMMEDIATE.

Owns how a connection is prepared, how a transaction begins and ends, and the copy that is made before the tables change.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from muster_coordinator.store.port import StoreError

PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=5000", "foreign_keys=ON")


class SqlitePlace:
    """``path`` is made when it is not there."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)
        self.engine = sa.create_engine(f"sqlite:///{path}")

        @sa.event.listens_for(self.engine, "connect")
        def prepare(connection: Any, _: object) -> None:
            cursor = connection.cursor()
            for pragma in PRAGMAS:
                cursor.execute(f"PRAGMA {pragma}")
            cursor.close()

    @contextlib.contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction: kept when the block ends well, else as if nothing was done."""
        with self._transaction("BEGIN IMMEDIATE") as connection:
            yield connection

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[sa.Connection]:
        """Reads that see one moment, while others write."""
        with self._transaction("BEGIN") as connection:
            yield connection

    @contextlib.contextmanager
    def _transaction(self, begin: str) -> Iterator[sa.Connection]:
        with self.engine.connect() as connection:
            connection.exec_driver_sql(begin)
            try:
                yield connection
                connection.exec_driver_sql("COMMIT")
            except BaseException:
                # A full disk ends the transaction by itself; then there is nothing to roll back.
                with contextlib.suppress(sa.exc.DBAPIError):
                    connection.exec_driver_sql("ROLLBACK")
                raise

    def keep_copy(self, mark: str) -> Path | None:
        """The database as it is, whole and by itself, as ``muster.db.<mark>``; an older copy of this mark is replaced."""
        copy, partial = self.path.with_name(f"{self.path.name}.{mark}"), self.path.with_name("copying.db")
        partial.unlink(missing_ok=True)
        with self.engine.connect() as connection:
            connection.exec_driver_sql("VACUUM INTO ?", (str(partial),))
        partial.chmod(0o600)
        return partial.replace(copy)

    def told(self, error: sa.exc.DBAPIError) -> StoreError:
        """What the disk does to the driver, as ``MUSTER-L031`` that names the file."""
        return StoreError(
            "L031",
            f"the database cannot be read or written ({error.orig})",
            object=self.name,
            hint="Make room on the disk, or mend its permissions. A damaged one: move it away, then "
            "restore a backup, or start, and it is rebuilt from Git and from what agents report.",
        )

    def close(self) -> None:
        self.engine.dispose()
