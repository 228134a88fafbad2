"""What the coordinator does of its own accord beyond its listeners: it tells people, and it measures.

Owns the one HTTP session that both use, and their tasks. It ends with the task group that it runs in.
"""

from __future__ import annotations

from collections.abc import Callable

import anyio

from muster_coordinator.gates.keeper import Gatekeeper
from muster_coordinator.notify.courier import Courier, Result
from muster_coordinator.outgoing import Outgoing
from muster_coordinator.rollout.effects import Effects
from muster_coordinator.rollout.engine import Engine


class Errands:
    """``clock`` gives unix seconds, ``uniform(a, b)`` randomness; ``told(endpoint, result)`` counts notifications."""

    def __init__(
        self,
        engine: Engine,
        clock: Callable[[], float],
        uniform: Callable[[float, float], float],
        told: Callable[[str, Result], None],
    ) -> None:
        self._outgoing = Outgoing()
        self._courier = Courier(engine, self._outgoing, clock, uniform, told)
        self._keeper = Gatekeeper(engine, self._outgoing, uniform)

    def heard(self, effects: Effects) -> None:
        """Of every batch, after it is durable."""
        if effects.notices:
            self._courier.stir()
        if effects.rollouts:
            self._keeper.stir()

    async def run(self) -> None:
        """For ever."""
        async with self._outgoing, anyio.create_task_group() as group:
            group.start_soon(self._courier.run)
            group.start_soon(self._keeper.run)
