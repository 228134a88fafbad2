"""One bundle on this cluster, as a machine: events and now in, commands out.

Owns when something is admitted, applied, judged, returned from and reported. It never does any of it: the runner performs
commands and feeds back what came of them. What must survive a crash is in its record.
"""

from __future__ import annotations

import msgspec

from muster_agent.reconcile import events as ev
from muster_agent.state.records import Admission, BundleRecord, OfferRecord, ReturnRecord

RETRY_FIRST, RETRY_MAX = 1.0, 60.0
DAY, RETURNS_A_DAY, KEPT_RETURNS = 86_400.0, 3, 15
TOLD_KEPT = 10


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
        self._failure = ("", "")  # code and message of what went wrong, while the old release comes back
        self.staged_until: float | None = None

    def next_wake(self) -> float | None:
        times = [at for at in (self.deadline, self.retry_at, self.staged_until) if at is not None]
        return min(times) if times else None

    def start(self, now: float) -> list[ev.Command]:
        """After a start of the process: what was admitted is rendered again; an offer without a verdict goes on."""
        record = self.record
        if record.leaving:
            self.phase = "Removing"
            return [ev.TakeAway()]
        waits = record.outcome in {"", "applying"} and record.offer and not self._has_what(record.offer)
        if record.offer and (waits or record.outcome == "staged"):
            self._admitting = True
            first: list[ev.Command] = [ev.Readmit(record.admission)] if record.admission else []
            return [*first, ev.Admit(record.offer)]
        if record.admission is None:
            return []
        if record.outcome == "applying":
            self.deadline = now + self._patience
        return [ev.Readmit(record.admission)]

    def handle(self, event: ev.Event, now: float) -> list[ev.Command]:
        match event:
            case ev.Offered():
                return self._offered(event, now)
            case ev.Withdrawn():
                return self._withdrawn(event)
            case ev.Admitted():
                return self._admitted(event, now)
            case ev.Readmitted():
                return self._readmitted(event, now)
            case ev.Staged():
                return self._staged(event)
            case ev.Due():
                return self._due()
            case ev.Deferred():
                return self._deferred(event)
            case ev.Refused():
                return self._refused(event, now)
            case ev.AppliedAll():
                return self._after_apply(event, now)
            case ev.HealthSeen():
                return self._judge(event)
            case ev.Changed():
                if self.record.leaving:
                    return [ev.TakeAway()]
                # What runs is healed also while an offer waits for what it needs.
                return (
                    [ev.Apply()] if self.record.admission and (not self._admitting or self._applied) else []
                )
            case ev.Deselected():
                if event.is_so == self._deselected:
                    return []
                self._deselected = event.is_so
                return [ev.Report()]
            case ev.Leaving():
                return self._leaving(event.is_so, now)
            case ev.TakenAway():
                return self._taken_away(event, now)
            case ev.Tick():
                return self._tick(now)

    def _leaving(self, is_so: bool, now: float) -> list[ev.Command]:
        """Asked on every look at the registry; taken back, what was admitted comes back."""
        if is_so == self.record.leaving:
            return []
        self.record = msgspec.structs.replace(self.record, leaving=is_so, kept=())
        self._admitting, self.retry_at, self.deadline, self._retry = False, None, None, RETRY_FIRST
        self.staged_until = None
        self.code = self.message = ""
        self.problems, self.total, self.ready = (), 0, 0
        if is_so:
            self.phase = "Removing"
            return [ev.Save(), ev.Report(), ev.TakeAway()]
        self.phase = "Pending"
        return [ev.Save(), ev.Report(), *self.start(now)]

    def _taken_away(self, event: ev.TakenAway, now: float) -> list[ev.Command]:
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
        return [ev.Save(), ev.Report()] if changed else []

    def fault(self, what: str, now: float) -> list[ev.Command]:
        """The agent itself failed on this bundle: it is told and tried again later, and other bundles go on."""
        self.code, self.message = "K099", what
        if self._admitting:
            return self._refused(ev.Refused("K099", what, True), now)
        self.phase = "Degraded"
        self._retry_later(now)
        return [ev.Report()]

    def shown_phase(self) -> str:
        return "Deselected" if self._deselected and not self.record.leaving else self.phase

    def _has_what(self, offer: OfferRecord) -> bool:
        """Whether the offer was admitted. Who goes back takes its own admission of what the offer names."""
        held = self.record.admission.release if self.record.admission else None
        if held is None or not offer.returns:
            return held == offer.release
        return held.tree_digest == offer.release.tree_digest

    def _offered(self, event: ev.Offered, now: float) -> list[ev.Command]:
        record, offer = self.record, event.offer
        if record.offer and (record.offer.rollout, record.offer.attempt) == (offer.rollout, offer.attempt):
            return [ev.Acknowledge(offer), ev.Report()]
        if event.closed_until is not None:
            return [ev.Defer(offer, event.closed_until)]
        self.staged_until = None
        if why := self._left_before(offer, now):
            self.code, self.message = why
            if not record.leaving:
                self.phase = "Blocked"
            self.record = msgspec.structs.replace(record, offer=offer, outcome="failed", returning=False)
            return [ev.Save(), ev.Acknowledge(offer), ev.Report()]
        self.record = msgspec.structs.replace(record, offer=offer, outcome="applying", returning=False)
        self.code = self.message = ""
        self._admitting, self._give_up = True, None
        self._retry, self.retry_at = RETRY_FIRST, None
        return [ev.Save(), ev.Acknowledge(offer), ev.Admit(offer)]

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

    def _withdrawn(self, event: ev.Withdrawn) -> list[ev.Command]:
        offer = self.record.offer
        # What was admitted already runs; only an offer that still waits can be taken back.
        waits = self._admitting or self.record.outcome == "staged"
        if offer and waits and (offer.rollout, offer.attempt) == (event.rollout, event.attempt):
            self._admitting, self.retry_at, self.staged_until = False, None, None
            self.record = msgspec.structs.replace(self.record, offer=None, outcome="")
            return [ev.Save(), ev.Report()]
        return []

    def _staged(self, event: ev.Staged) -> list[ev.Command]:
        """What runs is healed and judged meanwhile; whatever was to come of it before is no longer waited for."""
        if self.record.offer is None or not self._admitting:
            return []
        self._admitting, self.retry_at, self.deadline, self._retry = False, None, None, RETRY_FIRST
        self._give_up, self.staged_until = None, event.until
        self.code = self.message = ""
        self.record = msgspec.structs.replace(self.record, outcome="staged")
        heal: list[ev.Command] = [ev.Apply()] if self.record.admission else []
        return [ev.Save(), ev.Report(), *heal]

    def _due(self) -> list[ev.Command]:
        """Everything is asked once more: what holds now is what counts."""
        offer = self.record.offer
        if offer is None or self.staged_until is None:
            return []
        self._admitting, self.staged_until = True, None
        self.record = msgspec.structs.replace(self.record, outcome="applying")
        return [ev.Save(), ev.Admit(offer)]

    def _deferred(self, event: ev.Deferred) -> list[ev.Command]:
        """An offer that was acknowledged, and that nothing was done for yet."""
        offer = self.record.offer
        if offer is None or not self._admitting:
            return []
        self._admitting, self.retry_at = False, None
        self.code = self.message = ""
        self.record = msgspec.structs.replace(self.record, offer=None, outcome="")
        heal: list[ev.Command] = [ev.Apply()] if self.record.admission else []
        return [ev.Save(), ev.Defer(offer, event.until), ev.Report(), *heal]

    def _readmitted(self, event: ev.Readmitted, now: float) -> list[ev.Command]:
        if self._admitting:  # what runs is healed; the offer still waits for its own answer
            self._patience, self._applied = event.health_deadline, False
            return [ev.Apply()]
        return self._admitted(event, now)

    def _admitted(self, event: ev.Admitted | ev.Readmitted, now: float) -> list[ev.Command]:
        if self._admitting and self.record.outcome == "staged":  # its time came while the agent was down
            self.record = msgspec.structs.replace(self.record, outcome="applying")
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
            return [ev.Save(), ev.Report(), ev.Apply()]
        return [ev.Apply()]

    def _refused(self, event: ev.Refused, now: float) -> list[ev.Command]:
        self.code, self.message = event.code, event.message
        if self._admitting:
            if self._give_up is None:
                starts = self.record.offer.not_before if self.record.offer else 0
                self._give_up = max(now, starts) + self._patience
            if event.retryable and now < self._give_up:
                if self.record.admission is None:
                    self.phase = "Pending"
                elif event.code.startswith("K"):  # the cluster itself is away, so nobody knows how it is
                    self.phase = "Degraded"
                self._retry_later(now)
                return [ev.Report()]
            self._admitting, self.retry_at = False, None
            self.phase = "Blocked"
            self.record = msgspec.structs.replace(self.record, outcome="failed")
            return [ev.Save(), ev.Report()]
        # What runs could not be rendered again (Git away, say): it stays as it is and is tried again.
        self.phase = "Degraded"
        self._retry_later(now)
        return [ev.Report()]

    def _retry_later(self, now: float) -> None:
        self.retry_at, self._retry = now + self._retry, min(self._retry * 2, RETRY_MAX)

    def _after_apply(self, event: ev.AppliedAll, now: float) -> list[ev.Command]:
        out: list[ev.Command] = []
        if event.healed:
            self.record = msgspec.structs.replace(
                self.record, healed=self.record.healed + len(event.healed), last_healed=event.healed[0]
            )
            out += [ev.Save(), ev.Report()]
        self._applied = not event.worst
        if self._admitting:
            return out
        if event.worst:
            changed = (self.code, self.message) != (event.code, event.worst)
            self.code, self.message = event.code, event.worst
            if self.phase != "Applying":
                self.phase = "Degraded"
            self._retry_later(now)
            return [*out, ev.Report()] if changed else out
        self.retry_at, self._retry = None, RETRY_FIRST
        return out

    def _judge(self, seen: ev.HealthSeen) -> list[ev.Command]:
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
        return [*out, *([ev.Report()] if changed and ev.Report() not in out else [])]

    def _healthy(self) -> list[ev.Command]:
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
        return [ev.Save(), ev.Report()]

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

    def _unhealthy(self, message: str) -> list[ev.Command]:
        record = self.record
        if record.outcome == "applying" and self.deadline is not None:
            self.message = message
            return []
        if self.phase == "Ready" or not self.message:
            self.phase, self.message = "Degraded", message
        if record.outcome == "healthy":
            # Unhealthy after it was healthy: whoever lets it soak must know. It is healthy again when it is.
            self.record = msgspec.structs.replace(record, outcome="applying")
            return [ev.Save(), ev.Report()]
        return []

    def _tick(self, now: float) -> list[ev.Command]:
        if self.staged_until is not None and self.staged_until <= now:
            return self._due()
        if self.retry_at is not None and self.retry_at <= now:
            self.retry_at = None
            if self.record.leaving:
                return [ev.TakeAway()]
            if self._admitting and self.record.offer:
                return [ev.Admit(self.record.offer)]
            return [ev.Apply()]
        if self.deadline is None or self.deadline > now:
            return []
        self.deadline = None
        return self._verdict(now)

    def _verdict(self, now: float) -> list[ev.Command]:
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
            return [ev.Save(), ev.Report(), ev.Readmit(back)]
        self.record = msgspec.structs.replace(record, outcome="failed")
        return [ev.Save(), ev.Report()]

    @property
    def verdict(self) -> tuple[str, str]:
        """Code and message of what went wrong with the offer, kept while the old release comes back."""
        if self.record.returning and self._failure[1]:
            return self._failure
        return self.code, self.message
