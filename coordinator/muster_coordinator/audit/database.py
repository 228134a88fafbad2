"""What agents show of the database's own past, as entries of the coordinator's audit log.

Owns the entry and the log line; whether the database went back is judged by the rollouts' side (``recollection``).
"""

from __future__ import annotations

import structlog
from muster_host.auditlog import AuditLog

from muster_coordinator.rollout.engine import Engine
from muster_coordinator.rollout.fleetstate import ClusterState
from muster_coordinator.rollout.recollection import Noted

log = structlog.get_logger()


class DatabaseWitness:
    """Takes its place in the engine's conversation when it is made."""

    def __init__(self, engine: Engine, audit: AuditLog) -> None:
        self._audit = audit
        engine.agents.recollection.noted = self._noted

    def _noted(self, what: Noted, cluster: ClusterState, known: int, told: int) -> None:
        uid = cluster.entry.spec.uid if cluster.entry else ""
        actor, thing = f"cluster/{uid}", f"cluster/{cluster.name}"
        if what == "rebuilt":
            log.warning("the database is new and is rebuilt from Git and agents' reports", first=cluster.name)
            self._audit.record("database-rebuilt", actor=actor, object=thing)
            return
        log.error("the database went back", error=cluster.forgot)
        self._audit.record(
            "database-alarm", actor=actor, object=thing, result="refused", code="MUSTER-L046",
            known=str(known), told=str(told),
        )  # fmt: skip
