"""Changing registry entries: labels, sites, revocation. Each is one signed commit from the operator's checkout."""

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
    from muster_core.kinds.model import Cluster, Site

    from muster_cli.checkout import Checkout, CommitTree

YES = click.option("--yes", is_flag=True, help="Do not ask.")


def change_entry(
    clone: Checkout, name: str, key: Path | None, change: Callable[[Cluster], Cluster | None], message: str
) -> tuple[str, Cluster]:
    """One signed commit on the registry branch, with the entry as it was before. ``J012`` where there is none;
    ``T043``, with nothing pushed, where the key that signs may not change it."""
    from muster_core.fleet import read_registry
    from muster_core.manifest.dump import dump_yaml

    from muster_cli.trust.registry import accepted_registry, require_own

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

    def judge(parent: str, commit: str) -> None:
        require_own(clone, parent, commit)

    return clone.add_to_registry(f"clusters/{name}.yaml", render, message, judge), found[-1]


def tell(ctx: click.Context) -> None:
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
@click.option(
    "--site-window",
    metavar="'CRON DURATION'",
    help="When the site takes releases, like '0 1 * * * 5h'; none: at any time.",
)
@click.option("--time-zone", metavar="ZONE", help="The site's time zone, like Europe/Berlin.")
@click.option(
    "--veto", "vetoed", multiple=True, metavar="BUNDLE", help="The site takes no release of BUNDLE."
)
@click.option("--no-veto", "allowed", multiple=True, metavar="BUNDLE", help="It takes them again.")
@KEY
@CHECKOUT
@click.pass_context
def label(
    ctx: click.Context,
    name: str,
    labels: tuple[str, ...],
    protected: tuple[str, ...],
    values: tuple[str, ...],
    site_window: str | None,
    time_zone: str | None,
    vetoed: tuple[str, ...],
    allowed: tuple[str, ...],
    key: Path | None,
    checkout: Path,
) -> None:
    """Change labels, values and site of cluster NAME.

    It is one signed commit to its entry in the registry, so it takes a key that may manage the registry.

    What the change moves on the cluster is offered to it as a catch-up, under the plan's limits. A bundle that
    ceases to match is held, never pruned. When the site takes releases is judged by the cluster itself; it moves nothing.

    \b
    Example:
      muster cluster label berlin-04 --label tier=store --veto shop

    Next: muster describe cluster NAME.
    """
    from muster_core.substitute import typed

    from muster_cli.checkout import open_checkout

    plain, kept, own = (
        pairs(labels, "--label"),
        pairs(protected, "--protected-label"),
        pairs(values, "--value"),
    )
    site = bool(site_window or time_zone or vetoed or allowed)
    if not (plain or kept or own or site):
        hint = "Give --label, --protected-label, --value, --site-window, --time-zone, --veto or --no-veto."
        raise ValidationError("V008", "nothing to change", hint=hint)

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
                site=_site(entry.spec.site, site_window, time_zone, vetoed, allowed),
            ),
        )

    with open_checkout(checkout) as clone:
        commit, _ = change_entry(clone, name, key, change, f"Label {name}")
    tell(ctx)
    click.echo(f"cluster/{name} labelled (registry {commit[:7]})")


def _site(
    old: Site | None,
    window: str | None,
    zone: str | None,
    vetoed: tuple[str, ...],
    allowed: tuple[str, ...],
) -> Site | None:
    """The site as it is to be; one that says nothing is none."""
    from muster_core.kinds.model import Site, SiteWindow
    from muster_core.windows import parse_window

    site = old or Site()
    if window == "none":
        site = msgspec.structs.replace(site, window=None)
    elif window:
        cron, _, duration = window.strip().rpartition(" ")
        site = msgspec.structs.replace(site, window=SiteWindow(cron=cron, duration=duration))
    veto = [*dict.fromkeys([*site.veto, *vetoed])]
    veto = [bundle for bundle in veto if bundle not in allowed]
    site = msgspec.structs.replace(site, time_zone=zone or site.time_zone, veto=veto)
    given = site.window or SiteWindow(cron="0 * * * *", duration="1h")
    parse_window(given.cron, given.duration, site.time_zone)
    return site if site != Site() else None


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
    their source.

    \b
    Example:
      muster cluster revoke berlin-04
    """
    from muster_cli.checkout import open_checkout

    if not yes:
        click.confirm(f"Revoke {name} for good?", abort=True, err=True)

    def change(entry: Cluster) -> Cluster:
        return msgspec.structs.replace(entry, spec=msgspec.structs.replace(entry.spec, revoked=True))

    with open_checkout(checkout) as clone:
        commit, entry = change_entry(clone, name, key, change, f"Revoke {name}")
        readable = readable_by(clone, entry)
    tell(ctx)
    click.echo(f"cluster/{name} revoked (registry {commit[:7]})")
    for path in readable:
        click.echo(f"{path} was sealed to it: seal it anew, and change what is in it at its source", err=True)


def readable_by(clone: Checkout, entry: Cluster) -> list[str]:
    from muster_core.fleet import read_fleet

    secrets = read_fleet(clone.tree(clone.head())).secrets
    return sorted(
        path
        for path, secret in secrets.items()
        if any(entry.spec.uid in line.split() for line in secret.spec.recipients)
    )
