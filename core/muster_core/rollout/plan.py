"""From a plan and a fleet to frozen waves with whole numbers.

Owns the resolution at the start of a rollout: who is in which wave, and what each limit is as a count
(DESIGN §10: in-flight rounds down but at least 1, failures round down). It never changes after the start.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple

import msgspec
from msgspec import UnsetType

from muster_core.durations import parse_duration, resolve_count
from muster_core.errors import RolloutError
from muster_core.kinds.model import RolloutPlan, Wave
from muster_core.select import matches

CONTACT_INTERVALS_UNTIL_AWAY = 3


ORDER_LABEL = "muster.dev/order"


class Member(NamedTuple):
    """A targeted cluster. ``contact_interval`` in seconds, from its site class."""

    name: str
    labels: Mapping[str, str]
    contact_interval: float


class ResolvedWave(msgspec.Struct, frozen=True, kw_only=True):
    """One wave, frozen. ``offline_after`` in seconds per member, since site classes differ.

    ``spread`` gives each member's value of the label of which only one is in flight at a time; empty: no such label.
    ``max_lost`` bounds the lost alone, ``max_failed`` failed and lost together.
    """

    name: str
    members: tuple[str, ...]
    max_in_flight: int
    max_failed: int
    quorum_percent: int
    soak: float
    offline_after: dict[str, float]
    max_lost: int | None = None
    offline_policy: str = "owe"
    soak_holds_slot: bool = True
    spread: dict[str, str] = {}


class ResolvedPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A plan with whole numbers. ``action`` is what a spent failure budget does."""

    name: str
    waves: tuple[ResolvedWave, ...]
    deadline: float
    action: str
    catch_up_in_flight: str | int
    catch_up_failed: str | int = "5%"
    excluded: tuple[str, ...] = ()


def resolve(plan: RolloutPlan, members: Sequence[Member], bundle: str = "") -> ResolvedPlan:
    """Every member in exactly one wave, the first that selects it. ``bundle`` is whom errors name.

    Members of a wave are in the order of their label ``muster.dev/order`` (a number; those without come last), then of
    their names. ``MUSTER-R001`` when nobody is targeted, ``MUSTER-R002`` when members match no wave and the plan does not
    say where they go, ``MUSTER-R030`` when a wave names a cluster that is not targeted.
    """
    name, spec = plan.metadata.name, plan.spec
    if not members:
        raise RolloutError(
            "R001",
            "the bundle targets no cluster",
            object=bundle or name,
            hint="Check spec.targets against the registry.",
        )
    left = sorted(members, key=_order)
    _require_named(plan, {member.name for member in members}, bundle)
    deadline = parse_duration(spec.deadline)
    waves = []
    for wave in spec.waves:
        chosen = _chosen(wave, left, len(members))
        taken = {member.name for member in chosen}
        left = [member for member in left if member.name not in taken]
        if spec.unmatched == "last" and wave is spec.waves[-1]:
            chosen, left = [*chosen, *left], []
        if chosen:
            waves.append(_resolved(wave, chosen, deadline, soak_holds_slot=spec.soak_holds_slot))
    if not waves:
        raise RolloutError("R031", f"no wave of plan {name} has a member", object=bundle or name)
    if left and spec.unmatched == "refuse":
        names = ", ".join(member.name for member in left[:5]) + (" …" if len(left) > 5 else "")
        raise RolloutError(
            "R002",
            f"{len(left)} clusters match no wave of plan {name}",
            object=names,
            hint="Add a wave with rest: true, or say unmatched: last or exclude.",
        )
    return ResolvedPlan(
        name=name,
        waves=tuple(waves),
        deadline=deadline,
        action=spec.on_failure.action,
        catch_up_in_flight=spec.catch_up.max_in_flight,
        catch_up_failed=spec.catch_up.max_failed,
        excluded=tuple(member.name for member in left),
    )


def _order(member: Member) -> tuple[float, str]:
    try:
        number = float(member.labels.get(ORDER_LABEL, ""))
    except ValueError:
        number = math.inf
    return (number if math.isfinite(number) else math.inf, member.name)


def _chosen(wave: Wave, left: Sequence[Member], total: int) -> list[Member]:
    if isinstance(wave.percent, str):
        return list(left[: resolve_count(wave.percent, total, rounding="down-at-least-one")])
    return [
        member
        for member in left
        if wave.rest
        or member.name in wave.names
        or (wave.selector is not None and matches(wave.selector, member.labels))
    ]


def _require_named(plan: RolloutPlan, members: Container[str], bundle: str) -> None:
    for wave in plan.spec.waves:
        strangers = [name for name in wave.names if name not in members]
        if strangers:
            raise RolloutError(
                "R030",
                f"wave {wave.name} of plan {plan.metadata.name} names clusters that are not targeted",
                object=", ".join(strangers[:5]),
                hint="Take it out of the plan, or make the bundle target it.",
            )


def _resolved(
    wave: Wave, chosen: Sequence[Member], deadline: float, *, soak_holds_slot: bool
) -> ResolvedWave:
    after, lost = wave.offline.after, wave.max_lost
    return ResolvedWave(
        name=wave.name,
        members=tuple(member.name for member in chosen),
        max_in_flight=resolve_count(wave.max_in_flight, len(chosen), rounding="down-at-least-one"),
        max_failed=resolve_count(wave.max_failed, len(chosen), rounding="down"),
        max_lost=resolve_count(lost, len(chosen), rounding="down")
        if not isinstance(lost, UnsetType)
        else None,
        offline_policy=wave.offline.policy,
        soak_holds_slot=soak_holds_slot,
        spread={m.name: m.labels.get(wave.spread, "") for m in chosen} if wave.spread else {},
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
