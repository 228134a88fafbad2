"""A child process that may do little and not for long.

Owns argv-only starts with an empty environment, an own HOME, resource limits, an output cap, a deadline, and the end of the
whole process group. It never uses a shell.

The network: where the kernel lets an ordinary user make namespaces and ``unshare`` (util-linux) is installed, the child runs
in a network namespace of its own, with not even a loopback that is up; this is found out once a process, by doing it. Where
it is not possible, two things remain: the renderer refuses whatever names something remote before the tool is started
(``local``), and the child's environment has proxies that lead nowhere and a PATH without git.
"""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import anyio
import anyio.to_thread
import structlog
from muster_core.errors import ValidationError

log = structlog.get_logger()

DEADLINE = 60.0
PROBE_DEADLINE = 5.0
MAX_CPU_SECONDS = 60
MAX_OUTPUT = 32 << 20
MAX_MEMORY = 4 << 30
MAX_FILE = 64 << 20
MAX_TOLD = 4 << 10
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
NOWHERE = "http://127.0.0.1:9"  # what would be fetched all the same is refused at once


def _limit(pid: int) -> None:
    """Sets the child's limits from outside: code between fork and exec would run beside threads that hold locks."""
    for kind, most in (
        (resource.RLIMIT_AS, MAX_MEMORY),
        (resource.RLIMIT_FSIZE, MAX_FILE),
        (resource.RLIMIT_NOFILE, 256),
        (resource.RLIMIT_CPU, MAX_CPU_SECONDS),
        (resource.RLIMIT_CORE, 0),
    ):
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, kind, (most, most))


@functools.cache
def off_the_network() -> tuple[str, ...]:
    """What to put before argv so that the child has no network; empty where this machine does not allow it."""
    unshare = shutil.which("unshare")
    if unshare is None:
        log.info("rendering shares the network", why="unshare is not installed")
        return ()
    prefix = (unshare, "--user", "--net", "--")
    try:
        done = subprocess.run([*prefix, unshare, "--version"], capture_output=True, timeout=PROBE_DEADLINE)
        why = done.stderr.decode(errors="replace").strip() if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        why = str(error)
    if why:
        log.info("rendering shares the network", why=why[:300])
        return ()
    return prefix


async def run(argv: Sequence[str], folder: Path, what: str) -> bytes:
    """Standard output; ``MUSTER-V040`` with the tail of standard error for anything but success in time."""
    return await anyio.to_thread.run_sync(_run, list(argv), folder, what, abandon_on_cancel=False)


def _run(argv: list[str], folder: Path, what: str) -> bytes:
    environment = {
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "PATH": str(folder / "bin"),  # no git, nothing to run
        "LANG": "C.UTF-8",
        **dict.fromkeys(PROXIES, NOWHERE),
    }
    late = threading.Event()
    # Standard error goes to a file, which the limit on files bounds; a second pipe could stop the child while it is not read.
    with (
        tempfile.TemporaryFile(dir=folder) as told,
        subprocess.Popen(
            [*off_the_network(), *argv],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=told,
            start_new_session=True,
        ) as process,
    ):
        timer = threading.Timer(DEADLINE, _end_late, (process.pid, late))
        timer.start()
        try:
            _limit(process.pid)
            if process.stdout is None:
                raise RuntimeError("the child has no standard output")
            out = process.stdout.read(MAX_OUTPUT + 1)
            if len(out) <= MAX_OUTPUT:
                process.wait()
        finally:
            timer.cancel()
            _end(process.pid)
        if late.is_set():
            raise ValidationError("V040", f"{what} did not end within {DEADLINE:.0f} s", object=argv[0])
        if len(out) > MAX_OUTPUT:
            raise ValidationError("V041", f"{what} wrote more than {MAX_OUTPUT:,} bytes", object=argv[0])
        if process.returncode != 0:
            told.seek(max(0, told.seek(0, os.SEEK_END) - MAX_TOLD))
            tail = told.read().decode(errors="replace").strip().splitlines()[-1:]
            why = tail[0][:500] if tail else f"exit code {process.returncode}"
            raise ValidationError("V040", f"{what} failed: {why}", object=argv[0])
    return out


def _end_late(group: int, late: threading.Event) -> None:
    late.set()
    _end(group)


def _end(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
