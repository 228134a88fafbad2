"""Joining, from the operator's side: tokens and approvals.

What the coordinator must not choose (CA certificate, repositories, anchors, registry entries) comes from
the operator's own checkout and context.
"""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from muster_core.durations import format_duration, parse_duration
from muster_core.errors import JoinError, ValidationError

from muster_cli.main import CHECKOUT, OUTPUT, client

if TYPE_CHECKING:
    from muster_core.kinds.model import Fleet
    from muster_proto.v1 import operator_pb2 as op

    from muster_cli.checkout import Checkout, CommitTree

ISSUE_DEADLINE = 30.0


@click.group()
def token() -> None:
    """Tokens with which clusters join. Each works once, for one name, for a short time."""


@token.command("create")
@click.option("--cluster", required=True, help="The one cluster that may use it.")
@click.option("--ttl", default="1h", show_default=True, help="How long it works.")
@click.option("--edge-address", help="How the site reaches the edge listener, where it differs (HOST:PORT).")
@click.option("--link-address", help="How the site reaches the link listener, where it differs (HOST:PORT).")
@CHECKOUT
@OUTPUT
@click.pass_context
def create(
    ctx: click.Context,
    cluster: str,
    ttl: str,
    edge_address: str | None,
    link_address: str | None,
    checkout: Path,
    style: str,
) -> None:
    """Make a join token for one cluster and print it.

    Give it to the agent: muster-agent run --cluster NAME --token-file FILE. The coordinator makes the secret part; the
    CA certificate comes from your context, repositories and anchors from your checkout.
    """
    from muster_core.token import JoinToken, Repository

    from muster_cli.checkout import open_checkout
    from muster_cli.context import load
    from muster_cli.output import write_value

    seconds = int(parse_duration(ttl))
    with open_checkout(checkout) as clone, client(ctx) as operator:
        fleet, branch = _fleet(clone), clone.branch()
        anchor = clone.fetch(branch)
        if not anchor:
            raise JoinError(
                "J010", f"the branch {branch} is not at the remote yet", object=clone.url, hint="git push"
            )
        info = operator.info()
        if info.fleet_id and info.fleet_id != fleet.spec.id:
            raise JoinError(
                "J011", "your checkout is of another fleet than the coordinator's", object=info.fleet_name
            )
        made = operator.create_token(cluster, seconds)
        text = JoinToken(
            edge_address=edge_address or info.edge_address,
            link_address=link_address or info.link_address,
            ca_pem=load(ctx.obj["context"]).ca_pem,
            secret=made.secret,
            cluster=cluster,
            mode=fleet.spec.mode,
            trust_digest="",
            fleet_id=fleet.spec.id,
            repositories=(Repository("fleet", clone.url, branch, anchor),),
        ).encode()
    if style in {"json", "yaml"}:
        write_value(
            {"id": made.id, "cluster": cluster, "expiresUnix": made.expires_unix, "token": text}, style
        )
        return
    click.echo(text)
    click.echo(
        f"works once, for {cluster}, for {format_duration(seconds)}. "
        f"Next: muster-agent run --cluster {cluster} --token-file FILE; then: muster cluster approve {cluster}",
        err=True,
    )


def _fleet(clone: Checkout) -> Fleet:
    from muster_core.fleet import read_fleet

    contents = read_fleet(clone.tree(str(clone.repo.head.commit.hexsha)))
    if contents.fleet is None:
        raise ValidationError(
            "V006",
            "the checkout has no valid fleet.yaml",
            object=str(clone.repo.working_dir),
            hint="muster validate .",
        )
    return contents.fleet


@click.group()
def cluster() -> None:
    """Clusters: approve those that asked to join."""


def _pairs(texts: tuple[str, ...], flag: str) -> dict[str, str]:
    pairs = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z0-9]([\w./-]*[A-Za-z0-9])?", key):
            raise click.UsageError(f"{flag} {text}: write KEY=VALUE")
        pairs[key] = value
    return pairs


