"""Why a cluster is where it is in a rollout, in words.

Owns the sentences of ``muster rollout explain`` and the one-line reasons of the tables. It never decides
anything, and costs at most what is in flight.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from muster_core.errors import RolloutError
from muster_core.rollout.board import Target
from muster_core.rollout.machine import RolloutMachine

Clock = Callable[[float], str]
NAMED = 3


def utc(at: float) -> str:
    """How a time is written when the reader gives no clock of their own; seconds only where there are some."""
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S UTC" if int(at) % 60 else "%H:%M UTC")


def explain(machine: RolloutMachine, cluster: str, now: float, clock: Clock = utc) -> str:
    """One to three sentences; ``MUSTER-R004`` when the cluster is not in the rollout."""
    target = machine.targets.get(cluster)
    if target is None:
        raise RolloutError(
            "R004",
            f"{cluster} is not in rollout {machine.name}",
            object=cluster,
            hint="Membership is frozen at the start; it gets the release as catch-up.",
        )
    wave = machine.waves[target.wave].spec.name
    head = f"{cluster} is {target.state} (wave {wave})."
    return f"{head} {_reason(machine, target, now, clock)}".strip()


def why(machine: RolloutMachine, clock: Clock = utc) -> str:
    """The WHY column: what the rollout waits for."""
    if machine.why or machine.has_ended or machine.wave < 0:
        return machine.why
    flying = machine.outstanding()
    soaks = [target.deadline for target in flying if target.soak_runs and target.deadline is not None]
    if soaks and len(soaks) == len(flying):
        return f"soaking until {clock(max(soaks))}"
    named = [f"{target.cluster} {target.state}" for target in flying[:NAMED]]
    return ", ".join(named) + (" …" if len(flying) > NAMED else "")


def _doing(target: Target, clock: Clock) -> str:
    """What an in-flight target does, for the sentence of one that waits for it."""
    if target.soak_runs and target.deadline is not None:
        return f"{target.cluster} soaks until {clock(target.deadline)}"
    if target.state == "soaking":
        return f"{target.cluster} is soaking, and its soak stands still"
    if target.deadline is not None:
        return f"{target.cluster} is {target.state}, and has until {clock(target.deadline)}"
    return f"{target.cluster} is {target.state}"


def _until(target: Target, clock: Clock) -> str:
    return (
        f"until {clock(target.deadline)}" if target.deadline is not None else "for as long as the pause lasts"
    )


def _reason(machine: RolloutMachine, target: Target, now: float, clock: Clock) -> str:
    until = _until(target, clock)
    match target.state:
        case "offered":
            contact = "in contact" if machine.is_online(target.cluster) else "out of contact"
            return (
                f"It is {contact} and has {until} to acknowledge; after that it is owed and its slot is free."
            )
        case "acknowledged" | "applying":
            silent = (
                "" if machine.is_online(target.cluster) else " It is out of contact: past that it is lost."
            )
            return f"It has {until} to become healthy.{silent}"
        case "soaking" if target.soak_broken:
            return f"It became unhealthy while soaking ({target.flaps}×). It has {until} to be healthy again."
        case "soaking" if target.soak_left is not None:
            return (
                f"Out of contact, so its soak stands still: unknown is not healthy. It has {until} to return."
            )
        case "soaking":
            return f"It is healthy and soaks until {clock(target.deadline or now)}."
        case "owed":
            return "It never acknowledged its offer. It gets the release when it returns."
        case "lost":
            return "It acknowledged and fell silent past its deadline. Only its own report changes that."
        case "failed" | "returned":
            code = f"MUSTER-{target.code.removeprefix('MUSTER-')}: " if target.code else ""
            message = target.message.rstrip(".") or "it reported a failure"
            back = " It is back on its last healthy release." if target.state == "returned" else ""
            return f"{code}{message}.{back}"
        case "skipped":
            return f"{target.message.rstrip('.')}."
        case "waiting":
            return _waiting(machine, target, now, clock)
        case _:
            return ""


def _waiting(machine: RolloutMachine, target: Target, now: float, clock: Clock) -> str:
    if machine.has_ended:
        return f"The rollout has ended ({machine.state}) and offers nothing any more."
    if machine.stopping or machine.state == "Paused":
        return f"Nothing is offered: {machine.why}."
    if target.wave > machine.wave:
        current = machine.waves[machine.wave].spec.name if machine.wave >= 0 else "the first"
        because = why(machine, clock)
        return f"Its wave opens when wave {current} has passed" + (f": {because}." if because else ".")
    flying = [machine.targets[cluster] for cluster in machine.waves[target.wave].flying]
    first = min(flying, key=lambda t: t.deadline if t.deadline is not None else float("inf"), default=None)
    if first is None:
        return "It is offered next."
    wave = machine.waves[target.wave]
    group = wave.spec.spread.get(target.cluster, "")
    if wave.spec.spread and group != wave.last_group:
        first_ones = wave.last_group or "no value"
        return f"One value of the plan's spread at a time, and {first_ones} is on: {_doing(first, clock)}."
    ahead = wave.line.before(target.cluster)
    number = "one in-flight target" if len(flying) == 1 else f"one of {len(flying)} in-flight targets"
    place = "It is next when" if not ahead else f"{ahead} before it. The next is offered when"
    return f"{place} {number} finishes: {_doing(first, clock)}."
