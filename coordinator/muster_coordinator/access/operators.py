"""The client certificates of operators: issued, known by their serial number, revoked.

Owns the books of what was issued. A certificate counts only while it stands in them: one that the CA signed some
other way, or whose row was lost with the database, is nobody's, and the admin token makes a new one. It never sees a
private key.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable

import msgspec
from muster_core.errors import ValidationError

from muster_coordinator.access.errors import UnauthenticatedError
from muster_coordinator.access.roles import Role
from muster_coordinator.enrol.x509 import Authority, Issued
from muster_coordinator.store.port import Batch, OperatorRow, Store

DEFAULT_DAYS = 30
_NAME = re.compile(r"[A-Za-z0-9._@+-]{1,128}")


class OperatorBooks:
    """``clock`` gives unix seconds. Made by :meth:`open`."""

    def __init__(
        self, store: Store, authority: Authority, clock: Callable[[], float], rows: dict[str, OperatorRow]
    ) -> None:
        self._store, self._authority, self._clock, self._rows = store, authority, clock, rows

    @classmethod
    async def open(cls, store: Store, authority: Authority, clock: Callable[[], float]) -> OperatorBooks:
        return cls(store, authority, clock, {row.serial: row for row in await store.operators()})

    async def issue(self, name: str, role: str, days: int, csr_der: bytes) -> Issued:
        """A certificate that is in the books; ``days`` 0 means 30. ``MUSTER-V065``, ``J021``, ``J022`` for what cannot be."""
        if not _NAME.fullmatch(name):
            raise ValidationError(
                "V065",
                "an operator's name has 1 to 128 letters, digits and ._@+-",
                object=name[:128],
            )
        try:
            word = Role.parse(role).word
        except ValueError as error:
            raise ValidationError("V065", str(error), object=name) from error
        now = self._clock()
        life = dt.timedelta(days=days or DEFAULT_DAYS)
        issued = self._authority.operator(csr_der, name, word, life, dt.datetime.fromtimestamp(now, dt.UTC))
        await self._keep(OperatorRow(issued.serial, name, word, int(now), int(issued.expires.timestamp())))
        return issued

    async def revoke(self, name: str) -> list[OperatorRow]:
        """Every certificate of ``name`` that still counted; durable when this returns."""
        now = self._clock()
        counted = [
            row for row in self._rows.values() if row.name == name and self._state(row, now) == "Valid"
        ]
        revoked = [msgspec.structs.replace(row, revoked=int(now)) for row in counted]
        await self._keep(*revoked)
        return revoked

    def all(self) -> list[tuple[OperatorRow, str]]:
        """Every row with its state (Valid, Expired, Revoked), oldest first."""
        now = self._clock()
        return [(row, self._state(row, now)) for row in self._rows.values()]

    def require(self, serial: str, name: str) -> None:
        """``MUSTER-L064`` unless this certificate counts now: also on a connection that is older than its end."""
        row = self._rows.get(serial)
        state = (
            self._state(row, self._clock()) if row and row.name == name else "not one of this coordinator's"
        )
        if state != "Valid":
            raise UnauthenticatedError(
                "L064",
                f"the client certificate is {state.lower()}",
                object=name,
                hint="Have a new one made: muster operator certificate NAME --role ROLE.",
            )

    @staticmethod
    def _state(row: OperatorRow, now: float) -> str:
        return "Revoked" if row.revoked else "Expired" if row.expires <= now else "Valid"

    async def _keep(self, *rows: OperatorRow) -> None:
        if rows:
            await self._store.commit(Batch(operators={row.serial: row for row in rows}))
            self._rows |= {row.serial: row for row in rows}
