"""What operators may tell a rollout, and when they may not.

Owns the rules of pause, resume, abort, retry, skip, promote, approve, reject and supersede. Only here does a rollout raise:
an order that does not apply is refused with a code that says why, and who may or what to do instead.
"""

from __future__ import annotations

from muster_core.errors import RolloutError
from muster_core.rollout import events as ev
from muster_core.rollout import offering, progress
from muster_core.rollout.board import HARMED, Target
from muster_core.rollout.gates import GateState
from muster_core.rollout.run import PLAN, Run, by

MAY_SKIP = frozenset({"waiting", "offered", "deferred", "owed"})


def require_running(run: Run) -> None:
    """``MUSTER-R010`` for one that has ended."""
    if run.has_ended:
        raise RolloutError(
            "R010",
            f"the rollout has ended ({run.state})",
            object=run.started.rollout,
            hint="Start another one: muster rollout start.",
        )


def obey(run: Run, given: ev.Command, now: float, out: list[ev.AnyEvent]) -> None:
    match given:
        case ev.Pause():
            _pause(run, given, now, out)
        case ev.Resume():
            _resume(run, given, now, out)
        case ev.Abort():
            run.withdraw_all("the rollout was aborted", now, out)
            run.emit(ev.Ended(at=now, state="Aborted", why=by(given.by, given.reason)), out)
        case ev.Retry():
            _retry(run, given, now, out)
        case ev.Skip():
            _skip(run, given, now, out)
        case ev.Promote():
            _promote(run, given, now, out)
        case ev.Approve():
            _approve(run, given, now, out)
        case ev.Reject():
            _reject(run, given, now, out)
        case ev.Supersede():
            _require_offering(run)
            run.withdraw_all(f"{given.by_rollout} takes its place", now, out)
            run.emit(ev.Ended(at=now, state="Superseded", why=f"by {given.by_rollout}"), out)


def _require_offering(run: Run) -> None:
    if run.makes_no_offers:
        what = "has expired" if run.expired else "is stopping"
        raise RolloutError("R014", f"the rollout {what} and offers nothing", object=run.started.rollout)


def _pause(run: Run, given: ev.Pause, now: float, out: list[ev.AnyEvent]) -> None:
    if run.is_paused:
        raise RolloutError("R011", "the rollout is paused already", object=run.started.rollout)
    _require_offering(run)
    run.withdraw_all("the rollout is paused", now, out)
    run.emit(ev.Paused(at=now, by=given.by, reason=given.reason), out)


def _resume(run: Run, given: ev.Resume, now: float, out: list[ev.AnyEvent]) -> None:
    if not run.is_paused:
        raise RolloutError("R012", "the rollout is not paused", object=run.started.rollout)
    spent, name = progress.spent(run), run.started.rollout
    if spent:
        raise RolloutError(
            "R013",
            spent[1],
            object=name,
            hint=f"Try them again: muster rollout retry {name} --failed. Or mend it with a new commit:"
            f" muster rollout abort {name} lets that one start.",
        )
    run.emit(ev.Resumed(at=now, by=given.by, reason=given.reason), out)


def _target(run: Run, cluster: str) -> Target:
    target = run.targets.get(cluster)
    if target is None:
        raise RolloutError("R004", f"{cluster} is not in rollout {run.started.rollout}", object=cluster)
    return target


def _retry(run: Run, given: ev.Retry, now: float, out: list[ev.AnyEvent]) -> None:
    """A rollout that its plan paused goes on by it; one that a person paused stays so."""
    _require_offering(run)
    chosen = [_target(run, cluster) for cluster in dict.fromkeys(given.clusters)]
    for target in chosen:
        if target.state not in HARMED:
            raise RolloutError(
                "R040",
                f"{target.cluster} is {target.state}: only what failed, returned or is lost is tried again",
                object=target.cluster,
            )
    chosen = chosen or [run.targets[cluster] for wave in run.opened for cluster in wave.harmed]
    if not chosen:
        raise RolloutError("R041", "nothing failed and nothing is lost", object=run.started.rollout)
    for target in chosen:
        retried = ev.TargetRetried(
            at=now, cluster=target.cluster, attempt=target.attempt + 1, by=given.by, reason=given.reason
        )
        run.emit(retried, out)
    if run.is_paused and run.paused_by == PLAN and not progress.spent(run) and not progress.failed_gate(run):
        run.emit(ev.Resumed(at=now, by=given.by, reason=given.reason), out)


def _skip(run: Run, given: ev.Skip, now: float, out: list[ev.AnyEvent]) -> None:
    """The quorum's base stays as it is: only leaving the registry, which is signed, makes that smaller."""
    target = _target(run, given.cluster)
    if target.state not in MAY_SKIP and not run.may_recall(target, now):
        raise RolloutError(
            "R042",
            f"{given.cluster} is {target.state}: only a target that has not taken the release can be skipped",
            object=given.cluster,
            hint="What failed stays counted; it can be tried again: muster rollout retry.",
        )
    if run.may_recall(target, now):
        run.withdraw(target, f"skipped {by(given.by, given.reason)}", now, out)
    why = f"skipped {by(given.by, given.reason)}"
    run.emit(ev.TargetSkipped(at=now, cluster=given.cluster, why=why, by=given.by), out)


