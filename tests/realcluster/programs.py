"""Server processes that end with whoever started them.

Owns process groups, logs and the guard that outlives a test process by a moment, to end what it left. It never restarts one.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

TAIL_LINES = 30


class RealClusterError(Exception):
    """A component did not start or did not become ready; the text ends with its log."""


GUARD = """
import os, signal, sys
groups = set()
for line in sys.stdin:
    (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
for group in groups:
    try:
        os.killpg(group, signal.SIGKILL)
    except OSError:
        pass
"""


class Guard:
    """A process that outlives this one for a moment: when its input ends it kills the groups still listed."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None
        self.lock = threading.Lock()

    def tell(self, sign: str, group: int) -> None:
        with self.lock:
            if self.process is None:
                self.process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", GUARD],
                    stdin=subprocess.PIPE,
                    text=True,
                    start_new_session=True,
                )
                atexit.register(self.close)
            assert self.process.stdin is not None
            self.process.stdin.write(f"{sign}{group}\n")
            self.process.stdin.flush()

    def close(self) -> None:
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()
            self.process.wait(10)


guard = Guard()


class Program:
    """One server process in its own group, with its output in a file."""

    def __init__(self, binary: Path, arguments: Iterable[str], log: Path) -> None:
        self.name = binary.name
        self.log = log
        self.began = log.stat().st_size if log.exists() else 0
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [str(binary), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=log.parent,
                env={"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": str(log.parent)},
                start_new_session=True,
            )
        guard.tell("+", self.process.pid)

    def failure(self, what: str) -> RealClusterError:
        code = self.process.poll()
        state = "is running" if code is None else f"ended with {code}"
        return RealClusterError(f"{what}: {self.name} {state}; the end of {self.log}:\n{self.tail()}")

    def written(self) -> str:
        with self.log.open("rb") as file:
            file.seek(self.began)
            return file.read().decode(errors="replace")

    def tail(self) -> str:
        return "\n".join(line[:400] for line in self.written().splitlines()[-TAIL_LINES:])

    def lost_its_port(self) -> bool:
        return self.process.poll() is not None and "address already in use" in self.written()

    def stop(self, *, graceful: bool, patience: float = 15) -> None:
        if graceful and self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(patience)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)
        guard.tell("-", self.process.pid)
