"""What happened, in one line for people: the log, ``rollout watch`` and the demo show these.

Owns the sentences. It never decides anything and never looks beyond the event or report at hand.
"""

from __future__ import annotations

from muster_core.rollout import catchup as cu
from muster_core.rollout import events as ev
from muster_core.rollout.explain import utc
from muster_core.rollout.machine import RolloutMachine
from muster_core.rollout.run import by
from muster_proto.v1 import link_pb2 as wire


def event_line(machine: RolloutMachine, event: ev.AnyEvent) -> str:
    """One line for people, or an empty text."""
    name, release = machine.name, f"{machine.started.bundle}@{machine.started.commit[:7]}"
    match event:
        case ev.Started():
            return f"{name} starts: {release} by {event.by}"
        case ev.WaveOpened():
            wave = machine.waves[event.wave].spec
            return f"{name} wave {event.wave + 1}/{len(machine.waves)} {wave.name} opens (clusters: {len(wave.members)})"
        case ev.OfferMade():
            return f"{name} offers {release} to {event.cluster}"
        case ev.TargetAcknowledged():
            return f"{event.cluster} acknowledged {release}"
        case ev.SoakStarted():
            return f"{event.cluster} is healthy on {release}"
        case ev.TargetFailed() | ev.TargetReturned():
            what = (
                "failed"
                if isinstance(event, ev.TargetFailed)
                else "failed and returned to its last healthy release"
            )
            return f"{event.cluster} {what}: {event.message}"
        case ev.TargetLost():
            return f"{event.cluster} acknowledged {release} and fell silent: lost"
        case ev.TargetOwed():
            return f"{event.cluster} did not acknowledge in time: owed"
        case ev.TargetBack():
            return f"{event.cluster} is back and takes its turn"
        case ev.Paused():
            return f"{name} is paused {by(event.by, event.reason)}"
        case ev.Resumed():
            return f"{name} goes on, {by(event.by, event.reason)}"
        case ev.Promoted():
            wave = machine.waves[event.wave].spec
            return f"{name} wave {wave.name} is promoted {by(event.by, event.reason)}"
        case ev.GateApproved():
            where = f"{event.phase} wave {machine.waves[event.wave].spec.name}"
            return f"{name} is approved {where} {by(event.by, event.reason)}"
        case ev.GatePassed() | ev.GateFailed():
            wave = machine.waves[event.wave].spec
            gate = (wave.gates_before if event.phase == "before" else wave.gates_after)[event.index]
            said = event.detail if isinstance(event, ev.GatePassed) else event.why
            what = "passed" if isinstance(event, ev.GatePassed) else "failed"
            return f"{name} gate {event.phase} wave {wave.name} {what} ({gate})" + (
                f": {said}" if said else ""
            )
        case ev.WavePassed():
            return f"{name} wave {machine.waves[event.wave].spec.name} has passed"
        case ev.TargetSkipped():
            return f"{event.cluster} is out of {name}: {event.why}"
        case ev.TargetRetried():
            return f"{event.cluster} is tried again (attempt {event.attempt}), {by(event.by, event.reason)}"
        case ev.TargetDeferred():
            return f"{event.cluster} takes nothing until {utc(event.until)}: {event.why}"
        case ev.Expired():
            return f"{name} has expired: who has not got {release} yet is owed it"
        case ev.Held():
            return f"{name} is held: {event.why}"
        case ev.Stopping():
            return f"{name} stops: {event.why}"
        case ev.Ended():
            return f"{name} ended: {event.state}: {event.why}".removesuffix(": ")
        case _:
            return ""


def debt_line(ledger: cu.CatchUp, event: cu.AnyCatchUpEvent) -> str:
    """One line for people, or an empty text."""
    name, bundle = event.cluster, ledger.bundle
    match event:
        case cu.Offered():
            commit = ledger.debts[name].commit[:7]
            return f"{name} is back and is offered {bundle}@{commit}, which it is owed"
        case cu.Done():
            return f"{name} caught up with {bundle}"
        case cu.Failed():
            return f"{name} failed to catch up with {bundle}: {event.message}"
        case _:
            return ""


def report_lines(name: str, old: wire.Report | None, new: wire.Report) -> list[str]:
    """What is worth a line in a newer report of one bundle."""
    lines = []
    if (old is None or old.phase != new.phase) and new.phase in {"Degraded", "Blocked"}:
        lines.append(f"{name} {new.bundle} is {new.phase}: {new.message}")
    if old is not None and new.healed_count > old.healed_count:
        lines.append(f"{name} healed {new.last_healed} of {new.bundle}")
    return lines
