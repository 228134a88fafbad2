"""Reading: ``get`` and ``describe``."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import click
from google.protobuf.message import Message
from muster_core.durations import format_duration
from muster_core.select import parse_selector
from muster_proto.v1 import link_pb2 as wire
from muster_proto.v1 import operator_pb2 as op

from muster_cli.main import OUTPUT, client
from muster_cli.output import Column, age, show

SELECTOR = click.option(
    "-l", "--selector", default="", help="Only what these labels match, like tier=store,region in (eu)."
)
WATCH = click.option("-w", "--watch", is_flag=True, help="Stay and print changes.")


def short(release: wire.Release) -> str:
    return release.commit[:7] or "-"


CLUSTERS: Sequence[Column[op.ClusterView]] = (
    Column("CLUSTER", lambda c: c.name),
    Column("STATE", lambda c: c.state),
    Column("BUNDLES", lambda c: f"{sum(r.phase == 'Ready' for r in c.bundles)}/{len(c.bundles)}"),
    Column("OWED", lambda c: ",".join(c.owed) or "-"),
    Column("SEEN", lambda c: age(c.last_seen_unix_ms)),
    Column("CLASS", lambda c: c.site_class or "-"),
    Column("AGENT", lambda c: c.agent_version or "-", wide=True),
    Column("KUBERNETES", lambda c: c.kubernetes_version or "-", wide=True),
    Column("LABELS", lambda c: ",".join(f"{k}={v}" for k, v in sorted(c.labels.items())), wide=True),
    Column("MESSAGE", lambda c: worst_of(c)),
)
BUNDLES: Sequence[Column[op.BundleView]] = (
    Column("BUNDLE", lambda b: b.name),
    Column("RELEASE", lambda b: short(b.current)),
    Column("PLAN", lambda b: b.plan or "-"),
    Column("READY", lambda b: f"{b.ready}/{b.matched}"),
    Column("DEGRADED", lambda b: str(b.degraded)),
    Column("BLOCKED", lambda b: str(b.blocked)),
    Column("OWED", lambda b: str(b.owed)),
    Column("ROLLOUT", lambda b: b.active_rollout or "-"),
    Column("SPREAD", lambda b: spread(b)),
    Column("ERROR", lambda b: b.error or "-"),
)
ROLLOUTS: Sequence[Column[op.RolloutView]] = (
    Column("ROLLOUT", lambda r: r.name),
    Column("BUNDLE", lambda r: r.bundle),
    Column("RELEASE", lambda r: short(r.release)),
    Column("STATE", lambda r: r.state),
    Column("WAVE", lambda r: wave(r)),
    Column("DONE", lambda r: f"{r.done}/{r.total}"),
    Column("IN-FLIGHT", lambda r: str(r.in_flight)),
    Column("FAILED", lambda r: str(r.failed)),
    Column("LOST", lambda r: str(r.lost)),
    Column("OWED", lambda r: str(r.owed)),
    Column("AGE", lambda r: age(r.started_unix_ms)),
    Column("BY", lambda r: r.started_by, wide=True),
    Column("WHY", lambda r: r.why or "-"),
)
TOKENS: Sequence[Column[op.Token]] = (
    Column("TOKEN", lambda t: t.id),
    Column("CLUSTER", lambda t: t.cluster),
    Column("STATE", lambda t: t.state),
    Column(
        "EXPIRES",
        lambda t: f"in {format_duration(t.expires_unix - time.time())}" if t.state == "Valid" else "-",
    ),
    Column("AGE", lambda t: age(t.created_unix * 1000)),
)


def worst_of(cluster: op.ClusterView) -> str:
    """The first message of a bundle that is not Ready."""
    bad = (f"{r.bundle}: {r.message}" for r in cluster.bundles if r.phase != "Ready" and r.message)
    return cluster.message or next(bad, "-")


def spread(bundle: op.BundleView) -> str:
    """Which release is where: ``3f2c9d1×5 9ab01c2×1``."""
    counts: dict[str, int] = {}
    for place in bundle.places:
        counts[short(place.release)] = counts.get(short(place.release), 0) + 1
    return (
        " ".join(f"{commit}×{count}" for commit, count in sorted(counts.items(), key=lambda item: -item[1]))
        or "-"
    )


def wave(rollout: op.RolloutView) -> str:
    if not rollout.waves:
        return "-"
    number = min(rollout.wave_index, len(rollout.waves) - 1)
    return f"{number + 1}/{len(rollout.waves)} {rollout.waves[number].name}"


@click.group()
def get() -> None:
    """List clusters, bundles, rollouts or tokens. Add -o wide|json|yaml|name, -l SELECTOR, -w to watch."""


def _listing(
    name: str,
    columns: Sequence[Column[Any]],
    fetch: Callable[[Any, str], Sequence[Message]],
    watched: str | None,
) -> None:
    kind = name.removesuffix("s")

    @get.command(name, help=f"List {name}.")
    @SELECTOR
    @OUTPUT
    @WATCH
    @click.pass_context
    def command(ctx: click.Context, selector: str, style: str, watch: bool) -> None:
        parse_selector(selector)
        with client(ctx) as operator:
            if not watch:
                show(fetch(operator, selector), columns, kind, style)
                return
            if watched is None:
                raise click.UsageError(f"{name} cannot be watched")
            request = op.WatchRequest(**{f"{watched}s": True})
            for event in operator.watch(request):
                if event.HasField(watched):
                    show([getattr(event, watched)], columns, kind, style)


_listing(
    "clusters", CLUSTERS, lambda operator, selector: operator.list_clusters(selector).clusters, "cluster"
)
_listing("bundles", BUNDLES, lambda operator, selector: operator.list_bundles(selector).bundles, "bundle")
_listing("rollouts", ROLLOUTS, lambda operator, _: operator.list_rollouts().rollouts, "rollout")


@get.command("tokens")
@OUTPUT
@click.pass_context
def tokens(ctx: click.Context, style: str) -> None:
    """List join tokens. Their secrets are not kept anywhere."""
    with client(ctx) as operator:
        found = operator.list_tokens().tokens
        if style == "name":
            for token in found:
                click.echo(f"token/{token.id}")
        else:
            show(found, TOKENS, "token", style)


@click.group()
def describe() -> None:
    """Show one cluster, bundle or rollout in full."""


@describe.command("cluster")
@click.argument("name")
@OUTPUT
@click.pass_context
def describe_cluster(ctx: click.Context, name: str, style: str) -> None:
    """Identity, labels, and what each bundle does on cluster NAME."""
    with client(ctx) as operator:
        view = operator.get_cluster(name)
    if style in {"json", "yaml"}:
        show([view], CLUSTERS, "cluster", style, one=True)
        return
    _lines(
        ("Name", view.name),
        ("UID", view.uid),
        ("State", view.state),
        ("Seen", f"{age(view.last_seen_unix_ms)} ago"),
        ("Identity", view.identity_fingerprint),
        ("Site class", view.site_class),
        ("Agent", view.agent_version),
        ("Kubernetes", view.kubernetes_version),
        ("Owed", ", ".join(view.owed)),
        ("Labels", ", ".join(f"{k}={v}" for k, v in sorted(view.labels.items()))),
        ("Message", view.message),
    )
    for report in view.bundles:
        click.echo(
            f"\n{report.bundle}: {report.phase} {short(report.release)} ({report.ready_count}/{report.object_count} objects ready)"
        )
        if report.message:
            click.echo(f"  {report.code} {report.message}".rstrip())
        if report.healed_count:
            click.echo(f"  healed {report.healed_count} times, last {report.last_healed}")
        for item in report.objects:
            click.echo(f"  {item.object}: {item.health}: {item.message}")
        for violation in report.violations:
            click.echo(
                f"  {violation.action} {violation.policy}/{violation.rule}: {violation.object} at {violation.path}: {violation.message}"
            )


@describe.command("bundle")
@click.argument("name")
@OUTPUT
@click.pass_context
def describe_bundle(ctx: click.Context, name: str, style: str) -> None:
    """Which release of bundle NAME is where."""
    with client(ctx) as operator:
        view = operator.get_bundle(name)
    if style in {"json", "yaml"}:
        show([view], BUNDLES, "bundle", style, one=True)
        return
    _lines(
        ("Name", view.name),
        ("Release", view.current.commit),
        ("Tree digest", view.current.tree_digest),
        ("Plan", view.plan),
        ("Rollout", view.active_rollout),
        ("Last succeeded", view.last_succeeded.commit),
        ("Ready", f"{view.ready}/{view.matched}"),
        ("Error", view.error),
    )
    for place in sorted(view.places, key=lambda p: (p.phase == "Ready", p.cluster)):
        click.echo(f"  {place.cluster}: {place.phase} {short(place.release)} {place.message}".rstrip())


@describe.command("rollout")
@click.argument("name")
@OUTPUT
@click.pass_context
def describe_rollout(ctx: click.Context, name: str, style: str) -> None:
    """Waves and targets of rollout NAME, the worst first."""
    with client(ctx) as operator:
        view = operator.get_rollout(name)
    if style in {"json", "yaml"}:
        show([view], ROLLOUTS, "rollout", style, one=True)
        return
    _lines(
        ("Name", view.name),
        ("Bundle", view.bundle),
        ("Release", view.release.commit),
        ("Plan", view.plan),
        ("State", view.state),
        ("Why", view.why),
        ("Started", f"{age(view.started_unix_ms)} ago by {view.started_by}"),
    )
    for item in view.waves:
        click.echo(
            f"\nwave {item.name} ({item.state}): {item.done}/{item.total} done, {item.in_flight} in flight, "
            f"{item.failed} failed, {item.lost} lost, {item.owed} owed, {item.waiting} waiting; "
            f"at most {item.max_in_flight} in flight and {item.max_failed} failed, quorum {item.quorum}"
        )
        for target in sorted(
            (t for t in view.targets if t.wave == item.name), key=lambda t: (rank(t.state), t.cluster)
        ):
            click.echo(f"  {target.cluster}: {target.state} {target.code} {target.message}".rstrip())


def rank(state: str) -> int:
    """The worst first."""
    order = (
        "failed",
        "lost",
        "returned",
        "owed",
        "applying",
        "soaking",
        "acknowledged",
        "offered",
        "waiting",
        "skipped",
        "done",
    )
    return order.index(state) if state in order else len(order)


def _lines(*pairs: tuple[str, str]) -> None:
    for name, value in pairs:
        if value:
            click.echo(f"{name + ':':<16}{value}")
