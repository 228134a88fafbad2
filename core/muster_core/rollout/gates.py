"""The gates of one wave: which are passed, who approved what, and what was measured last.

Owns the counting of approvals and of measurements in a row, and the clocks of start times and of ``failAfter``. Passing is an
event of the log; measurements between are memory of the moment, counted anew after a replay. It never measures anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from muster_core.rollout.events import Phase
from muster_core.rollout.plan import ResolvedGate, ResolvedWave


@dataclass(frozen=True, slots=True)
class PendingGate:
    """A gate that an executor has to look at every ``gate.interval`` seconds, since then (unix seconds)."""

    wave: int
    phase: Phase
    index: int
    gate: ResolvedGate
    since: float


@dataclass(slots=True)
class GateState:
    """``in_a_row`` and ``detail`` are of the moment. ``deadline``: when ``failAfter`` is over; None while it stands still."""

    spec: ResolvedGate
    passed: bool = False
    failed: str = ""  # why, until somebody resumes
    approvals: dict[str, str] = field(default_factory=dict)  # who, with their reason
    deadline: float | None = None
    left: float | None = None
    since: float = 0.0
    in_a_row: int = field(default=0, compare=False)
    detail: str = field(default="", compare=False)

    def measured(self, passed: bool, detail: str) -> bool:
        """Whether it passes by this look."""
        self.in_a_row = self.in_a_row + 1 if passed else 0
        self.detail = detail
        return self.in_a_row >= self.spec.consecutive

    def start(self, at: float) -> None:
        self.since, self.left, self.in_a_row = at, None, 0
        self.deadline = None if self.spec.fail_after is None else at + self.spec.fail_after

    def stop_clock(self, at: float) -> None:
        """Nobody looks during a pause: what was seen before it is not in a row with what is seen after it."""
        self.in_a_row = 0
        if self.deadline is not None:
            self.left, self.deadline = max(0.0, self.deadline - at), None

    def start_clock(self, at: float) -> None:
        self.in_a_row = 0
        if self.left is not None:
            self.deadline, self.left = at + self.left, None


class PhaseGates:
    """The gates before a wave, or those after it. They are asked from :meth:`begin` on."""

    def __init__(self, specs: tuple[ResolvedGate, ...]) -> None:
        self.gates = [GateState(spec) for spec in specs]
        self.began: float | None = None
        self.left = len(specs)  # how many have not passed

    @property
    def passed(self) -> bool:
        return not self.left

    @property
    def asked(self) -> bool:
        """Whether they are being asked now."""
        return self.began is not None and self.left > 0

    def begin(self, at: float) -> None:
        if self.began is None:
            self.began = at
            for gate in self.gates:
                gate.start(at)

    def pass_gate(self, index: int) -> None:
        gate = self.gates[index]
        if not gate.passed:
            gate.passed, gate.deadline, gate.left = True, None, None
            self.left -= 1

    def pending(self) -> Iterator[tuple[int, GateState]]:
        """Those that have not passed, once they are asked."""
        return ((i, gate) for i, gate in enumerate(self.gates) if not gate.passed) if self.asked else iter(())

    def next_wake(self) -> float | None:
        """When a start time comes, or a ``failAfter`` is over."""
        if not self.asked:
            return None
        times = [gate.spec.after for _, gate in self.pending() if gate.spec.kind == "time"]
        times += [
            gate.deadline for _, gate in self.pending() if gate.deadline is not None and not gate.failed
        ]
        return min(times, default=None)

    def stop_clocks(self, at: float) -> None:
        for _, gate in self.pending():
            gate.stop_clock(at)

    def start_clocks(self, at: float) -> None:
        """Resumed: a gate that failed has its whole time anew, and its approvals are asked again."""
        for _, gate in self.pending():
            if gate.failed:
                gate.failed = ""
                gate.approvals.clear()
                gate.start(at)
            else:
                gate.start_clock(at)


class WaveGates:
    """Both phases of one wave."""

    def __init__(self, spec: ResolvedWave) -> None:
        self.before, self.after = PhaseGates(spec.gates_before), PhaseGates(spec.gates_after)
        self.are_any = bool(spec.gates_before or spec.gates_after)

    def of(self, phase: Phase) -> PhaseGates:
        return self.before if phase == "before" else self.after

    def asked(self) -> Iterator[tuple[Phase, PhaseGates]]:
        """The phases that are being asked now."""
        if self.before.asked:
            yield "before", self.before
        if self.after.asked:
            yield "after", self.after
