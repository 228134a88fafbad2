"""The demo is the first test of the whole: it must hold, notice a death, and leave nothing behind."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

MUSTER = str(Path(sys.executable).with_name("muster"))
pytestmark = [pytest.mark.timeout(240), pytest.mark.xdist_group("demo")]


def processes_naming(text: str) -> list[int]:
    """Processes whose command line has ``text``, from /proc."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if text in (entry / "cmdline").read_bytes().decode(errors="replace"):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "demo"
    assert processes_naming(str(tmp_path)) == []


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [MUSTER, "demo", "--dir", str(folder), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "NO_COLOR": "1"},
    )


def test_every_fact_of_the_demo_holds(folder: Path) -> None:
    started = time.monotonic()
    done = start(folder)
    said, _ = done.communicate(timeout=200)
    assert done.returncode == 0, said
    assert "9 facts hold" in said
    print(f"the demo took {time.monotonic() - started:.0f} s")


def test_an_agent_killed_at_random_fails_the_demo(folder: Path) -> None:
    demo = start(folder)
    victim = random.choice(["canary-1", "store-1", "store-2"])
    deadline = time.monotonic() + 90
    agents: list[int] = []
    while not agents and time.monotonic() < deadline:
        agents = [p for p in processes_naming(f"{folder}/{victim}/state") if p != demo.pid]
        time.sleep(0.1)
    os.kill(agents[0], signal.SIGKILL)
    said, _ = demo.communicate(timeout=120)
    assert demo.returncode == 1, said
    assert f"agent-{victim} died" in said


def test_an_interrupt_leaves_no_process_and_no_file() -> None:
    before = set(Path("/tmp").glob("muster-demo-*"))
    demo = subprocess.Popen([MUSTER, "demo"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 60
    made: set[Path] = set()
    while time.monotonic() < deadline:
        made = set(Path("/tmp").glob("muster-demo-*")) - before
        if made and any(processes_naming(f"{path}/hub") for path in made):
            break
        time.sleep(0.1)
    demo.send_signal(signal.SIGINT)
    demo.communicate(timeout=60)
    assert demo.returncode == 130
    assert not any(path.exists() for path in made)
    assert not any(processes_naming(str(path)) for path in made)
