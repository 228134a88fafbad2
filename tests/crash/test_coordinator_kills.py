"""The coordinator is killed with -9 at random points of a rollout with failures; nothing of the outcome changes.

Fifty stubs join, hold real mTLS sessions and answer offers by the agent's rules; only cluster and Git working copy are not
there. Some fail, refuse, return, are away or are cut off. The run with kills must end as the run without: every target in
the same state, each offer taken once, and a step said again only where a kill made that needful.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from bench.programs import FLEET_ID, Coordinator, FleetRepository, StubFleet
from muster_core.rollout import events as ev
from muster_core.rollout.machine import RolloutMachine

AGENTS, KILLS, ROLLOUT = 50, 20, "shop-0001"
SEEDS = range(1, 11) if os.environ.get("MUSTER_LONG") == "1" else (1,)
ENDS_WITHIN = 40.0
NEVER = 1 << 60  # more events than there can be
LONGEST_LIFE = 2.5
# What moves a rollout on; soaks that stand still and clocks that wait are what a kill itself brings.
STEPS = (
    ev.OfferMade,
    ev.TargetAcknowledged,
    ev.TargetApplying,
    ev.SoakStarted,
    ev.TargetDone,
    ev.TargetFailed,
)
ALL_STEPS = 4 * AGENTS  # after these there is nothing but waiting for who is away
# Silence counts 4 s after a start instead of 45; agents dial again within a moment instead of 30.
# A snapshot is taken after every 50 events instead of 10,000: nearly each life begins with one.
PRELUDE = """\
from muster_coordinator import app
from muster_coordinator.rollout import snapshots
app.GRACE_SECONDS, snapshots.FEWEST_EVENTS = 4.0, 1
"""
PACE = ("--work", "0.2", "--dial", "0.3")

ROLES = {
    "failed": ("stub-00002", "stub-00011", "stub-00024", "stub-00049"),
    "refused": ("stub-00008", "stub-00030"),
    "returned": ("stub-00015", "stub-00041"),
    "away": ("stub-00033", "stub-00047"),
    "cut": ("stub-00039",),
}
STATES = {"failed": "failed", "refused": "failed", "returned": "returned", "away": "owed", "cut": "lost"}
FLEET = f"""\
apiVersion: muster.dev/v1alpha1
kind: Fleet
metadata: {{name: crash}}
spec: {{id: "{FLEET_ID}", mode: open, defaults: {{plan: rings}}}}
"""
PLAN = f"""\
apiVersion: muster.dev/v1alpha1
kind: RolloutPlan
metadata: {{name: rings}}
spec:
  deadline: 4s
  waves:
  - {{name: canary, names: [{", ".join(f"stub-{n:05}" for n in range(5))}], maxInFlight: 2, maxFailed: 1, soak: 300ms}}
  - {{name: tenth, percent: 30%, maxInFlight: 4, maxFailed: 50%, offline: {{after: 8s}}}}
  - {{name: rest, rest: true, maxInFlight: 8, maxFailed: 50%, maxLost: 2, offline: {{after: 8s}}}}
