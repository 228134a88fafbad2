"""A small rollout told as a story: three waves, virtual time, one line per thing that happens."""

from __future__ import annotations

from typing import Any

from muster_core.rollout import events as ev
from muster_core.rollout.machine import RolloutMachine
from muster_core.rollout.plan import ResolvedPlan, ResolvedWave

START = 50_400.0  # 14:00 UTC
DIGEST = "tree-1"


def wave(
    name: str,
    *members: str,
    flying: int = 1,
    failed: int = 0,
    quorum: int = 50,
    soak: float = 0,
    **more: Any,
) -> ResolvedWave:
    return ResolvedWave(
        name=name,
        members=members,
        max_in_flight=flying,
        max_failed=failed,
        quorum_percent=quorum,
        soak=float(soak),
        offline_after=dict.fromkeys(members, 900.0),
        **more,
    )


class Story:
    """Drives one machine; every cluster is in contact unless ``away`` says otherwise."""

    def __init__(
        self,
        *waves: ResolvedWave,
        action: str = "pause",
        away: tuple[str, ...] = (),
        held: dict[str, str] | None = None,
        authors: tuple[str, ...] = (),
        carried: tuple[str, ...] = (),
        may_return: bool = False,
        returns: str = "",
        **limits: Any,
    ) -> None:
        plan = ResolvedPlan(
            name="rings", waves=waves, deadline=600.0, action=action, catch_up_in_flight="10%", **limits
        )
        self.now = START
        self.machine = RolloutMachine(
            ev.Started(
                at=START,
                rollout="shop-0007",
                bundle="shop",
                commit="3f2c9d1",
                tree_digest=DIGEST,
                plan=plan,
                by="ann",
                authors=authors,
                carried=carried,
                may_return=may_return,
                returns=returns,
            )
        )
        self.machine.meet(name for each in waves for name in each.members if name not in away)
        self.log: list[ev.AnyEvent] = [self.machine.started]
        for cluster, why in (held or {}).items():
            self.machine.hold(cluster, why)
        self.log += self.machine.begin(self.now)

    def give(self, given: ev.Input) -> list[ev.AnyEvent]:
        events = self.machine.handle(given, self.now)
        self.log += events
        return events

    def acknowledge(self, *clusters: str) -> None:
        for cluster in clusters:
            self.give(ev.Acknowledged(cluster, 1))

    def healthy(self, *clusters: str) -> None:
        for cluster in clusters:
            self.give(ev.Reported(cluster, 1, DIGEST, "healthy"))

    def failed(self, cluster: str, message: str = "image never ready") -> None:
        self.give(ev.Reported(cluster, 1, DIGEST, "failed", "K010", message))

    def online(self, cluster: str, online: bool = True) -> None:
        self.give(ev.Contact(cluster, online))

    def wait(self, seconds: float) -> None:
        """Ticks at every wake on the way, as an executor does."""
        end = self.now + seconds
        while (wake := self.machine.next_wake()) is not None and wake <= end:
            self.now = wake
            self.give(ev.Tick())
        self.now = end
        self.give(ev.Tick())

    def state(self, cluster: str) -> str:
        return self.machine.targets[cluster].state
