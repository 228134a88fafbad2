"""What connected agents cost a coordinator, and how fast all of them are back after it was killed.

A real coordinator with ``--agents`` protocol stubs in another process, each with its own certificate and mTLS session. Memory
and idle CPU are the coordinator's alone, less what it takes with nobody connected. Then it is killed with -9 and started on
the same folder and ports, as often as there are repeats. Prints median and spread and writes them raw to ``results/``.
Asserted is only that nobody is missing.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from figures import keep, machine, tell
from muster_proto.v1 import operator_pb2 as op
from programs import AGENTS, FLEET_ID, Coordinator, FleetRepository, Program, StubFleet, cpu_seconds, memory

BACK_DEADLINE = 300.0
STABLE = 32.0  # an agent that was in contact for 30 s starts its back-off anew
GOAL_AGENTS, GOAL_MB, GOAL_CORE = 20_000, 2.5 * 1024**3 / 1e6, 0.05
GOAL_BACK, GOAL_BACK_AGENTS = 15.0, 10_000

FLEET = f"""\
apiVersion: muster.dev/v1alpha1
kind: Fleet
metadata: {{name: bench}}
spec: {{id: "{FLEET_ID}", mode: open, siteClasses: {{connected: {{contactInterval: 1m}}}}}}
"""


def idle(program: Program, seconds: float, repeats: int) -> list[float]:
    """Cores used in each window."""
    found = []
    for _ in range(repeats):
        before, begun = cpu_seconds(program.pid), time.monotonic()
        time.sleep(seconds)
        found.append((cpu_seconds(program.pid) - before) / (time.monotonic() - begun))
    return found


def come_back(coordinator: Coordinator, fleet: StubFleet, agents: int) -> dict[str, Any]:
    """Kills it once everybody was in contact for a while, starts it again, and waits for all."""
    assert coordinator.program is not None
    time.sleep(STABLE)
    killed = time.time()
    coordinator.program.end(signal.SIGKILL)
    program = coordinator.start()
    ready = time.time()
    answer = fleet.order("contact", since=killed, patience=BACK_DEADLINE)
    at, failures = answer["at"], answer["failures"]
    spent = cpu_seconds(program.pid)
    with coordinator.operator() as call:
        online = [
            view for view in call("ListClusters", op.ListClustersRequest()).clusters if view.state == "Online"
        ]
    assert len(online) == agents, len(online)
    return {
        "down s": ready - killed,
        "half back after ready s": at[len(at) // 2] - ready,
        "all back after ready s": at[-1] - ready,
        "all back after kill s": at[-1] - killed,
        "coordinator CPU s, start included": spent,
        "failures": failures,
    }


def measure(arguments: argparse.Namespace, folder: Path, profiled: bool) -> dict[str, Any]:
    repository = FleetRepository.make(folder / "git", {"fleet.yaml": FLEET})
    coordinator, fleet = Coordinator(folder / "hub", repository.url), None
    windows = arguments.seconds, 1 if profiled else arguments.repeats
    program = coordinator.start(folder / "profile" if profiled else None)
    try:
        time.sleep(2)
        empty = {"memory MB": memory(program.pid), "cores": idle(program, *windows)}
        fleet = StubFleet.join(coordinator, repository, arguments.agents)
        if not profiled:
            # Enrolment is over: measured is a coordinator that only ever saw sessions.
            come_back(coordinator, fleet, arguments.agents)
            assert coordinator.program is not None
            program = coordinator.program
        time.sleep(arguments.settle)
        if profiled:
            program.profile_begins()
        full: dict[str, Any] = {"cores": idle(program, *windows), "memory MB": memory(program.pid)}
        if profiled:
            return {"profile": program.cpu_profile()}
        back = [come_back(coordinator, fleet, arguments.agents) for _ in range(arguments.repeats)]
        return {"empty": empty, "full": full, "reconnect": back}
    finally:
        if fleet:
            fleet.end()
        if coordinator.program:
            coordinator.program.end()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--agents", type=int, default=AGENTS)
    parser.add_argument("--seconds", type=float, default=20.0, help="length of one idle window")
    parser.add_argument(
        "--settle", type=float, default=20.0, help="seconds from connected to the first window"
    )
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    agents = arguments.agents
    with tempfile.TemporaryDirectory() as folder:
        result = measure(arguments, Path(folder), profiled=False)
    base = statistics.median(result["empty"]["cores"])
    memory_each = (
        (result["full"]["memory MB"]["VmRSS"] - result["empty"]["memory MB"]["VmRSS"]) * 1000 / agents
    )
    cpu_each = [(cores - base) / agents * 1e6 for cores in result["full"]["cores"]]
    goal_cpu = GOAL_CORE / GOAL_AGENTS * 1e6
    result |= {"KB an agent": memory_each, "microcores an agent": cpu_each}
    if statistics.median(cpu_each) > goal_cpu:
        with tempfile.TemporaryDirectory() as folder:
            result |= measure(arguments, Path(folder), profiled=True)
    print(f"a coordinator with {agents:,} agents; {machine()}; {arguments.repeats} repeats")
    for name in ("empty", "full"):
        print(
            f" {name}: resident {result[name]['memory MB']['VmRSS']:.1f} MB, peak {result[name]['memory MB']['VmHWM']:.1f} MB"
        )
        tell("idle CPU", [cores * 100 for cores in result[name]["cores"]], "% of a core")
    print(f"  resident memory an agent  {memory_each:.0f} KB   goal {GOAL_MB * 1000 / GOAL_AGENTS:.0f} KB")
    tell("idle CPU an agent", cpu_each, "microcores", f"{goal_cpu:.1f}")
    scaled = statistics.median(cpu_each) * GOAL_AGENTS / 1e4
    print(
        f"  extrapolated to {GOAL_AGENTS:,}: {memory_each * GOAL_AGENTS / 1e6:.2f} GB, {scaled:.0f} % of a core"
    )
    for line in result.get("profile", []):
        print(f"    {line}")
    for key in result["reconnect"][0]:
        if key != "failures":
            tell(key, [each[key] for each in result["reconnect"]], "s")
    for run in result["reconnect"]:
        print(f"    what stubs met meanwhile: {run['failures']}")
    each = [run["coordinator CPU s, start included"] / agents * 1000 for run in result["reconnect"]]
    tell("coordinator CPU a reconnect, start included", each, "ms")
    print(f"  (the goal is {GOAL_BACK:.0f} s at {GOAL_BACK_AGENTS:,} agents)")
    keep(f"coordinator_agents_{agents}", {"agents": agents, "window s": arguments.seconds, **result})
    return 0


if __name__ == "__main__":
    sys.exit(main())
