"""``python -m muster_lab.podplayer --kubeconfig F``: plays pods on a real API server until SIGTERM.

Owns the command line. With ``--agents FOLDER`` a pod of the agent is the real program; with ``--lab`` beside it, the server
is the lab's, where only the agent's Deployment is played. It prints one JSON line when it is connected; the log goes to
standard error.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path

import anyio
import structlog

from .agents import Agents, may_confine
from .client import Client
from .deployments import DeploymentPlayer
from .pods import Obj
from .remote import RemotePlayer


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m muster_lab.podplayer",
        description="Plays the kubelet: tag `never` stays down, `crash-after-Ns` falls over, all else runs.",
    )
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--node", default="lab-node", help="name of the Node that is made")
    parser.add_argument("--ready-delay", type=float, default=0.2, help="seconds from binding to ready")
    parser.add_argument(
        "--agents",
        type=Path,
        metavar="FOLDER",
        help="start the real muster-agent for its pods; logs and state",
    )
    parser.add_argument(
        "--lab", action="store_true", help="a server of the lab: no pods, no RBAC; needs --agents"
    )
    given = parser.parse_args()
    if given.lab and not given.agents:
        parser.error("--lab needs --agents FOLDER")
    return given


def player(given: argparse.Namespace, client: Client) -> RemotePlayer | DeploymentPlayer:
    """Which player this server needs."""
    if given.lab:

        async def administrator(_pod: Obj, _seconds: int) -> str:
            return client.token

        return DeploymentPlayer(client, Agents(client, given.agents.resolve(), administrator))
    agents = Agents(client, given.agents.resolve()) if given.agents else None
    return RemotePlayer(client, node=given.node, delay=given.ready_delay, agents=agents)


async def run(given: argparse.Namespace) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with Client.open(given.kubeconfig) as client, anyio.create_task_group() as group:
            group.start_soon(player(given, client).run)
            print(json.dumps({"server": client.url, "node": given.node}), flush=True)
            async for _ in signals:
                group.cancel_scope.cancel()
                return


def main() -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    given = arguments()
    why_not = may_confine() if given.agents else ""
    if why_not:
        sys.exit(f"agents cannot be started here: {why_not}")
    anyio.run(run, given)


if __name__ == "__main__":
    main()
