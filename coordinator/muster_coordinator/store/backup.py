"""The form of a backup: one compressed file with every row and the coordinator's few files, checked by its own hash.

Lines of JSON. The first says what it is: ``{"muster-backup": 1, "schema": 2, …, "tables": {"joins": ["cluster", …]}}``;
then rows (``{"table": "joins", "rows": [[…]]}``, bytes in base64) and files (``{"file": "ca.crt", "data": "…"}``); the last
one has the SHA-256 of all before it. Nothing of it depends on the engine: a backup of one is restored into another as well.
Owns writing and checking the file. It reads no database and no data folder.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import msgspec

from muster_coordinator.store.port import StoreError

FORMAT = 1
ROWS_A_LINE = 200
MAX_LINE = 64 << 20
MAX_FILES = 256 << 20
NAMES = re.compile(
    r"ca\.crt|ca\.key|ca-next\.crt|ca-next\.key|ca-previous\.crt|admin-token|audit/[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
)


class Header(msgspec.Struct, frozen=True, rename={"format": "muster-backup"}):
    """``made`` in unix seconds; ``tables`` has the columns of each, in the order of its rows; ``engine`` it is from."""

    format: int
    schema: int
    program: str
    made: int
    engine: str
    tables: dict[str, list[str]]


class Rows(msgspec.Struct, frozen=True):
    table: str
    rows: list[list[str | int | None]]


class File(msgspec.Struct, frozen=True):
    file: str
    data: bytes


class Trailer(msgspec.Struct, frozen=True):
    sha256: str
    lines: int


class Writer:
    """Made by :func:`written`."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out, self._hash, self._lines = out, hashlib.sha256(), 0

    def _line(self, record: msgspec.Struct) -> None:
        data = msgspec.json.encode(record) + b"\n"
        self._hash.update(data)
        self._lines += 1
        self._out.write(data)

    def header(self, header: Header) -> None:
        self._line(header)

    def rows(self, table: str, rows: Sequence[Sequence[Any]]) -> None:
        """Values are texts, integers and bytes."""
        self._line(Rows(table, [list(row) for row in rows]))

    def file(self, name: str, data: bytes) -> None:
        if not NAMES.fullmatch(name):
            raise ValueError(f"{name} is no file of a backup")
        self._line(File(name, data))

    def end(self) -> None:
        self._line(Trailer(self._hash.hexdigest(), self._lines))


@contextmanager
def written(path: Path) -> Iterator[Writer]:
    """A new file for its owner only, there as a whole when the block ends well. ``MUSTER-L066`` when there is one already."""
    if path.exists():
        raise StoreError(
            "L066",
            "a backup is not written over a file that is there",
            object=str(path),
            hint="Name another file.",
        )
    partial = path.with_name(f".{path.name}.part")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as raw:
            with gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as out:
                writer = Writer(out)  # type: ignore[arg-type]
                yield writer
                writer.end()
            raw.flush()
            os.fsync(raw.fileno())
        os.link(partial, path)  # unlike a rename it replaces nothing
    except FileExistsError:
        raise StoreError(
            "L066", "a backup is not written over a file that is there", object=str(path)
        ) from None
    finally:
        partial.unlink(missing_ok=True)


class Backup:
    """A file whose every line was checked. ``counts`` are rows by table; ``files`` the data of each."""

    def __init__(
        self, path: Path, header: Header, counts: Mapping[str, int], files: Mapping[str, bytes]
    ) -> None:
        self.path, self.header, self.counts, self.files = path, header, counts, files

    @classmethod
    def checked(cls, path: Path) -> Backup:
        """``MUSTER-L057`` for what is no backup, was cut or was changed, ``L059`` for one of a newer form."""
        lines = _lines(path)
        first = next(lines, b"")
        try:
            version = msgspec.json.decode(first, type=dict[str, msgspec.Raw]).get("muster-backup")
            number = msgspec.json.decode(bytes(version)) if version is not None else None
            if isinstance(number, int) and number > FORMAT:
                raise StoreError(
                    "L059",
                    f"the backup has form {number}, this program reads {FORMAT}",
                    object=str(path),
                    hint="Restore it with the program that wrote it, or a newer one.",
                )
            header = msgspec.json.decode(first, type=Header)
        except msgspec.MsgspecError as error:
            raise _no_backup(path, "its first line is no header") from error
        if header.format != FORMAT:
            raise _no_backup(path, "its first line is no header")
        digest, count = hashlib.sha256(first), 1
        counts: dict[str, int] = dict.fromkeys(header.tables, 0)
        files: dict[str, bytes] = {}
        for line in lines:
            record = _record(path, line)
            if isinstance(record, Trailer):
                if (record.sha256, record.lines) != (digest.hexdigest(), count):
                    raise _no_backup(path, "its hash is not that of its lines")
                if next(lines, None) is not None:
                    raise _no_backup(path, "something follows its end")
                return cls(path, header, counts, files)
            digest.update(line)
            count += 1
            if isinstance(record, Rows):
                width = len(header.tables.get(record.table, ()))
                if not width or any(len(row) != width for row in record.rows):
                    raise _no_backup(
                        path, f"rows of {record.table[:40]!r} are not those that its header names"
                    )
                counts[record.table] += len(record.rows)
            elif NAMES.fullmatch(record.file) and record.file not in files:
                files[record.file] = record.data
                if sum(map(len, files.values())) > MAX_FILES:
                    raise _no_backup(path, f"its files have more than {MAX_FILES >> 20} MiB")
            else:
                raise _no_backup(path, f"{record.file[:40]!r} is no file of a backup")
        raise _no_backup(path, "its end is missing")

    def rows(self) -> Iterator[Rows]:
        """Read again from the file, so that memory holds a line at a time."""
        for line in _lines(self.path):
            if line.startswith(b'{"table":'):
                record = _record(self.path, line)
                if isinstance(record, Rows):
                    yield record


def _record(path: Path, line: bytes) -> Rows | File | Trailer:
    try:
        if line.startswith(b'{"table":'):
            return msgspec.json.decode(line, type=Rows)
        if line.startswith(b'{"file":'):
            return msgspec.json.decode(line, type=File)
        return msgspec.json.decode(line, type=Trailer)
    except msgspec.MsgspecError as error:
        raise _no_backup(path, "a line is not one of a backup") from error


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with gzip.open(path, "rb") as source:
            while line := source.readline(MAX_LINE):
                if not line.endswith(b"\n"):
                    raise _no_backup(path, "a line has no end")
                yield line
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise _no_backup(path, "it is no compressed file, or was cut") from error


def _no_backup(path: Path, why: str) -> StoreError:
    return StoreError(
        "L057",
        f"this is no whole backup: {why}",
        object=str(path),
        hint="Nothing was changed. Take another copy of it, or an older backup.",
    )
