"""How long a coordinator with 100,000 targets in flight takes from its start to its first decision.

A real database is written through the store's own port: a rollout whose every target was offered, took the offer and applies,
the snapshots that the engine takes of it, and the sessions and reports of all its clusters. Then, in a process of its own
each time, that database is opened, the engine rebuilds its state, tells the machine that nobody is in contact yet, and
decides on one report: with a snapshot as old as it can get (the goal is for this one), with a new one, and with none.
Prints the parts, median and spread of five, what it holds in memory, and writes everything raw to ``results/``; a missed goal
is shown with its profile. Then what a snapshot costs an event, and appends to a log of growing length are timed and counted:
an append does not get dearer.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import anyio
from figures import keep, machine, tell
from muster_coordinator.app import COLLECT_AFTER
from muster_coordinator.rollout.engine import Engine
from muster_coordinator.rollout.snapshots import Snapshots, is_due
from muster_coordinator.store.port import Batch, EventRow, ReportRow, SessionRow, SnapshotRow
from muster_coordinator.store.sql.store import SqlStore
from muster_core.rollout import events as ev
from muster_core.rollout.machine import RolloutMachine
from muster_core.rollout.plan import ResolvedPlan, ResolvedWave
from muster_proto.v1 import link_pb2 as wire
from programs import memory

GOAL = 2.0
NAME, DIGEST, COMMIT = "shop-0001", "d" * 64, "c" * 40
BATCH = 500  # as the engine takes them
GRACE = 45.0
KINDS = {
    "oldest": "with a snapshot as old as it gets",
    "newest": "with a new snapshot",
    "none": "with no snapshot",
}


def rollout(clusters: int) -> list[ev.AnyEvent]:
    """The log: everybody is in flight in one wave, a third each acknowledged, applying and soaking."""
    names = tuple(f"cluster-{number:06}" for number in range(clusters))
    wave = ResolvedWave(
        name="all", members=names, max_in_flight=clusters, max_failed=clusters // 20, quorum_percent=50,
        soak=600.0, offline_after=dict.fromkeys(names, 900.0),
    )  # fmt: skip
    plan = ResolvedPlan(name="all", waves=(wave,), deadline=900.0, action="pause", catch_up_in_flight="10%")
    started = ev.Started(
        at=1_000.0, rollout=NAME, bundle="shop", commit=COMMIT, tree_digest=DIGEST, plan=plan, by="bench"
    )
    found = RolloutMachine(started)
    found.meet(names)
    log: list[ev.AnyEvent] = [started, *found.begin(1_000.0)]
    for number, name in enumerate(names):
        now = 1_001.0 + number / 1_000
        log += found.handle(ev.Acknowledged(name, 1), now)
        if number % 3:
            log += found.handle(ev.Reported(name, 1, DIGEST, "applying"), now)
        if number % 3 == 2:
            log += found.handle(ev.Reported(name, 1, DIGEST, "healthy"), now)
    assert len(found.outstanding()) == clusters
    return log


async def write(database: Path, clusters: int) -> dict[str, Any]:
    """Writes it as the engine would, a batch a transaction; how long each append took, and each snapshot with its commit."""
    log = rollout(clusters)
    store = await SqlStore.open(database)
    snapshots, found = Snapshots(), RolloutMachine(log[0])  # type: ignore[arg-type]
    appends: list[tuple[int, float]] = []
    taken: list[dict[str, float]] = []
    rows: list[SnapshotRow] = []
    for first in range(0, len(log), BATCH):
        batch, part = Batch(), log[first : first + BATCH]
        batch.events += [
            EventRow(NAME, first + place + 1, ev.encode(event)) for place, event in enumerate(part)
        ]
        for event in part[0 if first else 1 :]:
            found.apply(event)
        begun, cpu = time.perf_counter(), time.process_time()
        snapshots.follow(found, first + len(part), batch)
        took, cpu = time.perf_counter() - begun, time.process_time() - cpu
        begun, commit_cpu = time.perf_counter(), time.process_time()
        await store.commit(batch)
        committed, commit_cpu = time.perf_counter() - begun, time.process_time() - commit_cpu
        for row in batch.snapshots.values():
            rows.append(row)
            taken.append({
                "events": row.number, "bytes": len(row.data), "pause s": took, "pause CPU s": cpu,
                "commit s": committed, "commit CPU s": commit_cpu,
            })  # fmt: skip
        if not batch.snapshots:
            appends.append((first, committed))
    for first in range(0, clusters, BATCH):
        batch = Batch()
        for number in range(first, min(first + BATCH, clusters)):
            name = f"cluster-{number:06}"
            report = wire.Report(
                bundle="shop", rollout=NAME, attempt=1, phase="Applying", object_count=12, ready_count=9,
                release=wire.Release(bundle="shop", commit=COMMIT, tree_digest=DIGEST), head_commit=COMMIT,
                observed_unix_ms=1_000_000 + number, message="3 of 12 objects are not ready",
            )  # fmt: skip
            batch.reports[name, "shop"] = ReportRow(name, "shop", report.SerializeToString())
            batch.sessions[name] = SessionRow(name, f"epoch-{number}", 4, 1_000_000, "0.1.0", "v1.31.0")
        await store.commit(batch)
    await store.close()
    oldest = [row for row in rows if is_due(len(log) - row.number, clusters)]
    return {
        "events": len(log),
        "appends": appends,
        "snapshots": taken,
        "rows": {"oldest": oldest[-1:], "newest": rows[-1:]},
    }


async def leave(database: Path, rows: list[SnapshotRow]) -> None:
    """Just this snapshot, or none."""
    store = await SqlStore.open(database)
    await store.commit(Batch(outdated={NAME}, snapshots={row.stream: row for row in rows}))
    await store.close()


async def restart(database: Path) -> dict[str, float]:
    """From an engine that knows nothing to its first decision; CPU and wall-clock seconds."""
    gc.set_threshold(*COLLECT_AFTER)  # as the program does
    begun, clock = time.perf_counter(), time.process_time()
    store = await SqlStore.open(database)
    engine = Engine(store, lambda: 1_200.0, lambda effects: None, GRACE)
    await engine.load()
    loaded = time.perf_counter()
    found = engine.state.rollouts[NAME]
    waiting = found.reconnecting(1_200.0, 1_200.0 + GRACE)
    found.handle(ev.Contact("cluster-000000", True), 1_200.0)
    decided = found.handle(ev.Reported("cluster-000000", 1, DIGEST, "healthy"), 1_200.0)
    ended = time.perf_counter()
    assert decided, "a report decides"
    result = {
        "load s": loaded - begun,
        "reconnecting and first decision s": ended - loaded,
        "to the first decision s": ended - begun,
        "CPU s": time.process_time() - clock,
        "events it made": len(waiting),
    }
    await store.close()
    return result


def child(database: Path, profiled: bool) -> dict[str, Any]:
    """In this process: one restart, as JSON on standard output."""
    import os

    if not profiled:
        result: dict[str, Any] = anyio.run(restart, database)
        return {**result, "memory MB": memory(os.getpid())}
    import cProfile
    import pstats

    profile = cProfile.Profile()
    profile.enable()
    anyio.run(restart, database)
    profile.disable()
    entries: dict[Any, Any] = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    total = sum(entry[2] for entry in entries.values())
    worst = sorted(entries.items(), key=lambda item: -item[1][2])[:5]
    return {
        "profile": [
            f"{100 * own / total:4.0f} %  {calls:9,} calls  {function} ({Path(file).name}:{line})"
            for (file, line, function), (_, calls, own, _, _) in worst
        ]
    }


def spawn(database: Path, *flags: str) -> dict[str, Any]:
    argv = [sys.executable, __file__, "--child", str(database), *flags]
    found: dict[str, Any] = json.loads(
        subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    )
    return found


def tell_snapshots(written: dict[str, Any], clusters: int) -> None:
    """What taking and writing one costs; there is one for as many events as there are targets."""
    taken, usual = written["snapshots"], statistics.median(seconds for _, seconds in written["appends"])
    print(f"  a snapshot of {clusters:,} targets, {len(taken)} were taken:")
    tell("size", [one["bytes"] / 1e6 for one in taken], "MB")
    tell("the loop stands still", [1e3 * one["pause s"] for one in taken], "ms", "100")
    tell(
        "taking it, CPU for each event",
        [1e6 * one["pause CPU s"] / clusters for one in taken],
        "microseconds",
        "1",
    )
    tell(
        "writing it, for each event",
        [1e6 * (one["commit s"] - usual) / clusters for one in taken],
        "microseconds",
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clusters", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--profile", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(child(arguments.child, arguments.profile)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "muster.db"
        written = anyio.run(write, database, arguments.clusters) | {"bytes": database.stat().st_size}
        rows = written.pop("rows")
        kinds: dict[str, list[dict[str, Any]]] = {}
        for kind in KINDS:
            anyio.run(leave, database, rows.get(kind, []))
            kinds[kind] = [spawn(database) for _ in range(arguments.repeats)]
        missed = (
            sorted(run["to the first decision s"] for run in kinds["oldest"])[arguments.repeats // 2] > GOAL
        )
        anyio.run(leave, database, rows["oldest"])
        profile = spawn(database, "--profile")["profile"] if missed else []
    print(
        f"restart with {arguments.clusters:,} targets in flight, {written['events']:,} events,"
        f" {written['bytes'] / 1e6:.0f} MB of database; {machine()}; {arguments.repeats} starts each"
    )
    for kind, runs in kinds.items():
        after = written["events"] - (rows[kind][0].number if rows.get(kind) else 0)
        print(f"  {KINDS[kind]}: {after:,} events are replayed")
        for key in runs[0]:
            if key.endswith(" s"):
                is_goal = kind == "oldest" and key.startswith("to the first")
                tell(key, [run[key] for run in runs], "s", f"{GOAL:.0f}" if is_goal else "")
        tell("resident when it has decided", [run["memory MB"]["VmRSS"] for run in runs], "MB")
    for line in profile:
        print(f"    {line}")
    if written["snapshots"]:
        tell_snapshots(written, arguments.clusters)
    appends = written["appends"][:-1]
    parts = [appends[len(appends) * part // 4 : len(appends) * (part + 1) // 4] for part in range(4)]
    print(f"  appending, microseconds an event with the commit of {BATCH} events:")
    for part in parts:
        tell(f"after {part[0][0]:,} events", [seconds / BATCH * 1e6 for _, seconds in part], "microseconds")
    keep("restart", {"clusters": arguments.clusters, **written, "runs": kinds, "profile": profile})
    return 0


if __name__ == "__main__":
    sys.exit(main())
