"""One bundle on this cluster, as a machine: events and now in, commands out.

Owns when something is admitted, applied, judged, returned from and reported. It never does any of it: the runner performs
commands and feeds back what came of them. What must survive a crash is in its record.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from muster_agent.state.records import Admission, BundleRecord, OfferRecord, ReturnRecord

RETRY_FIRST, RETRY_MAX = 1.0, 60.0
DAY, RETURNS_A_DAY, KEPT_RETURNS = 86_400.0, 3, 15
TOLD_KEPT = 10


# --- events --------------------------------------------------------------------------------------------------------


class Offered(NamedTuple):
    """``closed_until``: the site's window is closed, and opens then (unix seconds)."""

    offer: OfferRecord
    closed_until: float | None = None


class Withdrawn(NamedTuple):
    rollout: str
    attempt: int


class Admitted(NamedTuple):
    """The offer's release was verified, rendered, unsealed and passed the gate."""

    admission: Admission
    health_deadline: float
    may_return: bool


class Readmitted(NamedTuple):
    """What was admitted before was rendered again."""

    admission: Admission
    health_deadline: float
    may_return: bool


class Deferred(NamedTuple):
    """The site's window closed before the offer could be admitted; it opens ``until`` (unix seconds)."""

    until: float


class Refused(NamedTuple):
    """It was not. ``retryable``: the same may succeed later (Git away, API server away)."""

    code: str
    message: str
    retryable: bool


class AppliedAll(NamedTuple):
    """A pass of apply ended. ``worst`` is the first error, if any."""

    code: str
    worst: str
    healed: tuple[str, ...]


class HealthSeen(NamedTuple):
    """The roll-up of the bundle's objects. ``problems`` is (object, health, message); ``kept`` is what a release that
    takes everything away leaves, because it takes others with it."""

    total: int
    ready: int
    problems: tuple[tuple[str, str, str], ...]
    kept: tuple[str, ...] = ()


class Changed(NamedTuple):
    """Something of the bundle changed in the cluster."""


class Deselected(NamedTuple):
    """The registry entry no longer matches: hold, never prune."""

    is_so: bool


class Leaving(NamedTuple):
    """Whether the registry asks that nothing of any bundle is left on this cluster."""

    is_so: bool


class TakenAway(NamedTuple):
    """As far as it got. ``left`` is how many objects are still to go, ``kept`` what was protected."""

    code: str
    worst: str
    left: int
    kept: tuple[str, ...]


class Tick(NamedTuple):
    """Time passed."""


Event = (
    Offered
    | Withdrawn
    | Admitted
    | Readmitted
    | Deferred
    | Refused
    | AppliedAll
    | HealthSeen
    | Changed
    | Deselected
    | Leaving
    | TakenAway
    | Tick
)


# --- commands ------------------------------------------------------------------------------------------------------


class Acknowledge(NamedTuple):
    offer: OfferRecord


class Defer(NamedTuple):
    """The offer was not taken and is forgotten; it may come again ``until``."""

    offer: OfferRecord
    until: float


class Admit(NamedTuple):
    offer: OfferRecord


class Readmit(NamedTuple):
    """Render an admission again: after a start, or to return to it."""

    admission: Admission


class Apply(NamedTuple): ...


class TakeAway(NamedTuple):
    """Every object of the bundle, but for what takes others with it."""


class Save(NamedTuple): ...


class Report(NamedTuple): ...


Command = Acknowledge | Defer | Admit | Readmit | Apply | TakeAway | Save | Report


def _what_is_kept(kept: tuple[str, ...]) -> str:
    more = f" and {len(kept) - TOLD_KEPT} more" if len(kept) > TOLD_KEPT else ""
    return f"taken away; kept here: {', '.join(kept[:TOLD_KEPT])}{more}"


def _are_alike(one: Admission, other: Admission) -> bool:
    """Two releases with one tree digest render alike."""
    return one.release.tree_digest == other.release.tree_digest


