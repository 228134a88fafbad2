"""Join tokens and joins: who may ask to become which cluster.

Owns the secret part of tokens (only its hash is kept), single use bound to one cluster name, and the proof that a joiner
holds its identity key. It never approves: that is a registry entry.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable

from muster_core.errors import JoinError
from muster_core.sealing.keys import fingerprint, join_statement, verify
from muster_proto.v1 import link_pb2 as wire

from muster_coordinator.enrol.x509 import read_csr
from muster_coordinator.store.port import JoinRow, Store, TokenRow

SECRET_BYTES = 32
MAX_TTL = 7 * 86400


def digest_of(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


async def create(
    store: Store, cluster: str, ttl: int, now: int, random: Callable[[int], bytes]
) -> tuple[TokenRow, str]:
    """A token and its secret part, which nobody can read again. ``MUSTER-J002`` for a life outside 1 s to 7 d."""
    if not 0 < ttl <= MAX_TTL:
        raise JoinError("J002", "a token lives between a second and seven days", object=cluster)
    secret = base64.urlsafe_b64encode(random(SECRET_BYTES)).decode().rstrip("=")
    row = TokenRow(random(6).hex(), digest_of(secret), cluster, now, now + ttl)
    await store.add_token(row)
    return row, secret


def proven(request: wire.JoinRequest) -> None:
    """``MUSTER-J007`` unless the request is signed by the identity key that it names; ``J021`` for a bad CSR."""
    name = request.cluster_name
    statement = join_statement(
        request.token_secret or f"counter:{request.counter}",
        name,
        request.cluster_uid,
        request.identity_key,
        request.sealing_key,
        request.csr_der,
    )
    if (
        len(request.identity_key) != 32
        or len(request.sealing_key) != 32
        or not verify(request.identity_key, statement, request.proof)
    ):
        raise JoinError("J007", "the join is not signed by the identity key that it names", object=name)
    read_csr(request.csr_der)


async def admit(store: Store, request: wire.JoinRequest, known: JoinRow | None, now: int) -> JoinRow:
    """The join that a proven request asks for. Asking again with the same identity and token is idempotent until
    the first renewal: from then on the identity key is the proof, and a copy that still has the token gets nothing.

    ``MUSTER-J003`` wrong token, ``J004`` used, ``J005`` expired, ``J006`` for another cluster.
    """
    name, identity = request.cluster_name, fingerprint(request.identity_key)
    token = await store.consume_token(digest_of(request.token_secret), name, identity, now)
    if token is None:
        raise JoinError(
            "J003", "the token is not known here", object=name, hint="Make a new one: muster token create."
        )
    if token.cluster != name:
        raise JoinError(
            "J006",
            f"the token is for cluster {token.cluster}",
            object=name,
            hint=f"Make one for it: muster token create --cluster {name}.",
        )
    renewed = known is not None and known.identity == request.identity_key and known.renewals > 0
    if token.used and (token.identity != identity or renewed):
        raise JoinError(
            "J004",
            "the token was used before, "
            + ("and its certificate was renewed" if renewed else "by another identity"),
            object=name,
            hint="Make a new one: muster token create.",
        )
    if not token.used and token.expires <= now:
        raise JoinError(
            "J005", "the token has expired", object=name, hint="Make a new one: muster token create."
        )
    return row_of(request, known, now)


def row_of(request: wire.JoinRequest, known: JoinRow | None, now: int) -> JoinRow:
    """What is kept of a request; what is known of the same identity stays."""
    again = known is not None and known.identity == request.identity_key and known.uid == request.cluster_uid
    return JoinRow(
        cluster=request.cluster_name,
        uid=request.cluster_uid,
        identity=request.identity_key,
        sealing=request.sealing_key,
        sealing_generation=request.sealing_generation,
        sealing_signature=request.sealing_signature,
        csr=request.csr_der,
        requested=known.requested if again and known else now,
        agent_version=request.agent_version,
        issued=known.issued if again and known else 0,
        renewals=known.renewals if again and known else 0,
    )
