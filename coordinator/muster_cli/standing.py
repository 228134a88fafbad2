"""How a rollout stands, in words and in the order that people ask for it.

Owns the sentences that tables, `describe` and `watch` share: a wave's counts, what is worst, what comes next. It never asks a
coordinator and never writes anything.
"""

from __future__ import annotations

from collections.abc import Iterator

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
# What a person may pass a wave over, by how the reason begins.
PROMOTABLE = frozenset({"quorum", "offline", "held", "deferred"})
BAD = frozenset({"failed", "lost", "returned"})


def rank(state: str) -> int:
    """Where a target's state stands among the others, the worst first."""
    return ORDER.index(state) if state in ORDER else len(ORDER)


def worst(view: op.RolloutView) -> op.TargetView | None:
    """The first target that is harmed, or owed where none is; None while all is well."""
    bad = [target for target in view.targets if target.state in BAD or target.state == "owed"]
    return min(bad, key=lambda t: (rank(t.state), not t.message, t.since_unix_ms, t.cluster), default=None)


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
        (wave.deferred, "deferred"),
        (wave.held, "held"),
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


def asked(view: op.RolloutView) -> Iterator[op.GateView]:
    """The gates that the rollout waits for now."""
    if view.state not in ENDED:
        yield from (gate for wave in view.waves for gate in wave.gates if gate.state == "Asked")


def gate_line(gate: op.GateView, now: float) -> str:
    """``after: approval by 2 of the approvers: 1 of 2, by anna (looks good)``; ``now`` in unix seconds."""
    said = [gate.detail] if gate.detail else []
    if gate.wanted:
        given = ", ".join(one.by + (f" ({one.reason})" if one.reason else "") for one in gate.approvals)
        said.append(f"{len(gate.approvals)} of {gate.wanted}" + (f", by {given}" if given else ""))
    if gate.state == "Asked" and gate.deadline_unix_ms:
        said.append(f"fails when it has not passed: {left(gate.deadline_unix_ms, now)}")
    words = {"Passed": "passed", "Failed": "failed", "Later": "not asked yet"}
    told = "; ".join(said) or words.get(gate.state, "asked")
    return f"{gate.phase}: {gate.text}: {told}"


def _approval(view: op.RolloutView, gate: op.GateView) -> str:
    """Who may, and how."""
    authors = view.authors if gate.not_author else ()
    names = [name for name in gate.by if name not in (*(one.by for one in gate.approvals), *authors)]
    who = " or ".join(names) if gate.by else "any approver"
    own = f", but not {' or '.join(authors)}, whose change it is" if authors and not gate.by else ""
    return f"muster rollout approve {view.name} (who may: {who}{own}), or: muster rollout reject {view.name}"


def next_step(view: op.RolloutView) -> str:
    """What a person may do about a rollout that waits for one, as commands; empty while it goes on by itself."""
    name = view.name
    if view.state in ENDED:
        return f"muster rollout owed {view.bundle}" if view.owed else ""
    if view.state == "Paused":
        again = f"muster rollout retry {name} --failed, or: " if view.failed or view.lost else ""
        return f"{again}muster rollout resume {name}, or: muster rollout abort {name}"
    if gate := next((gate for gate in asked(view) if gate.wanted), None):
        return _approval(view, gate)
    if view.state == "Held" and view.why.partition(":")[0] in PROMOTABLE:
        return f"muster rollout promote {name} --reason WHY (who may: an approver)"
    return ""
