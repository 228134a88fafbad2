"""Starting rollouts, and the group of all their commands.

Owns ``muster rollout start`` with the directive that it signs where one is asked for; the other commands are beside it.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click
from muster_core.durations import parse_duration
from muster_core.errors import RolloutError
from muster_proto.v1 import operator_pb2 as op

from muster_cli.columns import ROLLOUTS
from muster_cli.commands import deciding, forecast, history, watching
from muster_cli.output import Answer
from muster_cli.trust.signing import KEY
from muster_cli.verbs import CHECKOUT, OUTPUT, Nouns, client, given_timeout

if TYPE_CHECKING:
    from muster_core.trust.directive import LateJoiners

    from muster_cli.client import OperatorClient


@click.group(cls=Nouns)
def rollout() -> None:
    """Start, watch, steer and explain rollouts."""


for _command in (
    forecast.plan,
    forecast.simulate,
    watching.watch,
    *deciding.COMMANDS,
    history.history,
    history.events,
    history.explain,
    history.owed,
):
    rollout.add_command(_command)


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

    \b
    Example:
      muster rollout start shop --again --reason 'after the power cut' -w
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
            view = watching.follow(operator, view.name, limit=given_timeout(ctx))
            ctx.exit(0 if view.state == "Succeeded" else 1)


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
