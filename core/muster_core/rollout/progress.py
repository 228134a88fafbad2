"""How a rollout goes on by itself: what time brings, and everything that follows without a further input.

Owns the order of the rules: clocks, then a spent budget or a failed gate, then offers, then the end of a wave and of the
rollout. Who may be offered is the business of ``offering``.
"""

from __future__ import annotations

from muster_core.durations import format_duration
from muster_core.rollout import events as ev
from muster_core.rollout import offering
from muster_core.rollout.board import Target, WaveBoard
from muster_core.rollout.run import PLAN, Run

TO_SIGN = "; taking it back needs a signature: a directive with returnTo, or rollback: previous in the signed bundle"

# --- time ----------------------------------------------------------------------------------------


def clocks(run: Run, now: float, out: list[ev.AnyEvent]) -> None:
    """Every clock that is due: the targets', and the rollout's own."""
    target_clocks(run, now, out)
    if run.with_hours:
        windows(run, now, out)
    expires_at = run.expires_at
    if expires_at is not None and expires_at <= now and not run.makes_no_offers:
        run.withdraw_all("the rollout has expired", now, out)
        run.emit(ev.Expired(at=now), out)


def target_clocks(run: Run, now: float, out: list[ev.AnyEvent]) -> None:
    if run.has_ended:
        return
    while target := run.board.take_due(now):
        _fired(run, target, now, out)


def next_wake(run: Run) -> float | None:
    """When :func:`clocks` or :func:`advance` has something to do, if nothing else happens. O(1)."""
    if run.has_ended:
        return None
    times = [run.board.next_due()]
    if not run.makes_no_offers:
        times.append(run.expires_at)
        if run.opened and run.current.gates.are_any:
            times += [gates.next_wake() for _, gates in run.current.gates.asked()]
        if not run.is_paused:
            times += [wave.hours.until for wave in run.with_hours if _watches_hours(wave)]
    return min((at for at in times if at is not None), default=None)


def _watches_hours(wave: WaveBoard) -> bool:
    """Whether an opening or a closing would change anything."""
    return bool(wave.line.ready and wave.gates.before.passed) or wave.states.get("offered", 0) > 0


def windows(run: Run, now: float, out: list[ev.AnyEvent]) -> None:
    """Offers that nobody took are withdrawn where the window is closed now. O(in flight) when one opens or closes."""
    for wave in run.with_hours:
        if not wave.hours.look(now):
            continue
        for cluster in reversed(list(wave.flying)):
            target = run.targets[cluster]
            if target.state == "offered" and wave.line.zone_of(cluster) not in wave.hours.open:
                run.withdraw(target, "the wave's window has closed", now, out)


def _fired(run: Run, target: Target, now: float, out: list[ev.AnyEvent]) -> None:
    cluster, online = target.cluster, target.cluster in run.online
    if target.state == "waiting":
        run.emit(ev.CarriedSettled(at=now, cluster=cluster), out)
    elif target.state == "deferred":
        run.emit(ev.DeferralEnded(at=now, cluster=cluster), out)
    elif target.state == "offered" and run.waves[target.wave].spec.offline_policy == "fail":
        text = "did not acknowledge in time, and the plan says offline: fail"
        run.emit(ev.TargetFailed(at=now, cluster=cluster, code="R022", message=text), out)
    elif target.state == "offered":
        run.emit(ev.TargetOwed(at=now, cluster=cluster), out)
    elif target.soak_runs and online:
        run.emit(ev.TargetDone(at=now, cluster=cluster), out)
    elif target.soak_runs:
        run.emit(ev.SoakSuspended(at=now, cluster=cluster), out)
    elif online:
        text = f"not healthy within {format_duration(run.plan.deadline)}"
        run.emit(ev.TargetFailed(at=now, cluster=cluster, code="R020", message=text), out)
    else:
        run.emit(ev.TargetLost(at=now, cluster=cluster), out)


def _gate_clocks(run: Run, now: float, out: list[ev.AnyEvent]) -> None:
    """Start times that have come, and measured gates that had their time."""
    for phase, gates in run.current.gates.asked():
        for index, gate in list(gates.pending()):
            if gate.spec.kind == "time" and gate.spec.after <= now:
                run.emit(ev.GatePassed(at=now, wave=run.wave, phase=phase, index=index), out)
            elif gate.deadline is not None and gate.deadline <= now and not gate.failed:
                why = f"{gate.spec} did not pass in {format_duration(gate.spec.fail_after or 0)}"
                why += f" ({gate.detail})" if gate.detail else ""
                run.emit(ev.GateFailed(at=now, wave=run.wave, phase=phase, index=index, why=why), out)


# --- what follows --------------------------------------------------------------------------------


def advance(run: Run, now: float, out: list[ev.AnyEvent]) -> None:
    """Everything that follows without a further input: breach, drain, offers, wave ends."""
    while not run.has_ended and _step(run, now, out):
        pass


def spent(run: Run) -> tuple[int, str] | None:
    """The first budget that is used up, as the number of the wave that it stops and in words. O(waves) after new harm."""
    if run.board.harms == run.unspent_at:
        return None
    for index, wave in enumerate(run.opened):
        if wave.harmed and wave.spent:
            first = run.targets[next(iter(wave.harmed))]
            return index, _breach(f"wave {wave.spec.name}", len(wave.harmed), wave.spec.max_failed, first)
    plan = run.plan
    harmed, lost = sum(len(wave.harmed) for wave in run.opened), run.count("lost")
    if (plan.max_failed is not None and harmed > plan.max_failed) or (
        plan.max_lost is not None and lost > plan.max_lost
    ):
        first = next(run.targets[cluster] for wave in run.opened for cluster in wave.harmed)
        allowed = (
            plan.max_failed if plan.max_failed is not None and harmed > plan.max_failed else plan.max_lost
        )
        return run.wave, _breach("the rollout", harmed, allowed or 0, first)
    run.unspent_at = run.board.harms
    return None


