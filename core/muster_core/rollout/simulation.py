"""A rollout on virtual time: the machine that the coordinator runs, in a world made of chances.

Owns the world (how long clusters take, which are away, on which the release is bad) and what is counted of one run. The
rules are the machine's alone: nothing of a plan is decided here. Randomness comes from the caller; the same seed gives
the same cluster the same luck whatever the plan, so that two plans can be compared. It never reads a clock.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Literal, NamedTuple

import msgspec

from muster_core.durations import parse_duration
from muster_core.errors import ValidationError
from muster_core.rollout import events as ev
from muster_core.rollout.machine import RolloutMachine
from muster_core.rollout.plan import ResolvedPlan

DIGEST = "simulated"
SIGMAS_TO_P99 = 2.3263478740408408  # of a normal distribution
NEWS_EVERY = 5_000  # steps between two words on progress

Kind = Literal["healthy", "failed", "silent", "back"]


class Likely(NamedTuple):
    """A time that varies, in seconds: log-normal by its median and 99th percentile; equal ones do not vary."""

    median: float
    p99: float

    def draw(self, rng: random.Random) -> float:
        if self.p99 <= self.median or not self.median:
            return self.median
        return self.median * math.exp(rng.gauss(0.0, math.log(self.p99 / self.median) / SIGMAS_TO_P99))


def parse_likely(text: str) -> Likely:
    """``90s``, or ``90s..10m``: median and 99th percentile. ``MUSTER-R070`` when it is neither."""
    parts = text.split("..")
    try:
        times = [parse_duration(part) for part in parts]
    except ValidationError:
        times = []
    if not 1 <= len(times) <= 2 or times[0] > times[-1]:
        raise ValidationError(
            "R070",
            f"{text!r} is no time that varies",
            hint="Write 90s, or 90s..10m: the median and the 99th percentile.",
        )
    return Likely(times[0], times[-1])


class World(msgspec.Struct, frozen=True, kw_only=True):
    """What a simulated fleet is like. Shares are 0 to 1, times in seconds; ``away`` are out of contact for certain.

    ``failure_rate`` is bad luck on a good release, ``bad_release`` the share of clusters on which the release itself is
    bad: there it fails once ``verdict_after`` has passed, or cuts the cluster off (``bad_shows`` silent).
    """

    apply_time: Likely = Likely(60.0, 60.0)
    failure_rate: float = 0.0
    bad_release: float = 0.0
    bad_shows: Literal["failed", "silent"] = "failed"
    verdict_after: float = 300.0
    offline_rate: float = 0.0
    return_after: Likely | None = None
    away: frozenset[str] = frozenset()


class WaveRun(NamedTuple):
    """One wave of one run. Seconds since the rollout's start; None: it never came to that."""

    opened: float | None
    passed: float | None
    done: int
    harmed: int
    owed: int


class Run(NamedTuple):
    """How one run went. ``seconds`` until it ended, or until it stopped to wait for a person or for clusters."""

    state: str
    why: str
    seconds: float
    done: int
    harmed: int
    owed: int
    waves: tuple[WaveRun, ...]
    inputs: int


class Lot(NamedTuple):
    """The luck of one cluster in one run. ``outcome`` is what its agent says ``takes`` seconds after the offer."""

    outcome: Literal["healthy", "failed", "silent"]
    takes: float


def simulate(
    plan: ResolvedPlan,
    world: World,
    runs: int,
    seed: int,
    heard: Callable[[int, int], None] = lambda run, settled: None,
) -> Iterator[Run]:
    """``runs`` rollouts of one plan. ``heard`` is told the run's number and its settled targets now and then."""
    for number in range(runs):
        rng = random.Random(f"{seed}/{number}")  # noqa: S311 - luck, not a secret
        yield Simulation(plan, world, rng).run(partial(heard, number))


