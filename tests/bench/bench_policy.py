"""How fast objects are judged: resource x rule per second of one core.

CPU time of this process over a bundle of objects as a team writes them, against Kyverno patterns with autogen and both
levels of Pod Security. One unit is a rule that means an object and gives a verdict. Prints median and spread of five
repeats and writes them raw to ``results/``; nothing is asserted but that verdicts are as many as expected.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from figures import keep, machine, tell
from muster_core.policy import PodSecuritySettings, PolicySet, compile_policies

OBJECTS = int(os.environ.get("MUSTER_BENCH_OBJECTS", "2000"))
REPEATS = 5
GOAL = 20_000

PATTERNS: dict[str, Any] = {
    "require-labels": {"metadata": {"labels": {"team": "?*", "app.kubernetes.io/*": "?*"}}},
    "disallow-latest": {"spec": {"containers": [{"image": "!*:latest & *:*"}]}},
    "require-resources": {
        "spec": {"containers": [{"resources": {"requests": {"cpu": "?*"}, "limits": {"memory": "<=4Gi"}}}]}
    },
    "restrict-registries": {"spec": {"=(initContainers)": [{"image": "registry.example/* | ghcr.io/*"}],
                                     "containers": [{"image": "registry.example/* | ghcr.io/*"}]}},
    "disallow-host-path": {"spec": {"=(volumes)": [{"X(hostPath)": "null"}]}},
    "require-probes": {"spec": {"containers": [{"(name)": "web*", "livenessProbe": {"periodSeconds": ">0"}}]}},
    "read-only-root": {"spec": {"containers": [{"securityContext": {"readOnlyRootFilesystem": True}}]}},
    "disallow-host-ports": {"spec": {"containers": [{"=(ports)": [{"=(hostPort)": 0}]}]}},
}  # fmt: skip


def policy(name: str, pattern: Any) -> dict[str, Any]:
    rule = {
        "name": name,
        "match": {"any": [{"resources": {"kinds": ["Pod"]}}]},
        "exclude": {"any": [{"resources": {"namespaces": ["kube-*"]}}]},
        "validate": {"message": name, "pattern": pattern},
    }
    return {
        "apiVersion": "kyverno.io/v1",
        "kind": "ClusterPolicy",
        "metadata": {"name": name},
        "spec": {"validationFailureAction": "Enforce", "rules": [rule]},
    }


def deployment(number: int) -> dict[str, Any]:
    """Three containers; every tenth object breaks a rule."""
    containers = [
        {
            "name": name,
            "image": f"ghcr.io/shop/{name}:1.{number}" if number % 10 else f"ghcr.io/shop/{name}:latest",
            "ports": [{"containerPort": 8080}],
            "env": [{"name": f"E{i}", "value": str(i)} for i in range(8)],
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
            "livenessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 10},
            "securityContext": {
                "readOnlyRootFilesystem": True,
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            },
        }
        for name in ("web", "web-proxy", "worker")
    ]
    spec = {
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": containers,
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }
    labels = {"team": "shop", "app.kubernetes.io/name": f"web-{number}"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": f"web-{number}", "namespace": "shop", "labels": labels},
        "spec": {"replicas": 2, "template": {"metadata": {"labels": labels}, "spec": spec}},
    }


def measure(policies: PolicySet, objects: list[dict[str, Any]], rules: int) -> float:
    begun = time.process_time()
    verdicts = policies.evaluate(objects)
    spent = time.process_time() - begun
    assert len(verdicts) == len(objects) * rules, len(verdicts)
    return len(verdicts) / spent


def main() -> int:
    objects = [deployment(number) for number in range(OBJECTS)]
    documents = [(f"{name}.yaml", 1, policy(name, pattern)) for name, pattern in PATTERNS.items()]
    sets = {
        "Kyverno patterns": (compile_policies(documents, None), len(PATTERNS)),
        "Pod Security": (compile_policies([], PodSecuritySettings("baseline", "restricted")), 2),
        "both": (
            compile_policies(documents, PodSecuritySettings("baseline", "restricted")),
            len(PATTERNS) + 2,
        ),
    }
    print(
        f"judging {OBJECTS:,} Deployments of 3 containers; {machine()}; resource x rule per CPU second, {REPEATS} runs"
    )
    runs: dict[str, list[float]] = {}
    for name, (policies, rules) in sets.items():
        measure(policies, objects[:100], rules)
        values = runs[name] = [measure(policies, objects, rules) for _ in range(REPEATS)]
        tell(name, values, "", f"{GOAL:,}")
    begun = time.process_time()
    for _ in range(100):
        compile_policies(documents, None)
    compiling = (time.process_time() - begun) / 100 / len(documents) * 1e6
    print(f"  compiling a policy {compiling:.0f} microseconds")
    keep(
        "policy",
        {
            "objects": OBJECTS,
            "unit": "resource x rule per CPU second",
            "runs": runs,
            "compile microseconds per policy": compiling,
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
