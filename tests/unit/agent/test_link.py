"""The agent's session with a real link: what is said again after a break, and what is not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
from unit.agent.hub import Agent, Hub, entry, first_certificate, hub, identity, until


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(tmp_path / "state", identity())
    yield agent
    agent.close()


async def start(agent: Agent, at: Hub) -> None:
    await at.register(entry(agent.who))
    agent.open(at, first_certificate(at, agent.who))


@contextmanager
def counted(at: Hub) -> Iterator[list[str]]:
    """The bundles that were reported inside the block."""
    before = len(at.reported)
    found: list[str] = []
    yield found
    found += at.reported[before:]


async def connected_once(agent: Agent, at: Hub, *phases: tuple[str, str]) -> None:
    """One session: all that waits is acknowledged, and it ends."""
    async with anyio.create_task_group() as group:
        group.start_soon(agent.link.run)
        await until(lambda: agent.link.connected)
        for bundle, phase in phases:
            agent.report(bundle, phase)
        await until(lambda: not len(agent.link._outbox))
        group.cancel_scope.cancel()
    await until(lambda: at.servicer.streams == 0)


async def test_after_a_reconnect_only_what_changed_is_sent(agent: Agent, tmp_path: Path) -> None:
    """argoproj-labs/argocd-agent#715, PR #1037: events lost at a reconnect; state compared at the first connection only."""
    async with hub(tmp_path / "hub") as at:
        await start(agent, at)
        await connected_once(agent, at, ("shop", "Ready"), ("web", "Ready"), ("db", "Ready"))
        agent.report("web", "Degraded")
        with counted(at) as said:
            await connected_once(agent, at)
        assert said == ["web"]
        assert agent.resent == []
        assert at.held()["web"].phase == "Degraded"


async def test_a_lost_hub_database_gets_every_report_again(agent: Agent, tmp_path: Path) -> None:
    """argoproj-labs/argocd-agent PR #271: what happened while the other side was away was dropped."""
    async with hub(tmp_path / "hub") as at:
        await start(agent, at)
        await connected_once(agent, at, ("shop", "Ready"), ("web", "Ready"))
    for lost in (tmp_path / "hub").glob("muster.db*"):
        lost.unlink()
    async with hub(tmp_path / "hub") as at:
        await at.register(entry(agent.who))
        agent.point(at)
        told = agent.link._told
        agent.make()
        agent.link._told = told
        agent.link.resend = lambda bundle: agent.report(bundle, "Ready")
        await connected_once(agent, at)
        assert sorted(at.reported) == ["shop", "web"]
        assert {name: found.phase for name, found in at.held().items()} == {"shop": "Ready", "web": "Ready"}


async def test_a_hub_that_holds_an_older_report_asks_for_that_one(agent: Agent, tmp_path: Path) -> None:
    async with hub(tmp_path / "hub") as at:
        await start(agent, at)
        await connected_once(agent, at, ("shop", "Ready"), ("web", "Ready"))
        at.held()["web"].phase = "Pending"  # as a database restored from an older copy has it
        await connected_once(agent, at)
        assert agent.resent == ["web"]
