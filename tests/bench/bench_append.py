"""What appending to a rollout's log costs, after a thousand events, a hundred thousand and a million.

A real database through the store's own port: batches of 500 events, each one transaction, as the engine commits them at most.
CPU time of this process, all threads, in microseconds an event; and the size of what was written, which must not grow with
the log. Prints median and spread of 40 batches at each length and writes them raw to ``results/``. Asserted is only that all
of the log is there.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import anyio
from figures import keep, machine, tell
from muster_coordinator.store.port import Batch, EventRow
from muster_coordinator.store.sql.store import SqlStore
from muster_core.rollout import events as ev

LENGTHS = (1_000, 100_000, 1_000_000)
BATCHES, BATCH, FILL = 40, 500, 20_000
NAME = "shop-0001"


def rows(first: int, count: int) -> Batch:
    batch = Batch()
    batch.events += [
        EventRow(
            NAME, number, ev.encode(ev.TargetApplying(at=1_000.0 + number, cluster=f"cluster-{number:07}"))
        )
        for number in range(first, first + count)
    ]
    return batch


def written() -> int:
    """Bytes that this process has given to be written to storage, or to its cache."""
    lines = Path(f"/proc/{os.getpid()}/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("wchar:"))


async def measure(database: Path) -> dict[str, dict[str, list[float]]]:
    store = await SqlStore.open(database)
    found, length = {}, 0
    for wanted in LENGTHS:
        while length < wanted:
            count = min(FILL, wanted - length)
            await store.commit(rows(length + 1, count))
            length += count
        cpu, wall, size = [], [], []
        for _ in range(BATCHES):
            batch, before = rows(length + 1, BATCH), written()
            begun, clock = time.perf_counter(), time.process_time()
            await store.commit(batch)
            cpu.append((time.process_time() - clock) / BATCH * 1e6)
            wall.append((time.perf_counter() - begun) / BATCH * 1e6)
            size.append((written() - before) / BATCH)
            length += BATCH
        found[str(wanted)] = {"CPU microseconds": cpu, "microseconds": wall, "bytes written": size}
    assert sum(len(log) for log in (await store.streams()).values()) == length
    await store.close()
    return found


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        found = anyio.run(measure, Path(folder) / "muster.db")
    print(
        f"appending to a log, {BATCH} events a transaction, for each event; {machine()}; {BATCHES} transactions each"
    )
    for length, values in found.items():
        tell(f"after {int(length):,} events: CPU", values["CPU microseconds"], "microseconds")
        tell(f"after {int(length):,} events: time", values["microseconds"], "microseconds")
        tell(f"after {int(length):,} events: written", values["bytes written"], "bytes")
    keep("append", {"events a transaction": BATCH, "after": found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
