"""Taking things away: a bundle from all its clusters, a cluster from the fleet.

Owns what is written for it: a bundle without objects, which goes through its plan's waves like any release, and a registry
entry that asks its cluster to uninstall. What is deleted in a cluster is deleted by its agent; nothing here reaches one.
"""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from muster_cli.commands.registry import change_entry, readable_by, tell
from muster_cli.errors import DeniedError, NotFoundError, UnreachableError
from muster_cli.trust.signing import KEY
from muster_cli.verbs import CHECKOUT, Nouns, Verb, client, given_timeout

if TYPE_CHECKING:
    from muster_core.fleet import FleetContents
    from muster_core.kinds.model import Bundle, Cluster
    from muster_proto.v1 import operator_pb2 as op

LOOK = 1.0
PATIENCE = 300.0  # seconds, unless --timeout says another
YES = click.option("--yes", is_flag=True, help="Do not ask.")


@click.group("bundle", cls=Nouns)
def bundle() -> None:
    """Take bundles off their clusters."""


@bundle.command("remove", cls=Verb)
@click.argument("name")
@click.option("--claims", is_flag=True, help="Delete its PersistentVolumeClaims too, and their data.")
@click.option("--definitions", is_flag=True,
              help="Delete its CustomResourceDefinitions too, and every object of their kinds.")  # fmt: skip
@click.option(
    "--namespaces", is_flag=True, help="Delete its Namespaces too, and all in them; needs --claims."
)
@CHECKOUT
def remove_bundle(name: str, claims: bool, definitions: bool, namespaces: bool, checkout: Path) -> None:
    """Make bundle NAME a release without objects, in your checkout.

    Once you commit and push it, signed like any release, it goes through the waves of its plan, and each cluster deletes
    what the bundle delivered, the last kinds first. Claims, definitions and namespaces stay unless you ask for them,
    now or by running this again. muster rollout watch shows it go. Once it has succeeded and nobody is owed it, the
    folder can be deleted. Deleting the folder alone deletes nothing anywhere.

    To change your mind: git revert; whoever was emptied gets it back, but for data that is gone.

    \b
    Example:
      muster bundle remove shop
      git commit -m 'Remove shop' bundles/shop/bundle.yaml
      git push
    """
    from muster_core.fleet import read_fleet
    from muster_core.kinds.model import NEEDS_DIRECTIVE, Bundle, Remove
    from muster_core.kinds.parse import parse
    from muster_core.manifest.dump import dump_yaml
    from muster_core.manifest.load import load_documents

    from muster_cli.checkout import open_checkout

    if namespaces and not claims:
        raise click.UsageError("a namespace takes its claims with it: give --claims as well, or neither")
    with open_checkout(checkout) as clone:
        contents = read_fleet(clone.tree(clone.head()))
        at = contents.bundles.get(name)
        if at is None:
            known = f"It has: {', '.join(sorted(contents.bundles)) or 'none'}."
            raise NotFoundError("L041", "the checkout's commit has no such bundle", object=name, hint=known)
        _require_unneeded(name, contents)
        path = clone.root / at.file
        document = load_documents(path.read_bytes(), at.file)[0]
        said = Remove(namespaces=namespaces, claims=claims, definitions=definitions)
        emptied = _emptied(parse(document, Bundle), said)
    text = dump_yaml(emptied)
    parse(load_documents(text.encode(), at.file)[0], Bundle)
    path.write_text(text)
    click.echo(str(path))
    where, what = shlex.quote(at.file), shlex.quote(f"Remove {name}")
    signed = contents.fleet is not None and contents.fleet.spec.mode in NEEDS_DIRECTIVE
    then = f" && muster rollout start {name}" if signed else ""
    click.echo(f"Next: git commit -m {what} {where} && git push{then}", err=True)
    kept = [kind for kind, goes in (("PersistentVolumeClaims", claims), ("CustomResourceDefinitions", definitions),
                                    ("Namespaces", namespaces)) if not goes]  # fmt: skip
    if namespaces:
        click.echo(
            "An agent may delete no namespace unless its cluster grants that: docs/removal.md", err=True
        )
    if kept:
        click.echo(f"What stays in the clusters: its {', '.join(kept)}", err=True)


def _require_unneeded(name: str, contents: FleetContents) -> None:
    """``L090`` when a bundle that stays depends on it."""
    specs = {other: at.bundle.spec for other, at in contents.bundles.items()}
    needing = sorted(
        other
        for other, spec in specs.items()
        if spec.remove is None and name in {needed.name for needed in spec.depends_on}
    )
    if needing:
        raise DeniedError(
            "L090",
            f"{', '.join(needing)} cannot do without it",
            object=name,
            hint=f"Take {name} out of spec.dependsOn there, or remove those first: muster bundle remove {needing[0]}.",
        )


