"""A backup is one moment of a database, whole or refused, and goes into either engine."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from click.testing import CliRunner, Result
from contract.store.places import Database, PostgresDatabase, SqliteFile, opened
from contract.store.test_migrations import before
from muster_coordinator import upkeep
from muster_coordinator.audit.heads import HeadRow
from muster_coordinator.store.backup import ROWS_A_LINE, Backup
from muster_coordinator.store.port import (
    Batch,
    EventRow,
    JoinRow,
    OperatorRow,
    ReportRow,
    SessionRow,
    SnapshotRow,
    StoreError,
    TokenRow,
)
from muster_coordinator.store.sql.store import SqlStore
from postgres import Postgres

EVENTS = 2 * ROWS_A_LINE + 1
KEYS = {"ca.crt": b"the certificate", "ca.key": b"the key", "admin-token": b"the token"}


@pytest.fixture
def other(request: pytest.FixtureRequest, database: Database, tmp_path: Path) -> Database:
    """An empty database of the other engine."""
    server: Postgres = request.getfixturevalue("postgres")
    if database.name == "sqlite":
        return PostgresDatabase(server, server.database())
    return SqliteFile(tmp_path / "there" / "muster.db")


def batch() -> Batch:
    found = Batch([EventRow("shop-0001", n, bytes(range(256))) for n in range(1, EVENTS + 1)])
    found.reports = {("a", "shop"): ReportRow("a", "shop", b"\x00report\xff")}
    found.sessions = {"a": SessionRow("a", "epoch", 2**60, 1, "0.1.0", "1.30")}
    found.joins = {"a": JoinRow("a", "uid", b"i", b"s", 1, b"g", b"csr", 1, "0.1.0", 2, 3, 4)}
    found.heads = {"cluster/a": HeadRow("cluster/a", 9, "a" * 64, 4, "b" * 64)}
    found.operators = {"1f": OperatorRow("1f", "ada", "operator", 10, 100)}
    found.snapshots = {"shop-0001": SnapshotRow("shop-0001", EVENTS, b"a cache")}  # no part of a backup
    return found


async def everything(store: SqlStore) -> list[object]:
    return [
        await store.streams(), await store.reports(), await store.sessions(), await store.joins(),
        await store.audit_heads(), await store.operators(), await store.tokens(),
    ]  # fmt: skip


def run(command: object, file: Path, database: Database, folder: Path, *more: str) -> Result:
    where = [f"--data-dir={folder}"]
    if isinstance(database, PostgresDatabase):
        url = folder.parent / "database.url"
        url.write_text(database.url)
        where.append(f"--database-file={url}")
    return CliRunner().invoke(command, [str(file), *where, *more])  # type: ignore[arg-type]


def folder_of(database: Database, tmp_path: Path, name: str) -> Path:
    found = database.path.parent if isinstance(database, SqliteFile) else tmp_path / name
    found.mkdir(exist_ok=True)
    return found


def code(result: Result) -> str:
    assert isinstance(result.exception, StoreError), result.output
    return result.exception.code


async def made(store: SqlStore, database: Database, tmp_path: Path) -> tuple[Path, list[object]]:
    """A backup of a database that is in use, and what it holds."""
    await store.commit(batch())
    await store.add_token(TokenRow("t1", "hash", "a", 10, 100, 50, "somebody"))
    folder, file = folder_of(database, tmp_path, "here"), tmp_path / "backup"
    for name, data in KEYS.items():
        (folder / name).write_bytes(data)
    (folder / "audit").mkdir()
    (folder / "audit" / "00000001.jsonl").write_bytes(b'{"seq":1}\n{"seq":2}\n{"se')
    result = await anyio.to_thread.run_sync(run, upkeep.backup, file, database, folder)
    assert result.exit_code == 0, result.exception
    return file, await everything(store)


async def test_what_is_put_back_is_what_was_there_whatever_the_engine(
    store: SqlStore, database: Database, other: Database, tmp_path: Path
) -> None:
    file, held = await made(store, database, tmp_path)
    assert file.stat().st_mode & 0o777 == 0o600
    there = tmp_path / "there"
    result = await anyio.to_thread.run_sync(run, upkeep.restore, file, other, there)
    assert result.exit_code == 0, result.exception
    assert f"Restored {EVENTS + 6} rows" in result.output
    restored = await opened(other)
    try:
        assert await everything(restored) == held
        assert await restored.snapshots() == []
    finally:
        await restored.close()
    assert {name: (there / name).read_bytes() for name in KEYS} == KEYS
    assert all((there / name).stat().st_mode & 0o777 == 0o600 for name in KEYS)
    # The entry that was being written is not there by half.
    assert (there / "audit" / "00000001.jsonl").read_bytes() == b'{"seq":1}\n{"seq":2}\n'


async def test_nothing_is_replaced_without_being_told_to(
    store: SqlStore, database: Database, tmp_path: Path
) -> None:
    file, held = await made(store, database, tmp_path)
    await store.commit(Batch([EventRow("newer-0001", 1, b"x")]))
    newer = await everything(store)
    await store.close()
    folder = folder_of(database, tmp_path, "here")
    assert code(await anyio.to_thread.run_sync(run, upkeep.restore, file, database, folder)) == "L058"
    again = await opened(database)
    assert await everything(again) == newer
    await again.close()
    (folder / "audit" / "00000001.jsonl").write_bytes(b'{"seq":3}\n')
    result = await anyio.to_thread.run_sync(run, upkeep.restore, file, database, folder, "--overwrite")
    assert result.exit_code == 0, result.exception
    again = await opened(database)
    try:
        assert await everything(again) == held
        assert await again.snapshots() == [], "one of the log that was replaced"
    finally:
        await again.close()
    assert (folder / "audit" / "00000001.jsonl").read_bytes() == b'{"seq":3}\n'  # never taken back
    if isinstance(database, SqliteFile):
        assert database.path.with_name("muster.db.before-restore").exists()


async def test_other_keys_in_the_folder_are_not_replaced_either(
    store: SqlStore, database: Database, tmp_path: Path
) -> None:
    file, _ = await made(store, database, tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "ca.key").write_bytes(b"another fleet's key")
    fresh = SqliteFile(empty / "muster.db")
    assert code(await anyio.to_thread.run_sync(run, upkeep.restore, file, fresh, empty)) == "L058"
    assert (empty / "ca.key").read_bytes() == b"another fleet's key"


async def test_a_database_that_is_led_is_not_restored(
    store: SqlStore, database: Database, tmp_path: Path
) -> None:
    file, held = await made(store, database, tmp_path)
    folder = folder_of(database, tmp_path, "here")

    def restore() -> Result:
        if not isinstance(database, SqliteFile):
            return run(upkeep.restore, file, database, folder, "--overwrite")
        with upkeep.files.claimed(folder):  # as a coordinator that runs has it
            return run(upkeep.restore, file, database, folder, "--overwrite")

    assert code(await anyio.to_thread.run_sync(restore)) == "L056"
    assert await everything(store) == held


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def no_end(data: bytes) -> bytes:
    return gzip.compress(b"".join(gzip.decompress(data).splitlines(keepends=True)[:-1]))


def one_row_less(data: bytes) -> bytes:
    lines = gzip.decompress(data).splitlines(keepends=True)
    place = next(n for n, line in enumerate(lines) if line.startswith(b'{"table":"events"'))
    part = json.loads(lines[place])
    part["rows"].pop()
    lines[place] = json.dumps(part, separators=(",", ":")).encode() + b"\n"
    return gzip.compress(b"".join(lines))


def more_behind(data: bytes) -> bytes:
    return gzip.compress(gzip.decompress(data) + b'{"file":"ca.key","data":""}\n')


def named(name: bytes) -> Callable[[bytes], bytes]:
    """The key under another name, and an end that fits."""

    def change(data: bytes) -> bytes:
        lines = gzip.decompress(data).replace(b'"file":"ca.key"', b'"file":"' + name + b'"')
        return gzip.compress(resealed(lines.splitlines(keepends=True)))

    return change


def of_its_own(data: bytes, change: Callable[[list[list[object]]], None]) -> bytes:
    """Other rows of events, and an end that fits them."""
    lines = gzip.decompress(data).splitlines(keepends=True)
    place = next(n for n, line in enumerate(lines) if line.startswith(b'{"table":"events"'))
    part = json.loads(lines[place])
    change(part["rows"])
    lines[place] = json.dumps(part, separators=(",", ":")).encode() + b"\n"
    return gzip.compress(resealed(lines))


def a_row_twice(data: bytes) -> bytes:
    return of_its_own(data, lambda rows: rows.append(rows[0]))


def no_bytes(data: bytes) -> bytes:
    return of_its_own(data, lambda rows: rows.append(["x-0001", 1, "*"]))


@pytest.mark.parametrize("damage", [
    cut, no_end, one_row_less, more_behind, a_row_twice, no_bytes,
    named(b"../key"), named(b"audit/.."), named(b"/key"), named(b"muster.db"),
    lambda data: b"", lambda data: b"text",
])  # fmt: skip
async def test_a_damaged_backup_is_refused_before_anything_is_touched(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    database = SqliteFile(tmp_path / "muster.db")
    store = await opened(database)
    file, held = await made(store, database, tmp_path)
    await store.close()
    file.write_bytes(damage(file.read_bytes()))
    result = await anyio.to_thread.run_sync(run, upkeep.restore, file, database, tmp_path, "--overwrite")
    assert code(result) == "L057"
    store = await opened(database)
    try:
        assert await everything(store) == held
    finally:
        await store.close()


@pytest.mark.parametrize(("was", "becomes", "refusal"), [
    (b'{"muster-backup":1,', b'{"muster-backup":2,', "L059"), (b'"schema":2', b'"schema":99', "L030"),
])  # fmt: skip
async def test_a_backup_of_a_newer_program_is_refused_by_name(
    tmp_path: Path, was: bytes, becomes: bytes, refusal: str
) -> None:
    database = SqliteFile(tmp_path / "muster.db")
    store = await opened(database)
    file, _ = await made(store, database, tmp_path)
    await store.close()
    lines = gzip.decompress(file.read_bytes()).replace(was, becomes, 1).splitlines(keepends=True)
    file.write_bytes(gzip.compress(resealed(lines)))
    there = tmp_path / "there"
    result = await anyio.to_thread.run_sync(run, upkeep.restore, file, SqliteFile(there / "muster.db"), there)
    assert code(result) == refusal


def resealed(lines: list[bytes]) -> bytes:
    """The same lines with a right end."""
    import hashlib

    body = b"".join(lines[:-1])
    end = {"sha256": hashlib.sha256(body).hexdigest(), "lines": len(lines) - 1}
    return body + json.dumps(end, separators=(",", ":")).encode() + b"\n"


async def test_a_backup_of_the_version_before_is_restored_with_what_its_rows_lack(
    store: SqlStore, database: Database, tmp_path: Path
) -> None:
    file, _ = await made(store, database, tmp_path)
    lines = gzip.decompress(file.read_bytes()).splitlines(keepends=True)
    header = json.loads(lines[0])
    header["schema"] = 1
    header["tables"]["joins"].remove("refused")
    lines[0] = json.dumps(header, separators=(",", ":")).encode() + b"\n"
    place = next(n for n, line in enumerate(lines) if line.startswith(b'{"table":"joins"'))
    part = json.loads(lines[place])
    part["rows"][0].pop()
    lines[place] = json.dumps(part, separators=(",", ":")).encode() + b"\n"
    file.write_bytes(gzip.compress(resealed(lines)))
    there = tmp_path / "there"
    fresh = SqliteFile(there / "muster.db")
    result = await anyio.to_thread.run_sync(run, upkeep.restore, file, fresh, there)
    assert result.exit_code == 0, result.exception
    restored = await opened(fresh)
    try:
        assert [(join.renewals, join.refused) for join in await restored.joins()] == [(3, 0)]
    finally:
        await restored.close()


async def test_a_backup_is_one_moment_while_the_coordinator_writes(
    store: SqlStore, database: Database, tmp_path: Path
) -> None:
    folder, file = folder_of(database, tmp_path, "here"), tmp_path / "backup"
    (folder / "ca.key").write_bytes(KEYS["ca.key"])
    await store.commit(Batch([EventRow("a", n, b"x" * 50) for n in range(1, 2_001)]))

    async def write() -> None:
        for n in range(2_001, 2_400):
            await store.commit(Batch([EventRow(stream, n, b"x") for stream in ("a", "b")]))

    async with anyio.create_task_group() as group:
        group.start_soon(write)
        result = await anyio.to_thread.run_sync(run, upkeep.backup, file, database, folder)
        assert result.exit_code == 0, result.exception
    found: dict[str, list[int]] = {"a": [], "b": []}
    for part in Backup.checked(file).rows():
        if part.table == "events":
            for stream, number, _ in part.rows:
                found[str(stream)].append(int(number))  # type: ignore[arg-type]
    # Both streams were written together, so that a moment has them alike.
    assert [n for n in found["a"] if n > 2_000] == found["b"]


async def test_no_backup_is_written_over_a_file_or_of_nothing(
    store: SqlStore, database: Database, tmp_path: Path
) -> None:
    file, _ = await made(store, database, tmp_path)
    kept = file.read_bytes()
    folder = folder_of(database, tmp_path, "here")
    assert code(await anyio.to_thread.run_sync(run, upkeep.backup, file, database, folder)) == "L066"
    assert file.read_bytes() == kept
    nowhere = SqliteFile(tmp_path / "nowhere" / "muster.db")
    result = await anyio.to_thread.run_sync(run, upkeep.backup, tmp_path / "b", nowhere, tmp_path / "nowhere")
    assert code(result) == "L058"
    (folder / "ca.key").unlink()  # agents would not believe what is restored from it
    result = await anyio.to_thread.run_sync(run, upkeep.backup, tmp_path / "b", database, folder)
    assert code(result) == "L058"
    assert not (tmp_path / "b").exists()


async def test_a_database_of_the_version_before_is_not_backed_up_by_half(tmp_path: Path) -> None:
    database = SqliteFile(tmp_path / "muster.db")
    before(database)
    (tmp_path / "ca.key").write_bytes(KEYS["ca.key"])
    result = await anyio.to_thread.run_sync(run, upkeep.backup, tmp_path / "b", database, tmp_path)
    assert code(result) == "L030"
    assert not (tmp_path / "b").exists()
