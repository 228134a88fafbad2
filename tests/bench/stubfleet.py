"""A fleet of agents as protocol stubs: real keys, real joins, real mTLS sessions; only cluster and Git are not there.

One process with one channel a stub. Each joins with a token of its own, holds ``Link.Session`` as an agent does (hello,
beats, outbox with acknowledgements, the server's back-off), and answers an offer as an agent whose cluster is quick:
acknowledged, applying, healthy, ``--think`` seconds after it came, since a real agent fetches and verifies first; the
verdict follows ``--work`` seconds later. An offer that it has already is taken once, as an agent does: acknowledged again,
and how it stands is told. Every offer and every acknowledgement is recorded with its time. The process is steered by
lines of JSON on standard input and answers each with one line::

    python stubfleet.py --context HUB/context.json --agents 300
    {"do": "ask"}                                      tokens and joins; answers the registry entries to be pushed
    {"do": "connect"}                                  certificates, then sessions; answers when all are in contact
    {"do": "settle", "commit": C, "patience": 60}       waits until every stub's verdict on C is acknowledged; its times
    {"do": "contact", "since": T, "patience": 60}       waits until every stub was welcomed after T; when each was
    {"do": "obey", "clusters": [...], "outcome": "failed"}      how these answer from now on: healthy, failed, returned;
                                                       "silent" says nothing, "refused" turns the offer down, "cut"
                                                       takes it and is out of contact for good, "away" is so at once
    {"do": "renew", "over": 60, "counter": 1}           each renews once at a time of its own; how long each took
    {"do": "record", "file": F}                        writes everything that was seen, a line of JSON each

It is no part of the product and turns no check off: a certificate that the coordinator would refuse is refused here too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from muster_core.sealing.keys import (
    IdentityKey,
    SealingKey,
    encode_identity,
    encode_sealing,
    join_statement,
    sealing_key_statement,
)
from muster_core.session.backoff import Backoff
from muster_core.session.capability import CAPABILITY
from muster_core.session.outbox import Outbox, OutboxState
from muster_proto.v1 import link_pb2 as wire
from muster_proto.v1 import link_pb2_grpc, operator_pb2_grpc
from muster_proto.v1 import operator_pb2 as op

AT_ONCE = 32
CALL_DEADLINE = 60.0
CONNECT_DEADLINE = 20.0
LATE = 2.0  # seconds in which a stream that a renewal broke has ended
# The agent's own channel options; the pool is what keeps a thousand channels of one process apart.
OPTIONS = [
    ("grpc.keepalive_time_ms", 240_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
]
OUTCOMES = {
    "healthy": ("Ready", wire.OUTCOME_HEALTHY),
    "failed": ("Degraded", wire.OUTCOME_FAILED),
    "returned": ("Degraded", wire.OUTCOME_RETURNED),
}


class Sighting(NamedTuple):
    """Something that a stub saw. ``at`` in unix seconds; ``what``: offer, taken, acknowledged, applying, settled, welcome,
    lost, withdraw. Taken is an offer that it had not; acknowledged and later ones are receipts of the hub.
    """

    at: float
    cluster: str
    what: str
    rollout: str = ""
    commit: str = ""
    attempt: int = 0
    why: str = ""


@dataclass(slots=True)
class Hub:
    """Where the coordinator is, and the operator's credential for it."""

    edge: str
    ca: bytes
    token: str
    link: str = ""
    fleet_id: str = ""

    @classmethod
    def of(cls, context: Path) -> Hub:
        found = json.loads(context.read_text())
        ca, token = Path(found["ca_pem_file"]).read_bytes(), Path(found["token_file"]).read_text().strip()
        return cls(found["edge"], ca, token)


class Pace(NamedTuple):
    """Seconds: from an offer to its answer, from there to the verdict (drawn around it), and the longest wait before it
    dials again (0: what the hub asks for).
    """

    think: float = 0.25
    work: float = 0.0
    dial: float = 0.0

    @property
    def options(self) -> list[tuple[str, int]]:
        """gRPC's own pauses within one channel, where the stub is not to wait as long as it would."""
        longest = int(self.dial * 1000)
        names = ("initial", "min", "max") if longest else ()
        return [(f"grpc.{name}_reconnect_backoff_ms", longest) for name in names]