def _emptied(bundle: Bundle, said: object) -> object:
    """Where it goes and how stays; what says of which objects it is made goes."""
    value = msgspec.to_builtins(bundle)
    for field in ("source", "render", "namespace", "secrets"):
        value["spec"].pop(field, None)
    value["spec"]["remove"] = msgspec.to_builtins(said)
    return value


@click.command("remove", cls=Verb)
@click.argument("name")
@click.option("--uninstall", is_flag=True,
              help="First let its agent delete what bundles delivered; claims, definitions and namespaces stay.")  # fmt: skip
@click.option("--orphan", is_flag=True, help="Leave everything running (the default).")
@YES
@KEY
@CHECKOUT
@click.pass_context
def remove_cluster(
    ctx: click.Context,
    name: str,
    uninstall: bool,
    orphan: bool,
    yes: bool,
    key: Path | None,
    checkout: Path,
) -> None:
    """Forget cluster NAME.

    Its entry leaves the registry, and with it the fleet; its credentials end. Nothing is deleted in the cluster, unless
    --uninstall asks for it: then the entry first asks the agent, and leaves when the agent has said that it is done. One
    that is out of contact stays listed as Removing until it is back; run the same again then. Claims, definitions and
    namespaces stay in the cluster and are listed, and so does the agent, whose last line is printed.

    The entry is signed: with a key that may manage the registry (muster trust show).

    It may join again with a new token. To shut it out for good: muster cluster revoke.

    \b
    Example:
      muster cluster remove berlin-04
      muster cluster remove berlin-04 --uninstall
    """
    from muster_cli.checkout import open_checkout

    if uninstall and orphan:
        raise click.UsageError("--uninstall deletes what --orphan leaves running: give one of them")
    if not yes:
        what = f"Delete all that bundles delivered on {name}, and remove" if uninstall else "Remove"
        click.confirm(f"{what} {name} from the registry?", abort=True, err=True)
    with open_checkout(checkout) as clone:
        if uninstall:
            commit, _ = change_entry(clone, name, key, _asked_to_leave, f"Uninstall {name}")
            tell(ctx)
            view = _wait_until_it_left(ctx, name, given_timeout(ctx) or PATIENCE)
            if view.state != "Removed":
                click.echo(f"cluster/{name} is Removing (registry {commit[:7]}): it is out of contact")
                click.echo(f"When it is back: muster cluster remove {name} --uninstall", err=True)
                return
        takes_out = _taken_out if uninstall or orphan else _taken_out_unless_it_leaves
        commit, entry = change_entry(clone, name, key, takes_out, f"Remove {name}")
        readable = readable_by(clone, entry)
    tell(ctx)
    click.echo(f"cluster/{name} removed (registry {commit[:7]})")
    for path in readable:
        click.echo(f"{path} was sealed to it: seal it anew", err=True)
    if uninstall:
        if view.message:
            click.echo(view.message.partition(": muster")[0], err=True)
        click.echo(f"What is left is the agent itself, which may not delete itself: {_last_line()}", err=True)


def _taken_out(entry: Cluster) -> None:
    """Nothing of the entry stays."""


def _taken_out_unless_it_leaves(entry: Cluster) -> None:
    """``L092`` for one whose agent was asked to uninstall: nobody said whether that is to be waited for."""
    name = entry.metadata.name
    if entry.is_leaving:
        raise DeniedError(
            "L092",
            "the cluster is being uninstalled",
            object=name,
            hint=f"To wait for it: muster cluster remove {name} --uninstall. To forget it as it is: the same with --orphan.",
        )


def _asked_to_leave(entry: Cluster) -> Cluster:
    name = entry.metadata.name
    if entry.spec.revoked:
        raise DeniedError(
            "L091",
            "the agent of a revoked cluster is not heard any more, so it cannot be asked",
            object=name,
            hint=f"muster cluster remove {name} --orphan; then delete what is there with the cluster's own credential.",
        )
    return msgspec.structs.replace(entry, spec=msgspec.structs.replace(entry.spec, removal="uninstall"))


def _wait_until_it_left(ctx: click.Context, name: str, seconds: float) -> op.ClusterView:
    """Returns at once for a cluster that is out of contact; one that falls silent meanwhile is waited for. ``J071`` when
    it is not done in time."""
    until, was_here = time.monotonic() + seconds, False
    with client(ctx) as operator:
        while True:
            view = operator.get_cluster(name)
            was_here = was_here or view.online
            if view.state == "Removed" or not was_here:
                return view
            if time.monotonic() >= until:
                break
            time.sleep(LOOK)
    raise UnreachableError(
        "J071",
        "the cluster has not taken everything away yet",
        object=name,
        hint="It goes on by itself. Look at what is in its way: muster describe cluster NAME; then run the same again.",
    )


def _last_line() -> str:
    """What a person with the cluster's own credential does last."""
    from muster_cli.install.manifest import base_objects

    whole = [
        f"{obj['kind'].lower()}/{obj['metadata']['name']}"
        for obj in base_objects()
        if "namespace" not in obj["metadata"]
    ]
    return f"kubectl delete {' '.join(whole)}"
