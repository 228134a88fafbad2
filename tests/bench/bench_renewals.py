"""What renewals of certificates cost a coordinator, and that no stream ends by them.

A real coordinator with ``--agents`` protocol stubs in another process, each with an open session. Within ``--over`` seconds
each renews once over its own connection, with a counter that rises and a request of its own; as often as there are repeats.
The CPU is the coordinator's, less what the same fleet takes in as long a time without renewals. Prints median and spread and
writes every latency raw to ``results/``. Asserted is only that all got a certificate and that no stream was lost.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from figures import keep, machine, tell
from muster_proto.v1 import operator_pb2 as op
from programs import FLEET_ID, Coordinator, FleetRepository, StubFleet, cpu_seconds

GOAL_AGENTS, GOAL_SECONDS = 1_000, 60.0

FLEET = f"""\
apiVersion: muster.dev/v1alpha1
kind: Fleet
metadata: {{name: bench}}
spec: {{id: "{FLEET_ID}", mode: open, siteClasses: {{connected: {{contactInterval: 1m}}}}}}
"""


def online(coordinator: Coordinator) -> int:
    with coordinator.operator() as call:
        views = call("ListClusters", op.ListClustersRequest()).clusters
    return sum(view.state == "Online" for view in views)


def idle(pid: int, seconds: float) -> float:
    """Cores used while nothing is asked of it."""
    before, begun = cpu_seconds(pid), time.monotonic()
    time.sleep(seconds)
    return (cpu_seconds(pid) - before) / (time.monotonic() - begun)


def round_of(
    number: int, coordinator: Coordinator, fleet: StubFleet, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Everybody renews once."""
    assert coordinator.program is not None
    pid = coordinator.program.pid
    before, begun = cpu_seconds(pid), time.monotonic()
    answer = fleet.order("renew", over=arguments.over, counter=number)
    spent, wall = cpu_seconds(pid) - before, time.monotonic() - begun
    assert not answer["failures"], answer["failures"]
    assert len(answer["took s"]) == arguments.agents, f"{len(answer['took s'])} renewed"
    assert answer["lost"] == 0, f"{answer['lost']} streams were dropped"
    assert online(coordinator) == arguments.agents
    return {
        "within s": answer["within s"],
        "dropped streams": answer["lost"],
        "coordinator CPU s": spent,
        "window s": wall,
        "latency ms": [round(took * 1000, 2) for took in answer["took s"]],
    }


def measure(arguments: argparse.Namespace, folder: Path, profiled: bool) -> dict[str, Any]:
    repository = FleetRepository.make(folder / "git", {"fleet.yaml": FLEET})
    coordinator, fleet = Coordinator(folder / "hub", repository.url), None
    program = coordinator.start(folder / "profile" if profiled else None)
    try:
        fleet = StubFleet.join(coordinator, repository, arguments.agents)
        time.sleep(arguments.settle)
        if profiled:
            program.profile_begins()
            round_of(1, coordinator, fleet, arguments)
            return {"profile": program.cpu_profile()}
        cores = idle(program.pid, arguments.over)
        rounds = [
            round_of(number, coordinator, fleet, arguments) for number in range(1, arguments.repeats + 1)
        ]
        return {"idle cores": cores, "rounds": rounds}
    finally:
        if fleet:
            fleet.end()
        program.end()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--agents", type=int, default=1_000)
    parser.add_argument("--over", type=float, default=60.0, help="seconds in which all renew")
    parser.add_argument(
        "--settle", type=float, default=10.0, help="seconds from connected to the first window"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="a round more, profiled")
    arguments = parser.parse_args()
    agents = arguments.agents
    with tempfile.TemporaryDirectory() as folder:
        result = measure(arguments, Path(folder), profiled=False)
    if arguments.profile:
        with tempfile.TemporaryDirectory() as folder:
            result |= measure(arguments, Path(folder), profiled=True)
    rounds = result["rounds"]
    print(
        f"{agents:,} agents with open streams renew within {arguments.over:.0f} s; {machine()}; "
        f"{arguments.repeats} rounds; goal {GOAL_AGENTS:,} in {GOAL_SECONDS:.0f} s on one core, none dropped"
    )
    tell("streams dropped", [each["dropped streams"] for each in rounds], "", "0")
    spent = [
        (each["coordinator CPU s"] - result["idle cores"] * each["window s"]) / agents * 1000
        for each in rounds
    ]
    tell("CPU of the coordinator a renewal", spent, "ms")
    tell(
        "busy while they renew",
        [each["coordinator CPU s"] / each["window s"] * 100 for each in rounds],
        "% of a core",
    )
    for share, name in ((0.5, "p50"), (0.99, "p99"), (1.0, "longest")):
        taken = [each["latency ms"][min(agents - 1, int(agents * share))] for each in rounds]
        tell(f"a renewal as the agent sees it, {name}", taken, "ms")
    print(f"  one core would take {60_000 / statistics.median(spent):,.0f} renewals a minute (extrapolated)")
    for line in result.get("profile", []):
        print(f"    {line}")
    keep(
        f"renewals_{agents}",
        {"agents": agents, "over s": arguments.over, "CPU ms a renewal": spent, **result},
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
