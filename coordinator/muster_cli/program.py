"""The command tree, and what becomes of errors.

Owns lazy loading (a command imports its libraries when it runs, not before) and exit codes: 0 ok, 1
negative result, 2 usage, 3 not found, 4 denied, 5 timeout or unreachable, 130 interrupted.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import signal
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import NoReturn

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
from muster_core.terminal import harmless

from muster_cli.errors import DeniedError, InvalidRequestError, NotFoundError, UnreachableError
from muster_cli.verbs import shared_options

# command -> (module, attribute, one line for the list)
# Before anything loads gRPC: its C core would write its own troubles over ours.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

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
    "freeze": ("muster_cli.commands.freezes", "freeze", "Hold clusters: nothing is offered until a time."),
    "token": ("muster_cli.commands.tokens", "token", "Make tokens with which clusters join."),
    "cluster": (
        "muster_cli.commands.install",
        "cluster",
        "Let clusters join, label them, take them out.",
    ),
    "operator": ("muster_cli.commands.operators", "operator", "Give people a certificate of their own."),
    "audit": ("muster_cli.commands.audit", "audit", "Show who did what, verify it, sign where it stands."),
    "agent": ("muster_cli.commands.install", "agent", "Print what an agent needs in its cluster."),
    "installer": (
        "muster_cli.commands.install",
        "installer",
        "Install the agent into new clusters, unattended.",
    ),
    "get": ("muster_cli.commands.listings", "get", "List clusters, bundles, rollouts, freezes or tokens."),
    "describe": (
        "muster_cli.commands.descriptions",
        "describe",
        "Show one cluster, bundle or rollout in full.",
    ),
    "bundle": ("muster_cli.commands.removal", "bundle", "Take bundles off their clusters."),
    "rollout": (
        "muster_cli.commands.rollouts",
        "rollout",
        "Start, watch, pause, resume, abort and explain rollouts.",
    ),
    "directive": ("muster_cli.commands.directives", "directive", "Renew what operators have signed."),
    "trust": ("muster_cli.commands.trust", "trust", "Say who may sign what in this fleet."),
    "release": ("muster_cli.commands.releases", "release", "Approve what is checked out with a signed tag."),
    "secret": ("muster_cli.commands.secrets", "secret", "Seal secrets for many clusters in one file."),
}
PLUGIN_GROUP = "muster.commands"
PLUGIN_HELP = {
    "serve": "Run a coordinator.",
    "backup": "Write a coordinator's database and keys to one file.",
    "restore": "Put a backup back into a stopped coordinator.",
    "demo": "Show a whole fleet on this machine, with real programs.",
}

HELP = """\
Roll changes out to many Kubernetes clusters, through a coordinator that need not be trusted.

\b
Start here:
  muster init my-fleet         make a fleet repository
  muster serve --help          start a coordinator for it
  muster token create --help   let a cluster join
  muster get clusters          see who is there
  muster demo                  or watch a whole fleet on this machine

\b
Exit codes: 0 ok, 1 negative result, 2 usage, 3 not found, 4 denied,
5 timeout or unreachable, 130 interrupted.
"""


class Commands(click.Group):
    """Lists every command and imports only the one that runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *sorted(plugins())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS:
            module, attribute, _ = COMMANDS[cmd_name]
            command: click.Command = getattr(importlib.import_module(module), attribute)
            return command
        plugin = plugins().get(cmd_name)
        if plugin is None:
            return None
        try:
            loaded: click.Command = plugin.load()
        except ImportError as error:
            raise click.UsageError(
                f"{cmd_name} is not installed whole ({error}). Next: pip install 'muster-fleet[all]'"
            ) from error
        return loaded

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and not ctx.resilient_parsing and self.get_command(ctx, name) is None:
            close = get_close_matches(name, self.list_commands(ctx), n=2)
            guess = f" Did you mean {' or '.join(close)}?" if close else ""
            raise click.UsageError(f"No such command {name!r}.{guess}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, text) for name, (_, _, text) in COMMANDS.items()]
        rows += [
            (name, PLUGIN_HELP.get(name, f"From {plugins()[name].module}.")) for name in sorted(plugins())
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@cache
def plugins() -> dict[str, EntryPoint]:
    """Commands of other packages whose module is there; none of them is imported."""
    return {point.name: point for point in entry_points(group=PLUGIN_GROUP) if _is_there(point.module)}


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


cli = Commands(
    "muster",
    help=HELP,
    params=shared_options(),
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def exit_code(error: MusterError) -> int:
    """The number that a script sees."""
    if isinstance(error, NotFoundError):
        return 3
    if isinstance(error, (DeniedError, TrustError, JoinError)):
        return 4
    if isinstance(error, UnreachableError) or (error.retryable and isinstance(error, (LinkError, GitError))):
        return 5
    return 2 if isinstance(error, (InvalidRequestError, ValidationError, SecretError)) else 1


def _check_arguments(arguments: Sequence[str]) -> None:
    """Bytes that are no text can be sent to no coordinator and shown on no terminal."""
    for number, text in enumerate(arguments, 1):
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            raise click.UsageError(f"Argument {number} is no UTF-8 text: {text[:40]!a}.")


def _interrupted() -> NoReturn:
    click.echo("interrupted", err=True)
    sys.exit(130)


def run() -> NoReturn:
    """Runs a command; every error of ours is one clear message and an exit code."""
    try:
        signal.signal(
            signal.SIGINT, signal.default_int_handler
        )  # from here on there may be something to leave in order
        _check_arguments(sys.argv[1:])
        result = cli.main(prog_name="muster", standalone_mode=False)
    except MusterError as error:
        click.echo(harmless(str(error)), err=True)
        sys.exit(exit_code(error))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            _interrupted()
        click.echo("Not done. Pass --yes to skip the question.", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        _interrupted()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        what = error.strerror or str(error)
        what = f"{what}: {error.filename}" if error.filename else what
        click.echo(f"MUSTER-V009 {what}.", err=True)
        sys.exit(2)
    sys.exit(result if isinstance(result, int) else 0)
