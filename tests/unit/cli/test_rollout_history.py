"""``rollout history``, ``events``, ``explain``, ``owed``: what became of rollouts, for people and for scripts."""

from __future__ import annotations

import json

import pytest
import yaml
from muster_proto.v1 import link_pb2 as wire
from muster_proto.v1 import operator_pb2 as op
from unit.cli.stage import Hub, Muster

RELEASE = wire.Release(bundle="shop", commit="3f2c9d1aaaa")


@pytest.fixture
def told(hub: Hub) -> Hub:
    def view(number: int, state: str, minutes: int, **more: object) -> op.RolloutView:
        start = 1_700_000_000_000 + number * 86_400_000
        return op.RolloutView(
            name=f"shop-000{number}", bundle="shop", state=state, release=RELEASE, total=40, done=38, started_by="anna",
            started_unix_ms=start, ended_unix_ms=start + minutes * 60_000, **more,  # type: ignore[arg-type]
        )  # fmt: skip

    hub.bundles = [op.BundleView(name="shop")]
    hub.rollouts = [
        view(1, "Succeeded", 12, reason="new commit", why="2 owed at its end: muster rollout owed"),
        view(2, "Aborted", 3, reason="new commit", why="by ben: till trouble"),
    ]
    hub.log = [
        op.RolloutEvent(number=1, at_unix_ms=1_700_000_000_000, event="started", text="shop-0001 starts",
                        data=b'{"event":"started","at":1700000000.0,"by":"anna"}'),
        op.RolloutEvent(number=2, at_unix_ms=1_700_000_001_500, event="offered", cluster="berlin-04", text="offers",
                        data=b'{"event":"offered","at":1700000001.5,"cluster":"berlin-04","attempt":1}'),
    ]  # fmt: skip
    return hub


def test_history_says_how_each_ended_how_long_it_took_who_and_why(muster: Muster, told: Hub) -> None:
    head, newest, oldest = muster("rollout", "history", "shop").out.splitlines()
    assert head.split() == ["ROLLOUT", "RELEASE", "STATE", "DONE", "TOOK", "STARTED", "BY", "WHY"]
    assert newest.split()[:5] == ["shop-0002", "3f2c9d1", "Aborted", "38/40", "3m"]
    assert newest.endswith("anna  new commit; by ben: till trouble")
    assert oldest.split()[:5] == ["shop-0001", "3f2c9d1", "Succeeded", "38/40", "12m"]
    assert told.requests[-1].bundle == "shop"
    assert [item["name"] for item in json.loads(muster("rollout", "history", "shop", "-o", "json").out)] == [
        "shop-0002",
        "shop-0001",
    ]
    assert muster("rollout", "history", "shop", "-o", "name").out == "rollout/shop-0002\nrollout/shop-0001\n"


def test_a_bundle_without_rollouts_is_not_a_bundle_that_is_not_there(muster: Muster, told: Hub) -> None:
    told.rollouts = []
    assert muster("rollout", "history", "shop").err == "no rollout of shop yet\n"
    assert muster("rollout", "history", "nope").code == 3


def test_events_are_lines_for_people_and_lines_of_json_for_programs(muster: Muster, told: Hub) -> None:
    lines = muster("rollout", "events", "shop-0001").out.splitlines()
    assert lines == ["2023-11-14T22:13:20Z     1  shop-0001 starts", "2023-11-14T22:13:21Z     2  offers"]
    assert not told.requests[-1].whole
    values = [
        json.loads(line) for line in muster("rollout", "events", "shop-0001", "-o", "json").out.splitlines()
    ]
    assert values[0] == {
        "number": 1, "time": "2023-11-14T22:13:20Z", "text": "shop-0001 starts", "event": "started",
        "at": 1700000000.0, "by": "anna",
    }  # fmt: skip
    assert values[1]["cluster"] == "berlin-04"
    answer = muster("rollout", "events", "shop-0001", "-w", "--tail", "5", "--after", "1", "-o", "yaml")
    assert [value["number"] for value in yaml.safe_load_all(answer.out)] == [2]
    request = told.requests[-1]
    assert (request.follow, request.tail, request.after, request.whole) == (True, 5, 1, True)
    assert muster("rollout", "events", "nope").code == 3


def test_events_that_are_followed_end_with_their_time_limit(muster: Muster, told: Hub) -> None:
    told.hold_calls = True
    answer = muster("rollout", "events", "shop-0001", "-w", "--timeout", "500ms")
    assert answer.code == 5
    assert len(answer.out.splitlines()) == 2


def test_a_wide_list_names_who_has_another_release_and_cuts_long_lists(muster: Muster, told: Hub) -> None:
    def place(name: str, commit: str) -> op.BundlePlace:
        return op.BundlePlace(cluster=name, release=wire.Release(commit=commit, tree_digest=commit))

    old = [place(f"edge-{number:02}", "a81b02e5555") for number in range(12)]
    told.bundles = [
        op.BundleView(name="shop", target=wire.Release(commit="3f2c9d1aa", tree_digest="3f2c9d1aa"), releases=[
            op.ReleaseCount(release=wire.Release(commit="3f2c9d1aa"), clusters=38),
            op.ReleaseCount(release=wire.Release(commit="a81b02e5555"), clusters=12, owed=1),
        ], places=[place("berlin-04", "3f2c9d1aa"), *old]),
    ]  # fmt: skip
    shop = muster("get", "bundles", "-o", "wide").out.splitlines()[1]
    assert "3f2c9d1 ×38, a81b02e ×12 (owed 1)" in shop
    assert "a81b02e: edge-00, edge-01" in shop
    assert "edge-07 and 4 more" in shop
    assert "berlin-04" not in shop
