"""One bare repository of the agent's own.

Owns every use of git in the agent: named refs into our own namespace only, no configuration of the machine, hooks, filters,
submodules or replacement objects; everything fetched is checked; every call has a deadline. The ids of blobs that are used
are recomputed. It never trusts what it fetched: that is ``verify``'s work.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import anyio
import anyio.to_thread
import git
from git.exc import GitCommandError
from muster_core.errors import GitError
from muster_core.tree import SUBMODULE, SYMLINK, TreeFile

T = TypeVar("T")
DEADLINE = 60
REGISTRY_BRANCH = "muster/registry"
MAX_BLOB_BYTES = 8 << 20
MAX_FILES = 50_000
ENVIRONMENT = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_ALLOW_PROTOCOL": "https:ssh:file",
    "GIT_GRAFT_FILE": "/dev/null",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES": "",
}


class Heads(NamedTuple):
    """Newest commits of the tracked branch and of the registry branch (empty where there is none)."""

    commit: str
    registry: str


class BlobTree:
    """A commit's files; reading checks a blob against its own id."""

    def __init__(self, source: SourceRepository, files: Sequence[TreeFile], blobs: dict[str, str]) -> None:
        self._source, self._files, self._blobs = source, files, blobs

    def files(self) -> Sequence[TreeFile]:
        return self._files

    def read(self, path: str) -> bytes:
        oid = self._blobs.get(path)
        if oid is None:
            raise GitError("G010", "no such regular file at this commit (or it is too large)", object=path)
        return self._source.blob(oid, path)

    def oid(self, path: str) -> str:
        return self._blobs.get(path, "")


