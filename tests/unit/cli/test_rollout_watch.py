"""``rollout watch``: lines in a pipe, a picture on a terminal, an exit code that a script can use, and a line that breaks."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from fcntl import ioctl

import pytest
from muster_cli.live import ASCII, FULL, Scene, bar, picture, window
from muster_proto.v1 import link_pb2 as wire
from muster_proto.v1 import operator_pb2 as op
from rich.console import Console
from unit.cli.stage import Hub, Muster

NAME = "shop-0007"


def standing(done: int, state: str = "Running", wave: int = 1, why: str = "") -> op.RolloutView:
    return op.RolloutView(
        name=NAME, bundle="shop", state=state, wave_index=wave, total=40, done=done, in_flight=3, owed=1, why=why,
        release=wire.Release(bundle="shop", commit="3f2c9d1aaaa"), started_by="anna",
        started_unix_ms=int((time.time() - 720) * 1000),
        waves=[
            op.WaveView(name="canary", state="passed", total=1, done=1),
            op.WaveView(name="stores", state="open", total=38, done=done - 1, in_flight=3, soaking=1, owed=1,
                        soak_until_unix_ms=int((time.time() + 252) * 1000)),
            op.WaveView(name="edge", state="waiting", total=1, waiting=1),
        ],
    )  # fmt: skip


def step(number: int, text: str) -> op.RolloutEvent:
    return op.RolloutEvent(number=number, at_unix_ms=int(time.time() * 1000), event="x", text=text)


def at(view: op.RolloutView) -> op.RolloutEvent:
    return op.RolloutEvent(view=view)


@pytest.fixture
def running(hub: Hub) -> Hub:
    """Something of the past, a view, two steps with a view each, and the end."""
    hub.rollouts = [standing(13)]
    hub.log = [
        step(1, "long ago"), at(standing(13)), step(2, "c1 is healthy"), at(standing(14)), step(3, "c2 is healthy"),
        at(standing(15)), step(4, f"{NAME} ended: Succeeded"), at(standing(40, "Succeeded", 2)),
    ]  # fmt: skip
    return hub


def test_a_pipe_gets_each_step_once_and_the_standing_when_it_changes(muster: Muster, running: Hub) -> None:
    answer = muster("rollout", "watch", NAME)
    assert [line.split(":")[0].split(" wave")[0] for line in answer.out.splitlines()] == [
        f"{NAME} Running", "c1 is healthy", "c2 is healthy", f"{NAME} ended", f"{NAME} Succeeded",
    ]  # fmt: skip
    assert answer.err.splitlines() == [
        f"{NAME} Succeeded after 12m: 40/40 done, 1 owed", "Next: muster rollout owed shop",
    ]  # fmt: skip
    assert "\x1b" not in answer.out


@pytest.mark.parametrize(
    ("end", "code"), [("Succeeded", 0), ("Failed", 1), ("Aborted", 1), ("RolledBack", 1), ("Superseded", 1)]
)
def test_the_exit_code_is_how_it_ended(muster: Muster, running: Hub, end: str, code: int) -> None:
    running.log[-1].view.state = end
    assert muster("rollout", "watch", NAME).code == code
    running.rollouts, running.log = [standing(40, end)], [at(standing(40, end))]
    assert muster("rollout", "watch", NAME).code == code, "also of one that has ended long ago"
    assert muster("rollout", "watch", "nope").code == 3


def test_a_script_gets_every_standing_as_a_line_of_json(muster: Muster, running: Hub) -> None:
    values = [json.loads(line) for line in muster("rollout", "watch", NAME, "-o", "json").out.splitlines()]
    assert [value["done"] for value in values] == [13, 14, 15, 40]


def test_a_pause_says_what_may_be_done(muster: Muster, running: Hub) -> None:
    running.log[3:3] = [at(standing(13, "Paused", why="by anna: lunch"))]
    err = muster("rollout", "watch", NAME).err
    assert f"Next: muster rollout resume {NAME}, or: muster rollout abort {NAME}" in err


def test_a_line_that_breaks_is_taken_up_where_it_broke(
    muster: Muster, running: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("muster_cli.commands.watching.PAUSE_SECONDS", 0.01)
    calls: list[int] = []

    def breaking(request: op.ListEventsRequest) -> bool:
        """The first call's line, once the second step was told."""
        calls.append(request.after)
        return request.after == 0 and len(calls) > 4

    running.breaks_when = breaking
    answer = muster("rollout", "watch", NAME)
    assert answer.code == 0
    assert answer.out.count("c1 is healthy") == answer.out.count("c2 is healthy") == 1
    assert answer.err.startswith("warning: the coordinator cannot be reached (gone); trying again\n")
    assert set(calls) == {0, 2}


