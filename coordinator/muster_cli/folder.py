"""A folder on disk as a core ``Tree``.

Owns reading files for ``validate`` and previews, with the limits of core. It never follows a symbolic link.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from muster_core.errors import ValidationError
from muster_core.manifest.load import MAX_BYTES, oversized
from muster_core.tree import EXECUTABLE, REGULAR, SYMLINK, TreeFile

MAX_FILES = 100_000


class FolderTree:
    """All files below a folder, without ``.git``."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._files: list[TreeFile] = []
        for folder, folders, names in os.walk(root, followlinks=False):
            folders[:] = sorted(
                name for name in folders if name != ".git" and not (Path(folder) / name).is_symlink()
            )
            for name in names:
                path = Path(folder) / name
                mode = SYMLINK if path.is_symlink() else EXECUTABLE if os.access(path, os.X_OK) else REGULAR
                self._files.append(TreeFile(mode, path.relative_to(root).as_posix()))
                if len(self._files) > MAX_FILES:
                    raise ValidationError(
                        "V026",
                        f"more than {MAX_FILES:,} files",
                        object=str(root),
                        hint="Is it a fleet repository? Name the folder that holds fleet.yaml.",
                    )
        self._files.sort(key=lambda file: file.path)

    def files(self) -> list[TreeFile]:
        return self._files

    def read(self, path: str) -> bytes:
        target = self._root / path
        if target.is_symlink():
            raise ValidationError("V025", "symbolic links are not followed", object=path)
        facts = target.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise ValidationError("V025", "only regular files are read", object=path)
        if facts.st_size > MAX_BYTES:
            raise oversized(path)
        return target.read_bytes()
