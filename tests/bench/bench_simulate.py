"""What ``muster rollout simulate`` costs: 100,000 targets through ten waves, and once ten times as many: it is linear.

The installed command, a process of its own each time, over a checkout: one run with what costs, times that vary, clusters
that are away and return, bad luck and a soak. Prints CPU seconds, wall seconds and the peak of the process's memory, median
and spread, and writes them raw to ``results/``; a missed goal is shown with its profile. ``--large`` adds the one run of ten
times as many. Asserted is only that the rollout succeeds and that everybody took part.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from figures import keep, machine, tell
from programs import ENVIRONMENT, FLEET_ID, LONG, FleetRepository

GOAL_S, GOAL_MB = 10.0, 300.0
WAVES = 10

FLEET = f"""\
apiVersion: muster.dev/v1alpha1
kind: Fleet
metadata: {{name: bench}}
spec: {{id: "{FLEET_ID}", mode: open}}
"""
BUNDLE = """\
apiVersion: muster.dev/v1alpha1
kind: Bundle
metadata: {name: shop}
spec:
  source: {path: manifests}
  targets: [{selector: {}}]
  plan: rings
  namespace: default
"""
OBJECT = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: shop}\n"
WAVE = "  - {{name: wave-{0}, {1}, maxInFlight: 25%, maxFailed: 20%, soak: 10m}}\n"
WORLD = (
    "--apply-time=60s..10m", "--failure-rate=0.5%", "--offline-rate=2%", "--return-after=1h..10h", "--runs=1",
    "--output=json",
)  # fmt: skip


def plan() -> str:
    """Ten waves of a tenth each: percent is of all members, and the last takes the rest."""
    waves = [f"percent: {100 // WAVES}%"] * (WAVES - 1) + ["rest: true"]
    lines = "".join(WAVE.format(number, which) for number, which in enumerate(waves))
    return (
        "apiVersion: muster.dev/v1alpha1\nkind: RolloutPlan\nmetadata: {name: rings}\nspec:\n"
        "  deadline: 1h\n  waves:\n" + lines
    )


def command(checkout: Path, clusters: int) -> list[str]:
    return ["rollout", "simulate", "shop", f"--checkout={checkout}", f"--clusters={clusters}", *WORLD]


def once(checkout: Path, clusters: int) -> dict[str, float]:
    """One process of the installed command; what it took of CPU, of time and of memory (10^6 bytes)."""
    muster = shutil.which("muster", path=str(Path(sys.executable).parent)) or "muster"
    with tempfile.TemporaryFile("w+") as answer:
        begun = time.perf_counter()
        process = subprocess.Popen(
            [muster, *command(checkout, clusters)], stdout=answer, stderr=subprocess.DEVNULL, env=ENVIRONMENT
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - begun
        answer.seek(0)
        found: dict[str, Any] = json.load(answer)
    assert found["outcomes"] == {"Succeeded": 1}, found["outcomes"]
    assert found["clusters"] == clusters
    assert [wave["passed"] for wave in found["waves"]] == [1] * WAVES
    return {"CPU s": used.ru_utime + used.ru_stime, "wall s": wall, "peak MB": used.ru_maxrss * 1024 / 1e6}


def profile(checkout: Path, clusters: int) -> list[str]:
    """The five functions that take most, as lines."""
    from muster_cli.program import cli

    measured = cProfile.Profile()
    with open(os.devnull, "w") as nowhere:
        kept, sys.stdout = sys.stdout, nowhere
        try:
            measured.runcall(cli.main, command(checkout, clusters), standalone_mode=False)
        finally:
            sys.stdout = kept
    entries: dict[Any, Any] = pstats.Stats(measured).stats  # type: ignore[attr-defined]
    total = sum(entry[2] for entry in entries.values())
    worst = sorted(entries.items(), key=lambda item: -item[1][2])[:5]
    return [
        f"{100 * own / total:4.0f} %  {calls:9,} calls  {function} ({Path(file).name}:{line})"
        for (file, line, function), (_, calls, own, _, _) in worst
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clusters", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--large", action="store_true", default=LONG, help="once with ten times as many")
    arguments = parser.parse_args()
    clusters = arguments.clusters
    with tempfile.TemporaryDirectory() as folder:
        files = {
            "fleet.yaml": FLEET,
            "plans/rings.yaml": plan(),
            "bundles/shop/bundle.yaml": BUNDLE,
            "bundles/shop/manifests/shop.yaml": OBJECT,
        }
        checkout = FleetRepository.make(Path(folder) / "git", files).checkout
        small = once(checkout, 100)  # what the command itself takes
        runs = [once(checkout, clusters) for _ in range(arguments.repeats)]
        missed = statistics.median(run["CPU s"] for run in runs) > GOAL_S
        worst = profile(checkout, clusters) if missed else []
        large = once(checkout, 10 * clusters) if arguments.large else None
    print(f"simulating {clusters:,} clusters in {WAVES} waves; {machine()}; {arguments.repeats} processes")
    tell("CPU", [run["CPU s"] for run in runs], "s", f"{GOAL_S:.0f}")
    tell("time", [run["wall s"] for run in runs], "s")
    tell("peak of memory", [run["peak MB"] for run in runs], "MB", f"{GOAL_MB:.0f}")
    print(f"  the command with 100 clusters: {small['CPU s']:.2f} s of CPU, {small['peak MB']:.0f} MB")
    if large:
        times = large["CPU s"] / statistics.median(run["CPU s"] for run in runs)
        print(
            f"  {10 * clusters:,} clusters: {large['CPU s']:.1f} s of CPU ({times:.1f} times), {large['peak MB']:.0f} MB"
        )
    for line in worst:
        print(f"    {line}")
    keep("simulate", {
        "clusters": clusters, "waves": WAVES, "world": WORLD, "with 100 clusters": small, "runs": runs,
        "ten times as many, once": large, "profile": worst,
    })  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
