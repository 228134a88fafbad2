"""Tokens with which clusters join.

The coordinator supplies only the secret part. What it must not choose (CA certificate, repositories,
anchors) comes from the operator's context and checkout.
"""

from __future__ import annotations

from pathlib import Path

import click
from muster_core.durations import format_duration, parse_duration
from muster_core.names import RULE, is_name

from muster_cli.verbs import CHECKOUT, REACHED_OPTIONS, VALUES_OUTPUT, Nouns, client, with_options


@click.group(cls=Nouns)
def token() -> None:
    """Tokens with which clusters join. Each works once, for one name, for a short time."""


@token.command("create")
@click.option("--cluster", required=True, help="The one cluster that may use it.")
@click.option("--ttl", default="1h", show_default=True, help="How long it works.")
@with_options(REACHED_OPTIONS)
@CHECKOUT
@VALUES_OUTPUT
@click.pass_context
def create(
    ctx: click.Context,
    cluster: str,
    ttl: str,
    edge_address: str | None,
    link_address: str | None,
    repository_url: str | None,
    checkout: Path,
    style: str,
) -> None:
    """Make a join token for one cluster and print it.

    Give it to the agent: muster-agent run --cluster NAME --token-file FILE. The coordinator makes the secret
    part; the CA certificate comes from your context, repositories and anchors from your checkout. What you
    have checked out must be pushed: the agent will accept only what descends from it.

    \b
    Example:
      muster token create --cluster berlin-04 > token

    Next: muster-agent run with this file on that cluster's side, then muster cluster approve NAME.
    """
    from muster_cli.checkout import open_checkout
    from muster_cli.install.minting import Reached, mint, source_of
    from muster_cli.output import write_value

    if not is_name(cluster):
        raise click.BadParameter(
            f"{cluster!r} is no name of a cluster. Write {RULE}.", param_hint="--cluster"
        )
    seconds = int(parse_duration(ttl))
    with open_checkout(checkout) as clone, client(ctx) as operator:
        source = source_of(clone, operator, Reached(edge_address, link_address, repository_url))
        text = mint(source, operator, cluster, seconds)
    if style != "table":
        write_value({"cluster": cluster, "ttlSeconds": seconds, "token": text}, style)
        return
    click.echo(text)
    click.echo(f"It works once, for {cluster}, for {format_duration(seconds)}. Next:", err=True)
    click.echo(
        f"  muster-agent run --cluster {cluster} --token-file FILE --kubeconfig FILE --state-dir DIR",
        err=True,
    )
    click.echo(f"  muster cluster approve {cluster}", err=True)
