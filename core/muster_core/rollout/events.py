"""What happened in a rollout, and what may be told to it.

Owns the append-only vocabulary: events are facts with a time (unix seconds) and a stable tag in JSON; inputs are what the
world says. The log of events is the truth; replaying it gives the same state.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from muster_core.rollout.plan import ResolvedPlan

VERSION = 1


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    at: float


class Started(Event, tag="started"):
    rollout: str
    bundle: str
    commit: str
    tree_digest: str
    plan: ResolvedPlan
    by: str
    reason: str = ""


class WaveOpened(Event, tag="wave-opened"):
    wave: int


class WavePassed(Event, tag="wave-passed"):
    wave: int


class TargetEvent(Event):
    cluster: str


class OfferMade(TargetEvent, tag="offered"):
    attempt: int


class OfferWithdrawn(TargetEvent, tag="withdrawn"):
    attempt: int
    why: str


class TargetAcknowledged(TargetEvent, tag="acknowledged"): ...


class TargetApplying(TargetEvent, tag="applying"): ...


class SoakStarted(TargetEvent, tag="soaking"):
    """Healthy: the soak runs from here, anew after a flap."""


class SoakSuspended(TargetEvent, tag="soak-suspended"):
    """Contact was lost: unknown is not healthy, so the soak stands still."""


class SoakResumed(TargetEvent, tag="soak-resumed"): ...


class SoakBroken(TargetEvent, tag="soak-broken"):
    """A flap: unhealthy while soaking. The soak starts anew when it is healthy again."""


class TargetDone(TargetEvent, tag="done"): ...


class TargetFailed(TargetEvent, tag="failed"):
    code: str
    message: str


class TargetReturned(TargetEvent, tag="returned"):
    """Failed, and back on its last healthy release by itself."""

    code: str
    message: str


class TargetLost(TargetEvent, tag="lost"): ...


class TargetOwed(TargetEvent, tag="owed"): ...


class TargetBack(TargetEvent, tag="back"):
    """An owed member is in contact again while the rollout runs: an ordinary target from here."""


class TargetSkipped(TargetEvent, tag="skipped"):
    why: str


class Held(Event, tag="held"):
    why: str


class Released(Event, tag="released"):
    """No longer held."""


class Paused(Event, tag="paused"):
    by: str
    reason: str


class Resumed(Event, tag="resumed"):
    by: str
    reason: str


class Stopping(Event, tag="stopping"):
    """Rolling back: nothing is offered any more; what runs is waited for."""

    why: str


class Ended(Event, tag="ended"):
    state: Literal["Succeeded", "Failed", "Aborted", "RolledBack"]
    why: str


AnyEvent = (
    Started | WaveOpened | WavePassed | OfferMade | OfferWithdrawn | TargetAcknowledged | TargetApplying | SoakStarted
    | SoakSuspended | SoakResumed | SoakBroken | TargetDone | TargetFailed | TargetReturned | TargetLost | TargetOwed
    | TargetBack | TargetSkipped | Held | Released | Paused | Resumed | Stopping | Ended
)

_DECODER = msgspec.json.Decoder(AnyEvent)
_ENCODER = msgspec.json.Encoder()


def encode(event: Event) -> bytes:
    return _ENCODER.encode(event)


def decode(data: bytes) -> AnyEvent:
    """``msgspec.DecodeError`` for what is no event of this version."""
    return _DECODER.decode(data)


# --- inputs --------------------------------------------------------------------------------------------------


class Tick(NamedTuple):
    """Time passed."""


class Acknowledged(NamedTuple):
    cluster: str
    attempt: int


class Reported(NamedTuple):
    """A report that names this rollout. ``outcome``: applying, healthy, failed, returned."""

    cluster: str
    attempt: int
    tree_digest: str
    outcome: Literal["applying", "healthy", "failed", "returned"]
    code: str = ""
    message: str = ""


class Contact(NamedTuple):
    """Contact with a cluster began or ended. Knowledge of the moment: never in the log, told again after a replay."""

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


Input = Tick | Acknowledged | Reported | Contact | Pause | Resume | Abort | MemberRemoved
