"""A rollout as operators see it: plain frozen values, ready for the wire or a table.

Owns the words of the tables (states of waves) and nothing else; every number is a counter that the machine
keeps. Only the list of targets costs what the fleet has, and only when asked for.
"""

from __future__ import annotations

from typing import NamedTuple

from muster_core.rollout.board import Target
from muster_core.rollout.explain import Clock, utc, why
from muster_core.rollout.machine import RolloutMachine


class TargetState(NamedTuple):
    """``since`` and ``until`` in unix seconds; ``until`` is None where no clock runs."""

    cluster: str
    wave: str
    state: str
    attempt: int
    code: str
    message: str
    since: float
    until: float | None
    online: bool


class WaveState(NamedTuple):
    """``state``: Pending, Running, Held, Paused, Passed, or how the rollout ended while in it."""

    name: str
    state: str
    total: int
    waiting: int
    in_flight: int
    done: int
    failed: int
    lost: int
    owed: int
    skipped: int
    max_in_flight: int
    max_failed: int
    quorum: int
    soak: float


class RolloutState(NamedTuple):
    name: str
    bundle: str
    commit: str
    tree_digest: str
    plan: str
    state: str
    why: str
    wave_index: int
    waves: tuple[WaveState, ...]
    targets: tuple[TargetState, ...]
    started_at: float
    ended_at: float | None
    started_by: str
    total: int
    done: int
    in_flight: int
    failed: int
    lost: int
    owed: int


def view(
    machine: RolloutMachine, now: float, *, with_targets: bool = True, clock: Clock = utc
) -> RolloutState:
    """Everything of one rollout. ``failed`` counts those that returned by themselves too."""
    started = machine.started
    waves = tuple(_wave(machine, index) for index in range(len(machine.waves)))
    return RolloutState(
        name=started.rollout,
        bundle=started.bundle,
        commit=started.commit,
        tree_digest=started.tree_digest,
        plan=started.plan.name,
        state=machine.state,
        why=why(machine, now, clock),
        wave_index=max(0, machine.wave),
        waves=waves,
        targets=tuple(target_view(machine, t) for t in machine.targets.values()) if with_targets else (),
        started_at=started.at,
        ended_at=machine.ended_at,
        started_by=started.by,
        total=sum(wave.total for wave in waves),
        done=sum(wave.done for wave in waves),
        in_flight=sum(wave.in_flight for wave in waves),
        failed=sum(wave.failed for wave in waves),
        lost=sum(wave.lost for wave in waves),
        owed=sum(wave.owed for wave in waves),
    )


def target_view(machine: RolloutMachine, target: Target) -> TargetState:
    ended = machine.has_ended
    return TargetState(
        cluster=target.cluster,
        wave=machine.waves[target.wave].spec.name,
        state=target.state,
        attempt=target.attempt,
        code=target.code,
        message=target.message,
        since=target.since,
        until=None if ended else target.deadline,
        online=machine.is_online(target.cluster),
    )


def _wave(machine: RolloutMachine, index: int) -> WaveState:
    board = machine.waves[index]
    if board.passed:
        state = "Passed"
    elif index > machine.wave:
        state = "Pending"
    else:
        state = machine.state
    return WaveState(
        name=board.spec.name,
        state=state,
        total=len(board.spec.members),
        waiting=board.count("waiting"),
        in_flight=board.in_flight,
        done=board.done,
        failed=board.count("failed", "returned"),
        lost=board.count("lost"),
        owed=board.count("owed"),
        skipped=board.count("skipped"),
        max_in_flight=board.spec.max_in_flight,
        max_failed=board.spec.max_failed,
        quorum=board.quorum,
        soak=board.spec.soak,
    )
