"""What the coordinator must not forget.

Owns the port: one batch of writes is one transaction, durable when ``commit`` returns. One contract suite runs on every
implementation (tests/contract/store). It never holds a secret: of a token only the hash is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
from muster_core.errors import MusterError

from muster_coordinator.audit.heads import HeadRow

EVERYTHING: Mapping[str, int] = {}


class StoreError(MusterError):
    """The database cannot be used, or holds what this program did not write."""


class TokenRow(msgspec.Struct, frozen=True):
    id: str
    digest: str
    cluster: str
    created: int
    expires: int
    used: int = 0
    identity: str = ""


class JoinRow(msgspec.Struct, frozen=True):
    """A join that was proven. ``issued`` is the time of the newest certificate, 0 while it waits; ``refused`` when an
    operator turned it down.
    """

    cluster: str
    uid: str
    identity: bytes
    sealing: bytes
    sealing_generation: int
    sealing_signature: bytes
    csr: bytes
    requested: int
    agent_version: str
    issued: int = 0
    renewals: int = 0
    refused: int = 0


class SessionRow(msgspec.Struct, frozen=True):
    """Where the numbering with an agent stands."""

    cluster: str
    epoch: str
    last_seq: int
    last_seen: int
    agent_version: str
    kubernetes_version: str


class ReportRow(msgspec.Struct, frozen=True):
    cluster: str
    bundle: str
    data: bytes


class EventRow(msgspec.Struct, frozen=True):
    """One event of a stream (a rollout's name, or ``catchup/<bundle>``); ``number`` rises by one within it."""

    stream: str
    number: int
    data: bytes


class SnapshotRow(msgspec.Struct, frozen=True):
    """What a stream's events up to ``number`` lead to: a cache of them, which may be missing or wrong at any time."""

    stream: str
    number: int
    data: bytes


class OperatorRow(msgspec.Struct, frozen=True):
    """An operator's client certificate; ``serial`` in hex, times in unix seconds, ``revoked`` 0 while it counts."""

    serial: str
    name: str
    role: str
    issued: int
    expires: int
    revoked: int = 0


@dataclass(slots=True)
class Batch:
    """Writes that become durable together. ``outdated`` are streams whose snapshot is dropped."""

    events: list[EventRow] = field(default_factory=list)
    reports: dict[tuple[str, str], ReportRow] = field(default_factory=dict)
    sessions: dict[str, SessionRow] = field(default_factory=dict)
    joins: dict[str, JoinRow] = field(default_factory=dict)
    heads: dict[str, HeadRow] = field(default_factory=dict)
    operators: dict[str, OperatorRow] = field(default_factory=dict)
    snapshots: dict[str, SnapshotRow] = field(default_factory=dict)
    outdated: set[str] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(
            self.events
            or self.reports
            or self.sessions
            or self.joins
            or self.heads
            or self.operators
            or self.snapshots
            or self.outdated
        )


class Store(Protocol):
    """Every call may raise only what the implementation cannot help (a full disk)."""

    async def commit(self, batch: Batch) -> None: ...

    async def add_token(self, token: TokenRow) -> None: ...

    async def consume_token(self, digest: str, cluster: str, identity: str, now: int) -> TokenRow | None:
        """Atomically: the token as it was before, marked used by ``identity`` if it was valid for ``cluster``."""
        ...

    async def tokens(self) -> Sequence[TokenRow]: ...

    async def joins(self) -> Sequence[JoinRow]: ...

    async def sessions(self) -> Sequence[SessionRow]: ...

    async def reports(self) -> Sequence[ReportRow]: ...

    async def audit_heads(self) -> Sequence[HeadRow]: ...

    async def operators(self) -> Sequence[OperatorRow]:
        """By the time of issue."""
        ...

    async def snapshots(self) -> Sequence[SnapshotRow]: ...

    async def streams(self, since: Mapping[str, int] = EVERYTHING) -> dict[str, list[EventRow]]:
        """All events, by stream, in order; of a stream in ``since`` its first one and those from that number on."""
        ...

    async def events(self, stream: str, after: int, limit: int) -> Sequence[EventRow]:
        """At most ``limit`` events of one stream with a higher number than ``after``, in order."""
        ...

    async def close(self) -> None: ...
