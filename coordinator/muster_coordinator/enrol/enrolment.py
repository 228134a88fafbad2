"""From a proven join to a client certificate.

Owns the meeting of two facts: a join that was proven with a token, and a registry entry with the same identity. It never
invents the second.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import msgspec
from muster_core.errors import JoinError, LinkError
from muster_core.sealing.keys import decode_public, encode_identity
from muster_proto.v1 import link_pb2 as wire

from muster_coordinator.enrol import tokens
from muster_coordinator.enrol.x509 import Authority
from muster_coordinator.rollout.engine import Effects, Engine
from muster_coordinator.store.port import JoinRow, Store

RETRY_SECONDS = 1


def unread_registry() -> LinkError:
    """The answer of a coordinator that has just started: who is registered is not known yet."""
    return LinkError(
        "L051", "the coordinator has not read the registry yet", hint="It does so by itself.", retryable=True
    )


class Enrolment:
    """``clock`` gives unix seconds."""

    def __init__(
        self, engine: Engine, store: Store, authority: Authority, clock: Callable[[], float]
    ) -> None:
        self._engine, self._store, self._authority, self._clock = engine, store, authority, clock

    async def join(self, request: wire.JoinRequest) -> wire.JoinResponse:
        """Pending until the registry has an entry with this identity; then the certificate."""
        now = self._clock()
        known = self._engine.state.clusters.get(request.cluster_name)
        row = await tokens.admit(self._store, request, known.join if known else None, int(now))
        certificate = self._certificate(row, now)
        if certificate:
            row = msgspec.structs.replace(row, issued=int(now))
        await self._engine.ask(self._keep(row))
        fleet = self._engine.state.reading.contents.fleet
        fleet_id = fleet.spec.id if fleet else ""
        if certificate:
            return wire.JoinResponse(
                state=wire.JoinResponse.APPROVED, certificate_pem=certificate, fleet_id=fleet_id
            )
        return wire.JoinResponse(
            state=wire.JoinResponse.PENDING, retry_after_seconds=RETRY_SECONDS, fleet_id=fleet_id
        )

    def _keep(self, row: JoinRow) -> Callable[[Effects, float], None]:
        def work(effects: Effects, now: float) -> None:
            cluster = self._engine.state.cluster(row.cluster)
            if cluster.join is None:
                effects.lines.append(f"{row.cluster} asks to join")
            cluster.join = row
            effects.batch.joins[row.cluster] = row
            effects.clusters.add(row.cluster)

        return work

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
                hint="If the cluster was rebuilt, remove its entry from the registry and approve it anew.",
            )
        return self._authority.client(
            row.csr, row.cluster, row.uid, row.identity, dt.datetime.fromtimestamp(now, dt.UTC)
        )

    async def renew(self, name: str, request: wire.RenewRequest) -> wire.RenewResponse:
        """A new certificate for a registered cluster. The counter must rise (a copy of an agent would repeat it)."""
        cluster, now = self._engine.state.clusters[name], self._clock()
        if cluster.join is None or cluster.entry is None:
            raise JoinError("J030", "this cluster is not in the registry", object=name)
        if request.counter <= cluster.join.renewals:
            raise JoinError(
                "J032",
                "this renewal was seen before: there may be two agents with one identity",
                object=name,
                hint="Find the other one; then remove the registry entry and approve the right one anew.",
            )
        certificate = self._authority.client(
            request.csr_der,
            name,
            cluster.entry.spec.uid,
            decode_public(cluster.entry.spec.identity_key),
            dt.datetime.fromtimestamp(now, dt.UTC),
        )
        row = msgspec.structs.replace(cluster.join, renewals=request.counter, issued=int(now))
        await self._engine.ask(self._keep(row))
        return wire.RenewResponse(certificate_pem=certificate)
