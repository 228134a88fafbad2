"""What the command tells a person beside the data: what is wrong in Git, what was meant, why something waits."""

from __future__ import annotations

import sys

import pytest
from muster_proto.v1 import link_pb2 as wire
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
    assert "OWED" in lines[0], "what says how it goes is there; the bundle is in the rollout's name"
    assert "…" not in lines[0]


def test_which_release_is_where_is_seen_on_a_narrow_terminal(
    muster: Muster, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    releases = [
        op.ReleaseCount(release=wire.Release(commit=commit * 7), clusters=clusters, owed=1)
        for commit, clusters in (("a", 38), ("b", 2), ("c", 1))
    ]
    hub.bundles = [op.BundleView(name="shop", releases=releases)]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    lines = muster("get", "bundles", "--no-color").out.splitlines()
    assert [line.strip() for line in lines[2:]] == [
        "aaaaaaa ×38 (owed 1), bbbbbbb ×2 (owed 1), ccccccc ×1 (owed 1)"
    ]


def test_a_long_reason_is_broken_between_words(
    muster: Muster, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    why = "wave canary: 1 failed or lost, 0 allowed (berlin-04: apps/v1/Deployment shop/web has 1 of 2)"
    hub.rollouts = [op.RolloutView(name="shop-0001", bundle="shop", state="Failed", why=why)]
    assert f"Why:            {why}\n" in muster("describe", "rollout", "shop-0001").out, (
        "a pipe gets one line"
    )
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    lines = muster("describe", "rollout", "shop-0001", "--no-color").out.splitlines()
    first = next(index for index, line in enumerate(lines) if line.startswith("Why:"))
    assert lines[first + 1].startswith(" " * 16)
    assert f"{lines[first][16:]} {lines[first + 1][16:]}" == why


def test_owed_of_no_bundle_is_not_nobody(muster: Muster, hub: Hub) -> None:
    assert muster("rollout", "owed", "spoh").code == 3


ODD = "\x1b]0;mine\x07\x9b31mred\u202e"


@pytest.mark.parametrize("command", ["get clusters", "get rollouts", "describe rollout shop-0001", "rollout watch shop-0001",
    "rollout events shop-0001", "describe cluster berlin-04 -o yaml", "get rollouts -o json"])  # fmt: skip
def test_what_clusters_and_people_wrote_moves_no_terminal(muster: Muster, hub: Hub, command: str) -> None:
    target = op.TargetView(cluster="berlin-04", state="failed", message=ODD)
    view = op.RolloutView(
        name="shop-0001", bundle="shop", state="Failed", why=ODD, reason=ODD, targets=[target], authors=[ODD]
    )
    hub.rollouts = [view]
    hub.clusters = [
        op.ClusterView(name="berlin-04", state="Online", message=ODD, labels={ODD: ODD, "tier": "store"})
    ]
    hub.log = [
        op.RolloutEvent(number=1, at_unix_ms=1, text=f"berlin-04 failed: {ODD}", data=b"{}"),
        op.RolloutEvent(view=view),
    ]
    hub.info.catalog_error = f"MUSTER-G002 {ODD}."
    answer = muster(*command.split())
    said = answer.out + answer.err
    assert "red" in said
    assert not {*said} & {"\x1b", "\x07", "\x9b", "\u202e"}


def test_what_a_refusal_quotes_moves_no_terminal(muster: Muster, hub: Hub) -> None:
    answer = muster("describe", "rollout", ODD)
    assert answer.code == 3
    assert "red" in answer.err
    assert "\x1b" not in answer.err
