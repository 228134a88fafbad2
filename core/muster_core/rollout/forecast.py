"""What many simulated runs of one plan say together.

Owns distributions by nearest ranks and the sums over runs. It simulates nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from muster_core.rollout.plan import ResolvedPlan
from muster_core.rollout.simulation import Run


class Shares(msgspec.Struct, frozen=True, kw_only=True):
    """A distribution by nearest ranks."""

    p50: float
    p90: float
    p99: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Shares:
        """``values`` may be empty: all zero."""
        found = sorted(values) or [0.0]

        def rank(share: float) -> float:
            return found[max(0, math.ceil(share * len(found)) - 1)]

        return cls(p50=rank(0.5), p90=rank(0.9), p99=rank(0.99), most=found[-1])


class WaveForecast(msgspec.Struct, frozen=True, kw_only=True):
    """One wave over all runs. ``at_most`` is what its own limits allow to be harmed, whatever the world is like."""

    name: str
    members: int
    reached: int
    passed: int
    seconds: Shares
    done: Shares
    harmed: Shares
    owed: Shares
    at_most: int


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """What to expect. ``seconds`` is of the runs that succeeded, ``stopped`` of the others."""

    plan: str
    clusters: int
    runs: int
    seed: int
    outcomes: dict[str, int]
    seconds: Shares
    stopped: Shares
    done: Shares
    harmed: Shares
    owed: Shares
    taken_back: Shares
    waves: list[WaveForecast]


def forecast(plan: ResolvedPlan, runs: Sequence[Run], seed: int) -> Forecast:
    """The runs as one answer; ``runs`` has at least one."""
    good = [run for run in runs if run.state == "Succeeded"]
    return Forecast(
        plan=plan.name,
        clusters=sum(len(wave.members) for wave in plan.waves),
        runs=len(runs),
        seed=seed,
        outcomes=dict(Counter(run.state for run in runs).most_common()),
        seconds=Shares.of(run.seconds for run in good),
        stopped=Shares.of(run.seconds for run in runs if run.state != "Succeeded"),
        done=Shares.of(run.done for run in runs),
        harmed=Shares.of(run.harmed for run in runs),
        owed=Shares.of(run.owed for run in runs),
        taken_back=Shares.of(run.taken_back for run in runs),
        waves=[_wave_forecast(plan, index, runs) for index in range(len(plan.waves))],
    )


def _wave_forecast(plan: ResolvedPlan, index: int, runs: Sequence[Run]) -> WaveForecast:
    spec, found = plan.waves[index], [run.waves[index] for run in runs]
    size = len(spec.members)
    soaking = size if not spec.soak_holds_slot else 0
    return WaveForecast(
        name=spec.name,
        members=size,
        reached=sum(wave.opened is not None for wave in found),
        passed=sum(wave.passed is not None for wave in found),
        seconds=Shares.of(
            wave.passed - wave.opened for wave in found if wave.passed is not None and wave.opened is not None
        ),
        done=Shares.of(wave.done for wave in found),
        harmed=Shares.of(wave.harmed for wave in found),
        owed=Shares.of(wave.owed for wave in found),
        at_most=min(size, spec.max_failed + spec.max_in_flight + soaking),
    )
