"""The kind ``RolloutPlan``: waves with their limits, gates and windows, and what happens when something fails.

Owns field names, types and defaults. What a schema cannot say of a plan is in :mod:`~muster_core.rollout.flaws`; what its
limits come to over a fleet in :mod:`~muster_core.rollout.plan`.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from muster_core.kinds.base import (
    PERCENT_OR_NONE,
    CountOrPercent,
    Duration,
    Metadata,
    Model,
    Name,
    Percent,
    Selector,
)


class Offline(Model, frozen=True, kw_only=True):
    """``owe`` frees the slot and lets the wave go on, ``wait`` frees the slot and holds the wave, ``fail`` is harm."""

    after: Duration | UnsetType = UNSET
    policy: Literal["owe", "wait", "fail"] = "owe"


class Approval(Model, frozen=True, kw_only=True):
    """So many different people, of ``by`` (empty: every approver). An author is who started it or wrote the commit."""

    count: Annotated[int, Meta(ge=1, le=100)] = 1
    by: list[str] = []
    not_author: bool = True


class StartTime(Model, frozen=True, kw_only=True):
    """Not before this RFC 3339 time."""

    after: str


class HttpCheck(Model, frozen=True, kw_only=True):
    """A GET every ``interval``: passed after ``consecutive`` answers with this status that contain this text.

    ``failAfter`` without passing: the plan's ``onFailure``. Unset: it holds for ever.
    """

    url: str
    expect: Annotated[int, Meta(ge=100, le=599)] = 200
    contains: str = ""
    interval: Duration = "30s"
    consecutive: Annotated[int, Meta(ge=1, le=1000)] = 1
    fail_after: Duration | UnsetType = UNSET


class PrometheusCheck(Model, frozen=True, kw_only=True):
    """An instant query to one of the fleet's ``metricServers``; exactly one of ``below`` and ``above``."""

    server: Name
    query: Annotated[str, Meta(min_length=1)]
    below: float | UnsetType = UNSET
    above: float | UnsetType = UNSET
    interval: Duration = "1m"
    consecutive: Annotated[int, Meta(ge=1, le=1000)] = 1
    fail_after: Duration | UnsetType = UNSET


class Gate(Model, frozen=True, kw_only=True):
    """Exactly one of these."""

    approval: Approval | None = None
    time: StartTime | None = None
    http: HttpCheck | None = None
    prometheus: PrometheusCheck | None = None


class Gates(Model, frozen=True, kw_only=True):
    """``before``: nobody of the wave is offered anything. ``after``: it does not pass, its soaks being over."""

    before: Annotated[list[Gate], Meta(max_length=20)] = []
    after: Annotated[list[Gate], Meta(max_length=20)] = []


class WaveWindow(Model, frozen=True, kw_only=True):
    """Offers go out from a cron expression's moments on, for a duration. ``timeZone`` is an IANA name, or ``site``: each
    cluster's own ``spec.site.timeZone``. A closed window holds and is no failure."""

    cron: str
    duration: Duration
    time_zone: str = "UTC"


class Wave(Model, frozen=True, kw_only=True):
    """Exactly one of names, selector, percent and rest. Other percentages are of the wave.

    ``percent`` takes that share of all members of the rollout, of those that no wave before took. ``spread`` is a label:
    only clusters with one value of it are in flight at a time.
    """

    name: Name
    names: list[Name] = []
    selector: Selector | None = None
    percent: Percent | UnsetType = UNSET
    rest: bool = False
    spread: str = ""
    max_in_flight: CountOrPercent = "25%"
    max_failed: CountOrPercent = 0
    max_lost: CountOrPercent | UnsetType = UNSET
    quorum: Annotated[str, Meta(pattern=PERCENT_OR_NONE)] = "50%"
    soak: Duration = "0s"
    offline: Offline = msgspec.field(default_factory=Offline)
    window: WaveWindow | None = None
    gates: Gates = msgspec.field(default_factory=Gates)


class OnFailure(Model, frozen=True, kw_only=True):
    """What a spent budget, or a gate that fails, does.

    ``rollback`` of scope ``target``: a failed cluster returns by itself to its last healthy release, and nothing more is
    offered. Of scope ``wave`` and ``rollout``: the healthy ones of that wave, or of every wave, are taken back as well.
    """

    action: Literal["pause", "abort", "rollback"] = "pause"
    scope: Literal["target", "wave", "rollout"] = "target"


class CatchUp(Model, frozen=True, kw_only=True):
    max_in_flight: CountOrPercent = "10%"
    max_failed: CountOrPercent = "5%"


class RolloutPlanSpec(Model, frozen=True, kw_only=True):
    """Limits here are of all members together, beside those of each wave.

    ``supersede``: a newer release waits until this rollout has ended, or takes its place. ``expire`` (unset: never): past it
    nothing is offered any more, and who did not get it is owed. ``rollbackMaxInFlight`` (unset: twice the largest wave's).
    """

    waves: Annotated[list[Wave], Meta(min_length=1, max_length=1000)]
    max_in_flight: CountOrPercent | UnsetType = UNSET
    max_failed: CountOrPercent | UnsetType = UNSET
    max_lost: CountOrPercent | UnsetType = UNSET
    rollback_max_in_flight: CountOrPercent | UnsetType = UNSET
    supersede: Literal["queue", "replace"] = "queue"
    expire: Duration | UnsetType = UNSET
    deadline: Duration = "15m"
    soak_holds_slot: bool = True
    unmatched: Literal["refuse", "last", "exclude"] = "refuse"
    on_failure: OnFailure = msgspec.field(default_factory=OnFailure)
    catch_up: CatchUp = msgspec.field(default_factory=CatchUp)


class RolloutPlan(Model, frozen=True, kw_only=True):
    api_version: Literal["muster.dev/v1alpha1"]
    kind: Literal["RolloutPlan"]
    metadata: Metadata
    spec: RolloutPlanSpec
