"""The programs under test as processes, the Git repository they share, and what the kernel says of them.

Owns starting and killing of the coordinator and of agents, the operator's few commits, and readings of memory and CPU.
It never looks inside a program, except through its profile when asked.
"""

from __future__ import annotations

import json
import os
import pstats
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from muster_proto.v1 import operator_pb2 as op
from muster_proto.v1 import operator_pb2_grpc

LONG = os.environ.get("MUSTER_LONG") == "1"
AGENTS = 10_000 if LONG else 1_000
FLEET_ID = "7d41" * 8
REGISTRY = "muster/registry"
START_DEADLINE = 60.0
COORDINATOR = "import sys; from muster_coordinator.command import serve; serve()"
AGENT = "from muster_agent.__main__ import main; main()"
# Between the two signals the main thread's own CPU time is profiled; the second writes the file.
PROFILED = """
import cProfile, signal, time
_profile = cProfile.Profile(time.thread_time)
def _begin(*_): _profile.enable()
def _end(*_):
    _profile.disable()
    _profile.dump_stats({file!r})
signal.signal(signal.SIGUSR1, _begin)
signal.signal(signal.SIGUSR2, _end)
"""
# Python's own allocations by source file, from the start on; the signal writes them.
TRACED = """
import json, os, signal, sys, tracemalloc
tracemalloc.start(1)
def _end(*_):
    found = tracemalloc.take_snapshot().statistics("filename")
    code = [m.__cached__ for m in list(sys.modules.values()) if getattr(m, "__cached__", None)]
    with open({file!r}, "w") as out:
        json.dump(dict(
            held=[(one.traceback[0].filename, one.size) for one in found],
            code=[(path, os.path.getsize(path)) for path in code if os.path.exists(path)],
        ), out)
signal.signal(signal.SIGUSR2, _end)
"""
ENVIRONMENT = {
    **{name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LANG", "HOME") if name in os.environ},
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_AUTHOR_NAME": "bench", "GIT_AUTHOR_EMAIL": "bench@example.com",
    "GIT_COMMITTER_NAME": "bench", "GIT_COMMITTER_EMAIL": "bench@example.com",
    "GRPC_VERBOSITY": "NONE",
}  # fmt: skip


def git(folder: Path, *arguments: str) -> str:
    command = ["git", *arguments]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, env=ENVIRONMENT)
    return done.stdout.strip()


@dataclass(slots=True)
class FleetRepository:
    """A bare origin and an operator's clone; the registry branch has a clone of its own."""

    folder: Path

    @property
    def url(self) -> str:
        return f"file://{self.folder / 'origin.git'}"

    @property
    def checkout(self) -> Path:
        return self.folder / "checkout"

    @classmethod
    def make(cls, folder: Path, files: Mapping[str, str]) -> FleetRepository:
        folder.mkdir(parents=True)
        made = cls(folder)
        git(folder, "init", "-q", "--bare", "-b", "main", "origin.git")
        git(folder, "init", "-q", "-b", "main", "checkout")
        git(made.checkout, "remote", "add", "origin", made.url)
        made.commit("a fleet", files)
        return made

    def commit(self, message: str, files: Mapping[str, str]) -> str:
        """Writes, commits and pushes to main; returns the commit."""
        for path, text in files.items():
            target = self.checkout / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        git(self.checkout, "add", "-A")
        git(self.checkout, "commit", "-qm", message)
        git(self.checkout, "push", "-q", "-u", "origin", "main")
        return git(self.checkout, "rev-parse", "HEAD")

    def register(self, entries: Mapping[str, str]) -> None:
        """One commit on the registry branch with an entry per cluster; ``entries`` is name to YAML."""
        work = self.folder / "registry"
        if not work.exists():
            git(self.folder, "clone", "-q", self.url, "registry")
            git(work, "checkout", "-q", "--orphan", REGISTRY)
            git(work, "rm", "-rqf", ".")
        for name, text in entries.items():
            target = work / "clusters" / f"{name}.yaml"
            target.parent.mkdir(exist_ok=True)
            target.write_text(text)
        git(work, "add", "-A")
        git(work, "commit", "-qm", f"register {len(entries)} clusters")
        git(work, "push", "-q", "origin", REGISTRY)


