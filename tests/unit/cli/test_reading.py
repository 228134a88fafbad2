"""get, describe, rollout: how answers look, and what a script sees of trouble."""

# ruff: noqa: E501 - a command line reads better as one line
from __future__ import annotations

import json
import shutil
from pathlib import Path

import grpc
import pytest
import yaml
from muster_proto.v1 import link_pb2 as wire
from muster_proto.v1 import operator_pb2 as op
from unit.cli.stage import Hub, Muster

RELEASE = wire.Release(bundle="shop", commit="3f2c9d1aaaaaaaaa", tree_digest="d")


@pytest.fixture
def filled(hub: Hub) -> Hub:
    hub.clusters = [
        op.ClusterView(name="berlin-04", state="Online", labels={"tier": "store"}, uid="u1", bundles=[
            wire.Report(bundle="shop", release=RELEASE, phase="Ready"),
            wire.Report(bundle="other", phase="Blocked", code="P001", message="denied by require-team", rollout="shop-0007"),
        ]),
        op.ClusterView(name="edge-1", state="Offline", owed=["shop-0007"]),
    ]  # fmt: skip
    hub.bundles = [op.BundleView(name="shop", current=RELEASE, target=RELEASE, plan="rings", matched=2, ready=1, releases=[
        op.ReleaseCount(release=RELEASE, clusters=1, ready=1), op.ReleaseCount(clusters=1, owed=1),
    ], places=[
        op.BundlePlace(cluster="berlin-04", release=RELEASE, phase="Ready"), op.BundlePlace(cluster="edge-1", phase="Pending"),
    ])]  # fmt: skip
    hub.rollouts = [op.RolloutView(name="shop-0007", bundle="shop", release=RELEASE, state="Running", wave_index=1, total=40, done=14,
        in_flight=3, owed=1, why="soaking until 14:05", waves=[
            op.WaveView(name="canary", total=1, done=1, state="Done"), op.WaveView(name="stores", total=39, done=13)],
        targets=[op.TargetView(cluster="a", wave="stores", state="done"),
                 op.TargetView(cluster="b", wave="stores", state="failed", code="K001", message="broken")])]  # fmt: skip
    hub.tokens = [op.Token(id="t1", cluster="a", state="Used")]
    return hub


def test_tables_hold_what_people_ask_for(muster: Muster, filled: Hub) -> None:
    head, berlin, edge = muster("get", "clusters").out.splitlines()
    assert head.split() == ["CLUSTER", "STATE", "BUNDLES", "OWED", "SEEN", "CLASS", "MESSAGE"]
    assert berlin.split()[:3] == ["berlin-04", "Online", "1/2"]
    assert "denied by require-team" in berlin
    assert edge.split()[:4] == ["edge-1", "Offline", "0/0", "shop-0007"]
    rollout = muster("get", "rollouts").out.splitlines()[1]
    assert rollout.split()[:6] == ["shop-0007", "shop", "3f2c9d1", "Running", "2/2", "stores"]
    assert "14/40" in rollout
    assert rollout.endswith("soaking until 14:05")
    head, shop = muster("get", "bundles").out.splitlines()
    assert head.split() == [
        "BUNDLE",
        "TARGET",
        "READY",
        "DEGRADED",
        "BLOCKED",
        "OWED",
        "ROLLOUT",
        "WHERE",
        "ERROR",
    ]
    assert "3f2c9d1 ×1, none ×1 (owed 1)" in shop
    assert not filled.requests[-1].places
    assert "edge-1" in muster("get", "bundles", "-o", "wide").out
    assert filled.requests[-1].places
    assert muster("get", "tokens").out.splitlines()[1].split()[:3] == ["t1", "a", "Used"]
    assert "tier=store" in muster("get", "clusters", "-o", "wide").out


def test_scripts_get_json_yaml_and_names(muster: Muster, filled: Hub) -> None:
    assert [item["name"] for item in json.loads(muster("get", "clusters", "-o", "json").out)] == [
        "berlin-04",
        "edge-1",
    ]
    assert yaml.safe_load(muster("get", "bundles", "-o", "yaml").out)[0]["ready"] == 1
    assert muster("get", "clusters", "-o", "name").out == "cluster/berlin-04\ncluster/edge-1\n"
    assert muster("get", "tokens", "-o", "name").out == "token/t1\n"
    assert json.loads(muster("describe", "cluster", "edge-1", "-o", "json").out)["owed"] == ["shop-0007"]


