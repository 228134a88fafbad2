"""An agent whose line carries no stream: it says and hears the same by round trips, and tries a stream now and then."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from muster_agent.link import session, ways
from muster_agent.link.ways import AGAIN_AFTER, Ways
from unit.agent.hub import Agent, Hub, entry, first_certificate, hub, identity, until
from unit.agent.lines import CuttingLine, cutting_line


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(tmp_path / "state", identity())
    yield agent
    agent.close()


@asynccontextmanager
async def bad_line(agent: Agent, folder: Path, beat: int = 1) -> AsyncIterator[tuple[Hub, CuttingLine]]:
    """A hub, and the agent at the far end of a line that cuts every connection off."""
    async with hub(folder, beat=beat) as at:
        with cutting_line(at.link, seconds=0.7) as line:
            await at.register(entry(agent.who))
            straight, at.link = at.link, line.address
            agent.open(at, first_certificate(at, agent.who))
            at.link = straight
            yield at, line


@asynccontextmanager
async def by_trips(agent: Agent, at: Hub) -> AsyncIterator[None]:
    """The agent runs, and has come to round trips."""
    async with anyio.create_task_group() as group:
        group.start_soon(agent.link.run)
        await until(lambda: agent.link._ways.left(anyio.current_time()) > 0 and agent.link.connected, 30.0)
        await until(lambda: at.servicer.streams == 0)
        yield
        group.cancel_scope.cancel()


def test_three_streams_in_a_row_that_broke_soon_make_round_trips_for_ten_minutes() -> None:
    line = Ways()
    for at in (0.0, 20.0):
        line.broke(at, at + 9.0)
        assert not line.by_trips(at + 9.0)
    line.broke(40.0, 49.0)
    assert line.by_trips(49.0)
    assert line.left(50.0) == AGAIN_AFTER - 1
    assert line.by_trips(48.9 + AGAIN_AFTER)
    assert not line.by_trips(49.0 + AGAIN_AFTER)
    assert line.left(49.0 + AGAIN_AFTER) == 0
    line.broke(700.0, 701.0)
    assert not line.by_trips(701.0), "it begins anew"


def test_a_stream_that_stood_or_was_ended_with_a_word_is_no_bad_line() -> None:
    for between in (lambda line: line.broke(30.0, 40.0), lambda line: line.stood()):
        line = Ways()
        line.broke(0.0, 1.0)
        line.broke(10.0, 11.0)
        between(line)
        line.broke(50.0, 51.0)
        line.broke(60.0, 61.0)
        assert not line.by_trips(61.0)
        line.broke(70.0, 71.0)
        assert line.by_trips(71.0)


async def test_reports_are_kept_and_acknowledged_and_contact_is_held(agent: Agent, tmp_path: Path) -> None:
    async with bad_line(agent, tmp_path / "hub") as (at, line), by_trips(agent, at):
        lines = len(at.lines)
        agent.report("shop", "Applying")
        agent.report("shop", "Ready")
        agent.report("web", "Ready")
        await until(lambda: not len(agent.link._outbox))
        assert {name: found.phase for name, found in at.held().items()} == {"shop": "Ready", "web": "Ready"}
        assert at.reported == ["shop", "web"], "a newer one replaced the first, and nothing was said twice"
        opened = line.opened
        await until(lambda: line.opened >= opened + 3)
        assert at.engine.state.cluster("berlin-04").online
        assert not [told for told in at.lines[lines:] if "contact" in told]
        assert at.servicer.streams == 0
        assert agent.resent == []


async def test_what_does_not_fit_in_one_goes_at_once_with_the_next(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "TRIP_BYTES", 30)
    async with bad_line(agent, tmp_path / "hub", beat=60) as (at, _), by_trips(agent, at):
        for number in range(6):
            agent.report(f"bundle-{number}", "Ready")
        await until(lambda: not len(agent.link._outbox), 15.0)
        assert at.reported == [f"bundle-{number}" for number in range(6)]


async def test_how_things_stand_is_news_once(agent: Agent, tmp_path: Path) -> None:
    async with bad_line(agent, tmp_path / "hub") as (at, line), by_trips(agent, at):
        opened = line.opened
        await until(lambda: line.opened >= opened + 2)
        heads = [frame.head.registry_commit for frame in agent.received if frame.HasField("head")]
        agent.received.clear()
        opened = line.opened
        await until(lambda: line.opened >= opened + 3)
        assert agent.received == [], "welcome and head were known"
        await at.register(entry(agent.who))
        await until(lambda: any(frame.HasField("head") for frame in agent.received))
        assert agent.received[-1].head.registry_commit not in heads


async def test_what_is_no_standing_fact_is_heard_each_time(agent: Agent, tmp_path: Path) -> None:
    async with bad_line(agent, tmp_path / "hub") as (at, _), by_trips(agent, at):
        for count in (1, 2):
            await at.engine.ask(at.engine.agents.acknowledge_floor("berlin-04"))
            await until(
                lambda n=count: sum(frame.HasField("floor_acknowledged") for frame in agent.received) == n
            )


async def test_a_certificate_is_renewed_by_a_round_trip(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "CLOCK_LOOK", 0.2)
    async with bad_line(agent, tmp_path / "hub") as (at, _), by_trips(agent, at):
        before = agent.enrolled()
        agent.link._clock = lambda: time.time() + 3000.0  # of an hour's life
        await until(lambda: agent.enrolled().renewals == before.renewals + 1)
        await until(lambda: agent.enrolled().certificate != before.certificate)
        join = at.engine.state.cluster("berlin-04").join
        assert join is not None
        assert join.renewals == before.renewals + 1
        assert at.servicer.streams == 0


async def test_a_mended_line_carries_a_stream_again(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ways, "AGAIN_AFTER", 4.0)
    async with bad_line(agent, tmp_path / "hub") as (at, line), by_trips(agent, at):
        line.mended = True
        await until(lambda: at.servicer.streams == 1 and agent.link.connected, 15.0)
        agent.report("shop", "Ready")
        await until(lambda: not len(agent.link._outbox))
        assert at.held()["shop"].phase == "Ready"


async def test_a_cluster_that_was_removed_is_told_so(agent: Agent, tmp_path: Path) -> None:
    async with bad_line(agent, tmp_path / "hub") as (at, _), by_trips(agent, at):
        await at.register()
        await until(lambda: not agent.link.connected)
        assert agent.link._backoff.minimum == 5.0, "as who is refused"


async def test_a_folder_that_is_older_than_the_hub_knows_loses_nothing(agent: Agent, tmp_path: Path) -> None:
    async with bad_line(agent, tmp_path / "hub") as (at, _), by_trips(agent, at):
        cluster = at.engine.state.cluster("berlin-04")
        cluster.inbox.last = 50  # as after 50 frames that this folder does not know of
        agent.report("shop", "Ready")
        await until(lambda: not len(agent.link._outbox), 15.0)
        assert at.held()["shop"].phase == "Ready"
        assert cluster.inbox.last == 51
