"""Tokens with which clusters join.

The coordinator supplies only the secret part. What it must not choose (CA certificate, repositories,
anchors) comes from the operator's context and checkout.
"""

from __future__ import annotations

from pathlib import Path

import click
from muster_core.durations import format_duration, parse_duration
from muster_core.errors import JoinError

from muster_cli.verbs import CHECKOUT, VALUES_OUTPUT, Nouns, client


@click.group(cls=Nouns)
def token() -> None:
    """Tokens with which clusters join. Each works once, for one name, for a short time."""


@token.command("create")
@click.option("--cluster", required=True, help="The one cluster that may use it.")
@click.option("--ttl", default="1h", show_default=True, help="How long it works.")
@click.option(
    "--edge-address",
    metavar="HOST:PORT",
    help="The edge listener as the site reaches it, where that differs.",
)
@click.option(
    "--link-address",
    metavar="HOST:PORT",
    help="The link listener as the site reaches it, where that differs.",
)
@click.option(
    "--repository-url",
    metavar="URL",
    help="The fleet repository as the site reaches it (default: your origin).",
)
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
    """
    from muster_core.fleet import read_settings
    from muster_core.token import JoinToken, Repository

    from muster_cli.checkout import open_checkout
    from muster_cli.output import write_value

    seconds = int(parse_duration(ttl))
    with open_checkout(checkout) as clone, client(ctx) as operator:
        anchor = clone.published_head()
        fleet = read_settings(clone.tree(anchor))
        info = operator.info()
        if info.fleet_id and info.fleet_id != fleet.spec.id:
            raise JoinError(
                "J011", "your checkout is of another fleet than the coordinator's", object=info.fleet_name
            )
        made = operator.create_token(cluster, seconds)
        text = JoinToken(
            edge_address=edge_address or info.edge_address or operator.context.edge,
            link_address=link_address or info.link_address,
            ca_pem=operator.context.ca_pem,
            secret=made.secret,
            cluster=cluster,
            mode=fleet.spec.mode,
            trust_digest="",
            fleet_id=fleet.spec.id,
            repositories=(Repository("fleet", repository_url or clone.url, clone.branch(), anchor),),
        ).encode()
    if style != "table":
        write_value(
            {"id": made.id, "cluster": cluster, "expiresUnix": made.expires_unix, "token": text}, style
        )
        return
    click.echo(text)
    click.echo(f"It works once, for {cluster}, for {format_duration(seconds)}. Next:", err=True)
    click.echo(f"  muster-agent run --cluster {cluster} --token-file FILE --state-dir DIR", err=True)
    click.echo(f"  muster cluster approve {cluster}", err=True)
