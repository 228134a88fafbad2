"""From a plan and a fleet to frozen waves with whole numbers.

Owns the resolution at the start of a rollout: who is in which wave, and what each limit is as a count
(DESIGN §10: in-flight rounds down but at least 1, failures round down). It never changes after the start.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec
from msgspec import UnsetType

from muster_core.durations import parse_duration, resolve_count
from muster_core.errors import RolloutError
from muster_core.kinds.plans import Gate, RolloutPlan, Wave
from muster_core.select import matches
from muster_core.times import format_time, parse_time
from muster_core.windows import Window

CONTACT_INTERVALS_UNTIL_AWAY = 3


ORDER_LABEL = "muster.dev/order"


class Member(NamedTuple):
    """A targeted cluster. ``contact_interval`` in seconds, from its site class; ``zone`` is its site's time zone."""

    name: str
    labels: Mapping[str, str]
    contact_interval: float
    zone: str = "UTC"


class ResolvedGate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One gate; only the fields of its kind have a meaning. ``after`` in unix seconds, intervals in seconds.

    ``fail_after`` None: it holds for ever. ``below`` and ``above``: exactly one is a number.
    """

    kind: Literal["approval", "time", "http", "prometheus"]
    count: int = 1
    by: tuple[str, ...] = ()
    not_author: bool = True
    after: float = 0.0
    url: str = ""
    expect: int = 200
    contains: str = ""
    server: str = ""
    query: str = ""
    below: float | None = None
    above: float | None = None
    consecutive: int = 1
    interval: float = 30.0
    fail_after: float | None = None

    @property
    def is_measured(self) -> bool:
        """Whether an executor has to look, again and again; the others are people's and the clock's."""
        return self.kind in ("http", "prometheus")

    def __str__(self) -> str:
        match self.kind:
            case "approval":
                return f"approval by {self.count} of {', '.join(self.by) or 'the approvers'}"
            case "time":
                return "start time"
            case "http":
                return f"http {self.url}"
            case _:
                return f"prometheus {self.server}: {self.query}"


class ResolvedWindow(msgspec.Struct, frozen=True):
    """When offers may go out. ``duration`` in seconds; ``zone`` may be ``site``."""

    cron: str
    duration: float
    zone: str


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
    window: ResolvedWindow | None = None
    zones: dict[str, str] = {}  # each member's own zone, where the window is of the sites
    gates_before: tuple[ResolvedGate, ...] = ()
    gates_after: tuple[ResolvedGate, ...] = ()


class ResolvedPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A plan with whole numbers. ``action`` is what a spent failure budget or a failed gate does, ``scope`` to whom.

    ``max_in_flight``, ``max_failed`` and ``max_lost`` are of the whole rollout, beside those of its waves. ``expire`` in
    seconds from the start. ``return_in_flight`` is of a rollout that takes this one back. ``limited``: the fleet bounds how
    many are in flight over all rollouts, so nothing is offered before :class:`~muster_core.rollout.events.Allowance` is told.
    """

    name: str
    waves: tuple[ResolvedWave, ...]
    deadline: float
    action: str
    catch_up_in_flight: str | int
    catch_up_failed: str | int = "5%"
    excluded: tuple[str, ...] = ()
    scope: str = "target"
    max_in_flight: int | None = None
    max_failed: int | None = None
    max_lost: int | None = None
    return_in_flight: str | int | None = None
    supersede: str = "queue"
    expire: float | None = None
    limited: bool = False


