"""A tree of files at one commit, whoever stores it.

Owns the port through which pure code reads a repository, path arithmetic inside it, and the refusal of
whatever could lead out of it. It never touches a disk.
"""

from __future__ import annotations

import posixpath
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from muster_core.errors import ValidationError

REGULAR, EXECUTABLE, SYMLINK, SUBMODULE = "100644", "100755", "120000", "160000"


class TreeFile(NamedTuple):
    """One file: git's octal mode and its path from the root of the tree."""

    mode: str
    path: str


class Tree(Protocol):
    """Files in path order, and their bytes."""

    def files(self) -> Sequence[TreeFile]: ...

    def read(self, path: str) -> bytes: ...


@dataclass(frozen=True, slots=True)
class MemoryTree:
    """A tree of regular files held as a mapping."""

    content: Mapping[str, bytes]

    def files(self) -> Sequence[TreeFile]:
        return [TreeFile(REGULAR, path) for path in sorted(self.content)]

    def read(self, path: str) -> bytes:
        try:
            return self.content[path]
        except KeyError:
            raise ValidationError("V021", "no such file", object=path) from None


class ListedTree:
    """A tree whose files were listed once, for whoever asks for many folders of it."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._files = sorted(tree.files(), key=_path)

    def files(self) -> Sequence[TreeFile]:
        return self._files

    def read(self, path: str) -> bytes:
        return self._tree.read(path)

    def below(self, prefixes: Iterable[str]) -> Sequence[TreeFile]:
        """Those that are :func:`within`, in path order. O(what is found · log files)."""
        found: set[TreeFile] = set()
        for prefix in prefixes:
            if not prefix:
                return self._files
            first = bisect_left(self._files, prefix, key=_path)
            found.update(self._files[first : bisect_right(self._files, prefix, key=_path)])
            first = bisect_left(self._files, prefix + "/", key=_path)
            found.update(
                self._files[first : bisect_left(self._files, prefix + "0", key=_path)]
            )  # "0" follows "/"
        return sorted(found, key=_path)


def _path(file: TreeFile) -> str:
    return file.path


@dataclass(frozen=True, slots=True)
class Subtree:
    """Only the files of ``tree`` at or below one of ``prefixes``; paths stay those of the whole tree."""

    tree: Tree
    prefixes: tuple[str, ...]

    def files(self) -> Sequence[TreeFile]:
        if isinstance(self.tree, ListedTree):
            return self.tree.below(self.prefixes)
        return [file for file in self.tree.files() if within(file.path, self.prefixes)]

    def read(self, path: str) -> bytes:
        if not within(path, self.prefixes):
            raise ValidationError("V022", "outside the bundle's source and includes", object=path)
        return self.tree.read(path)


def within(path: str, prefixes: Iterable[str]) -> bool:
    """Whether ``path`` is one of the prefixes or below one; the empty prefix is the whole tree."""
    return any(not prefix or path == prefix or path.startswith(prefix + "/") for prefix in prefixes)


def join(folder: str, relative: str) -> str:
    """``relative`` to ``folder``, as seen from the root; ``MUSTER-V022`` when it leads out of the tree."""
    path = posixpath.normpath(posixpath.join(folder, relative))
    if (
        relative.startswith("/")
        or "\\" in relative
        or "\x00" in relative
        or path == ".."
        or path.startswith("../")
    ):
        raise ValidationError("V022", "the path leads out of the repository", object=relative)
    return "" if path == "." else path