"""
BUNDLE = """\
apiVersion: muster.dev/v1alpha1
kind: Bundle
metadata: {name: shop}
spec: {source: {path: manifests}, targets: [{selector: {}}], namespace: default}
"""
OBJECT = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: shop}\ndata: {version: '1'}\n"


class Outcome(NamedTuple):
    """A rollout that ended: its log, where every target stands, what the stubs saw, and the log at each kill."""

    log: list[ev.AnyEvent]
    states: dict[str, str]
    seen: list[dict[str, Any]]
    kills: list[list[bytes]]


def has_ended(log: list[ev.AnyEvent]) -> bool:
    return bool(log) and isinstance(log[-1], ev.Ended)


class Hub:
    """A coordinator with its stubs, and the rollout's log as it is on disk."""

    def __init__(self, folder: Path) -> None:
        self.repository = FleetRepository.make(
            folder / "git", {"fleet.yaml": FLEET, "plans/rings.yaml": PLAN}
        )
        self.coordinator = Coordinator(folder / "hub", self.repository.url, prelude=PRELUDE)
        self.coordinator.start()
        self.fleet = StubFleet.join(self.coordinator, self.repository, AGENTS, 0.05, *PACE)
        for outcome, clusters in ROLES.items():
            self.fleet.order("obey", clusters=clusters, outcome=outcome)

    def begin(self) -> None:
        self.repository.commit(
            "a bundle", {"bundles/shop/bundle.yaml": BUNDLE, "bundles/shop/manifests/shop.yaml": OBJECT}
        )
        self.coordinator.refresh()

    def rows(self) -> list[bytes]:
        with sqlite3.connect(f"file:{self.coordinator.database}?mode=ro", uri=True) as connection:
            query = "select data from events where stream = ? order by number"
            found = [bytes(data) for (data,) in connection.execute(query, (ROLLOUT,))]
        connection.close()
        return found

    def until(self, steps: int, seconds: float) -> bool:
        """Whether the log has so many steps within that time, or has ended before."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            log = [ev.decode(row) for row in self.rows()]
            if sum(isinstance(event, STEPS) for event in log) >= steps or has_ended(log):
                return True
            time.sleep(0.01)
        return False

    def kill(self) -> None:
        assert self.coordinator.program is not None
        self.coordinator.program.end(signal.SIGKILL)

    def finish(self, folder: Path, kills: list[list[bytes]]) -> Outcome:
        assert self.until(NEVER, ENDS_WITHIN), self._story()
        log = [ev.decode(data) for data in self.rows()]
        self.fleet.order("record", file=str(folder / "seen"))
        seen = [json.loads(line) for line in (folder / "seen").read_text().splitlines()]
        machine = RolloutMachine.replay(log)
        return Outcome(log, {name: target.state for name, target in machine.targets.items()}, seen, kills)

    def _story(self) -> str:
        assert self.coordinator.program is not None
        events = [ev.decode(data) for data in self.rows()]
        return f"{events[-5:]}\n{self.coordinator.program.log.read_text()[-2000:]}"

    def end(self) -> None:
        self.fleet.end()
        if self.coordinator.program:
            self.coordinator.program.end()


@contextmanager
def hub(folder: Path) -> Iterator[Hub]:
    found = Hub(folder)
    try:
        yield found
    finally:
        found.end()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("undisturbed")
    with hub(folder) as found:
        found.begin()
        return found.finish(folder, [])


def killed(folder: Path, seed: int) -> Outcome:
    """The same rollout, killed after numbers of steps that are drawn over its whole length."""
    rng, kills = random.Random(seed), list[list[bytes]]()
    points = sorted(rng.sample(range(1, ALL_STEPS), KILLS))
    with hub(folder) as found:
        found.begin()
        for point in points:
            found.until(point, LONGEST_LIFE)
            time.sleep(rng.uniform(0.0, 0.05))  # not always right after a commit
            found.kill()
            kills.append(found.rows())
            found.coordinator.start()
        return found.finish(folder, kills)


def test_the_undisturbed_rollout_ends_as_its_stubs_were_told(undisturbed: Outcome) -> None:
    expected = {name: STATES[role] for role, names in ROLES.items() for name in names}
    assert undisturbed.states == {f"stub-{n:05}": expected.get(f"stub-{n:05}", "done") for n in range(AGENTS)}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.timeout(240)
def test_kills_change_nothing_of_the_outcome(tmp_path: Path, undisturbed: Outcome, seed: int) -> None:
    outcome = killed(tmp_path, seed)
    logs = [[ev.decode(row) for row in kill] for kill in outcome.kills]
    running = sum(bool(log) and not has_ended(log) for log in logs)
    hit = {max((e.wave for e in log if isinstance(e, ev.WaveOpened)), default=-1) for log in logs}
    print(f"seed {seed}: {KILLS} kills, {running} of them while it ran, {len(outcome.log)} events")
    assert running >= KILLS * 3 // 4
    assert hit >= {0, 1, 2}, "every wave was hit"
    assert outcome.states == undisturbed.states
    final, undone = outcome.log[-1], undisturbed.log[-1]
    assert isinstance(final, ev.Ended)
    assert isinstance(undone, ev.Ended)
    assert final.state == undone.state == "Succeeded"
    _require_only_appended(outcome)
    _require_each_step_once(outcome)


def _require_only_appended(outcome: Outcome) -> None:
    """What was durable at a kill is the beginning of what is durable in the end."""
    whole = [ev.encode(event) for event in outcome.log]
    for kill in outcome.kills:
        assert kill == whole[: len(kill)]


def _require_each_step_once(outcome: Outcome) -> None:
    offered: Counter[tuple[str, int]] = Counter()
    needed: Counter[tuple[str, int]] = Counter()
    attempt = dict.fromkeys(outcome.states, 1)
    for event in outcome.log:
        match event:
            case ev.OfferMade():
                offered[event.cluster, event.attempt] += 1
                attempt[event.cluster] = event.attempt
            case ev.OfferWithdrawn():
                needed[event.cluster, event.attempt] += 1
            case ev.TargetBack():  # it was owed and came back: offered anew, not twice
                needed[event.cluster, attempt[event.cluster]] += 1
            case _:
                pass
    assert set(attempt.values()) == {1}, "nobody asked for another attempt"
    assert {key: count for key, count in offered.items() if count != 1 + needed[key]} == {}

    taken: Counter[str] = Counter()
    told, settled = set[str](), set[str]()
    for one in outcome.seen:
        cluster = one["cluster"]
        match one["what"]:
            case "welcome":
                told.discard(cluster)
            case "offer":
                assert (one["rollout"], one["attempt"]) == (ROLLOUT, 1)
                assert cluster not in told, f"{cluster} was offered it twice on one connection"
                soaks = outcome.log[0].plan.waves[0].members if isinstance(outcome.log[0], ev.Started) else ()
                assert cluster not in settled or cluster in soaks, f"{cluster} had said how it ended"
                told.add(cluster)
            case "taken":
                taken[cluster] += 1
            case "settled":
                settled.add(cluster)
            case _:
                pass
    assert {cluster: count for cluster, count in taken.items() if count != 1} == {}
    assert taken.keys() == {name for name, state in outcome.states.items() if state != "owed"}
