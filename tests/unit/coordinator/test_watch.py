"""Watching over real gRPC: the present state, one SYNCED, then changes; a reader that was too slow gets everything anew."""

from __future__ import annotations

import datetime as dt
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import grpc
import grpc.aio
import pytest
from muster_coordinator.access.calls import Calls
from muster_coordinator.access.operators import OperatorBooks
from muster_coordinator.access.principal import Access
from muster_coordinator.api.audits import AuditApi
from muster_coordinator.api.credentials import CredentialApi
from muster_coordinator.api.operator import OperatorApi
from muster_coordinator.api.watchers import QUEUE, Watchers
from muster_coordinator.audit.keeper import HeadKeeper
from muster_coordinator.catalog.catalog import Catalog, Reading
from muster_coordinator.catalog.repository import FleetRepository
from muster_coordinator.enrol.enrolment import Enrolment
from muster_coordinator.enrol.x509 import Authority
from muster_coordinator.link.listeners import edge_servicers, listen
from muster_coordinator.link.operators import OperatorServicer
from muster_coordinator.rollout.effects import Effects
from muster_coordinator.rollout.engine import Engine
from muster_coordinator.store.port import JoinRow
from muster_coordinator.store.sql.store import SqlStore
from muster_core.sealing.keys import IdentityKey, encode_identity
from muster_host.auditlog import AuditLog
from muster_proto.v1 import operator_pb2 as op
from muster_proto.v1 import operator_pb2_grpc
from unit.coordinator.commits import git

HEAD = "apiVersion: muster.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n"
FLEET = HEAD.format(
    kind="Fleet", name="acme", spec="{id: 0123456789abcdef, mode: open, defaults: {plan: all}}"
)
PLAN = HEAD.format(kind="RolloutPlan", name="all", spec="{waves: [{name: all, rest: true}]}")
SHOP = HEAD.format(kind="Bundle", name="shop", spec="{source: {path: manifests}, targets: [{selector: {}}]}")
WRONG = HEAD.format(kind="Bundle", name="wrong", spec="{sauce: {path: manifests}}")
MAP = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web}\n"
FILES = {
    "fleet.yaml": FLEET, "plans/all.yaml": PLAN, "bundles/shop/bundle.yaml": SHOP, "bundles/shop/manifests/map.yaml": MAP,
    "bundles/wrong/bundle.yaml": WRONG,
}  # fmt: skip
Kind = op.Event.Kind


