"""Several clusters join side by side; one that fails does not stop the others.

Owns the bound on how many at a time, and what came of each. It never decides what a failure means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import anyio
from muster_core.errors import MusterError

from muster_cli.install.desk import Desk
from muster_cli.install.joining import Joined, Patience, Say, Wanted, join_cluster
from muster_cli.install.kubeconfig import Access

AT_A_TIME = 8


@dataclass(frozen=True, slots=True)
class Ended:
    """One cluster's end: joined, or an error."""

    name: str
    joined: Joined | None = None
    error: MusterError | None = None

    def value(self) -> dict[str, object]:
        """As scripts read it."""
        if self.joined is None:
            return {"cluster": self.name, "state": "Failed", "error": str(self.error)}
        joined = self.joined
        return {
            "cluster": self.name,
            "state": "Online",
            "uid": joined.uid,
            "approved": joined.approved,
            "objects": asdict(joined.applied),
            "seconds": round(joined.seconds, 1),
        }


async def join_one(access: Access, desk: Desk, wanted: Wanted, say: Say, patience: Patience) -> Ended:
    """Connects from memory, joins, drops the connection."""
    try:
        async with access.connect() as api:
            return Ended(wanted.name, await join_cluster(api, desk, wanted, say, patience))
    except MusterError as error:
        return Ended(wanted.name, error=error)


def join_all(
    desk: Callable[[], Desk],
    clusters: Mapping[str, Access],
    wanted: Mapping[str, Wanted],
    say: Say,
    patience: Patience,
) -> list[Ended]:
    """Every cluster by its name, in the order of the names."""
    ended: dict[str, Ended] = {}

    async def go() -> None:
        one_desk, limiter = desk(), anyio.CapacityLimiter(AT_A_TIME)

        async def one(name: str) -> None:
            async with limiter:
                ended[name] = await join_one(clusters[name], one_desk, wanted[name], say, patience)
                error = ended[name].error
                if error is not None:
                    say(name, f"failed: {error.code}")

        async with anyio.create_task_group() as group:
            for name in sorted(clusters):
                group.start_soon(one, name)

    anyio.run(go)
    return [ended[name] for name in sorted(ended)]