def test_nothing_is_said_on_standard_error_and_data_stays_empty(muster: Muster, hub: Hub) -> None:
    answer = muster("get", "clusters")
    assert (answer.code, answer.out, answer.err) == (
        0,
        "",
        "no clusters; one joins with a token: muster token create --cluster NAME\n",
    )
    assert muster("get", "clusters", "-o", "json").out == "[]\n"


def test_selectors_are_checked_here_and_applied_there(muster: Muster, filled: Hub) -> None:
    assert muster("get", "clusters", "-l", "tier in (store)").code == 0
    assert filled.requests[-1].selector == "tier in (store)"
    answer = muster("get", "clusters", "-l", "tier in (")
    assert answer.code == 2
    assert "MUSTER-V032" in answer.err
    assert muster("get", "rollouts", "--bundle", "shop").code == 0
    assert filled.requests[-1].bundle == "shop"


def test_describe_shows_the_worst_first(muster: Muster, filled: Hub) -> None:
    rollout = muster("describe", "rollout", "shop-0007").out
    assert rollout.index("b: failed MUSTER-K001 broken") < rollout.index("a: done")
    assert rollout.splitlines()[0] == "b: failed MUSTER-K001 broken (wave stores)"
    assert "wave stores" in rollout
    cluster = muster("describe", "cluster", "berlin-04").out
    assert "  MUSTER-P001 denied by require-team" in cluster
    assert "  refused: 3f2c9d1 of shop-0007" in cluster
    bundle = muster("describe", "bundle", "shop").out
    assert bundle.index("edge-1: Pending") < bundle.index("berlin-04: Ready")


def test_a_watch_reads_as_one_table_and_filters(muster: Muster, filled: Hub) -> None:
    def event(name: str, state: str, **labels: str) -> op.Event:
        return op.Event(kind=op.Event.CLUSTER, cluster=op.ClusterView(name=name, state=state, labels=labels))

    filled.events = [event("a", "Online", tier="store"), event("b", "Online"), op.Event(kind=op.Event.SYNCED),
                     event("a", "Offline", tier="store"), event("b", "Offline")]  # fmt: skip
    lines = muster("get", "clusters", "-w", "-l", "tier=store").out.splitlines()
    assert [line.split()[:2] for line in lines] == [["CLUSTER", "STATE"], ["a", "Online"], ["a", "Offline"]]
    values = [json.loads(line) for line in muster("get", "clusters", "-w", "-o", "json").out.splitlines()]
    assert [value["state"] for value in values] == ["Online", "Online", "Offline", "Offline"]