def test_a_coordinator_that_stays_away_is_given_up_on(
    muster: Muster, running: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("muster_cli.commands.watching.PAUSE_SECONDS", 0.01)
    monkeypatch.setattr("muster_cli.commands.watching.AWAY_SECONDS", 0.05)
    running.breaks_when = lambda request: True
    answer = muster("rollout", "watch", NAME)
    assert answer.code == 5
    assert "MUSTER-L012" in answer.err


def test_a_limit_ends_the_watch_and_says_that_the_rollout_goes_on(muster: Muster, running: Hub) -> None:
    running.log, running.hold_calls = running.log[:2], True
    answer = muster("rollout", "watch", NAME, "--timeout", "1s")
    assert answer.code == 5
    assert f"MUSTER-L080 it has not ended after 1s: it is Running: {NAME}." in answer.err
    assert f"muster rollout watch {NAME}" in answer.err


# --- the picture ------------------------------------------------------------------------------------------------


def shown(scene: Scene, width: int, height: int = 24, colour: bool = False) -> list[str]:
    console = Console(width=width, force_terminal=True, no_color=not colour, file=open(os.devnull, "w"))  # noqa: SIM115
    with console.capture() as capture:
        console.print(picture(scene, time.time(), width, height))
    console.file.close()
    return capture.get().splitlines()


@pytest.mark.parametrize("width", [80, 120])
def test_a_picture_fits_the_window_and_has_what_people_ask_for(width: int) -> None:
    view = standing(14, why="soaking until 14:05 UTC")
    lines = [
        re.sub(r"\x1b\[[0-9;]*m", "", line) for line in shown(Scene(view, ("12:00:00  " + "x" * 200,)), width)
    ]
    assert all(len(line) <= width for line in lines), lines
    head, canary, stores, edge, why, *_ = lines
    assert head.split() == [NAME, "3f2c9d1", "Running", "14/40", "done", "12m", "by", "anna"]
    assert canary.split()[:2] == ["✓", "canary"]
    assert "13/38" in stores
    assert "2 in flight, 1 soaking (4m" in stores
    assert "1 owed" in stores
    assert edge.strip().startswith("edge")
    assert why.strip() == "soaking until 14:05 UTC"


def test_a_bar_shows_whatever_is_there_and_is_full_only_when_all_is_done() -> None:
    def drawn(**counts: int) -> str:
        return bar(op.WaveView(**counts), 20, FULL).plain

    assert drawn(total=10_000, done=9_998, failed=1, lost=1) == "█" * 19 + "✗"
    assert drawn(total=10_000, done=1) == "█" + "·" * 19
    assert drawn(total=3, done=3) == "█" * 20
    assert drawn(total=3, done=2, skipped=1) == "█" * 20
    assert "·" in drawn(total=10_000, done=9_999, waiting=1)
    assert drawn(total=4, done=1, in_flight=1, owed=1, failed=1) == "█" * 5 + "▒" * 5 + "✗" * 5 + "○" * 5
    assert bar(op.WaveView(total=2, done=1), 4, ASCII).plain == "##.."


def test_many_waves_show_those_that_move() -> None:
    assert window(5, 2, 10) == (0, 5)
    assert window(50, 20, 10) == (19, 29)
    assert window(50, 49, 10) == (40, 50)
    view = standing(14)
    for number in range(50):
        view.waves.append(op.WaveView(name=f"w{number}", total=1))
    view.wave_index = 30
    lines = shown(Scene(view), 80, height=24)
    assert len(lines) <= 24
    assert any("29 before, passed" in line for line in lines)


def in_terminal(*args: str, columns: int, interrupt: bool = False, **environment: str) -> tuple[int, str]:
    """Runs the command on a terminal of that width; its exit code and all that it wrote."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "muster_cli.main", *args], stdin=theirs, stdout=theirs, stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns), **environment}, close_fds=True,
    )  # fmt: skip
    os.close(theirs)
    said, end = b"", time.monotonic() + 30
    while time.monotonic() < end:
        if not select.select([ours], [], [], 0.2)[0]:
            if interrupt and b"Running" in said:
                process.send_signal(signal.SIGINT)
                interrupt = False
            continue
        try:
            data = os.read(ours, 65536)
        except OSError:  # all of it was read and the other side is closed
            break
        if not data:
            break
        said += data
    os.close(ours)
    return process.wait(10), said.decode()


@pytest.mark.parametrize("columns", [80, 120])
def test_a_terminal_shows_bars_that_stay_and_ends_with_the_code(running: Hub, columns: int) -> None:
    code, said = in_terminal("rollout", "watch", NAME, columns=columns)
    assert code == 0, said
    assert "█" in said
    assert "\x1b[32m" in said, "there is colour"
    assert "\x1b[?25h" in said, "the cursor is back"
    last = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line).rstrip() for line in said.split("\n")]
    assert all(len(line.rpartition("\r")[2]) <= columns for line in last), last
    assert any("40/40 done" in line for line in last)


def test_no_colour_means_none(running: Hub) -> None:
    code, said = in_terminal("rollout", "watch", NAME, columns=80, NO_COLOR="1")
    assert code == 0
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", said)
    assert "█" in said


def test_an_interrupt_gives_the_terminal_back(running: Hub) -> None:
    running.log, running.hold_calls = running.log[:2], True
    code, said = in_terminal("rollout", "watch", NAME, columns=80, interrupt=True)
    assert code == 130, said
    assert said.rstrip().endswith("interrupted")
    assert "\x1b[?25h" in said
    assert "Traceback" not in said
