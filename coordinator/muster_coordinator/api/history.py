"""The log of one rollout, as operators read and follow it.

Owns paging through the store and the words of each event. What is told is what is durable: a follower is woken when there is
more, and reads it where it was written. It never changes anything.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import anyio
import msgspec
from muster_core.rollout import events as ev
from muster_core.rollout.machine import RolloutMachine
from muster_proto.v1 import operator_pb2 as op

from muster_coordinator.api import views
from muster_coordinator.api.answers import no_rollout
from muster_coordinator.api.watchers import Watchers
from muster_coordinator.rollout.engine import Engine
from muster_coordinator.rollout.narration import event_line
from muster_coordinator.store.port import EventRow, Store

# What has no line in the log of the coordinator, since too much of it happens.
SAID = {
    "withdrawn": "is offered nothing for now",
    "staged": "has prepared all of it and waits for its time",
    "applying": "is applying",
    "soak-suspended": "is out of contact, and its soak stands still",
    "soak-resumed": "is back in contact, and its soak goes on",
    "soak-broken": "became unhealthy while soaking",
    "done": "is done",
    "deferral-ended": "may take it now",
    "wave-settled": "asks the gates after",
    "released": "is held no longer",
    "clocks-deferred": "gives everybody time, since the coordinator was away",
    "carried-settled": "is done with the rollout before",
}
PAGE = 500
LAST = 2**63 - 1  # as far as a store counts
SETTLE = 2.0  # seconds that a commit may take


@dataclass(slots=True)
class HistoryApi:
    engine: Engine
    store: Store
    watchers: Watchers

    async def events(self, request: op.ListEventsRequest) -> AsyncIterator[op.RolloutEvent]:
        """From ``after`` on. With ``follow`` it goes on until the rollout has ended; ``MUSTER-L042`` for an unknown one."""
        name, last = request.rollout, min(request.after, LAST)
        machine = self.engine.state.rollouts.get(name)
        if machine is None:
            raise no_rollout(name)
        newest = self.engine.newest(name)
        last = max(last, newest - request.tail) if request.tail else last
        with self.watchers.follow(name) as follower:
            quiet = False
            while True:
                ended = machine.has_ended  # in memory, which is ahead of what is durable
                rows = await self.store.events(name, last, PAGE)
                for row in rows:
                    last, event = row.number, ev.decode(row.data)
                    yield _told(machine, row, event, whole=request.whole)
                if len(rows) == PAGE:
                    continue
                if request.views:
                    yield op.RolloutEvent(view=views.rollout_view(machine, targets=False))
                if rows and isinstance(event, ev.Ended):
                    return
                if quiet or not request.follow:
                    return
                quiet = (
                    ended and not rows
                )  # nothing, for as long as a commit takes: ``after`` is past its end
                with anyio.move_on_after(SETTLE if ended else math.inf):
                    await follower.wait()


def _told(machine: RolloutMachine, row: EventRow, event: ev.AnyEvent, *, whole: bool) -> op.RolloutEvent:
    return op.RolloutEvent(
        number=row.number,
        at_unix_ms=int(event.at * 1000),
        event=str(event.__struct_config__.tag),
        cluster=event.cluster if isinstance(event, ev.TargetEvent) else "",
        text=event_line(machine, event) or _words(machine, event),
        data=row.data if whole else b"",
    )


def _words(machine: RolloutMachine, event: ev.AnyEvent) -> str:
    """An event that has no sentence of its own: its name, and what it says besides when and to whom."""
    said: dict[str, Any] = msgspec.to_builtins(event)
    tag, cluster = said.pop("event"), said.pop("cluster", machine.name)
    said.pop("at")
    if isinstance(index := said.get("wave"), int) and index < len(machine.waves):
        said["wave"] = machine.waves[index].spec.name
    rest = ", ".join(f"{key} {value}" for key, value in said.items() if value not in ("", None, [], {}))
    return f"{cluster} {SAID.get(tag, tag)}" + (f": {rest}" if rest else "")
