"""Why a cluster is where it is in a rollout, in words.

Owns the sentences of ``muster rollout explain`` and the one-line reasons of the tables. Times are given as the rule's
remaining seconds, since only the reader's side knows a time zone. It never decides anything.
"""

from __future__ import annotations

from muster_core.durations import format_duration
from muster_core.errors import RolloutError
from muster_core.rollout.machine import IN_FLIGHT, RolloutMachine, Target


def explain(machine: RolloutMachine, cluster: str, now: float) -> str:
    """One or two sentences; ``MUSTER-R004`` when the cluster is not in the rollout."""
    target = machine.targets.get(cluster)
    if target is None:
        raise RolloutError("R004", f"{cluster} is not in rollout {machine.name}", object=cluster,
                           hint="Membership is frozen at the start; it gets the release as catch-up.")
    wave = machine.waves[target.wave].spec.name
    head = f"{cluster} is {target.state} (wave {wave})."
    return f"{head} {_reason(machine, target, now)}".strip()


def why(machine: RolloutMachine, now: float) -> str:
    """The WHY column: what the rollout waits for."""
    if machine.why or machine.has_ended or machine.wave < 0:
        return machine.why
    flying = [t for t in machine.outstanding() if t.wave == machine.wave]
    soaking = [t for t in flying if t.state == "soaking" and t.deadline is not None]
    if soaking and len(soaking) == len(flying):
        longest = max(t.deadline or now for t in soaking)
        return f"soaking for {format_duration(longest - now)} more"
    waiting_for = [f"{t.cluster} {t.state}" for t in flying[:3]]
    return ", ".join(waiting_for) + (" …" if len(flying) > 3 else "")


def _left(target: Target, now: float) -> str:
    return format_duration((target.deadline or now) - now)


def _reason(machine: RolloutMachine, target: Target, now: float) -> str:  # noqa: PLR0911
    wave = machine.waves[target.wave]
    match target.state:
        case "offered":
            away = "" if machine.is_online(target.cluster) else " It is out of contact."
            return f"It has not acknowledged yet; without an answer it is owed in {_left(target, now)}, and its slot is free.{away}"
        case "acknowledged" | "applying":
            return f"It has {_left(target, now)} left to become healthy."
        case "soaking" if target.soak_broken:
            return f"It became unhealthy while soaking ({target.flaps} times); the soak starts anew when it is healthy."
        case "soaking" if target.soak_left is not None:
            return "It is out of contact, so the soak stands still: unknown is not healthy."
        case "soaking":
            return f"Healthy; it soaks for {_left(target, now)} more."
        case "owed":
            return "It never acknowledged its offer. It gets the release when it returns."
        case "lost":
            return "It acknowledged and then fell silent past its deadline. Only its own report changes that."
        case "failed" | "returned":
            back = " It is back on its last healthy release." if target.state == "returned" else ""
            code = f"MUSTER-{target.code} " if target.code else ""
            return f"{code}{target.message}.{back}"
        case "skipped":
            return target.message + "."
        case "done":
            return ""
        case _:
            pass
    if machine.has_ended:
        return f"The rollout has ended ({machine.state}); it was never offered here."
    if machine.stopping or machine.state == "Paused":
        return f"Nothing is offered: {machine.why}."
    if target.wave > machine.wave:
        current = machine.waves[machine.wave].spec.name
        return f"Its wave opens when wave {current} has passed ({machine.why or why(machine, now) or 'running'})."
    flying = [machine.targets[c] for c in wave.spec.members if machine.targets[c].state in IN_FLIGHT]
    first = min(flying, key=lambda t: t.deadline or now, default=None)
    which = f": {first.cluster} is {first.state}" if first else ""
    return f"It is next when one of {len(flying)} in-flight targets finishes{which}."
