"""Answers that belong to no rollout that could take them: ignored, counted, logged once."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from muster_coordinator.rollout import strays
from muster_coordinator.rollout.strays import Strays
from muster_proto.v1 import link_pb2 as wire
from unit.coordinator.test_engine import Brain, brain, cluster, owing, reply


@asynccontextmanager
async def counted(folder: Path) -> AsyncIterator[tuple[Brain, Counter[str]]]:
    why: Counter[str] = Counter()
    async with brain(folder) as at:
        at.engine.agents.strays.tally = lambda word: why.update([word])
        yield at, why


def verdict(offer: wire.Offer, **changed: object) -> wire.AgentFrame:
    report = wire.Report(
        bundle=offer.release.bundle,
        release=offer.release,
        rollout=offer.rollout,
        attempt=offer.attempt,
        phase="Ready",
        outcome=wire.OUTCOME_HEALTHY,
    )
    for name, value in changed.items():
        setattr(report, name, value)
    return wire.AgentFrame(report=report)


async def offered(at: Brain) -> wire.Offer:
    await at.reads(1, cluster("a"), cluster("b"))
    await at.connect("a")
    await at.connect("b")
    return at.offers("a")[-1]


def state(at: Brain, name: str = "a") -> str:
    return at.engine.state.rollouts["shop-0001"].targets[name].state


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"rollout": "shop-0099"}, "unknown"),
        ({"rollout": "shop-0099+catchup"}, "unknown"),
        ({"bundle": "cart"}, "foreign"),
        ({"attempt": 2}, "future"),
        ({"attempt": 0}, "stale"),
    ],
)
async def test_a_verdict_that_is_nobody_s_moves_nothing_and_is_counted(
    tmp_path: Path, changed: dict[str, object], why: str
) -> None:
    async with counted(tmp_path) as (at, found):
        offer = await offered(at)
        await at.says("a", verdict(offer, **changed))
        assert state(at) == "offered"
        assert found == {why: 1}
        await at.says("a", verdict(offer))
        assert state(at) == "done"
        assert found == {why: 1}


async def test_a_verdict_of_a_cluster_that_is_no_member_is_foreign(tmp_path: Path) -> None:
    async with counted(tmp_path) as (at, found):
        offer = await offered(at)
        await at.connect("stranger")
        await at.says("stranger", verdict(offer))
        assert found == {"foreign": 1}
        assert at.engine.state.debts["shop"].debts == {}


async def test_a_catch_up_of_another_bundle_is_foreign_and_makes_no_ledger(tmp_path: Path) -> None:
    async with counted(tmp_path) as (at, found):
        offer = await offered(at)
        await at.says("a", verdict(offer, rollout="shop-0001+catchup", bundle="cart"))
        assert found == {"foreign": 1}
        assert "cart" not in at.engine.state.debts


async def test_answers_to_offers_are_judged_as_verdicts_are(tmp_path: Path) -> None:
    async with counted(tmp_path) as (at, found):
        offer = await offered(at)
        for changed in ({"rollout": "nope"}, {"bundle": "cart"}, {"attempt": 7}, {"rollout": "nope+catchup"}):
            answer = reply(offer)
            for name, value in changed.items():
                setattr(answer, name, value)
            await at.says("a", wire.AgentFrame(offer_reply=answer))
        assert state(at) == "offered"
        assert found == {"unknown": 2, "foreign": 1, "future": 1}


async def test_a_frame_that_was_taken_before_counts_as_a_duplicate(tmp_path: Path) -> None:
    async with counted(tmp_path) as (at, found):
        offer = await offered(at)
        await at.says("a", verdict(offer))
        at.said -= 1
        await at.says("a", verdict(offer, outcome=wire.OUTCOME_FAILED))
        assert state(at) == "done"
        assert found == {"duplicate": 1}


async def test_who_goes_on_naming_the_rollout_of_its_release_is_no_stray(tmp_path: Path) -> None:
    async with counted(tmp_path) as (at, found):
        offer = await offered(at)
        for name in ("a", "b"):
            await at.healthy(name)
        assert at.states() == {"shop-0001": "Succeeded"}
        await at.says("a", verdict(offer))
        assert not found
        await at.says("a", verdict(offer, outcome=wire.OUTCOME_FAILED))
        assert found == {"ended": 1}
        assert state(at) == "done"


async def test_a_catch_up_s_verdict_still_settles_its_debt(tmp_path: Path) -> None:
    async with counted(tmp_path) as (at, found):
        ledger = await owing(at)
        await at.connect("b")
        await at.healthy("b")
        assert ledger.debts == {}
        assert not found


def test_one_line_for_each_however_often_it_comes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strays, "REMEMBERED", 3)
    counts: Counter[str] = Counter()
    found = Strays(lambda why: counts.update([why]))
    for _ in range(10):
        found.ignore("unknown", "a", "shop", "shop-0009")
        found.ignore("unknown", "b", "shop", "shop-0009")
    assert counts == {"unknown": 20}
    for number in range(1000):
        found.ignore("unknown", "a", f"bundle-{number}", "x" * 10_000)
    assert len(found._logged) == 3
    written = capsys.readouterr()
    lines = [line for line in (written.out + written.err).splitlines() if "shop-0009" in line]
    assert len(lines) == 2
    assert "x" * 65 not in written.out + written.err
