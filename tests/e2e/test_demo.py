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


@pytest.mark.long  # each run asks the same of the demo that is kept
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


def test_what_a_kept_demo_tells_to_try_works_as_it_is_printed(folder: Path, tmp_path: Path) -> None:
    demo = start(folder, "--keep")
    assert demo.stdout is not None
    try:
        said: list[str] = []
        for line in demo.stdout:
            said.append(line)
            if line.startswith("Ctrl-C ends everything"):
                break
        text = "".join(said)
        assert "9 facts hold" in text, text
        assert "The fleet stays" in text, text
        lines = [line for line in text.split("The fleet stays")[1].splitlines() if line.startswith("  ")]
        script = "\n".join(["set -euo pipefail", *lines])
        bare = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "GIT_CONFIG_NOSYSTEM": "1"}
        tried = subprocess.run(
            ["bash", "-c", script], capture_output=True, text=True, timeout=120, env=bare, cwd=tmp_path
        )
        assert tried.returncode == 0, tried.stdout + tried.stderr
        assert "edge-2 was owed at the end. It has caught up since" in tried.stdout
        assert "shop-0005 Succeeded" in tried.stdout
        (shown,) = (line for line in lines if "git commit" in line)
        assert "git push" in shown
    finally:
        demo.send_signal(signal.SIGINT)
        demo.communicate(timeout=60)
    assert demo.returncode == 0
