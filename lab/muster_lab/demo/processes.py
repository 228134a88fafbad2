"""Starts the installed programs, notices when one dies, and leaves none behind.

Owns every child process of the demo: each runs in a session of its own with its output in a file, and is ended as
a group. It never restarts anything: a program that dies by itself is a failure of the demo.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio

STOP_PATIENCE = 5.0


class DemoError(Exception):
    """A fact that does not hold, or a program that did not do what it should. The text is for people."""


def program(name: str) -> str:
    """The path of an installed program: beside this interpreter first, then on PATH."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        raise DemoError(f"{name} is not installed. Run: pip install 'muster-fleet[all]'")
    return found


def tail(path: Path, lines: int = 12) -> str:
    """The last lines of a log, for an error message."""
    if not path.exists():
        return "(no output)"
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


@dataclass(slots=True)
class Child:
    """One running program. ``log`` holds its standard error, ``out`` its standard output."""

    name: str
    process: subprocess.Popen[bytes]
    out: Path
    log: Path
    argv: Sequence[str]
    expected_to_run: bool = True

    async def first_line(self, deadline: float) -> str:
        """The first complete line on standard output; programs print one JSON line when they are ready."""
        with anyio.move_on_after(deadline):
            while True:
                text = self.out.read_text(errors="replace") if self.out.exists() else ""
                if "\n" in text:
                    return text.split("\n", 1)[0]
                if self.process.poll() is not None:
                    raise DemoError(
                        f"{self.name} ended with {self.process.returncode} at start:\n{tail(self.log)}"
                    )
                await anyio.sleep(0.05)
        raise DemoError(f"{self.name} was not ready within {deadline:.0f} s:\n{tail(self.log)}")


@dataclass(slots=True)
class Supervisor:
    """All children; :meth:`check` raises as soon as one is gone that should be there."""

    logs: Path
    environment: Mapping[str, str]
    children: dict[str, Child] = field(default_factory=dict)

    def start(self, name: str, argv: Sequence[str], extra: Mapping[str, str] | None = None) -> Child:
        out, log = self.logs / f"{name}.out", self.logs / f"{name}.log"
        with out.open("wb") as stdout, log.open("ab") as stderr:
            process = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env={**self.environment, **(extra or {})},
                start_new_session=True,
            )
        child = self.children[name] = Child(name, process, out, log, argv)
        return child

    def check(self) -> None:
        for child in self.children.values():
            code = child.process.poll()
            if code is not None and child.expected_to_run:
                how = f"signal {-code}" if code < 0 else f"exit code {code}"
                raise DemoError(f"{child.name} died ({how}):\n{tail(child.log)}")

    async def end(self, child: Child) -> None:
        """Ends one child for good; it is not missed."""
        child.expected_to_run = False
        _signal_group(child.process, signal.SIGTERM)
        with anyio.move_on_after(STOP_PATIENCE):
            while child.process.poll() is None:
                await anyio.sleep(0.05)
        _signal_group(child.process, signal.SIGKILL)
        child.process.wait()

    async def stop(self) -> None:
        """Asks all to end, waits a moment, then kills what is left, with everything they started."""
        for child in reversed(self.children.values()):
            child.expected_to_run = False
            _signal_group(child.process, signal.SIGTERM)
        with anyio.move_on_after(STOP_PATIENCE):
            while any(child.process.poll() is None for child in self.children.values()):
                await anyio.sleep(0.05)
        for child in self.children.values():
            _signal_group(child.process, signal.SIGKILL)
            child.process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


@asynccontextmanager
async def supervised(logs: Path, environment: Mapping[str, str]) -> AsyncIterator[Supervisor]:
    """A supervisor whose children are gone when the block is left, however it is left."""
    supervisor = Supervisor(logs, environment)
    try:
        yield supervisor
    finally:
        with anyio.CancelScope(shield=True):
            await supervisor.stop()


async def run(argv: Sequence[str], environment: Mapping[str, str], deadline: float = 60) -> str:
    """Runs a command to its end and returns its standard output; anything but success is a :class:`DemoError`."""
    with anyio.move_on_after(deadline):
        done = await anyio.run_process(list(argv), env=dict(environment), check=False)
        if done.returncode != 0:
            said = (done.stderr or done.stdout).decode(errors="replace").strip()
            raise DemoError(f"`{' '.join(argv[:4])} …` ended with {done.returncode}: {said}")
        return done.stdout.decode()
    raise DemoError(f"`{' '.join(argv[:4])} …` did not end within {deadline:.0f} s")
