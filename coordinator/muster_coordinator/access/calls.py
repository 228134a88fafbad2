"""Every call of the operator API: let in or not, and written down with who made it.

Owns what the audit log says about a call. A call that changes something is on disk before it is answered; one by nobody that
is known is not written there, or a stranger could fill the log: the link module logs and counts it. It never sees the wire.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import ContextVar

from google.protobuf.message import Message
from muster_core.audit.actions import ACTIONS
from muster_core.errors import LinkError
from muster_core.terminal import has_controls
from muster_core.times import format_time
from muster_host.auditlog import AuditLog

from muster_coordinator.access.errors import DeniedError
from muster_coordinator.access.principal import Access, Credentials, Principal
from muster_coordinator.access.roles import Role, least_role

CALLER: ContextVar[Principal] = ContextVar("caller")
"""Who makes the call that runs now: set by the interceptor, read by the API (``started_by``, actions)."""

MAX_TEXT = 4096
LAST = 253402300800  # the year 10000: what cannot be written as a time is refused by whoever is asked
_NAMES = ("rollout", "bundle", "cluster", "name", "id")


class Calls:
    """What the interceptor asks before and tells after each call."""

    def __init__(self, access: Access, audit: AuditLog) -> None:
        self._access, self._audit = access, audit

    async def enter(self, method: str, credentials: Credentials) -> Principal:
        """The caller; sets :data:`CALLER`. A call that is denied to somebody known is written down."""
        principal = await self._access.identify(credentials)
        try:
            self._access.allow(method, principal)
        except DeniedError as error:
            self._record(method, principal, "denied", {"code": f"MUSTER-{error.code}"}, "")
            raise
        CALLER.set(principal)
        return principal

    @staticmethod
    def check_texts(request: Message) -> None:
        """``MUSTER-L084`` for a text that no log and no terminal should get: all of them are kept, and shown to others."""
        for field, value in request.ListFields():
            if isinstance(value, str) and (len(value) > MAX_TEXT or has_controls(value)):
                what = (
                    f"longer than {MAX_TEXT} signs"
                    if len(value) > MAX_TEXT
                    else "with control characters in it"
                )
                raise LinkError(
                    "L084", f"a text is {what}", object=field.name, hint="Write a line of plain text."
                )

    async def still(self, method: str, credentials: Credentials) -> None:
        """Raises when the credential of a stream that goes on no longer holds; written down only as its end."""
        await self._access.authorize(method, credentials)

    async def leave(
        self, method: str, principal: Principal, request: Message, result: str, code: str
    ) -> None:
        """The call was answered, or a stream begins. ``result`` as in the table of results, ``code`` of the error or empty.

        ``MUSTER-K030`` when the log cannot be written.
        """
        detail = dict(_details(request)) | {"code": code}
        name = next((text for field in _NAMES if (text := _text(request, field))), "")
        self._record(method, principal, result, detail, name)
        if least_role(method) != Role.VIEWER:
            await self._audit.flush()

    def _record(
        self, method: str, principal: Principal, result: str, detail: dict[str, str], name: str
    ) -> None:
        verb = method.rpartition("/")[2]
        self._audit.record(
            "call",
            actor=principal.name,
            object=f"{verb} {name}".rstrip(),
            result=result,
            role=principal.role.word,
            how=principal.how,
            **detail,
        )


def _text(request: Message, field: str) -> str:
    descriptor = request.DESCRIPTOR.fields_by_name.get(field)
    if descriptor is None or descriptor.is_repeated:
        return ""
    if descriptor.enum_type is not None:
        value = descriptor.enum_type.values_by_number.get(getattr(request, field))
        return value.name if value else str(getattr(request, field))
    value = getattr(request, field)
    return value if isinstance(value, str) else ""


def _details(request: Message) -> Iterator[tuple[str, str]]:
    """The fields of a request that the table of actions has a place for; an ``action`` is a ``verb`` there, and
    ``until_unix`` the time ``until``.
    """
    for field in sorted(ACTIONS["call"] - {"code", "role", "how", "until"}):
        if text := _text(request, "action" if field == "verb" else field):
            yield field, text
    until = getattr(request, "until_unix", 0)
    if 0 < until < LAST:
        yield "until", format_time(until)
