"""How long it takes to let a whole wave go: from the first offer to the last receipt.

A real coordinator with ``--agents`` protocol stubs in another process, a bundle, and a plan of one wave with
``maxInFlight: 100%``. Each repeat is a new commit. Stubs answer ``--think`` seconds after their offer, as real agents, which
fetch and verify first; with 0 their answers take the machine from the offers that are still going out. All times are of one
machine's clock: what the stubs saw, and what the coordinator's own event log says of when it decided. Prints median and
spread and writes every time raw to ``results/``. Asserted is only that every stub got its offer and that every answer was
acknowledged.
"""

from __future__ import annotations

import argparse
import sqlite3
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from figures import keep, machine, tell
from muster_core.rollout import events as ev
from programs import AGENTS, FLEET_ID, Coordinator, FleetRepository, StubFleet, cpu_seconds

SETTLE_DEADLINE = 120.0
GOALS = {1_000: 120.0, 10_000: 1_500.0}  # agents to ms, first offer to last receipt

FLEET = f"""\
apiVersion: muster.dev/v1alpha1
kind: Fleet
metadata: {{name: bench}}
spec: {{id: "{FLEET_ID}", mode: open, siteClasses: {{connected: {{contactInterval: 1m}}}}}}
"""
PLAN = """\
apiVersion: muster.dev/v1alpha1
kind: RolloutPlan
metadata: {name: all}
spec:
  waves:
  - {name: all, rest: true, maxInFlight: 100%, soak: 0s}
"""
BUNDLE = """\
apiVersion: muster.dev/v1alpha1
kind: Bundle
metadata: {name: shop}
spec:
  source: {path: manifests}
  targets: [{selector: {}}]
  plan: all
  namespace: default
"""
OBJECT = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: shop}
data: {version: "%d"}
"""


def decided(database: Path, rollout: str) -> list[float]:
    """When the coordinator made each offer of a rollout, in unix seconds, by its own log."""
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        rows = connection.execute(
            "select data from events where stream = ? order by number", (rollout,)
        ).fetchall()
    return [event.at for (data,) in rows if isinstance(event := ev.decode(data), ev.OfferMade)]


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def release(
    number: int, coordinator: Coordinator, repository: FleetRepository, fleet: StubFleet, agents: int
) -> dict[str, Any]:
    """One rollout; milliseconds from the first offer that a stub saw."""
    assert coordinator.program is not None
    pid = coordinator.program.pid
    commit = repository.commit(f"version {number}", {"bundles/shop/manifests/shop.yaml": OBJECT % number})
    spent = cpu_seconds(pid)
    coordinator.refresh()
    seen = fleet.order("settle", commit=commit, patience=SETTLE_DEADLINE)
    spent = cpu_seconds(pid) - spent
    first = seen["offer"][0]
    made = decided(coordinator.database, f"shop-{number:04}")
    assert len(made) == agents, f"{len(made)} offers were made"
    return {
        "offers ms": [(at - first) * 1000 for at in seen["offer"]],
        "acknowledged ms": [(at - first) * 1000 for at in seen["acknowledged"]],
        "settled ms": [(at - first) * 1000 for at in seen["settled"]],
        "decided to first offer ms": (first - min(made)) * 1000,
        "coordinator CPU s": spent,
    }


def measure(arguments: argparse.Namespace, folder: Path, profiled: bool) -> dict[str, Any]:
    repository = FleetRepository.make(folder / "git", {"fleet.yaml": FLEET, "plans/all.yaml": PLAN})
    coordinator, fleet = Coordinator(folder / "hub", repository.url), None
    program = coordinator.start(folder / "profile" if profiled else None)
    try:
        fleet = StubFleet.join(coordinator, repository, arguments.agents, arguments.think)
        repository.commit("a bundle", {"bundles/shop/bundle.yaml": BUNDLE})
        release(1, coordinator, repository, fleet, arguments.agents)  # the first finds cold caches
        runs = []
        if profiled:
            program.profile_begins()
        for number in range(2, 3 if profiled else arguments.repeats + 2):
            time.sleep(arguments.pause)
            runs.append(release(number, coordinator, repository, fleet, arguments.agents))
        return {"profile": program.cpu_profile()} if profiled else {"runs": runs}
    finally:
        if fleet:
            fleet.end()
        program.end()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--agents", type=int, default=AGENTS)
    parser.add_argument("--pause", type=float, default=2.0, help="seconds between two rollouts")
    parser.add_argument("--think", type=float, default=0.25, help="seconds from an offer to its answer")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    agents = arguments.agents
    with tempfile.TemporaryDirectory() as folder:
        result = measure(arguments, Path(folder), profiled=False)
    runs = result["runs"]
    goal = next((ms for size, ms in GOALS.items() if agents <= size), max(GOALS.values()))
    if statistics.median(run["offers ms"][-1] for run in runs) > goal:
        with tempfile.TemporaryDirectory() as folder:
            result |= measure(arguments, Path(folder), profiled=True)
    print(
        f"one wave over {agents:,} agents; {machine()}; {arguments.repeats} rollouts; from the first offer seen; "
        f"answers after {arguments.think} s"
    )
    named = {
        "offers ms": "offer at the agent",
        "acknowledged ms": "receipt of its acknowledgement",
        "settled ms": "receipt of its verdict",
    }
    for key, label in named.items():
        pooled = [ms for run in runs for ms in run[key]]
        tell(
            f"{label}, last of a rollout",
            [run[key][-1] for run in runs],
            "ms",
            f"{goal:.0f}" if key == "offers ms" else "",
        )
        print(
            f"  {'':44}    p50 {percentile(pooled, 0.5):9.2f} ms   p99 {percentile(pooled, 0.99):.2f}, over all agents"
        )
    tell("decided to first offer seen", [run["decided to first offer ms"] for run in runs], "ms")
    tell(
        "CPU of the coordinator an agent",
        [run["coordinator CPU s"] / agents * 1e6 for run in runs],
        "microseconds",
    )
    for line in result.get("profile", []):
        print(f"    {line}")
    name = f"wave_release_{agents}" + ("" if arguments.think else "_at_once")
    keep(name, {"agents": agents, "think s": arguments.think, **result})
    return 0


if __name__ == "__main__":
    sys.exit(main())
