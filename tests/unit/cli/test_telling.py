"""What the command tells a person beside the data: what is wrong in Git, what was meant, why something waits."""

from __future__ import annotations

import sys

import pytest
from muster_proto.v1 import operator_pb2 as op
from unit.cli.stage import Hub, Muster


@pytest.mark.parametrize("command", ["get clusters", "get bundles", "get rollouts", "version"])
@pytest.mark.parametrize(
    ("head", "error", "said"),
    [
        ("3f2c9d1aaaa", "MUSTER-G002 no Git.", "warning: what you see is as of 3f2c9d1: MUSTER-G002 no Git."),
        ("", "MUSTER-G002 no Git.", "warning: the coordinator has not read the fleet repository yet: MUSTER-G002"),
        ("3f2c9d1aaaa", "plans/a.yaml:3: bad", "warning: the fleet repository is not whole at 3f2c9d1: plans/a.yaml:3"),
    ],
)  # fmt: skip
def test_trouble_in_git_is_told_with_every_list(
    muster: Muster, hub: Hub, command: str, head: str, error: str, said: str
) -> None:
    assert "warning" not in muster(*command.split()).err
    hub.info.head_commit, hub.info.catalog_error = head, error
    answer = muster(*command.split())
    assert answer.code == 0
    assert answer.err.startswith(said)
    assert "warning" not in answer.out


def test_what_was_meant_is_guessed_at_the_top_too(muster: Muster) -> None:
    assert "Did you mean rollout?" in muster("rolout", "start").err
    assert "Did you mean" not in muster("xyzzy").err
    named = muster("get", "clusters", "berlin-04")
    assert named.code == 2
    assert "muster describe cluster berlin-04" in named.err


def test_why_is_seen_on_a_narrow_terminal(muster: Muster, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    why = "wave canary: 1 failed or lost, 0 allowed"
    hub.rollouts = [op.RolloutView(name="shop-0001", bundle="shop", state="Failed", why=why)]
    assert muster("get", "rollouts").out.splitlines()[1].endswith(why), "a pipe gets one line a thing"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    lines = muster("get", "rollouts", "--no-color").out.splitlines()
    assert [line.strip() for line in lines[2:]] == [why]
    assert all(len(line) <= 80 for line in lines)
