"""From a plan and a fleet to frozen waves with whole numbers.

Owns the resolution at the start of a rollout: who is in which wave, and what each limit is as a count
(DESIGN §10: in-flight rounds down but at least 1, failures round down). It never changes after the start.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from muster_core.durations import parse_duration, resolve_count
from muster_core.errors import RolloutError
from muster_core.kinds.model import RolloutPlan, Wave
from muster_core.select import matches

CONTACT_INTERVALS_UNTIL_AWAY = 3


class Member(NamedTuple):
    """A targeted cluster. ``contact_interval`` in seconds, from its site class."""

    name: str
    labels: Mapping[str, str]
    contact_interval: float


class ResolvedWave(msgspec.Struct, frozen=True, kw_only=True):
    """One wave, frozen. ``offline_after`` in seconds per member, since site classes differ."""

    name: str
    members: tuple[str, ...]
    max_in_flight: int
    max_failed: int
    quorum_percent: int
    soak: float
    offline_after: dict[str, float]


class ResolvedPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A plan with whole numbers. ``action`` is what a spent failure budget does."""

    name: str
    waves: tuple[ResolvedWave, ...]
    deadline: float
    action: str
    catch_up_in_flight: str | int


def resolve(plan: RolloutPlan, members: Sequence[Member], bundle: str = "") -> ResolvedPlan:
    """Every member in exactly one wave, the first that selects it. ``bundle`` is whom errors name.

    ``MUSTER-R001`` when nobody is targeted, ``MUSTER-R002`` when members match no wave.
    """
    name, spec = plan.metadata.name, plan.spec
    if not members:
        raise RolloutError(
            "R001",
            "the bundle targets no cluster",
            object=bundle or name,
            hint="Check spec.targets against the registry.",
        )
    left = sorted(members)
    deadline = parse_duration(spec.deadline)
    waves = []
    for wave in spec.waves:
        chosen = [m for m in left if wave.rest or (wave.selector and matches(wave.selector, m.labels))]
        taken = {member.name for member in chosen}
        left = [member for member in left if member.name not in taken]
        if chosen:
            waves.append(_resolved(wave, chosen, deadline))
    if left:
        names = ", ".join(member.name for member in left[:5]) + (" …" if len(left) > 5 else "")
        raise RolloutError(
            "R002",
            f"{len(left)} clusters match no wave of plan {name}",
            object=names,
            hint="Add a wave with rest: true.",
        )
    return ResolvedPlan(
        name=name,
        waves=tuple(waves),
        deadline=deadline,
        action=spec.on_failure.action,
        catch_up_in_flight=spec.catch_up.max_in_flight,
    )


def _resolved(wave: Wave, chosen: Sequence[Member], deadline: float) -> ResolvedWave:
    after = wave.offline.after
    return ResolvedWave(
        name=wave.name,
        members=tuple(member.name for member in chosen),
        max_in_flight=resolve_count(wave.max_in_flight, len(chosen), rounding="down-at-least-one"),
        max_failed=resolve_count(wave.max_failed, len(chosen), rounding="down"),
        quorum_percent=int(wave.quorum.removesuffix("%")),
        soak=parse_duration(wave.soak),
        offline_after={
            m.name: parse_duration(after)
            if isinstance(after, str)
            else max(deadline, CONTACT_INTERVALS_UNTIL_AWAY * m.contact_interval)
            for m in chosen
        },
    )


def quorum_count(percent: int, members: int) -> int:
    """How many of the frozen wave must be done: at least one, and never less than the share."""
    return max(1, math.ceil(percent * members / 100)) if members else 0
