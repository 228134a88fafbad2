"""The entry point: the command tree, and what becomes of errors.

Owns lazy loading (a command imports its libraries when it runs, not before), global flags and exit codes
(SURFACE).
"""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import click
from muster_core.errors import (
    GitError,
    JoinError,
    LinkError,
    MusterError,
    SecretError,
    TrustError,
    ValidationError,
)

# command -> (module, attribute, one line for the list)
COMMANDS: dict[str, tuple[str, str, str]] = {
    "init": ("muster_cli.commands.start", "init", "Make a fleet repository that validates."),
    "validate": (
        "muster_cli.commands.start",
        "validate",
        "Check a fleet repository: every file, every reference.",
    ),
    "schema": ("muster_cli.commands.start", "schema", "Print the JSON Schema of a kind, for editors."),
    "version": (
        "muster_cli.commands.start",
        "version",
        "Print the versions of this program and its coordinator.",
    ),
    "token": ("muster_cli.commands.clusters", "token", "Make tokens with which clusters join."),
    "cluster": ("muster_cli.commands.clusters", "cluster", "Approve clusters that asked to join."),
    "get": ("muster_cli.commands.see", "get", "List clusters, bundles, rollouts or tokens."),
    "describe": ("muster_cli.commands.see", "describe", "Show one cluster, bundle or rollout in full."),
    "rollout": (
        "muster_cli.commands.rollouts",
        "rollout",
        "Start, watch, pause, resume, abort and explain rollouts.",
    ),
    "secret": ("muster_cli.commands.secrets", "secret", "Seal secrets for many clusters in one file."),
}

HELP = """\
Roll changes out to many Kubernetes clusters from a hub that need not be trusted.

\b
Start here:
  muster init my-fleet         make a fleet repository
  muster serve ...             start a coordinator for it
  muster token create ...      let a cluster join
  muster get clusters          see who is there
  muster demo                  or watch a whole fleet on this machine

Exit codes: 0 ok, 1 negative result, 2 usage, 3 not found, 4 denied, 5 timeout or unreachable, 130 interrupted.
"""


class LazyGroup(click.Group):
    """Lists every command and imports only the one that runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *sorted(_plugins())]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in COMMANDS:
            module, attribute, _ = COMMANDS[name]
            command: click.Command = getattr(importlib.import_module(module), attribute)
            return command
        plugin = _plugins().get(name)
        return plugin.load() if plugin else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, text) for name, (_, _, text) in COMMANDS.items()]
        rows += [(name, PLUGIN_HELP.get(name, "")) for name in sorted(_plugins())]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


PLUGIN_HELP = {
    "serve": "Run a coordinator.",
    "demo": "A whole fleet on this machine, with its story.",
}


def _plugins() -> dict[str, Any]:
    return {point.name: point for point in entry_points(group="muster.commands")}


@click.group(cls=LazyGroup, help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--context",
    metavar="FILE|NAME",
    help="Which coordinator (default: MUSTER_CONTEXT, else the newest known).",
)
@click.option(
    "--timeout", type=float, default=30.0, show_default=True, help="Seconds that one call may take."
)
@click.option("--no-color", is_flag=True, help="Plain text (NO_COLOR does the same).")
@click.pass_context
def cli(ctx: click.Context, context: str | None, timeout: float, no_color: bool) -> None:
    ctx.obj = {"context": context, "timeout": timeout}
    if no_color:
        ctx.color = False


def exit_code(error: MusterError) -> int:
    """SURFACE's exit codes."""
    name = type(error).__name__
    if name == "NotFoundError":
        return 3
    if name == "DeniedError" or isinstance(error, (TrustError, JoinError)):
        return 4
    if name == "UnreachableError" or (error.retryable and isinstance(error, (LinkError, GitError))):
        return 5
    return 2 if isinstance(error, (ValidationError, SecretError, LinkError)) else 1


def main() -> int:
    """Runs a command; every error of ours is one clear message and an exit code."""
    try:
        result = cli.main(standalone_mode=False)
    except MusterError as error:
        click.echo(str(error), err=True)
        sys.exit(exit_code(error))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    sys.exit(result if isinstance(result, int) else 0)


def client(ctx: click.Context) -> Any:
    """The operator API of the chosen context."""
    from muster_cli.client import OperatorClient
    from muster_cli.context import load

    return OperatorClient(load(ctx.obj["context"]), ctx.obj["timeout"])


CHECKOUT = click.option(
    "--checkout",
    type=click.Path(file_okay=False, path_type=Path),
    default=".",
    show_default=True,
    help="Your clone of the fleet repository: what the coordinator must not choose comes from here.",
)
OUTPUT = click.option(
    "-o", "--output", "style", type=click.Choice(["table", "wide", "json", "yaml", "name"]), default="table"
)

if __name__ == "__main__":
    main()
