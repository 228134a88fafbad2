"""How a coordinator starts: addresses that are taken, and those that nobody else can reach."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def command(folder: Path, **addresses: str) -> list[str]:
    flags = {"link": "127.0.0.1:0", "edge": "127.0.0.1:0", "metrics": "127.0.0.1:0", **addresses}
    return [
        sys.executable,
        "-c",
        "from muster_cli.main import main; main()",
        "serve",
        f"--data-dir={folder / 'hub'}",
        "--repository=file:///nope",
        *(f"--{name.replace('_', '-')}={value}" for name, value in flags.items()),
    ]


@contextmanager
def taken() -> Iterator[str]:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield f"127.0.0.1:{holder.getsockname()[1]}"


def test_a_notify_file_that_is_wrong_is_one_line_and_nothing_was_begun(tmp_path: Path) -> None:
    file = tmp_path / "notify.yaml"
    file.write_text("[{name: ops, url: 'https://x', on: [paused], colour: red}]")
    run = subprocess.run([*command(tmp_path), f"--notify={file}"], capture_output=True, text=True, timeout=30)
    assert run.returncode == 2
    (line,) = run.stderr.splitlines()
    assert line.startswith("MUSTER-L070")
    assert "colour" in line
    assert not (tmp_path / "hub").exists()


@pytest.mark.parametrize("listener", ["link", "edge", "metrics"])
def test_an_address_that_is_taken_is_one_line_with_what_to_do(tmp_path: Path, listener: str) -> None:
    with taken() as address:
        done = subprocess.run(
            command(tmp_path, **{listener: address}), capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert errors == [
        f"MUSTER-L002 this address cannot be listened on: {address}. "
        "Does another coordinator run here? Pass --link, --edge or --metrics HOST:PORT."
    ]


def start(folder: Path, **addresses: str) -> tuple[dict[str, str], str]:
    """(the ready line, what it logged) of a coordinator that was stopped as soon as it was ready."""
    with subprocess.Popen(
        command(folder, **addresses), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "GRPC_VERBOSITY": "NONE"},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=60)
        assert process.returncode == 0, log
    return ready, log


def test_an_address_that_nobody_else_can_reach_is_warned_of_and_not_in_the_context(tmp_path: Path) -> None:
    ready, log = start(tmp_path, link="0.0.0.0:0", edge="0.0.0.0:0")
    assert ready["edge"].startswith("0.0.0.0:")
    context = json.loads((tmp_path / "hub" / "context.json").read_text())
    assert context["edge"] == ready["edge"].replace("0.0.0.0", "127.0.0.1")
    assert "--advertise-link HOST:PORT" in log
    assert "--advertise-edge HOST:PORT" in log


def test_an_address_that_is_named_for_others_is_taken_as_it_is(tmp_path: Path) -> None:
    ready, log = start(
        tmp_path, link="0.0.0.0:0", edge="0.0.0.0:0", advertise_link="hub:1", advertise_edge="hub:2"
    )
    assert (ready["link"], ready["edge"]) == ("hub:1", "hub:2")
    assert "--advertise" not in log
