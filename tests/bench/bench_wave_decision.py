"""How long deciding takes in a rollout of 100,000 clusters: one report in, offers out.

CPU time of this process per input, each input of the whole run being counted: acknowledged, applying, healthy, soak end.
Prints median and spread of five runs of the whole rollout, and writes them raw beside this file. Nothing is asserted.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path

from muster_core.rollout import events as ev
from muster_core.rollout.machine import RolloutMachine
from muster_core.rollout.plan import ResolvedPlan, ResolvedWave

CLUSTERS = int(os.environ.get("MUSTER_BENCH_CLUSTERS", "100000"))
REPEATS = 5
DIGEST = "d"


def plan() -> ResolvedPlan:
    waves, first = [], 0
    for name, share in (("canary", 0.01), ("tenth", 0.09), ("half", 0.4), ("rest", 0.5)):
        size = int(CLUSTERS * share)
        members = tuple(f"c{number:06}" for number in range(first, first + size))
        first += size
        waves.append(
            ResolvedWave(
                name=name, members=members, max_in_flight=max(1, size // 10), max_failed=size // 20,
                quorum_percent=50, soak=60.0, offline_after=dict.fromkeys(members, 900.0),
            )
        )  # fmt: skip
    return ResolvedPlan(
        name="rings", waves=tuple(waves), deadline=900.0, action="pause", catch_up_in_flight="10%"
    )


def run() -> dict[str, float]:
    """One whole rollout; microseconds of CPU by kind of input."""
    start = ev.Started(
        at=0.0, rollout="r", bundle="b", commit="c", tree_digest=DIGEST, plan=plan(), by="bench"
    )
    begun = time.process_time()
    machine = RolloutMachine(start)
    built = time.process_time() - begun
    spent = {"acknowledged": 0.0, "applying": 0.0, "healthy": 0.0, "tick": 0.0}
    number = dict.fromkeys(spent, 0)
    worst = 0.0

    def give(kind: str, given: ev.Input, now: float) -> list[ev.AnyEvent]:
        nonlocal worst
        begun = time.perf_counter()
        events = machine.handle(given, now)
        took = time.perf_counter() - begun
        spent[kind] += took
        number[kind] += 1
        if kind != "tick":
            worst = max(worst, took)
        return events

    for wave in start.plan.waves:
        for cluster in wave.members:
            machine.handle(ev.Contact(cluster, True), 0.0)
    now, log = 0.0, 1
    log += len(machine.begin(now))
    while not machine.has_ended:
        offered = [target.cluster for target in machine.board.offered()]
        for kind in ("acknowledged", "applying", "healthy"):
            for cluster in offered:
                now += 0.0001
                given = (
                    ev.Acknowledged(cluster, 1)
                    if kind == "acknowledged"
                    else ev.Reported(cluster, 1, DIGEST, kind)
                )
                log += len(give(kind, given, now))
        while not machine.has_ended and not machine.board.offered():
            now = machine.next_wake() or now
            log += len(give("tick", ev.Tick(), now))
    assert machine.state == "Succeeded", machine.state
    result = {kind: spent[kind] / number[kind] * 1e6 for kind in spent}
    result["all"] = sum(spent.values()) / sum(number.values()) * 1e6
    result["worst report (ms)"] = worst * 1e3
    result["start (s)"] = built
    result["events"] = log
    return result


def main() -> int:
    runs = [run() for _ in range(REPEATS)]
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(f"deciding over {CLUSTERS:,} clusters; {machine}; microseconds per input, {REPEATS} runs")
    for kind in runs[0]:
        values = [each[kind] for each in runs]
        print(
            f"  {kind:18} median {statistics.median(values):10.2f}   {min(values):10.2f} to {max(values):.2f}"
        )
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    raw = {
        "benchmark": "wave_decision",
        "machine": machine,
        "clusters": CLUSTERS,
        "unit": "microseconds",
        "runs": runs,
    }
    (folder / "wave_decision.json").write_text(json.dumps(raw, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
