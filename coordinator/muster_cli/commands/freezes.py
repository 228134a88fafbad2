"""Freezes: clusters that are offered nothing until a time.

Which clusters that holds, and when it ends, is the coordinator's.
"""

from __future__ import annotations

import time

import click
from muster_core.durations import format_duration
from muster_core.select import parse_selector
from muster_core.times import format_time
from muster_proto.v1 import operator_pb2 as op

from muster_cli.moments import point_in_time
from muster_cli.output import Answer
from muster_cli.verbs import OUTPUT, Nouns, client


@click.group(cls=Nouns)
def freeze() -> None:
    """Hold clusters: they are offered nothing until a time. What runs there goes on."""


@freeze.command("create")
@click.argument("name")
@click.option(
    "--until", required=True, metavar="TIME", help="When it ends: 2027-01-02T06:00:00Z, or 8h from now."
)
@click.option(
    "-l", "--selector", default="", help="Which clusters, by labels, like tier=store,region in (eu)."
)
@click.option("--all", "every", is_flag=True, help="Every cluster.")
@click.option("--bundle", default="", help="Only offers of this bundle.")
@click.option("--reason", default="", help="Why; whoever waits is told.")
@OUTPUT
@click.pass_context
def create(
    ctx: click.Context,
    name: str,
    until: str,
    selector: str,
    every: bool,
    bundle: str,
    reason: str,
    style: str,
) -> None:
    """Hold clusters until a time.

    Rollouts and catch-ups offer them nothing; offers that nobody took yet are withdrawn. Waiting for it is never a
    failure. It ends by itself. A rollout that takes clusters back to the release before goes on.

    \b
    Example:
      muster freeze create black-friday --until 4d -l tier=store --reason "sale"
    """
    if bool(selector.strip()) == every:  # blanks select everybody, which is said with --all
        raise click.UsageError("say which clusters: -l SELECTOR, or --all")
    parse_selector(selector)
    request = op.CreateFreezeRequest(
        name=name,
        until_unix=int(point_in_time(until, "--until")),
        selector=selector,
        bundle=bundle,
        reason=reason,
    )
    with client(ctx) as operator:
        made = operator.create_freeze(request)
    if style != "table":
        from muster_cli.columns import FREEZES

        Answer(FREEZES, "freeze", style).one(made)
        return
    left = format_duration(made.until_unix - time.time())
    click.echo(f"{made.name} holds {_clusters(made)} until {format_time(made.until_unix)} (in {left}).")
    if not made.clusters:
        click.echo("No registered cluster has such labels now; one that gets them is held.", err=True)


@freeze.command("delete")
@click.argument("name")
@click.pass_context
def delete(ctx: click.Context, name: str) -> None:
    """End a freeze before its time. Clusters that wait for it are offered what is their turn.

    \b
    Example:
      muster freeze delete black-friday
    """
    with client(ctx) as operator:
        ended = operator.delete_freeze(name)
    click.echo(f"{ended.name} has ended; it held {_clusters(ended)}.")


def _clusters(freeze: op.Freeze) -> str:
    return f"{freeze.clusters} cluster{'' if freeze.clusters == 1 else 's'}"