class BundleMachine:
    """``record`` is what survives; the rest is of this run."""

    def __init__(self, record: BundleRecord) -> None:
        self.record = record
        self.phase = "Pending"
        self.code = ""
        self.message = ""
        self.total = self.ready = 0
        self.problems: tuple[tuple[str, str, str], ...] = ()
        self.deadline: float | None = None
        self.retry_at: float | None = None
        self._retry = RETRY_FIRST
        self._patience = 300.0
        self._may_return = False
        self._admitting = False
        self._deselected = False
        self._applied = False
        self._give_up: float | None = None

    def next_wake(self) -> float | None:
        times = [at for at in (self.deadline, self.retry_at) if at is not None]
        return min(times) if times else None

    def start(self, now: float) -> list[Command]:
        """After a start of the process: what was admitted is rendered again; an offer without a verdict goes on."""
        record = self.record
        if record.leaving:
            self.phase = "Removing"
            return [TakeAway()]
        if record.offer and record.outcome in {"", "applying"} and not self._has_what(record.offer):
            self._admitting = True
            first: list[Command] = [Readmit(record.admission)] if record.admission else []
            return [*first, Admit(record.offer)]
        if record.admission is None:
            return []
        if record.outcome == "applying":
            self.deadline = now + self._patience
        return [Readmit(record.admission)]

    def handle(self, event: Event, now: float) -> list[Command]:
        match event:
            case Offered():
                return self._offered(event, now)
            case Withdrawn():
                return self._withdrawn(event)
            case Admitted():
                return self._admitted(event, now)
            case Readmitted():
                return self._readmitted(event, now)
            case Deferred():
                return self._deferred(event)
            case Refused():
                return self._refused(event, now)
            case AppliedAll():
                return self._after_apply(event, now)
            case HealthSeen():
                return self._judge(event)
            case Changed():
                if self.record.leaving:
                    return [TakeAway()]
                # What runs is healed also while an offer waits for what it needs.
                return [Apply()] if self.record.admission and (not self._admitting or self._applied) else []
            case Deselected():
                if event.is_so == self._deselected:
                    return []
                self._deselected = event.is_so
                return [Report()]
            case Leaving():
                return self._leaving(event.is_so, now)
            case TakenAway():
                return self._taken_away(event, now)
            case Tick():
                return self._tick(now)

    def _leaving(self, is_so: bool, now: float) -> list[Command]:
        """Asked on every look at the registry; taken back, what was admitted comes back."""
        if is_so == self.record.leaving:
            return []
        self.record = msgspec.structs.replace(self.record, leaving=is_so, kept=())
        self._admitting, self.retry_at, self.deadline, self._retry = False, None, None, RETRY_FIRST
        self.code = self.message = ""
        self.problems, self.total, self.ready = (), 0, 0
        if is_so:
            self.phase = "Removing"
            return [Save(), Report(), TakeAway()]
        self.phase = "Pending"
        return [Save(), Report(), *self.start(now)]

    def _taken_away(self, event: TakenAway, now: float) -> list[Command]:
        if not self.record.leaving:
            return []
        before = (self.phase, self.code, self.message, self.total, self.record.kept)
        self.code, self.message = event.code, event.worst
        self.phase = "Removing" if event.left or event.code else "Removed"
        # Once the inventory is gone too, nobody knows any more what was kept, but this record.
        self.record = msgspec.structs.replace(self.record, kept=event.kept or self.record.kept)
        self.retry_at = None
        if self.phase == "Removing":
            self.total, self.ready = event.left, 0
            self._retry_later(now)
        else:
            self.total, self._retry = 0, RETRY_FIRST
        changed = before != (self.phase, self.code, self.message, self.total, self.record.kept)
        return [Save(), Report()] if changed else []

    def fault(self, what: str, now: float) -> list[Command]:
        """The agent itself failed on this bundle: it is told and tried again later, and other bundles go on."""
        self.code, self.message = "K099", what
        if self._admitting:
            return self._refused(Refused("K099", what, True), now)
        self.phase = "Degraded"
        return [*self._retry_later(now), Report()]

    def shown_phase(self) -> str:
        return "Deselected" if self._deselected and not self.record.leaving else self.phase

    def _has_what(self, offer: OfferRecord) -> bool:
        """Whether the offer was admitted. Who goes back takes its own admission of what the offer names."""
        held = self.record.admission.release if self.record.admission else None
        if held is None or not offer.returns:
            return held == offer.release
        return held.tree_digest == offer.release.tree_digest

    def _offered(self, event: Offered, now: float) -> list[Command]:
        record, offer = self.record, event.offer
        if record.offer and (record.offer.rollout, record.offer.attempt) == (offer.rollout, offer.attempt):
            return [Acknowledge(offer), Report()]
        if event.closed_until is not None:
            return [Defer(offer, event.closed_until)]
        if why := self._left_before(offer, now):
            self.code, self.message = why
            if not record.leaving:
                self.phase = "Blocked"
            self.record = msgspec.structs.replace(record, offer=offer, outcome="failed", returning=False)
            return [Save(), Acknowledge(offer), Report()]
        self.record = msgspec.structs.replace(record, offer=offer, outcome="applying", returning=False)
        self.code = self.message = ""
        self._admitting, self._give_up = True, None
        self._retry, self.retry_at = RETRY_FIRST, None
        return [Save(), Acknowledge(offer), Admit(offer)]

    def _left_before(self, offer: OfferRecord, now: float) -> tuple[str, str] | None:
        """Why a release is not even looked at: nothing stays here, or this cluster went back from it."""
        if self.record.leaving:
            return "J070", "this cluster is being removed from the fleet, so it takes no release"
        if offer.returns:  # what it goes back to is judged by its own record
            return None
        left = [item for item in self.record.returns if item.tree_digest == offer.release.tree_digest]
        if any(offer.attempt <= item.attempt for item in left):
            return "T081", f"this cluster went back from {offer.release} and takes only a higher attempt"
        if len([item for item in left if now - item.at < DAY]) >= RETURNS_A_DAY:
            return "T082", f"this cluster went back from {offer.release} {RETURNS_A_DAY} times within a day"
        return None

    def _withdrawn(self, event: Withdrawn) -> list[Command]:
        offer = self.record.offer
        # What was admitted already runs; only an offer that still waits can be taken back.
        if offer and self._admitting and (offer.rollout, offer.attempt) == (event.rollout, event.attempt):
            self._admitting, self.retry_at = False, None
            self.record = msgspec.structs.replace(self.record, offer=None, outcome="")
            return [Save()]
        return []

    def _deferred(self, event: Deferred) -> list[Command]:
        """An offer that was acknowledged, and that nothing was done for yet."""
        offer = self.record.offer
        if offer is None or not self._admitting:
            return []
        self._admitting, self.retry_at = False, None
        self.code = self.message = ""
        self.record = msgspec.structs.replace(self.record, offer=None, outcome="")
        heal: list[Command] = [Apply()] if self.record.admission else []
        return [Save(), Defer(offer, event.until), Report(), *heal]

    def _readmitted(self, event: Readmitted, now: float) -> list[Command]:
        if self._admitting:  # what runs is healed; the offer still waits for its own answer
            self._patience, self._applied = event.health_deadline, False
            return [Apply()]
        return self._admitted(Admitted(*event), now)

    def _admitted(self, event: Admitted, now: float) -> list[Command]:
        record, offer = self.record, self.record.offer
        self._admitting, self.retry_at, self._retry = False, None, RETRY_FIRST
        # Who was taken back goes nowhere by itself: what it left is what the fleet leaves.
        self._patience = event.health_deadline
        self._may_return = event.may_return and not (offer and offer.returns)
        self.code = self.message = ""
        self.problems = ()
        self._applied = False
        fresh = record.admission != event.admission
        if fresh:
            goes_back = offer is not None and offer.returns
            left, returns = record.admission, record.returns
            if goes_back and left and not _are_alike(left, event.admission):
                gone = ReturnRecord(left.release.tree_digest, record.attempt, now)
                returns = (*returns[-KEPT_RETURNS:], gone)
            attempt = 0 if offer is None or goes_back else offer.attempt
            self.record = msgspec.structs.replace(
                record, admission=event.admission, returns=returns, attempt=attempt
            )
        if fresh or self.record.outcome == "applying":
            self.phase = "Applying"
            self.deadline = now + self._patience
            return [Save(), Report(), Apply()]
        return [Apply()]

    def _refused(self, event: Refused, now: float) -> list[Command]:
        self.code, self.message = event.code, event.message
        if self._admitting:
            if self._give_up is None:
                self._give_up = now + self._patience
            if event.retryable and now < self._give_up:
                if self.record.admission is None:
                    self.phase = "Pending"
                elif event.code.startswith("K"):  # the cluster itself is away, so nobody knows how it is
                    self.phase = "Degraded"
                return [*self._retry_later(now), Report()]
            self._admitting, self.retry_at = False, None
            self.phase = "Blocked"
            self.record = msgspec.structs.replace(self.record, outcome="failed")
            return [Save(), Report()]
        # What runs could not be rendered again (Git away, say): it stays as it is and is tried again.
        self.phase = "Degraded"
        return [*self._retry_later(now), Report()]

    def _retry_later(self, now: float) -> list[Command]:
        self.retry_at, self._retry = now + self._retry, min(self._retry * 2, RETRY_MAX)
        return []

    def _after_apply(self, event: AppliedAll, now: float) -> list[Command]:
        out: list[Command] = []
        if event.healed:
            self.record = msgspec.structs.replace(
                self.record, healed=self.record.healed + len(event.healed), last_healed=event.healed[0]
            )
            out += [Save(), Report()]
        self._applied = not event.worst
        if self._admitting:
            return out
        if event.worst:
            changed = (self.code, self.message) != (event.code, event.worst)
            self.code, self.message = event.code, event.worst
            if self.phase != "Applying":
                self.phase = "Degraded"
            self._retry_later(now)
            return [*out, Report()] if changed else out
        self.retry_at, self._retry = None, RETRY_FIRST
        return out

    def _judge(self, seen: HealthSeen) -> list[Command]:
        if self.record.admission is None or self._admitting or self.record.leaving:
            return []
        before = (self.phase, self.message, self.ready, self.total, self.problems)
        self.total, self.ready, self.problems = seen.total, seen.ready, seen.problems
        if self._applied and not seen.problems:
            out = self._healthy()
            if seen.kept and self.phase == "Ready":
                self.message = _what_is_kept(seen.kept)
        elif not self._applied:
            out = []
        else:
            first = seen.problems[0]
            out = self._unhealthy(f"{first[0]}: {first[2] or first[1]}")
        changed = before != (self.phase, self.message, self.ready, self.total, self.problems)
        return [*out, *([Report()] if changed and Report() not in out else [])]

    def _healthy(self) -> list[Command]:
        record = self.record
        refused = (
            record.outcome == "failed"
            and record.offer is not None
            and record.admission is not None
            and record.offer.release != record.admission.release
        )
        self.deadline = None
        if not refused:
            self.phase, self.code, self.message = "Ready", "", ""
        outcome = record.outcome
        if outcome == "applying":
            outcome = "returned" if record.returning else "healthy"
        if outcome == record.outcome and record.last_healthy == record.admission:
            return []
        self.record = msgspec.structs.replace(
            record, outcome=outcome, last_healthy=record.admission, previous=self._previous()
        )
        return [Save(), Report()]

    def _previous(self) -> Admission | None:
        """What was healthy before the admission that is healthy now; nothing, when that came by a return."""
        record, last = self.record, self.record.last_healthy
        if record.offer is not None and record.offer.returns:
            return None
        if record.admission is None or last is None or _are_alike(last, record.admission):
            return record.previous
        return last

    def may_go_back_to(self) -> tuple[Admission, ...]:
        """What a return may name: what is here, and the last that was healthy before it."""
        record = self.record
        if record.admission is None:
            return ()
        last = record.last_healthy
        before = record.previous if last is None or _are_alike(last, record.admission) else last
        return (record.admission, before) if before else (record.admission,)

    def _unhealthy(self, message: str) -> list[Command]:
        record = self.record
        if record.outcome == "applying" and self.deadline is not None:
            self.message = message
            return []
        if self.phase == "Ready" or not self.message:
            self.phase, self.message = "Degraded", message
        if record.outcome == "healthy":
            # Unhealthy after it was healthy: whoever lets it soak must know. It is healthy again when it is.
            self.record = msgspec.structs.replace(record, outcome="applying")
            return [Save(), Report()]
        return []

    def _tick(self, now: float) -> list[Command]:
        if self.retry_at is not None and self.retry_at <= now:
            self.retry_at = None
            if self.record.leaving:
                return [TakeAway()]
            if self._admitting and self.record.offer:
                return [Admit(self.record.offer)]
            return [Apply()]
        if self.deadline is None or self.deadline > now:
            return []
        self.deadline = None
        return self._verdict(now)

    def _verdict(self, now: float) -> list[Command]:
        """Not healthy in time: back to the last healthy release where that is allowed, else failed."""
        record, back = self.record, self.record.last_healthy
        self.phase = "Degraded"
        # Whether it may is read from the verified commit, never from the offer.
        allowed = record.offer is not None and self._may_return and not record.returning
        if allowed and record.offer and back is not None and back != record.admission:
            left = ReturnRecord(record.offer.release.tree_digest, record.offer.attempt, now)
            recent = record.returns[-KEPT_RETURNS:]
            self.record = msgspec.structs.replace(
                record, admission=back, returning=True, attempt=0, returns=(*recent, left)
            )
            self.deadline = now + self._patience
            self._failure = (self.code, self.message)
            return [Save(), Report(), Readmit(back)]
        self.record = msgspec.structs.replace(record, outcome="failed")
        return [Save(), Report()]

    _failure: tuple[str, str] = ("", "")

    @property
    def verdict(self) -> tuple[str, str]:
        """Code and message of what went wrong with the offer, kept while the old release comes back."""
        if self.record.returning and self._failure[1]:
            return self._failure
        return self.code, self.message
