"""The coordinator's own bare copy of the fleet repository.

Owns every use of git in the coordinator: fetching two named branches, and reading trees. Nothing is checked out, no hook,
filter, submodule or configuration of the machine takes part. It never pushes.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import anyio.to_thread
import git
from git.exc import BadObject, GitCommandError
from muster_core.errors import GitError
from muster_core.gitwords import reason
from muster_core.manifest.load import MAX_BYTES, oversized
from muster_core.tree import SUBMODULE, SYMLINK, TreeFile

DEADLINE = 60
MAX_NAME = 256
REGISTRY_BRANCH = "muster/registry"

ENVIRONMENT = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_CONFIG_NOSYSTEM": "1",
    "HOME": "/nonexistent",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_ALLOW_PROTOCOL": "https:ssh:file",
}


class Heads(NamedTuple):
    """Newest commits; the registry's is empty while there is no such branch."""

    commit: str
    registry: str


class BlobTree:
    """One commit, its blobs read as they are asked for."""

    def __init__(self, repo: git.Repo, commit: str) -> None:
        self._repo, self._files, self._blobs = repo, list[TreeFile](), dict[str, str]()
        self._oversized: set[str] = set()
        listing = (
            repo.git.ls_tree("-r", "-z", "-l", "--full-tree", commit, kill_after_timeout=DEADLINE)
            if commit
            else ""
        )
        for line in listing.split("\0"):
            if line:
                head, path = line.split("\t", 1)
                if not _is_text(path):
                    raise GitError(
                        "G017", "the commit has a path that is not UTF-8", object=f"{commit[:12]} {path!r}"
                    )
                mode, _, oid, size = head.split()
                self._files.append(TreeFile(mode, path))
                if mode in (SUBMODULE, SYMLINK):
                    continue
                if int(size) > MAX_BYTES:
                    self._oversized.add(path)
                else:
                    self._blobs[path] = oid

    def files(self) -> Sequence[TreeFile]:
        return self._files

    def read(self, path: str) -> bytes:
        if path in self._oversized:
            raise oversized(path)
        oid = self._blobs.get(path)
        if oid is None:
            raise GitError("G010", "no such regular file at this commit", object=path)
        try:
            data: bytes = self._repo.odb.stream(bytes.fromhex(oid)).read()
        except (ValueError, OSError, BadObject) as error:
            raise GitError("G019", "the object is not in this copy of the repository", object=path) from error
        return data


def _is_text(path: str) -> bool:
    """Git keeps any bytes as a path; those that are no UTF-8 come as lone surrogates, which nothing can write again."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _initialised(folder: Path) -> git.Repo:
    """Opened, with what is missing of its skeleton made again; a folder that is beyond that is a copy, and begins anew."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return git.Repo.init(folder, bare=True, initial_branch="none")
    except (GitCommandError, git.InvalidGitRepositoryError):
        shutil.rmtree(folder)
        folder.mkdir()
        return git.Repo.init(folder, bare=True, initial_branch="none")


