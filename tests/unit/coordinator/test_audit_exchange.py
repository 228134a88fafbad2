"""Heads of agents' logs over the real link: what is kept before it is acknowledged, and what raises an alarm."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from muster_coordinator.audit.exchange import HeadExchange
from muster_coordinator.audit.heads import HeadRow
from muster_coordinator.audit.keeper import HeadKeeper
from muster_coordinator.audit.registry import Known, certified, noted, read_before
from muster_coordinator.store.port import Batch, JoinRow
from muster_coordinator.store.sql.store import SqlStore
from muster_core.audit.chain import decode
from muster_host.auditlog import AuditLog
from unit.agent.hub import UID, Agent, Hub, entry, first_certificate, hub, identity, until

WRITER = f"cluster/{UID}"


class Gate:
    """A store whose commits wait until they are let through."""

    def __init__(self, store: SqlStore) -> None:
        self._store, self.open = store, anyio.Event()

    async def commit(self, batch: Batch) -> None:
        await self.open.wait()
        await self._store.commit(batch)

    async def audit_heads(self) -> list[HeadRow]:
        return list(await self._store.audit_heads())


class Place:
    """A hub whose engine exchanges heads, and an agent of it."""

    def __init__(
        self, at: Hub, agent: Agent, store: SqlStore, gate: Gate, keeper: HeadKeeper, log: Path
    ) -> None:
        self.at, self.agent, self.store, self.gate, self.keeper, self.log = (
            at,
            agent,
            store,
            gate,
            keeper,
            log,
        )

    def acknowledged(self) -> int:
        return self.agent.audit._journal._acknowledged


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with hub(tmp_path / "hub") as at, anyio.create_task_group() as group:
        store = await SqlStore.open(tmp_path / "heads.db")
        gate, audit = Gate(store), await AuditLog.open(tmp_path / "log", "coordinator/test", time.time)
        keeper = await HeadKeeper.open(gate, audit)  # type: ignore[arg-type]
        HeadExchange(at.engine, keeper)
        group.start_soon(keeper.run)
        agent = Agent(tmp_path / "state", identity())
        await at.register(entry(agent.who))
        agent.open(at, first_certificate(at, agent.who))
        yield Place(at, agent, store, gate, keeper, tmp_path / "log")
        agent.close()
        group.cancel_scope.cancel()
        await audit.flush()
        with anyio.CancelScope(shield=True):
            await store.close()


async def write(agent: Agent, times: int = 1) -> None:
    for _ in range(times):
        agent.audit.record("resume", actor=WRITER, object="bundle/shop")
    await agent.audit.flush()


async def started(agent: Agent) -> None:
    """A start of the agent: what its folder held is what it tells, whatever it writes first."""
    agent.make()
    await write(agent)


async def test_a_head_is_acknowledged_only_when_it_is_durable(place: Place) -> None:
    agent = place.agent
    await write(agent, 3)
    await started(agent)
    async with anyio.create_task_group() as group:
        group.start_soon(agent.link.run)
        await until(lambda: agent.link.connected)
        await until(lambda: place.keeper.heads.known(WRITER) is not None)
        assert (place.acknowledged(), list(await place.store.audit_heads())) == (0, [])
        place.gate.open.set()
        await until(lambda: place.acknowledged() == 3)
        group.cancel_scope.cancel()
    (row,) = await place.store.audit_heads()
    assert (row.seq, row.alarmed) == (3, False)


async def test_a_folder_that_was_put_back_is_told_at_the_next_start_and_not_acknowledged(
    place: Place,
) -> None:
    agent = place.agent
    place.gate.open.set()
    await write(agent, 2)
    old = {file.name: file.read_bytes() for file in (agent.folder / "audit").iterdir()}
    await write(agent, 3)
    await started(agent)
    await agent.in_session(lambda: place.acknowledged() == 5)
    for name, data in old.items():
        (agent.folder / "audit" / name).write_bytes(data)
    agent.make()
    # What this process writes before it is greeted must not hide that the folder is old.
    await write(agent, 9)
    await agent.in_session(lambda: bool(place.keeper.heads.alarms))
    (row,) = place.keeper.heads.alarms
    assert (row.seq, row.told_seq, place.acknowledged()) == (5, 2, 0)
    assert "MUSTER-T090" in place.at.engine.state.cluster("berlin-04").alarm
    assert any("MUSTER-T090" in line for line in place.at.lines)
    before = await place.keeper.acknowledge(WRITER)
    assert before == row
    assert place.at.engine.state.cluster("berlin-04").alarm == ""
    await agent.in_session(lambda: agent.link.connected)
    assert place.keeper.heads.alarms == []


async def test_a_folder_that_was_lost_is_found_too(place: Place) -> None:
    agent = place.agent
    place.gate.open.set()
    await write(agent, 2)
    await started(agent)
    await agent.in_session(lambda: place.acknowledged() == 2)
    for file in (agent.folder / "audit").iterdir():
        file.unlink()
    await started(agent)
    await agent.in_session(lambda: bool(place.keeper.heads.alarms))
    assert [(row.seq, row.told_seq) for row in place.keeper.heads.alarms] == [(2, 0)]


async def test_an_alarm_is_written_into_the_coordinators_own_log(place: Place) -> None:
    place.keeper.told(WRITER, 7, b"a" * 32)
    place.keeper.told(WRITER, 6, b"b" * 32)
    await place.keeper._audit.flush()
    (file,) = place.log.glob("audit-*.jsonl")
    last = decode(file.read_bytes().splitlines(keepends=True)[-1])
    assert (last.action, last.object, last.result, last.detail["known"], last.detail["told"]) == (
        "head-alarm", WRITER, "refused", "7", "6",
    )  # fmt: skip


async def test_an_alarm_that_comes_while_a_head_is_written_stops_its_acknowledgement(place: Place) -> None:
    place.keeper.told(WRITER, 7, b"a" * 32)
    await until(lambda: not place.keeper.heads._changed)  # it is on its way to the disk
    place.keeper.told(WRITER, 6, b"b" * 32)
    place.gate.open.set()
    await until(lambda: not place.keeper.heads._changed)
    await place.keeper._commit()
    assert place.keeper.acknowledged(WRITER) == 0


@pytest.mark.parametrize("said", [(3, b""), (3, b"short"), (2**63, b"a" * 32)])
async def test_what_is_no_head_is_not_kept(place: Place, said: tuple[int, bytes]) -> None:
    place.keeper.told(WRITER, *said)
    assert place.keeper.heads.all == []


def test_a_reading_notes_approvals_changes_and_removals_and_a_start_notes_nothing_twice() -> None:
    one, two = entry(identity(), "one", "uid-1"), entry(identity(), "two", "uid-2")
    other = entry(identity(), "one", "uid-1")
    found = [(note.action, note.object, note.detail["how"]) for note in noted({}, {"one": one}, "c1")]
    assert found == [("approval", "cluster/one", "registry")]
    assert list(noted(read_before({"one": one}), {"one": one}, "c2")) == []
    changes = noted(read_before({"one": one, "two": two}), {"one": other}, "c3")
    assert [(note.action, note.object, note.detail["how"]) for note in changes] == [
        ("approval", "cluster/one", "registry"),
        ("registry-changed", "cluster/two", "removed"),
    ]
    key = bytes.fromhex(one.spec.identity_key.partition(":")[2])
    join = JoinRow("one", "uid-1", key, b"", 1, b"", b"", 1, "", issued=5)
    assert certified([join, None]) == {"one": Known(one.spec.identity_key, "")}
    assert list(noted(certified([join]), {"one": one}, "c4")) == []
