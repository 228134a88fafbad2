"""A coordinator that is put back from a backup: agents go on, and what the backup does not know is noticed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from e2e.programs import Stage, code_in, shop, until

pytestmark = pytest.mark.timeout(180)

MUSTER = "from muster_cli.main import main; main()"
CLUSTER = "berlin-04"


def muster(fleet: Stage, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MUSTER_CONTEXT": str(fleet.data / "context.json"), "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, "-c", MUSTER, *words],
        capture_output=True, text=True, timeout=60, check=False, env=environment, cwd=fleet.folder / "work",
    )  # fmt: skip


def done(fleet: Stage, rollout: str) -> bool:
    view = fleet.rollout(rollout)
    return bool(view and view.state == "Succeeded")


def online(fleet: Stage) -> bool:
    return fleet.cluster(CLUSTER).state == "Online"


def restored(fleet: Stage, backup: Path, *more: str) -> str:
    """What the command says of a coordinator that does not run."""
    said = muster(fleet, "restore", str(backup), "--data-dir", str(fleet.data), *more)
    assert said.returncode == 0, said.stderr
    return said.stdout


def test_agents_go_on_with_a_restored_coordinator_and_show_what_it_forgot(fleet: Stage) -> None:
    kube, agent = fleet.joined(CLUSTER)
    fleet.commit(shop("1"))
    until(lambda: done(fleet, "shop-0001"), 40, fleet.logs)
    backup = fleet.folder / "backup"

    # A machine that is lost, and another one with the newest backup: nobody notices.
    fleet.hub.kill()
    assert muster(fleet, "backup", str(backup), "--data-dir", str(fleet.data)).returncode == 0
    shutil.rmtree(fleet.data)
    assert "Restored" in restored(fleet, backup)
    written = kube.writes()
    fleet.start_hub()
    until(lambda: online(fleet), 40, fleet.logs)
    assert fleet.cluster(CLUSTER).message == ""
    assert done(fleet, "shop-0001")
    assert agent.process is not None
    assert agent.process.poll() is None  # no new join, no new certificate

    # The backup is older than the fleet: said until somebody knows, and no cluster goes back.
    fleet.commit(shop("2"))
    until(lambda: done(fleet, "shop-0002"), 40, fleet.logs)
    until(lambda: kube.version() == "2", why=fleet.logs)
    fleet.hub.kill()
    assert "is kept as" in restored(fleet, backup, "--overwrite")
    fleet.start_hub()
    until(lambda: code_in(fleet.cluster(CLUSTER).message) == "MUSTER-L046", 40, fleet.logs)
    # The release that the backup does not know runs already: its rollout is made again, and finds it healthy.
    until(lambda: done(fleet, "shop-0002"), 40, fleet.logs)
    assert kube.version() == "2"
    said = muster(fleet, "cluster", "acknowledge", CLUSTER, "--yes")
    assert said.returncode == 0, said.stderr
    assert fleet.cluster(CLUSTER).message == ""

    fleet.commit(shop("3"))
    until(lambda: done(fleet, "shop-0003"), 40, fleet.logs)
    assert kube.version() == "3"
    assert kube.writes() > written
    assert "Traceback" not in fleet.logs()