@dataclass(slots=True)
class Program:
    """One process with its output in files. ``profile`` is where its profile goes, when it is to have one."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    profile: Path | None = None

    @classmethod
    def start(cls, name: str, folder: Path, argv: Sequence[str], profile: Path | None = None) -> Program:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{name}.out").open("wb") as out, (folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                list(argv), stdin=subprocess.DEVNULL, stdout=out, stderr=log, env=ENVIRONMENT
            )
        return cls(name, process, folder / f"{name}.log", profile)

    @property
    def pid(self) -> int:
        return self.process.pid

    def ready(self) -> dict[str, Any]:
        """The one JSON line that it prints when it is ready."""
        out, until = self.log.with_suffix(".out"), time.monotonic() + START_DEADLINE
        while time.monotonic() < until:
            if "\n" in (text := out.read_text()):
                found: dict[str, Any] = json.loads(text.splitlines()[0])
                return found
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise RuntimeError(f"{self.name} is not ready:\n{self.log.read_text()[-2000:]}")

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)

    def profile_begins(self) -> None:
        self.process.send_signal(signal.SIGUSR1)

    def _written(self) -> Path:
        """Asks for the profile's file and waits for it."""
        assert self.profile is not None
        self.process.send_signal(signal.SIGUSR2)
        until, size = time.monotonic() + START_DEADLINE, -1
        while not size > 0 or size != self.profile.stat().st_size:
            if time.monotonic() > until:
                raise RuntimeError(f"{self.name} wrote no profile")
            size = self.profile.stat().st_size if self.profile.exists() else -1
            time.sleep(0.5)
        return self.profile

    def cpu_profile(self) -> list[str]:
        """The five functions with the most CPU of the main thread since :meth:`profile_begins`, as lines."""
        found: dict[Any, Any] = pstats.Stats(str(self._written())).stats  # type: ignore[attr-defined]
        total = sum(entry[2] for entry in found.values())
        worst = sorted(found.items(), key=lambda item: -item[1][2])[:5]
        lines = [f"{total * 1000:.0f} ms of the main thread's CPU in all"]
        for (file, line, function), (_, calls, own, _, _) in worst:
            where = re.sub(r"^.*/(?:site-packages/|python3\.\d+/|(?=\w+/muster_))", "", file)
            lines.append(f"{100 * own / total:4.0f} %  {calls:8,} calls  {function} ({where}:{line})")
        return lines

    def memory_profile(self) -> list[str]:
        """What Python code allocated, the largest packages by allocation and by compiled code, as lines."""
        written = json.loads(self._written().read_text())
        lines = []
        for what, title in (
            ("held", "allocated by Python code, imports included"),
            ("code", "of compiled code loaded"),
        ):
            sums: dict[str, int] = {}
            for file, size in written[what]:
                inside = re.search(r"site-packages/([^/]+)|/(muster_[a-z]+)/", file)
                package = (inside[1] or inside[2]) if inside else "the standard library"
                sums[package] = sums.get(package, 0) + size
            lines.append(f"{sum(sums.values()) / 1e6:.1f} MB {title}")
            worst = sorted(sums.items(), key=lambda item: -item[1])[:5]
            lines += [f"{size / 1e6:5.1f} MB  {package}" for package, size in worst]
        return lines