class SourceRepository:
    """Calls run in one worker thread at a time; :meth:`close` ends git's children."""

    def __init__(self, folder: Path, url: str, branch: str, ca_file: Path | None, anchor: str = "") -> None:
        if url.startswith("-") or "::" in url:
            raise GitError("G001", "this is no URL of a repository", object=url)
        folder.mkdir(parents=True, exist_ok=True)
        self.url, self.branch, self._anchor = url, branch, anchor
        self._repo = (
            git.Repo(folder)
            if (folder / "HEAD").exists()
            else git.Repo.init(folder, bare=True, initial_branch="none")
        )
        with self._repo.config_writer() as config:
            config.set_value("core", "hooksPath", "/dev/null")
            config.set_value("fetch", "fsckObjects", "true")
            config.set_value("transfer", "fsckObjects", "true")
            config.set_value("gc", "auto", "0")
        environment = dict(ENVIRONMENT)
        if ca_file:
            environment["GIT_SSL_CAINFO"] = str(ca_file)
        self._repo.git.update_environment(**environment)
        # A host that does not answer holds up a fetch, never a look at what is here.
        self._fetching, self._reading = anyio.CapacityLimiter(1), anyio.CapacityLimiter(1)
        self._batch = threading.Lock()

    def close(self) -> None:
        self._repo.close()

    async def fetch(self) -> Heads:
        """``MUSTER-G002`` (retryable) when the repository does not answer; what was fetched before stays."""
        return await anyio.to_thread.run_sync(self._fetch, limiter=self._fetching)

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
                    "G003", f"the repository has no branch {self.branch}", object=self.url, retryable=True
                )
            wanted = [
                f"+refs/heads/{name}:refs/muster/remote/{name}"
                for name, commit in remote.items()
                if self._ref(name) != commit
            ]
            if wanted:
                self._begin_at_anchor()
                self._pull(wanted)
        except GitCommandError as error:
            lines = str(error.stderr).strip().removeprefix("stderr: ").strip("'\n ").splitlines()
            raise GitError(
                "G002",
                f"the repository cannot be fetched ({lines[-1] if lines else error.status})",
                object=self.url,
                retryable=True,
            ) from error
        return Heads(remote[self.branch], remote.get(REGISTRY_BRANCH, ""))

    async def reading(self, work: Callable[[BlobTree], T], tree: BlobTree) -> T:
        """Runs what reads many files of a tree away from the loop."""
        return await anyio.to_thread.run_sync(work, tree, limiter=self._reading)

    def _begin_at_anchor(self) -> None:
        """The first clone is the anchor alone, so that later fetches bring only what came after it."""
        if not self._anchor or self._has(self._anchor):
            return
        try:
            self._pull([f"{self._anchor}:refs/muster/anchor"], "--depth=1")
        except GitCommandError:
            # A server that does not give single commits gives the whole history; verify judges it all the same.
            return

    def _pull(self, refs: Sequence[str], *flags: str) -> None:
        self._repo.git.fetch(
            "--no-tags",
            "--no-write-fetch-head",
            "--no-recurse-submodules",
            "--no-auto-gc",
            *flags,
            "--",
            self.url,
            *refs,
            kill_after_timeout=DEADLINE,
        )

    def _ref(self, branch: str) -> str:
        try:
            return str(
                self._repo.git.rev_parse(
                    "--verify", "--quiet", f"refs/muster/remote/{branch}", kill_after_timeout=DEADLINE
                )
            )
        except GitCommandError:
            return ""

    async def has(self, commit: str) -> bool:
        return await anyio.to_thread.run_sync(self._has, commit, limiter=self._reading)

    def _has(self, commit: str) -> bool:
        try:
            self._repo.git.cat_file("-e", f"{commit}^{{commit}}", kill_after_timeout=DEADLINE)
        except GitCommandError:
            return False
        return True

    async def descends(self, commit: str, ancestor: str) -> bool:
        """Whether ``commit`` is ``ancestor`` or descends from it; false when either is not here."""
        return await anyio.to_thread.run_sync(self._descends, commit, ancestor, limiter=self._reading)

    def _descends(self, commit: str, ancestor: str) -> bool:
        if commit == ancestor:
            return self._has(commit)
        try:
            self._repo.git.merge_base("--is-ancestor", ancestor, commit, kill_after_timeout=DEADLINE)
        except GitCommandError:
            return False
        return True

    async def pin(self, name: str, commit: str) -> None:
        """Keeps a commit alive under ``refs/muster/<name>``, whatever happens to the branch."""
        await anyio.to_thread.run_sync(self._pin, name, commit, limiter=self._reading)

    def _pin(self, name: str, commit: str) -> None:
        try:
            self._repo.git.update_ref(f"refs/muster/{name}", commit, kill_after_timeout=DEADLINE)
        except GitCommandError as error:
            raise GitError("G014", "the commit cannot be kept", object=commit[:12], retryable=True) from error

    async def tree(self, commit: str) -> BlobTree:
        return await anyio.to_thread.run_sync(self._tree, commit, limiter=self._reading)

    def _tree(self, commit: str) -> BlobTree:
        files, blobs = list[TreeFile](), dict[str, str]()
        try:
            listing = (
                self._repo.git.ls_tree("-r", "-z", "-l", "--full-tree", commit, kill_after_timeout=DEADLINE)
                if commit
                else ""
            )
        except GitCommandError as error:
            raise GitError(
                "G015", "the commit is not in the repository", object=commit[:12], retryable=True
            ) from error
        for line in listing.split("\0"):
            if not line:
                continue
            head, path = line.split("\t", 1)
            mode, _, oid, size = head.split()
            files.append(TreeFile(mode, path))
            if len(files) > MAX_FILES:
                raise GitError("G016", f"the commit has more than {MAX_FILES:,} files", object=commit)
            if mode not in (SUBMODULE, SYMLINK) and int(size) <= MAX_BLOB_BYTES:
                blobs[path] = oid
        return BlobTree(self, files, blobs)

    def blob(self, oid: str, path: str) -> bytes:
        """Its bytes, from one long-lived ``cat-file --batch``, checked against the id."""
        with self._batch:
            try:
                _, _, size, data = self._repo.git.get_object_data(oid)
            except (ValueError, OSError) as error:
                raise GitError("G019", "the object is not in the repository", object=path) from error
        if hashlib.sha1(b"blob %d\x00" % size + data).hexdigest() != oid:  # noqa: S324 - git's own object id
            raise GitError("G018", "the repository gave other bytes than the object's id says", object=path)
        return bytes(data)

    def idle(self) -> None:
        """Ends git's long-lived children; they come back when they are needed."""
        with self._batch:
            self._repo.git.clear_cache()
