"""An empty database and a fleet that runs: what it learns again, what it starts, and whom it leaves alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from muster_coordinator.rollout.engine import Engine
from muster_coordinator.store.sql.store import SqlStore
from muster_core.rollout import events as ev
from muster_core.rollout.machine import RolloutMachine
from muster_proto.v1 import link_pb2 as wire
from unit.coordinator.test_engine import Brain, cluster

GRACE = 45.0
FLEET = tuple(cluster(name) for name in ("a", "b", "c", "d"))


@asynccontextmanager
async def life(folder: Path, now: float = 1_000_000.0) -> AsyncIterator[Brain]:
    """One life of a coordinator over the folder's database, with a grace after its start."""
    clock = [now]
    store = await SqlStore.open(folder / "muster.db")
    engine = Engine(store, lambda: clock[0], lambda effects: None, 0.0, rebuild_for=GRACE)
    try:
        await engine.load()
        async with anyio.create_task_group() as group:
            group.start_soon(engine.run)
            yield Brain(engine, clock)
            group.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            await engine.aclose()
            await store.close()


async def comes_back(at: Brain, name: str, *reports: wire.Report) -> None:
    """A session whose hello names what it will say again."""
    at.connections += 1
    frames = at.sent.setdefault(name, [])
    hello = wire.Hello(capability=1, session_epoch="before")
    for report in reports:
        hello.bundles.add(bundle=report.bundle, digest=b"known")
    await at.engine.submit(
        at.engine.agents.connected(name, hello, at.connections, frames.append, wire.Welcome())
    )
    await at.settled()
    for report in reports:
        await at.says(name, wire.AgentFrame(report=report))


def digest_of(at: Brain, bundle: str = "shop") -> str:
    return str(at.engine.state.reading.contents.digests[bundle])


def ready(digest: str, rollout: str = "shop-0007", commit: str = "c" * 40, **more: object) -> wire.Report:
    release = wire.Release(bundle="shop", commit=commit, tree_digest=digest)
    return wire.Report(
        bundle="shop", release=release, rollout=rollout, attempt=1, phase="Ready", outcome=wire.OUTCOME_HEALTHY,
        last_healthy=release, **more,  # type: ignore[arg-type]
    )  # fmt: skip


def offered(at: Brain) -> dict[str, list[str]]:
    """Names of the rollouts that each cluster was offered."""
    found = {name: [offer.rollout for offer in at.offers(name)] for name in at.sent}
    return {name: rollouts for name, rollouts in found.items() if rollouts}


async def test_a_fleet_that_runs_the_newest_release_is_left_alone(tmp_path: Path) -> None:
    async with life(tmp_path) as at:
        await at.reads(1, *FLEET)
        assert "4 clusters have not yet said" in at.engine.state.bundle_errors["shop"]
        for name in "abcd":
            assert at.states() == {}
            await comes_back(at, name, ready(digest_of(at)))
        assert at.states() == {"shop-0007": "Succeeded"}
        assert (offered(at), at.engine.state.bundle_errors) == ({}, {})
        # It is a log like any other.
        assert {t.state for t in at.engine.state.rollouts["shop-0007"].targets.values()} == {"done"}
    async with life(tmp_path) as at:
        await at.reads(1, *FLEET)
        assert at.states() == {"shop-0007": "Succeeded"}
        await at.passes(GRACE + 1)
        for name in "abcd":
            await comes_back(at, name)
        assert (offered(at), at.states()) == ({}, {"shop-0007": "Succeeded"})


async def test_whoever_is_away_or_joins_is_owed_what_is_known_again(tmp_path: Path) -> None:
    async with life(tmp_path) as at:
        await at.reads(1, *FLEET)
        for name in "abc":
            await comes_back(at, name, ready(digest_of(at)))
        assert at.states() == {}
        await at.passes(GRACE + 1)
        assert at.states() == {"shop-0007": "Succeeded"}
        assert at.engine.state.owed_to("d") == ["shop-0007"]
        await at.reads(1, *FLEET, cluster("e"))
        assert at.engine.state.owed_to("e") == ["shop-0007"]
        await at.connect("e")
        assert offered(at) == {"e": ["shop-0007+catchup"]}
        await comes_back(at, "d", ready(digest_of(at)))
        await at.healthy("e")
        await at.healthy("d")  # it has it already, and says so
        assert [at.engine.state.owed_to(name) for name in "de"] == [[], []]


async def test_a_new_commit_is_started_over_what_the_fleet_runs_and_an_abort_returns_to_that(
    tmp_path: Path,
) -> None:
    async with life(tmp_path) as at:
        await at.reads(2, *FLEET)
        for name in "abcd":
            await comes_back(at, name, ready("d" * 64, f"shop-000{6 + (name == 'd')}"))
        state = at.engine.state
        assert at.states() == {"shop-0007": "Succeeded", "shop-0108": "Running"}
        assert state.last_succeeded("shop").started.tree_digest == "d" * 64  # type: ignore[union-attr]
        assert state.last_succeeded("shop").started.commit == "c" * 40  # type: ignore[union-attr]
        assert set(offered(at)) == set("abcd")


