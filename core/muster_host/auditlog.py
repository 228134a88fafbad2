"""A program's audit log on disk: the agent's in its state folder, the coordinator's beside its database and no part of it.

Owns the file calls and the batching of syncs; the chain, its segments and what may be written are the core's. It never blocks
the event loop on a disk, and never tells a head that a crash could take back.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import anyio
import anyio.to_thread
import structlog
from muster_core.audit.chain import Entry, Head, decode
from muster_core.audit.journal import SEGMENT_BYTES, TOTAL_BYTES, Batch, Journal, Remove
from muster_core.errors import MusterError, ValidationError

log = structlog.get_logger()
RETRY_SECONDS = 5.0


class AuditError(MusterError):
    """The log cannot be written."""


class AuditLog:
    """Entries of one writer, on disk in ``folder``. ``clock`` gives seconds since 1970. Made by :meth:`open`."""

    def __init__(self, folder: Path, journal: Journal, clock: Callable[[], float]) -> None:
        self._folder, self._journal, self._clock = folder, journal, clock
        self._lock, self._news = anyio.Lock(), anyio.Event()

    @classmethod
    async def open(
        cls,
        folder: Path,
        writer: str,
        clock: Callable[[], float],
        segment_bytes: int = SEGMENT_BYTES,
        total_bytes: int = TOTAL_BYTES,
    ) -> AuditLog:
        """Repaired after a crash, with an entry that says so; the first entry of this run is on disk.

        ``MUSTER-V062`` when the folder holds another writer's log, ``MUSTER-K030`` when it cannot be written.
        """

        def load() -> Journal:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            sizes = {file.name: file.stat().st_size for file in os.scandir(folder) if file.is_file()}
            return Journal(
                writer, sizes, partial(_read, folder), int(clock() * 1000), segment_bytes, total_bytes
            )

        audit = cls(folder, await anyio.to_thread.run_sync(load), clock)
        audit.record("log-started", actor=writer, object="muster", version=version("muster-fleet"))
        await audit.flush()
        return audit

    @property
    def head(self) -> Head:
        """The newest entry that is on disk: what reports carry."""
        return self._journal.durable

    @property
    def recovered(self) -> Head:
        """What the folder held when it was opened: whoever knows a newer head knows that the folder is an old copy."""
        return self._journal.recovered

    def record(
        self,
        action: str,
        *,
        actor: str,
        object: str,  # noqa: A002 - the entry's own word
        result: str = "ok",
        **detail: str,
    ) -> Entry:
        """Written soon (:meth:`run`), or now (:meth:`flush`). Texts are cut to their bounds; empty details are left out.

        ``MUSTER-V060`` for a detail that this action must not have, ``MUSTER-V063`` when the disk takes nothing any more.
        """
        entry = self._journal.record(
            self._now(), action, actor=actor, object=object, result=result, detail=detail
        )
        self._news.set()
        return entry

    def acknowledge(self, seq: int) -> None:
        """Somebody else durably keeps the head up to ``seq``: older segments may be dropped when space is needed."""
        self._journal.acknowledge(seq)

    async def flush(self) -> None:
        """Returns when everything recorded so far is on disk; calls at the same time share one sync.

        ``MUSTER-K030`` when it cannot be written; nothing is forgotten, the next flush tries again.
        """
        wanted = self._journal.newest.seq
        async with self._lock:
            if self._journal.durable.seq >= wanted:
                return
            batch = self._journal.take(self._now())
            try:
                await anyio.to_thread.run_sync(self._perform, batch)  # a cancelled caller still sees its end
            except OSError as error:
                raise AuditError(
                    "K030",
                    f"the audit log cannot be written ({error.strerror})",
                    object=str(self._folder),
                    retryable=True,
                ) from error
            self._journal.done(batch)

    async def lines(self, after: int = 0) -> AsyncIterator[bytes]:
        """Entries after the number ``after`` up to now, as they are on disk; what was changed there is given as it is."""
        await self.flush()
        until = self.head.seq
        for name in self._journal.segments(after):
            for line in (await anyio.to_thread.run_sync(_read, self._folder, name)).splitlines(keepends=True):
                try:
                    seq = decode(line).seq
                except ValidationError:
                    seq = until  # a verification names it; a line that is being written now has no end
                if after < seq <= until and line.endswith(b"\n"):
                    yield line

    async def run(self) -> None:
        """Writes what was recorded, until it is cancelled; then writes what is left."""
        try:
            while True:
                await self._news.wait()
                self._news = anyio.Event()
                if not await self._try():
                    self._news.set()
                    await anyio.sleep(RETRY_SECONDS)
        finally:
            with anyio.CancelScope(shield=True):
                await self._try()

    async def _try(self) -> bool:
        try:
            await self.flush()
        except AuditError as error:
            log.error("the audit log waits for the disk", error=str(error))
            return False
        return True

    def _now(self) -> int:
        return int(self._clock() * 1000)

    def _perform(self, batch: Batch) -> None:
        for command in batch.commands:
            path = self._folder / command.segment
            if isinstance(command, Remove):
                path.unlink(missing_ok=True)
            else:
                with open(path, "ab", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
                    file.truncate(command.at)
                    file.write(command.data)
                    file.flush()
                    os.fsync(file.fileno())
            if isinstance(command, Remove) or command.at == 0:
                descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)


def _read(folder: Path, name: str, limit: int = -1) -> bytes:
    with (folder / name).open("rb") as file:
        return file.read(limit)