@dataclass(slots=True)
class Coordinator:
    """A real ``muster serve`` that can be killed and started again on the same folder and ports."""

    folder: Path
    repository: str
    program: Program | None = None
    prelude: str = ""  # Python that runs before it, for what no flag should set
    addresses: dict[str, str] = field(default_factory=dict)

    def start(self, profile: Path | None = None) -> Program:
        code = self.prelude + (PROFILED.format(file=str(profile)) if profile else "") + COORDINATOR
        flags = [
            f"--{name}={self.addresses.get(name, '127.0.0.1:0')}" for name in ("link", "edge", "metrics")
        ]
        where = [f"--data-dir={self.folder / 'data'}", f"--repository={self.repository}"]
        argv = [sys.executable, "-c", code, *where, *flags]
        self.program = Program.start("coordinator", self.folder, argv, profile)
        ready = self.program.ready()
        self.addresses = {name: ready[name] for name in ("link", "edge", "metrics")}
        return self.program

    @property
    def context(self) -> Path:
        return self.folder / "data" / "context.json"

    @property
    def database(self) -> Path:
        return self.folder / "data" / "muster.db"

    @contextmanager
    def operator(self) -> Iterator[Callable[[str, Any], Any]]:
        """A function that makes one call of the operator API, by its name, with the admin's token."""
        data = self.folder / "data"
        token = (data / "admin-token").read_text().strip()
        credentials = grpc.ssl_channel_credentials((data / "ca.crt").read_bytes())
        with grpc.secure_channel(self.addresses["edge"], credentials) as channel:
            stub = operator_pb2_grpc.OperatorStub(channel)
            yield lambda name, request: getattr(stub, name)(
                request, metadata=[("authorization", f"Bearer {token}")], timeout=60
            )

    def refresh(self) -> None:
        """Tells it to look at the repository now, and waits until it has."""
        with self.operator() as call:
            call("Refresh", op.RefreshRequest())


@dataclass(slots=True)
class StubFleet:
    """``stubfleet.py`` as a process, joined to a coordinator; orders are in that module's text."""

    process: subprocess.Popen[str]

    @classmethod
    def join(
        cls,
        coordinator: Coordinator,
        repository: FleetRepository,
        agents: int,
        think: float = 0.25,
        *more: str,
    ) -> StubFleet:
        """All of them known, approved and in contact; ``think`` is seconds from an offer to the answer, ``more`` flags."""
        script = str(Path(__file__).with_name("stubfleet.py"))
        argv = [sys.executable, script, "--context", str(coordinator.context), "--agents", str(agents)]
        argv += ["--think", str(think), *more]
        with (coordinator.folder / "stubs.log").open("w") as log:
            process = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=ENVIRONMENT
            )
        fleet = cls(process)
        try:
            repository.register(fleet.order("ask")["entries"])
            coordinator.refresh()
            fleet.order("connect")
        except BaseException:
            fleet.end()
            sys.stderr.write((coordinator.folder / "stubs.log").read_text()[-3000:])
            raise
        return fleet

    def order(self, do: str, **arguments: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the stubs ended at the order {do}")
        answer: dict[str, Any] = json.loads(line)
        if answer.get("missing"):
            raise RuntimeError(f"{do}: {len(answer['missing'])} stubs did not: {answer['missing'][:5]}")
        return answer

    def end(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        self.process.stdout.close()


def muster(coordinator: Coordinator, *arguments: str) -> str:
    """Runs the ``muster`` command as an operator of this coordinator would."""
    command = shutil.which("muster", path=str(Path(sys.executable).parent)) or "muster"
    argv = [command, "--context", str(coordinator.context), *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    if done.returncode:
        raise RuntimeError(f"muster {' '.join(arguments[:3])}: {done.stderr.strip()}")
    return done.stdout


# --- readings --------------------------------------------------------------------------------------------------------


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads of a process, ended ones too, in seconds (nanosecond clock)."""
    return time.clock_gettime(~pid << 3 | 2)


def children_cpu_seconds(pid: int) -> float:
    """CPU of the children that ended and were waited for, in seconds (clock ticks)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> dict[str, float]:
    """Megabytes (10^6): resident, its anonymous part, and the peak of the process's life."""
    found = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
    )
    return {name: int(found[name].split()[0]) * 1024 / 1e6 for name in ("VmRSS", "RssAnon", "VmHWM")}


def mappings(pid: int) -> list[str]:
    """The five mappings with the most resident memory, as lines."""
    mapped: dict[str, int] = {}
    name = ""
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if line.startswith("Rss:"):
            mapped[name] = mapped.get(name, 0) + int(line.split()[1]) * 1024
        elif re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            parts = line.split(None, 5)
            name = Path(parts[5]).name if len(parts) > 5 else "(anonymous)"
    largest = sorted(mapped.items(), key=lambda item: -item[1])[:5]
    return [f"{size / 1e6:5.1f} MB resident of {name}" for name, size in largest]


def children(pid: int) -> list[str]:
    """Command names of the processes below this one that are there now."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            command = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            found.append(command or child)
    return found
