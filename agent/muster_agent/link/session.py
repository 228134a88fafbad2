"""Holds a session with the coordinator, again and again.

Owns hello and welcome, beats, the sending of the outbox, acknowledgements, renewal of the certificate, and the back-off that
the server asks for. Where no stream stands it says the same by round trips. Losing the line stops nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version

import anyio
import msgspec
import structlog
from muster_core.audit.chain import Head
from muster_core.errors import JoinError, LinkError, MusterError
from muster_core.session.backoff import Backoff
from muster_core.session.capability import CAPABILITY
from muster_core.session.outbox import Outbox, OutboxState
from muster_host.auditlog import AuditLog
from muster_proto.v1 import link_pb2 as wire

from muster_agent.identity import join as joining
from muster_agent.identity import x509
from muster_agent.link.client import RoundTrips, Stream, session
from muster_agent.link.ways import Ways
from muster_agent.state.port import StatePort
from muster_agent.state.records import Enrolment, Identity
from muster_agent.witness import Witness

log = structlog.get_logger()

WELCOME_DEADLINE = 20.0
# A state folder that was restored may be this far behind what the coordinator has heard; nobody is further.
MAX_AHEAD = 1 << 32
SAVE_KEY = "outbox"
CLOCK_LOOK = 60.0
RENEW_AGAIN = 60.0
REPEATED = "J032"
# How a line ends a stream, and not a word of the other side: gRPC's own errors, and an end without a good-bye.
CUT_OFF = frozenset({"L020", "L021"})
GATHER = 0.2  # seconds: what is said together goes in one round trip
TRIP_BYTES = 1 << 20


class LinkSession:
    """``receive`` gets every offer, withdrawal and head; ``clock`` gives unix seconds."""

    def __init__(
        self,
        state: StatePort,
        identity: Identity,
        enrolment: Enrolment,
        outbox: Outbox,
        receive: Callable[[wire.HubFrame], Awaitable[None]],
        backoff: Backoff,
        clock: Callable[[], float],
        kubernetes_version: str,
        rejoin: Callable[[Enrolment], Awaitable[Enrolment]],
        audit: AuditLog,
        witness: Witness,
    ) -> None:
        self._state, self._identity, self._enrolment, self._outbox = state, identity, enrolment, outbox
        self._receive, self._backoff, self._clock = receive, backoff, clock
        self._kubernetes_version, self._rejoin = kubernetes_version, rejoin
        self._audit, self._witness = audit, witness
        self._audit_told, self._welcomed = audit.recovered, False
        self._due = anyio.Event()
        self._ways = Ways()
        self._told: dict[str, wire.BundleDigest] = {}
        self.connected = False
        self.resend: Callable[[str], None] = lambda bundle: None
        self.spooled: Callable[[float], None] = lambda size: None
        self.removed: Callable[[], bool] = lambda: False
        self.sent: Callable[[int], None] = lambda size: None
        self.received: Callable[[int], None] = lambda size: None

    def say(self, key: str, frame: wire.AgentFrame) -> None:
        """Queues a frame; a newer one of the same key replaces it. It is on disk before it is sent."""
        seq = self._outbox.put(key, frame.SerializeToString())
        if frame.HasField("report"):
            self._told[key] = wire.BundleDigest(
                bundle=frame.report.bundle, digest=_digest(frame.report.SerializeToString(deterministic=True))
            )
        snapshot = self._outbox.snapshot()
        self._state.put(SAVE_KEY, snapshot)
        self.spooled(sum(len(entry.data) for entry in snapshot.entries))
        log.debug("queued", key=key, seq=seq)
        self._due.set()

    async def run(self) -> None:
        """For ever."""
        while True:
            started = anyio.current_time()
            try:
                if self._clock() >= x509.validity(self._enrolment.certificate)[1]:
                    await self._come_back()
                if self._ways.by_trips(started):
                    await self._go_and_come()
                else:
                    async with session(self._enrolment, self._identity) as stream:
                        with self._judged():
                            await self._hold(stream)
            except MusterError as error:
                self._lost(error)
            except ExceptionGroup as group:
                ours, others = group.split(MusterError)
                if others or ours is None:
                    raise
                self._lost(*_leaves(ours))
            finally:
                self.connected = False
            self._backoff.connected_for(anyio.current_time() - started)
            await anyio.sleep(self._backoff.next_delay())

    def _lost(self, *errors: BaseException) -> None:
        if self.connected:
            log.info("the line is down", error=str(errors[0]))
        else:
            log.warning("no line to the coordinator", error=str(errors[0]))
        if any(isinstance(error, JoinError) for error in errors):
            self._backoff.limits(5.0, 60.0)

    @contextmanager
    def _judged(self) -> Iterator[None]:
        """What the end of an opened stream says of the line."""
        opened = anyio.current_time()
        try:
            yield
        except BaseException as error:
            if any(isinstance(one, LinkError) and one.code in CUT_OFF for one in _leaves(error)):
                self._ways.broke(opened, anyio.current_time())
            else:
                self._ways.stood()
            raise

    async def _tell(self, stream: Stream, frame: wire.AgentFrame) -> None:
        """Nothing is said that is not on disk: a word that was given is kept over a crash."""
        await self._state.durable()
        await stream.send(frame)
        self.sent(frame.ByteSize())

    async def _hear(self, stream: Stream) -> wire.HubFrame:
        frame = await stream.receive()
        self.received(frame.ByteSize())
        return frame

    def _log_head(self) -> Head:
        """Until the hub greeted this process: what the folder held, so that an old copy of a folder is found out."""
        return self._audit.head if self._welcomed else self._audit.recovered

    def _hello(self) -> wire.AgentFrame:
        self._audit_told = self._log_head()
        hello = wire.Hello(
            capability=CAPABILITY,
            agent_version=version("muster-fleet"),
            session_epoch=self._outbox.epoch,
            kubernetes_version=self._kubernetes_version,
            bundles=self._held(),
            audit_seq=self._audit_told.seq,
            audit_hash=bytes.fromhex(self._audit_told.hash),
            acked_seq=self._outbox.acked,
        )
        return wire.AgentFrame(hello=hello)

    async def _hold(self, stream: Stream) -> None:
        await self._tell(stream, self._hello())
        with anyio.move_on_after(WELCOME_DEADLINE) as scope:
            first = await self._hear(stream)
        if scope.cancelled_caught:
            raise LinkError("L023", "the coordinator did not greet in time", retryable=True)
        welcome = self._greeted(first)
        await self._receive(first)
        async with anyio.create_task_group() as group:
            group.start_soon(self._send, stream)
            group.start_soon(self._beat, stream, float(welcome.beat_seconds or 20))
            group.start_soon(self._renew, stream)
            await self._read(stream)

    def _greeted(self, first: wire.HubFrame) -> wire.Welcome:
        """The first frame of the other side, which must be a welcome."""
        self._not_dismissed(first)
        if not first.HasField("welcome"):
            raise LinkError("L024", "the coordinator's first frame is no welcome", retryable=True)
        welcome = first.welcome
        if welcome.last_agent_seq > self._outbox.newest + MAX_AHEAD:
            raise LinkError(
                "L024", "the coordinator's welcome has a number that nobody reaches", retryable=True
            )
        self._backoff.limits(
            float(welcome.backoff_min_seconds or 1), float(welcome.backoff_max_seconds or 60)
        )
        if self._outbox.reconnected(welcome.last_agent_seq):
            self._state.put(SAVE_KEY, self._outbox.snapshot())
        for bundle in welcome.resend_bundles:
            self.resend(bundle)
        if not self.connected:
            log.info("in contact with the coordinator", last_seq=welcome.last_agent_seq)
        self.connected = self._welcomed = True
        self._audit.acknowledge(welcome.audit_ack)
        return welcome

    async def _go_and_come(self) -> None:
        """Round trips, one a beat or when there is something to say, until a stream is to be tried again."""
        log.info(
            "no stream stands on this line: round trips", seconds=round(self._ways.left(anyio.current_time()))
        )
        trips = RoundTrips(lambda: self._enrolment, self._identity)
        async with anyio.create_task_group() as group:
            group.start_soon(self._renew, trips)
            known: frozenset[bytes] = frozenset()
            while left := self._ways.left(anyio.current_time()):
                self._due = anyio.Event()
                waiting = len(self._outbox)
                beat, known = await self._trip(trips, known)
                if 0 < len(self._outbox) < waiting:
                    continue  # they did not fit in one
                with anyio.move_on_after(min(beat, left)):
                    await self._due.wait()
                    await anyio.sleep(GATHER)
            group.cancel_scope.cancel()

    async def _trip(self, trips: RoundTrips, known: frozenset[bytes]) -> tuple[float, frozenset[bytes]]:
        """There and back: the seconds to the next beat, and what was said of how things stand.

        The hub greets and tells what stands each time; what is ``known`` by the trip before is no news.
        """
        frames, size = [self._hello()], 0
        for entry in self._outbox.snapshot().entries:
            if (size := size + len(entry.data)) > TRIP_BYTES and len(frames) > 1:
                break
            frame = wire.AgentFrame.FromString(entry.data)
            frame.seq = entry.seq
            frames.append(frame)
        await self._state.durable()
        answer = await trips.exchange(frames)
        self.sent(sum(frame.ByteSize() for frame in frames))
        self.received(sum(frame.ByteSize() for frame in answer))
        welcome = self._greeted(answer[0] if answer else wire.HubFrame())
        standing = set()
        for told in answer:
            self._took(told)
            if told.WhichOneof("body") in STANDS:
                fact = _standing(told)
                standing.add(fact)
                if fact in known:
                    continue
            if told.WhichOneof("body"):
                await self._receive(told)
        return float(welcome.beat_seconds or 20), frozenset(standing)

    def _held(self) -> list[wire.BundleDigest]:
        """What the hub should hold: the last report of each bundle, but for those that wait here and go anyway."""
        waiting = {entry.key for entry in self._outbox.snapshot().entries}
        return [digest for key, digest in self._told.items() if key not in waiting]

    async def _read(self, stream: Stream) -> None:
        while True:
            frame = await self._hear(stream)
            self._took(frame)
            if frame.WhichOneof("body"):
                await self._receive(frame)

    def _took(self, frame: wire.HubFrame) -> None:
        """What the other side holds for good by now, and whether it goes on."""
        if frame.beat.audit_ack:
            self._audit.acknowledge(frame.beat.audit_ack)
        if frame.ack and self._outbox.acknowledged(frame.ack):
            snapshot = self._outbox.snapshot()
            self._state.put(SAVE_KEY, snapshot)
            self.spooled(sum(len(entry.data) for entry in snapshot.entries))
        self._not_dismissed(frame)

    def _not_dismissed(self, frame: wire.HubFrame) -> None:
        """A good-bye says when to come again."""
        if frame.HasField("bye"):
            self._backoff.limits(float(max(1, frame.bye.retry_after_seconds)), 300.0)
            raise LinkError("L025", f"the coordinator said good-bye: {frame.bye.why}", retryable=True)

    async def _send(self, stream: Stream) -> None:
        while True:
            self._due = anyio.Event()
            for entry in self._outbox.unsent():
                frame = wire.AgentFrame.FromString(entry.data)
                frame.seq = entry.seq
                await self._tell(stream, frame)
            await self._due.wait()

    async def _beat(self, stream: Stream, seconds: float) -> None:
        while True:
            await anyio.sleep(seconds)
            beat, head = wire.Beat(), self._audit.head
            if head != self._audit_told:
                self._audit_told = head
                beat = wire.Beat(audit_seq=head.seq, audit_hash=bytes.fromhex(head.hash))
            await self._tell(stream, wire.AgentFrame(beat=beat))

    async def _renew(self, line: Stream | RoundTrips) -> None:
        """Around two thirds of the certificate's life; the stream goes on, the next connection uses the new one."""
        while True:
            share = self._backoff.uniform(x509.RENEW_FROM, x509.RENEW_TO)
            due = x509.renewal_time(self._enrolment.certificate, share)
            while (wait := due - self._clock()) > 0:
                await anyio.sleep(min(wait, CLOCK_LOOK))  # a clock may be set, a machine may sleep
            start, end = x509.validity(self._enrolment.certificate)
            self._enrolment = joining.counted(self._state, self._enrolment)
            csr = x509.request(self._identity.tls_key, self._enrolment.cluster)
            self._witness.renewal(self._enrolment)
            try:
                await self._state.durable()
                await self._witness.flush()
                answer = await line.renew(wire.RenewRequest(csr_der=csr, counter=self._enrolment.renewals))
            except MusterError as error:
                log.warning("the certificate was not renewed", error=str(error))
                self._witness.renewal(self._enrolment, error.code)
                self._not_renewed(error)
            else:
                self._enrolment = joining.renewed(
                    self._state, self._enrolment, answer.certificate_pem, answer.ca_pem
                )
                log.info("certificate renewed", counter=self._enrolment.renewals)
            # Also after a success: a clock that is far ahead must not make this a tight loop.
            await anyio.sleep(max(1.0, min(RENEW_AGAIN, (end - start) / 20)))

    async def _come_back(self) -> None:
        """Lapsed while away: the identity key proves who this is."""
        try:
            self._enrolment = await self._rejoin(self._enrolment)
        except MusterError as error:
            self._enrolment = self._state.get("enrolment", Enrolment) or self._enrolment
            self._witness.renewal(self._enrolment, error.code)
            self._not_renewed(error)
            raise

    def _not_renewed(self, error: MusterError) -> None:
        """Refused as a copy: the same number is asked with again, so that a copy does not climb past its original."""
        if error.code == REPEATED:
            self._enrolment = msgspec.structs.replace(self._enrolment, renewals=self._enrolment.renewals - 1)


STANDS = frozenset({"welcome", "head", "offer"})


def _standing(frame: wire.HubFrame) -> bytes:
    """A fact that the hub tells at each greeting; of a welcome only the floor is one."""
    if frame.HasField("welcome"):
        return b"floor " + frame.welcome.floor_commit.encode()
    said = frame.head if frame.HasField("head") else frame.offer
    return said.SerializeToString(deterministic=True)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The error, or all of a group."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error


def _digest(report: bytes) -> bytes:
    return hashlib.sha256(report).digest()


def load_outbox(state: StatePort, epoch: str) -> Outbox:
    """The outbox of this state folder; ``epoch`` is used for a new one."""
    stored = state.get(SAVE_KEY, OutboxState)
    if stored is None:
        stored = OutboxState(epoch)
        state.put(SAVE_KEY, stored)
    return Outbox(stored)
