"""``muster-agent``: the flags of the agent, and nothing more."""

from __future__ import annotations

import argparse
import os
import sys
from importlib.metadata import version
from pathlib import Path

from muster_core.durations import parse_seconds
from muster_core.errors import JoinError, MusterError

from muster_agent.settings import Settings

# Before anything loads gRPC: its C core would write its own troubles among our logs.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

HOW_TO_GET_ONE = "Make one: muster token create --cluster NAME > FILE."
DESCRIPTION = """\
The Muster agent of one Kubernetes cluster. It dials out to the coordinator
and to Git, and nothing dials in.

First start:
  muster-agent run --cluster berlin-04 --token-file token \\
    --kubeconfig ~/.kube/config --state-dir ./state
Then approve, in your clone of the fleet repository (compare the fingerprints
that the agent logs):
  muster cluster approve berlin-04
Later starts need no token: the state folder knows everything. Keep that
folder; losing it means joining again.
"""
RUN = """\
Run the agent until it is told to stop (SIGTERM, Ctrl-C).

Example:
  muster-agent run --cluster berlin-04 --token-file token \\
    --kubeconfig ~/.kube/config --state-dir ./state

The first start joins: it logs fingerprints and waits for
`muster cluster approve`. Later starts need --state-dir and --kubeconfig only.
"""


def _seconds(text: str) -> float:
    try:
        return parse_seconds(text)
    except MusterError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(
        prog="muster-agent", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    root.add_argument("--version", action="version", version=f"muster-agent {version('muster-fleet')}")
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser(
        "run",
        help="run the agent until it is told to stop",
        description=RUN,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument("--cluster", help="this cluster's name, as the token has it")
    run.add_argument("--token-file", type=Path, help="a file with the join token (first start only)")
    run.add_argument(
        "--token",
        help="the join token itself; other users of this machine can see it, so prefer the file or MUSTER_TOKEN",
    )
    run.add_argument(
        "--kubeconfig", type=Path, help="how to reach the API server; absent: the pod's service account"
    )
    run.add_argument(
        "--state-dir",
        type=Path,
        required=True,
        help="keys, floors and what was admitted; must survive restarts",
    )
    run.add_argument(
        "--namespace",
        default="muster-system",
        help="where the agent keeps one ConfigMap a bundle (default: %(default)s)",
    )
    run.add_argument(
        "--git-ca-file", type=Path, help="CA certificate of the Git host, if it is a private one"
    )
    run.add_argument(
        "--metrics",
        default="127.0.0.1:0",
        metavar="HOST:PORT",
        help="/metrics, /healthz, /readyz; port 0 takes any free one (default: %(default)s)",
    )
    run.add_argument(
        "--poll",
        type=_seconds,
        default="5m",
        metavar="DURATION",
        help="how often Git is asked when nobody says that something is new (default: %(default)s)",
    )
    run.add_argument("--kustomize", help="path of the kustomize binary; absent: the one on PATH, if any")
    run.add_argument(
        "--log-format",
        choices=["auto", "json", "text"],
        default="auto",
        help="auto is text at a terminal, json elsewhere (default: %(default)s)",
    )
    run.add_argument("--debug", action="store_true", help="log also what only developers ask for")
    return root


def main() -> None:
    arguments = parser().parse_args()
    token = arguments.token or os.environ.get("MUSTER_TOKEN")
    if arguments.token_file:
        try:
            token = arguments.token_file.read_text().strip()
        except OSError as error:
            where = str(arguments.token_file)
            told = JoinError(
                "J001", f"the token file cannot be read ({error.strerror})", object=where, hint=HOW_TO_GET_ONE
            )
            sys.stderr.write(f"{told}\n")
            sys.exit(2)
    host, _, port = arguments.metrics.rpartition(":")
    if not host or not port.isdigit():
        sys.stderr.write(f"--metrics {arguments.metrics}: write HOST:PORT\n")
        sys.exit(2)
    from muster_host.ending import run
    from muster_host.logs import configure

    from muster_agent.app import serve

    configure(arguments.log_format, debug=arguments.debug)
    sys.exit(
        run(
            serve,
            Settings(
                arguments.cluster,
                token,
                arguments.kubeconfig,
                arguments.state_dir,
                arguments.namespace,
                arguments.git_ca_file,
                host,
                int(port),
                arguments.poll,
                arguments.kustomize,
            ),
        )
    )


if __name__ == "__main__":
    main()
