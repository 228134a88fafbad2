"""What happened in a rollout, and what may be told to it.

Owns the append-only vocabulary: events are facts with a time (unix seconds) and a stable tag in JSON;
inputs are what the world says. The log of events is the truth; replaying it gives the same state.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import msgspec

from muster_core.rollout.plan import ResolvedPlan

VERSION = 1


Phase = Literal["before", "after"]


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    at: float


class Started(Event, frozen=True, kw_only=True, tag="started"):
    rollout: str
    bundle: str
    commit: str
    tree_digest: str
    plan: ResolvedPlan
    by: str
    reason: str = ""
    attempt: int = 1  # higher than any earlier attempt with this very release
    goes_back: bool = False  # by an operator's directive, to a release that is not the branch's newest
    authors: tuple[
        str, ...
    ] = ()  # who started it or wrote the commit: not to approve it where the plan says so
    returns: str = ""  # the rollout that this one takes back; its plan is of :func:`~.plan.resolve_return`
    may_return: bool = (
        False  # a succeeded release is there, and the signed bundle or a directive allows going back to it
    )
    carried: tuple[str, ...] = ()  # still busy with the rollout that this one superseded
    removes: bool = False  # the release is empty: what the bundle had is taken away
    not_before: float = 0.0  # agents prepare it at once and apply it from here on, by their own clocks


class WaveOpened(Event, frozen=True, kw_only=True, tag="wave-opened"):
    wave: int


class WavePassed(Event, frozen=True, kw_only=True, tag="wave-passed"):
    wave: int


class WaveSettled(Event, frozen=True, kw_only=True, tag="wave-settled"):
    """All of it came to rest with its quorum: the gates after it are asked from here."""

    wave: int


class Promoted(Event, frozen=True, kw_only=True, tag="promoted"):
    """A person passes the wave over its soak, its quorum and whoever it waits for; not over its gates and budgets."""

    wave: int
    by: str
    reason: str


class GateEvent(Event, frozen=True, kw_only=True):
    wave: int
    phase: Phase
    index: int


class GateApproved(GateEvent, frozen=True, kw_only=True, tag="gate-approved"):
    """One of the approvals that the gate asks for."""

    by: str
    reason: str


class GatePassed(GateEvent, frozen=True, kw_only=True, tag="gate-passed"):
    detail: str = ""


class GateFailed(GateEvent, frozen=True, kw_only=True, tag="gate-failed"):
    """Rejected, or not passed in the time it has: the plan's ``onFailure`` follows."""

    why: str


class CarriedSettled(Event, frozen=True, kw_only=True, tag="carried-settled"):
    """A cluster that was busy with the superseded rollout is so no longer."""

    cluster: str


class TargetEvent(Event, frozen=True, kw_only=True):
    cluster: str


class OfferMade(TargetEvent, frozen=True, kw_only=True, tag="offered"):
    attempt: int


class OfferWithdrawn(TargetEvent, frozen=True, kw_only=True, tag="withdrawn"):
    attempt: int
    why: str


class TargetAcknowledged(TargetEvent, frozen=True, kw_only=True, tag="acknowledged"): ...


class TargetStaged(TargetEvent, frozen=True, kw_only=True, tag="staged"):
    """All of it is prepared and nothing is applied: the cluster waits for ``notBefore``."""


class TargetApplying(TargetEvent, frozen=True, kw_only=True, tag="applying"): ...


class SoakStarted(TargetEvent, frozen=True, kw_only=True, tag="soaking"):
    """Healthy: the soak runs from here, anew after a flap."""


class SoakSuspended(TargetEvent, frozen=True, kw_only=True, tag="soak-suspended"):
    """Contact was lost: unknown is not healthy, so the soak stands still."""


class SoakResumed(TargetEvent, frozen=True, kw_only=True, tag="soak-resumed"): ...


class SoakBroken(TargetEvent, frozen=True, kw_only=True, tag="soak-broken"):
    """A flap: unhealthy while soaking. The soak starts anew when it is healthy again."""


class TargetDone(TargetEvent, frozen=True, kw_only=True, tag="done"): ...


class TargetFailed(TargetEvent, frozen=True, kw_only=True, tag="failed"):
    code: str
    message: str


class TargetReturned(TargetEvent, frozen=True, kw_only=True, tag="returned"):
    """Failed, and back on its last healthy release by itself."""

    code: str
    message: str


class TargetLost(TargetEvent, frozen=True, kw_only=True, tag="lost"): ...


class TargetOwed(TargetEvent, frozen=True, kw_only=True, tag="owed"): ...


class TargetBack(TargetEvent, frozen=True, kw_only=True, tag="back"):
    """An owed member is in contact again while the rollout runs: an ordinary target from here."""


class TargetSkipped(TargetEvent, frozen=True, kw_only=True, tag="skipped"):
    """``by`` an operator: it stays in the base of the quorum. By nobody: it left the registry, and the base shrinks."""

    why: str
    by: str = ""


class TargetRetried(TargetEvent, frozen=True, kw_only=True, tag="retried"):
    """Failed, returned or lost, and takes its turn again with the next attempt."""

    attempt: int
    by: str
    reason: str


class TargetDeferred(TargetEvent, frozen=True, kw_only=True, tag="deferred"):
    """Its site takes nothing before ``until``: its slot is free, its clock stands still."""

    until: float
    why: str


class DeferralEnded(TargetEvent, frozen=True, kw_only=True, tag="deferral-ended"):
    """The time that its site named has come: it is offered again, before others."""


