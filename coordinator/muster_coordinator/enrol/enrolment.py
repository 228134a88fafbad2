"""From a proven join to a client certificate.

Owns the meeting of two facts: a join that was proven with a token (or, once known, with the identity key alone), and a
registry entry with the same identity; and the highest renewal counter of each identity, which finds copies of an agent. It
never invents an entry.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import msgspec
from muster_core.errors import JoinError, LinkError, MusterError
from muster_core.sealing.keys import encode_identity
from muster_host.auditlog import AuditLog
from muster_proto.v1 import link_pb2 as wire

from muster_coordinator.enrol import tokens
from muster_coordinator.enrol.x509 import Authority
from muster_coordinator.rollout.effects import Effects
from muster_coordinator.rollout.engine import Engine
from muster_coordinator.store.port import JoinRow, Store

RETRY_SECONDS = 1
_REBUILT = "If the cluster was rebuilt: muster cluster remove {0}, then muster cluster approve {0}."


def unread_registry() -> LinkError:
    """The answer of a coordinator that has just started: who is registered is not known yet."""
    return LinkError(
        "L051", "the coordinator has not read the registry yet", hint="It does so by itself.", retryable=True
    )


class Enrolment:
    """``clock`` gives unix seconds."""

    def __init__(
        self,
        engine: Engine,
        store: Store,
        authority: Authority,
        clock: Callable[[], float],
        audit: AuditLog,
    ) -> None:
        self._engine, self._store, self._authority, self._clock = engine, store, authority, clock
        self._audit = audit
        # Hears ``renewed`` or ``refused`` of every renewal.
        self.renewing: Callable[[str], None] = lambda result: None
        # Identities that were seen twice, by cluster: (identity, unix seconds of the last time).
        self.disputed: dict[str, tuple[bytes, float]] = {}

    async def join(self, request: wire.JoinRequest) -> wire.JoinResponse:
        """Pending until the registry has an entry with this identity; then the certificate.

        Without a token only a registered identity is answered, and its counter must rise as in :meth:`renew`.
        """
        now, name = self._clock(), request.cluster_name
        tokens.proven(request)
        known = self._engine.state.clusters.get(name)
        if known and known.join and known.join.refused and known.join.identity == request.identity_key:
            raise JoinError(
                "J017",
                "an operator has turned this join down",
                object=name,
                hint="If that was a mistake, join with a new token and an empty state folder.",
            )
        if request.token_secret:
            row = await tokens.admit(self._store, request, known.join if known else None, int(now))
        else:
            self._registered(name, request.identity_key, request.cluster_uid)
            row = tokens.row_of(request, known.join if known else None, int(now))
            row = msgspec.structs.replace(row, renewals=request.counter)
        certificate = self._certificate(row, now)
        if certificate:
            row = msgspec.structs.replace(row, issued=int(now))
        await self._engine.ask(self._keep(row, None if request.token_secret else request.counter))
        if certificate:
            return wire.JoinResponse(
                state=wire.JoinResponse.APPROVED, certificate_pem=certificate, ca_pem=self._authority.pem
            )
        return wire.JoinResponse(state=wire.JoinResponse.PENDING, retry_after_seconds=RETRY_SECONDS)

    def _keep(self, row: JoinRow, counter: int | None = None) -> Callable[[Effects, float], None]:
        """Makes a join durable; with a ``counter`` only if it rises: judged in the engine's turn, so never twice."""

        def work(effects: Effects, now: float) -> None:
            cluster = self._engine.state.cluster(row.cluster)
            known = cluster.join
            highest = known.renewals if known and known.identity == row.identity else 0
            if counter is not None and counter <= highest:
                self.disputed[row.cluster] = (row.identity, now)
                error = JoinError(
                    "J032",
                    "this renewal was seen before: there may be two agents with one identity",
                    object=row.cluster,
                    hint=f"Find the other one; then: muster cluster remove {row.cluster}, and approve the right one anew.",
                )
                cluster.alarm = str(error)
                self._audit.record(
                    "clone-alarm",
                    actor=f"cluster/{row.uid}",
                    object=f"cluster/{row.cluster}",
                    result="refused",
                    code="MUSTER-J032",
                    identity=row.identity.hex(),
                    counter=str(counter),
                    known=str(highest),
                )
                effects.lines.append(f"{error} Its counter is {counter}, {highest} was seen.")
                effects.clusters.add(row.cluster)
                raise error
            if known is None or known.identity != row.identity:
                cluster.alarm = ""
            if known is None:
                effects.lines.append(f"{row.cluster} asks to join")
            if known is None or known.identity != row.identity:
                self._audit.record(
                    "join",
                    actor=f"cluster/{row.uid}",
                    object=f"cluster/{row.cluster}",
                    identity=row.identity.hex(),
                )
            if row.issued and (known is None or row.issued != known.issued or known.identity != row.identity):
                self._audit.record(
                    "certificate-issued",
                    actor=f"cluster/{row.uid}",
                    object=f"cluster/{row.cluster}",
                    identity=row.identity.hex(),
                )
            kept = msgspec.structs.replace(row, renewals=max(row.renewals, highest))
            cluster.join = kept
            effects.batch.joins[row.cluster] = kept
            effects.clusters.add(row.cluster)

        return work

    def _registered(self, name: str, identity: bytes, uid: str) -> None:
        """``MUSTER-J030`` or ``J031`` for who is not in the registry with this identity; ``L051`` while it is unread."""
        if not self._engine.state.reading.heads.commit:
            raise unread_registry()
        cluster = self._engine.state.clusters.get(name)
        if cluster is None or cluster.entry is None:
            raise JoinError("J030", "this cluster is not in the registry", object=name)
        if cluster.entry.spec.identity_key != encode_identity(identity) or cluster.entry.spec.uid != uid:
            raise JoinError(
                "J031",
                "the registry has this name with another identity",
                object=name,
                hint=_REBUILT.format(name),
            )

    def _certificate(self, row: JoinRow, now: float) -> bytes | None:
        cluster = self._engine.state.clusters.get(row.cluster)
        entry = cluster.entry if cluster else None
        if entry is None:
            return None
        if entry.spec.identity_key != encode_identity(row.identity) or entry.spec.uid != row.uid:
            raise JoinError(
                "J031",
                "the registry has this name with another identity",
                object=row.cluster,
                hint=_REBUILT.format(row.cluster),
            )
        return self._authority.client(
            row.csr, row.cluster, row.uid, row.identity, dt.datetime.fromtimestamp(now, dt.UTC)
        )

    async def renew(self, name: str, identity: bytes, request: wire.RenewRequest) -> wire.RenewResponse:
        """A new certificate for a registered cluster. The counter must rise (a copy of an agent would repeat it)."""
        try:
            answer = await self._renew(name, identity, request)
        except MusterError:
            self.renewing("refused")
            raise
        self.renewing("renewed")
        return answer

    async def _renew(self, name: str, identity: bytes, request: wire.RenewRequest) -> wire.RenewResponse:
        cluster, now = self._engine.state.clusters[name], self._clock()
        if cluster.entry is None:
            raise JoinError("J030", "this cluster is not in the registry", object=name)
        spec = cluster.entry.spec
        certificate = self._authority.client(
            request.csr_der, name, spec.uid, identity, dt.datetime.fromtimestamp(now, dt.UTC)
        )
        known = cluster.join
        if known is None or known.identity != identity:
            # The database was lost: what the registry says and the certificate proved is enough to begin anew.
            known = JoinRow(
                cluster=name,
                uid=spec.uid,
                identity=identity,
                sealing=b"",
                sealing_generation=0,
                sealing_signature=b"",
                csr=request.csr_der,
                requested=int(now),
                agent_version=cluster.agent_version,
            )
        row = msgspec.structs.replace(known, renewals=request.counter, issued=int(now))
        await self._engine.ask(self._keep(row, request.counter))
        return wire.RenewResponse(certificate_pem=certificate, ca_pem=self._authority.pem)
