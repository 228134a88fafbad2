"""Whatever is killed whenever: in the end every cluster is where Git says, nothing foreign was touched, and logs replay.

The short run is part of every test run; ``MUSTER_LONG=1`` makes it three minutes.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e.programs import Kube, Program, Stage, shop, stage, until
from muster_core.rollout import events as ev
from muster_core.rollout.machine import RolloutMachine

SECONDS = 180.0 if os.environ.get("MUSTER_LONG") else 8.0
PAUSE = (0.3, 2.0)  # seconds between two kills
CLUSTERS = ("berlin-04", "munich-01")


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Stage]:
    with stage(tmp_path) as found:
        yield found


def create_foreign(kube: Kube) -> None:
    body = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "foreign"},
        "data": {"whose": "somebody's"},
    }
    request = urllib.request.Request(  # noqa: S310 - the URL is the lab's own
        f"{kube._server}/api/v1/namespaces/shop/configmaps",
        json.dumps(body).encode(),
        {"Authorization": f"Bearer {kube._token}", "Content-Type": "application/json"},
        method="POST",
    )
    with urllib.request.urlopen(request, timeout=5, context=kube._context) as answer:  # noqa: S310
        assert answer.status == 201


def foreign(kube: Kube) -> Any:
    """An object of somebody else in the bundle's namespace, as it is now."""
    found = kube.ask("GET", "/api/v1/namespaces/shop/configmaps/foreign")
    return found and {"uid": found["metadata"]["uid"], "version": found["metadata"]["resourceVersion"]}


def children(pid: int) -> set[int]:
    """Everything that this process started, and what that started, as long as it lives."""
    found: set[int] = set()
    todo = [pid]
    while todo:
        for task in Path(f"/proc/{todo.pop()}/task").glob("*/children"):
            more = {int(part) for part in task.read_text().split()} - found
            found |= more
            todo += more
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def rollouts(fleet: Stage) -> list[str]:
    return [row[0] for row in fleet.rows("select distinct stream from events where stream like 'shop-%'")]


def test_killed_at_random_the_fleet_ends_where_git_says(fleet: Stage) -> None:
    seed = random.randrange(1 << 32)
    luck = random.Random(seed)
    joined = {name: fleet.joined(name) for name in CLUSTERS}
    kubes = [kube for kube, _ in joined.values()]
    mortal: list[Program] = [fleet.hub, *(agent for _, agent in joined.values())]
    version = 1
    fleet.commit(shop(str(version)))
    until(lambda: all(kube.version() == "1" for kube in kubes), 30, why=fleet.logs)
    for kube in kubes:
        create_foreign(kube)
    before = [foreign(kube) for kube in kubes]

    orphans: set[int] = set()
    end, kills = time.monotonic() + SECONDS, 0
    while time.monotonic() < end:
        victim = luck.choice(mortal)
        assert victim.process is not None
        orphans |= children(victim.process.pid)
        victim.kill()
        kills += 1
        if luck.random() < 0.4:
            version += 1
            fleet.commit(shop(str(version)), tell=False)
        time.sleep(luck.uniform(0, PAUSE[1] / 2))
        victim.start(ready=victim is fleet.hub)
        time.sleep(luck.uniform(*PAUSE))

    def told() -> str:
        return f"seed {seed}, {kills} kills, version {version}\n{fleet.logs()}"

    fleet.refresh()
    until(lambda: all(kube.version() == str(version) for kube in kubes), 60, why=told)
    until(lambda: all(settled(fleet, name, version) for name in CLUSTERS), 60, why=told)
    assert [foreign(kube) for kube in kubes] == before, told()
    for name in rollouts(fleet):
        assert RolloutMachine.replay(ev.decode(data) for data in fleet.events(name)).name == name
    logs = [program.log.read_text() for program in mortal]
    assert not [line for log in logs for line in log.splitlines() if line.startswith("Traceback")], told()
    until(lambda: not [pid for pid in orphans if alive(pid)], 20, why=told)


def settled(fleet: Stage, name: str, version: int) -> bool:
    """In contact, and healthy on the newest commit."""
    view = fleet.cluster(name)
    head = fleet.git("rev-parse", "HEAD")
    return view.state == "Online" and [(r.release.commit, r.phase) for r in view.bundles] == [(head, "Ready")]


@pytest.mark.parametrize("who", ["agent", "hub", "kube"])
def test_a_program_that_hangs_for_a_while_goes_on(fleet: Stage, who: str) -> None:
    kube, agent = fleet.joined("berlin-04")
    fleet.commit(shop("1"))
    until(lambda: settled(fleet, "berlin-04", 1), 30, why=fleet.logs)
    program = {"agent": agent, "hub": fleet.hub, "kube": kube.program}[who]
    assert program.process is not None
    program.process.send_signal(signal.SIGSTOP)
    fleet.commit(shop("2"), tell=who != "hub")
    time.sleep(60 if os.environ.get("MUSTER_LONG") else 3)
    program.process.send_signal(signal.SIGCONT)
    fleet.refresh()
    until(lambda: settled(fleet, "berlin-04", 2), 60, why=fleet.logs)
    assert kube.version() == "2"
    assert program.process.poll() is None


def test_a_cluster_that_forgot_everything_is_filled_again(fleet: Stage) -> None:
    kube, _ = fleet.joined("berlin-04")
    fleet.commit(shop("1"))
    until(lambda: settled(fleet, "berlin-04", 1), 30, why=fleet.logs)
    for path in (
        "/apis/apps/v1/namespaces/shop/deployments/web",
        "/api/v1/namespaces/shop/configmaps/web",
        "/api/v1/namespaces/muster-system/configmaps/muster-bundle-shop",
        "/api/v1/namespaces/shop",
    ):
        kube.ask("DELETE", path)
    until(lambda: kube.version() == "1", 30, why=fleet.logs)
    until(lambda: settled(fleet, "berlin-04", 1), 30, why=fleet.logs)
    fleet.commit({**shop("2"), "bundles/shop/manifests/deployment.yaml": None})
    until(lambda: settled(fleet, "berlin-04", 2), 30, why=fleet.logs)
    assert kube.ask("GET", "/apis/apps/v1/namespaces/shop/deployments/web") is None
