"""Catching up: clusters that are owed a release after its rollout ended.

Owns one ledger per bundle, as a machine of its own log: who is owed which release, how many are caught up at a time, and when
too many failures stop it. Among them is the return ledger: clusters that were away while a release was taken back, and hold
it still. It is told only releases that succeeded (:func:`debts_after` says which), so an aborted release is never caught up.
It never reads a clock and never offers to a cluster that is out of contact.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from muster_core.durations import resolve_count
from muster_core.rollout.answers import SHORTEST_DEFERRAL
from muster_core.rollout.machine import RolloutMachine

FAILED_SHARE = "5%"
BUSY = frozenset({"offered", "acknowledged"})
NOT_REACHED = frozenset({"owed", "waiting", "deferred", "skipped"})
HARMED = frozenset({"failed", "lost"})


class Succeeded(NamedTuple):
    """A release that a rollout brought to its end; ``origin`` is that rollout."""

    origin: str
    commit: str
    tree_digest: str


class CatchUpEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    at: float
    cluster: str


class Owed(CatchUpEvent, frozen=True, kw_only=True, tag="owed"):
    """``origin`` is the rollout whose success made it so; ``entry`` the digest of a registry entry that changed since.

    ``returns``: the rollout whose release the cluster holds and has to give back for this one.
    """

    origin: str
    commit: str
    tree_digest: str
    entry: str = ""
    returns: str = ""


class Offered(CatchUpEvent, frozen=True, kw_only=True, tag="offered"):
    """To be sent; it is withdrawn at ``until`` if nothing acknowledges it."""

    until: float


class Withdrawn(CatchUpEvent, frozen=True, kw_only=True, tag="withdrawn"):
    """Not acknowledged in time, out of contact before, a rollout starts, or what it was postponed to came: owed as before,
    its slot free."""


class Acknowledged(CatchUpEvent, frozen=True, kw_only=True, tag="acknowledged"):
    """It has until ``until`` to become healthy."""

    until: float


class Deferred(CatchUpEvent, frozen=True, kw_only=True, tag="deferred"):
    """Nobody was heard while the coordinator was away: its clock does not fire before ``until``."""

    until: float


class Postponed(CatchUpEvent, frozen=True, kw_only=True, tag="postponed"):
    """Its site takes nothing before ``until``; its slot is free."""

    until: float


class Done(CatchUpEvent, frozen=True, kw_only=True, tag="done"): ...


class Failed(CatchUpEvent, frozen=True, kw_only=True, tag="failed"):
    message: str


class Lost(CatchUpEvent, frozen=True, kw_only=True, tag="lost"):
    """Acknowledged, then silent past its deadline: harm, until it reports."""


class Dropped(CatchUpEvent, frozen=True, kw_only=True, tag="dropped"):
    """No longer owed: the cluster left, or a newer rollout reached it."""


AnyCatchUpEvent = (
    Owed | Offered | Withdrawn | Acknowledged | Deferred | Postponed | Done | Failed | Lost | Dropped
)
_DECODER = msgspec.json.Decoder(AnyCatchUpEvent)


def encode(event: CatchUpEvent) -> bytes:
    return msgspec.json.encode(event)


def decode(data: bytes) -> AnyCatchUpEvent:
    """``msgspec.DecodeError`` for what is no event of a ledger."""
    event: AnyCatchUpEvent = _DECODER.decode(data)
    return event


@dataclass(frozen=True, slots=True)
class Settlement:
    """What the end of a rollout means for its bundle's ledger. ``returns``: which of ``owe`` give back which rollout's."""

    owe: tuple[tuple[str, Succeeded], ...]
    drop: tuple[str, ...]
    returns: Mapping[str, str] = field(default_factory=dict)


def debts_after(machine: RolloutMachine, last_succeeded: Succeeded | None) -> Settlement:
    """For a rollout that has ended.

    Succeeded: its owed targets are owed this release. Ended otherwise: they are owed the last one that succeeded, if there is
    one; and where the healthy ones are taken back, those that took the release and fell silent are owed their return. Older
    debts of clusters that it never reached stand; those of others are gone.
    """
    started = machine.started
    if machine.state == "Succeeded":
        last_succeeded = Succeeded(started.rollout, started.commit, started.tree_digest)
    owed = [cluster for cluster, target in machine.targets.items() if target.state == "owed"]
    reached = [c for c, target in machine.targets.items() if target.state not in NOT_REACHED]
    if last_succeeded is None:
        return Settlement((), tuple(reached))
    returns = dict.fromkeys(machine.returns_owed(), machine.name)
    if started.returns:  # they were healthy on what is taken back
        returns |= dict.fromkeys(owed, started.returns)
    owe = dict.fromkeys([*owed, *returns], last_succeeded)
    return Settlement(tuple(owe.items()), tuple(reached), returns)


@dataclass(slots=True)
class Debt:
    """What one cluster is owed. ``until`` is when its clock fires; ``returns`` as in :class:`Owed`."""

    cluster: str
    origin: str
    commit: str
    tree_digest: str
    entry: str = ""
    returns: str = ""
    state: str = "owed"
    since: float = 0.0
    until: float | None = None
    message: str = ""


class CatchUp:
    """The ledger of one bundle. ``deadline`` and ``offer_for`` (seconds) are those of the bundle's plan."""

    def __init__(self, bundle: str, *, deadline: float = 900.0, offer_for: float = 900.0) -> None:
        self.bundle = bundle
        self.failed_share: str | int = FAILED_SHARE
        self.deadline = deadline
        self.offer_for = offer_for
        self.debts: dict[str, Debt] = {}
        self.busy = 0
        self.harmed = 0
        self.base = 0  # debts of this round, settled ones included: what the share of failures is of
        self._timers: list[tuple[float, str]] = []
        self._ready: dict[str, None] = {}  # owed, in order of becoming so
        self._online: set[str] = set()

    @classmethod
    def replay(
        cls, bundle: str, log: Iterable[AnyCatchUpEvent], *, deadline: float = 900.0, offer_for: float = 900.0
    ) -> CatchUp:
        ledger = cls(bundle, deadline=deadline, offer_for=offer_for)
        for event in log:
            ledger.apply(event)
        return ledger

    # --- questions -------------------------------------------------------------------------------

    def max_failed(self) -> int:
        return max(1, resolve_count(self.failed_share, self.base, rounding="down"))

    @property
    def stopped(self) -> bool:
        """Too many failed or fell silent: nothing more is offered until a newer release reaches them."""
        return self.harmed > self.max_failed()

    def owed(self) -> list[Debt]:
        """Everybody who is not settled."""
        return [debt for debt in self.debts.values() if debt.state not in HARMED]

    def offer_to(self, cluster: str) -> Debt | None:
        """Its offer, if one stands: what is sent again when it connects."""
        debt = self.debts.get(cluster)
        return debt if debt and debt.state in BUSY else None

    def next_wake(self) -> float | None:
        while self._timers:
            at, cluster = self._timers[0]
            debt = self.debts.get(cluster)
            if debt and debt.until == at:
                return at
            heapq.heappop(self._timers)
        return None

    # --- inputs ----------------------------------------------------------------------------------

    def owe(
        self, cluster: str, release: Succeeded, now: float, entry: str = "", returns: str = ""
    ) -> list[AnyCatchUpEvent]:
        """The newest succeeded release wins over an older debt; an equal one changes nothing.

        ``entry`` is given when the cluster's registry entry changed: the same release is then owed with the new one.
        ``returns`` names the rollout whose release the cluster holds, where that was taken back.
        """
        debt = self.debts.get(cluster)
        known = debt and debt.tree_digest == release.tree_digest
        if debt and known and entry in ("", debt.entry) and returns in ("", debt.returns):
            return []
        origin, commit, tree_digest = release
        return self._emit(
            Owed(
                at=now,
                cluster=cluster,
                origin=origin,
                commit=commit,
                tree_digest=tree_digest,
                entry=entry,
                returns=returns,
            )
        )

    def settle(self, settlement: Settlement, now: float) -> list[AnyCatchUpEvent]:
        """Takes over what :func:`debts_after` found."""
        out = [event for cluster in settlement.drop for event in self.drop(cluster, now)]
        for cluster, release in settlement.owe:
            out += self.owe(cluster, release, now, returns=settlement.returns.get(cluster, ""))
        return out

    def give_way(self, clusters: Iterable[str], now: float) -> list[AnyCatchUpEvent]:
        """A rollout of the bundle starts: their offers are withdrawn, their debts stand until it ends.

        Offer to nobody of them meanwhile (``may`` of :meth:`offers`); :func:`debts_after` settles them.
        """
        busy = [cluster for cluster in clusters if self.offer_to(cluster)]
        return [event for cluster in busy for event in self._emit(Withdrawn(at=now, cluster=cluster))]

    def drop(self, cluster: str, now: float) -> list[AnyCatchUpEvent]:
        return self._emit(Dropped(at=now, cluster=cluster)) if cluster in self.debts else []

    def contact(self, cluster: str, online: bool, now: float) -> list[AnyCatchUpEvent]:
        (self._online.add if online else self._online.discard)(cluster)
        debt = self.debts.get(cluster)
        if debt and debt.state == "offered" and not online:
            return self._emit(Withdrawn(at=now, cluster=cluster))
        return []

    def acknowledged(self, cluster: str, origin: str, now: float) -> list[AnyCatchUpEvent]:
        """``origin`` is the rollout that the offer named. A late answer to a withdrawn offer counts."""
        debt = self.debts.get(cluster)
        if not debt or debt.origin != origin or debt.state not in {"offered", "owed", "deferred"}:
            return []
        return self._emit(Acknowledged(at=now, cluster=cluster, until=now + self.deadline))

    def refused(self, cluster: str, origin: str, message: str, now: float) -> list[AnyCatchUpEvent]:
        debt = self.debts.get(cluster)
        if not debt or debt.origin != origin or debt.state in HARMED:
            return []
        return self._emit(Failed(at=now, cluster=cluster, message=message))

    def reported(
        self, cluster: str, tree_digest: str, outcome: str, message: str, now: float
    ) -> list[AnyCatchUpEvent]:
        """``outcome`` as in a rollout: only healthy, failed and returned settle a debt."""
        debt = self.debts.get(cluster)
        if not debt or debt.tree_digest != tree_digest or debt.state == "failed":
            return []
        if outcome == "healthy":
            return self._emit(Done(at=now, cluster=cluster))
        if outcome in {"failed", "returned"}:
            return self._emit(Failed(at=now, cluster=cluster, message=message))
        return []

    def postponed(self, cluster: str, origin: str, until: float, now: float) -> list[AnyCatchUpEvent]:
        """The agent's answer while its site's window is closed: not before ``until``, and not for a minute."""
        debt = self.debts.get(cluster)
        if not debt or debt.origin != origin or debt.state not in {"offered", "owed", "acknowledged"}:
            return []
        until = max(until, now + SHORTEST_DEFERRAL)
        return self._emit(Postponed(at=now, cluster=cluster, until=until))

    def reconnecting(self, now: float, until: float) -> list[AnyCatchUpEvent]:
        """After a replay: clocks that ran while nobody listened do not fire before ``until``."""
        due = [d for d in self.debts.values() if d.state in BUSY and d.until is not None and d.until < until]
        return [e for d in due for e in self._emit(Deferred(at=now, cluster=d.cluster, until=until))]

    def tick(self, now: float) -> list[AnyCatchUpEvent]:
        """What is past its time: offers are withdrawn, the acknowledged are failed or lost."""
        out: list[AnyCatchUpEvent] = []
        while (at := self.next_wake()) is not None and at <= now:
            cluster = heapq.heappop(self._timers)[1]
            if self.debts[cluster].state in {"offered", "deferred"}:
                out += self._emit(Withdrawn(at=now, cluster=cluster))
            elif cluster in self._online:
                out += self._emit(Failed(at=now, cluster=cluster, message="not healthy in time"))
            else:
                out += self._emit(Lost(at=now, cluster=cluster))
        return out

    def offers(
        self, max_in_flight: int, now: float, may: Callable[[Debt], bool] = lambda debt: True
    ) -> list[AnyCatchUpEvent]:
        """As many offers to clusters in contact as the limit allows: returns first, then the longest owed.

        ``may`` says no to members of the bundle's running rollout: one release changes at a time on one cluster.
        """
        out: list[AnyCatchUpEvent] = []
        if self.stopped:
            return out
        small, large = (
            (self._ready, self._online)
            if len(self._ready) < len(self._online)
            else (self._online, self._ready)
        )
        able = [cluster for cluster in small if cluster in large and may(self.debts[cluster])]
        able.sort(key=lambda cluster: (not self.debts[cluster].returns, self.debts[cluster].since, cluster))
        for cluster in able[: max(0, max_in_flight - self.busy)]:
            out += self._emit(Offered(at=now, cluster=cluster, until=now + self.offer_for))
        return out

    # --- the one function of live path and replay ------------------------------------------------

    def _emit(self, event: AnyCatchUpEvent) -> list[AnyCatchUpEvent]:
        self.apply(event)
        return [event]

    def apply(self, event: AnyCatchUpEvent) -> None:
        """O(log n)."""
        debt = self.debts.get(event.cluster)
        if isinstance(event, Deferred):
            if debt:
                debt.until = event.until
                heapq.heappush(self._timers, (event.until, event.cluster))
            return
        if debt:
            self.busy -= debt.state in BUSY
            self.harmed -= debt.state in HARMED
            self._ready.pop(event.cluster, None)
            debt.until = None
        match event:
            case Owed():
                self.base = self.base + (debt is None) if self.debts else 1
                origin, commit, digest = event.origin, event.commit, event.tree_digest
                debt = Debt(event.cluster, origin, commit, digest, event.entry, event.returns)
                self.debts[event.cluster] = debt
            case Done() | Dropped():
                self.debts.pop(event.cluster, None)
                return
            case Failed() if debt:
                debt.state, debt.message = "failed", event.message
            case Lost() if debt:
                debt.state, debt.message = "lost", "acknowledged, then silent"
            case Offered() | Acknowledged() if debt:
                debt.state = "offered" if isinstance(event, Offered) else "acknowledged"
                debt.until = event.until
                heapq.heappush(self._timers, (event.until, event.cluster))
            case Postponed() if debt:
                debt.state, debt.until = "deferred", event.until
                heapq.heappush(self._timers, (event.until, event.cluster))
            case Withdrawn() if debt:
                debt.state = "owed"
            case _:
                return
        debt.since = event.at
        self.busy += debt.state in BUSY
        self.harmed += debt.state in HARMED
        if debt.state == "owed":
            self._ready[event.cluster] = None
