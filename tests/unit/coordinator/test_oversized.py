"""One file that is too large is a problem of its own, with file and line: everything else is read all the same."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from muster_coordinator.catalog.catalog import Reading, read
from muster_coordinator.catalog.repository import FleetRepository
from muster_core.manifest.load import MAX_BYTES

FLEET = (
    "apiVersion: muster.dev/v1alpha1\nkind: Fleet\nmetadata: {name: a}\n"
    "spec: {id: 0123456789abcdef, defaults: {plan: p}}\n"
)
PLAN = "apiVersion: muster.dev/v1alpha1\nkind: RolloutPlan\nmetadata: {name: p}\nspec: {waves: [{name: all, rest: true}]}\n"
MAP = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\n"
BUNDLE = (
    "apiVersion: muster.dev/v1alpha1\nkind: Bundle\nmetadata: {name: %s}\nspec: {targets: [{selector: {}}]}\n"
)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def git(folder: Path, *args: str) -> None:
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@example.com", *args]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, env=environment)


async def reading(folder: Path, large: str) -> Reading:
    """What a coordinator makes of a repository in which ``large`` has more than a file may have."""
    work = folder / "work"
    work.mkdir()
    git(work, "init", "-q", "-b", "main", ".")
    for path, text in {
        "fleet.yaml": FLEET,
        "plans/p.yaml": PLAN,
        "bundles/good/bundle.yaml": BUNDLE % "good",
        "bundles/good/map.yaml": MAP,
        "bundles/bad/map.yaml": MAP,
        "bundles/bad/bundle.yaml": BUNDLE % "bad",
    }.items():
        (work / path).parent.mkdir(parents=True, exist_ok=True)
        (work / path).write_text(text)
    (work / large).parent.mkdir(parents=True, exist_ok=True)
    (work / large).write_bytes(b"# " + b"x" * MAX_BYTES)
    git(work, "add", "-A")
    git(work, "commit", "-qm", "x")
    repository = FleetRepository.open(folder / "bare", f"file://{work}", "main", None)
    try:
        heads = await repository.fetch()
        return read(heads, *await repository.trees(heads))
    finally:
        repository.close()


@pytest.mark.parametrize(
    "large", ["bundles/bad/bundle.yaml", "bundles/bad/manifest.yaml", "bundles/bad/picture.png"]
)
async def test_an_oversized_file_is_its_bundles_problem(tmp_path: Path, large: str) -> None:
    found = await reading(tmp_path, large)
    assert f"{large}:1: larger than 8 MiB" in [str(problem) for problem in found.problems]
    assert found.contents.problems_of("bad")
    assert "good" in found.contents.digests
    assert not found.contents.problems_of("good")


@pytest.mark.parametrize("large", ["plans/q.yaml", "secrets/s.yaml", "policies/p.yaml", "fleet.yaml"])
async def test_an_oversized_file_beside_bundles_is_named(tmp_path: Path, large: str) -> None:
    found = await reading(tmp_path, large)
    assert f"{large}:1: larger than 8 MiB" in [str(problem) for problem in found.problems]
    assert {"good", "bad"} <= found.contents.bundles.keys()