@cluster.command("approve")
@click.argument("name")
@click.option("--label", "labels", multiple=True, metavar="K=V", help="A label that selectors see.")
@click.option(
    "--protected-label",
    "protected",
    multiple=True,
    metavar="K=V",
    help="A label that secrets may be sealed by.",
)
@click.option(
    "--value", "values", multiple=True, metavar="K=V", help="A value that this cluster's manifests see."
)
@click.option("--site-class", default="connected", show_default=True, help="One of fleet.yaml's siteClasses.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@CHECKOUT
@click.pass_context
def approve(
    ctx: click.Context,
    name: str,
    labels: tuple[str, ...],
    protected: tuple[str, ...],
    values: tuple[str, ...],
    site_class: str,
    yes: bool,
    checkout: Path,
) -> None:
    """Approve the pending join of NAME: write its registry entry from your checkout and push it.

    Compare the fingerprints with those in the agent's log before you say yes.
    """
    from muster_core.sealing.keys import fingerprint

    from muster_cli.checkout import open_checkout

    with open_checkout(checkout) as clone, client(ctx) as operator:
        fleet = _fleet(clone)
        if site_class not in {"connected", *fleet.spec.site_classes}:
            raise ValidationError(
                "V007",
                f"fleet.yaml has no site class {site_class}",
                hint=f"Known: {', '.join(sorted({'connected', *fleet.spec.site_classes}))}.",
            )
        join = _pending(operator, name)
        click.echo(f"cluster        {name} (uid {join.uid})", err=True)
        click.echo(f"identity key   {fingerprint(join.identity_key)}", err=True)
        click.echo(f"sealing key    {fingerprint(join.sealing_key)}", err=True)
        if not yes:
            click.confirm("Are these the fingerprints that the agent logged?", abort=True, err=True)
        entry = _entry(
            fleet.spec.id,
            name,
            join,
            _pairs(labels, "--label"),
            _pairs(protected, "--protected-label"),
            _pairs(values, "--value"),
            site_class,
        )
        commit = clone.add_to_registry(
            f"clusters/{name}.yaml", lambda tree: _checked(tree, name, join, entry), f"Approve {name}"
        )
        operator.refresh()
        _wait_issued(operator, name)
    click.echo(f"approved {name} (registry {commit[:7]})")


def _pending(operator: Any, name: str) -> op.Join:
    for join in operator.list_joins().joins:
        if join.cluster == name:
            return join  # type: ignore[no-any-return]
    from muster_cli.client import NotFoundError

    raise NotFoundError(
        "J012",
        "nobody asked to join under this name",
        object=name,
        hint="Start its agent with a token first: muster token create.",
    )


def _checked(tree: CommitTree, name: str, join: op.Join, entry: bytes) -> bytes:
    """Refuses to hand a name or an identity to somebody else than before."""
    from muster_core.fleet import read_registry
    from muster_core.sealing.keys import encode_identity

    clusters, _ = read_registry(tree)
    identity = encode_identity(join.identity_key)
    old = clusters.get(name)
    if old and (old.spec.uid != join.uid or old.spec.identity_key != identity):
        raise JoinError(
            "J013",
            "the registry has this name with another identity",
            object=name,
            hint=f"If the cluster was rebuilt, remove clusters/{name}.yaml from the registry first.",
        )
    for other, known in clusters.items():
        if other != name and (known.spec.uid == join.uid or known.spec.identity_key == identity):
            raise JoinError("J014", f"this cluster is already registered as {other}", object=name)
    return entry


def _entry(
    fleet_id: str,
    name: str,
    join: op.Join,
    labels: dict[str, str],
    protected: dict[str, str],
    values: dict[str, str],
    site_class: str,
) -> bytes:
    import yaml
    from muster_core.kinds.model import Cluster
    from muster_core.kinds.parse import parse
    from muster_core.manifest.load import load_documents
    from muster_core.sealing.keys import encode_identity, encode_sealing, sealing_key_statement, verify

    statement = sealing_key_statement(fleet_id, join.uid, join.sealing_key, join.sealing_generation)
    if not verify(join.identity_key, statement, join.sealing_signature):
        raise JoinError(
            "J015",
            "the sealing key is not signed by the identity key",
            object=name,
            hint="Somebody between you and the agent may have changed it. Do not approve; look at the coordinator.",
        )
    spec = {
        "uid": join.uid,
        "protectedLabels": protected,
        "values": values,
        "siteClass": site_class,
        "identityKey": encode_identity(join.identity_key),
        "sealingKeys": [
            {
                "generation": join.sealing_generation,
                "key": encode_sealing(join.sealing_key),
                "signature": join.sealing_signature.hex(),
            }
        ],
    }
    value = {
        "apiVersion": "muster.dev/v1alpha1",
        "kind": "Cluster",
        "metadata": {"name": name, "labels": labels},
        "spec": {key: part for key, part in spec.items() if part != {}},
    }
    data = yaml.safe_dump(value, sort_keys=False).encode()
    parse(load_documents(data, f"clusters/{name}.yaml")[0], Cluster)
    return data


def _wait_issued(operator: Any, name: str) -> None:
    """Until the coordinator has seen the entry; it takes one poll of the agent more until it is Online."""
    deadline = time.monotonic() + ISSUE_DEADLINE
    while any(join.cluster == name for join in operator.list_joins().joins):
        if time.monotonic() > deadline:
            click.echo("the coordinator has not read the registry yet; it will at its next poll", err=True)
            return
        if sys.stderr.isatty():
            click.echo(".", nl=False, err=True)
        time.sleep(0.3)
