"""Records as files of one folder: written beside, synced, renamed, the folder synced once for all of them.

Owns the atomicity, and the writing away from the loop: what is put together becomes durable together. A lock file keeps a
second agent out of the folder.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, unquote

import anyio
import anyio.to_thread
import msgspec
import structlog
from muster_core.errors import MusterError

log = structlog.get_logger()

R = TypeVar("R", bound=msgspec.Struct)
VERSION = 1
GATHER = 0.02  # seconds in which records come together before they are written
AGAIN = 5.0  # seconds until a write that failed is tried again


class StateError(MusterError):
    """The state folder cannot be used."""


class _Envelope(msgspec.Struct, frozen=True):
    version: int
    kind: str
    record: msgspec.Raw


class FileState:
    """The port on a folder that only its owner can read."""

    def __init__(self, folder: Path) -> None:
        """``MUSTER-K022`` for a folder that cannot be made or written, ``K021`` for one that another agent has."""
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StateError(
                "K022",
                f"the state folder cannot be used ({error.strerror})",
                object=str(folder),
                hint="Give a folder that this user may write.",
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise StateError("K021", "another agent uses this state folder", object=str(folder)) from error
        self._pending: dict[str, bytes | None] = {}
        self._writing = anyio.Lock()
        self._put = anyio.Event()

    async def run(self) -> None:
        """Writes what is put though nobody waits for it: a report made while the hub is away survives a kill."""
        while True:
            await self._put.wait()
            self._put = anyio.Event()
            await anyio.sleep(GATHER)
            while True:
                try:
                    await self.durable()
                    break
                except StateError as error:
                    log.warning("the state is not on disk yet", error=str(error))
                await anyio.sleep(AGAIN)

    def close(self) -> None:
        """What was put and is not on disk yet is written now."""
        try:
            self._write_all(self._pending)
        except OSError as error:
            raise _unwritten(self._folder, error) from error
        finally:
            os.close(self._lock)

    def _path(self, name: str) -> Path:
        return self._folder / f"{quote(name, safe='')}.json"

    def get(self, name: str, kind: type[R]) -> R | None:
        path = self._path(name)
        data: bytes | None
        if name in self._pending:
            data = self._pending[name]
        else:
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                data = None
            except OSError as error:
                raise StateError(
                    "K020", f"a state record cannot be read ({error.strerror})", object=str(path)
                ) from error
        if data is None:
            return None
        try:
            envelope = msgspec.json.decode(data, type=_Envelope)
            if envelope.version != VERSION or envelope.kind != kind.__name__:
                raise StateError(
                    "K020",
                    f"a state record ({envelope.kind}, version {envelope.version}) is not known here",
                    object=str(path),
                )
            return msgspec.json.decode(envelope.record, type=kind)
        except msgspec.MsgspecError as error:
            raise StateError(
                "K020",
                "a state record cannot be read",
                object=str(path),
                hint="Restore it, or remove it: the agent then starts from its anchor and reports that its state was lost.",
            ) from error

    def put(self, name: str, record: msgspec.Struct) -> None:
        envelope = _Envelope(VERSION, type(record).__name__, msgspec.Raw(msgspec.json.encode(record)))
        self._pending[name] = msgspec.json.encode(envelope)
        self._put.set()

    def remove(self, name: str) -> None:
        self._pending[name] = None
        self._put.set()

    async def durable(self) -> None:
        async with self._writing:
            if not self._pending:
                return
            taken = dict(self._pending)
            try:
                await anyio.to_thread.run_sync(self._write_all, taken)
            except OSError as error:
                raise _unwritten(self._folder, error) from error
            for name, data in taken.items():  # what was put again meanwhile stays to be written
                if self._pending.get(name, data) is data:
                    self._pending.pop(name, None)

    def _write_all(self, records: dict[str, bytes | None]) -> None:
        for name, data in list(records.items()):
            path = self._path(name)
            if data is None:
                path.unlink(missing_ok=True)
            else:
                _write(path, data)
        if records:
            self._sync_folder()

    def _sync_folder(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def names(self, prefix: str) -> list[str]:
        found = {unquote(path.name.removesuffix(".json")) for path in self._folder.glob("*.json")}
        for name, data in self._pending.items():
            (found.discard if data is None else found.add)(name)
        return sorted(name for name in found if name.startswith(prefix))


def _unwritten(folder: Path, error: OSError) -> StateError:
    return StateError(
        "K022",
        f"the state cannot be written ({error.strerror})",
        object=str(folder),
        retryable=True,
        hint="Make room, or mend the volume. Nothing is acted on before it is written.",
    )


def _write(path: Path, data: bytes) -> None:
    beside = path.with_suffix(".new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        while data:
            data = data[os.write(descriptor, data) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(beside, path)
