"""Who is offered the release now, and why nobody is.

Owns the making of offers within every limit (the wave's, the rollout's, the fleet's) and the naming of what a wave waits for.
The first reason counts: what holds a wave is said in the order in which it has to go away.
"""

from __future__ import annotations

from muster_core.rollout import events as ev
from muster_core.rollout.board import WaveBoard
from muster_core.rollout.run import Run
from muster_core.times import format_time


def may_offer(run: Run, wave: WaveBoard) -> bool:
    """Whether one more target of this wave may be in flight. O(waves)."""
    wide = run.plan.max_in_flight
    return (
        wave.in_flight < wave.spec.max_in_flight
        and (wide is None or run.in_flight < wide)
        and (run.allowance is None or run.allowance > 0)
    )


def offer(run: Run, wave: WaveBoard, now: float, out: list[ev.AnyEvent]) -> None:
    """As many offers as may be made."""
    if not wave.gates.before.passed:
        return
    while may_offer(run, wave) and (cluster := wave.next_ready()) is not None:
        run.emit(ev.OfferMade(at=now, cluster=cluster, attempt=run.targets[cluster].attempt), out)
        if run.allowance is not None:
            run.allowance -= 1


def held_by(run: Run, wave: WaveBoard) -> str:
    """What an opened wave waits for when it is no target's turn; empty while something of it is on the way, or nothing is.

    Whatever it names is no matter of time alone, except a window, a start time and what sites deferred.
    """
    if wave.is_busy:
        return ""
    if not wave.gates.before.passed:
        return _gates(wave, "before")
    if wave.line.ready:
        return _closed(wave) or _limits(run, wave)
    return "" if wave.promoted else rest_of(wave)


def rest_of(wave: WaveBoard) -> str:
    """Whose turn it is and who cannot take it now."""
    name = wave.spec.name
    if wave.line.held_waiting:
        cluster, why = wave.line.first_held()
        more = wave.line.held_waiting - 1
        return f"held: wave {name} waits for {cluster} ({why})" + (f" and {more} more" if more else "")
    if wave.deferred:
        return f"deferred: wave {name} waits for sites that take nothing before their time"
    if wave.waits_for_absent:
        return f"offline: wave {name} waits for {wave.waits_for_absent} that are away"
    return ""


def below_quorum(wave: WaveBoard) -> str:
    """Says so, unless a person promoted the wave."""
    if wave.promoted or wave.reached_quorum:
        return ""
    return f"quorum: wave {wave.spec.name} has {wave.done} of {wave.quorum} done"


def gates_after(wave: WaveBoard) -> str:
    return "" if wave.gates.after.passed else _gates(wave, "after")


def _gates(wave: WaveBoard, phase: ev.Phase) -> str:
    waits = [str(gate.spec) for _, gate in wave.gates.of(phase).pending()]
    return f"gate: {phase} wave {wave.spec.name}: {'; '.join(waits)}"


def closed_zone(wave: WaveBoard, cluster: str) -> float | None:
    """When the window opens for this cluster, if it is closed as looked at last."""
    zone = wave.line.zone_of(cluster)
    return None if zone in wave.hours.open else wave.hours.changes.get(zone)


def _closed(wave: WaveBoard) -> str:
    """Everybody who is ready is where the window is closed. O(zones)."""
    if wave.hours.always or wave.line.head(wave.hours.open) is not None:
        return ""
    opens_at = wave.hours.opens_at(wave.line.zones_outside(wave.hours.open))
    return f"window: wave {wave.spec.name} opens at {format_time(opens_at)}"


def _limits(run: Run, wave: WaveBoard) -> str:
    if run.allowance is not None and run.allowance <= 0:
        return f"limit: wave {wave.spec.name} waits for the fleet's maxDisrupted, which other rollouts use up"
    return ""  # the rollout's own limit is used up by an earlier wave's targets, which are on the way
