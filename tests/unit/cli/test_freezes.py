"""``muster freeze`` and ``muster get freezes``: what is asked of the coordinator, and what is said about it."""

from __future__ import annotations

import json
import time

import grpc
import pytest
from muster_proto.v1 import operator_pb2 as op
from unit.cli.stage import Hub, Muster

END = "2099-11-29T06:00:00Z"
END_UNIX = 4099615200
SALE = op.Freeze(
    name="sale",
    selector="tier=store",
    until_unix=END_UNIX,
    by="ada",
    reason="sale",
    created_unix=1,
    clusters=3,
)


def last(hub: Hub) -> op.CreateFreezeRequest:
    request = hub.requests[-1]
    assert isinstance(request, op.CreateFreezeRequest)
    return request


def test_a_freeze_is_asked_for_with_all_that_was_said(muster: Muster, hub: Hub) -> None:
    hub.clusters.append(op.ClusterView(name="a"))
    answer = muster(
        "freeze",
        "create",
        "sale",
        "--until",
        END,
        "-l",
        "tier=store",
        "--bundle",
        "shop",
        "--reason",
        "the sale",
    )
    assert answer.code == 0
    assert answer.out.startswith(f"sale holds 1 cluster until {END} (in ")
    assert last(hub) == op.CreateFreezeRequest(
        name="sale", until_unix=END_UNIX, selector="tier=store", bundle="shop", reason="the sale"
    )
    given = json.loads(muster("freeze", "create", "sale", "--until", END, "--all", "-o", "json").out)
    assert (given["name"], given["by"], last(hub).selector) == ("sale", "ada", "")


def test_an_end_may_be_so_far_from_now(muster: Muster, hub: Hub) -> None:
    before = time.time()
    answer = muster("freeze", "create", "night", "--until", "8h", "--selector", "tier=store")
    assert before + 8 * 3600 - 1 <= last(hub).until_unix <= time.time() + 8 * 3600
    assert "No registered cluster has such labels now" in answer.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sale", "--until", END], "say which clusters: -l SELECTOR, or --all"),
        (["sale", "--until", END, "-l", "tier=store", "--all"], "say which clusters"),
        (["sale", "--all"], "--until"),
        (["sale", "--until", "tomorrow", "--all"], "neither a time nor a duration"),
        (["sale", "--until", "2027-01-01", "--all"], "neither a time nor a duration"),
        (["sale", "--until", END, "-l", "tier=("], "MUSTER-V032"),
    ],
)
def test_what_is_no_freeze_is_not_asked_for(
    muster: Muster, hub: Hub, arguments: list[str], said: str
) -> None:
    answer = muster("freeze", "create", *arguments)
    assert (answer.code, hub.requests) == (2, [])
    assert said in answer.err


def test_a_freeze_is_ended_by_its_name(muster: Muster, hub: Hub) -> None:
    hub.freezes.append(SALE)
    assert muster("freeze", "delete", "sale").out == "sale has ended; it held 3 clusters.\n"
    assert hub.requests[-1] == op.GetRequest(name="sale")
    assert muster("freeze", "delete", "sails").code == 3


def test_freezes_are_listed_with_whom_they_hold_and_until_when(muster: Muster, hub: Hub) -> None:
    hub.freezes += [
        SALE,
        op.Freeze(name="all-of-it", bundle="shop", until_unix=END_UNIX, by="bob", clusters=9),
    ]
    rows = [line.split() for line in muster("get", "freezes").out.splitlines()]
    assert rows[0][:4] == ["FREEZE", "CLUSTERS", "BUNDLE", "UNTIL"]
    assert rows[1][:5] == ["sale", "3", "(tier=store)", "all", END]
    assert rows[2][:5] == ["all-of-it", "9", "(all)", "shop", END]
    assert rows[1][-2:] == ["ada", "sale"]
    assert muster("get", "freezes", "-o", "name").out.split() == ["freeze/sale", "freeze/all-of-it"]


def test_a_refusal_says_who_may(muster: Muster, hub: Hub) -> None:
    said = "MUSTER-L062 this needs the role operator, and bob has viewer: CreateFreeze. Who may: operator."
    hub.refuse = (grpc.StatusCode.PERMISSION_DENIED, said)
    answer = muster("freeze", "create", "sale", "--until", END, "--all")
    assert answer.code == 4
    assert "Who may: operator" in answer.err
