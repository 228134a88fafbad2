"""A rollout on virtual time: the machine that the coordinator runs, in a world made of chances.

Owns the world (how long clusters take, which are away, on which the release is bad) and what is counted of one run. The
rules are the machine's alone: nothing of a plan is decided here. Randomness comes from the caller; the same seed gives
the same cluster the same luck whatever the plan, so that two plans can be compared. It never reads a clock.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Literal, NamedTuple

import msgspec

from muster_core.durations import parse_duration
from muster_core.errors import ValidationError
from muster_core.rollout import events as ev
from muster_core.rollout.gates import PendingGate
from muster_core.rollout.machine import RolloutMachine
from muster_core.rollout.plan import ResolvedGate, ResolvedPlan
from muster_core.windows import Window

DIGEST = "simulated"
SIGMAS_TO_P99 = 2.3263478740408408  # of a normal distribution
NEWS_EVERY = 5_000  # steps between two words on progress

LONGEST = 400 * 86_400.0  # seconds: a run that waits for longer waits for ever

Kind = Literal["healthy", "failed", "silent", "back", "people", "measure"]


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
    bad: there it fails once ``verdict_after`` has passed, or cuts the cluster off (``bad_shows`` silent). People approve
    ``approval_after`` they are asked, or never; what gates measure is always well. ``sites`` have a window of their own, by
    cluster, and ``vetoes`` take nothing of this bundle.
    """

    starts_at: float = 0.0  # unix seconds: windows and start times are of that time

    apply_time: Likely = Likely(60.0, 60.0)
    failure_rate: float = 0.0
    bad_release: float = 0.0
    bad_shows: Literal["failed", "silent"] = "failed"
    verdict_after: float = 300.0
    offline_rate: float = 0.0
    return_after: Likely | None = None
    away: frozenset[str] = frozenset()
    approval_after: Likely | None = None
    sites: Mapping[str, Window] = {}
    vetoes: frozenset[str] = frozenset()
    may_return: bool = True


class WaveRun(NamedTuple):
    """One wave of one run. Seconds since the rollout's start; None: it never came to that."""

    opened: float | None
    passed: float | None
    done: int
    harmed: int
    owed: int


class Run(NamedTuple):
    """How one run went. ``seconds`` until it ended, or until it stopped to wait for a person or for clusters.

    ``taken_back`` are healthy on a release that is rolled back, and go back too.
    """

    state: str
    why: str
    seconds: float
    done: int
    harmed: int
    owed: int
    taken_back: int
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
            at=world.starts_at, rollout="simulated", bundle="", commit="", tree_digest=DIGEST, plan=plan,
            by="muster", may_return=world.may_return,
        )  # fmt: skip
        self.machine = RolloutMachine(started)
        self._world, self._rng = world, rng
        self._began = self._now = self._stopped = world.starts_at
        self._queue: list[tuple[float, int, Kind, str, int]] = []
        self._number = 0
        self._inputs = 0
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
        while not machine.has_ended and self._now - self._began < LONGEST:
            wake = machine.next_wake()
            if queue and (wake is None or queue[0][0] <= wake):
                self._now, _, kind, cluster, attempt = heapq.heappop(queue)
                self._happens(kind, cluster, attempt)
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

    def _happens(self, kind: Kind, cluster: str, attempt: int) -> None:
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
            case "people":
                self._approve()
            case "measure":
                self._measure(cluster)

    def _takes(self, cluster: str, attempt: int) -> tuple[ev.Input, ...]:
        """What an agent does with an offer that reaches it: it says so at once, and its verdict follows."""
        if cluster in self._away:
            return ()
        if cluster in self._world.vetoes:
            return (ev.Refused(cluster, attempt, "T092", "the site has a veto on this bundle"),)
        site = self._world.sites.get(cluster)
        if site and not site.is_open(self._now):
            why = "the site's window is closed"
            return (ev.Deferred(cluster, attempt, site.opens_at(self._now), why),)
        lot = self._lots[cluster]
        self._later(lot.takes, lot.outcome, cluster, attempt)
        return (ev.Acknowledged(cluster, attempt),)

    def _give(self, *given: ev.Input) -> bool:
        """Tells the machine, and what agents answer at once; whether anything followed."""
        waiting, handle, now = list(given), self.machine.handle, self._now
        any_event = asked = False
        for each in waiting:  # grows while offers are answered
            self._inputs += 1
            for event in handle(each, now):
                any_event = True
                match event:
                    case ev.OfferMade():
                        waiting += self._takes(event.cluster, event.attempt)
                    case ev.WaveOpened():
                        self._opened[event.wave] = now
                        asked = True
                    case ev.WaveSettled():
                        asked = True
                    case ev.WavePassed():
                        self._passed[event.wave] = now
                    case ev.Paused() | ev.Held() | ev.Ended():
                        self._stopped = now
                    case _:
                        pass
        if asked:
            self._ask()
        return any_event

    # --- gates -----------------------------------------------------------------------------------

    def _ask(self) -> None:
        """Gates have begun: people hear of it and come when they come; executors look at once."""
        after = self._world.approval_after
        if after and self.machine.wanted_approvals():
            self._later(after.draw(self._rng), "people", "", 0)
        for gate in self.machine.pending_gates():
            self._later(0.0, "measure", _key(gate), 0)

    def _approve(self) -> None:
        wanted = self.machine.wanted_approvals()
        names = [name for one in wanted for name in _people(one.gate)]
        for name in dict.fromkeys(names):
            asked = self.machine.wanted_approvals()
            if asked and asked[0].wave == wanted[0].wave and any(name not in one.given for one in asked):
                self._give(ev.Approve(name, "simulated"))

    def _measure(self, key: str) -> None:
        """Every interval, until it has passed."""
        for gate in self.machine.pending_gates():
            if _key(gate) == key:
                self._later(gate.gate.interval, "measure", key, 0)
                self._give(ev.GateMeasured(gate.wave, gate.phase, gate.index, True, "simulated"))

    def _told(self) -> Run:
        machine = self.machine
        waves = tuple(
            WaveRun(
                self._since(self._opened.get(index)),
                self._since(self._passed.get(index)),
                wave.done,
                len(wave.harmed),
                wave.count("owed"),
            )
            for index, wave in enumerate(machine.waves)
        )
        rests = machine.has_ended or machine.state in {"Paused", "Held"}
        return Run(
            state=machine.state,
            why=machine.why,
            seconds=(self._stopped if rests else self._now) - self._began,
            done=sum(wave.done for wave in waves),
            harmed=sum(wave.harmed for wave in waves),
            owed=sum(wave.owed for wave in waves),
            taken_back=len(machine.to_return()),
            waves=waves,
            inputs=self._inputs,
        )

    def _since(self, at: float | None) -> float | None:
        return None if at is None else at - self._began


def _key(gate: PendingGate) -> str:
    return f"{gate.wave} {gate.phase} {gate.index}"


def _people(gate: ResolvedGate) -> Sequence[str]:
    """As many as it takes."""
    return (gate.by or tuple(f"approver-{number}" for number in range(gate.count)))[: gate.count]
