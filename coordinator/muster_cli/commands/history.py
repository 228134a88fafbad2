"""What became of rollouts: all of a bundle, the log of one, why one cluster is where it is, who still waits.

Owns ``muster rollout history|events|explain|owed``. Nothing here changes anything.
"""

from __future__ import annotations

import json
import sys

import click
from muster_core.times import format_time
from muster_proto.v1 import operator_pb2 as op

from muster_cli.columns import HISTORY, OWED
from muster_cli.output import Answer, plain, wrapped, write_value
from muster_cli.verbs import OUTPUT, VALUES_OUTPUT, Verb, client, given_timeout

LAST = 2**63 - 1  # no log has a number past it


@click.command("history", cls=Verb)
@click.argument("bundle")
@OUTPUT
@click.pass_context
def history(ctx: click.Context, bundle: str, style: str) -> None:
    """List all rollouts of BUNDLE, the newest first.

    How each ended, how long it took, who started it and why.

    \b
    Example:
      muster rollout history shop
    """
    with client(ctx) as operator:
        found = list(operator.list_rollouts(bundle).rollouts)
        if not found:
            operator.get_bundle(bundle)  # there is none of this name: that is said instead
    found.sort(key=lambda view: (view.started_unix_ms, view.name), reverse=True)
    Answer(HISTORY, "rollout", style).show(found, f"no rollout of {bundle} yet")


@click.command("events", cls=Verb)
@click.argument("name")
@click.option("-w", "--watch", "stay", is_flag=True, help="Stay and print what follows, until it ends.")
@click.option("--tail", type=click.IntRange(1, 2**32 - 1), help="Begin with the last so many.")
@click.option("--after", type=click.IntRange(0, LAST), default=0, help="Begin after this number.")
@VALUES_OUTPUT
@click.pass_context
def events(ctx: click.Context, name: str, stay: bool, tail: int | None, after: int, style: str) -> None:
    """Print the log of rollout NAME.

    Every event as it is stored: time, number, and what happened. With -o json one JSON object a line.

    \b
    Example:
      muster rollout events shop-0007 -w -o json
    """
    request = op.ListEventsRequest(
        rollout=name, after=after, follow=stay, whole=style in {"json", "yaml"}, tail=tail or 0
    )
    with client(ctx) as operator:
        for event in operator.rollout_events(request, given_timeout(ctx)):
            _show(event, style)
            sys.stdout.flush()


def _show(event: op.RolloutEvent, style: str) -> None:
    if style == "table":
        click.echo(f"{format_time(event.at_unix_ms / 1000)}  {event.number:>4}  {event.text}")
        return
    value = {"number": event.number, "time": format_time(event.at_unix_ms / 1000), "text": event.text}
    value |= json.loads(event.data)
    if style == "json":
        click.echo(json.dumps(value))
    else:
        click.echo("---")
        write_value(value, "yaml")


@click.command("explain", cls=Verb)
@click.argument("name")
@click.argument("target", metavar="CLUSTER")
@VALUES_OUTPUT
@click.pass_context
def explain(ctx: click.Context, name: str, target: str, style: str) -> None:
    """Say why CLUSTER is where it is.

    That is its place in rollout NAME, and the very rule that holds it.

    \b
    Example:
      muster rollout explain shop-0007 berlin-04
    """
    with client(ctx) as operator:
        answer = operator.explain(name, target)
    if style == "table":
        click.echo(wrapped(answer.text, 0))
    else:
        write_value(plain(answer), style)


@click.command("owed", cls=Verb)
@click.argument("bundle", default="")
@OUTPUT
@click.pass_context
def owed(ctx: click.Context, bundle: str, style: str) -> None:
    """List who waits for a release.

    Also why, and until when what was signed for them holds. With BUNDLE only for releases of it.

    \b
    Example:
      muster rollout owed shop
    """
    with client(ctx) as operator:
        rows = list(operator.list_owed(bundle).owed)
        if bundle and not rows:
            operator.get_bundle(bundle)  # a name that is no bundle's is not answered with "nobody"
    Answer(OWED, "cluster", style, "cluster").show(rows, "nobody waits for a release")
