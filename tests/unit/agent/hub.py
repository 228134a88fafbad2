"""A coordinator's link in this process, for the agent's side of the wire: the real engine, store, authority and listeners."""

from __future__ import annotations

import datetime as dt
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import anyio
import msgspec
from muster_agent.identity import join as joining
from muster_agent.identity import x509
from muster_agent.link import client
from muster_agent.link.session import LinkSession, load_outbox
from muster_agent.state.files import FileState
from muster_agent.state.records import Enrolment as Enrolled
from muster_agent.state.records import Identity
from muster_agent.witness import Witness
from muster_coordinator.access.calls import Calls
from muster_coordinator.access.principal import Access
from muster_coordinator.catalog.catalog import Reading
from muster_coordinator.catalog.repository import Heads
from muster_coordinator.enrol.enrolment import Enrolment
from muster_coordinator.enrol.x509 import Authority
from muster_coordinator.link.agents import EnrolServicer, LinkServicer
from muster_coordinator.link.listeners import listen
from muster_coordinator.rollout.effects import Effects
from muster_coordinator.rollout.engine import Engine
from muster_coordinator.store.sql.store import SqlStore
from muster_core.audit.journal import Journal
from muster_core.kinds.base import Metadata
from muster_core.kinds.model import Cluster, ClusterSpec
from muster_core.sealing.keys import IdentityKey, SealingKey, encode_identity
from muster_core.session.backoff import Backoff
from muster_host import auditlog
from muster_host.auditlog import AuditLog
from muster_proto.v1 import link_pb2 as wire
from muster_proto.v1 import link_pb2_grpc

UID = "uid-of-berlin-04"


def identity() -> Identity:
    sealing = SealingKey.generate()
    return Identity(IdentityKey.generate().seed.hex(), sealing.private.hex(), 1, x509.new_key())


def entry(who: Identity, name: str = "berlin-04", uid: str = UID) -> Cluster:
    public = joining.identity_key(who).public
    return Cluster(
        api_version="muster.dev/v1alpha1",
        kind="Cluster",
        metadata=Metadata(name=name),
        spec=ClusterSpec(uid=uid, identity_key=encode_identity(public)),
    )


@dataclass
class Hub:
    """A running link; ``lines`` is what was told to people, ``batches`` what was made durable."""

    folder: Path
    engine: Engine
    authority: Authority
    enrolment: Enrolment
    servicer: LinkServicer
    lines: list[str]
    reported: list[str]
    link: str = ""
    edge: str = ""
    readings: int = 0

    async def register(self, *entries: Cluster) -> None:
        """The registry says exactly this now."""
        self.readings += 1
        heads = Heads("c" * 40, f"{self.readings:040d}")
        reading = Reading(heads, clusters={entry.metadata.name: entry for entry in entries})
        await self.engine.ask(self.engine.read_catalog(reading))

    def held(self, name: str = "berlin-04") -> dict[str, wire.Report]:
        return dict(self.engine.state.cluster(name).reports)


@asynccontextmanager
async def hub(
    folder: Path, life: float = 86400.0, clock: Callable[[], float] = time.time, beat: int = 5
) -> AsyncIterator[Hub]:
    """One life of a coordinator over ``folder``; leaving the block is its crash: nothing is told to anybody."""
    await anyio.Path(folder).mkdir(exist_ok=True)
    lines: list[str] = []
    reported: list[str] = []

    def publish(effects: Effects) -> None:
        lines.extend(effects.lines)
        reported.extend(row.bundle for row in effects.batch.reports.values())

    authority = Authority.load_or_make(folder, dt.datetime.now(dt.UTC), dt.timedelta(seconds=life))
    store = await SqlStore.open(folder / "muster.db")
    engine = Engine(store, clock, publish, 1.0)
    await engine.load()
    audit = await AuditLog.open(folder / "audit", "coordinator/test", clock)
    enrolment = Enrolment(engine, store, authority, clock, audit)
    calls = Calls(Access("nobody-has-this", None, lambda serial, name: None), audit)
    servicer = LinkServicer(engine, enrolment, clock, beat, (1, 1))
    certificate = authority.server(["127.0.0.1"], dt.datetime.now(dt.UTC))
    found = Hub(folder, engine, authority, enrolment, servicer, lines, reported)
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(engine.run)
            link = await listen(
                "127.0.0.1:0",
                certificate,
                authority.pem,
                (link_pb2_grpc.add_LinkServicer_to_server, servicer),
                calls=calls,
            )
            edge = await listen(
                "127.0.0.1:0", certificate, None,
                (link_pb2_grpc.add_EnrolServicer_to_server, EnrolServicer(enrolment)), calls=calls,
            )  # fmt: skip
            found.link, found.edge = f"127.0.0.1:{link.port}", f"127.0.0.1:{edge.port}"
            try:
                yield found
            finally:
                with anyio.CancelScope(shield=True):
                    await link.server.stop(0)
                    await edge.server.stop(0)
                group.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            await store.close()
            await engine.aclose()