def test_acting_on_rollouts(muster: Muster, filled: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        "shop-0001" in muster("rollout", "start", "shop", "--commit", "abc", "--again", "--reason", "why").out
    )
    request = filled.requests[-1]
    assert (request.bundle, request.commit, request.again, request.reason) == ("shop", "abc", True, "why")
    for verb, action in (("pause", op.ActOnRolloutRequest.PAUSE), ("resume", op.ActOnRolloutRequest.RESUME)):
        assert muster("rollout", verb, "shop-0007").code == 0
        assert filled.requests[-1].action == action
    assert muster("rollout", "abort", "shop-0007", "--yes").code == 0
    assert filled.requests[-1].action == op.ActOnRolloutRequest.ABORT
    count = len(filled.requests)
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _text: "n")
    refused = muster("rollout", "abort", "shop-0007")
    assert (refused.code, refused.err) == (1, "Not done. Pass --yes to skip the question.\n")

    def interrupted(_text: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("click.termui.visible_prompt_func", interrupted)
    assert muster("rollout", "abort", "shop-0007").code == 130
    assert len(filled.requests) == count
    assert muster("rollout", "explain", "shop-0007", "b").out == "b is waiting (wave stores).\n"


@pytest.mark.parametrize(
    ("status", "details", "code", "said"),
    [
        (grpc.StatusCode.NOT_FOUND, "MUSTER-R001 no such rollout: x.", 3, "MUSTER-R001 no such rollout: x."),
        (grpc.StatusCode.PERMISSION_DENIED, "MUSTER-L003 not yours.", 4, "MUSTER-L003 not yours."),
        (
            grpc.StatusCode.UNAUTHENTICATED,
            "who?",
            4,
            "MUSTER-L013 the coordinator does not know this credential",
        ),
        (grpc.StatusCode.INVALID_ARGUMENT, "MUSTER-V032 no.", 2, "MUSTER-V032 no."),
        (grpc.StatusCode.FAILED_PRECONDITION, "MUSTER-R003 it ended.", 1, "MUSTER-R003 it ended."),
        (grpc.StatusCode.UNAVAILABLE, "gone", 5, "MUSTER-L012 the coordinator cannot be reached (gone)"),
        (grpc.StatusCode.ABORTED, "MUSTER-G002 no Git.", 5, "MUSTER-G002 no Git."),
        (grpc.StatusCode.INTERNAL, "boom", 1, "MUSTER-L011 boom."),
    ],
)
def test_statuses_become_exit_codes_and_one_message(
    muster: Muster, hub: Hub, status: grpc.StatusCode, details: str, code: int, said: str
) -> None:
    hub.refuse = (status, details)
    answer = muster("get", "clusters")
    assert (answer.code, answer.out) == (code, "")
    assert answer.err.startswith(said)
    assert len(answer.err.splitlines()) == 1


def test_a_silent_coordinator_is_given_up_on(muster: Muster, hub: Hub) -> None:
    hub.hold_calls = True
    answer = muster("get", "clusters", "--timeout", "200ms")
    assert answer.code == 5
    assert "does not answer in time" in answer.err
    assert "--timeout" in answer.err
    assert muster("get", "clusters", "--timeout", "soon").code == 2


def test_a_coordinator_with_another_ca_is_not_talked_to(muster: Muster, hub: Hub, tmp_path: Path) -> None:
    from muster_lab.authority import make_server

    other = make_server(tmp_path / "other", "other")
    shutil.copy(other.ca, tmp_path / "hub" / "ca.crt")
    answer = muster("get", "clusters", "--timeout", "5")
    assert answer.code == 5
    assert "its certificate is of another CA" in answer.err
    assert "not the coordinator of the context" in answer.err
    assert hub.requests == []


def test_nobody_at_the_address_is_told_as_such(muster: Muster, hub: Hub, tmp_path: Path) -> None:
    context = tmp_path / "hub" / "context.json"
    value = json.loads(context.read_text())
    for address, said in (("127.0.0.1:1", "connection refused"), ("nope.invalid:1", "no such host name")):
        context.write_text(json.dumps({**value, "edge": address}))
        assert f"({said}): {address}." in muster("get", "clusters", "--timeout", "10").err


def test_a_wrong_credential_is_denied(muster: Muster, hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "hub" / "admin-token").write_text("guessed")
    answer = muster("get", "clusters")
    assert answer.code == 4
    assert "MUSTER-L001" in answer.err
    assert "guessed" not in answer.err


def test_contexts_are_found_by_flag_name_and_age(
    muster: Muster, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MUSTER_CONTEXT")
    context = tmp_path / "hub" / "context.json"
    nothing = muster("get", "clusters")
    assert nothing.code == 2
    assert "MUSTER-L010" in nothing.err
    assert muster("--context", context, "get", "clusters").code == 0
    assert muster("get", "clusters", "--context", context).code == 0
    known = tmp_path / "home" / ".config" / "muster" / "contexts"
    known.mkdir(parents=True)
    value = json.loads(context.read_text())
    for key in ("ca_pem_file", "token_file"):
        value[key] = str(context.parent / value[key])
    (known / "lab.json").write_text(json.dumps(value))
    assert muster("get", "clusters").code == 0
    assert muster("get", "clusters", "--context", "lab").code == 0
    missing = muster("get", "clusters", "--context", "nope")
    assert missing.code == 2
    assert "nope.json" in missing.err
    (known / "lab.json").write_text("{}")
    assert muster("get", "clusters", "--context", "lab").code == 2
