"""How long deciding takes in a rollout of 100,000 clusters: one report in, offers out.

CPU time of this process per input, each input of a whole rollout being counted: acknowledged, applying,
healthy, and ticks, which end soaks and may make many offers. Prints median and spread of five rollouts and
writes them raw to ``results/``. Nothing is asserted but that the rollout succeeds.
"""

from __future__ import annotations

import gc
import os
import sys
import time

from figures import keep, machine, tell
from muster_coordinator.app import COLLECT_AFTER
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
    for wave in start.plan.waves:
        for cluster in wave.members:
            machine.handle(ev.Contact(cluster, True), 0.0)
    now, log = 0.0, 1

    def give(kind: str, inputs: list[ev.Input]) -> list[str]:
        """All inputs of one kind; who is offered by them."""
        nonlocal now, log
        handle, outs = machine.handle, []
        begun = time.process_time()
        for given in inputs:
            now += 0.0001
            outs.append(handle(given, now))
        spent[kind] += time.process_time() - begun
        number[kind] += len(inputs)
        log += sum(map(len, outs))
        return [event.cluster for out in outs for event in out if isinstance(event, ev.OfferMade)]

    offered = give("tick", [ev.Tick()])
    while not machine.has_ended:
        give("acknowledged", [ev.Acknowledged(cluster, 1) for cluster in offered])
        give("applying", [ev.Reported(cluster, 1, DIGEST, "applying") for cluster in offered])
        give("healthy", [ev.Reported(cluster, 1, DIGEST, "healthy") for cluster in offered])
        offered = []
        while not machine.has_ended and not offered:
            now = machine.next_wake() or now
            offered = give("tick", [ev.Tick()])
        while (wake := machine.next_wake()) is not None and wake <= now + 0.01 and not machine.has_ended:
            offered += give("tick", [ev.Tick()])  # soaks that end together
    assert machine.state == "Succeeded", machine.state
    result = {kind: spent[kind] / number[kind] * 1e6 for kind in spent}
    result["one decision"] = sum(spent.values()) / sum(number.values()) * 1e6
    result["one event"] = sum(spent.values()) / log * 1e6
    result["start (s)"] = built
    result["inputs"], result["events"] = sum(number.values()), log
    return result


def main() -> int:
    gc.set_threshold(*COLLECT_AFTER)  # as the program does
    runs = [run() for _ in range(REPEATS)]
    print(f"deciding over {CLUSTERS:,} clusters; {machine()}; microseconds of CPU, {REPEATS} runs")
    for kind in runs[0]:
        tell(kind, [each[kind] for each in runs], "")
    keep("wave_decision", {"clusters": CLUSTERS, "unit": "microseconds", "runs": runs})
    return 0


if __name__ == "__main__":
    sys.exit(main())
