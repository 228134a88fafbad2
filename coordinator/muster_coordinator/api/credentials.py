"""Operators' certificates, as administrators deal with them.

Owns issuing, listing and revoking as calls, and what the audit log says of each. The key is the caller's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from muster_host.auditlog import AuditLog
from muster_proto.v1 import operator_pb2 as op

from muster_coordinator.access.calls import CALLER
from muster_coordinator.access.operators import OperatorBooks
from muster_coordinator.api.answers import NotFoundError
from muster_coordinator.store.port import OperatorRow


@dataclass(slots=True)
class CredentialApi:
    """``link_address`` is where a client certificate is taken."""

    books: OperatorBooks
    audit: AuditLog
    ca_pem: bytes
    link_address: Callable[[], str]

    async def issue(self, request: op.IssueCertificateRequest) -> op.OperatorCertificate:
        issued = await self.books.issue(request.name, request.role, request.days, request.csr_der)
        self._record(
            "certificate-issued",
            request.name,
            serial=issued.serial,
            granted=request.role,
            until=issued.expires.isoformat(),
        )
        return op.OperatorCertificate(
            certificate_pem=issued.certificate,
            serial=issued.serial,
            expires_unix=int(issued.expires.timestamp()),
            ca_pem=self.ca_pem,
            link_address=self.link_address(),
        )

    def list(self) -> op.OperatorList:
        return op.OperatorList(operators=[_entry(row, state) for row, state in self.books.all()])

    async def revoke(self, request: op.RevokeOperatorRequest) -> op.OperatorList:
        revoked = await self.books.revoke(request.name)
        if not revoked:
            raise NotFoundError(
                "L044",
                "no certificate of this operator counts",
                object=request.name,
                hint="muster operator list",
            )
        for row in revoked:
            self._record("certificate-revoked", row.name, serial=row.serial, reason=request.reason)
        return op.OperatorList(operators=[_entry(row, "Revoked") for row in revoked])

    def _record(self, action: str, name: str, **detail: str) -> None:
        caller = CALLER.get()
        self.audit.record(
            action,
            actor=caller.name,
            object=f"operator/{name}",
            role=caller.role.word,
            how=caller.how,
            **detail,
        )


def _entry(row: OperatorRow, state: str) -> op.OperatorEntry:
    return op.OperatorEntry(
        name=row.name,
        role=row.role,
        serial=row.serial,
        issued_unix=row.issued,
        expires_unix=row.expires,
        revoked_unix=row.revoked,
        state=state,
    )
