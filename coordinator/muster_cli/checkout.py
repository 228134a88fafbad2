"""The operator's own checkout of the fleet repository.

Owns every use of git in the CLI: reading a branch's tree, and adding one commit to the registry branch
without touching the working tree. It never rewrites history and never forces a push.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import git
from git.exc import GitCommandError
from muster_core.errors import GitError, ValidationError
from muster_core.gitwords import reason
from muster_core.tree import SUBMODULE, TreeFile

from muster_cli.trust.signing import SigningKey, find_key

REGISTRY_BRANCH = "muster/registry"
EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
_NOBODY = "muster operator <operator@muster.invalid> {} +0000"
PUSH_TRIES = 5
DEADLINE = 60
# What git says when somebody else pushed in between.
RACES = ("non-fast-forward", "fetch first", "cannot lock ref", "incorrect old value", "failed to update ref")


if TYPE_CHECKING:
    from muster_core.kinds.model import Fleet

# Who signs a commit or tag: a key, git by its own configuration, or nobody (mode open).
Signer = SigningKey | Literal["git", "nobody"]


class CommitTree:
    """One commit of the checkout as a core ``Tree``; no commit is an empty tree."""

    def __init__(self, repo: git.Repo, commit: str) -> None:
        self._repo, self.commit = repo, commit
        self._blobs: dict[str, str] = {}
        self._files: list[TreeFile] = []
        listing = repo.git.ls_tree("-r", "-z", "--full-tree", commit) if commit else ""
        for line in listing.split("\0"):
            if line:
                head, path = line.split("\t", 1)
                mode, _, oid = head.split(" ")
                self._files.append(TreeFile(mode, path))
                self._blobs[path] = oid if mode != SUBMODULE else ""

    def files(self) -> list[TreeFile]:
        return self._files

    def read(self, path: str) -> bytes:
        if not self._blobs.get(path):
            raise GitError("G010", "no such file at this commit", object=path)
        _, _, _, data = self._repo.git.get_object_data(self._blobs[path])
        return bytes(data)


class Checkout:
    """A clone with a remote named origin."""

    def __init__(self, repo: git.Repo) -> None:
        self.repo = repo
        self.signer: Signer = "nobody"

    @property
    def url(self) -> str:
        try:
            return str(self.repo.remote("origin").url)
        except ValueError as error:
            raise GitError(
                "G011",
                "the checkout has no remote named origin",
                object=str(self.repo.working_dir),
                hint="Clone the fleet repository, or: git remote add origin URL.",
            ) from error

    @property
    def root(self) -> Path:
        return Path(str(self.repo.working_dir))

    def branch(self) -> str:
        """The branch that is checked out."""
        if self.repo.head.is_detached:
            raise GitError(
                "G012", "the checkout is on no branch", object=str(self.root), hint="git switch main"
            )
        return self.repo.active_branch.name

    def head(self) -> str:
        """The commit that is checked out, which the operator has seen."""
        try:
            return str(self.repo.head.commit.hexsha)
        except ValueError as error:
            raise GitError(
                "G016", "the checkout has no commit yet", object=str(self.root), hint="git commit"
            ) from error

    def fleet(self, commit: str = "") -> Fleet:
        """fleet.yaml at a commit (default: what is checked out); ``MUSTER-V006`` names the folder that has none."""
        from muster_core.fleet import read_settings

        try:
            return read_settings(self.tree(commit or self.head()))
        except ValidationError as error:
            missing = "no fleet.yaml" in error.message
            hint = "Run it in your clone of the fleet repository, or pass --checkout DIR."
            raise ValidationError(
                error.code, error.message, object=str(self.root), hint=hint if missing else error.hint
            ) from error

    def published_head(self) -> str:
        """The commit that is checked out, once it is known to be part of the remote's branch."""
        head, branch = self.head(), self.branch()
        remote = self.fetch(branch)
        if not remote or not self.repo.is_ancestor(self.repo.commit(head), self.repo.commit(remote)):
            raise GitError(
                "G017",
                f"what is checked out is not on the remote's {branch} yet",
                object=self.url,
                hint="git push, and try again.",
            )
        return head

    def resolve(self, name: str) -> str:
        """The commit that a name or an abbreviation stands for here."""
        try:
            return str(self.repo.commit(name).hexsha)
        except (git.BadName, ValueError) as error:
            raise GitError("G010", "the checkout has no such commit", object=name) from error

    def known(self, branch: str) -> str:
        """The newest commit of a branch that is here already, without asking the remote."""
        for ref in (f"refs/remotes/origin/{branch}", f"refs/heads/{branch}"):
            try:
                return str(self.repo.commit(ref).hexsha)
            except (git.BadName, ValueError):
                continue
        return ""

    def fetch(self, branch: str) -> str:
        """The newest commit of a remote branch, or an empty text where there is none."""
        try:
            self.repo.git.fetch(
                "--no-tags",
                "origin",
                f"+refs/heads/{branch}:refs/remotes/origin/{branch}",
                kill_after_timeout=DEADLINE,
            )
        except GitCommandError as error:
            if "couldn't find remote ref" in str(error.stderr):
                return ""
            raise _git_error("the fleet repository cannot be fetched", error, self.url) from error
        return str(self.repo.commit(f"refs/remotes/origin/{branch}").hexsha)

    def tree(self, commit: str) -> CommitTree:
        return CommitTree(self.repo, commit)

    def setting(self, name: str) -> str:
        """What git's configuration says, or an empty text."""
        try:
            return str(self.repo.git.config("--get", name))
        except GitCommandError:
            return ""

    def changes(self, old: str, new: str) -> list[tuple[str, str]]:
        """(git's status letter, path) of what differs between two commits; ``old`` empty is nothing."""
        listing = str(
            self.repo.git.diff_tree("-r", "-z", "--no-renames", "--name-status", old or EMPTY_TREE, new)
        )
        parts = [part for part in listing.split("\0") if part]
        return list(zip(parts[::2], parts[1::2], strict=True))

    def first_parents(self, head: str, limit: int, floor: str = "") -> list[str]:
        """The newest commits along first parents down to (without) ``floor``, the newest first."""
        below = [f"^{floor}"] if floor else []
        return str(self.repo.git.rev_list("--first-parent", f"--max-count={limit}", head, *below)).split()

    def descends(self, commit: str, ancestor: str) -> bool:
        return self.repo.is_ancestor(self.repo.commit(ancestor), self.repo.commit(commit))

    def ref(self, name: str) -> str:
        """The commit of a full ref, or an empty text."""
        try:
            return str(self.repo.git.rev_parse("--verify", "--quiet", name))
        except GitCommandError:
            return ""

    def set_ref(self, name: str, commit: str) -> None:
        self.repo.git.update_ref(name, commit)

    def raw(self, kind: str, oid: str) -> bytes:
        """A commit or tag as it is stored."""
        _, found, _, data = self.repo.git.get_object_data(oid)
        said = cast("bytes", found).decode()  # GitPython says str and gives bytes
        if said != kind:
            raise GitError("G010", f"this is a {said} and no {kind}", object=oid[:12])
        return bytes(data)

    def release_tags(self, commit: str) -> list[str]:
        """Names of the release tags at a commit."""
        found = str(self.repo.git.tag("--points-at", commit, "--list", "muster/*"))
        return found.split()

    def tag(self, name: str, commit: str, message: str) -> str:
        """Makes and pushes an annotated, signed tag; returns its id."""
        signer = self.signer
        who = (
            str(self.repo.git.var("GIT_COMMITTER_IDENT"))
            if not self._identity()
            else _NOBODY.format(int(time.time()))
        )
        text = f"object {commit}\ntype commit\ntag {name}\ntagger {who}\n\n{message}\n".encode()
        try:
            if isinstance(signer, SigningKey):
                oid = self._object("tag", text + signer.sign(text, "git"))
                self.repo.git.update_ref(f"refs/tags/{name}", oid)
            else:
                self.repo.git.tag("-s" if signer == "git" else "-a", name, commit, "-m", message)
                oid = str(self.repo.git.rev_parse(f"refs/tags/{name}"))
            self.repo.git.push("origin", f"refs/tags/{name}", kill_after_timeout=DEADLINE)
        except GitCommandError as error:
            raise _git_error("the release tag cannot be made or pushed", error, self.url) from error
        return oid

    def sign_commits_with(self, key: Path) -> None:
        """Sets git up, in this clone only, to sign every commit with an SSH key."""
        with self.repo.config_writer() as config:
            config.set_value("gpg", "format", "ssh")
            config.set_value("user", "signingkey", str(key.resolve()))
            config.set_value("commit", "gpgsign", "true")

    def know_signers(self, lines: Sequence[str]) -> None:
        """Lets ``git log --show-signature`` in this clone tell who signed: lines of an allowed signers file."""
        path = Path(self.repo.git_dir) / "muster-allowed-signers"
        path.write_text("".join(f"{line}\n" for line in lines))
        with self.repo.config_writer() as config:
            config.set_value("gpg.ssh", "allowedSignersFile", str(path.resolve()))

    def sign_as(self, mode: str, key: Path | None) -> None:
        """Who signs from here on: nobody in mode ``open``, else the key, else git by its own configuration."""
        self.signer = "nobody" if mode == "open" else find_key(key, self.setting) or "git"

    def add_to_registry(
        self,
        path: str,
        render: Callable[[CommitTree], bytes | None],
        message: str,
        judge: Callable[[str, str], None] = lambda parent, commit: None,
    ) -> str:
        """Commits one file on the registry branch and pushes it; tries again when somebody else was faster.

        ``render`` sees the newest tree and gives the file's bytes, or None to remove it; ``judge`` may refuse what was
        committed on top of its parent before anybody sees it. Returns the commit.
        """
        for _ in range(PUSH_TRIES):
            parent = self.fetch(REGISTRY_BRANCH)
            data = render(self.tree(parent))
            commit = self._commit(parent, path, data, message)
            if commit == parent:
                return parent
            judge(parent, commit)
            try:
                self.repo.git.push(
                    "origin", f"{commit}:refs/heads/{REGISTRY_BRANCH}", kill_after_timeout=DEADLINE
                )
            except GitCommandError as error:
                text = str(error.stderr)
                if any(sign in text for sign in RACES):
                    continue
                raise _git_error("the registry entry cannot be pushed", error, self.url) from error
            return commit
        raise GitError(
            "G013",
            f"others pushed to {REGISTRY_BRANCH} {PUSH_TRIES} times in between",
            object=self.url,
            retryable=True,
            hint="Try again.",
        )

    def _commit(self, parent: str, path: str, data: bytes | None, message: str) -> str:
        signer = self.signer
        index = Path(self.repo.git_dir) / f"muster-index-{os.getpid()}"
        try:
            with self.repo.git.custom_environment(GIT_INDEX_FILE=str(index), **self._identity()):
                self.repo.git.read_tree(parent) if parent else self.repo.git.read_tree("--empty")
                if data is None:
                    self.repo.git.update_index("--force-remove", "--", path)
                else:
                    blob = self._object("blob", data)
                    self.repo.git.update_index("--add", "--cacheinfo", f"100644,{blob},{path}")
                tree = self.repo.git.write_tree()
                if parent and tree == self.repo.commit(parent).tree.hexsha:
                    return parent
                parents = ["-p", parent] if parent else []
                by_git = ["-S"] if signer == "git" else []
                commit = str(self.repo.git.commit_tree(*by_git, tree, *parents, "-m", message))
                return self._signed(commit, signer) if isinstance(signer, SigningKey) else commit
        except GitCommandError as error:
            raise _git_error("the registry entry cannot be committed", error, str(self.root)) from error
        finally:
            index.unlink(missing_ok=True)

    def _identity(self) -> dict[str, str]:
        """Git's own idea of who commits; where it has none, a name that says so."""
        try:
            self.repo.git.var("GIT_COMMITTER_IDENT")
        except GitCommandError:
            names = {"NAME": "muster operator", "EMAIL": "operator@muster.invalid"}
            return {
                f"GIT_{who}_{part}": text for who in ("AUTHOR", "COMMITTER") for part, text in names.items()
            }
        return {}

    def _signed(self, commit: str, key: SigningKey) -> str:
        """The same commit with the key's signature in it, where git puts it."""
        raw = self.raw("commit", commit)
        headers, _, body = raw.partition(b"\n\n")
        lines = key.sign(raw, "git").decode().strip().splitlines()
        return self._object("commit", headers + b"\ngpgsig " + "\n ".join(lines).encode() + b"\n\n" + body)

    def _object(self, kind: str, data: bytes) -> str:
        source = Path(self.repo.git_dir) / f"muster-object-{os.getpid()}"
        try:
            source.write_bytes(data)
            return str(self.repo.git.hash_object("-w", "--no-filters", "-t", kind, str(source)))
        finally:
            source.unlink(missing_ok=True)


def _git_error(what: str, error: GitCommandError, where: str) -> GitError:
    said = reason(error.stderr, error.status)
    return GitError("G014", f"{what} ({said})", object=where, retryable=True)


@contextmanager
def open_checkout(path: Path) -> Iterator[Checkout]:
    """The checkout at or above ``path``; closed with the block."""
    try:
        repo = git.Repo(path, search_parent_directories=True)
    except (git.InvalidGitRepositoryError, git.NoSuchPathError) as error:
        raise GitError(
            "G015",
            "this is no checkout of a fleet repository",
            object=str(path.resolve()),
            hint="Run it inside a clone of the fleet repository, or pass --checkout PATH.",
        ) from error
    repo.git.update_environment(LC_ALL="C", GIT_NO_REPLACE_OBJECTS="1")
    try:
        yield Checkout(repo)
    finally:
        repo.close()


def create_repository(path: Path) -> None:
    """``git init`` with main as the branch, where there is no repository yet."""
    if not (path / ".git").exists():
        git.Repo.init(path, initial_branch="main").close()
