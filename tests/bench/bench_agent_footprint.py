"""What a real agent takes while nothing happens: memory, CPU, child processes.

``muster-agent run``, joined to a real coordinator over its real wire, with a bundle of many ConfigMaps applied to the lab's
API server, which is a program of its own. Two agents are measured side by side, since each is judged by its own CPU time:
one asks Git as often as it does by default, one hardly ever. Prints median and spread of the repeats and writes them raw to
``results/``. Asserted are only the bundle's readiness and that no object is missing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from figures import keep, machine, tell
from muster_proto.v1 import operator_pb2 as op
from programs import (
    AGENT,
    FLEET_ID,
    PROFILED,
    TRACED,
    Coordinator,
    FleetRepository,
    Program,
    children,
    children_cpu_seconds,
    cpu_seconds,
    mappings,
    memory,
    muster,
)

READY_DEADLINE = 120.0
AGENTS = {"default": None, "long": "12h"}  # name to --poll
PROFILES = {"default": PROFILED, "long": TRACED}  # CPU of one, memory of the other
GOAL_MB, GOAL_MILLICORES = 75.0, 1.5

FLEET = f"""\
apiVersion: muster.dev/v1alpha1
kind: Fleet
metadata: {{name: bench}}
spec: {{id: "{FLEET_ID}", mode: open, defaults: {{plan: all}}}}
"""
PLAN = """\
apiVersion: muster.dev/v1alpha1
kind: RolloutPlan
metadata: {name: all}
spec:
  waves:
  - {name: all, rest: true, maxInFlight: 100%}
"""
BUNDLE = """\
apiVersion: muster.dev/v1alpha1
kind: Bundle
metadata: {name: shop}
spec:
  source: {path: manifests}
  targets: [{selector: {}}]
  namespace: default
