"""Branches that vanish on the Git host: what was read stays, and it is told."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from muster_coordinator.catalog.repository import REGISTRY_BRANCH, FleetRepository
from muster_core.errors import GitError


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def git(folder: Path, *args: str) -> None:
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@example.com", *args]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, env=environment)


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    folder = tmp_path / "origin"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main", ".")
    return folder


def opened(tmp_path: Path, origin: Path) -> FleetRepository:
    return FleetRepository.open(tmp_path / "bare", f"file://{origin}", "main", None)


async def test_an_empty_repository_has_no_branch(tmp_path: Path, origin: Path) -> None:
    repository = opened(tmp_path, origin)
    try:
        with pytest.raises(GitError, match="no branch main"):
            await repository.fetch()
    finally:
        repository.close()


async def test_a_registry_that_vanished_is_no_empty_registry(tmp_path: Path, origin: Path) -> None:
    git(origin, "commit", "-qm", "x", "--allow-empty")
    repository = opened(tmp_path, origin)
    try:
        assert (await repository.fetch()).registry == ""  # there was none yet
        git(origin, "branch", REGISTRY_BRANCH)
        before = await repository.fetch()
        assert before.registry
        git(origin, "branch", "-D", REGISTRY_BRANCH)
        with pytest.raises(GitError, match=f"no branch {REGISTRY_BRANCH} any more"):
            await repository.fetch()
    finally:
        repository.close()
    again = opened(tmp_path, origin)  # a restart does not forget that there was one
    try:
        with pytest.raises(GitError, match="any more"):
            await again.fetch()
        git(origin, "branch", REGISTRY_BRANCH)
        assert await again.fetch() == before
    finally:
        again.close()


@pytest.mark.parametrize("lost", ["config", "objects", "refs", "HEAD"])
async def test_a_copy_that_lost_a_part_is_whole_again_after_a_restart(
    tmp_path: Path, origin: Path, lost: str
) -> None:
    git(origin, "commit", "-qm", "x", "--allow-empty")
    repository = opened(tmp_path, origin)
    before = await repository.fetch()
    repository.close()
    path = tmp_path / "bare" / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    again = opened(tmp_path, origin)
    try:
        assert await again.fetch() == before
        assert (await again.trees(before))[0].files() == []
    finally:
        again.close()


async def test_a_copy_that_is_none_begins_anew(tmp_path: Path, origin: Path) -> None:
    git(origin, "commit", "-qm", "x", "--allow-empty")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "HEAD").write_bytes(b"\xff\x00")
    (tmp_path / "bare" / "config").write_bytes(b"[[[")
    repository = opened(tmp_path, origin)
    try:
        assert (await repository.fetch()).commit
    finally:
        repository.close()


async def test_objects_that_are_lost_while_it_runs_are_an_error_of_ours(tmp_path: Path, origin: Path) -> None:
    (origin / "a.yaml").write_text("a: 1\n")
    git(origin, "add", "-A")
    git(origin, "commit", "-qm", "x")
    repository = opened(tmp_path, origin)
    try:
        heads = await repository.fetch()
        tree, _ = await repository.trees(heads)
        shutil.rmtree(tmp_path / "bare" / "objects")
        (tmp_path / "bare" / "objects").mkdir()
        with pytest.raises(GitError) as told:
            await repository.trees(heads)
        assert told.value.code == "G015"
        with pytest.raises(GitError):
            tree.read("a.yaml")
    finally:
        repository.close()


async def test_a_path_that_is_no_text_is_an_error_of_ours(tmp_path: Path, origin: Path) -> None:
    (origin / os.fsdecode(b"\xff\xfe.yaml")).write_text("a: 1\n")
    git(origin, "add", "-A")
    git(origin, "commit", "-qm", "x")
    repository = opened(tmp_path, origin)
    try:
        heads = await repository.fetch()
        with pytest.raises(GitError) as told:
            await repository.trees(heads)
        assert told.value.code == "G017"
        assert told.value.object.isascii()
    finally:
        repository.close()
