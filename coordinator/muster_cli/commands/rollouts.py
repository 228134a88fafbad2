"""Acting on rollouts."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click
from muster_core.durations import parse_duration
from muster_core.errors import RolloutError
from muster_proto.v1 import operator_pb2 as op

from muster_cli.columns import ROLLOUTS, short, wave
from muster_cli.commands import forecast
from muster_cli.output import Answer
from muster_cli.trust.signing import KEY
from muster_cli.verbs import CHECKOUT, OUTPUT, VALUES_OUTPUT, Nouns, client

if TYPE_CHECKING:
    from muster_core.trust.directive import LateJoiners

    from muster_cli.client import OperatorClient

ENDED = frozenset({"Succeeded", "Failed", "Aborted", "RolledBack", "Superseded"})


@click.group(cls=Nouns)
def rollout() -> None:
    """Start, watch, pause, resume, abort and explain rollouts."""


rollout.add_command(forecast.plan)
rollout.add_command(forecast.simulate)


@rollout.command("start")
@click.argument("bundle")
@click.option(
    "--commit", default="", help="The commit to roll out (default: the newest on the tracked branch)."
)
@click.option("--plan", default="", help="Another plan than the bundle's.")
@click.option("--again", is_flag=True, help="Also when the newest rollout was of this very release.")
@click.option("--reason", default="", help="Kept in the rollout's log.")
@click.option(
    "--offers-for",
    default="7d",
    show_default=True,
    metavar="DURATION",
    help="How long first offers may be made.",
)
@click.option(
    "--return-to",
    default="",
    metavar="COMMIT",
    help="A release that the coordinator may move clusters back to.",
)
@click.option(
    "--late-joiners", default="", metavar="SELECTOR", help="Also clusters that register later and match."
)
@click.option(
    "--late-for", default="30d", show_default=True, metavar="DURATION", help="How long they may join late."
)
@click.option(
    "--go-back", is_flag=True, help="The commit may be older than what clusters have; needs --reason."
)
@click.option("-w", "--watch", "stay", is_flag=True, help="Stay until it ends.")
@KEY
@CHECKOUT
@OUTPUT
@click.pass_context
def start(
    ctx: click.Context,
    bundle: str,
    commit: str,
    plan: str,
    again: bool,
    reason: str,
    offers_for: str,
    return_to: str,
    late_joiners: str,
    late_for: str,
    go_back: bool,
    stay: bool,
    key: Path | None,
    checkout: Path,
    style: str,
) -> None:
    """Roll BUNDLE out now. New commits start by themselves; this is for doing it again or by hand.

    Where the fleet's mode asks for directives this signs one, over what your checkout and the registry say: the
    release, the plan, the clusters. With --key it does so in every mode.
    """
    if go_back and not reason:
        raise click.UsageError("--go-back needs --reason")
    request = op.StartRolloutRequest(bundle=bundle, commit=commit, plan=plan, again=again, reason=reason)
    with client(ctx) as operator:
        if key is not None or operator.info().mode in {"directives", "both"}:
            wish = Wish(
                parse_duration(offers_for), return_to, go_back, late_joiners, parse_duration(late_for)
            )
            _direct(operator, request, checkout, key, wish)
        view = operator.start_rollout(request)
    Answer(ROLLOUTS, "rollout", style).one(view)
    if stay:
        ctx.invoke(watch, name=view.name)


class Wish(NamedTuple):
    """What a directive is to say besides the release. Seconds; a commit of the checkout, or nothing."""

    offers_for: float
    return_to: str
    goes_back: bool
    late_joiners: str
    late_for: float


def _late(wish: Wish, registry: str) -> LateJoiners | None:
    from muster_core.select import parse_selector
    from muster_core.trust.directive import LateJoiners

    if not wish.late_joiners:
        return None
    return LateJoiners(parse_selector(wish.late_joiners), int(time.time() + wish.late_for), registry)


def _direct(
    operator: OperatorClient, request: op.StartRolloutRequest, checkout: Path, key: Path | None, wish: Wish
) -> None:
    """Signs the directive and puts it into the request."""
    from muster_cli.checkout import open_checkout
    from muster_cli.trust.directing import Terms, direct, members, release_at, survey, survey_at
    from muster_cli.trust.signing import require_key

    with open_checkout(checkout) as clone:
        mine, ground = require_key(key, clone.setting), survey(clone)
        bundle = request.bundle
        if request.commit and (older := clone.resolve(request.commit)) != ground.commit:
            if not clone.descends(ground.commit, older):
                raise RolloutError(
                    "R008", "the commit is not on the branch that is checked out", object=older[:12]
                )
            ground = survey_at(clone, ground.clusters, older, None)
        release = release_at(ground, bundle)
        back = None
        if wish.return_to:
            before = survey_at(clone, ground.clusters, clone.resolve(wish.return_to), None)
            back = release_at(before, bundle)
        view = operator.get_bundle(bundle)
        signed = direct(
            ground,
            release,
            list(members(ground, bundle).values()),
            Terms(
                offers_for=wish.offers_for,
                late_joiners=_late(wish, ground.registry),
                return_to=back,
                goes_back=wish.goes_back,
                reason=request.reason,
            ),
            plan=request.plan or ground.contents.plan_of(bundle),
            place=(view.directive_sequence, view.directive_digest),
            key=mine,
            now=time.time(),
        )
    request.commit = release.commit
    request.directive, request.directive_signature = signed.statement, signed.signature
    request.cluster_uids.extend(signed.uids)
    click.echo(
        f"directive {signed.directive.sequence} of {bundle} signed: {release}, {len(signed.uids)} clusters",
        err=True,
    )


@rollout.command("owed")
@click.argument("bundle", default="")
@VALUES_OUTPUT
@click.pass_context
def owed(ctx: click.Context, bundle: str, style: str) -> None:
    """List who waits for a release.

    Also why, and until when what was signed for them holds."""
    from muster_cli.columns import OWED
    from muster_cli.output import plain, write_value

    with client(ctx) as operator:
        rows = list(operator.list_owed(bundle).owed)
    if style == "table":
        Answer(OWED, "cluster", style, "cluster").show(rows, "nobody waits for a release")
    else:
        write_value([plain(row) for row in rows], style)


@rollout.command("watch")
@click.argument("name")
@click.pass_context
def watch(ctx: click.Context, name: str) -> None:
    """Print what happens in rollout NAME until it ends. Exit code 1 when it did not succeed."""
    with client(ctx) as operator:
        view = operator.get_rollout(name)
        last = _progress(view, ())
        if view.state not in ENDED:
            for event in operator.watch(op.WatchRequest(rollouts=True, name=name)):
                if event.kind == op.Event.LOG and event.text:
                    click.echo(event.text)
                if not event.HasField("rollout") or event.rollout.name != name:
                    continue
                view = event.rollout
                last = _progress(view, last)
                if view.state in ENDED:
                    break
    ctx.exit(0 if view.state == "Succeeded" else 1)


def _progress(view: op.RolloutView, last: tuple[object, ...]) -> tuple[object, ...]:
    """Says where it is when state or wave changed, and what a pause wants; each step is a line of the log."""
    place = (view.state, view.wave_index)
    line = (
        f"{view.name} {view.state} wave {wave(view)} release {short(view.release)}: "
        f"{view.done}/{view.total} done, {view.in_flight} in flight, {view.failed} failed, "
        f"{view.lost} lost, {view.owed} owed"
    )
    line += f": {view.why}" if view.why else ""
    if place != last:
        click.echo(line)
        if view.state == "Paused":
            click.echo(
                f"Next: muster rollout resume {view.name}, or: muster rollout abort {view.name}", err=True
            )
    return place


def _action(verb: str, action: op.ActOnRolloutRequest.Action.ValueType, text: str, *, asks: bool) -> None:
    @rollout.command(verb, help=text)
    @click.argument("name")
    @click.option("--reason", default="", help="Kept in the rollout's log.")
    @click.option("--yes", is_flag=True, help="Do not ask.", hidden=not asks)
    @OUTPUT
    @click.pass_context
    def command(ctx: click.Context, name: str, reason: str, yes: bool, style: str) -> None:
        if asks and not yes:
            click.confirm(f"{verb} {name}?", abort=True, err=True)
        with client(ctx) as operator:
            view = operator.act_on_rollout(name, action, reason)
        Answer(ROLLOUTS, "rollout", style).one(view)


_action(
    "pause", op.ActOnRolloutRequest.PAUSE, "Make no new offers; what runs goes on. Needs no key.", asks=False
)
_action("resume", op.ActOnRolloutRequest.RESUME, "Go on after a pause.", asks=False)
_action("abort", op.ActOnRolloutRequest.ABORT, "End it for good: nothing of it is offered again.", asks=True)


@rollout.command("explain")
@click.argument("name")
@click.argument("cluster")
@VALUES_OUTPUT
@click.pass_context
def explain(ctx: click.Context, name: str, cluster: str, style: str) -> None:
    """Say why CLUSTER is where it is.

    That is its place in rollout NAME, and the very rule that holds it."""
    from muster_cli.output import plain, write_value

    with client(ctx) as operator:
        answer = operator.explain(name, cluster)
    if style == "table":
        click.echo(answer.text)
    else:
        write_value(plain(answer), style)
