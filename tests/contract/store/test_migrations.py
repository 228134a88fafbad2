"""A database of the program before is taken over as it is, in one transaction; of a newer one nothing is touched."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from contract.store.places import Database, SqliteFile, opened
from muster_coordinator.store.port import JoinRow, StoreError, TokenRow
from muster_coordinator.store.sql import migrations

# As version 1 made them.
VERSION_1 = """
CREATE TABLE meta (key VARCHAR NOT NULL, value VARCHAR NOT NULL, PRIMARY KEY (key));
CREATE TABLE tokens (
  id VARCHAR NOT NULL, digest VARCHAR NOT NULL, cluster VARCHAR NOT NULL, created BIGINT NOT NULL, expires BIGINT NOT NULL,
  used BIGINT NOT NULL, identity VARCHAR NOT NULL, PRIMARY KEY (id), UNIQUE (digest));
CREATE TABLE joins (
  cluster VARCHAR NOT NULL, uid VARCHAR NOT NULL, identity {bytes} NOT NULL, sealing {bytes} NOT NULL,
  sealing_generation BIGINT NOT NULL, sealing_signature {bytes} NOT NULL, csr {bytes} NOT NULL, requested BIGINT NOT NULL,
  agent_version VARCHAR NOT NULL, issued BIGINT NOT NULL, renewals BIGINT NOT NULL, PRIMARY KEY (cluster));
CREATE TABLE sessions (
  cluster VARCHAR NOT NULL, epoch VARCHAR NOT NULL, last_seq BIGINT NOT NULL, last_seen BIGINT NOT NULL,
  agent_version VARCHAR NOT NULL, kubernetes_version VARCHAR NOT NULL, PRIMARY KEY (cluster));
CREATE TABLE reports (
  cluster VARCHAR NOT NULL, bundle VARCHAR NOT NULL, data {bytes} NOT NULL, PRIMARY KEY (cluster, bundle));
CREATE TABLE events (stream VARCHAR NOT NULL, number BIGINT NOT NULL, data {bytes} NOT NULL, PRIMARY KEY (stream, number));
INSERT INTO meta VALUES ('version', '1');
INSERT INTO tokens VALUES ('t1', 'hash', 'berlin-04', 10, 100, 0, '');
INSERT INTO joins VALUES ('berlin-04', 'uid', {ab}, {ab}, 1, {ab}, {ab}, 1, '0.1.0', 5, 7);
INSERT INTO events VALUES ('shop-0001', 1, {ab});
"""


def before(database: Database) -> None:
    sqlite = database.name == "sqlite"
    words = {"bytes": "BLOB", "ab": "X'6162'"} if sqlite else {"bytes": "BYTEA", "ab": "'\\x6162'::bytea"}
    database.script(VERSION_1.format(**words))


async def test_a_database_of_version_1_is_taken_over_with_every_row(database: Database) -> None:
    before(database)
    store = await opened(database)
    try:
        assert await store.joins() == [
            JoinRow("berlin-04", "uid", b"ab", b"ab", 1, b"ab", b"ab", 1, "0.1.0", 5, 7, refused=0)
        ]
        assert await store.tokens() == [TokenRow("t1", "hash", "berlin-04", 10, 100)]
        assert [row.data for row in (await store.streams())["shop-0001"]] == [b"ab"]
        assert (await store.operators(), await store.audit_heads()) == ([], [])
    finally:
        await store.close()
    assert database.rows("SELECT value FROM meta WHERE key = 'version'") == [("2",)]


async def test_a_step_that_fails_changes_nothing(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    before(database)
    step = migrations.STEPS[2]
    monkeypatch.setitem(
        migrations.STEPS,
        2,
        step._replace(statements=(*step.statements, "ALTER TABLE nowhere ADD COLUMN a BIGINT")),
    )
    with pytest.raises(StoreError):
        await opened(database)
    assert database.rows("SELECT value FROM meta WHERE key = 'version'") == [("1",)]
    assert len(database.rows("SELECT * FROM joins")[0]) == 11  # and no column more
    monkeypatch.undo()
    store = await opened(database)
    try:
        assert len(await store.joins()) == 1
    finally:
        await store.close()


async def test_a_file_is_copied_before_it_is_changed(tmp_path: Path) -> None:
    database = SqliteFile(tmp_path / "muster.db")
    before(database)
    (tmp_path / "copying.db").write_bytes(b"of a start that was killed")
    await (await opened(database)).close()
    copy = tmp_path / "muster.db.v1"
    assert copy.stat().st_mode & 0o777 == 0o600
    with sqlite3.connect(copy) as connection:
        assert connection.execute("SELECT value FROM meta").fetchall() == [("1",)]
        assert connection.execute("SELECT cluster FROM joins").fetchall() == [("berlin-04",)]
    connection.close()
    copy.unlink()
    await (await opened(database)).close()
    assert not copy.exists()  # nothing to change, nothing to copy
    assert not (tmp_path / "copying.db").exists()


async def test_a_database_older_than_what_can_be_read_is_refused(database: Database) -> None:
    before(database)
    database.script("UPDATE meta SET value = '0' WHERE key = 'version'")
    with pytest.raises(StoreError, match="one after the other"):
        await opened(database)
