"""Looks at the gates that somebody has to look at: HTTP checks and Prometheus queries, each at its own interval.

Owns the times of these looks, how many run beside each other, and where a metric server's name leads. What a look means is
:mod:`~muster_coordinator.gates.verdicts`'; how many in a row are needed, and what follows, is the rollout machine's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import anyio
from anyio.abc import TaskGroup
from muster_core.rollout import events as ev
from muster_core.rollout.gates import PendingGate
from muster_core.rollout.plan import ResolvedGate

from muster_coordinator.gates.verdicts import Verdict, judge_http, judge_query
from muster_coordinator.outgoing import Outgoing, OutgoingError
from muster_coordinator.rollout.engine import Engine

DEADLINE = 10.0
AT_ONCE = 16
JITTER = 0.1


class Key(NamedTuple):
    """Which gate of which rollout."""

    rollout: str
    wave: int
    phase: ev.Phase
    number: int


class Gatekeeper:
    """``uniform(a, b)`` gives randomness: gates of many rollouts do not all ask in the same moment."""

    def __init__(self, engine: Engine, outgoing: Outgoing, uniform: Callable[[float, float], float]) -> None:
        self._engine, self._outgoing, self._uniform = engine, outgoing, uniform
        self._stirred = anyio.Event()
        self._slots = anyio.CapacityLimiter(AT_ONCE)
        self._next: dict[Key, float] = {}
        self._busy: set[Key] = set()

    def stir(self) -> None:
        """Rollouts changed: gates may be asked that were not, or no longer."""
        self._stirred.set()

    async def run(self) -> None:
        """For ever."""
        async with anyio.create_task_group() as group:
            while True:
                self._stirred = anyio.Event()
                wake = self._look(group)
                with anyio.move_on_after(wake - anyio.current_time() if wake < math.inf else None):
                    await self._stirred.wait()

    def _look(self, group: TaskGroup) -> float:
        """Begins every look whose time has come; returns when the next one's comes. A new gate is looked at at once."""
        now, pending = anyio.current_time(), self._pending()
        self._next = {key: self._next.get(key, now) for key in pending}
        for key, gate in pending.items():
            if self._next[key] <= now and key not in self._busy:
                self._next[key] = now + gate.interval * self._uniform(1 - JITTER, 1 + JITTER)
                self._busy.add(key)
                group.start_soon(self._measure, key, gate)
        # One that is being looked at past its time is looked at again when that has come to its end.
        return min(
            (at for key, at in self._next.items() if key not in self._busy or at > now), default=math.inf
        )

    def _pending(self) -> dict[Key, ResolvedGate]:
        found: dict[Key, ResolvedGate] = {}
        for machine in self._engine.state.active():
            gates: list[PendingGate] = machine.pending_gates()
            for gate in gates:
                found[Key(machine.name, gate.wave, gate.phase, gate.index)] = gate.gate
        return found

    async def _measure(self, key: Key, gate: ResolvedGate) -> None:
        async with self._slots:
            verdict = await self._verdict(gate)
        await self._engine.submit(
            self._engine.measured(
                key.rollout, ev.GateMeasured(key.wave, key.phase, key.number, verdict.passed, verdict.detail)
            )
        )
        self._busy.discard(key)
        self._stirred.set()

    async def _verdict(self, gate: ResolvedGate) -> Verdict:
        try:
            if gate.kind == "http":
                answer = await self._outgoing.get(gate.url, DEADLINE)
                return judge_http(answer, gate.expect, gate.contains)
            url = self._server(gate.server)
            if url is None:
                return Verdict(False, f"fleet.yaml has no metric server {gate.server}")
            query = {"query": gate.query, "timeout": f"{DEADLINE:g}s"}
            answer = await self._outgoing.get(f"{url.rstrip('/')}/api/v1/query", DEADLINE, query)
            return judge_query(answer, gate.below, gate.above)
        except OutgoingError as error:
            return Verdict(False, str(error))

    def _server(self, name: str) -> str | None:
        """As fleet.yaml has it now: a server that moved is asked where it is."""
        fleet = self._engine.state.reading.contents.fleet
        return next((s.url for s in fleet.spec.metric_servers if s.name == name), None) if fleet else None
