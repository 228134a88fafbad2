"""Why a cluster is where it is in a rollout, in words.

Owns the sentences of ``muster rollout explain`` and the one-line reasons of the tables: for every target the one rule that
holds it, in the order in which rules are asked. It never decides anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from muster_core.errors import RolloutError, coded
from muster_core.rollout import offering
from muster_core.rollout.board import Target
from muster_core.rollout.gates import PhaseGates
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
    if machine.state == "Held":
        return _held(machine, clock)
    if machine.why or machine.has_ended or machine.wave < 0:
        return machine.why
    flying = machine.outstanding()
    if flying and all(target.state == "staged" for target in flying):
        return f"staged until {clock(machine.started.not_before)}"
    soaks = [target.deadline for target in flying if target.soak_runs and target.deadline is not None]
    if soaks and len(soaks) == len(flying):
        return f"soaking until {clock(max(soaks))}"
    named = [f"{target.cluster} {target.state}" for target in flying[:NAMED]]
    return ", ".join(named) + (" …" if len(flying) > NAMED else "")


def _held(machine: RolloutMachine, clock: Clock) -> str:
    """The reason of the log, with what is known only now: when it is over, and what a gate saw last."""
    current = machine.waves[machine.wave]
    if machine.why.startswith("window:"):
        closed = current.line.zones_outside(current.hours.open)
        opens_at = current.hours.opens_at(closed)
        if opens_at < float("inf"):
            return f"window: wave {current.spec.name} opens at {clock(opens_at)}"
    if machine.why.startswith("deferred:") and current.deferred:
        first = min(machine.targets[cluster].deadline or 0.0 for cluster in current.deferred)
        return f"{machine.why}; the next at {clock(first)}"
    if machine.why.startswith("gate:"):
        asked = [gate for _, gates in current.gates.asked() for gate in _waits_for(gates, clock)]
        return f"gate: wave {current.spec.name} waits for {'; '.join(asked)}" if asked else machine.why
    return machine.why


def _waits_for(gates: PhaseGates, clock: Clock) -> Iterator[str]:
    for _, gate in gates.pending():
        spec = gate.spec
        match spec.kind:
            case "approval":
                given = f", {len(gate.approvals)} of {spec.count} given" if gate.approvals else ""
                yield f"{spec}{given}"
            case "time":
                yield f"its start time {clock(spec.after)}"
            case _:
                seen = f", last seen {gate.detail}" if gate.detail else ", not measured yet"
                row = f" {gate.in_a_row} of {spec.consecutive} in a row" if spec.consecutive > 1 else ""
                until = f", until {clock(gate.deadline)}" if gate.deadline is not None else ""
                yield f"{spec}{row}{seen}{until}"


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
        case "acknowledged" | "staged" | "applying":
            silent = (
                "" if machine.is_online(target.cluster) else " It is out of contact: past that it is lost."
            )
            starts = machine.started.not_before
            staged = ""
            if target.state == "staged":
                staged = f"Staged until {clock(starts)}: all of it is prepared and nothing is applied. "
            elif now < starts:
                staged = f"It prepares what it applies at {clock(starts)}. "
            return f"{staged}It has {until} to become healthy.{silent}"
        case "soaking" if target.soak_broken:
            return f"It became unhealthy while soaking ({target.flaps}×). It has {until} to be healthy again."
        case "soaking" if target.soak_left is not None:
            return (
                f"Out of contact, so its soak stands still: unknown is not healthy. It has {until} to return."
            )
        case "soaking":
            return f"It is healthy and soaks until {clock(target.deadline or now)}."
        case "owed":
            return _owed(machine, target)
        case "deferred":
            said = f" ({target.message})" if target.message else ""
            return (
                f"Its site takes nothing yet{said}. It is offered again at {clock(target.deadline or now)}."
            )
        case "lost":
            return (
                "It acknowledged and fell silent past its deadline. Only its own report changes that,"
                f" or a new attempt: muster rollout retry {machine.name}."
            )
        case "failed" | "returned":
            code = f"{coded(target.code)}: " if target.code else ""
            message = target.message.rstrip(".") or "it reported a failure"
            back = " It is back on its last healthy release." if target.state == "returned" else ""
            return f"{code}{message}.{back}"
        case "skipped":
            return f"{target.message.rstrip('.')}."
        case "waiting":
            return _waiting(machine, target, now, clock)
        case _:
            return ""


def _owed(machine: RolloutMachine, target: Target) -> str:
    if not target.was_offered:
        return (
            "The rollout expired before its turn. It gets the release when that has succeeded, as catch-up."
        )
    holds = machine.waves[target.wave].spec.offline_policy == "wait" and not machine.has_ended
    tail = " The plan says offline: wait, so its wave is held for it." if holds else ""
    return f"It never acknowledged its offer. It gets the release when it returns.{tail}"


def _waiting(machine: RolloutMachine, target: Target, now: float, clock: Clock) -> str:
    if machine.has_ended:
        return f"The rollout has ended ({machine.state}) and offers nothing any more."
    if machine.stopping or machine.state == "Paused":
        return f"Nothing is offered: {machine.why}."
    if target.wave > machine.wave:
        current = machine.waves[machine.wave].spec.name if machine.wave >= 0 else "the first"
        because = why(machine, clock)
        return f"Its wave opens when wave {current} has passed" + (f": {because}." if because else ".")
    return _in_line(machine, target, clock)


def _in_line(machine: RolloutMachine, target: Target, clock: Clock) -> str:
    """Its wave is open: the first rule of its own that holds it, then those of the wave, then its place in line."""
    run, wave, cluster = machine.run, machine.waves[target.wave], target.cluster
    if cluster in wave.carried:
        return "It is still busy with the rollout that this one superseded, and takes a slot until it has settled."
    if cluster in wave.line.held:
        return f"It is held: {wave.line.held[cluster].rstrip('.')}."
    if not wave.gates.before.passed:
        return f"Gates before its wave: {'; '.join(_waits_for(wave.gates.before, clock))}."
    opens_at = offering.closed_zone(wave, cluster)
    if opens_at is not None:
        zone = f" ({wave.line.zone_of(cluster)})" if wave.spec.zones else ""
        return f"The window of its wave is closed; it opens at {clock(opens_at)}{zone}."
    if run.allowance is not None and run.allowance <= 0:
        return (
            "The fleet's limits.maxDisrupted is used up: it is offered when targets of other rollouts settle."
        )
    wide = run.plan.max_in_flight
    if wide is not None and machine.in_flight >= wide:
        return (
            f"The rollout's own maxInFlight of {wide} is used up: {_busiest(machine.outstanding(), clock)}."
        )
    flying = [machine.targets[name] for name in wave.flying]
    if not wave.is_busy:
        return "It is offered next."
    if not flying:
        return f"{len(wave.carried)} of its wave are still busy with the rollout that this one superseded."
    group = wave.spec.spread.get(cluster, "")
    if wave.spec.spread and group != wave.last_group:
        first_ones = wave.last_group or "no value"
        return f"One value of the plan's spread at a time, and {first_ones} is on: {_busiest(flying, clock)}."
    ahead = wave.line.before(cluster)
    number = "one in-flight target" if len(flying) == 1 else f"one of {len(flying)} in-flight targets"
    place = "It is next when" if not ahead else f"{ahead} before it. The next is offered when"
    return f"{place} {number} finishes: {_busiest(flying, clock)}."


def _busiest(flying: list[Target], clock: Clock) -> str:
    """What the one does whose clock fires first."""
    first = min(flying, key=lambda t: t.deadline if t.deadline is not None else float("inf"), default=None)
    return _doing(first, clock) if first else "nothing is on the way"