class Held(Event, frozen=True, kw_only=True, tag="held"):
    why: str


class Released(Event, frozen=True, kw_only=True, tag="released"):
    """No longer held."""


class Paused(Event, frozen=True, kw_only=True, tag="paused"):
    by: str
    reason: str


class Resumed(Event, frozen=True, kw_only=True, tag="resumed"):
    by: str
    reason: str


class ClocksDeferred(Event, frozen=True, kw_only=True, tag="clocks-deferred"):
    """Nobody was heard while the coordinator was away: no deadline fires before ``until``."""

    until: float


class Stopping(Event, frozen=True, kw_only=True, tag="stopping"):
    """Rolling back: nothing is offered any more; what runs is waited for. ``wave`` is whose budget or gate it was."""

    why: str
    wave: int = -1


class Expired(Event, frozen=True, kw_only=True, tag="expired"):
    """Past the plan's ``expire``: who waits, or is deferred, is owed; what runs is waited for."""


class Ended(Event, frozen=True, kw_only=True, tag="ended"):
    state: Literal["Succeeded", "Failed", "Aborted", "RolledBack", "Superseded"]
    why: str


AnyEvent = (
    Started
    | WaveOpened
    | WavePassed
    | WaveSettled
    | Promoted
    | GateApproved
    | GatePassed
    | GateFailed
    | CarriedSettled
    | OfferMade
    | OfferWithdrawn
    | TargetAcknowledged
    | TargetStaged
    | TargetApplying
    | SoakStarted
    | SoakSuspended
    | SoakResumed
    | SoakBroken
    | TargetDone
    | TargetFailed
    | TargetReturned
    | TargetLost
    | TargetOwed
    | TargetBack
    | TargetSkipped
    | TargetRetried
    | TargetDeferred
    | DeferralEnded
    | Held
    | Released
    | Paused
    | Resumed
    | ClocksDeferred
    | Stopping
    | Expired
    | Ended
)

_DECODER = msgspec.json.Decoder(AnyEvent)
_ENCODER = msgspec.json.Encoder()


def encode(event: Event) -> bytes:
    return _ENCODER.encode(event)


def decode(data: bytes) -> AnyEvent:
    """``msgspec.DecodeError`` for what is no event of this version."""
    event: AnyEvent = _DECODER.decode(data)
    return event


def decode_log(rows: Iterable[bytes]) -> list[AnyEvent]:
    """As :func:`decode`, of many in order: encoded events hold no line break, so they are read as lines."""
    log: list[AnyEvent] = _DECODER.decode_lines(b"\n".join(rows))
    return log


# --- inputs -------------------------------------------------------------------------------------


class Tick(NamedTuple):
    """Time passed."""


class Acknowledged(NamedTuple):
    cluster: str
    attempt: int


class Refused(NamedTuple):
    """The offer was turned down: failed, with nothing applied."""

    cluster: str
    attempt: int
    code: str
    message: str


class Reported(NamedTuple):
    """A report that names this rollout (others are not told).

    Being named by the report is what makes it newer than the offer: clocks of agents are not compared.
    """

    cluster: str
    attempt: int
    tree_digest: str
    outcome: Literal["staged", "applying", "healthy", "failed", "returned"]
    code: str = ""
    message: str = ""


class Contact(NamedTuple):
    """Contact began or ended: knowledge of the moment, never logged, told again after a replay."""

    cluster: str
    online: bool


class Pause(NamedTuple):
    by: str
    reason: str


class Resume(NamedTuple):
    by: str
    reason: str


class Abort(NamedTuple):
    by: str
    reason: str


class Retry(NamedTuple):
    """Failed, returned and lost targets take their turn again; no names: all of them."""

    by: str
    reason: str
    clusters: tuple[str, ...] = ()


class Skip(NamedTuple):
    """This cluster does not get the release from this rollout."""

    cluster: str
    by: str
    reason: str


class Promote(NamedTuple):
    """Pass the wave over its soak, below its quorum, without those it waits for."""

    by: str
    reason: str


class Approve(NamedTuple):
    by: str
    reason: str


class Reject(NamedTuple):
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class GateMeasured:
    """One look at a gate of :meth:`RolloutMachine.pending_gates`; ``detail`` is what was seen, for people."""

    wave: int
    phase: Phase
    index: int
    passed: bool
    detail: str


class Deferred(NamedTuple):
    """The agent's answer while its site's window is closed; ``until`` in unix seconds."""

    cluster: str
    attempt: int
    until: float
    why: str


class Supersede(NamedTuple):
    """A newer release takes this one's place now."""

    by_rollout: str


class Hold(NamedTuple):
    """This cluster is offered nothing for now: knowledge of the moment, never logged, told again after a replay."""

    cluster: str
    why: str


class Unhold(NamedTuple):
    cluster: str


class Allowance(NamedTuple):
    """How many more offers this rollout may make under the fleet's limit (None: as many as it likes).

    Knowledge of the moment: every offer takes one of it; a new number replaces the old. Told before anything else.
    """

    offers: int | None


class Settled(NamedTuple):
    """A cluster that was carried over from the superseded rollout is no longer busy with it."""

    cluster: str


class MemberRemoved(NamedTuple):
    cluster: str
    why: str


Command = Pause | Resume | Abort | Retry | Skip | Promote | Approve | Reject | Supersede
Input = (
    Tick
    | Acknowledged
    | Refused
    | Deferred
    | Reported
    | Contact
    | MemberRemoved
    | GateMeasured
    | Hold
    | Unhold
    | Allowance
    | Settled
    | Command
)