async def test_a_rollout_that_was_half_way_goes_through_its_plan_and_takes_nobody_back(
    tmp_path: Path,
) -> None:
    async with life(tmp_path) as at:
        await at.reads(2, *FLEET)
        newest, older = digest_of(at), "d" * 64
        await comes_back(at, "a", ready(newest, "shop-0008"))
        for name in "bcd":
            await comes_back(at, name, ready(older, "shop-0007"))
        assert at.states() == {"shop-0007": "Succeeded", "shop-0109": "Running"}
        assert {
            name: offer.release.tree_digest for name in at.sent for offer in at.offers(name)
        } == dict.fromkeys("abcd", newest)
        aborted = at.engine.act("shop-0109", ev.Abort("ada", "no"))
        await at.engine.ask(aborted)
        await at.passes(60)
        # Nobody who may have the newest one is offered the older one.
        assert {offer.release.tree_digest for offer in at.offers("a")} == {newest}


async def test_a_release_that_failed_somewhere_is_not_taken_for_rolled_out(tmp_path: Path) -> None:
    async with life(tmp_path) as at:
        await at.reads(2, *FLEET)
        newest, older = digest_of(at), "d" * 64
        for name in "abc":
            await comes_back(at, name, ready(newest, "shop-0008"))
        verdict = ready(older, "shop-0008")
        verdict.outcome, verdict.phase, verdict.attempt = wire.OUTCOME_RETURNED, "Degraded", 3
        await comes_back(at, "d", verdict)
        running = at.engine.state.active_of("shop")
        assert running is not None
        assert running.started.tree_digest == newest
        assert running.targets["d"].attempt == 4  # above the verdict that it has given already
        assert at.engine.state.last_succeeded("shop") is None


async def test_who_does_not_come_back_is_waited_for_no_longer_than_the_grace(tmp_path: Path) -> None:
    async with life(tmp_path) as at:
        await at.reads(1, *FLEET)
        await comes_back(at, "a", ready(digest_of(at)))
        await at.passes(GRACE - 1)
        assert at.states() == {}
        await at.passes(2)
        # One of four is no proof that it was rolled out: the plan runs, and says what it finds.
        assert list(at.states().values()) == ["Running"]


async def test_a_report_that_was_announced_is_waited_for(tmp_path: Path) -> None:
    async with life(tmp_path) as at:
        await at.reads(1, cluster("a"))
        at.connections += 1
        hello = wire.Hello(capability=1, session_epoch="before")
        hello.bundles.add(bundle="shop", digest=b"known")
        frames = at.sent.setdefault("a", [])
        welcome = wire.Welcome()
        await at.engine.submit(at.engine.agents.connected("a", hello, at.connections, frames.append, welcome))
        await at.settled()
        assert list(welcome.resend_bundles) == ["shop"]
        assert at.states() == {}
        await at.says("a", wire.AgentFrame(report=ready(digest_of(at))))
        assert at.states() == {"shop-0007": "Succeeded"}


async def test_a_verdict_from_before_does_not_answer_a_rollout_from_after(tmp_path: Path) -> None:
    """A cluster that was away names a rollout whose number the new database could give again."""
    async with life(tmp_path) as at:
        await at.reads(2, *FLEET)
        for name in "abc":
            await comes_back(at, name, ready("d" * 64, "shop-0007"))
        await at.passes(GRACE + 1)
        running = at.engine.state.active_of("shop")
        assert running is not None
        failed = ready("d" * 64, "shop-0008")
        failed.outcome, failed.phase = wire.OUTCOME_FAILED, "Degraded"
        await comes_back(at, "d", failed)
        assert running.targets["d"].state == "offered"


async def test_a_fleet_that_begins_is_not_made_to_wait(tmp_path: Path) -> None:
    async with life(tmp_path) as at:
        await at.reads(1)
        await at.reads(1, cluster("a"))
        assert at.states() == {"shop-0001": "Running"}


async def test_what_is_known_again_replays_to_the_same(tmp_path: Path) -> None:
    async with life(tmp_path) as at:
        await at.reads(1, *FLEET)
        for name in "abcd":
            await comes_back(at, name, ready(digest_of(at)))
    store = await SqlStore.open(tmp_path / "muster.db")
    try:
        rows = (await store.streams())["shop-0007"]
        machine = RolloutMachine.replay(ev.decode(row.data) for row in rows)
        assert (machine.state, machine.why) == ("Succeeded", "known again from what the fleet reports")
        assert [row.number for row in rows] == list(range(1, len(rows) + 1))
    finally:
        await store.close()
