"""Gates that are measured over real HTTP: each at its interval, so many in a row, and none in the way of another."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import msgspec
from aiohttp import web
from muster_coordinator.errands import Errands
from muster_coordinator.rollout.effects import Effects
from muster_core.rollout import events as ev
from muster_core.rollout.explain import explain
from unit.coordinator.listener import Asked, Listener, listening
from unit.coordinator.test_engine import Brain, brain, cluster
from unit.coordinator.test_holds import Repo, target

FASTER = 0.02  # an interval of a second is 20 ms here
QUERY = "{prometheus: {server: metrics, query: sum(errors), below: 0.01, consecutive: 2, interval: 1s}}"


@asynccontextmanager
async def measuring(folder: Path) -> AsyncIterator[Brain]:
    """An engine and what a coordinator does of its own accord; all pauses are shorter, and the same."""
    made: list[Errands] = []

    def publish(effects: Effects) -> None:
        if made:
            made[0].heard(effects)

    async with brain(folder, publish) as at, anyio.create_task_group() as group:
        made.append(
            Errands(at.engine, lambda: at.now[0], lambda low, high: FASTER, lambda name, result: None)
        )
        group.start_soon(made[0].run)
        yield at
        group.cancel_scope.cancel()


def fleet(there: Listener) -> str:
    return f", metricServers: [{{name: metrics, url: '{there.url}/base/'}}]"


def before(*gates: str) -> str:
    return f"maxInFlight: 100%, gates: {{before: [{', '.join(gates)}]}}"


async def begins(at: Brain, repo: Repo) -> None:
    await repo.read(at, cluster("a"))
    await at.connect("a")
    assert target(at, "shop-0001", "a") == "waiting"


async def is_offered(at: Brain) -> None:
    with anyio.fail_after(10):
        while target(at, "shop-0001", "a") != "offered":
            await anyio.sleep(0.005)


def why(at: Brain) -> str:
    return explain(at.engine.state.rollouts["shop-0001"], "a", at.now[0])


async def says(at: Brain, text: str) -> None:
    with anyio.fail_after(10):
        while text not in why(at):
            await anyio.sleep(0.005)


def answers(*values: str) -> Callable[[Asked], Awaitable[web.StreamResponse]]:
    """A Prometheus server that measures these, one after the other, and then the last for ever."""
    left = list(values)

    async def answer(_asked: Asked) -> web.StreamResponse:
        value = left.pop(0) if len(left) > 1 else left[0]
        data = {"resultType": "vector", "result": [{"metric": {}, "value": [1.0, value]}]}
        return web.Response(body=msgspec.json.encode({"status": "success", "data": data}))

    return answer


async def test_a_query_is_asked_at_its_interval_until_it_passed_so_often_in_a_row(tmp_path: Path) -> None:
    async with listening() as there, measuring(tmp_path) as at:
        there.answer = answers("0.5", "0.001", "0.5", "0.001", "0.002", "0.5")
        began = anyio.current_time()
        slower = QUERY.replace("interval: 1s", "interval: 5s")
        await begins(at, Repo({"shop": ("", "1")}, plan=before(slower), fleet=fleet(there)))
        await is_offered(at)
        took = anyio.current_time() - began
        await at.settled()
    assert len(there.asked) == 5, "and not again once it has passed"
    assert took > 3 * 5 * FASTER
    assert {(one.method, one.path, one.query["query"]) for one in there.asked} == {
        ("GET", "/base/api/v1/query", "sum(errors)")
    }
    (passed,) = [event for event in await log(tmp_path) if isinstance(event, ev.GatePassed)]
    assert passed.detail == "0.002 is below 0.01"


async def log(folder: Path) -> list[ev.AnyEvent]:
    """What is on disk of the rollout."""
    async with brain(folder) as at:
        return [ev.decode(row.data) for row in (await at.engine._store.streams())["shop-0001"]]


async def test_a_server_that_does_not_answer_holds_and_is_asked_until_it_does_even_elsewhere(
    tmp_path: Path,
) -> None:
    async with listening() as gone:
        pass
    async with listening() as there, measuring(tmp_path) as at:
        there.answer = answers("0")
        repo = Repo({"shop": ("", "1")}, plan=before(QUERY), fleet=fleet(gone))
        await begins(at, repo)
        await says(at, "MUSTER-R080 it did not answer")
        repo.fleet = fleet(there)
        await repo.read(at, cluster("a"))
        await is_offered(at)


async def test_a_server_that_hangs_is_asked_once_at_a_time_and_delays_no_other_gate(tmp_path: Path) -> None:
    hangs = anyio.Event()

    async def slow(asked: Asked) -> web.StreamResponse:
        if asked.path == "/slow":
            await hangs.wait()
        return web.Response(status=503 if len(there.asked) < 12 else 200)

    async with listening() as there, measuring(tmp_path) as at:
        there.answer = slow
        gates = [f"{{http: {{url: '{there.url}/{path}', interval: 1s}}}}" for path in ("slow", "quick")]
        await begins(at, Repo({"shop": ("", "1")}, plan=before(*gates)))
        await there.has_been_asked(12)
        assert [one.path for one in there.asked].count("/slow") == 1
        hangs.set()
        await is_offered(at)


async def test_what_was_measured_before_a_restart_is_measured_again(tmp_path: Path) -> None:
    async with listening() as there, listening() as then:
        there.answer, then.answer = answers("0.001", "0.5"), answers("0.001")
        repo = Repo({"shop": ("", "1")}, plan=before(QUERY), fleet=fleet(there))
        async with measuring(tmp_path) as at:
            await begins(at, repo)
            await says(at, "0.5 is not below 0.01")
        repo.fleet = fleet(then)
        async with measuring(tmp_path) as at:
            await repo.read(at, cluster("a"))
            await at.connect("a")
            await is_offered(at)
        assert len(then.asked) == 2
