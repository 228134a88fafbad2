"""How a rollout stands, in words and in the order that people ask for it.

Owns the sentences that tables, `describe` and `watch` share: a wave's counts, what is worst, what comes next. It never asks a
coordinator and never writes anything.
"""

from __future__ import annotations

from muster_core.durations import format_duration
from muster_proto.v1 import operator_pb2 as op

ENDED = frozenset({"Succeeded", "Failed", "Aborted", "RolledBack", "Superseded"})
# The worst first; a state that is not here comes last.
ORDER = (
    "failed",
    "lost",
    "returned",
    "owed",
    "deferred",
    "applying",
    "soaking",
    "acknowledged",
    "staged",
    "offered",
    "waiting",
    "skipped",
    "done",
)
BAD = frozenset({"failed", "lost", "returned"})


def rank(state: str) -> int:
    """Where a target's state stands among the others, the worst first."""
    return ORDER.index(state) if state in ORDER else len(ORDER)


def worst(view: op.RolloutView) -> op.TargetView | None:
    """The first target that is harmed, or owed where none is; None while all is well."""
    bad = [target for target in view.targets if target.state in BAD or target.state == "owed"]
    return min(bad, key=lambda t: (rank(t.state), not t.message, t.since_unix_ms, t.cluster), default=None)


def coded(code: str) -> str:
    """``MUSTER-P001``, however it was reported."""
    return f"MUSTER-{code.removeprefix('MUSTER-')}" if code else ""


def left(until_unix_ms: int, now: float) -> str:
    """``4m12s left``; ``now`` in unix seconds."""
    return f"{format_duration(max(0.0, until_unix_ms / 1000 - now))} left"


def wave_counts(wave: op.WaveView, now: float) -> str:
    """What of a wave is not done: ``3 in flight, 2 soaking (4m12s left), 1 owed``."""
    soaking = f"{wave.soaking} soaking"
    if wave.soak_until_unix_ms:
        soaking += f" ({left(wave.soak_until_unix_ms, now)})"
    counts = (
        (max(0, wave.in_flight - wave.soaking), "in flight"),
        (wave.failed, "failed"),
        (wave.lost, "lost"),
        (wave.owed, "owed"),
        (wave.skipped, "skipped"),
    )
    told = [f"{count} {word}" for count, word in counts if count]
    if wave.soaking:
        told.insert(1 if wave.in_flight > wave.soaking else 0, soaking)
    return ", ".join(told)


def progress_line(view: op.RolloutView) -> str:
    """A rollout in one line."""
    number = min(view.wave_index, max(0, len(view.waves) - 1))
    place = f"{number + 1}/{len(view.waves)} {view.waves[number].name}" if view.waves else "-"
    line = (
        f"{view.name} {view.state} wave {place} release {view.release.commit[:7] or '-'}: "
        f"{view.done}/{view.total} done, {view.in_flight} in flight, {view.failed} failed, "
        f"{view.lost} lost, {view.owed} owed"
    )
    return line + (f": {view.why}" if view.why else "")


def took(view: op.RolloutView, now: float) -> str:
    """From its start to its end, or to now."""
    end = view.ended_unix_ms / 1000 if view.ended_unix_ms else now
    return format_duration(max(0.0, end - view.started_unix_ms / 1000)) if view.started_unix_ms else "-"


def next_step(view: op.RolloutView) -> str:
    """What a person may do about a rollout that waits for one, as commands; empty while it goes on by itself."""
    name = view.name
    if view.state == "Paused":
        return f"muster rollout resume {name}, or: muster rollout abort {name}"
    if view.state in ENDED and view.owed:
        return f"muster rollout owed {view.bundle}"
    return ""
