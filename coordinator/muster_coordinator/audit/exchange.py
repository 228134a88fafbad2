"""Heads of agents' audit logs on their way: from the line to the keeper, and back as an acknowledgement or an alarm.

Owns which cluster a writer is, and that an alarm reaches people: beside the cluster, and among the events. It compares and
keeps nothing itself.
"""

from __future__ import annotations

import anyio
import structlog
from muster_proto.v1 import link_pb2 as wire

from muster_coordinator.audit.heads import Alarm
from muster_coordinator.audit.keeper import HeadKeeper
from muster_coordinator.rollout.effects import Effects, Work
from muster_coordinator.rollout.engine import Engine
from muster_coordinator.rollout.fleetstate import ClusterState

log = structlog.get_logger()

WRITER = "cluster/"
ALARMS = ("MUSTER-T090", "MUSTER-T091")


class HeadExchange:
    """Takes its places in the engine's conversation and in the keeper when it is made."""

    def __init__(self, engine: Engine, keeper: HeadKeeper) -> None:
        self._engine, self._keeper = engine, keeper
        self._names: dict[str, str] = {}
        engine.agents.heard_head = self.heard
        keeper.kept, keeper.alarmed, keeper.settled = self._kept, self._alarmed, self._settled

    def heard(self, cluster: ClusterState, seq: int, digest: bytes) -> int:
        """What a registered cluster's agent says of its log; how much of it is kept for good."""
        if cluster.entry is None:
            return 0
        writer = WRITER + cluster.entry.spec.uid
        self._names[writer] = cluster.name
        self._keeper.told(writer, seq, digest)
        if alarm := self._keeper.heads.alarm(writer):
            cluster.alarm = alarm.message
        return self._keeper.acknowledged(writer)

    def _kept(self, kept: dict[str, int]) -> None:
        """Through the engine's turn, so that none overtakes the welcome of its session and is lost."""

        def work(effects: Effects, now: float) -> None:
            for writer, seq in kept.items():
                if name := self._names.get(writer):
                    effects.sends.append((name, wire.HubFrame(beat=wire.Beat(audit_ack=seq))))

        self._submit(work, "an acknowledgement waits for the next hello")

    def _alarmed(self, alarm: Alarm) -> None:
        name = self._names.get(alarm.writer, "")

        def work(effects: Effects, now: float) -> None:
            effects.lines.append(alarm.message)
            if name in self._engine.state.clusters:
                effects.clusters.add(name)

        self._submit(work, "an alarm is in the audit log, and watchers are not told of it")

    def _submit(self, work: Work, otherwise: str) -> None:
        try:
            self._engine.submit_nowait(work)
        except anyio.WouldBlock:
            log.warning("the engine's queue is full", so=otherwise)

    def _settled(self, writer: str) -> None:
        cluster = self._engine.state.clusters.get(self._names.get(writer, ""))
        if cluster and cluster.alarm.startswith(ALARMS):
            cluster.alarm = ""