def _promote(run: Run, given: ev.Promote, now: float, out: list[ev.AnyEvent]) -> None:
    """Refused where it would change nothing, and where a budget is spent: that no person passes over."""
    _require_offering(run)
    name = run.started.rollout
    if not given.reason:
        raise RolloutError("R043", "promoting a wave needs a reason", object=name, hint="Say it: --reason.")
    spent = progress.spent(run)
    if spent:
        raise RolloutError("R013", spent[1], object=name)
    wave = run.current
    soaking = any(run.targets[cluster].state == "soaking" for cluster in wave.flying)
    rests = not wave.is_busy and not wave.line.ready
    waits = rests and (offering.rest_of(wave) or offering.below_quorum(wave))
    if wave.promoted or not (soaking or waits):
        raise RolloutError(
            "R044",
            f"wave {wave.spec.name} has nothing to be promoted over: nothing soaks, is away, held or deferred",
            object=name,
            hint="Gates are not passed by promoting: muster rollout approve.",
        )
    run.emit(ev.Promoted(at=now, wave=run.wave, by=given.by, reason=given.reason), out)


# --- approvals -----------------------------------------------------------------------------------


def approvals_asked(run: Run) -> list[tuple[ev.Phase, int, GateState]]:
    """The approvals that the current wave waits for now."""
    if run.makes_no_offers or not run.opened:
        return []
    return [
        (phase, index, gate)
        for phase, gates in run.current.gates.asked()
        for index, gate in gates.pending()
        if gate.spec.kind == "approval" and not gate.failed
    ]


def _asked(run: Run, verb: str) -> list[tuple[ev.Phase, int, GateState]]:
    asked = approvals_asked(run)
    if asked:
        return asked
    wave = run.current.spec
    later = any(gate.kind == "approval" for gate in (*wave.gates_before, *wave.gates_after))
    stopped = progress.failed_gate(run)
    if stopped:
        raise RolloutError(
            "R045", stopped[1], object=run.started.rollout, hint="Resume it: the gate is then asked anew."
        )
    raise RolloutError(
        "R045",
        f"nothing waits for an approval that could be {verb} now",
        object=run.started.rollout,
        hint=f"Wave {wave.name} asks for one when its targets are done and soaked."
        if later and not run.current.gates.after.passed
        else "",
    )


def _approve(run: Run, given: ev.Approve, now: float, out: list[ev.AnyEvent]) -> None:
    """Counts for every approval that is asked and that this person may give."""
    name, refusals, may = run.started.rollout, [], []
    for phase, index, gate in _asked(run, "given"):
        refusal = _refusal(run, gate, given.by)
        if refusal:
            refusals.append(refusal)
        else:
            may.append((phase, index, gate))
    spent = progress.spent(run)
    if spent:
        raise RolloutError("R013", spent[1], object=name)
    if not may:
        raise RolloutError("R046", refusals[0], object=name, hint=_who_may(run))
    for phase, index, gate in may:
        at = {"at": now, "wave": run.wave, "phase": phase, "index": index}
        run.emit(ev.GateApproved(**at, by=given.by, reason=given.reason), out)  # type: ignore[arg-type]
        if len(gate.approvals) >= gate.spec.count:
            run.emit(ev.GatePassed(**at, detail=", ".join(gate.approvals)), out)  # type: ignore[arg-type]


def _refusal(run: Run, gate: GateState, who: str) -> str:
    if gate.spec.by and who not in gate.spec.by:
        return f"{who} is not among those who may approve this wave"
    if gate.spec.not_author and who in run.started.authors:
        return f"{who} started this or wrote it, and its authors may not approve it"
    if who in gate.approvals:
        return f"{who} has approved this already, and it takes {gate.spec.count} different people"
    return ""


def _who_may(run: Run) -> str:
    names = [f"{', '.join(gate.spec.by) or 'any approver'}" for _, _, gate in approvals_asked(run)]
    return f"Who may: {'; '.join(dict.fromkeys(names))}."


def _reject(run: Run, given: ev.Reject, now: float, out: list[ev.AnyEvent]) -> None:
    """One rejection is enough, by anybody who may approve or wrote it; the plan says what follows."""
    asked = _asked(run, "rejected")
    mine = [one for one in asked if not one[2].spec.by or given.by in one[2].spec.by]
    mine = mine or (asked if given.by in run.started.authors else [])
    if not mine:
        refusal = f"{given.by} is not among those who may reject this wave"
        raise RolloutError("R046", refusal, object=run.started.rollout, hint=_who_may(run))
    phase, index, _ = mine[0]
    why = f"rejected {by(given.by, given.reason)}"
    run.emit(ev.GateFailed(at=now, wave=run.wave, phase=phase, index=index, why=why), out)
