"""Becoming known: from a token to a certificate.

Owns the keys' making, the join request and its proof, and the wait for approval. Joining again with the same identity is
idempotent, so a crash at any point is mended by starting again.
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
from muster_core.token import JoinToken
from muster_proto.v1 import link_pb2 as wire

from muster_agent.identity import x509
from muster_agent.state.port import StatePort
from muster_agent.state.records import Enrolment, Identity, Repository

log = structlog.get_logger()

CAPABILITY = 1
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


def join_request(identity: Identity, enrolment: Enrolment) -> wire.JoinRequest:
    """The request and its proof."""
    key, sealing = identity_key(identity), sealing_key(identity)
    csr = x509.request(identity.tls_key, enrolment.cluster)
    statement = join_statement(
        enrolment.token_secret, enrolment.cluster, enrolment.uid, key.public, sealing.public, csr
    )
    owned = sealing_key_statement(enrolment.fleet_id, enrolment.uid, sealing.public, sealing.generation)
    return wire.JoinRequest(
        capability=CAPABILITY,
        token_secret=enrolment.token_secret,
        cluster_name=enrolment.cluster,
        cluster_uid=enrolment.uid,
        identity_key=key.public,
        sealing_key=sealing.public,
        sealing_generation=sealing.generation,
        sealing_signature=key.sign(owned),
        csr_der=csr,
        proof=key.sign(statement),
        agent_version=version("muster-fleet"),
        fleet_id=enrolment.fleet_id,
    )


async def join(
    state: StatePort, identity: Identity, enrolment: Enrolment, call: Join, backoff: Backoff
) -> Enrolment:
    """Asks until somebody approved; returns with a certificate. A refusal of the token is final and raised."""
    request = join_request(identity, enrolment)
    log.info(
        "joining",
        cluster=enrolment.cluster,
        identity=fingerprint(request.identity_key),
        sealing=fingerprint(request.sealing_key),
    )
    while True:
        try:
            response = await call(enrolment, request)
        except MusterError as error:
            if not error.retryable:
                raise
            log.warning("the coordinator cannot be reached yet", error=str(error))
            await anyio.sleep(backoff.next_delay())
            continue
        if response.state == wire.JoinResponse.APPROVED:
            enrolment = msgspec.structs.replace(enrolment, certificate=response.certificate_pem.decode())
            state.put("enrolment", enrolment)
            log.info("joined", cluster=enrolment.cluster)
            return enrolment
        await anyio.sleep(max(1, min(60, response.retry_after_seconds)))
