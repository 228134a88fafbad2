"""What a rollout would be over, read where the operator stands: bundle, plan and members.

Owns the way from a checkout (its working files and the registry as operators accept it) to members, and the question who
is away, which only a coordinator can answer. It never starts anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
from msgspec import UNSET, UnsetType
from muster_core.durations import parse_duration, resolve_count
from muster_core.errors import GitError, MusterError, RolloutError
from muster_core.fleet import FleetContents, in_service, read_fleet, read_registry
from muster_core.kinds.model import Bundle, Cluster, Site
from muster_core.kinds.plans import RolloutPlan
from muster_core.rollout.membership import members_of
from muster_core.rollout.plan import Member
from muster_core.windows import Window

from muster_cli.checkout import REGISTRY_BRANCH, Checkout, open_checkout
from muster_cli.errors import NotFoundError
from muster_cli.folder import FolderTree
from muster_cli.trust.registry import FLOOR, accepted_registry
from muster_cli.verbs import client


@dataclass(frozen=True, slots=True)
class Outlook:
    """``clusters`` is the registry without those out of service."""

    contents: FleetContents
    bundle: Bundle
    plan: RolloutPlan
    clusters: dict[str, Cluster]

    @property
    def name(self) -> str:
        return self.bundle.metadata.name

    def members(self) -> list[Member]:
        return members_of(self.bundle, self.clusters, self.contents.fleet)

    def most_disrupted(self) -> int | None:
        """``Fleet.limits.maxDisrupted`` as a number of this registry's clusters."""
        fleet = self.contents.fleet
        limit = fleet.spec.limits.max_disrupted if fleet else UNSET
        if isinstance(limit, UnsetType) or not self.clusters:
            return None
        return resolve_count(limit, len(self.clusters), rounding="down-at-least-one")

    def sites(self) -> dict[str, Window]:
        """The windows that members have of their own."""
        return {
            name: Window(site.window.cron, parse_duration(site.window.duration), site.time_zone)
            for name, site in self._sites()
            if site.window
        }

    def vetoes(self) -> frozenset[str]:
        """Members whose site takes nothing of this bundle."""
        return frozenset(name for name, site in self._sites() if self.name in site.veto)

    def _sites(self) -> Iterator[tuple[str, Site]]:
        for member in self.members():
            if site := self.clusters[member.name].spec.site:
                yield member.name, site


def look(
    checkout: Path, bundle: str, plan: str, registry: Callable[[Checkout], dict[str, Cluster]]
) -> Outlook:
    """``R007`` for a bundle that is not there or not whole, ``R006`` for a plan that is not there."""
    with open_checkout(checkout) as clone:
        contents = read_fleet(FolderTree(clone.root))
        at = contents.bundles.get(bundle)
        problems = contents.problems_of(bundle)
        if at is None or problems:
            why = str(problems[0]) if problems else "there is no such bundle"
            raise NotFoundError("R007", why, object=bundle, hint="Run: muster validate .")
        named = plan or contents.plan_of(bundle) or "(none named)"
        found = contents.plans.get(named)
        if found is None:
            raise RolloutError("R006", f"there is no plan {named}", object=bundle)
        return Outlook(contents, at.bundle, found, in_service(registry(clone)))


def registered(clone: Checkout) -> dict[str, Cluster]:
    """The newest that is accepted; without the remote, what was accepted here before."""
    try:
        return accepted_registry(clone)[1]
    except GitError as error:
        if not error.retryable:
            raise
        is_open = clone.fleet().spec.mode == "open"
        commit = clone.known(REGISTRY_BRANCH) if is_open else clone.ref(FLOOR)
        if not commit:
            raise
        click.echo(f"note: the registry is as of {commit[:7]}, seen here before: {error}", err=True)
        return read_registry(clone.tree(commit))[0]


def registered_if_any(clone: Checkout) -> dict[str, Cluster]:
    """The same, or nobody where there is no registry to be had."""
    try:
        return registered(clone)
    except GitError:
        return {}


def away_now(ctx: click.Context, outlook: Outlook) -> frozenset[str] | None:
    """Members that the coordinator of the context is not in contact with; None where nobody can say, which is told."""
    try:
        with client(ctx) as operator:
            fleet = outlook.contents.fleet
            info = operator.info()
            if fleet and info.fleet_id not in ("", fleet.spec.id):
                click.echo("note: the coordinator of this context has another fleet", err=True)
                return None
            online = {view.name for view in operator.list_clusters().clusters if view.state == "Online"}
    except MusterError as error:
        click.echo(f"note: who is away is not known: {error}", err=True)
        return None
    return frozenset(member.name for member in outlook.members() if member.name not in online)
