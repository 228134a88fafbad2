"""What a bundle's machine hears, and what it asks for.

Owns the vocabulary between the machine and its runner: events say what happened on this cluster or came from the hub,
commands what is to be done about it. No two kinds are equal, whatever they say: of several that wait, each is told once.
None of it is stored; what must survive a crash is in the bundle's record.
"""

from __future__ import annotations

from dataclasses import dataclass

from muster_agent.state.records import Admission, OfferRecord


@dataclass(frozen=True, slots=True)
class Offered:
    """``closed_until``: the site's window is closed, and opens then (unix seconds)."""

    offer: OfferRecord
    closed_until: float | None = None


@dataclass(frozen=True, slots=True)
class Withdrawn:
    rollout: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Admitted:
    """The offer's release was verified, rendered, unsealed and passed the gate."""

    admission: Admission
    health_deadline: float
    may_return: bool


@dataclass(frozen=True, slots=True)
class Readmitted:
    """What was admitted before was rendered again."""

    admission: Admission
    health_deadline: float
    may_return: bool


@dataclass(frozen=True, slots=True)
class Staged:
    """The offer could be admitted, and nothing is applied before its time (unix seconds)."""

    until: float


@dataclass(frozen=True, slots=True)
class Due:
    """That time has come before the system's clock says so: something newer was signed."""


@dataclass(frozen=True, slots=True)
class Deferred:
    """The site's window closed before the offer could be admitted; it opens ``until`` (unix seconds)."""

    until: float


@dataclass(frozen=True, slots=True)
class Refused:
    """It was not. ``retryable``: the same may succeed later (Git away, API server away)."""

    code: str
    message: str
    retryable: bool


@dataclass(frozen=True, slots=True)
class AppliedAll:
    """A pass of apply ended. ``worst`` is the first error, if any."""

    code: str
    worst: str
    healed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HealthSeen:
    """The roll-up of the bundle's objects. ``problems`` is (object, health, message); ``kept`` is what a release that
    takes everything away leaves, because it takes others with it."""

    total: int
    ready: int
    problems: tuple[tuple[str, str, str], ...]
    kept: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Changed:
    """Something of the bundle changed in the cluster."""


@dataclass(frozen=True, slots=True)
class Deselected:
    """The registry entry no longer matches: hold, never prune."""

    is_so: bool


@dataclass(frozen=True, slots=True)
class Leaving:
    """Whether the registry asks that nothing of any bundle is left on this cluster."""

    is_so: bool


@dataclass(frozen=True, slots=True)
class TakenAway:
    """As far as it got. ``left`` is how many objects are still to go, ``kept`` what was protected."""

    code: str
    worst: str
    left: int
    kept: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed."""


Event = (
    Offered
    | Withdrawn
    | Admitted
    | Readmitted
    | Staged
    | Due
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


@dataclass(frozen=True, slots=True)
class Acknowledge:
    offer: OfferRecord


@dataclass(frozen=True, slots=True)
class Defer:
    """The offer was not taken and is forgotten; it may come again ``until``."""

    offer: OfferRecord
    until: float


@dataclass(frozen=True, slots=True)
class Admit:
    offer: OfferRecord


@dataclass(frozen=True, slots=True)
class Readmit:
    """Render an admission again: after a start, or to return to it."""

    admission: Admission


@dataclass(frozen=True, slots=True)
class Apply: ...


@dataclass(frozen=True, slots=True)
class TakeAway:
    """Every object of the bundle, but for what takes others with it."""


@dataclass(frozen=True, slots=True)
class Save: ...


@dataclass(frozen=True, slots=True)
class Report: ...


Command = Acknowledge | Defer | Admit | Readmit | Apply | TakeAway | Save | Report
