"""What a shell may hand the command: closed streams, bytes that are no text, numbers past counting, files without an end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from muster_proto.v1 import operator_pb2 as op
from unit.cli.stage import Hub, Muster

RUN = "import sys; sys.argv[0] = 'muster'; from muster_cli.main import main; main()"


def shell(streams: str, *args: str) -> subprocess.CompletedProcess[str]:
    """``streams`` is what the shell does to them, like ``>&-``."""
    command = ["sh", "-c", f'exec "$@" {streams}', "sh", sys.executable, "-c", RUN, *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize(
    ("streams", "args", "code"),
    [
        (">&-", ("get", "clusters"), 0),
        (">&-", ("rollout", "watch", "shop-0001"), 0),
        (">&- 2>&-", ("describe", "cluster", "nope"), 3),
        ("<&-", ("rollout", "abort", "shop-0001"), 1),
        (">/dev/full", ("get", "clusters"), 2),
    ],
)
def test_a_stream_that_is_closed_or_full_makes_no_traceback(
    hub: Hub, streams: str, args: tuple[str, ...], code: int
) -> None:
    hub.clusters = [op.ClusterView(name="berlin-04", state="Online")]
    hub.rollouts = [op.RolloutView(name="shop-0001", bundle="shop", state="Succeeded")]
    done = shell(streams, *args)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "Errno" not in done.stderr


def test_bytes_that_are_no_text_are_refused_before_anything_is_asked(
    muster: Muster, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = muster("describe", "rollout", os.fsdecode(b"shop-\xff"))
    assert answer.code == 2
    assert "Argument 3 is no UTF-8 text: 'shop-\\udcff'." in answer.err
    assert not hub.requests
    assert muster("describe", "rollout", "löwe").code == 3


@pytest.mark.parametrize(
    "flags",
    [
        ("--tail", "4294967296"),
        ("--after", "9223372036854775808"),
        ("--after", "18446744073709551616"),
    ],
)
def test_numbers_past_counting_are_refused(muster: Muster, hub: Hub, flags: tuple[str, str]) -> None:
    answer = muster("rollout", "events", "shop-0001", *flags)
    assert answer.code == 2
    assert "is not in the range" in answer.err


def test_a_very_long_timeout_is_long_and_not_over(muster: Muster, hub: Hub) -> None:
    assert muster("get", "clusters", "--timeout", "99999d99999d").code == 0


def test_a_context_or_token_that_cannot_be_one_is_said_so(muster: Muster, hub: Hub, tmp_path: Path) -> None:
    endless = muster("--context", "/dev/zero", "get", "clusters")
    assert endless.code == 2
    assert "MUSTER-L010" in endless.err
    file = json.loads((tmp_path / "hub" / "context.json").read_text())
    token = tmp_path / "hub" / "torn"
    (tmp_path / "hub" / "other.json").write_text(json.dumps({**file, "token_file": token.name}))
    for text in (b"two\nlines", b"caf\xc3\xa9", b"\xff", b"a\x01b"):
        token.write_bytes(text)
        answer = muster("--context", tmp_path / "hub" / "other.json", "get", "clusters")
        assert (answer.code, answer.err[:11]) == (2, "MUSTER-L010"), answer.err


def test_blanks_do_not_freeze_the_whole_fleet(muster: Muster, hub: Hub) -> None:
    assert muster("freeze", "create", "night", "--until", "8h", "-l", " ").code == 2
    assert not hub.requests


def test_nothing_is_asked_about_a_cluster_of_which_nothing_went_back(muster: Muster, hub: Hub) -> None:
    hub.clusters = [op.ClusterView(name="berlin-04", state="Online")]
    assert "Is that known?" not in muster("cluster", "acknowledge", "berlin-04").err
    hub.clusters[0].regressed = "3f2c9d1aaaa"
    assert (
        "had accepted 3f2c9d1aaaa before. Is that known?" in muster("cluster", "acknowledge", "berlin-04").err
    )
