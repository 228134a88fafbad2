"""How long a fleet is without a coordinator when the one that leads is killed, or stands still and says nothing.

Two coordinators on a PostgreSQL of this machine, ``--agents`` protocol stubs that dial one address with the product's own
pauses. A kill is SIGKILL: the server sees the session end. Standing still is SIGSTOP, as a machine that is gone looks to the
others: the server gives it 20 seconds. Measured are the seconds until the standby says that it is ready, and until every stub
was welcomed.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from e2e.standby import Pair, pair
from figures import keep, machine, tell
from postgres import Postgres, open_postgres
from programs import FLEET_ID, StubFleet

FLEET = f"""\
apiVersion: muster.dev/v1alpha1
kind: Fleet
metadata: {{name: bench}}
spec: {{id: "{FLEET_ID}", mode: open}}
"""
PATIENCE = 60.0


def killed(two: Pair, agents: int, repeats: int) -> tuple[list[float], list[float]]:
    """(until ready, until the last agent is back) of each kill."""
    leader, standby = two.both()
    stubs = StubFleet.join(two, two.repository, agents)  # type: ignore[arg-type]
    ready, back = [], []
    try:
        for _ in range(repeats):
            at = time.time()
            leader.signal()
            ready.append(two.takes_over(standby))
            answer = stubs.order("contact", since=at, patience=PATIENCE)
            back.append(max(answer["at"]) - at)
            leader.ended()
            leader, standby = standby, leader
            standby.start()
            two.waits(standby)
    finally:
        stubs.end()
    return ready, back


def frozen(two: Pair, repeats: int) -> list[float]:
    """Until the other leads, at addresses of its own."""
    found = []
    for number in range(repeats):
        old, new = two.alone(f"old-{number}"), two.alone(f"new-{number}")
        try:
            if number:
                two.hand_over_keys(two.hubs[0], old)
            old.start()
            two.leads(old)
            if not number:
                two.hand_over_keys(old, two.hubs[0])
            two.hand_over_keys(old, new)
            new.start()
            two.waits(new)
            old.signal(signal.SIGSTOP)
            found.append(two.takes_over(new))
        finally:
            old.kill()
            new.kill()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--agents", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    with open_postgres() as server, tempfile.TemporaryDirectory() as folder:
        ready, back, silent = measure(server, Path(folder), arguments)
    print(f"two coordinators, {arguments.agents} agents; {machine()}; {arguments.repeats} of each")
    tell("killed: until the standby is ready", ready, "s")
    tell("killed: until the last agent is back", back, "s")
    tell("frozen: until the standby is ready", silent, "s")
    keep(
        "takeover",
        {
            "agents": arguments.agents,
            "killed, ready s": ready,
            "killed, all back s": back,
            "frozen, ready s": silent,
        },
    )
    return 0


def measure(
    server: Postgres, folder: Path, arguments: argparse.Namespace
) -> tuple[list[float], list[float], list[float]]:
    for name in ("killed", "frozen"):
        (folder / name).mkdir()
    with pair(folder / "killed", server.database(), {"fleet.yaml": FLEET}, "") as two:
        ready, back = killed(two, arguments.agents, arguments.repeats)
    with pair(folder / "frozen", server.database(), {"fleet.yaml": FLEET}, "") as two:
        return ready, back, frozen(two, arguments.repeats)


if __name__ == "__main__":
    sys.exit(main())
