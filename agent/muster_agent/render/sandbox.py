"""A child process that may do little and not for long.

Owns argv-only starts with an empty environment, an own HOME, resource limits, an output cap, a deadline, and the end of the
whole process group. It never uses a shell.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import anyio
import anyio.to_thread
from muster_core.errors import ValidationError

DEADLINE = 60.0
MAX_CPU_SECONDS = 60
MAX_OUTPUT = 32 << 20
MAX_MEMORY = 4 << 30
MAX_FILE = 64 << 20
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
    with subprocess.Popen(
        argv,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        try:
            _limit(process.pid)
            out, err = process.communicate(timeout=DEADLINE)
        except subprocess.TimeoutExpired as error:
            raise ValidationError(
                "V040", f"{what} did not end within {DEADLINE:.0f} s", object=argv[0]
            ) from error
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode != 0:
        tail = err.decode(errors="replace").strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
        raise ValidationError("V040", f"{what} failed: {tail[0][:500]}", object=argv[0])
    if len(out) > MAX_OUTPUT:
        raise ValidationError("V041", f"{what} wrote more than {MAX_OUTPUT:,} bytes", object=argv[0])
    return out
