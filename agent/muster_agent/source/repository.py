"""One bare repository of the agent's own.

Owns every use of git in the agent: named refs into our own namespace only, no configuration of the machine, hooks, filters,
submodules or replacement objects; everything fetched is checked; every call is bounded (``children``). The ids of what is
used are recomputed. It never trusts what it fetched: that is ``verify``'s work.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import anyio
import anyio.to_thread
import git
import structlog
from git.exc import CommandError, GitCommandError
from muster_core.errors import GitError, TrustError
from muster_core.manifest.load import oversized
from muster_core.tree import SUBMODULE, SYMLINK, TreeFile
from muster_core.trust.authority import Change
from muster_core.trust.gitobject import MAX_OBJECT

from muster_agent.source.children import ENVIRONMENT, SETTINGS, Bounds, coming, run, sweep

T = TypeVar("T")
log = structlog.get_logger()
REGISTRY_BRANCH = "muster/registry"
TAGS = "refs/tags/muster/"
MAX_TAGS = 16
MAX_BLOB_BYTES = 8 << 20
NOT_AN_ANCESTOR = 1
EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
_HOW: dict[str, Literal["added", "changed", "removed"]] = {"A": "added", "D": "removed"}
MAX_FILES = 50_000
MAX_PACKS = 30


class Heads(NamedTuple):
    """Newest commits of the tracked branch and of the registry branch (empty where there is none)."""

    commit: str
    registry: str


class RemoteTag(NamedTuple):
    """An annotated tag of the remote: its full ref, its own id."""

    ref: str
    oid: str


class BlobTree:
    """A commit's files; reading checks a blob against its own id."""

    def __init__(self, source: SourceRepository, files: Sequence[TreeFile], blobs: dict[str, str]) -> None:
        self._source, self._files, self._blobs = source, files, blobs

    def files(self) -> Sequence[TreeFile]:
        return self._files

    def read(self, path: str) -> bytes:
        oid = self._blobs.get(path)
        if oid is None:
            if any(file.path == path and file.mode not in (SUBMODULE, SYMLINK) for file in self._files):
                raise oversized(path)
            raise GitError("G010", "no such regular file at this commit", object=path)
        return self._source.blob(oid, path)

    def oid(self, path: str) -> str:
        return self._blobs.get(path, "")


