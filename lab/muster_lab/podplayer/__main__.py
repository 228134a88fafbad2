"""``python -m muster_lab.podplayer --kubeconfig F``: plays pods on a real API server until SIGTERM.

Owns the command line. It prints one JSON line when it is connected; the log goes to standard error.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path

import anyio
import structlog

from .client import Client
from .remote import RemotePlayer


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m muster_lab.podplayer",
        description="Plays the kubelet: tag `never` stays down, `crash-after-Ns` falls over, all else runs.",
    )
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--node", default="lab-node", help="name of the Node that is made")
    parser.add_argument("--ready-delay", type=float, default=0.2, help="seconds from binding to ready")
    return parser.parse_args()


async def run(given: argparse.Namespace) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with Client.open(given.kubeconfig) as client, anyio.create_task_group() as group:
            player = RemotePlayer(client, node=given.node, delay=given.ready_delay)
            group.start_soon(player.run)
            print(json.dumps({"server": client.url, "node": given.node}), flush=True)
            async for _ in signals:
                group.cancel_scope.cancel()
                return


def main() -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    anyio.run(run, arguments())


if __name__ == "__main__":
    main()