@dataclass
class Hub:
    """An operator API on a real listener, over a real repository and store."""

    engine: Engine
    catalog: Catalog
    work: Path
    address: str
    ca: bytes

    def commit(self, files: dict[str, str]) -> None:
        for path, text in files.items():
            target = self.work / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        git(self.work, "add", "-A")
        git(self.work, "commit", "-qm", "change")

    def register(self, name: str, identity: bytes) -> None:
        if (self.work / ".git/refs/heads/muster/registry").exists():
            git(self.work, "checkout", "-q", "muster/registry")
        else:
            git(self.work, "checkout", "-q", "--orphan", "muster/registry")
            git(self.work, "rm", "-rqf", ".")
        spec = f"{{uid: uid-of-{name}, identityKey: '{encode_identity(identity)}'}}"
        self.commit({f"clusters/{name}.yaml": HEAD.format(kind="Cluster", name=name, spec=spec)})
        git(self.work, "checkout", "-q", "main")

    async def asks(self, name: str, identity: bytes, lines: int = 0) -> None:
        """A proven join, as enrolment makes it durable, in one batch with as many lines."""
        row = JoinRow(name, f"uid-of-{name}", identity, b"s" * 32, 1, b"", b"", int(time.time()), "1.2.3")

        def keep(effects: Effects, now: float) -> None:
            self.engine.state.cluster(name).join = row
            effects.batch.joins[name] = row
            effects.clusters.add(name)
            effects.lines += [f"line {number}" for number in range(lines)]

        await self.engine.ask(keep)

    @asynccontextmanager
    async def operator(self) -> AsyncIterator[operator_pb2_grpc.OperatorAsyncStub]:
        credentials = grpc.ssl_channel_credentials(self.ca)
        async with grpc.aio.secure_channel(self.address, credentials) as channel:
            yield operator_pb2_grpc.OperatorStub(channel)  # type: ignore[misc]


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[Hub]:
    work, data = tmp_path / "work", tmp_path / "data"
    data.mkdir()
    git(tmp_path, "init", "-q", "-b", "main", str(work))
    authority = Authority.load_or_make(data, dt.datetime.now(dt.UTC))
    store = await SqlStore.open(data / "muster.db")
    apis: list[OperatorApi] = []
    engine = Engine(store, time.time, lambda effects: apis[0].publish(effects), 1.0)

    async def changed(reading: Reading) -> None:
        await engine.ask(engine.read_catalog(reading))

    catalog = Catalog(FleetRepository.open(data / "fleet.git", f"file://{work}", "main", None), 60.0, changed)
    api = OperatorApi(
        engine,
        catalog,
        store,
        Watchers(),
        time.time,
        os.urandom,
        authority.pem,
        ("127.0.0.1:1", "127.0.0.1:2"),
    )
    apis.append(api)
    audit = await AuditLog.open(data / "audit", "coordinator/test", time.time)
    books = await OperatorBooks.open(store, authority, time.time)
    calls = Calls(Access("secret", None, books.require), audit)
    operators = OperatorServicer(
        api,
        CredentialApi(books, audit, authority.pem, lambda: "127.0.0.1:1"),
        AuditApi(audit, await HeadKeeper.open(store, audit), "coordinator/test"),
    )
    enrolment = Enrolment(engine, store, authority, time.time, audit)
    certificate = authority.server(["127.0.0.1"], dt.datetime.now(dt.UTC))
    async with anyio.create_task_group() as group:
        group.start_soon(engine.run)
        edge = await listen(
            "127.0.0.1:0", certificate, None, *edge_servicers(enrolment, operators), calls=calls
        )
        found = Hub(engine, catalog, work, f"127.0.0.1:{edge.port}", authority.pem)
        found.commit(FILES)
        try:
            yield found
        finally:
            with anyio.CancelScope(shield=True):
                await edge.server.stop(0)
            group.cancel_scope.cancel()
    await store.close()
    await engine.aclose()


@dataclass
class Reader:
    """One Watch call."""

    call: grpc.aio.UnaryStreamCall[op.WatchRequest, op.Event]

    async def until(self, wanted: Callable[[op.Event], bool]) -> list[op.Event]:
        """Every event up to the first that is wanted."""
        seen: list[op.Event] = []
        with anyio.fail_after(20):
            while not seen or not wanted(seen[-1]):
                event = await self.call.read()
                assert isinstance(event, op.Event), "the stream ended"
                seen.append(event)
        return seen

    async def synced(self) -> list[op.Event]:
        return await self.until(lambda event: event.kind == Kind.SYNCED)


@asynccontextmanager
async def watching(hub: Hub, **what: object) -> AsyncIterator[Reader]:
    async with hub.operator() as operator:
        call = operator.Watch(op.WatchRequest(**what), metadata=(("authorization", "Bearer secret"),))  # type: ignore[arg-type]
        try:
            yield Reader(call)
        finally:
            call.cancel()


def told(events: list[op.Event]) -> list[tuple[str, str]]:
    """Kind and name, in order."""
    names = {
        Kind.CLUSTER: lambda e: e.cluster.name, Kind.BUNDLE: lambda e: e.bundle.name,
        Kind.ROLLOUT: lambda e: e.rollout.name, Kind.JOIN: lambda e: e.join.cluster,
    }  # fmt: skip
    return [(Kind.Name(event.kind), names[event.kind](event)) for event in events if event.kind in names]