class FleetRepository:
    """Open with :meth:`open`. All calls run in a worker thread, one at a time."""

    def __init__(self, repo: git.Repo, url: str, branch: str, ca_file: Path | None) -> None:
        self._repo, self.url, self.branch = repo, url, branch
        self._limiter = anyio.CapacityLimiter(1)
        environment = dict(ENVIRONMENT)
        if ca_file:
            environment["GIT_SSL_CAINFO"] = str(ca_file)
        repo.git.update_environment(**environment)

    @classmethod
    def open(cls, folder: Path, url: str, branch: str, ca_file: Path | None) -> FleetRepository:
        if url.startswith("-") or "::" in url:
            raise GitError(
                "G001",
                "this is no URL of a repository",
                object=url,
                hint="Write https://…, ssh://… or file://….",
            )
        repo = _initialised(folder)
        with repo.config_writer() as config:
            config.set_value("core", "hooksPath", "/dev/null")
            config.set_value("fetch", "fsckObjects", "true")
            # Whoever answers here must not point elsewhere, nor get what lies in somebody's home.
            config.set_value("http", "followRedirects", "false")
            config.set_value("gc", "auto", "0")
        return cls(repo, url, branch, ca_file)

    async def fetch(self) -> Heads:
        """The newest commits; ``MUSTER-G002`` (retryable) when the repository does not answer."""
        return await anyio.to_thread.run_sync(self._fetch, limiter=self._limiter)

    def _fetch(self) -> Heads:
        try:
            found = str(
                self._repo.git.ls_remote(
                    "--heads",
                    "--",
                    self.url,
                    f"refs/heads/{self.branch}",
                    f"refs/heads/{REGISTRY_BRANCH}",
                    kill_after_timeout=DEADLINE,
                )
            )
            remote = {
                line.split("\t")[1].removeprefix("refs/heads/"): line.split("\t")[0]
                for line in found.splitlines()
                if "\t" in line
            }
            if self.branch not in remote:
                raise GitError(
                    "G003",
                    f"the repository has no branch {self.branch}",
                    object=self.url,
                    retryable=True,
                    hint="Push it, or pass --branch.",
                )
            if REGISTRY_BRANCH not in remote and self._known(REGISTRY_BRANCH):
                raise GitError(
                    "G003",
                    f"the repository has no branch {REGISTRY_BRANCH} any more",
                    object=self.url,
                    retryable=True,
                    hint="Push it again: no cluster is taken for removed because the whole registry is gone.",
                )
            wanted = [
                f"+refs/heads/{branch}:refs/muster/{branch}"
                for branch, commit in remote.items()
                if not self._has(branch, commit)
            ]
            if wanted:
                self._repo.git.fetch(
                    "--no-tags",
                    "--no-write-fetch-head",
                    "--no-recurse-submodules",
                    "--",
                    self.url,
                    *wanted,
                    kill_after_timeout=DEADLINE,
                )
        except GitCommandError as error:
            raise GitError(
                "G002",
                f"the fleet repository cannot be fetched ({reason(error.stderr, error.status)})",
                object=self.url,
                retryable=True,
            ) from error
        return Heads(remote[self.branch], remote.get(REGISTRY_BRANCH, ""))

    def _has(self, branch: str, commit: str) -> bool:
        return self._known(branch) == commit

    def _known(self, branch: str) -> str:
        """The commit that was fetched last, also by an earlier life of this program; or an empty text."""
        try:
            return str(self._repo.commit(f"refs/muster/{branch}").hexsha)
        except (git.BadName, ValueError):
            return ""

    async def authors(self, commit: str) -> tuple[str, ...]:
        """Names and addresses of who wrote and who made a commit, as it says."""

        def read() -> tuple[str, ...]:
            found = self._repo.commit(commit)
            said = (found.author.name, found.author.email, found.committer.name, found.committer.email)
            return tuple(dict.fromkeys(text[:MAX_NAME] for text in said if text))

        return await anyio.to_thread.run_sync(read, limiter=self._limiter)

    async def trees(self, heads: Heads) -> tuple[BlobTree, BlobTree]:
        """Of both branches; ``MUSTER-G015`` when this copy has lost objects."""
        return await anyio.to_thread.run_sync(self._trees, heads, limiter=self._limiter)

    def _trees(self, heads: Heads) -> tuple[BlobTree, BlobTree]:
        try:
            return BlobTree(self._repo, heads.commit), BlobTree(self._repo, heads.registry)
        except GitCommandError as error:
            raise GitError(
                "G015",
                f"this copy of the fleet repository is damaged ({reason(error.stderr, error.status)})",
                object=str(self._repo.git_dir),
                retryable=True,
                hint="Stop the coordinator and remove that folder: it is fetched anew.",
            ) from error

    def close(self) -> None:
        self._repo.close()
