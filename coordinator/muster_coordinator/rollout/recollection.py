"""What agents remember of this coordinator that its database does not: the sign of an old one that was put back.

A coordinator says that it holds a message only when the message is on its disk. An agent that was told so by more than the
database knows has therefore talked to a later state of this very database: a backup was restored, or a disk lost writes.
Owns that comparison, and the alarm's own log (stream ``memory/<cluster>``), so that it outlives a restart until an operator
acknowledges it. A database that knew no agent at all is a new one, which is rebuilt from Git and reports: that is said once
and is no alarm. It judges no agent, and takes nothing back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import msgspec
from muster_core.errors import LinkError
from muster_core.session.inbox import LAST_SEQ
from muster_proto.v1 import link_pb2 as wire

from muster_coordinator.rollout.effects import Effects
from muster_coordinator.rollout.fleetstate import ClusterState
from muster_coordinator.rollout.record import Recorder
from muster_coordinator.store.port import EventRow

STREAM = "memory/"


class Forgotten(msgspec.Struct, frozen=True, tag_field="event", tag="forgotten"):
    """The agent was told that ``told`` of its messages are held; the database knew ``known`` of them."""

    at: float
    known: int
    told: int


class Acknowledged(msgspec.Struct, frozen=True, tag_field="event", tag="acknowledged"):
    """An operator knows why."""

    at: float


Noted = Literal["forgotten", "rebuilt"]


class Recollection:
    """``knew_agents``: the database had a session of some agent when it was opened. ``noted`` hears of news, for the audit
    log."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._rebuilt = False
        self.knew_agents = False
        self.noted: Callable[[Noted, ClusterState, int, int], None] = lambda what, cluster, known, told: None

    def load(self, cluster: ClusterState, rows: Iterable[EventRow]) -> None:
        """The alarm that is open for a cluster, as the store has it."""
        for row in rows:
            match msgspec.msgpack.decode(row.data, type=Forgotten | Acknowledged):
                case Forgotten() as event:
                    cluster.forgot = _text(cluster.name, event)
                case Acknowledged():
                    cluster.forgot = ""

    def resumed(self, cluster: ClusterState, hello: wire.Hello, effects: Effects, now: float) -> int:
        """Begins a session's numbering: the highest message of this epoch that is held, by anybody's memory."""
        inbox, told = cluster.inbox, hello.acked_seq
        epoch, known = inbox.epoch, inbox.resume(hello.session_epoch)
        if not known < told <= LAST_SEQ:
            return known
        if epoch == hello.session_epoch:
            self._forgotten(cluster, Forgotten(now, known, told), effects)
        elif not (epoch or self.knew_agents or self._rebuilt):
            self._rebuilt = True
            effects.lines.append(
                f"the database is new, and {cluster.name} knows this coordinator: it is rebuilt from Git and reports"
            )
            self.noted("rebuilt", cluster, known, told)
        inbox.stored(told)  # what the agent was told that we hold, it says no more
        return told

    def _forgotten(self, cluster: ClusterState, event: Forgotten, effects: Effects) -> None:
        was_open, cluster.forgot = bool(cluster.forgot), _text(cluster.name, event)
        self._keep(cluster.name, event, effects)
        effects.clusters.add(cluster.name)
        if not was_open:
            effects.lines.append(cluster.forgot)
        self.noted("forgotten", cluster, event.known, event.told)

    def acknowledged(self, cluster: ClusterState, effects: Effects, now: float) -> None:
        """An operator knows why; nothing when no alarm is open."""
        if cluster.forgot:
            cluster.forgot = ""
            self._keep(cluster.name, Acknowledged(now), effects)
            effects.clusters.add(cluster.name)

    def _keep(self, name: str, event: Forgotten | Acknowledged, effects: Effects) -> None:
        stream = STREAM + name
        effects.batch.events.append(
            EventRow(stream, self._recorder.number(stream), msgspec.msgpack.encode(event))
        )


def _text(name: str, event: Forgotten) -> str:
    return str(
        LinkError(
            "L046",
            f"the database is older than what {name} was told: {event.told} of its messages were taken, and "
            f"{event.known} are known",
            object=name,
            hint="Was a backup restored? No cluster goes back. Compare: muster get rollouts; then: "
            f"muster cluster acknowledge {name}.",
        )
    )