async def test_first_the_present_state_then_synced_then_changes(hub: Hub) -> None:
    known, new = IdentityKey.generate().public, IdentityKey.generate().public
    hub.register("berlin-04", known)
    await hub.asks("munich-01", new)
    await hub.catalog.refresh()
    async with watching(hub) as reader:
        present = await reader.synced()
        assert told(present) == [
            ("JOIN", "munich-01"), ("CLUSTER", "berlin-04"), ("CLUSTER", "munich-01"),
            ("BUNDLE", "shop"), ("BUNDLE", "wrong"), ("ROLLOUT", "shop-0001"),
        ]  # fmt: skip
        wrong = next(e.bundle for e in present if e.kind == Kind.BUNDLE and e.bundle.name == "wrong")
        assert "sauce" in wrong.error

        hub.commit({"bundles/worse/bundle.yaml": WRONG.replace("wrong", "worse")})
        await hub.catalog.refresh()
        changes = await reader.until(lambda e: e.kind == Kind.BUNDLE and e.bundle.name == "wrong")
        assert ("BUNDLE", "worse") in told(changes)


async def test_who_asks_to_join_is_told_once_and_shown_until_approved(hub: Hub) -> None:
    identity = IdentityKey.generate().public
    await hub.catalog.refresh()
    async with watching(hub, clusters=True) as reader, hub.operator() as operator:
        await reader.synced()
        for _ in range(3):  # an agent that waits asks again and again
            await hub.asks("munich-01", identity)
        await hub.asks("zurich-02", identity)
        seen = await reader.until(lambda e: e.cluster.name == "zurich-02")
        assert [pair for pair in told(seen) if pair[0] == "JOIN"] == [
            ("JOIN", "munich-01"),
            ("JOIN", "zurich-02"),
        ]
        join = next(e.join for e in seen if e.kind == Kind.JOIN)
        assert (join.uid, join.identity_key, join.state) == ("uid-of-munich-01", identity, "Pending")

        listed = await operator.ListClusters(
            op.ListClustersRequest(), metadata=(("authorization", "Bearer secret"),)
        )
        row = next(c for c in listed.clusters if c.name == "munich-01")
        assert (row.state, row.agent_version) == ("Pending", "1.2.3")
        assert row.message == "waits for approval: muster cluster approve munich-01"

        hub.register("munich-01", identity)
        await hub.catalog.refresh()
        await reader.until(lambda e: e.cluster.name == "munich-01" and not e.cluster.message)
        await hub.asks("munich-01", IdentityKey.generate().public)
        lied = await reader.until(lambda e: e.cluster.name == "munich-01")
        assert lied[-1].cluster.message.startswith("another identity asks to join under this name: SHA256:")


async def test_only_what_was_asked_for_is_told(hub: Hub) -> None:
    hub.register("berlin-04", IdentityKey.generate().public)
    await hub.asks("munich-01", IdentityKey.generate().public)
    await hub.catalog.refresh()
    async with watching(hub, bundles=True, name="wrong") as reader:
        assert told(await reader.synced()) == [("BUNDLE", "wrong")]
    async with watching(hub, clusters=True, name="munich-01") as reader:
        assert told(await reader.synced()) == [("JOIN", "munich-01"), ("CLUSTER", "munich-01")]


async def test_a_reader_that_was_too_slow_gets_everything_anew(hub: Hub) -> None:
    await hub.asks("munich-01", IdentityKey.generate().public)
    await hub.catalog.refresh()
    async with watching(hub) as reader:
        first = told(await reader.synced())
        await hub.asks("zurich-02", IdentityKey.generate().public, lines=QUEUE + 10)
        again = await reader.synced()
        assert told(again) == sorted([*first, ("JOIN", "zurich-02"), ("CLUSTER", "zurich-02")], key=_order)
        assert len([e for e in again if e.kind == Kind.LOG]) < QUEUE, (
            "what was dropped is not told line by line"
        )
        await hub.asks("aachen-03", IdentityKey.generate().public)
        await reader.until(lambda e: e.cluster.name == "aachen-03")


def _order(pair: tuple[str, str]) -> tuple[int, str]:
    return ["JOIN", "CLUSTER", "BUNDLE", "ROLLOUT"].index(pair[0]), pair[1]