class SourceRepository:
    """Calls run in one worker thread at a time; :meth:`close` ends git's children."""

    def __init__(
        self,
        folder: Path,
        url: str,
        branch: str,
        ca_file: Path | None,
        anchor: str = "",
        bounds: Bounds = Bounds(),
    ) -> None:
        if url.startswith("-") or "::" in url:
            raise GitError("G001", "this is no URL of a repository", object=url)
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        self.url, self.branch, self._anchor = url, branch, anchor
        self._folder, self._bounds, self._tidied = folder, bounds, 0
        self._repo = _initialised(folder)
        with self._repo.config_writer() as config:
            for section, name, value in SETTINGS:
                config.set_value(section, name, value)
        environment = dict(ENVIRONMENT)
        if ca_file:
            environment["GIT_SSL_CAINFO"] = str(ca_file)
        self._repo.git.update_environment(**environment)
        # A host that does not answer holds up a fetch, never a look at what is here.
        self._fetching, self._reading = anyio.CapacityLimiter(1), anyio.CapacityLimiter(1)
        self._batch = threading.Lock()
        self._tags: dict[str, list[RemoteTag]] = {}

    def close(self) -> None:
        self._repo.close()

    async def fetch(self) -> Heads:
        """``MUSTER-G002`` (retryable) when the repository does not answer; what was fetched before stays."""
        return await anyio.to_thread.run_sync(self._fetch, limiter=self._fetching)

    def _fetch(self) -> Heads:
        try:
            found = self._git(
                "ls-remote", "--", self.url,
                f"refs/heads/{self.branch}", f"refs/heads/{REGISTRY_BRANCH}", f"{TAGS}*",
            )  # fmt: skip
            refs = {line.split("\t")[1]: line.split("\t")[0] for line in found.splitlines() if "\t" in line}
            self._tags = _tags_by_target(refs)
            remote = {
                name: refs[f"refs/heads/{name}"]
                for name in (self.branch, REGISTRY_BRANCH)
                if f"refs/heads/{name}" in refs
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
                self._tidy()
                self._begin_at_anchor()
                self._pull(wanted)
        except (CommandError, OSError) as error:  # no git, no disk
            raise self._unreachable(error) from error
        return Heads(remote[self.branch], remote.get(REGISTRY_BRANCH, ""))

    def _unreachable(self, error: CommandError | OSError) -> GitError:
        said = str(error.stderr) if isinstance(error, CommandError) else str(error)
        lines = said.strip().removeprefix("stderr: ").strip("'\n ").splitlines()
        # The first complaint is the cause; what follows is its echo and advice.
        told = [line for line in lines if line.startswith(("error:", "fatal:", "ERROR:"))] or lines[-1:]
        why = told[0][:300] if told else type(error).__name__
        return GitError(
            "G002",
            f"the repository cannot be fetched ({why})",
            object=self.url,
            retryable=True,
        )

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
        try:
            self._git(
                "fetch", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--no-auto-gc", *flags,
                "--", self.url, *refs,
                size=lambda: coming(self._folder),
            )  # fmt: skip
        except (GitError, CommandError):
            sweep(self._folder)
            raise

    def _git(self, *args: str, size: Callable[[], int] = int) -> str:
        """One git command's answer. ``MUSTER-G016`` for one that writes too much; late ones fail like any other."""
        command = ["git", *args]
        child = self._repo.git.execute(command, as_process=True, start_new_session=True)
        if child.proc is None:
            raise RuntimeError("git did not start")
        done = run(child.proc, self._bounds, size)
        if done.exceeded == "deadline":
            late = f"fatal: it did not end within {self._bounds.deadline:g} s"
            raise GitCommandError(command[:2], done.status, late)
        if done.exceeded:
            most = getattr(self._bounds, done.exceeded)
            raise GitError(
                "G016",
                f"git {args[0]} was stopped: the repository has, or sends, more than {most:,} bytes at once",
                object=self.url,
                retryable=True,
                hint="Make the repository smaller, or do not trust this Git host.",
            )
        if done.status:
            raise GitCommandError(command[:2], done.status, done.told)
        return done.out.decode(errors="surrogateescape")

    def _tidy(self) -> None:
        """Puts packs together once there are many, without what no ref of ours holds: heads that a host takes back
        do not fill the disk."""
        sizes = [pack.stat().st_size for pack in self._folder.glob("objects/pack/*.pack")]
        if len(sizes) <= MAX_PACKS and sum(sizes) <= self._tidied + 2 * self._bounds.fetched:
            return
        try:
            self._git("repack", "-a", "-d", "-q", "--window=0")
        except (GitError, CommandError) as error:
            sweep(self._folder)
            log.warning("packs of the repository cannot be put together", error=str(error))
        self._tidied = sum(pack.stat().st_size for pack in self._folder.glob("objects/pack/*.pack"))

    def _ref(self, branch: str) -> str:
        try:
            return self._git("rev-parse", "--verify", "--quiet", f"refs/muster/remote/{branch}").strip()
        except GitCommandError:
            return ""

    async def has(self, commit: str) -> bool:
        return await anyio.to_thread.run_sync(self._has, commit, limiter=self._reading)

    def _has(self, commit: str) -> bool:
        return self._exists(f"{commit}^{{commit}}")

    def _exists(self, what: str) -> bool:
        try:
            self._git("cat-file", "-e", what)
        except GitCommandError:
            return False
        return True

    async def descends(self, commit: str, ancestor: str) -> bool:
        """Whether ``commit`` is ``ancestor`` or descends from it; ``T014`` when the history does not tell."""
        return await anyio.to_thread.run_sync(self._descends, commit, ancestor, limiter=self._reading)

    def _descends(self, commit: str, ancestor: str) -> bool:
        if commit == ancestor:
            return self._has(commit)
        try:
            self._git("merge-base", "--is-ancestor", ancestor, commit)
        except GitCommandError as error:
            if error.status == NOT_AN_ANCESTOR and self._is_whole(commit, ancestor):
                return False
            raise TrustError(
                "T014",
                "history-incomplete: the way between two commits is not all here",
                object=commit[:12],
                retryable=True,
                hint="The Git host gave less than it was asked for; the last good state stays.",
            ) from error
        return True

    def _is_whole(self, commit: str, other: str) -> bool:
        """Whether all that is above the other commit is here: without its parent a commit looks unrelated to git."""
        try:
            self._git("rev-list", "--quiet", commit, f"^{other}")
        except GitCommandError:
            return False
        return True

    async def raw(self, kind: str, oid: str) -> bytes:
        """A commit or tag as it is stored, of at most 1 MiB, checked against its id."""
        return await anyio.to_thread.run_sync(self._raw, kind, oid, limiter=self._reading)

    def _raw(self, kind: str, oid: str) -> bytes:
        with self._batch:
            try:
                _, _, size = self._repo.git.get_object_header(oid)
            except (ValueError, OSError) as error:
                raise self._absent(oid[:12]) from error
        if size > MAX_OBJECT:
            raise GitError("G016", f"a {kind} has more than {MAX_OBJECT:,} bytes", object=oid[:12])
        return self._object(kind, oid, oid[:12])

    async def tags(self, commit: str) -> list[tuple[str, bytes]]:
        """(name below refs/tags/, raw tag) of the release tags that the remote showed for a commit, fetched now."""
        wanted = self._tags.get(commit, [])[:MAX_TAGS]
        return (
            await anyio.to_thread.run_sync(self._fetch_tags, wanted, limiter=self._fetching) if wanted else []
        )

    def _fetch_tags(self, wanted: Sequence[RemoteTag]) -> list[tuple[str, bytes]]:
        missing = [tag for tag in wanted if not self._exists(tag.oid)]
        if missing:
            try:
                self._pull([f"+{tag.ref}:refs/muster/{tag.ref.removeprefix('refs/')}" for tag in missing])
            except GitCommandError as error:
                raise self._unreachable(error) from error
        return [(tag.ref.removeprefix("refs/tags/"), self._raw("tag", tag.oid)) for tag in wanted]

    async def changes(self, old: str, new: str) -> list[Change]:
        """What differs between the trees of two commits; ``old`` empty is the empty tree."""
        return await anyio.to_thread.run_sync(self._changes, old, new, limiter=self._reading)

    def _changes(self, old: str, new: str) -> list[Change]:
        try:
            listing = self._git(
                "diff-tree",
                "-r",
                "-z",
                "--no-renames",
                "--name-status",
                "--full-index",
                old or EMPTY_TREE,
                new,
            )
        except GitCommandError as error:
            raise GitError(
                "G015", "the commits cannot be compared", object=new[:12], retryable=True
            ) from error
        parts = listing.split("\0")[:-1] if listing.endswith("\0") else [p for p in listing.split("\0") if p]
        pairs = zip(parts[::2], parts[1::2], strict=True)
        return [Change(path, _HOW.get(status, "changed")) for status, path in pairs]

    async def first_parents(self, floor: str, head: str, limit: int) -> list[str]:
        """The commits above ``floor`` up to ``head`` along first parents, the oldest first; at most ``limit``."""
        return await anyio.to_thread.run_sync(self._first_parents, floor, head, limit, limiter=self._reading)

    def _first_parents(self, floor: str, head: str, limit: int) -> list[str]:
        below = [f"^{floor}"] if floor else []
        try:
            found = self._git("rev-list", "--first-parent", f"--max-count={limit}", head, *below)
        except GitCommandError as error:
            raise GitError(
                "G015", "the history cannot be walked", object=head[:12], retryable=True
            ) from error
        return list(reversed(found.split()))

    async def pin(self, name: str, commit: str) -> None:
        """Keeps a commit alive under ``refs/muster/<name>``, whatever happens to the branch."""
        await anyio.to_thread.run_sync(self._pin, name, commit, limiter=self._reading)

    def _pin(self, name: str, commit: str) -> None:
        try:
            self._git("update-ref", f"refs/muster/{name}", commit)
        except GitCommandError as error:
            raise GitError("G014", "the commit cannot be kept", object=commit[:12], retryable=True) from error

    async def tree(self, commit: str) -> BlobTree:
        return await anyio.to_thread.run_sync(self._tree, commit, limiter=self._reading)

    def _tree(self, commit: str) -> BlobTree:
        files, blobs = list[TreeFile](), dict[str, str]()
        try:
            listing = self._git("ls-tree", "-r", "-z", "-l", "--full-tree", commit) if commit else ""
        except GitCommandError as error:
            raise GitError(
                "G015", "the commit is not in the repository", object=commit[:12], retryable=True
            ) from error
        for line in listing.split("\0"):
            if not line:
                continue
            head, path = line.split("\t", 1)
            if not _sound(path):
                raise GitError(
                    "G017", "the commit has a path that is not UTF-8 or leads out of the tree",
                    object=f"{commit[:12]} {path!r}",
                )  # fmt: skip
            mode, _, oid, size = head.split()
            files.append(TreeFile(mode, path))
            if len(files) > MAX_FILES:
                raise GitError("G016", f"the commit has more than {MAX_FILES:,} files", object=commit)
            if mode not in (SUBMODULE, SYMLINK) and int(size) <= MAX_BLOB_BYTES:
                blobs[path] = oid
        return BlobTree(self, files, blobs)

    def blob(self, oid: str, path: str) -> bytes:
        """Its bytes, from one long-lived ``cat-file --batch``, checked against the id."""
        return self._object("blob", oid, path)

    def _object(self, kind: str, oid: str, path: str) -> bytes:
        with self._batch:
            try:
                _, _, size, data = self._repo.git.get_object_data(oid)
            except (ValueError, OSError) as error:
                raise self._absent(path) from error
        head = f"{kind} {size}\0".encode()
        if hashlib.sha1(head + data).hexdigest() != oid:  # noqa: S324 - git's own object id
            raise GitError("G018", "the repository gave other bytes than the object's id says", object=path)
        return bytes(data)

    def _absent(self, what: str) -> GitError:
        self._repo.git.clear_cache()  # the child that was asked may be gone, too
        return GitError("G019", "the object is not in the repository", object=what)

    def idle(self) -> None:
        """Ends git's long-lived children; they come back when they are needed."""
        with self._batch:
            self._repo.git.clear_cache()


def _initialised(folder: Path) -> git.Repo:
    """Opened, with what is missing of its skeleton made again; a folder that is beyond that is a copy, and begins anew."""
    try:
        return git.Repo.init(folder, bare=True, initial_branch="none")
    except (GitCommandError, git.InvalidGitRepositoryError):
        shutil.rmtree(folder)
        folder.mkdir()
        return git.Repo.init(folder, bare=True, initial_branch="none")


def _tags_by_target(refs: Mapping[str, str]) -> dict[str, list[RemoteTag]]:
    """Annotated tags under the commit that they peel to (the remote's ``^{}`` lines); nothing of it is trusted."""
    found: dict[str, list[RemoteTag]] = {}
    for ref, target in refs.items():
        tag = ref.removesuffix("^{}")
        if ref.startswith(TAGS) and tag != ref and tag in refs:
            found.setdefault(target, []).append(RemoteTag(tag, refs[tag]))
    return found


def _sound(path: str) -> bool:
    """Git's own check refuses most of it when it is fetched; what writes files relies on all of it."""
    return path.isprintable() and not {"", ".", "..", ".git"} & set(path.split("/"))
