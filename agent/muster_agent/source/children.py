"""A git that may not run for long, write without end, or fill memory and disk.

Why it exists: what git reads comes from a host that nobody has to trust. Owns the end of git's whole process group,
whatever stage of a fetch hangs, its environment and settings, and the bounds on its time, its answer and what it
leaves on disk. It never reads what git says.
"""

from __future__ import annotations

import contextlib
import os
import resource
import selectors
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

MAX_TOLD = 64 << 10
MAX_DATA = 256 << 20  # private memory of each process: a list of refs or a tree that never ends stops there
POLL = 0.05
DYING = 1.0  # seconds; a machine whose first process reaps nobody keeps the dead in their group
CHUNK = 1 << 16
PARTS = (
    "objects/pack/tmp_*",
    "objects/pack/.tmp-*",
    "objects/pack/*.temp",
    "objects/tmp_*",
    "objects/??/tmp_*",
    "objects/??/*.temp",
)
ENVIRONMENT = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_ALLOW_PROTOCOL": "https:ssh:file",
    "GIT_GRAFT_FILE": "/dev/null",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES": "",
    "GIT_ALLOC_LIMIT": "64m",  # of one object in memory: a small pack may hold one that is huge
    "HOME": "/nonexistent",  # curl would read a .netrc there
    "LC_ALL": "C",
}
SETTINGS = (
    ("core", "hooksPath", "/dev/null"),
    ("core", "attributesFile", "/dev/null"),
    ("core", "bigFileThreshold", "8m"),  # larger blobs are not held in memory
    ("core", "deltaBaseCacheLimit", "32m"),
    ("fetch", "fsckObjects", "true"),
    ("transfer", "fsckObjects", "true"),
    ("fetch", "unpackLimit", "1"),  # always one pack, whose size is watched while it comes
    ("http", "followRedirects", "false"),  # whoever answers here must not point into the cluster's network
    ("pack", "threads", "1"),
    ("gc", "auto", "0"),
)


class Bounds(NamedTuple):
    """Of one call: ``deadline`` seconds, ``answered`` bytes of standard output, ``fetched`` bytes that one pack may have."""

    deadline: float = 60.0
    answered: int = 16 << 20
    fetched: int = 512 << 20


class Done(NamedTuple):
    """``exceeded`` is the bound that ended it, if one did."""

    status: int
    out: bytes
    told: str
    exceeded: str = ""


def run(process: subprocess.Popen[bytes], bounds: Bounds, size: Callable[[], int] = int) -> Done:
    """Reads both pipes to their end. ``process`` leads a group of its own; ``size`` gives bytes that are on disk now."""
    _limit(process.pid)
    out, told, end, exceeded = bytearray(), bytearray(), time.monotonic() + bounds.deadline, ""
    with process, selectors.DefaultSelector() as ready:
        for pipe, kept in ((process.stdout, out), (process.stderr, told)):
            if pipe is not None:
                ready.register(pipe, selectors.EVENT_READ, kept)
        while ready.get_map() and not exceeded:
            for key, _ in ready.select(POLL):
                data = os.read(key.fd, CHUNK)
                if not data:
                    ready.unregister(key.fileobj)
                elif key.data is out or len(told) < MAX_TOLD:
                    key.data.extend(data)
            exceeded = _exceeded(bounds, end, len(out), size())
        if not exceeded:
            try:
                process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                exceeded = "deadline"
        _end(process.pid)
        status = process.wait()
        _gone(process.pid)
        return Done(status, bytes(out), told.decode(errors="replace"), exceeded)


def _exceeded(bounds: Bounds, end: float, answered: int, fetched: int) -> str:
    if time.monotonic() > end:
        return "deadline"
    if answered > bounds.answered:
        return "answered"
    return "fetched" if fetched > bounds.fetched else ""


def _limit(pid: int) -> None:
    """From outside: code between fork and exec would run beside threads that hold locks."""
    for kind, most in ((resource.RLIMIT_DATA, MAX_DATA), (resource.RLIMIT_CORE, 0)):
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, kind, (most, most))


def _end(group: int) -> None:
    """Also what the leader left behind: a transport that waits for a silent host outlives its fetch."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _gone(group: int) -> None:
    """Until the last of it is dead, for a second at most: one that still dies could write where it was just swept."""
    end = time.monotonic() + DYING
    with contextlib.suppress(ProcessLookupError, PermissionError):
        while time.monotonic() < end:
            os.killpg(group, 0)
            time.sleep(0.002)


def coming(folder: Path) -> int:
    """Bytes of what is being fetched into this repository, on disk so far."""
    found = 0
    for pattern in PARTS:
        for part in folder.glob(pattern):
            with contextlib.suppress(FileNotFoundError):
                found += part.stat().st_size
    return found


def sweep(folder: Path) -> None:
    """Removes what a git that was killed left: its locks would stop every later fetch, its half packs fill the disk.

    The folder is this process's alone.
    """
    for pattern in ("*.lock", "refs/**/*.lock", *PARTS):
        for left in folder.glob(pattern):
            left.unlink(missing_ok=True)
