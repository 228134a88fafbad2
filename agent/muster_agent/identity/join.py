"""Becoming known, and staying it: from a token to a certificate, and from a certificate to the next.

Owns the keys' making, the join request and its proof, the wait for approval, and the counter of renewals, which is on disk
before it is sent. Joining again with the same identity is idempotent, so a crash at any point is mended by starting again.
The token is forgotten with the first certificate: from then on the identity key is the only proof.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.metadata import version

import anyio
import msgspec
import structlog
from muster_core.errors import JoinError, MusterError
from muster_core.sealing.keys import (
    IdentityKey,
    SealingKey,
    fingerprint,
    join_statement,
    sealing_key_statement,
)
from muster_core.session.backoff import Backoff
from muster_core.session.capability import CAPABILITY
from muster_core.token import JoinToken
from muster_proto.v1 import link_pb2 as wire

from muster_agent.identity import x509
from muster_agent.state.port import StatePort
from muster_agent.state.records import Enrolment, Identity, Repository

log = structlog.get_logger()

Join = Callable[[Enrolment, wire.JoinRequest], Awaitable[wire.JoinResponse]]


def load_identity(state: StatePort) -> Identity:
    """This cluster's keys, made at the first start."""
    identity = state.get("identity", Identity)
    if identity is None:
        sealing = SealingKey.generate()
        identity = Identity(
            IdentityKey.generate().seed.hex(), sealing.private.hex(), sealing.generation, x509.new_key()
        )
        state.put("identity", identity)
    return identity


def identity_key(identity: Identity) -> IdentityKey:
    return IdentityKey.from_seed(bytes.fromhex(identity.seed))


def sealing_key(identity: Identity) -> SealingKey:
    return SealingKey.from_bytes(bytes.fromhex(identity.sealing), identity.generation)


def enrolment_of(state: StatePort, token: JoinToken | None, cluster: str | None, uid: str) -> Enrolment:
    """What the join fixed, or fixes now. ``MUSTER-J040`` without token and state, ``J041``, ``J042`` when they disagree."""
    known = state.get("enrolment", Enrolment)
    if known is not None and known.uid != uid:
        raise JoinError(
            "J042",
            "the state folder belongs to another cluster",
            object=known.cluster,
            hint="Give this cluster a folder of its own.",
        )
    if known is not None and (known.certificate or token is None):
        return known
    if token is None:
        raise JoinError(
            "J040",
            "this agent has not joined yet and has no token",
            hint="Make one: muster token create; pass --token-file FILE.",
        )
    name = cluster or token.cluster
    if name != token.cluster:
        raise JoinError(
            "J041",
            f"the token is for cluster {token.cluster}",
            object=name,
            hint=f"Make one for it: muster token create --cluster {name}.",
        )
    enrolment = Enrolment(
        cluster=name,
        uid=uid,
        edge_address=token.edge_address,
        link_address=token.link_address,
        ca_pem=token.ca_pem.decode(),
        mode=token.mode,
        trust_digest=token.trust_digest,
        fleet_id=token.fleet_id,
        token_secret=token.secret,
        repositories=tuple(Repository(r.name, r.url, r.branch, r.anchor) for r in token.repositories),
    )
    state.put("enrolment", enrolment)
    return enrolment


def counted(state: StatePort, enrolment: Enrolment) -> Enrolment:
    """The next number of a renewal, on disk: whoever repeats an older one is a copy of this agent."""
    enrolment = msgspec.structs.replace(enrolment, renewals=enrolment.renewals + 1)
    state.put("enrolment", enrolment)
    return enrolment


def renewed(state: StatePort, enrolment: Enrolment, certificate: bytes, ca_pem: bytes) -> Enrolment:
    """The new certificate, and the authorities to believe from now on, on disk. The token has done its work."""
    if ca_pem and not x509.is_authority(ca_pem):
        log.warning("the coordinator's CA bundle is none; the known one stays")
        ca_pem = b""
    enrolment = msgspec.structs.replace(
        enrolment,
        certificate=certificate.decode(),
        ca_pem=ca_pem.decode() or enrolment.ca_pem,
        token_secret="",
    )
    state.put("enrolment", enrolment)
    return enrolment


def join_request(identity: Identity, enrolment: Enrolment) -> wire.JoinRequest:
    """The request and its proof: with the token, or (where a certificate was given before) with the counter."""
    key, sealing = identity_key(identity), sealing_key(identity)
    csr = x509.request(identity.tls_key, enrolment.cluster)
    secret = "" if enrolment.certificate else enrolment.token_secret
    statement = join_statement(
        secret or f"counter:{enrolment.renewals}",
        enrolment.cluster,
        enrolment.uid,
        key.public,
        sealing.public,
        csr,
    )
    owned = sealing_key_statement(enrolment.fleet_id, enrolment.uid, sealing.public, sealing.generation)
    return wire.JoinRequest(
        capability=CAPABILITY,
        token_secret=secret,
        cluster_name=enrolment.cluster,
        cluster_uid=enrolment.uid,
        identity_key=key.public,
        sealing_key=sealing.public,
        sealing_generation=sealing.generation,
        sealing_signature=key.sign(owned),
        csr_der=csr,
        proof=key.sign(statement),
        agent_version=version("muster-fleet"),
        counter=0 if secret else enrolment.renewals,
    )


async def join(
    state: StatePort, identity: Identity, enrolment: Enrolment, call: Join, backoff: Backoff
) -> Enrolment:
    """Asks until somebody approved; returns with a certificate. A refusal is final and raised.

    Who had a certificate before (it lapsed while the cluster was away) asks with the identity key alone.
    """
    known_before = bool(enrolment.certificate)
    log.info(
        "coming back with the identity key" if known_before else "joining",
        cluster=enrolment.cluster,
        identity=fingerprint(identity_key(identity).public),
        sealing=fingerprint(sealing_key(identity).public),
        **({} if known_before else {"approve_with": f"muster cluster approve {enrolment.cluster}"}),
    )
    request = None
    while True:
        if known_before:
            enrolment = counted(state, enrolment)
        if known_before or request is None:
            request = join_request(identity, enrolment)
        await state.durable()  # keys and counter, before anybody hears of them
        try:
            response = await call(enrolment, request)
        except MusterError as error:
            if not error.retryable:
                raise
            log.warning("the coordinator cannot be reached yet", error=str(error))
            await anyio.sleep(backoff.next_delay())
            continue
        if response.state == wire.JoinResponse.APPROVED:
            enrolment = renewed(state, enrolment, response.certificate_pem, response.ca_pem)
            await state.durable()
            log.info("joined", cluster=enrolment.cluster)
            return enrolment
        await anyio.sleep(max(1, min(60, response.retry_after_seconds)))
