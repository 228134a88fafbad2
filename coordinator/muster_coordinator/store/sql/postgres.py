"""A PostgreSQL database that several coordinators know, of whom one leads.

Owns the seat: one session that holds the advisory lock and makes every write. Who loses the session can write nothing more,
and who takes the lock raises the epoch that each transaction checks, so that two never lead, whatever stands between them
and the server. The server itself ends the session of a leader that is silent (a frozen process keeps no seat). It never
decides what to do about a lost seat: the program ends.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import sqlalchemy as sa

from muster_coordinator.store.address import DatabaseUrl
from muster_coordinator.store.port import StoreError
from muster_coordinator.store.sql import migrations, schema
from muster_coordinator.store.sql.place import told

LOCK = 0x6D757374  # "must"; the other half of the key is the schema, so that two fleets can share a database
EPOCH = "epoch"
OLDEST_SERVER = 14
# Bounds of the client's side; what the URL says of them wins.
CLIENT = {
    "application_name": "muster",
    "connect_timeout": "5",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
}
# And of the server's, for the seat: it is asked once a second, so silence for this long is a leader that hangs or is cut off.
SILENCE_SECONDS = 20
SEAT = {
    "idle_session_timeout": f"{SILENCE_SECONDS}s",
    "idle_in_transaction_session_timeout": f"{SILENCE_SECONDS}s",
    "lock_timeout": "15s",
    "statement_timeout": "60s",
    "synchronous_commit": "on",
}
_MINE = sa.text("SELECT pg_try_advisory_lock(:lock, hashtext(current_schema()))")
_EPOCH = sa.select(schema.meta.c.value).where(schema.meta.c.key == EPOCH)
_FENCE = _EPOCH.with_for_update(read=True)


class PostgresPlace:
    """``try_lead`` takes the seat; only then can be written. Reads need no seat."""

    def __init__(self, url: DatabaseUrl) -> None:
        self.name, self._url = str(url), url
        known = sa.make_url(url.reveal())
        bounds = {key: value for key, value in CLIENT.items() if key not in known.query}
        self.engine = sa.create_engine(
            known, connect_args=bounds, pool_pre_ping=True, pool_size=5, paramstyle="format"
        )
        self._seat: sa.Connection | None = None
        self._epoch = ""
        self._lost = ""

    # --- the seat --------------------------------------------------------------------------------------------------

    def try_lead(self) -> bool:
        """Takes the seat if nobody has it. False while another coordinator leads."""
        with told(self):
            if self._seat is None:
                self._seat = self._sit()
            try:
                mine = bool(self._seat.execute(_MINE, {"lock": LOCK}).scalar_one())
                self._seat.commit()
            except sa.exc.DBAPIError:
                self.leave()
                raise
        return mine

    def begin_term(self, facts: Mapping[str, str]) -> None:
        """With the seat, on tables of this version: from here on what an earlier leader still sends is refused.

        ``facts`` are written down for those who wait.
        """
        with told(self), self.writing() as connection:
            term = int(migrations.setting(connection, EPOCH) or 0) + 1
            for key, value in {**facts, EPOCH: str(term)}.items():
                migrations.put_setting(connection, key, value)
        self._epoch = str(term)

    def facts(self) -> dict[str, str]:
        """What leaders wrote down; nothing in an empty database. ``MUSTER-L030`` for one that cannot be read."""
        with told(self), self.engine.connect() as connection:
            migrations.check(migrations.version_of(connection), self.name)
            if not sa.inspect(connection).has_table(schema.meta.name):
                return {}
            return {row.key: row.value for row in connection.execute(sa.select(schema.meta))}

    def _sit(self) -> sa.Connection:
        connection = self.engine.connect()
        try:
            number = int(connection.exec_driver_sql("SHOW server_version_num").scalar_one()) // 10_000
            if number < OLDEST_SERVER:
                raise StoreError(
                    "L052",
                    f"PostgreSQL {number} is too old, {OLDEST_SERVER} is the oldest that can be used",
                    object=self.name,
                )
            for name, value in SEAT.items():
                connection.exec_driver_sql(f"SET {name} = '{value}'")
            connection.commit()
        except BaseException:
            connection.invalidate()
            connection.close()
            raise
        return connection

    def leave(self) -> None:
        """Gives the seat up with its session."""
        seat, self._seat = self._seat, None
        if seat is not None:
            with contextlib.suppress(sa.exc.SQLAlchemyError):
                seat.invalidate()
            seat.close()

    def still_leads(self) -> None:
        """Asks on the seat's own session; ``MUSTER-L052`` or ``L054`` when it is lost. Nothing once it was given up."""
        if self._seat is None and not self._lost:
            return
        with told(self), self._term(_EPOCH):
            pass

    # --- transactions ------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction on the seat; refused by the server, or here, once the seat is lost."""
        with self._term(_FENCE) as connection:
            yield connection

    @contextlib.contextmanager
    def _term(self, fence: sa.Select[str]) -> Iterator[sa.Connection]:
        seat = self._seat
        if self._lost or seat is None:
            raise self._no_seat(self._lost or "it was never taken")
        try:
            # Never on a session that was made anew: an invalid one is not used again.
            with seat.begin():
                if self._epoch and seat.execute(fence).scalar_one_or_none() != self._epoch:
                    self._lost = "another coordinator leads"
                    raise StoreError(
                        "L054",
                        "another coordinator has taken the lead of this database",
                        object=self.name,
                        hint="This one ends; started again, it waits as a standby.",
                    )
                yield seat
        except sa.exc.DBAPIError as error:
            if error.connection_invalidated or seat.invalidated:
                self._lost = self._plain(error)
                raise self._no_seat(self._lost) from error
            raise

    def _no_seat(self, why: str) -> StoreError:
        return StoreError(
            "L052",
            f"the session that leads this database is gone ({why})",
            object=self.name,
            hint="This coordinator ends; started again, it waits as a standby or leads anew.",
        )

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[sa.Connection]:
        """Reads that see one moment, while others write."""
        with self.engine.connect() as connection:
            reading = connection.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
            with reading.begin():
                yield reading

    def keep_copy(self, mark: str) -> Path | None:
        """None is made: a server has backups of its own, and the change of its tables is one transaction."""
        return None

    def told(self, error: sa.exc.DBAPIError) -> StoreError:
        """What the server or the way to it does, as ``MUSTER-L052`` without anything secret."""
        return StoreError(
            "L052",
            f"the database cannot be reached or written ({self._plain(error)})",
            object=self.name,
            hint="Check that the server runs, the URL, the role's rights (it makes tables) and the room on its disk.",
            retryable=True,
        )

    def _plain(self, error: sa.exc.DBAPIError) -> str:
        return self._url.without_secrets(" ".join(str(error.orig).split())[:300])

    def close(self) -> None:
        """Who waits can lead as soon as this returns; the server ends a session in its own time."""
        if self._seat is not None and not self._lost:
            with contextlib.suppress(sa.exc.SQLAlchemyError), self._seat.begin():
                self._seat.exec_driver_sql("SELECT pg_advisory_unlock_all()")
        self.leave()
        self.engine.dispose()
