"""The audit log and the heads of all writers, as operators see them.

Owns the calls behind ``muster audit``. Lines go out as they are on disk: who reads them judges them, not this program.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from muster_host.auditlog import AuditLog
from muster_proto.v1 import operator_pb2 as op

from muster_coordinator.access.calls import CALLER
from muster_coordinator.api.answers import NotFoundError
from muster_coordinator.audit.heads import HeadRow
from muster_coordinator.audit.keeper import HeadKeeper


@dataclass(slots=True)
class AuditApi:
    audit: AuditLog
    keeper: HeadKeeper
    writer: str

    async def lines(self, request: op.ListAuditRequest) -> AsyncIterator[op.AuditLine]:
        async for line in self.audit.lines(request.after):
            yield op.AuditLine(line=line)

    async def heads(self) -> op.AuditHeadList:
        """The coordinator's own first; it is on disk."""
        await self.audit.flush()
        own = op.AuditHead(writer=self.writer, seq=self.audit.head.seq, hash=self.audit.head.hash)
        return op.AuditHeadList(heads=[own, *(_head(row) for row in self.keeper.heads.all)])

    async def acknowledge(self, request: op.AcknowledgeHeadRequest) -> op.AuditHead:
        before = await self.keeper.acknowledge(request.name)
        if before is None:
            raise NotFoundError("L045", "no alarm is open for this writer", object=request.name)
        caller = CALLER.get()
        self.audit.record(
            "head-acknowledged",
            actor=caller.name,
            object=request.name,
            role=caller.role.word,
            how=caller.how,
            known=str(before.seq),
            told=str(before.told_seq),
            known_hash=before.hash,
            told_hash=before.told_hash,
            reason=request.reason,
        )
        return op.AuditHead(writer=request.name, seq=before.told_seq, hash=before.told_hash)


def _head(row: HeadRow) -> op.AuditHead:
    return op.AuditHead(
        writer=row.writer, seq=row.seq, hash=row.hash, told_seq=row.told_seq, told_hash=row.told_hash
    )