class Stub:
    """One agent. ``seen`` hears what happens to it."""

    def __init__(self, name: str, hub: Hub, seen: Callable[[Sighting], None], pace: Pace) -> None:
        self.name, self.uid, self._hub, self._seen, self._pace = name, f"uid-of-{name}", hub, seen, pace
        self._identity, self._sealing = IdentityKey.generate(), SealingKey.generate()
        key = ec.generate_private_key(ec.SECP256R1())
        self._key = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self._signing = key
        self._csr = _request(key)
        self._certificate = b""
        self._line: Any = None
        self._taken: dict[
            str, tuple[str, int]
        ] = {}  # by bundle: rollout and attempt, as an agent's record has it
        self._stands: dict[str, str] = {}
        self.outcome = "healthy"
        self.gone = asyncio.Event()
        self._outbox = Outbox(OutboxState(f"epoch-of-{name}"))
        self._backoff = Backoff(random.uniform)
        self._due = asyncio.Event()
        # By the outbox's key: what it means when the hub has acknowledged it.
        self._waiting: dict[str, tuple[str, wire.Offer]] = {}

    # --- joining -----------------------------------------------------------------------------------------------------

    def request(self, secret: str) -> wire.JoinRequest:
        public, sealing = self._identity.public, self._sealing.public
        statement = join_statement(secret, self.name, self.uid, public, sealing, self._csr)
        return wire.JoinRequest(
            capability=CAPABILITY,
            token_secret=secret,
            cluster_name=self.name,
            cluster_uid=self.uid,
            identity_key=public,
            sealing_key=sealing,
            sealing_generation=1,
            sealing_signature=self._owned(),
            csr_der=self._csr,
            proof=self._identity.sign(statement),
        )

    def _owned(self) -> bytes:
        return self._identity.sign(
            sealing_key_statement(self._hub.fleet_id, self.uid, self._sealing.public, 1)
        )

    def entry(self) -> str:
        """Its registry entry."""
        return (
            "apiVersion: muster.dev/v1alpha1\nkind: Cluster\n"
            f"metadata: {{name: {self.name}}}\nspec:\n  uid: {self.uid}\n"
            f"  identityKey: '{encode_identity(self._identity.public)}'\n"
            f"  sealingKeys: [{{generation: 1, key: '{encode_sealing(self._sealing.public)}', "
            f"signature: '{self._owned().hex()}'}}]\n"
        )

    def admitted(self, certificate: bytes) -> None:
        self._certificate = certificate

    async def renew(self, counter: int) -> float:
        """A certificate for a new request over the connection that stands; seconds until it was there."""
        request = wire.RenewRequest(csr_der=_request(self._signing), counter=counter)
        begun = time.perf_counter()
        answer = await self._line.Renew(request, timeout=CALL_DEADLINE)
        took = time.perf_counter() - begun
        self.admitted(answer.certificate_pem)
        return took

    # --- the session -------------------------------------------------------------------------------------------------

    def _say(self, key: str, frame: wire.AgentFrame, what: str, offer: wire.Offer) -> None:
        self._outbox.put(key, frame.SerializeToString())
        self._waiting[key] = (what, offer)
        self._due.set()

    def _see(self, what: str, offer: wire.Offer | None = None) -> None:
        about = (offer.rollout, offer.release.commit, offer.attempt) if offer else ()
        self._seen(Sighting(time.time(), self.name, what, *about))

    def _lost(self, why: str) -> None:
        self._seen(Sighting(time.time(), self.name, "lost", why=why))

    async def run(self) -> None:
        """Until it is gone, as the agent does: a lost line is dialled again after the server's back-off."""
        while not self.gone.is_set():
            credentials = grpc.ssl_channel_credentials(self._hub.ca, self._key, self._certificate)
            options = [*OPTIONS, *self._pace.options]
            begun = time.monotonic()
            try:
                async with grpc.aio.secure_channel(self._hub.link, credentials, options=options) as channel:
                    async with asyncio.timeout(CONNECT_DEADLINE):
                        await channel.channel_ready()
                    self._line = link_pb2_grpc.LinkStub(channel)
                    await self._hold(self._line.Session())
            except grpc.aio.AioRpcError as error:
                self._lost(error.details() or error.code().name)
            except (TimeoutError, grpc.aio.UsageError, asyncio.InvalidStateError) as error:
                self._lost(type(error).__name__)
            self._backoff.connected_for(time.monotonic() - begun)
            delay = self._backoff.next_delay()
            await asyncio.sleep(
                min(delay, random.uniform(0.0, self._pace.dial)) if self._pace.dial else delay
            )

    async def _hold(self, call: Any) -> None:
        """One session, from hello to its end."""
        hello = wire.Hello(
            capability=CAPABILITY,
            agent_version="stub",
            session_epoch=self._outbox.epoch,
        )
        await call.write(wire.AgentFrame(hello=hello))
        first = await call.read()
        if first is grpc.aio.EOF or not first.HasField("welcome"):
            if first is not grpc.aio.EOF:
                self._received(first)
            self._lost(first.bye.why if first is not grpc.aio.EOF else "no welcome")
            return
        welcome = first.welcome
        self._backoff.limits(float(welcome.backoff_min_seconds), float(welcome.backoff_max_seconds))
        self._outbox.reconnected(welcome.last_agent_seq)
        self._see("welcome")
        self._acknowledged()
        # One write at a time: grpc ends a call on which two are under way.
        line = asyncio.Lock()
        parts: list[asyncio.Task[Any]] = [
            asyncio.create_task(self._read(call)),
            asyncio.create_task(self._send(call, line)),
            asyncio.create_task(self._beat(call, line, float(welcome.beat_seconds))),
            asyncio.create_task(self.gone.wait()),
        ]
        try:
            ended, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for part in ended:
                part.result()
            self._lost("the stream ended")
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)
            call.cancel()

    async def _read(self, call: Any) -> None:
        while (frame := await call.read()) is not grpc.aio.EOF:
            self._received(frame)

    async def _send(self, call: Any, line: asyncio.Lock) -> None:
        while True:
            self._due.clear()
            for entry in self._outbox.unsent():
                frame = wire.AgentFrame.FromString(entry.data)
                frame.seq = entry.seq
                async with line:
                    await call.write(frame)
            await self._due.wait()

    async def _beat(self, call: Any, line: asyncio.Lock, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            async with line:
                await call.write(wire.AgentFrame(beat=wire.Beat()))

    def _received(self, frame: wire.HubFrame) -> None:
        if frame.ack:
            self._outbox.acknowledged(frame.ack)
            self._acknowledged()
        if frame.HasField("offer"):
            self._see("offer", frame.offer)
            asyncio.get_running_loop().call_later(self._pace.think, self._answer, frame.offer)
        elif frame.HasField("withdraw"):
            self._see("withdraw", wire.Offer(rollout=frame.withdraw.rollout, attempt=frame.withdraw.attempt))
        elif frame.HasField("bye"):
            self._backoff.limits(float(max(1, frame.bye.retry_after_seconds)), 300.0)

    def _acknowledged(self) -> None:
        """Notes what the outbox does not hold any more."""
        left = {entry.key for entry in self._outbox.snapshot().entries}
        for key in [key for key in self._waiting if key not in left]:
            self._see(*self._waiting.pop(key))

    def _answer(self, offer: wire.Offer) -> None:
        """What an agent says of an offer whose cluster is ready at once, or after ``work``."""
        if self.outcome == "silent" or self.gone.is_set():
            return
        bundle, this = offer.release.bundle, (offer.rollout, offer.attempt)
        if self._taken.get(bundle) == this:
            self._reply(offer, wire.OfferReply.ACKNOWLEDGED)
            if self.outcome != "refused":
                self._report(self._stands[bundle], offer)
            return
        self._taken[bundle] = this
        self._see("taken", offer)
        if self.outcome == "refused":
            self._reply(offer, wire.OfferReply.REFUSED)
            return
        self._reply(offer, wire.OfferReply.ACKNOWLEDGED)
        self._report("applying", offer)
        if self._pace.work:
            after = random.uniform(0.5, 1.5) * self._pace.work
            asyncio.get_running_loop().call_later(after, self._settle, offer)
        else:
            self._settle(offer)

    def _settle(self, offer: wire.Offer) -> None:
        if (
            self.outcome == "cut" and self._waiting
        ):  # what it said of the offer is not taken yet: it was offline, not cut off
            asyncio.get_running_loop().call_later(0.1, self._settle, offer)
        elif self.outcome == "cut":
            self.gone.set()
        else:
            self._report(self.outcome, offer)

    def _reply(self, offer: wire.Offer, answer: wire.OfferReply.Answer.ValueType) -> None:
        reply = wire.OfferReply(
            rollout=offer.rollout, bundle=offer.release.bundle, attempt=offer.attempt, answer=answer
        )
        if answer == wire.OfferReply.REFUSED:
            reply.code, reply.message = "T001", "this stub was told to refuse"
        what = "acknowledged" if answer == wire.OfferReply.ACKNOWLEDGED else "settled"
        self._say(f"reply/{reply.bundle}", wire.AgentFrame(offer_reply=reply), what, offer)

    def _report(self, outcome: str, offer: wire.Offer) -> None:
        bundle = offer.release.bundle
        self._stands[bundle] = outcome
        phase, verdict = OUTCOMES.get(outcome, ("Applying", wire.OUTCOME_APPLYING))
        report = wire.Report(
            bundle=bundle,
            release=offer.release,
            rollout=offer.rollout,
            attempt=offer.attempt,
            phase=phase,
            outcome=verdict,
            object_count=3,
            ready_count=3,
            observed_unix_ms=int(time.time() * 1000),
            head_commit=offer.release.commit,
        )
        # A key of its own for each: the two reports of a slower cluster would both be sent.
        what = "settled" if outcome in OUTCOMES else "applying"
        self._say(f"report/{bundle}/{what}", wire.AgentFrame(report=report), what, offer)


def _request(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A certificate request in DER; each is another one, its signature is random."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


@dataclass(slots=True)
class Fleet:
    """All stubs, and what they saw."""

    hub: Hub
    pace: Pace
    stubs: dict[str, Stub] = field(default_factory=dict)
    seen: list[Sighting] = field(default_factory=list)
    secrets: dict[str, str] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    sessions: list[asyncio.Task[None]] = field(default_factory=list)

    def note(self, sighting: Sighting) -> None:
        self.seen.append(sighting)
        self.changed.set()

    async def ask(self, agents: int) -> dict[str, Any]:
        """A token and a join for each; the registry entries that approve them."""
        async with self._edge() as channel:
            operator, enrol = operator_pb2_grpc.OperatorStub(channel), link_pb2_grpc.EnrolStub(channel)
            metadata = [("authorization", f"Bearer {self.hub.token}")]
            info = await operator.GetInfo(op.GetInfoRequest(), metadata=metadata, timeout=CALL_DEADLINE)
            self.hub.link, self.hub.fleet_id = info.link_address, info.fleet_id

            async def one(name: str) -> None:
                stub = self.stubs[name] = Stub(name, self.hub, self.note, self.pace)
                request = op.CreateTokenRequest(cluster=name)
                made = await operator.CreateToken(request, metadata=metadata, timeout=CALL_DEADLINE)
                self.secrets[name] = made.secret
                await enrol.Join(stub.request(made.secret), timeout=CALL_DEADLINE)

            await _limited(one(f"stub-{number:05}") for number in range(agents))
        return {"entries": {name: stub.entry() for name, stub in self.stubs.items()}}

    async def connect(self) -> dict[str, Any]:
        """Certificates for all, which the coordinator must have approved; then a session each."""
        begun = time.time()
        async with self._edge() as channel:
            enrol = link_pb2_grpc.EnrolStub(channel)

            async def one(name: str, stub: Stub) -> None:
                answer = await enrol.Join(stub.request(self.secrets[name]), timeout=CALL_DEADLINE)
                if answer.state != wire.JoinResponse.APPROVED:
                    raise RuntimeError(f"{name} is not approved")
                stub.admitted(answer.certificate_pem)

            await _limited(one(name, stub) for name, stub in self.stubs.items())
        certified = time.time()
        self.sessions = [asyncio.create_task(stub.run()) for stub in self.stubs.values()]
        answer = await self.contact(begun, 300.0)
        return {"certificates s": certified - begun, "sessions s": max(answer["at"]) - certified}

    async def contact(self, since: float, patience: float) -> dict[str, Any]:
        """When each stub was first welcomed after ``since``, in unix seconds; waits until all were."""
        found: dict[str, float] = {}

        def look(sighting: Sighting) -> bool:
            if sighting.what == "welcome" and sighting.at > since:
                found.setdefault(sighting.cluster, sighting.at)
            return len(found) == len(self.stubs)

        await self._until(look, patience)
        whys = Counter(one.why for one in self.seen if one.what == "lost" and one.at > since)
        missing = sorted(self.stubs.keys() - found.keys())
        return {"at": sorted(found.values()), "missing": missing, "failures": dict(whys.most_common(5))}

    async def settle(self, commit: str, patience: float) -> dict[str, Any]:
        """When each stub got its offer of this commit and the hub's receipts for its answers, in unix seconds."""
        found: dict[str, dict[str, float]] = {"offer": {}, "acknowledged": {}, "settled": {}}

        def look(sighting: Sighting) -> bool:
            if sighting.commit == commit and sighting.what in found:
                found[sighting.what].setdefault(sighting.cluster, sighting.at)
            return len(found["settled"]) == len(self.stubs)

        await self._until(look, patience)
        missing = sorted(self.stubs.keys() - found["settled"].keys())
        return {**{what: sorted(times.values()) for what, times in found.items()}, "missing": missing}

    async def renew(self, over: float, counter: int) -> dict[str, Any]:
        """Each stub renews once within ``over`` seconds; streams that were lost until some seconds after it."""
        begun = time.time()
        took: list[float] = []
        failures: Counter[str] = Counter()

        async def one(stub: Stub) -> None:
            await asyncio.sleep(random.uniform(0.0, over))
            try:
                took.append(await stub.renew(counter))
            except grpc.aio.AioRpcError as error:
                failures[error.details() or error.code().name] += 1

        await asyncio.gather(*(one(stub) for stub in self.stubs.values()))
        spent = time.time() - begun
        await asyncio.sleep(LATE)
        lost = sum(one.what == "lost" and one.at > begun for one in self.seen)
        return {"took s": sorted(took), "within s": spent, "lost": lost, "failures": dict(failures)}

    async def _until(self, look: Callable[[Sighting], bool], patience: float) -> None:
        """Feeds what was seen, from the beginning on, to ``look`` until that is true or time is over."""
        place, until = 0, time.monotonic() + patience
        while True:
            self.changed.clear()
            while place < len(self.seen):
                place += 1
                if look(self.seen[place - 1]):
                    return
            for session in self.sessions:
                if session.done():
                    session.result()  # a stub that ends without being told to has an error, which is ours
            try:
                async with asyncio.timeout(until - time.monotonic()):
                    await self.changed.wait()
                    await asyncio.sleep(0.02)  # many at once: looking costs less than they do
            except TimeoutError:
                return

    def obey(self, clusters: Iterable[str], outcome: str) -> dict[str, Any]:
        for name in clusters:
            self.stubs[name].outcome = outcome
            if outcome == "away":
                self.stubs[name].gone.set()
        return {"outcome": outcome}

    def record(self, file: Path) -> dict[str, Any]:
        with file.open("w") as out:
            out.writelines(json.dumps(sighting._asdict()) + "\n" for sighting in self.seen)
        return {"seen": len(self.seen)}

    def _edge(self) -> grpc.aio.Channel:
        return grpc.aio.secure_channel(self.hub.edge, grpc.ssl_channel_credentials(self.hub.ca))


async def _limited(works: Iterable[Awaitable[None]]) -> None:
    """Runs all, a few at once."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(work: Awaitable[None]) -> None:
        async with gate:
            await work

    await asyncio.gather(*(one(work) for work in works))


async def serve(context: Path, agents: int, pace: Pace) -> None:
    """Until standard input ends."""
    fleet, loop = Fleet(Hub.of(context), pace), asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        order = json.loads(line)
        match order.pop("do"):
            case "ask":
                answer = await fleet.ask(agents)
            case "connect":
                answer = await fleet.connect()
            case "contact":
                answer = await fleet.contact(**order)
            case "settle":
                answer = await fleet.settle(**order)
            case "obey":
                answer = fleet.obey(**order)
            case "renew":
                answer = await fleet.renew(**order)
            case "record":
                answer = fleet.record(Path(order["file"]))
            case other:
                raise ValueError(f"this is no order: {other}")
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    for session in fleet.sessions:
        session.cancel()
    await asyncio.gather(*fleet.sessions, return_exceptions=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--context", type=Path, required=True, help="the coordinator's context.json")
    parser.add_argument("--agents", type=int, default=300)
    parser.add_argument("--think", type=float, default=0.25, help="seconds from an offer to the first answer")
    parser.add_argument(
        "--work", type=float, default=0.0, help="seconds from the first answer to the verdict"
    )
    parser.add_argument("--dial", type=float, default=0.0, help="longest wait before it dials again")
    arguments = parser.parse_args()
    pace = Pace(arguments.think, arguments.work, arguments.dial)
    asyncio.run(serve(arguments.context, arguments.agents, pace))
    return 0


if __name__ == "__main__":
    sys.exit(main())
