"""The shape that every command shares: flags that stand anywhere, and the client that they lead to.

Owns ``--context``, ``--timeout`` and ``--no-color`` (accepted before and after the verb), the options that
several commands take, and the way from them to an :class:`~muster_cli.client.OperatorClient`. It never
imports anything heavy before a command runs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click
from muster_core.durations import parse_seconds
from muster_core.errors import ValidationError

if TYPE_CHECKING:
    from muster_cli.client import OperatorClient

F = TypeVar("F", bound=Callable[..., object])
DEFAULT_TIMEOUT = 30.0
LONGEST = 366 * 86400.0  # gRPC takes a deadline that is past counting for one that is over


def _remember(ctx: click.Context, param: click.Parameter, value: object) -> None:
    if value is not None and value is not False:
        settings = ctx.find_root().ensure_object(dict)
        settings[param.name] = value
        if param.name == "no_color":
            ctx.find_root().color = False


def _seconds(_ctx: click.Context, _param: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    try:
        return parse_seconds(value)
    except ValidationError as error:
        raise click.BadParameter(f"{error.message}. {error.hint}") from error


def _timeout(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    seconds = _seconds(ctx, param, value)
    _remember(ctx, param, None if seconds is None else min(seconds, LONGEST))


def shared_options() -> list[click.Parameter]:
    """The flags of every command."""
    return [
        click.Option(
            ["--context"],
            metavar="FILE|NAME",
            expose_value=False,
            callback=_remember,
            help="The coordinator's context.json, or NAME for ~/.config/muster/contexts/NAME.json "
            "(default: MUSTER_CONTEXT, else the newest there).",
        ),
        click.Option(
            ["--timeout"],
            metavar="DURATION",
            expose_value=False,
            callback=_timeout,
            help="How long one call may take (default: 30s).",
        ),
        click.Option(
            ["--no-color"],
            is_flag=True,
            expose_value=False,
            callback=_remember,
            help="Plain text (NO_COLOR does the same).",
        ),
    ]


class Verb(click.Command):
    """A command that takes the shared flags."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        *own, help_option = super().get_params(ctx)
        return [*own, *shared_options(), help_option]


class Nouns(click.Group):
    """A group whose commands take the shared flags."""

    command_class = Verb


def client(ctx: click.Context) -> OperatorClient:
    """The operator API of the chosen context."""
    from muster_cli.client import OperatorClient
    from muster_cli.context import load

    settings = ctx.find_root().ensure_object(dict)
    return OperatorClient(load(settings.get("context")), settings.get("timeout", DEFAULT_TIMEOUT))


def given_timeout(ctx: click.Context) -> float | None:
    """``--timeout`` in seconds where it was given: a command that waits for something takes it for the whole of it."""
    given: float | None = ctx.find_root().ensure_object(dict).get("timeout")
    return given


def warn_of_git(operator: OperatorClient) -> None:
    """What stands in the coordinator's way in Git, on standard error: what it shows may be old or not whole."""
    info = operator.info()
    if not info.catalog_error:
        return
    head = info.head_commit[:7]
    if not head:
        said = "the coordinator has not read the fleet repository yet"
    elif info.catalog_error.startswith("MUSTER-"):
        said = f"what you see is as of {head}"
    else:
        said = f"the fleet repository is not whole at {head}"
    click.echo(f"warning: {said}: {info.catalog_error}", err=True)


CHECKOUT = click.option(
    "--checkout",
    type=click.Path(file_okay=False, path_type=Path),
    default=".",
    show_default=True,
    help="Your clone of the fleet repository: what the coordinator must not choose comes from here.",
)
OUTPUT = click.option(
    "-o",
    "--output",
    "style",
    type=click.Choice(["table", "wide", "json", "yaml", "name"]),
    default="table",
    help="How the answer looks.",
)
VALUES_OUTPUT = click.option(
    "-o",
    "--output",
    "style",
    type=click.Choice(["table", "json", "yaml"]),
    default="table",
    help="How the answer looks.",
)
# How a site reaches what stands at other addresses for the operator.
REACHED_OPTIONS = [
    click.option(
        "--edge-address",
        metavar="HOST:PORT",
        help="The edge listener as the site reaches it, where that differs.",
    ),
    click.option(
        "--link-address",
        metavar="HOST:PORT",
        help="The link listener as the site reaches it, where that differs.",
    ),
    click.option(
        "--repository-url",
        metavar="URL",
        help="The fleet repository as the site reaches it (default: your origin).",
    ),
]
# What an operator says of a cluster in its registry entry.
ENTRY_OPTIONS = [
    click.option("--label", "labels", multiple=True, metavar="K=V", help="A label that selectors see."),
    click.option(
        "--protected-label",
        "protected",
        multiple=True,
        metavar="K=V",
        help="A label that selectors see too, and that secrets may be sealed by.",
    ),
    click.option(
        "--site-class", default="connected", show_default=True, help="One of fleet.yaml's siteClasses."
    ),
]


def with_options(options: list[Callable[[F], F]]) -> Callable[[F], F]:
    """All of them, in this order in the help."""

    def add(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return add


def pairs(texts: tuple[str, ...], flag: str) -> dict[str, str]:
    """``K=V`` of one flag, given any number of times."""
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z0-9]([\w./-]*[A-Za-z0-9])?", key):
            raise click.UsageError(f"{flag} {text}: write KEY=VALUE")
        found[key] = value
    return found
