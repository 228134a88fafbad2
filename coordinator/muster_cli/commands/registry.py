"""Changing registry entries: labels, revocation, removal. Each is one signed commit from the operator's checkout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec
from muster_core.errors import ValidationError

from muster_cli.errors import NotFoundError
from muster_cli.trust.signing import KEY
from muster_cli.verbs import CHECKOUT, Verb, client, pairs

if TYPE_CHECKING:
    from muster_core.kinds.model import Cluster

    from muster_cli.checkout import Checkout, CommitTree

YES = click.option("--yes", is_flag=True, help="Do not ask.")


def _change(
    clone: Checkout, name: str, key: Path | None, change: Callable[[Cluster], Cluster | None], message: str
) -> tuple[str, Cluster]:
    """One signed commit on the registry branch; ``J012`` where there is no such entry. Returns it and the entry
    before."""
    from muster_core.fleet import read_registry
    from muster_core.manifest.dump import dump_yaml

    from muster_cli.trust.registry import accepted_registry

    clone.sign_as(clone.fleet().spec.mode, key)
    accepted_registry(clone)
    found: list[Cluster] = []

    def render(tree: CommitTree) -> bytes | None:
        entries, _ = read_registry(tree)
        if name not in entries:
            raise NotFoundError(
                "J012", "the registry has no such cluster", object=name, hint="muster get clusters"
            )
        found.append(entries[name])
        changed = change(entries[name])
        return dump_yaml(msgspec.to_builtins(changed)).encode() if changed else None

    return clone.add_to_registry(f"clusters/{name}.yaml", render, message), found[-1]


def _tell(ctx: click.Context) -> None:
    with client(ctx) as operator:
        operator.refresh()


@click.command("label", cls=Verb)
@click.argument("name")
@click.option("--label", "labels", multiple=True, metavar="K=V", help="Set a label; K= removes it.")
@click.option(
    "--protected-label",
    "protected",
    multiple=True,
    metavar="K=V",
    help="Set a protected label; K= removes it.",
)
@click.option("--value", "values", multiple=True, metavar="K=V", help="Set a value; K= removes it.")
@KEY
@CHECKOUT
@click.pass_context
def label(
    ctx: click.Context,
    name: str,
    labels: tuple[str, ...],
    protected: tuple[str, ...],
    values: tuple[str, ...],
    key: Path | None,
    checkout: Path,
) -> None:
    """Change labels and values of cluster NAME in the registry.

    What the change moves on the cluster is offered to it as a catch-up, under the plan's limits. A bundle that
    ceases to match is held, never pruned."""
    from muster_core.substitute import typed

    from muster_cli.checkout import open_checkout

    plain, kept, own = (
        pairs(labels, "--label"),
        pairs(protected, "--protected-label"),
        pairs(values, "--value"),
    )
    if not (plain or kept or own):
        raise ValidationError("V008", "nothing to change", hint="Give --label, --protected-label or --value.")

    def merged(old: dict[str, str], new: dict[str, str]) -> dict[str, str]:
        return {k: v for k, v in {**old, **new}.items() if v}

    def change(entry: Cluster) -> Cluster:
        given = {k: typed(v) for k, v in own.items() if v}
        kept_values = {k: v for k, v in entry.spec.values.items() if k not in own}
        return msgspec.structs.replace(
            entry,
            metadata=msgspec.structs.replace(entry.metadata, labels=merged(entry.metadata.labels, plain)),
            spec=msgspec.structs.replace(
                entry.spec,
                protected_labels=merged(entry.spec.protected_labels, kept),
                values={**kept_values, **given},
            ),
        )

    with open_checkout(checkout) as clone:
        commit, _ = _change(clone, name, key, change, f"Label {name}")
    _tell(ctx)
    click.echo(f"cluster/{name} labelled (registry {commit[:7]})")


@click.command("revoke", cls=Verb)
@click.argument("name")
@YES
@KEY
@CHECKOUT
@click.pass_context
def revoke(ctx: click.Context, name: str, yes: bool, key: Path | None, checkout: Path) -> None:
    """Shut cluster NAME out for good.

    Its line is cut at once, its certificate is not renewed, nothing is sealed to it any more.

    Its entry stays, so that neither the name nor its keys can come back. What runs there goes on: nobody can reach
    it from here. The secrets that it can open are listed: seal them anew, and change the credentials in them at
    their source."""
    from muster_cli.checkout import open_checkout

    if not yes:
        click.confirm(f"Revoke {name} for good?", abort=True, err=True)

    def change(entry: Cluster) -> Cluster:
        return msgspec.structs.replace(entry, spec=msgspec.structs.replace(entry.spec, revoked=True))

    with open_checkout(checkout) as clone:
        commit, entry = _change(clone, name, key, change, f"Revoke {name}")
        readable = _readable_by(clone, entry)
    _tell(ctx)
    click.echo(f"cluster/{name} revoked (registry {commit[:7]})")
    for path in readable:
        click.echo(f"{path} was sealed to it: seal it anew, and change what is in it at its source", err=True)


def _readable_by(clone: Checkout, entry: Cluster) -> list[str]:
    from muster_core.fleet import read_fleet

    secrets = read_fleet(clone.tree(clone.head())).secrets
    return sorted(
        path
        for path, secret in secrets.items()
        if any(entry.spec.uid in line.split() for line in secret.spec.recipients)
    )


@click.command("remove", cls=Verb)
@click.argument("name")
@YES
@KEY
@CHECKOUT
@click.pass_context
def remove(ctx: click.Context, name: str, yes: bool, key: Path | None, checkout: Path) -> None:
    """Forget cluster NAME.

    Its entry leaves the registry, and with it the fleet.

    Nothing is deleted in the cluster. It may join again with a new token. To shut it out for good: muster cluster
    revoke."""
    from muster_cli.checkout import open_checkout

    if not yes:
        click.confirm(f"Remove {name} from the registry?", abort=True, err=True)
    with open_checkout(checkout) as clone:
        commit, entry = _change(clone, name, key, lambda _: None, f"Remove {name}")
        readable = _readable_by(clone, entry)
    _tell(ctx)
    click.echo(f"cluster/{name} removed (registry {commit[:7]})")
    for path in readable:
        click.echo(f"{path} was sealed to it: seal it anew", err=True)
