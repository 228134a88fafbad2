"""How long the unattended installer takes to let 100 new clusters join.

Real: the coordinator, ``muster installer run``, Git, every request to every cluster's API (the lab's servers), tokens,
joins, registry commits, certificates, sessions. Not real: the agents, which are protocol stubs that start at once
(``installspokes.py``). The clock runs from the moment the kubeconfigs stand in the folder to the last cluster that is online.
Prints median and spread of the repeats and writes all raw to ``results/``. Asserted is only that every cluster is online and
that each was approved once.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from figures import keep, machine, tell
from muster_proto.v1 import operator_pb2 as op
from programs import FLEET_ID, Coordinator, FleetRepository, Program, cpu_seconds, git, memory

DEADLINE = 180.0
GOAL = 60.0
FLEET = f"""\
apiVersion: muster.dev/v1alpha1
kind: Fleet
metadata: {{name: bench}}
spec: {{id: "{FLEET_ID}", mode: open}}
"""


def repeat(clusters: int, parallel: int) -> dict[str, Any]:
    """One fleet from nothing."""
    with tempfile.TemporaryDirectory(prefix="muster-bench-") as root:
        folder = Path(root)
        repository = FleetRepository.make(folder / "git", {"fleet.yaml": FLEET})
        coordinator = Coordinator(folder / "hub", repository.url)
        hub = coordinator.start()
        programs = [hub]
        try:
            here = Path(__file__).parent
            argv = [sys.executable, str(here / "installspokes.py"), f"--clusters={clusters}"]
            (folder / "spokes").mkdir()
            spokes = Program.start(
                "spokes",
                folder / "spokes",
                [*argv, f"--folder={folder / 'spokes'}", f"--context={coordinator.context}"],
            )
            programs.append(spokes)
            spokes.ready()
            watched = folder / "watched"
            watched.mkdir()
            muster = shutil.which("muster", path=str(Path(sys.executable).parent)) or "muster"
            (folder / "installer").mkdir()
            installer = Program.start(
                "installer",
                folder / "installer",
                [
                    muster, f"--context={coordinator.context}", "installer", "run", "--poll=1s",
                    f"--kubeconfig-dir={watched}", f"--checkout={repository.checkout}", f"--parallel={parallel}",
                ],
            )  # fmt: skip
            programs.append(installer)
            installer.ready()
            return measured(folder, coordinator, repository, (hub, spokes, installer), clusters)
        finally:
            for program in reversed(programs):
                program.end()


def measured(
    folder: Path,
    coordinator: Coordinator,
    repository: FleetRepository,
    programs: tuple[Program, Program, Program],
    clusters: int,
) -> dict[str, Any]:
    before = {program.name: cpu_seconds(program.pid) for program in programs}
    begun = time.monotonic()
    for path in sorted((folder / "spokes" / "kubeconfigs").iterdir()):
        path.replace(folder / "watched" / path.name)
    joined = list[float]()
    online: set[str] = set()
    with coordinator.operator() as call:
        while len(online) < clusters:
            if time.monotonic() - begun > DEADLINE:
                raise RuntimeError(f"only {len(online)} of {clusters} are online after {DEADLINE:.0f} s")
            time.sleep(0.2)
            listed = call("ListClusters", op.ListClustersRequest()).clusters
            now = {view.name for view in listed if view.state == "Online"}
            joined += [time.monotonic() - begun] * len(now - online)
            online |= now
    cpu = {program.name: cpu_seconds(program.pid) - before[program.name] for program in programs}
    commits = int(git(repository.folder / "origin.git", "rev-list", "--count", "muster/registry"))
    assert commits == clusters, f"{commits} registry commits for {clusters} clusters"
    return {
        "all online s": joined[-1],
        "half online s": joined[len(joined) // 2],
        "cpu s": cpu,
        "installer MB": memory(programs[2].pid),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clusters", type=int, default=100)
    parser.add_argument("--parallel", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    print(f"{given.clusters} clusters join by the installer; {machine()}")
    found = [repeat(given.clusters, given.parallel) for _ in range(given.repeats)]
    goal = f"{GOAL:g}" if given.clusters == 100 else ""
    tell("kubeconfigs there to all online", [one["all online s"] for one in found], "s", goal)
    tell("to half online", [one["half online s"] for one in found], "s")
    for name in ("installer", "coordinator", "spokes"):
        tell(
            f"CPU of {name}, each cluster", [one["cpu s"][name] * 1e3 / given.clusters for one in found], "ms"
        )
    tell("memory of installer", [one["installer MB"]["VmRSS"] for one in found], "MB")
    keep("install", {"clusters": given.clusters, "parallel": given.parallel, "repeats": found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
