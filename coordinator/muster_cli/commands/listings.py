"""Reading many: ``get``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click
from muster_core.select import matches, parse_selector
from muster_proto.v1 import operator_pb2 as op

from muster_cli.columns import BUNDLES, CLUSTERS, FREEZES, ROLLOUTS, TOKENS
from muster_cli.output import Answer, Column
from muster_cli.verbs import OUTPUT, Nouns, Verb, client, warn_of_git

if TYPE_CHECKING:
    from muster_cli.client import OperatorClient

SELECTOR = click.option(
    "-l", "--selector", default="", help="Only what these labels match, like tier=store,region in (eu)."
)
WATCH = click.option("-w", "--watch", is_flag=True, help="Stay and print what changes, until Ctrl-C.")


class Listing(Verb):
    """A list takes no name; who gives one is told where it belongs."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            if "extra argument" not in error.message or self.name in {"tokens", "freezes"}:
                raise
            noun = (self.name or "").rstrip("s")
            text = f"{error.message}. For one in full: muster describe {noun} {given[0]}"
            raise click.UsageError(text, ctx) from error


class Listings(Nouns):
    command_class = Listing


@click.group(cls=Listings)
def get() -> None:
    """List clusters, bundles, rollouts, freezes or tokens; `muster describe` shows one in full."""


@get.command("clusters")
@SELECTOR
@OUTPUT
@WATCH
@click.pass_context
def clusters(ctx: click.Context, selector: str, style: str, watch: bool) -> None:
    """List clusters: who is there.

    Presence, how many bundles are ready, what is owed to each, and the worst message.
    One cluster in full: muster describe cluster NAME.

    \b
    Example:
      muster get clusters -l ring=stores
    """
    wanted = parse_selector(selector)
    with client(ctx) as operator:
        warn_of_git(operator)
        if watch:
            request = op.WatchRequest(clusters=True)
            follow(operator, request, "cluster", CLUSTERS, style, lambda item: matches(wanted, item.labels))
        else:
            Answer(CLUSTERS, "cluster", style).show(
                operator.list_clusters(selector).clusters,
                "" if selector else "no clusters; one joins with a token: muster token create --cluster NAME",
            )


@get.command("bundles")
@SELECTOR
@OUTPUT
@WATCH
@click.pass_context
def bundles(ctx: click.Context, selector: str, style: str, watch: bool) -> None:
    """List bundles: which release is where.

    TARGET is the release that the bundle moves to or holds, WHERE how many clusters have which one. With -o wide,
    also who has another one. One bundle in full: muster describe bundle NAME.

    \b
    Example:
      muster get bundles -l team=web -o wide
    """
    wanted = parse_selector(selector)
    with client(ctx) as operator:
        warn_of_git(operator)
        if watch:
            request = op.WatchRequest(bundles=True)
            follow(operator, request, "bundle", BUNDLES, style, lambda item: matches(wanted, item.labels))
        else:
            found = operator.list_bundles(selector, places=style in {"wide", "json", "yaml"})
            Answer(BUNDLES, "bundle", style).show(found.bundles)


@get.command("rollouts")
@click.option("--bundle", default="", help="Only rollouts of this bundle.")
@OUTPUT
@WATCH
@click.pass_context
def rollouts(ctx: click.Context, bundle: str, style: str, watch: bool) -> None:
    """List rollouts: how far they are, and why.

    One rollout in full: muster describe rollout NAME. Why one cluster waits: muster rollout explain NAME CLUSTER.

    \b
    Example:
      muster get rollouts --bundle shop
    """
    with client(ctx) as operator:
        warn_of_git(operator)
        if watch:
            request = op.WatchRequest(rollouts=True, brief=True)
            follow(operator, request, "rollout", ROLLOUTS, style, lambda item: bundle in ("", item.bundle))
        else:
            Answer(ROLLOUTS, "rollout", style).show(
                operator.list_rollouts(bundle).rollouts,
                "" if bundle else "no rollouts; one starts when a bundle has clusters: muster get bundles",
            )


@get.command("freezes")
@OUTPUT
@click.pass_context
def freezes(ctx: click.Context, style: str) -> None:
    """List freezes: who is offered nothing, and until when.

    Make one: muster freeze create NAME --until 8h -l tier=store. End one: muster freeze delete NAME.

    \b
    Example:
      muster get freezes
    """
    with client(ctx) as operator:
        Answer(FREEZES, "freeze", style).show(
            operator.list_freezes().freezes, "no freezes; make one: muster freeze create --help"
        )


@get.command("tokens")
@OUTPUT
@click.pass_context
def tokens(ctx: click.Context, style: str) -> None:
    """List join tokens. Their secrets are kept nowhere.

    \b
    Example:
      muster get tokens

    Next: a new one is made by muster token create --cluster NAME.
    """
    with client(ctx) as operator:
        Answer(TOKENS, "token", style, identity="id").show(
            operator.list_tokens().tokens, "no tokens; make one: muster token create --cluster NAME"
        )


def follow(
    operator: OperatorClient,
    request: op.WatchRequest,
    kind: str,
    columns: Sequence[Column[Any]],
    style: str,
    wanted: Callable[[Any], bool],
) -> None:
    """The present state as one list, then every change as one line, until interrupted."""
    answer: Answer[Any] = Answer(columns, kind, style)
    present: list[Any] | None = []
    for event in operator.watch(request):
        item = getattr(event, kind) if event.HasField(kind) else None  # type: ignore[arg-type]
        if item is not None and not wanted(item):
            continue
        if present is None:
            if item is not None:
                answer.change(item)
        elif event.kind == op.Event.SYNCED:
            if style in ("json", "yaml"):
                for known in present:
                    answer.change(known)
            else:
                answer.show(present)
            present = None
        elif item is not None:
            present.append(item)