def resolve(
    plan: RolloutPlan, members: Sequence[Member], bundle: str = "", *, limited: bool = False
) -> ResolvedPlan:
    """Every member in exactly one wave, the first that selects it. ``bundle`` is whom errors name.

    ``limited``: the fleet has ``limits.maxDisrupted``. Members of a wave are in the order of their label ``muster.dev/order``
    (a number; those without come last), then of their names. ``MUSTER-R001`` when nobody is targeted, ``MUSTER-R002`` when
    members match no wave and the plan does not say where they go, ``MUSTER-R030`` when a wave names a cluster that is not
    targeted, ``MUSTER-R051`` when waves before take all clusters of one. A wave that matches nobody at all is left out.
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
        if not chosen:
            _require_no_overlap(wave, members, name)
        else:
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
        scope=spec.on_failure.scope,
        max_in_flight=_count(spec.max_in_flight, len(members), at_least=1),
        max_failed=_count(spec.max_failed, len(members)),
        max_lost=_count(spec.max_lost, len(members)),
        return_in_flight=_set(spec.rollback_max_in_flight),
        supersede=spec.supersede,
        expire=_seconds(spec.expire),
        limited=limited,
        catch_up_in_flight=spec.catch_up.max_in_flight,
        catch_up_failed=spec.catch_up.max_failed,
        excluded=tuple(member.name for member in left),
    )


def resolve_return(plan: ResolvedPlan, clusters: Sequence[str]) -> ResolvedPlan:
    """One wave that takes clusters back to the release before, from the plan of the rollout that is taken back.

    No soak, gate or window: they run something that has to go. Twice the largest wave at a time unless the plan says how
    many; failures as in catching up; whoever is away is owed its return.
    """
    wanted = set(clusters)
    order = [cluster for wave in plan.waves for cluster in wave.members if cluster in wanted]
    asked = plan.return_in_flight
    at_a_time = (
        2 * max(wave.max_in_flight for wave in plan.waves)
        if asked is None
        else resolve_count(asked, len(order), rounding="down-at-least-one")
    )
    wave = ResolvedWave(
        name="return",
        members=tuple(order),
        max_in_flight=at_a_time,
        max_failed=max(1, resolve_count(plan.catch_up_failed, len(order), rounding="down")),
        quorum_percent=0,
        soak=0.0,
        offline_after={c: wave.offline_after[c] for wave in plan.waves for c in wave.members if c in wanted},
    )
    return ResolvedPlan(
        name=plan.name,
        waves=(wave,),
        deadline=plan.deadline,
        action="pause",
        catch_up_in_flight=plan.catch_up_in_flight,
        catch_up_failed=plan.catch_up_failed,
        limited=plan.limited,
    )


def _count(value: str | int | UnsetType, total: int, *, at_least: int = 0) -> int | None:
    if isinstance(value, UnsetType):
        return None
    return max(at_least, resolve_count(value, total, rounding="down"))


def _set(value: str | int | UnsetType) -> str | int | None:
    return None if isinstance(value, UnsetType) else value


def _seconds(value: str | UnsetType) -> float | None:
    return parse_duration(value) if isinstance(value, str) else None


def resolve_gate(gate: Gate) -> ResolvedGate:
    """A gate of a plan that was read: exactly one of its kinds is there."""
    if gate.approval:
        asked = gate.approval
        return ResolvedGate(
            kind="approval", count=asked.count, by=tuple(asked.by), not_author=asked.not_author
        )
    if gate.time:
        return ResolvedGate(kind="time", after=parse_time(gate.time.after))
    if gate.http:
        http = gate.http
        return ResolvedGate(
            kind="http",
            url=http.url,
            expect=http.expect,
            contains=http.contains,
            consecutive=http.consecutive,
            interval=parse_duration(http.interval),
            fail_after=_seconds(http.fail_after),
        )
    query = gate.prometheus
    if query is None:
        raise RolloutError("R050", "a gate of the plan says nothing", hint="Run muster validate.")
    return ResolvedGate(
        kind="prometheus",
        server=query.server,
        query=query.query,
        below=query.below if isinstance(query.below, float) else None,
        above=query.above if isinstance(query.above, float) else None,
        consecutive=query.consecutive,
        interval=parse_duration(query.interval),
        fail_after=_seconds(query.fail_after),
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
    return [member for member in left if wave.rest or _wants(wave, member)]


def _wants(wave: Wave, member: Member) -> bool:
    selected = wave.selector is not None and matches(wave.selector, member.labels)
    return selected or member.name in wave.names


def _require_no_overlap(wave: Wave, members: Sequence[Member], plan: str) -> None:
    wanted = next((member.name for member in members if _wants(wave, member)), None)
    if wanted is not None:
        raise RolloutError(
            "R051",
            f"wave {wave.name} of plan {plan} is empty: waves before it take {wanted} and whoever else it wants",
            object=wave.name,
            hint="Order the waves from the narrow ones to the wide ones.",
        )


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
    after = wave.offline.after
    return ResolvedWave(
        name=wave.name,
        members=tuple(member.name for member in chosen),
        max_in_flight=resolve_count(wave.max_in_flight, len(chosen), rounding="down-at-least-one"),
        max_failed=resolve_count(wave.max_failed, len(chosen), rounding="down"),
        max_lost=_count(wave.max_lost, len(chosen)),
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
        window=_window(wave),
        zones={m.name: m.zone for m in chosen} if wave.window and wave.window.time_zone == "site" else {},
        gates_before=tuple(resolve_gate(gate) for gate in wave.gates.before),
        gates_after=tuple(resolve_gate(gate) for gate in wave.gates.after),
    )


def _window(wave: Wave) -> ResolvedWindow | None:
    window = wave.window
    return ResolvedWindow(window.cron, parse_duration(window.duration), window.time_zone) if window else None


def require_time(plan: ResolvedPlan, at: float) -> None:
    """``MUSTER-R052`` for a plan that, started at ``at`` (unix seconds), expires before it could have begun a wave."""
    if plan.expire is None:
        return
    end = at + plan.expire
    for wave in plan.waves:
        late = [
            gate
            for gate in (*wave.gates_before, *wave.gates_after)
            if gate.kind == "time" and gate.after >= end
        ]
        zones = {wave.window.zone} if wave.window and not wave.zones else set(wave.zones.values())
        opens = [
            Window(wave.window.cron, wave.window.duration, zone).opens_at(at) for zone in zones if wave.window
        ]
        if late or (opens and min(opens) >= end):
            what = "its start time" if late else "its window opens"
            raise RolloutError(
                "R052",
                f"wave {wave.name} of plan {plan.name} could never go: {what} is past the time at which the plan expires",
                object=plan.name,
                hint="Give spec.expire more time.",
            )


def require_not_before(
    not_before: float, at: float, *, expire: float | None, not_after: float = math.inf
) -> None:
    """``MUSTER-R053`` for a rollout, started at ``at``, that could apply nothing from ``not_before`` on.

    Unix seconds but for ``expire``, which is the plan's; ``not_after`` is its directive's.
    """
    if at < not_before < min(not_after, math.inf if expire is None else at + expire):
        return
    why = "has passed" if not_before <= at else "is past the end of its offers"
    raise RolloutError(
        "R053",
        f"the time from which the release may be applied {why}",
        object=format_time(not_before),
        hint="Name another time with --not-before, or give offers more time: --offers-for, spec.expire of the plan.",
    )


def quorum_count(percent: int, members: int) -> int:
    """How many of the frozen wave must be done: at least one, and never less than the share."""
    return max(1, math.ceil(percent * members / 100)) if members else 0
