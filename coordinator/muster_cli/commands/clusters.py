"""Approving clusters: the operator's side of a join.

The registry entry comes from the operator's own checkout; the coordinator only reads it. Before it is
written, the sealing key is checked against the identity key, and both fingerprints are shown.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click
from muster_core.errors import JoinError, ValidationError

from muster_cli.errors import NotFoundError
from muster_cli.trust.signing import KEY
from muster_cli.verbs import CHECKOUT, ENTRY_OPTIONS, Nouns, client, pairs, with_options

if TYPE_CHECKING:
    from muster_core.select import Value
    from muster_proto.v1 import operator_pb2 as op

    from muster_cli.checkout import CommitTree
    from muster_cli.client import OperatorClient

ISSUE_DEADLINE = 30.0
ISSUE_POLL = 0.3


@click.group(cls=Nouns)
def cluster() -> None:
    """Clusters: let them join, label them, take them out of the fleet."""


@cluster.command("approve")
@click.argument("name")
@with_options(ENTRY_OPTIONS)
@click.option(
    "--value", "values", multiple=True, metavar="K=V", help="A value that this cluster's manifests see."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@KEY
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
    key: Path | None,
    checkout: Path,
) -> None:
    """Approve the pending join of NAME.

    Writes its registry entry from your checkout and pushes it.

    Compare the fingerprints with those in the agent's log before you say yes.

    \b
    Example:
      muster cluster approve berlin-04 --protected-label ring=stores

    Next: muster get clusters; what the cluster's labels select rolls out to it by itself.
    """
    from muster_core.sealing.keys import fingerprint
    from muster_core.substitute import typed

    from muster_cli.checkout import open_checkout

    plain, kept = pairs(labels, "--label"), pairs(protected, "--protected-label")
    own = {key: typed(text) for key, text in pairs(values, "--value").items()}
    with open_checkout(checkout) as clone, client(ctx) as operator:
        fleet = clone.fleet()
        clone.sign_as(fleet.spec.mode, key)
        known = sorted({"connected", *fleet.spec.site_classes})
        if site_class not in known:
            raise ValidationError(
                "V007", f"fleet.yaml has no site class {site_class}", hint=f"Known: {', '.join(known)}."
            )
        join = _pending(operator, name)
        entry = _entry(fleet.spec.id, name, join, plain, kept, own, site_class)
        click.echo(f"cluster        {name} (uid {join.uid})", err=True)
        click.echo(f"identity key   {fingerprint(join.identity_key)}", err=True)
        click.echo(f"sealing key    {fingerprint(join.sealing_key)}", err=True)
        if not yes:
            click.confirm("Are these the fingerprints that the agent logged?", abort=True, err=True)
        commit = clone.add_to_registry(
            f"clusters/{name}.yaml", lambda tree: _checked(tree, name, join, entry), f"Approve {name}"
        )
        operator.refresh()
        issued = _wait_issued(operator, name)
    click.echo(f"cluster/{name} approved (registry {commit[:7]})")
    if not issued:
        click.echo("The coordinator has not seen the entry yet. Look again: muster get clusters", err=True)
        ctx.exit(5)


@cluster.command("reject")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_context
def reject(ctx: click.Context, name: str, yes: bool) -> None:
    """Turn down the pending join of NAME.

    Its agent is told so and ends. The name is free for another join, with a new token.

    \b
    Example:
      muster cluster reject berlin-04
    """
    from muster_core.sealing.keys import fingerprint

    with client(ctx) as operator:
        join = _pending(operator, name)
        click.echo(f"identity key   {fingerprint(join.identity_key)}", err=True)
        if not yes:
            click.confirm(f"Turn down {name}?", abort=True, err=True)
        operator.reject_join(name)
    click.echo(f"cluster/{name} rejected")


@cluster.command("acknowledge")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_context
def acknowledge(ctx: click.Context, name: str, yes: bool) -> None:
    """Say that you know why something of NAME went back.

    Its floor, or the coordinator's database: such as a restored backup, or a lost state folder.

    Until then a cluster whose floor went back keeps and heals what it has, and takes nothing new.

    \b
    Example:
      muster cluster acknowledge berlin-04
    """
    with client(ctx) as operator:
        view = operator.get_cluster(name)
        what = f"{name} had accepted {view.regressed[:12]} before." if view.regressed else view.message
        if what and not yes:  # where nothing went back the coordinator says so
            click.confirm(f"{what} Is that known?", abort=True, err=True)
        operator.acknowledge_floor(name)
    click.echo(f"cluster/{name} acknowledged")


def _pending(operator: OperatorClient, name: str) -> op.Join:
    joins = list(operator.list_joins().joins)
    for join in joins:
        if join.cluster == name:
            return join
    asked = ", ".join(sorted(join.cluster for join in joins)) or "nobody"
    raise NotFoundError(
        "J012",
        "nobody asked to join under this name",
        object=name,
        hint=f"Who asked: {asked}. Start the cluster's agent with a token first: muster token create.",
    )


def _checked(tree: CommitTree, name: str, join: op.Join, entry: bytes) -> bytes:
    """Refuses to hand a name or an identity to somebody else than before."""
    from muster_core.fleet import read_registry
    from muster_core.sealing.keys import encode_identity

    clusters, _ = read_registry(tree)
    identity = encode_identity(join.identity_key)
    old = clusters.get(name)
    if old and old.spec.revoked:
        raise JoinError(
            "J010",
            "this cluster was revoked",
            object=name,
            hint=f"If it may come back after all: muster cluster remove {name} first, and change its keys.",
        )
    if old and (old.spec.uid != join.uid or old.spec.identity_key != identity):
        raise JoinError(
            "J013",
            "the registry has this name with another identity",
            object=name,
            hint=f"If the cluster was rebuilt: muster cluster remove {name}, then approve it.",
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
    values: Mapping[str, Value],
    site_class: str,
) -> bytes:
    from muster_core.kinds.model import Cluster
    from muster_core.kinds.parse import parse
    from muster_core.manifest.dump import dump_yaml
    from muster_core.manifest.load import load_documents
    from muster_core.sealing.keys import encode_identity, encode_sealing, sealing_key_statement, verify

    statement = sealing_key_statement(fleet_id, join.uid, join.sealing_key, join.sealing_generation)
    if not verify(join.identity_key, statement, join.sealing_signature):
        raise JoinError(
            "J015",
            "the sealing key is not signed by the identity key",
            object=name,
            hint="Somebody between you and the agent may have changed it: do not approve.",
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
    data = dump_yaml(value).encode()
    parse(load_documents(data, f"clusters/{name}.yaml")[0], Cluster)
    return data


def _wait_issued(operator: OperatorClient, name: str) -> bool:
    """Whether the coordinator read the entry; then the agent gets its certificate when it asks next."""
    deadline = time.monotonic() + ISSUE_DEADLINE
    while any(join.cluster == name and join.state == "Pending" for join in operator.list_joins().joins):
        if time.monotonic() > deadline:
            return False
        time.sleep(ISSUE_POLL)
    return True