"""


def manifests(objects: int) -> dict[str, str]:
    """ConfigMaps of twenty short keys, fifty to a file."""
    files: dict[str, str] = {}
    for number in range(objects):
        data = "".join(f"  key-{n}: value {n} of object {number}\n" for n in range(20))
        text = (
            "---\napiVersion: v1\nkind: ConfigMap\n"
            f"metadata: {{name: o{number:05}, labels: {{team: web}}}}\ndata:\n{data}"
        )
        path = f"bundles/shop/manifests/part-{number // 50:03}.yaml"
        files[path] = files.get(path, "") + text
    return files


def start_agent(
    name: str,
    folder: Path,
    coordinator: Coordinator,
    repository: FleetRepository,
    programs: list[Program],
    profiled: bool,
) -> Program:
    """Its cluster and itself, joined and approved; both are in ``programs`` as soon as they run."""
    poll = AGENTS[name]
    kube = Program.start(
        f"kube-{name}", folder, [sys.executable, "-m", "muster_lab.kube", "--dir", str(folder / name)]
    )
    programs.append(kube)
    kubeconfig = kube.ready()["kubeconfig"]
    made = muster(
        coordinator, "token", "create", "--cluster", name, "--checkout", str(repository.checkout), "-o", "json"
    )  # fmt: skip
    token = folder / f"{name}.token"
    token.touch(mode=0o600)
    token.write_text(json.loads(made)["token"])
    profile = folder / f"{name}.profile" if profiled else None
    code = (PROFILES[name].format(file=str(profile)) if profile else "") + AGENT
    argv = [
        sys.executable, "-c", code, "run", "--token-file", str(token), "--kubeconfig", kubeconfig,
        "--state-dir", str(folder / f"{name}.state"), *(["--poll", poll] if poll else []),
    ]  # fmt: skip
    agent = Program.start(f"agent-{name}", folder, argv, profile)
    programs.append(agent)
    until = time.monotonic() + READY_DEADLINE
    while True:
        try:
            muster(coordinator, "cluster", "approve", name, "--checkout", str(repository.checkout), "--yes")
            return agent
        except RuntimeError as error:
            if "J012" not in str(error) or time.monotonic() > until or agent.process.poll() is not None:
                raise RuntimeError(f"{error}\n{agent.log.read_text()[-2000:]}") from error
            time.sleep(0.2)


def wait_until_ready(name: str, objects: int, coordinator: Coordinator) -> None:
    """Until the coordinator has the report that all objects are ready."""
    until = time.monotonic() + READY_DEADLINE
    with coordinator.operator() as call:
        while time.monotonic() < until:
            view = call("GetCluster", op.GetRequest(name=name))
            if any(found.phase == "Ready" for found in view.bundles):
                assert view.bundles[0].ready_count == objects, view
                return
            time.sleep(0.5)
    raise RuntimeError(f"{name} is not ready: {view}")


def measure(arguments: argparse.Namespace, folder: Path, profiled: bool) -> dict[str, Any]:
    repository = FleetRepository.make(folder / "git", {"fleet.yaml": FLEET, "plans/all.yaml": PLAN})
    coordinator = Coordinator(folder / "hub", repository.url)
    programs: list[Program] = []
    try:
        programs.append(coordinator.start())
        agents = {
            name: start_agent(name, folder, coordinator, repository, programs, profiled) for name in AGENTS
        }
        repository.commit("a bundle", {"bundles/shop/bundle.yaml": BUNDLE, **manifests(arguments.objects)})
        coordinator.refresh()
        for name in agents:
            wait_until_ready(name, arguments.objects, coordinator)
        keys = ("millicores", "children millicores", "memory MB", "children")
        result: dict[str, Any] = {
            name: {"CPU s until ready": cpu_seconds(agent.pid), **{key: [] for key in keys}}
            for name, agent in agents.items()
        }
        time.sleep(arguments.settle)
        if profiled:
            agents["default"].profile_begins()
        for _ in range(1 if profiled else arguments.repeats):
            before = {name: (cpu_seconds(a.pid), children_cpu_seconds(a.pid)) for name, a in agents.items()}
            begun = time.monotonic()
            time.sleep(arguments.seconds)
            for name, agent in agents.items():
                found, (own, below) = result[name], before[name]
                spent = time.monotonic() - begun
                found["millicores"].append((cpu_seconds(agent.pid) - own) / spent * 1000)
                found["children millicores"].append((children_cpu_seconds(agent.pid) - below) / spent * 1000)
                found["memory MB"].append(memory(agent.pid))
                found["children"].append(children(agent.pid))
        if profiled:
            result["default"]["profile"] = agents["default"].cpu_profile() + mappings(agents["default"].pid)
            result["long"]["profile"] = agents["long"].memory_profile()
        return result
    finally:
        for program in reversed(programs):
            program.end()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--objects", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of one idle window")
    parser.add_argument("--settle", type=float, default=60.0, help="seconds from ready to the first window")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(arguments, Path(folder), profiled=False)
    missed = [
        name
        for name, found in result.items()
        if statistics.median(found["millicores"]) > GOAL_MILLICORES
        or statistics.median(each["VmRSS"] for each in found["memory MB"]) > GOAL_MB
        or any(found["children"])
    ]
    if missed:
        with tempfile.TemporaryDirectory() as folder:
            profiled = measure(arguments, Path(folder), profiled=True)
        for name, found in profiled.items():
            result[name]["profile"] = found["profile"]
    print(
        f"an idle agent with {arguments.objects:,} objects; {machine()}; "
        f"{arguments.repeats} windows of {arguments.seconds:.0f} s, from {arguments.settle:.0f} s after it was ready"
    )
    for name, found in result.items():
        print(f" --poll {AGENTS[name] or 'by default (5m)'}")
        for key in ("VmRSS", "RssAnon", "VmHWM"):
            tell(f"{key}", [each[key] for each in found["memory MB"]], "MB", "75" if key == "VmRSS" else "")
        tell("CPU of the agent", found["millicores"], "millicores", "1.5")
        tell("CPU of children that ended", found["children millicores"], "millicores")
        tell("child processes", [len(each) for each in found["children"]], "", "0")
        for line in found.get("profile", []):
            print(f"    {line}")
    keep("agent_footprint", {"objects": arguments.objects, "window s": arguments.seconds, "agents": result})
    return 0


if __name__ == "__main__":
    sys.exit(main())
