"""Reading one: ``describe``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click
from muster_core.durations import format_duration
from muster_core.errors import coded
from muster_core.times import format_time

from muster_cli.columns import BUNDLES, CLUSTERS, ROLLOUTS, short
from muster_cli.errors import NotFoundError
from muster_cli.output import Answer, ago, wrapped
from muster_cli.standing import gate_line, next_step, rank, took, wave_counts, worst
from muster_cli.verbs import VALUES_OUTPUT, Nouns, client, warn_of_git

if TYPE_CHECKING:
    from muster_proto.v1 import link_pb2 as wire
    from muster_proto.v1 import operator_pb2 as op

    from muster_cli.client import OperatorClient

# Nothing waits in a rollout that has ended: these say what became of it.
ENDED_WAVES = {"open": "not passed", "waiting": "not reached"}
ENDED_TARGETS = {"waiting": "not offered"}


@click.group(cls=Nouns)
def describe() -> None:
    """Show one cluster, bundle or rollout in full."""


@describe.command("cluster")
@click.argument("name")
@VALUES_OUTPUT
@click.pass_context
def describe_cluster(ctx: click.Context, name: str, style: str) -> None:
    """Identity and bundles of cluster NAME.

    \b
    Example:
      muster describe cluster berlin-04

    Next: muster rollout explain ROLLOUT NAME says why it waits.
    """
    with client(ctx) as operator:
        warn_of_git(operator)
        view = operator.get_cluster(name)
        refused = {report.bundle: _refused(operator, report) for report in view.bundles}
    if style in {"json", "yaml"}:
        Answer(CLUSTERS, "cluster", style).one(view)
        return
    _lines(
        ("Name", view.name),
        ("UID", view.uid),
        ("State", view.state),
        ("Seen", ago(view.last_seen_unix_ms)),
        ("Identity", view.identity_fingerprint),
        ("Site class", view.site_class),
        ("Agent", view.agent_version),
        ("Kubernetes", view.kubernetes_version),
        ("Owed", ", ".join(view.owed)),
        ("Labels", ", ".join(f"{k}={v}" for k, v in sorted(view.labels.items()))),
        ("Message", view.message),
    )
    for report in view.bundles:
        ready = f"{report.ready_count}/{report.object_count} objects ready"
        click.echo(f"\n{report.bundle}: {report.phase} {short(report.release)} ({ready})")
        if refused[report.bundle]:
            click.echo(f"  refused: {refused[report.bundle]}; what runs here is the release above")
        if report.message:
            click.echo(f"  {coded(report.code)} {report.message}".rstrip())
        if report.healed_count:
            times = "once" if report.healed_count == 1 else f"{report.healed_count} times"
            click.echo(f"  healed {times}, last {report.last_healed}")
        for name in report.kept_secrets:
            click.echo(f"  secret-kept: {name} is newer here than in this release, and secrets never go back")
        for item in report.objects:
            click.echo(f"  {item.object}: {item.health}: {item.message}")
        for violation in report.violations:
            rule = f"{violation.policy}/{violation.rule}"
            where = f"{violation.object} at {violation.path}"
            click.echo(f"  {violation.action} {rule}: {where}: {violation.message}")


@describe.command("bundle")
@click.argument("name")
@VALUES_OUTPUT
@click.pass_context
def describe_bundle(ctx: click.Context, name: str, style: str) -> None:
    """Which release of bundle NAME is where.

    \b
    Example:
      muster describe bundle shop

    Next: muster describe rollout NAME, or muster rollout history NAME of the bundle.
    """
    with client(ctx) as operator:
        warn_of_git(operator)
        view = operator.get_bundle(name)
    if style in {"json", "yaml"}:
        Answer(BUNDLES, "bundle", style).one(view)
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
        line = f"  {place.cluster}: {place.phase} {short(place.release)} {place.message}"
        click.echo(wrapped(line.rstrip(), 4))


@describe.command("rollout")
@click.argument("name")
@VALUES_OUTPUT
@click.pass_context
def describe_rollout(ctx: click.Context, name: str, style: str) -> None:
    """Waves and targets of rollout NAME, the worst first.

    \b
    Example:
      muster describe rollout shop-0007

    Next: muster rollout explain NAME CLUSTER says what holds one of them.
    """
    with client(ctx) as operator:
        warn_of_git(operator)
        view = operator.get_rollout(name)
    if style in {"json", "yaml"}:
        Answer(ROLLOUTS, "rollout", style).one(view)
        return
    waves, targets = (ENDED_WAVES, ENDED_TARGETS) if view.ended_unix_ms else ({}, {})
    if first := worst(view):
        click.echo(wrapped(f"{_target(first, targets)} (wave {first.wave})", 2) + "\n")
    now = time.time()
    _lines(
        ("Name", view.name),
        ("Bundle", view.bundle),
        ("Release", view.release.commit),
        ("Plan", view.plan),
        ("State", view.state),
        ("Why", view.why),
        ("Next", next_step(view)),
        ("Started", f"{ago(view.started_unix_ms)} by {view.started_by}"),
        ("Not before", format_time(view.not_before_unix) if view.not_before_unix else ""),
        ("Authors", ", ".join(view.authors)),
        ("Takes back", view.returns),
        (
            "Takes away",
            "everything that the bundle delivered, but for what it protects" if view.removes else "",
        ),
        ("Reason", view.reason),
        ("Attempt", str(view.attempt) if view.attempt > 1 else ""),
        ("Ended", f"{ago(view.ended_unix_ms)}, after {took(view, now)}" if view.ended_unix_ms else ""),
        ("Done", f"{view.done}/{view.total}"),
    )
    waiting = targets.get("waiting", "waiting")
    for item in view.waves:
        counts = wave_counts(item, now)
        counts = f"{item.done}/{item.total} done" + (f", {counts}" if counts else "")
        click.echo(
            f"\nwave {item.name} ({waves.get(item.state, item.state)}): {counts}"
            + (f", {item.waiting} {waiting}" if item.waiting else "")
        )
        click.echo(
            f"  at most {item.max_in_flight} in flight and {item.max_failed} failed, quorum {item.quorum}, "
            f"soak {format_duration(item.soak_seconds)}"
        )
        for gate in item.gates:
            click.echo(wrapped(f"  gate {gate_line(gate, now)}", 4))
        members = (t for t in view.targets if t.wave == item.name)
        for target in sorted(members, key=lambda t: (rank(t.state), t.cluster)):
            click.echo(wrapped(f"  {_target(target, targets)}", 4))


def _target(target: op.TargetView, words: dict[str, str]) -> str:
    state = words.get(target.state, target.state)
    message = target.message.removeprefix(f"{state} ")
    said = f"{target.cluster}: {state} {coded(target.code)} {message}"
    return " ".join(said.split())


def _refused(operator: OperatorClient, report: wire.Report) -> str:
    """The release that a blocked bundle was offered, and by which rollout."""
    if report.phase != "Blocked" or not report.rollout:
        return ""
    try:
        offered = operator.get_rollout(report.rollout).release
    except NotFoundError:  # an older one, which the coordinator has forgotten
        return f"the release of {report.rollout}"
    return f"{short(offered)} of {report.rollout}" if offered.commit != report.release.commit else ""


def _lines(*pairs: tuple[str, str]) -> None:
    for name, value in pairs:
        if value:
            click.echo(wrapped(f"{name + ':':<16}{value}", 16))
