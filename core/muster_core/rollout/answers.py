"""What the world says of targets: agents' answers and reports, contact, holds, and who left.

Owns which of it counts. A report counts only if it names this release and attempt; only a target that never
acknowledged becomes owed; unknown is not healthy. Whatever does not count changes nothing and is no error.
"""

from __future__ import annotations

from muster_core.rollout import events as ev
from muster_core.rollout.board import HARMED, Target
from muster_core.rollout.run import Run

MAX_FLAPS = 3
ACKNOWLEDGED = frozenset({"acknowledged", "staged", "applying", "soaking", "lost"})
MAY_ANSWER = frozenset({"offered", "waiting", "owed", "deferred"})
SHORTEST_DEFERRAL = 60.0  # seconds: a site that says "until now" again and again costs nothing


def acknowledged(run: Run, cluster: str, attempt: int, now: float, out: list[ev.AnyEvent]) -> None:
    target = run.answers(cluster, attempt)
    if target and target.state in MAY_ANSWER and not _was_taken_back(run, target, now):
        run.emit(ev.TargetAcknowledged(at=now, cluster=cluster), out)
        _recall(run, target, now, out)


def _recall(run: Run, target: Target, now: float, out: list[ev.AnyEvent]) -> None:
    """Of a rollout that makes no offers now, or to a cluster that is held, none stands that can be taken back."""
    held = run.waves[target.wave].line.held.get(target.cluster, "")
    if (held or run.is_paused or run.makes_no_offers) and run.may_recall(target, now):
        run.withdraw(target, held or run.why, now, out)


def _was_taken_back(run: Run, target: Target, now: float) -> bool:
    """Whether its offer was withdrawn before its time: an agent that took it drops it when it hears of that."""
    return target.state == "waiting" and now < run.started.not_before


def refused(run: Run, given: ev.Refused, now: float, out: list[ev.AnyEvent]) -> None:
    target = run.answers(given.cluster, given.attempt)
    if target and target.state in MAY_ANSWER | ACKNOWLEDGED:
        failed = ev.TargetFailed(at=now, cluster=given.cluster, code=given.code, message=given.message)
        run.emit(failed, out)


def deferred(run: Run, given: ev.Deferred, now: float, out: list[ev.AnyEvent]) -> None:
    """Not before its time: no failure, its slot is free. Past the end of offers there is no time to wait for."""
    target = run.answers(given.cluster, given.attempt)
    if target and target.state in {*MAY_ANSWER, "acknowledged", "staged"} and not run.makes_no_offers:
        until = max(given.until, now + SHORTEST_DEFERRAL)
        run.emit(ev.TargetDeferred(at=now, cluster=given.cluster, until=until, why=given.why), out)


def reported(run: Run, given: ev.Reported, now: float, out: list[ev.AnyEvent]) -> None:
    """Only a report that names this release and attempt counts: no report is older than what it names."""
    if given.tree_digest != run.started.tree_digest:
        return
    target = run.answers(given.cluster, given.attempt)
    if not target or (given.outcome == "staged" and _was_taken_back(run, target, now)):
        return
    if target.state in MAY_ANSWER:
        run.emit(ev.TargetAcknowledged(at=now, cluster=given.cluster), out)
    cluster, state, code, message = given.cluster, target.state, given.code, given.message
    match given.outcome:
        case "staged" if state == "acknowledged":
            run.emit(ev.TargetStaged(at=now, cluster=cluster), out)
            _recall(run, target, now, out)
        case "applying" if state in {"acknowledged", "staged"}:
            run.emit(ev.TargetApplying(at=now, cluster=cluster), out)
        case "applying" if state == "soaking" and not target.soak_broken:
            if target.flaps < MAX_FLAPS:
                run.emit(ev.SoakBroken(at=now, cluster=cluster), out)
            else:
                text = f"unhealthy {MAX_FLAPS + 1} times while soaking: {message}".removesuffix(": ")
                run.emit(ev.TargetFailed(at=now, cluster=cluster, code=code or "R021", message=text), out)
        case "healthy" if state in ACKNOWLEDGED and (state != "soaking" or target.soak_broken):
            run.emit(ev.SoakStarted(at=now, cluster=cluster), out)
            if cluster not in run.online:
                run.emit(ev.SoakSuspended(at=now, cluster=cluster), out)
        case "failed" if state in ACKNOWLEDGED:
            run.emit(ev.TargetFailed(at=now, cluster=cluster, code=code, message=message), out)
        case "returned" if state in ACKNOWLEDGED or state == "failed":
            run.emit(ev.TargetReturned(at=now, cluster=cluster, code=code, message=message), out)
        case _:
            pass


def contact(run: Run, given: ev.Contact, now: float, out: list[ev.AnyEvent]) -> None:
    target = run.targets.get(given.cluster)
    if not target:
        return
    if given.online and target.state == "owed" and not run.makes_no_offers:
        run.emit(ev.TargetBack(at=now, cluster=given.cluster), out)
    elif target.soak_runs and not given.online:
        run.emit(ev.SoakSuspended(at=now, cluster=given.cluster), out)
    elif target.state == "soaking" and target.soak_left is not None and given.online:
        run.emit(ev.SoakResumed(at=now, cluster=given.cluster), out)
    elif given.online:
        _recall(run, target, now, out)


def hold(run: Run, given: ev.Hold, now: float, out: list[ev.AnyEvent]) -> None:
    """An offer that nobody took is withdrawn: what is held gets nothing."""
    target = run.targets.get(given.cluster)
    if target:
        run.waves[target.wave].line.hold(given.cluster, given.why)
        _recall(run, target, now, out)


def unhold(run: Run, given: ev.Unhold) -> None:
    target = run.targets.get(given.cluster)
    if target:
        run.waves[target.wave].line.unhold(given.cluster)


def settled(run: Run, given: ev.Settled, now: float, out: list[ev.AnyEvent]) -> None:
    target = run.targets.get(given.cluster)
    if target and given.cluster in run.waves[target.wave].carried:
        run.emit(ev.CarriedSettled(at=now, cluster=given.cluster), out)


def removed(run: Run, given: ev.MemberRemoved, now: float, out: list[ev.AnyEvent]) -> None:
    """Leaving shrinks the quorum's base; what is done or harmed stays counted."""
    target = run.targets.get(given.cluster)
    if target and target.state not in {"done", "skipped", *HARMED}:
        run.emit(ev.TargetSkipped(at=now, cluster=given.cluster, why=given.why), out)


def measured(run: Run, given: ev.GateMeasured, now: float, out: list[ev.AnyEvent]) -> None:
    """One look at a gate that is asked now; of any other it says nothing."""
    if given.wave != run.wave or run.makes_no_offers:
        return
    gates = run.current.gates.of(given.phase)
    for index, gate in list(gates.pending()):
        asked = index == given.index and gate.spec.is_measured and not gate.failed
        if asked and gate.measured(given.passed, given.detail):
            passed = ev.GatePassed(
                at=now, wave=given.wave, phase=given.phase, index=index, detail=given.detail
            )
            run.emit(passed, out)
