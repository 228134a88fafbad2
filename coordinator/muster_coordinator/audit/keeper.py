"""Keeps the newest audit head of every agent on disk, tells agents what is kept, and raises the alarm when one goes back.

Owns the order: a head is durable before it is acknowledged (an agent may then drop older entries), and none is
acknowledged to a writer whose alarm is open. Batches are its own: a beat never waits for them. It compares nothing
itself (``heads``).
"""

from __future__ import annotations

from collections.abc import Callable

import anyio
import structlog
from muster_core.audit.chain import Head
from muster_host.auditlog import AuditLog

from muster_coordinator.audit.heads import AgentHeads, Alarm, HeadRow
from muster_coordinator.store.port import Batch, Store

log = structlog.get_logger()
PAUSE_SECONDS = 1.0
HASH_BYTES = 32


class HeadKeeper:
    """Made by :meth:`open`; ``alarmed`` and ``settled`` hear of alarms, ``kept`` of numbers by writer that became durable."""

    def __init__(self, store: Store, audit: AuditLog, heads: AgentHeads) -> None:
        self._store, self._audit, self.heads = store, audit, heads
        self._durable = {row.writer: row.seq for row in heads.all if not row.alarmed}
        self._news = anyio.Event()
        self.alarmed: Callable[[Alarm], None] = lambda alarm: None
        self.settled: Callable[[str], None] = lambda writer: None
        self.kept: Callable[[dict[str, int]], None] = lambda kept: None

    @classmethod
    async def open(cls, store: Store, audit: AuditLog) -> HeadKeeper:
        return cls(store, audit, AgentHeads(await store.audit_heads()))

    def told(self, writer: str, seq: int, digest: bytes) -> None:
        """What an agent's hello or beat says, also of a log that has no entry yet; nothing when it says nothing of it."""
        if len(digest) != HASH_BYTES or seq >= 2**63:
            return
        alarm = self.heads.told(writer, Head(seq, digest.hex()))
        if alarm is not None:
            self._durable.pop(writer, None)
            log.error("an audit log went back", writer=writer, error=alarm.message)
            self._audit.record("head-alarm", actor=writer, object=writer, result="refused", **alarm.detail)
            self.alarmed(alarm)
        self._news.set()

    def acknowledged(self, writer: str) -> int:
        """How far this writer's head is on disk here, 0 while its alarm is open."""
        return self._durable.get(writer, 0)

    async def acknowledge(self, writer: str) -> HeadRow | None:
        """An operator knows why it went back; the row as it was, None when no alarm is open. Durable when this returns."""
        before = self.heads.acknowledge(writer)
        if before is not None:
            await self._commit()
            self.settled(writer)
        return before

    async def run(self) -> None:
        """For ever; a store that cannot be written ends the program, as it does everywhere else."""
        while True:
            await self._news.wait()
            self._news = anyio.Event()
            await self._commit()
            await anyio.sleep(PAUSE_SECONDS)  # heads of many agents go into one batch

    async def _commit(self) -> None:
        changed = self.heads.changed()
        if not changed:
            return
        try:
            await self._store.commit(Batch(heads=changed))
        except BaseException:
            self.heads.again(changed)
            raise
        kept = dict[str, int]()
        for row in changed.values():
            if self.heads.alarm(row.writer) is None:  # also none that came while it was written
                self._durable[row.writer] = row.seq
                kept[row.writer] = row.seq
        if kept:
            self.kept(kept)
