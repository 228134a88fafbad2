"""``python -I confine.py PLAN``: sees a pod's mounts at the pod's own paths, then becomes the pod's program.

Owns a mount namespace of its own: what it mounts nobody else sees. It runs alone, with nothing but the standard library,
as the lab's stand-in for a container runtime. It never changes anything outside its namespace.

PLAN is JSON: ``mounts`` (path in the pod, folder here) and ``argv``. Where a path does not exist, the nearest folder that
does is covered by an empty one that shows the same entries, so that the path can be made.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import tempfile

CLONE_NEWNS = 0x00020000
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(source: str, target: str, kind: str | None, flags: int) -> None:
    result = _libc.mount(source.encode(), target.encode(), kind.encode() if kind else None, flags, None)
    _checked(result, f"mount {source} on {target}")


def _cover(folder: str, room: str) -> None:
    """An empty folder over this one, with every entry of it in its old place; ``room`` holds the way to what is below."""
    below = tempfile.mkdtemp(prefix="below-", dir=room)
    _mount(folder, below, None, MS_BIND | MS_REC)
    _mount("tmpfs", folder, "tmpfs", 0)
    for name in os.listdir(below):
        old, new = os.path.join(below, name), os.path.join(folder, name)
        if os.path.islink(old):
            os.symlink(os.readlink(old), new)
            continue
        if os.path.isdir(old):
            os.mkdir(new)
        else:
            open(new, "w").close()
        _mount(old, new, None, MS_BIND | MS_REC)


def _place(path: str, source: str, covered: set[str], room: str) -> None:
    path = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    if not os.path.isdir(path):
        there = os.path.dirname(path)
        while not os.path.isdir(there):
            there = os.path.dirname(there)
        if not any(there == known or there.startswith(known + "/") for known in covered):
            _cover(there, room)
            covered.add(there)
        os.makedirs(path, exist_ok=True)
    _mount(source, path, None, MS_BIND | MS_REC)


def main() -> None:
    with open(sys.argv[1]) as file:
        plan = json.load(file)
    if plan["mounts"]:
        _checked(_libc.unshare(CLONE_NEWNS), "a mount namespace")
        _mount("none", "/", None, MS_REC | MS_PRIVATE)
        covered: set[str] = set()
        # /tmp last: the sources lie below it.
        for path, source in sorted(plan["mounts"], key=lambda pair: (pair[0] == "/tmp", pair[0])):  # noqa: S108
            _place(path, source, covered, os.path.dirname(sys.argv[1]))
    os.execvp(plan["argv"][0], plan["argv"])  # noqa: S606 - becoming another program is what this is for


if __name__ == "__main__":
    main()