def opened_log(folder: Path, clock: Callable[[], float]) -> auditlog.AuditLog:
    """As ``AuditLog.open`` does it, at once."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {file.name: file.stat().st_size for file in folder.iterdir()}
    read = partial(auditlog._read, folder)
    return auditlog.AuditLog(folder, Journal(f"cluster/{UID}", sizes, read, int(clock() * 1000)), clock)


@dataclass
class Agent:
    """The link half of an agent over a state folder."""

    folder: Path
    who: Identity
    state: FileState = field(init=False)
    link: LinkSession = field(init=False)
    audit: auditlog.AuditLog = field(init=False)
    received: list[wire.HubFrame] = field(default_factory=list)
    resent: list[str] = field(default_factory=list)
    clock: Callable[[], float] = time.time

    def open(self, at: Hub, certificate: bytes = b"") -> None:
        """``certificate`` is used by a folder that has none yet; addresses are those of the hub that runs now."""
        self.state = FileState(self.folder)
        known = self.state.get("enrolment", Enrolled)
        if known is None:
            known = Enrolled(
                cluster="berlin-04", uid=UID, edge_address=at.edge, link_address=at.link,
                ca_pem=at.authority.pem.decode(), mode="open", trust_digest="", fleet_id="f",
                repositories=(), token_secret="", certificate=certificate.decode(),
            )  # fmt: skip
            self.state.put("enrolment", known)
        self.point(at)
        self.make()

    def point(self, at: Hub) -> None:
        known = self.state.get("enrolment", Enrolled)
        assert known is not None
        known = msgspec.structs.replace(known, edge_address=at.edge, link_address=at.link)
        self.state.put("enrolment", known)

    def make(self) -> None:
        known = self.state.get("enrolment", Enrolled)
        assert known is not None

        async def receive(frame: wire.HubFrame) -> None:
            self.received.append(frame)

        async def rejoin(enrolled: Enrolled) -> Enrolled:
            return await joining.join(
                self.state, self.who, enrolled, client.join, Backoff(lambda a, b: a, 0.1, 0.1)
            )

        self.audit = opened_log(self.folder / "audit", self.clock)
        self.link = LinkSession(
            self.state, self.who, known, load_outbox(self.state, os.urandom(8).hex()), receive,
            Backoff(lambda a, b: a), self.clock, "v1.34.0", rejoin, self.audit, Witness(self.audit, f"cluster/{UID}"),
        )  # fmt: skip
        self.link.resend = self.resent.append

    def report(self, bundle: str, phase: str) -> None:
        self.link.say(f"report/{bundle}", wire.AgentFrame(report=wire.Report(bundle=bundle, phase=phase)))

    def close(self) -> None:
        self.state.close()

    def enrolled(self) -> Enrolled:
        """What is on disk."""
        known = self.state.get("enrolment", Enrolled)
        assert known is not None
        return known

    async def in_session(self, what: Callable[[], bool], seconds: float = 10.0) -> None:
        """Holds the line until something is so."""
        async with anyio.create_task_group() as group:
            group.start_soon(self.link.run)
            await until(what, seconds)
            group.cancel_scope.cancel()


def first_certificate(at: Hub, who: Identity, issued: float = 0.0, life: float = 3600.0) -> bytes:
    """A certificate as the first join gave it, so many seconds ago."""
    now = dt.datetime.now(dt.UTC)
    authority = Authority.load_or_make(at.folder, now, dt.timedelta(seconds=life))
    public = joining.identity_key(who).public
    csr = x509.request(who.tls_key, "berlin-04")
    return authority.client(csr, "berlin-04", UID, public, now - dt.timedelta(seconds=issued))


async def until(what: Callable[[], bool], seconds: float = 10.0) -> None:
    with anyio.fail_after(seconds):
        while not what():
            await anyio.sleep(0.02)
