"""``python -m muster_lab.kube``: one API server until SIGTERM.

Owns the command line. The line on standard output is JSON and says where the server is; the log goes to
standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import signal
import sys
from pathlib import Path

from .server import LabKube, Settings


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m muster_lab.kube",
        description="An in-memory Kubernetes API server (HTTPS). No RBAC: the one token may do everything.",
    )
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0 picks a free one")
    parser.add_argument(
        "--dir", type=Path, required=True, help="folder for kubeconfig, ca.crt and the server's key"
    )
    parser.add_argument(
        "--state-file", type=Path, help="objects are read from here at start, kept at a clean stop"
    )
    parser.add_argument(
        "--token", default="", help="the administrator's bearer token; made at start when absent"
    )
    parser.add_argument(
        "--ready-delay", type=float, default=0.2, help="seconds until a workload becomes ready"
    )
    parser.add_argument(
        "--history", type=int, default=2000, help="changes per resource that a watch can go back"
    )
    parser.add_argument("--no-pod-player", action="store_true", help="leave workload status to somebody else")
    return parser.parse_args()


async def run(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    async with LabKube.serve(settings) as server:
        print(json.dumps({"url": server.url, "kubeconfig": str(server.kubeconfig)}), flush=True)
        await stop.wait()


def main() -> None:
    given = arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", stream=sys.stderr)
    settings = Settings(
        folder=given.dir,
        port=given.port,
        token=given.token,
        state_file=given.state_file,
        ready_delay=given.ready_delay,
        history=given.history,
        play=not given.no_pod_player,
    )
    asyncio.run(run(settings))


if __name__ == "__main__":
    main()
