"""What a reconcile costs when nothing changed: API calls, and CPU time of this process.

The cluster side as the agent has it (adapter, observer, applier) against the lab's server, which runs as a program of its
own and counts requests. Watches are open the whole time. Prints median and spread of five passes, and writes them raw to
``results/``. Asserted is only the count: no API call and no write.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import anyio
import yaml
from figures import keep, machine, tell
from muster_agent.cluster.apply import Applier, located
from muster_agent.cluster.kube import KubeCluster
from muster_agent.cluster.observe import Observer

OBJECTS = int(os.environ.get("MUSTER_BENCH_OBJECTS", "1000"))
REPEATS = 5


def manifests() -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    for number in range(OBJECTS):
        name = f"o{number:05}"
        meta = {"name": name, "namespace": "default", "labels": {"app": name, "team": "web"}}
        if number % 4:
            data = {f"key-{n}": f"value {n} of {name}" for n in range(20)}
            out.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data})
        else:
            ports = [{"name": "http", "port": 80, "targetPort": 8080}]
            spec = {"selector": {"app": name}, "ports": ports}
            out.append({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec})
    return out


async def count(api: KubeCluster) -> dict[str, int]:
    """The server's own count of requests, by verb; these paths are not counted."""
    _, value = await api._request("GET", "/lab/requests")
    return {verb: int(number) for verb, number in value["byVerb"].items()}


async def measure(kubeconfig: Path) -> dict[str, Any]:
    api = await KubeCluster.connect(kubeconfig)
    observer = Observer(api, lambda _: None, lambda low, _: low)
    async with anyio.create_task_group() as group:
        await group.start(observer.run)
        applier = Applier(api, observer, "default")
        objects, problems = await located(api, manifests(), "default")
        assert not problems, problems
        begun, cpu = time.perf_counter(), time.process_time()
        first = await applier.apply("bench", objects, {}, prune=True, note={})
        assert first.writes == OBJECTS, first.errors[:3]
        result: dict[str, Any] = {
            "first apply, wall s": time.perf_counter() - begun,
            "first apply, CPU s": time.process_time() - cpu,
        }
        await anyio.sleep(1)
        before, passes = await count(api), []
        for _ in range(REPEATS):
            cpu = time.process_time()
            done = await applier.apply("bench", objects, first.applied, prune=True, note={})
            passes.append((time.process_time() - cpu) * 1000)
            assert not done.changes
        after = await count(api)
        result |= {"passes, CPU ms": passes, "API calls": sum(after.values()) - sum(before.values())}
        group.cancel_scope.cancel()
    await api.aclose()
    return result


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "muster_lab.kube", "--dir", folder]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            assert server.stdout is not None
            kubeconfig = Path(json.loads(server.stdout.readline())["kubeconfig"])
            assert yaml.safe_load(kubeconfig.read_text())["kind"] == "Config"
            result = anyio.run(measure, kubeconfig)
        finally:
            server.terminate()
            server.wait(10)
    print(f"a reconcile of {OBJECTS:,} objects of which none changed; {machine()}; {REPEATS} passes")
    print(f"  API calls          {result['API calls']}")
    tell("CPU of a pass", result["passes, CPU ms"], "ms")
    print(
        f"  (first apply: {result['first apply, CPU s']:.2f} s of CPU, {result['first apply, wall s']:.2f} s)"
    )
    assert result["API calls"] == 0
    keep("agent_noop", {"objects": OBJECTS, **result})
    return 0


if __name__ == "__main__":
    sys.exit(main())
