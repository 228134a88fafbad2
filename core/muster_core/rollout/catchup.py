"""Catching up: clusters that are owed a release after its rollout ended.

Owns one ledger per bundle, as a machine of its own log: who is owed which release, how many are caught up at a time, and
when too many failures stop it. It never offers a release that did not succeed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from muster_core.durations import resolve_count

FAILED_SHARE = "5%"


class CatchUpEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    at: float
    cluster: str


class Owed(CatchUpEvent, tag="owed"):
    """``origin`` is the rollout whose success made it so."""

    origin: str
    commit: str
    tree_digest: str


class Offered(CatchUpEvent, tag="offered"): ...


class Withdrawn(CatchUpEvent, tag="withdrawn"):
    """Out of contact before it acknowledged: owed as before."""


class Acknowledged(CatchUpEvent, tag="acknowledged"): ...


class Done(CatchUpEvent, tag="done"): ...


class Failed(CatchUpEvent, tag="failed"):
    message: str


class Dropped(CatchUpEvent, tag="dropped"):
    """No longer owed: the cluster left, or a rollout took it over."""


AnyCatchUpEvent = Owed | Offered | Withdrawn | Acknowledged | Done | Failed | Dropped
_DECODER = msgspec.json.Decoder(AnyCatchUpEvent)


def encode(event: CatchUpEvent) -> bytes:
    return msgspec.json.encode(event)


def decode(data: bytes) -> AnyCatchUpEvent:
    return _DECODER.decode(data)


@dataclass(slots=True)
class Debt:
    """What one cluster is owed."""

    cluster: str
    origin: str
    commit: str
    tree_digest: str
    state: str = "owed"
    since: float = 0.0
    message: str = ""


class CatchUp:
    """The ledger of one bundle."""

    def __init__(self, bundle: str) -> None:
        self.bundle = bundle
        self.debts: dict[str, Debt] = {}
        self.busy = 0
        self.failed = 0
        self._online: set[str] = set()

    @classmethod
    def replay(cls, bundle: str, log: Iterable[AnyCatchUpEvent]) -> CatchUp:
        ledger = cls(bundle)
        for event in log:
            ledger.apply(event)
        return ledger

    def max_failed(self) -> int:
        return max(1, resolve_count(FAILED_SHARE, len(self.debts), rounding="down"))

    @property
    def stopped(self) -> bool:
        """Too many caught-up clusters failed; nothing more is offered."""
        return self.failed > self.max_failed()

    def owe(self, cluster: str, origin: str, commit: str, tree_digest: str, now: float) -> list[AnyCatchUpEvent]:
        """The newest succeeded release wins over an older debt; an equal one changes nothing."""
        debt = self.debts.get(cluster)
        if debt and debt.tree_digest == tree_digest:
            return []
        return self._emit(Owed(at=now, cluster=cluster, origin=origin, commit=commit, tree_digest=tree_digest))

    def drop(self, cluster: str, now: float) -> list[AnyCatchUpEvent]:
        return self._emit(Dropped(at=now, cluster=cluster)) if cluster in self.debts else []

    def contact(self, cluster: str, online: bool, now: float) -> list[AnyCatchUpEvent]:
        (self._online.add if online else self._online.discard)(cluster)
        debt = self.debts.get(cluster)
        if debt and debt.state == "offered" and not online:
            return self._emit(Withdrawn(at=now, cluster=cluster))
        return []

    def acknowledged(self, cluster: str, now: float) -> list[AnyCatchUpEvent]:
        debt = self.debts.get(cluster)
        return self._emit(Acknowledged(at=now, cluster=cluster)) if debt and debt.state == "offered" else []

    def reported(self, cluster: str, tree_digest: str, outcome: str, message: str, now: float) -> list[AnyCatchUpEvent]:
        """``outcome`` as in a rollout: only healthy and failed or returned settle a debt."""
        debt = self.debts.get(cluster)
        if not debt or debt.tree_digest != tree_digest or debt.state not in {"offered", "acknowledged", "owed"}:
            return []
        if outcome == "healthy":
            return self._emit(Done(at=now, cluster=cluster))
        if outcome in {"failed", "returned"}:
            return self._emit(Failed(at=now, cluster=cluster, message=message))
        return []

    def offers(self, max_in_flight: int, now: float) -> list[AnyCatchUpEvent]:
        """As many offers to clusters in contact as the limit allows, in name order."""
        out: list[AnyCatchUpEvent] = []
        if self.stopped:
            return out
        for cluster in sorted(self._online & self.debts.keys()):
            if self.busy >= max_in_flight:
                break
            if self.debts[cluster].state == "owed":
                out += self._emit(Offered(at=now, cluster=cluster))
        return out

    def owed(self) -> list[Debt]:
        """Everybody who is not settled."""
        return [debt for debt in self.debts.values() if debt.state != "failed"]

    def _emit(self, event: AnyCatchUpEvent) -> list[AnyCatchUpEvent]:
        self.apply(event)
        return [event]

    def apply(self, event: AnyCatchUpEvent) -> None:
        """The one function of live path and replay; O(1)."""
        debt = self.debts.get(event.cluster)
        if debt:
            self.busy -= debt.state in {"offered", "acknowledged"}
            self.failed -= debt.state == "failed"
        match event:
            case Owed():
                debt = Debt(event.cluster, event.origin, event.commit, event.tree_digest)
                self.debts[event.cluster] = debt
            case Done() | Dropped():
                self.debts.pop(event.cluster, None)
                return
            case Failed() if debt:
                debt.state, debt.message = "failed", event.message
            case Offered() if debt:
                debt.state = "offered"
            case Acknowledged() if debt:
                debt.state = "acknowledged"
            case Withdrawn() if debt:
                debt.state = "owed"
            case _:
                return
        if debt:
            debt.since = event.at
            self.busy += debt.state in {"offered", "acknowledged"}
            self.failed += debt.state == "failed"
