"""Workloads become ready, or do not, by image tag: by pods on the real server, directly on the lab's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from contract.kube.client import MERGE, Kube, deployment, until


@pytest.fixture(scope="module")
def player(endpoint: Any, kubeconfig: Any) -> Iterator[None]:
    """The pod player as the program that it is; the lab's server has one inside."""
    if endpoint[0] == "lab":
        yield
        return
    command = [
        sys.executable,
        "-m",
        "muster_lab.podplayer",
        "--kubeconfig",
        str(kubeconfig),
        "--ready-delay",
        "0.05",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline()
        yield
    finally:
        process.terminate()
        process.wait(10)
        if process.stdout is not None:
            process.stdout.close()


async def _make(kube: Kube, image: str, **spec: Any) -> str:
    body = deployment("web", **spec)
    body["spec"]["template"]["spec"]["containers"][0]["image"] = image
    await kube.there(kube.path("serviceaccounts", "default"))
    made = await kube.call("POST", kube.path("deployments", api="apps/v1"), body)
    assert made.status == 201, made.body
    return kube.path("deployments", "web", api="apps/v1")


def _condition(obj: Any, kind: str) -> tuple[str, str]:
    for item in obj.get("status", {}).get("conditions") or []:
        if item["type"] == kind:
            return item["status"], item["reason"]
    return "", ""


async def _reaches(kube: Kube, path: str, kind: str, state: tuple[str, str]) -> Any:
    found: dict[str, Any] = {}

    async def check() -> bool:
        found.update((await kube.call("GET", path)).body)
        return _condition(found, kind) == state

    await until(check)
    return found


@pytest.mark.usefixtures("player")
async def test_an_ordinary_image_becomes_available(kube: Kube) -> None:
    path = await _make(kube, "registry.example/shop:1.0", replicas=2)
    await _reaches(kube, path, "Available", ("True", "MinimumReplicasAvailable"))
    obj = await _reaches(kube, path, "Progressing", ("True", "NewReplicaSetAvailable"))
    status = obj["status"]
    assert status["observedGeneration"] == obj["metadata"]["generation"]
    for name in ("replicas", "readyReplicas", "updatedReplicas", "availableReplicas"):
        assert status[name] == 2, name
    assert "unavailableReplicas" not in status
    assert obj["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "1"


@pytest.mark.usefixtures("player")
async def test_a_bad_update_keeps_the_old_pods_and_exceeds_its_deadline(kube: Kube) -> None:
    path = await _make(kube, "registry.example/shop:1.0", replicas=2, progressDeadlineSeconds=2)
    await _reaches(kube, path, "Progressing", ("True", "NewReplicaSetAvailable"))
    pod = {"containers": [{"name": "main", "image": "registry.example/shop:2.0-never"}]}
    await kube.call("PATCH", path, {"spec": {"template": {"spec": pod}}}, media=MERGE)
    obj = await _reaches(kube, path, "Progressing", ("False", "ProgressDeadlineExceeded"))
    assert _condition(obj, "Available") == ("True", "MinimumReplicasAvailable")
    assert obj["status"]["availableReplicas"] == 2
    assert obj["status"]["updatedReplicas"] == 1
    assert obj["status"]["unavailableReplicas"] == 1
    assert obj["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "2"


@pytest.mark.usefixtures("player")
async def test_an_image_that_never_runs_is_unavailable_from_the_start(kube: Kube) -> None:
    path = await _make(kube, "registry.example/shop:1.0-never", replicas=1, progressDeadlineSeconds=2)
    obj = await _reaches(kube, path, "Progressing", ("False", "ProgressDeadlineExceeded"))
    assert _condition(obj, "Available") == ("False", "MinimumReplicasUnavailable")
    assert "readyReplicas" not in obj["status"]
    assert obj["status"]["unavailableReplicas"] == 1


@pytest.mark.usefixtures("player")
async def test_an_image_that_crashes_becomes_unavailable_again(kube: Kube) -> None:
    path = await _make(kube, "registry.example/shop:crash-after-1s")
    await _reaches(kube, path, "Available", ("True", "MinimumReplicasAvailable"))
    obj = await _reaches(kube, path, "Available", ("False", "MinimumReplicasUnavailable"))
    assert obj["status"]["unavailableReplicas"] == 1


@pytest.mark.usefixtures("player")
async def test_a_job_completes(kube: Kube) -> None:
    pod = {"restartPolicy": "Never", "containers": [{"name": "main", "image": "registry.example/job:1"}]}
    body = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "once"},
        "spec": {"template": {"spec": pod}},
    }
    await kube.there(kube.path("serviceaccounts", "default"))
    await kube.call("POST", kube.path("jobs", api="batch/v1"), body)
    path = kube.path("jobs", "once", api="batch/v1")
    obj = await _reaches(kube, path, "Complete", ("True", "CompletionsReached"))
    assert obj["status"]["succeeded"] == 1
    assert obj["status"]["completionTime"]


@pytest.mark.usefixtures("player")
async def test_a_stateful_set_becomes_ready(kube: Kube) -> None:
    body = deployment("db", serviceName="db", replicas=2) | {"kind": "StatefulSet"}
    await kube.there(kube.path("serviceaccounts", "default"))
    await kube.call("POST", kube.path("statefulsets", api="apps/v1"), body)
    found: dict[str, Any] = {}

    async def check() -> bool:
        found.update((await kube.call("GET", kube.path("statefulsets", "db", api="apps/v1"))).body)
        status = found["status"]
        return status.get("readyReplicas") == 2 and status.get("currentRevision") == status.get(
            "updateRevision"
        )

    await until(check)
    assert found["status"]["observedGeneration"] == 1
    assert found["status"]["replicas"] == found["status"]["updatedReplicas"] == 2
