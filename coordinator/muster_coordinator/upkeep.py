"""``muster backup`` and ``muster restore``: the coordinator's database and its few files in one file, and back.

Owns the two commands and their order: a backup is one moment of the database while the coordinator runs; a restore happens
only when none runs, checks the whole file first, and replaces nothing without being told to.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import click

from muster_coordinator import folder as files
from muster_coordinator.options import chosen, database_options
from muster_coordinator.store.address import DatabaseUrl
from muster_coordinator.store.port import StoreError

if TYPE_CHECKING:
    from muster_coordinator.store.backup import Backup
    from muster_coordinator.store.sql.place import Place

KEPT = (*files.AUTHORITY, *files.OVERLAP, files.ADMIN_TOKEN)
DATA_DIR = click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="The coordinator's data folder.",
)
FILE = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))


def _place(data: Path, database: DatabaseUrl | None) -> Place:
    from muster_coordinator.store.sql.postgres import PostgresPlace
    from muster_coordinator.store.sql.sqlite import SqlitePlace

    return PostgresPlace(database) if database else SqlitePlace(data / files.DATABASE)


@click.command()
@FILE
@DATA_DIR
@database_options
def backup(
    file: Path, data_dir: Path, database: DatabaseUrl | None, database_file: DatabaseUrl | None
) -> int:
    """Write a backup of a coordinator to FILE, while it runs.

    It holds: every row of the database (joins, sessions, reports, rollouts, debts, directives, operators, hashes of tokens)
    as of one moment; ca.crt, ca.key and those beside them; admin-token; the coordinator's audit log. It holds no cluster's
    credential and no secret of a bundle, and not the copy of the fleet repository, which is fetched anew. Who has FILE can
    speak as this coordinator: it is made readable for its owner only.

    \b
    Example:
      muster backup hub.backup --data-dir hub

    Next: muster restore into an empty folder shows whether it is good.
    """
    from muster_coordinator.store.backup import FORMAT, Header, written
    from muster_coordinator.store.sql import dump, schema
    from muster_coordinator.store.sql.place import told

    url = chosen(database, database_file)
    wanted = (files.AUTHORITY[1],) if url else (files.DATABASE, files.AUTHORITY[1])
    missing = next((name for name in wanted if not (data_dir / name).exists()), None)
    if missing:
        raise StoreError(
            "L058",
            f"there is no {missing} to back up",
            object=str(data_dir),
            hint="Pass the folder that `muster serve --data-dir` was given, and --database where it was given one.",
        )
    place, count = _place(data_dir, url), 0
    try:
        with told(place), place.snapshot() as connection, written(file) as out:
            dump.require_current(connection, place.name)
            engine = place.engine.dialect.name
            program, now = version("muster-fleet"), int(time.time())
            out.header(Header(FORMAT, schema.VERSION, program, now, engine, dump.COLUMNS))
            for table, rows in dump.rows_of(connection):
                out.rows(table, rows)
                count += len(rows)
            for name, data in _files(data_dir):
                out.file(name, data)
    finally:
        place.close()
    size = file.stat().st_size
    click.echo(f"Wrote {count} rows and the coordinator's keys to {file} ({size} bytes). Keep it secret.")
    return 0


def _files(data: Path) -> Iterator[tuple[str, bytes]]:
    for name in KEPT:
        if (data / name).exists():
            yield name, (data / name).read_bytes()
    if (data / files.AUDIT).exists():
        for path in sorted((data / files.AUDIT).iterdir()):
            # An entry that is being written is left out.
            whole, newline, _ = path.read_bytes().rpartition(b"\n")
            if whole:
                yield f"{files.AUDIT}/{path.name}", whole + newline


@click.command()
@FILE
@DATA_DIR
@database_options
@click.option(
    "--overwrite",
    is_flag=True,
    help="Replace what the database and the data folder hold (a copy of a file is kept).",
)
def restore(
    file: Path,
    data_dir: Path,
    database: DatabaseUrl | None,
    database_file: DatabaseUrl | None,
    overwrite: bool,
) -> int:
    """Make a stopped coordinator what it was when FILE was written.

    The file is checked as a whole before anything is touched. A database that holds anything, or other keys in the data
    folder, are replaced only with --overwrite. FILE may come from the other kind of database. An audit log that is there
    stays: it is never taken back. Agents that were told more than the backup knows are noticed when they come (MUSTER-L046),
    and none of them goes back because of it.

    \b
    Example:
      muster restore hub.backup --data-dir rehearsal

    Next: muster serve with that folder.
    """
    from muster_coordinator.store.backup import Backup
    from muster_coordinator.store.sql import dump
    from muster_coordinator.store.sql.place import told

    whole = Backup.checked(file)
    url = chosen(database, database_file)
    with files.claimed(data_dir):
        place = _place(data_dir, url)
        try:
            with _led(place):
                with told(place), place.engine.connect() as connection:
                    empty = dump.is_empty(connection)
                other = _others(data_dir, whole)
                if not overwrite and (other or not empty):
                    raise _not_empty(place.name if not empty else str(data_dir / other[0]))
                if not empty:
                    with told(place):
                        kept = place.keep_copy("before-restore")
                    if kept:
                        click.echo(f"What was there is kept as {kept}.")
                dump.put_back(place, whole)
                audited = _put_files(data_dir, whole)
        finally:
            place.close()
    made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(whole.header.made))
    click.echo(f"Restored {sum(whole.counts.values())} rows of {made}. Start the coordinator: muster serve …")
    if not audited:
        click.echo("The audit log that was there stays as it is.")
    return 0


@contextmanager
def _led(place: Place) -> Iterator[None]:
    """With the seat of a shared database: nobody leads it meanwhile."""
    from muster_coordinator.store.sql.postgres import PostgresPlace

    if isinstance(place, PostgresPlace) and not place.try_lead():
        raise StoreError(
            "L056",
            "a coordinator leads this database",
            object=place.name,
            hint="Stop every coordinator of it first.",
        )
    yield


def _others(data: Path, whole: Backup) -> list[str]:
    """Keys in the data folder that are not the backup's."""
    return [
        name
        for name in KEPT
        if (data / name).exists() and (data / name).read_bytes() != whole.files.get(name)
    ]


def _not_empty(where: str) -> StoreError:
    return StoreError(
        "L058",
        "there is something already that a restore would replace",
        object=where,
        hint="Nothing was changed. To replace it: the same command with --overwrite.",
    )


def _put_files(data: Path, whole: Backup) -> bool:
    """The keys, and the audit log where there is none; whether the log was put back."""
    audit = data / files.AUDIT
    audited = not (audit.exists() and any(audit.iterdir()))
    for name in KEPT:
        if name not in whole.files:
            (data / name).unlink(missing_ok=True)
    for name, content in whole.files.items():
        if name in KEPT or audited:
            target = data / name
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            partial = target.with_name(f".{target.name}.part")
            partial.unlink(missing_ok=True)
            with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
                out.write(content)
                out.flush()
                os.fsync(out.fileno())
            partial.replace(target)
    return audited
