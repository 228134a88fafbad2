"""Acting on rollouts."""

from __future__ import annotations

import click
from muster_proto.v1 import operator_pb2 as op

from muster_cli.commands.see import ROLLOUTS, short, wave
from muster_cli.main import OUTPUT, client
from muster_cli.output import show, warn

ENDED = {"Succeeded", "Failed", "Aborted", "RolledBack", "Superseded"}


@click.group()
def rollout() -> None:
    """Start, watch, pause, resume, abort and explain rollouts."""


@rollout.command("start")
@click.argument("bundle")
@click.option(
    "--commit", default="", help="The commit to roll out (default: the newest on the tracked branch)."
)
@click.option("--plan", default="", help="Another plan than the bundle's.")
@click.option("--again", is_flag=True, help="Also when the newest rollout was of this very release.")
@click.option("--reason", default="", help="Kept in the rollout's log.")
@click.option("-w", "--watch", "follow", is_flag=True, help="Stay until it ends.")
@OUTPUT
@click.pass_context
def start(
    ctx: click.Context,
    bundle: str,
    commit: str,
    plan: str,
    again: bool,
    reason: str,
    follow: bool,
    style: str,
) -> None:
    """Roll BUNDLE out now. New commits start by themselves; this is for doing it again or by hand."""
    with client(ctx) as operator:
        view = operator.start_rollout(
            op.StartRolloutRequest(bundle=bundle, commit=commit, plan=plan, again=again, reason=reason)
        )
    show([view], ROLLOUTS, "rollout", style, one=True)
    if follow:
        ctx.invoke(watch, name=view.name)


@rollout.command("watch")
@click.argument("name")
@click.pass_context
def watch(ctx: click.Context, name: str) -> None:
    """Print what happens in rollout NAME until it ends. Exit code 1 when it did not succeed."""
    with client(ctx) as operator:
        operator.get_rollout(name)
        last = ""
        for event in operator.watch(op.WatchRequest(rollouts=True, name=name)):
            if event.kind == op.Event.LOG and event.text:
                click.echo(event.text)
            if not event.HasField("rollout") or event.rollout.name != name:
                continue
            view = event.rollout
            line = (
                f"{view.name} {view.state} wave {wave(view)} release {short(view.release)}: {view.done}/{view.total} done, "
                f"{view.in_flight} in flight, {view.failed} failed, {view.lost} lost, {view.owed} owed. {view.why}"
            ).rstrip()
            if line != last:
                click.echo(line)
                last = line
            if view.state in ENDED:
                ctx.exit(0 if view.state == "Succeeded" else 1)
            if view.state == "Paused":
                warn(f"paused. Next: muster rollout resume {name}, or: muster rollout abort {name}")


def _action(name: str, action: op.ActOnRolloutRequest.Action.ValueType, text: str, *, asks: bool) -> None:
    @rollout.command(name, help=text)
    @click.argument("rollout_name", metavar="NAME")
    @click.option("--reason", default="", help="Kept in the rollout's log.")
    @click.option("--yes", is_flag=True, help="Do not ask.")
    @OUTPUT
    @click.pass_context
    def command(ctx: click.Context, rollout_name: str, reason: str, yes: bool, style: str) -> None:
        if asks and not yes:
            click.confirm(f"{name} {rollout_name}?", abort=True, err=True)
        with client(ctx) as operator:
            view = operator.act_on_rollout(rollout_name, action, reason)
        show([view], ROLLOUTS, "rollout", style, one=True)


_action("pause", op.ActOnRolloutRequest.PAUSE, "No new offers; what runs goes on. Needs no key.", asks=False)
_action("resume", op.ActOnRolloutRequest.RESUME, "Go on after a pause.", asks=False)
_action(
    "abort",
    op.ActOnRolloutRequest.ABORT,
    "End it for good: nothing is offered again, nobody is caught up to it.",
    asks=True,
)


@rollout.command("explain")
@click.argument("name")
@click.argument("cluster")
@click.option("-o", "--output", "style", type=click.Choice(["table", "json", "yaml"]), default="table")
@click.pass_context
def explain(ctx: click.Context, name: str, cluster: str, style: str) -> None:
    """Why CLUSTER is where it is in rollout NAME: the exact rule that holds it."""
    from muster_cli.output import plain, write_value

    with client(ctx) as operator:
        answer = operator.explain(name, cluster)
    if style == "table":
        click.echo(answer.text)
    else:
        write_value(plain(answer), style)