class Simulation:
    """One run. It has one machine and a queue of what the world is going to say."""

    def __init__(self, plan: ResolvedPlan, world: World, rng: random.Random) -> None:
        started = ev.Started(
            at=0.0, rollout="simulated", bundle="", commit="", tree_digest=DIGEST, plan=plan, by="muster"
        )
        self.machine = RolloutMachine(started)
        self._now = 0.0
        self._queue: list[tuple[float, int, Kind, str, int]] = []
        self._number = 0
        self._inputs = 0
        self._stopped = 0.0
        self._opened: dict[int, float] = {}
        self._passed: dict[int, float] = {}
        self._lots: dict[str, Lot] = {}
        self._away: set[str] = set()
        self._draw(world, rng)
        self.machine.meet(name for name in self.machine.targets if name not in self._away)

    def _draw(self, world: World, rng: random.Random) -> None:
        """Everybody's luck, in the order of names: it is then not the plan's."""
        chance, bad, unlucky = rng.random, world.bad_release, world.failure_rate
        fails = Lot("failed", world.verdict_after)
        for name in sorted(self.machine.targets):
            takes = world.apply_time.draw(rng)
            is_bad, is_unlucky, is_away = chance() < bad, chance() < unlucky, chance() < world.offline_rate
            back = world.return_after.draw(rng) if world.return_after else None
            if is_bad:
                self._lots[name] = fails if world.bad_shows == "failed" else Lot("silent", takes)
            else:
                self._lots[name] = fails if is_unlucky else Lot("healthy", takes)
            if is_away or name in world.away:
                self._away.add(name)
                if back is not None:
                    self._later(back, "back", name, 0)

    def run(self, heard: Callable[[int], None]) -> Run:
        """To its end, or until nothing that can happen would change anything."""
        machine, queue, next_news = self.machine, self._queue, NEWS_EVERY
        self._give(ev.Tick())
        while not machine.has_ended:
            wake = machine.next_wake()
            if queue and (wake is None or queue[0][0] <= wake):
                self._now, _, kind, cluster, attempt = heapq.heappop(queue)
                self._world(kind, cluster, attempt)
            elif wake is not None:
                self._now = max(wake, self._now)
                if not self._give(ev.Tick()) and machine.next_wake() == wake:
                    break
            else:
                break
            if machine.state == "Paused" and not any(wave.flying for wave in machine.waves):
                break
            if self._inputs >= next_news:
                next_news = self._inputs + NEWS_EVERY
                heard(len(machine.targets) - machine.count("waiting"))
        return self._told()

    # --- the world -------------------------------------------------------------------------------

    def _later(self, after: float, kind: Kind, cluster: str, attempt: int) -> None:
        self._number += 1  # what happens at one moment happens in the order in which it was caused
        heapq.heappush(self._queue, (self._now + after, self._number, kind, cluster, attempt))

    def _world(self, kind: Kind, cluster: str, attempt: int) -> None:
        match kind:
            case "healthy" | "failed":
                code, text = ("", "") if kind == "healthy" else ("K010", "not ready")
                self._give(ev.Reported(cluster, attempt, DIGEST, kind, code, text))
            case "silent":
                self._away.add(cluster)
                self._give(ev.Contact(cluster, False))
            case "back":
                self._away.discard(cluster)
                standing = self.machine.offer_for(cluster)
                self._give(ev.Contact(cluster, True))
                if standing and standing.state == "offered":  # it was made while the cluster was away
                    self._give(*self._takes(cluster, standing.attempt))

    def _takes(self, cluster: str, attempt: int) -> tuple[ev.Input, ...]:
        """What an agent does with an offer that reaches it: it says so at once, and its verdict follows."""
        if cluster in self._away:
            return ()
        lot = self._lots[cluster]
        self._later(lot.takes, lot.outcome, cluster, attempt)
        return (ev.Acknowledged(cluster, attempt),)

    def _give(self, *given: ev.Input) -> bool:
        """Tells the machine, and what agents answer at once; whether anything followed."""
        waiting, handle, now, any_event = list(given), self.machine.handle, self._now, False
        for each in waiting:  # grows while offers are answered
            self._inputs += 1
            for event in handle(each, now):
                any_event = True
                match event:
                    case ev.OfferMade():
                        waiting += self._takes(event.cluster, event.attempt)
                    case ev.WaveOpened():
                        self._opened[event.wave] = now
                    case ev.WavePassed():
                        self._passed[event.wave] = now
                    case ev.Paused() | ev.Held() | ev.Ended():
                        self._stopped = now
                    case _:
                        pass
        return any_event

    def _told(self) -> Run:
        machine = self.machine
        waves = tuple(
            WaveRun(
                self._opened.get(index),
                self._passed.get(index),
                wave.done,
                len(wave.harmed),
                wave.count("owed"),
            )
            for index, wave in enumerate(machine.waves)
        )
        return Run(
            state=machine.state,
            why=machine.why,
            seconds=self._stopped if machine.has_ended or machine.state in {"Paused", "Held"} else self._now,
            done=sum(wave.done for wave in waves),
            harmed=sum(wave.harmed for wave in waves),
            owed=sum(wave.owed for wave in waves),
            waves=waves,
            inputs=self._inputs,
        )


# --- what many runs say -----------------------------------------------------------------------------------


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