def _breach(where: str, harmed: int, allowed: int, first: Target) -> str:
    cause = f"{first.cluster}: {first.message or first.state}"
    return f"{where}: {harmed} failed or lost, {allowed} allowed ({cause})"


def failed_gate(run: Run) -> tuple[int, str] | None:
    """A gate of the current wave that failed, and nobody has resumed since."""
    for phase, gates in run.current.gates.asked():
        for _, gate in gates.pending():
            if gate.failed:
                return run.wave, f"gate {phase} wave {run.current.spec.name}: {gate.failed}"
    return None


def may_take_back(run: Run) -> bool:
    """Scope ``target`` asks nobody: each agent returns by itself. The others need a signature."""
    return run.plan.scope == "target" or run.started.may_return


def _step(run: Run, now: float, out: list[ev.AnyEvent]) -> bool:
    if run.wave < 0:
        return _open(run, 0, now, out)
    if run.stopping:
        return _drain(run, now, out)
    stop, current = spent(run), run.current
    if current.gates.are_any:
        _gate_clocks(run, now, out)
        stop = stop or failed_gate(run)
    if stop:
        return _stop(run, *stop, now, out)
    if run.expired:
        return _end_expired(run, now, out)
    if run.is_paused:
        return False
    for wave in run.opened:
        if wave.states["waiting"] and wave.in_flight < wave.spec.max_in_flight:
            offering.offer(run, wave, now, out)
    if current.is_busy:
        return _hold(run, "", now, out)
    why = offering.held_by(run, current) or offering.below_quorum(current)
    if why or current.line.ready:
        return _hold(run, why, now, out)
    if not current.gates.after.passed:
        if current.gates.after.began is None:
            run.emit(ev.WaveSettled(at=now, wave=run.wave), out)
            return True
        return _hold(run, offering.gates_after(current), now, out)
    if not current.passed:
        run.emit(ev.WavePassed(at=now, wave=run.wave), out)
    if run.wave + 1 < len(run.waves):
        return _open(run, run.wave + 1, now, out)
    return _finish(run, now, out)


def _open(run: Run, wave: int, now: float, out: list[ev.AnyEvent]) -> bool:
    run.emit(ev.WaveOpened(at=now, wave=wave), out)
    run.current.hours.look(now)  # from here on :func:`windows` does
    return True


def _finish(run: Run, now: float, out: list[ev.AnyEvent]) -> bool:
    """The last wave has passed; members of earlier ones may have come back since, or come at their own time."""
    rest = [wave for wave in run.waves if wave.has_rest]
    if rest:
        busy = any(wave.is_busy for wave in rest)
        whys = (offering.held_by(run, wave) or offering.rest_of(wave) for wave in rest)
        why = "" if busy else next((why for why in whys if why), "")
        return _hold(run, why, now, out)
    owed = run.count("owed")
    why = f"{owed} owed at its end: muster rollout owed" if owed else ""
    run.emit(ev.Ended(at=now, state="Succeeded", why=why), out)
    return True


def _hold(run: Run, why: str, now: float, out: list[ev.AnyEvent]) -> bool:
    """Says what holds it, each time that this changes."""
    if why and (run.state != "Held" or run.why != why):
        run.emit(ev.Held(at=now, why=why), out)
    elif not why and run.state == "Held":
        run.emit(ev.Released(at=now), out)
    return False


def _stop(run: Run, wave: int, why: str, now: float, out: list[ev.AnyEvent]) -> bool:
    """A spent budget or a failed gate: what the plan says."""
    action = run.plan.action
    if action == "rollback" and not may_take_back(run):
        action, why = "pause", why + TO_SIGN
    if run.expired and action == "pause":
        action = "abort"  # nothing is offered any more that a person could let go on
    if action == "pause" and run.is_paused:
        return False
    run.withdraw_all(why, now, out)
    match action:
        case "pause":
            run.emit(ev.Paused(at=now, by=PLAN, reason=why), out)
        case "abort":
            run.emit(ev.Ended(at=now, state="Failed", why=why), out)
        case _:
            run.emit(ev.Stopping(at=now, why=why, wave=wave), out)
    return True


def _drain(run: Run, now: float, out: list[ev.AnyEvent]) -> bool:
    """Rolling back: it ends when nothing that acknowledged is still on its way."""
    if any(wave.flying for wave in run.waves):
        return False
    run.emit(ev.Ended(at=now, state="RolledBack", why=run.stopping), out)
    return True


def _end_expired(run: Run, now: float, out: list[ev.AnyEvent]) -> bool:
    if any(wave.flying for wave in run.waves):
        return False
    short = next((wave for wave in run.waves if not _complete(wave)), None)
    owed = run.count("owed")
    if short is None:
        run.emit(
            ev.Ended(at=now, state="Succeeded", why=f"expired with {owed} owed: muster rollout owed"), out
        )
        return True
    why = f"expired: wave {short.spec.name} has {short.done} of {short.quorum} done"
    if short.reached_quorum:
        why = f"expired: {offering.gates_after(short) or f'gates before wave {short.spec.name}'}"
    run.emit(ev.Ended(at=now, state="Failed", why=why), out)
    return True


def _complete(wave: WaveBoard) -> bool:
    return wave.passed or (not offering.below_quorum(wave) and wave.gates.after.passed)
