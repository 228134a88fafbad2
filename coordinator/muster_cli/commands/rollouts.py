"""Starting rollouts, and the group of all their commands.

Owns ``muster rollout start`` with the directive that it signs where one is asked for; the other commands are beside it.
"""

from __future__ import annotations

import math
from pathlib import Path

import click
from muster_core.durations import parse_duration
from muster_proto.v1 import operator_pb2 as op

from muster_cli.columns import ROLLOUTS
from muster_cli.commands import deciding, forecast, history, returning, watching
from muster_cli.moments import point_in_time
from muster_cli.output import Answer
from muster_cli.trust.signing import KEY
from muster_cli.trust.starting import Wish, direct_start
from muster_cli.verbs import CHECKOUT, OUTPUT, Nouns, client


@click.group(cls=Nouns)
def rollout() -> None:
    """Start, watch, steer and explain rollouts."""


for _command in (
    forecast.plan,
    forecast.simulate,
    watching.watch,
    *deciding.COMMANDS,
    returning.rollback,
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
@click.option(
    "--not-before",
    default="",
    metavar="TIME",
    help="When clusters apply what they prepare now: 2027-01-02T06:00:00Z, or 8h from now.",
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
    not_before: str,
    stay: bool,
    key: Path | None,
    checkout: Path,
    style: str,
) -> None:
    """Roll BUNDLE out now. New commits start by themselves; this is for doing it again or by hand.

    Where the fleet's mode asks for directives this signs one, over what your checkout and the registry say: the
    release, the plan, the clusters. With --key it does so in every mode.

    With --not-before clusters verify, render and judge the release now, and apply it at that time by their own clocks,
    also where they are out of contact then.

    \b
    Example:
      muster rollout start shop --again --reason 'after the power cut' -w
    """
    from muster_core.kinds.model import NEEDS_DIRECTIVE

    if go_back and not reason:
        raise click.UsageError("--go-back needs --reason")
    request = op.StartRolloutRequest(bundle=bundle, commit=commit, plan=plan, again=again, reason=reason)
    if not_before:
        request.not_before_unix = math.ceil(point_in_time(not_before, "--not-before"))
    with client(ctx) as operator:
        if key is not None or operator.info().mode in NEEDS_DIRECTIVE:
            wish = Wish(
                parse_duration(offers_for), return_to, go_back, late_joiners, parse_duration(late_for)
            )
            direct_start(operator, request, checkout, key, wish)
        view = operator.start_rollout(request)
        Answer(ROLLOUTS, "rollout", style).one(view)
        if stay:
            watching.to_its_end(ctx, operator, view.name)
