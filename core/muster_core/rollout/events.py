"""What happened in a rollout, and what may be told to it.

Owns the append-only vocabulary: events are facts with a time (unix seconds) and a stable tag in JSON;
inputs are what the world says. The log of events is the truth; replaying it gives the same state.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from muster_core.rollout.plan import ResolvedPlan

VERSION = 1


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


class WaveOpened(Event, frozen=True, kw_only=True, tag="wave-opened"):
    wave: int


class WavePassed(Event, frozen=True, kw_only=True, tag="wave-passed"):
    wave: int


class TargetEvent(Event, frozen=True, kw_only=True):
    cluster: str


class OfferMade(TargetEvent, frozen=True, kw_only=True, tag="offered"):
    attempt: int


class OfferWithdrawn(TargetEvent, frozen=True, kw_only=True, tag="withdrawn"):
    attempt: int
    why: str


class TargetAcknowledged(TargetEvent, frozen=True, kw_only=True, tag="acknowledged"): ...


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
    why: str


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
    """Rolling back: nothing is offered any more; what runs is waited for."""

    why: str


class Ended(Event, frozen=True, kw_only=True, tag="ended"):
    state: Literal["Succeeded", "Failed", "Aborted", "RolledBack"]
    why: str


AnyEvent = (
    Started
    | WaveOpened
    | WavePassed
    | OfferMade
    | OfferWithdrawn
    | TargetAcknowledged
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
    | Held
    | Released
    | Paused
    | Resumed
    | ClocksDeferred
    | Stopping
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
    outcome: Literal["applying", "healthy", "failed", "returned"]
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


class MemberRemoved(NamedTuple):
    cluster: str
    why: str


Input = Tick | Acknowledged | Refused | Reported | Contact | Pause | Resume | Abort | MemberRemoved
