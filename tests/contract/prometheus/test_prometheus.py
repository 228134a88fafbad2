"""Queries of gates against a real Prometheus server: what it answers is what the judgement expects."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from contract.prometheus.server import prometheus
from muster_coordinator.gates.verdicts import Verdict, judge_query
from muster_coordinator.outgoing import Outgoing
from muster_core.rollout import events as ev
from unit.coordinator.test_gatekeeper import before, begins, is_offered, log, measuring
from unit.coordinator.test_holds import Repo

pytestmark = pytest.mark.xdist_group("prometheus")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with prometheus(tmp_path_factory.mktemp("prometheus")) as url:
        yield url


async def ask(server: str, query: str, below: float | None = None, above: float | None = None) -> Verdict:
    async with Outgoing() as outgoing:
        answer = await outgoing.get(f"{server}/api/v1/query", 10, {"query": query, "timeout": "10s"})
    return judge_query(answer, below, above)


@pytest.mark.parametrize(
    ("query", "passed", "said"),
    [
        ("vector(0.009)", True, "0.009 is below 0.01"),
        ("vector(0.01)", False, "0.01 is not below 0.01"),
        ("scalar(vector(0))", True, "0 is below 0.01"),
        ("sum(vector(-1) or label_replace(vector(-2), 'a', 'b', '', ''))", True, "-3 is below 0.01"),
        ("vector(0) or label_replace(vector(0), 'a', 'b', '', '')", False, "2 series"),
        ("0 / 0", False, "nan, which is no measurement"),
        ("1 / 0", False, "inf, which is no measurement"),
        ("-1 / 0", False, "-inf, which is no measurement"),
        ("vector(0) / 0", False, "nan, which is no measurement"),
        ("a_metric_that_nobody_has", False, "no data"),
        ("sum(rate(a_metric_that_nobody_has[5m]))", False, "no data"),
        ("'text'", False, "gives a string"),
        ("up[5m]", False, "gives a matrix"),
        ("sum(", False, "the query failed (400): "),
        ("", False, "the query failed (400): "),
    ],
)
async def test_a_real_server_s_answers_are_understood(
    server: str, query: str, passed: bool, said: str
) -> None:
    verdict = await ask(server, query, below=0.01)
    assert verdict.passed is passed, verdict
    assert said in verdict.detail


async def test_a_metric_that_was_scraped_is_measured(server: str) -> None:
    with anyio.fail_after(20):
        while not (verdict := await ask(server, "sum(up{job='itself'})", above=0.5)).passed:
            assert "no data" in verdict.detail or "not above" in verdict.detail
            await anyio.sleep(0.1)
    assert verdict == (True, "1 is above 0.5")


async def test_a_wave_waits_until_a_real_server_says_so_twice_in_a_row(tmp_path: Path, server: str) -> None:
    gate = "{prometheus: {server: metrics, query: sum(up), above: 0.5, consecutive: 2, interval: 1s}}"
    repo = Repo(
        {"shop": ("", "1")}, plan=before(gate), fleet=f", metricServers: [{{name: metrics, url: '{server}'}}]"
    )
    async with measuring(tmp_path) as at:
        await begins(at, repo)
        await is_offered(at)
    (passed,) = [event for event in await log(tmp_path) if isinstance(event, ev.GatePassed)]
    assert passed.detail == "1 is above 0.5"


async def test_a_query_as_long_as_a_url_may_be_is_asked(server: str) -> None:
    query = " + ".join(["vector(1)"] * 300)
    assert await ask(server, query, above=299) == (True, "300 is above 299")
