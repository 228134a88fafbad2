"""What agents say that moves no rollout, and why it does not.

Owns that judgement, its counting, and one log line for each. It is about verdicts: what a cluster says of its own state is
shown whatever rollout it names.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import structlog
from muster_core.rollout.machine import RolloutMachine

log = structlog.get_logger()

# In the order of the judgement. ``duplicate``: taken before; ``stale``: an older attempt; ``future``: one that was never
# offered.
IGNORED = ("duplicate", "unknown", "foreign", "future", "stale", "ended")
REMEMBERED = 4096


def stray(machine: RolloutMachine | None, bundle: str, cluster: str, attempt: int) -> str:
    """Why this answer moves nothing, by one word of :data:`IGNORED`; empty when it may."""
    if machine is None:
        return "unknown"
    target = machine.targets.get(cluster)
    if target is None or machine.started.bundle != bundle:
        return "foreign"
    if attempt > target.attempt or (attempt == target.attempt and not target.was_offered):
        return "future"
    if attempt < target.attempt:
        return "stale"
    return "ended" if machine.has_ended else ""


class Strays:
    """``tally(why)`` counts each."""

    def __init__(self, tally: Callable[[str], None] = lambda why: None) -> None:
        self.tally = tally
        self._logged: OrderedDict[tuple[str, str, str, str], None] = OrderedDict()

    def ignore(self, why: str, cluster: str, bundle: str, rollout: str) -> None:
        """Counted each time; logged once of each cluster, bundle and rollout, of the newest few thousand."""
        self.tally(why)
        key = (why, cluster, bundle, rollout)
        if key in self._logged:
            return
        self._logged[key] = None
        if len(self._logged) > REMEMBERED:
            self._logged.popitem(last=False)
        log.info(
            "ignored what an agent said",
            why=why,
            cluster=cluster,
            bundle=bundle[:64],
            rollout=rollout[:64],
        )
