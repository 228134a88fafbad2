"""What people decide about a rollout that runs: pause, resume, abort, approve, reject, promote, retry, skip.

Owns these commands: each is one call that the audit log keeps with who made it and why. Whether it applies, and whether the
caller may, is the coordinator's to say. None needs a key.
"""

from __future__ import annotations

from collections.abc import Callable

import click
from muster_proto.v1 import operator_pb2 as op

from muster_cli.columns import ROLLOUTS
from muster_cli.output import Answer
from muster_cli.standing import next_step
from muster_cli.verbs import OUTPUT, Verb, client

Action = op.ActOnRolloutRequest
REASON = click.option("--reason", default="", help="Kept in the rollout's log and in the audit log.")


def act(ctx: click.Context, request: op.ActOnRolloutRequest, style: str, question: str = "") -> None:
    """One decision, asked for where it cannot be taken back; what is left to do goes to standard error."""
    if question:
        click.confirm(f"{question}?", abort=True, err=True)
    with client(ctx) as operator:
        view = operator.act_on_rollout(request)
    Answer(ROLLOUTS, "rollout", style).one(view)
    if step := next_step(view):
        click.echo(f"Next: {step}", err=True)


def _whole(
    verb: str, action: Action.Action.ValueType, text: str, example: str, asks: str = ""
) -> click.Command:
    """A decision about the rollout as a whole. ``asks`` is what is asked before, without its question mark."""

    def command(ctx: click.Context, name: str, reason: str, style: str, yes: bool) -> None:
        question = asks.format(name=name) if asks and not yes else ""
        act(ctx, op.ActOnRolloutRequest(rollout=name, action=action, reason=reason), style, question)

    decorated: Callable[..., None] = click.pass_context(command)
    yes = click.option("--yes", is_flag=True, help="Do not ask.", hidden=not asks)
    for option in (OUTPUT, yes, REASON, click.argument("name")):
        decorated = option(decorated)
    shown = f"\n\n\b\nExample:\n  muster rollout {verb} shop-0007 {example}".rstrip()
    return click.command(verb, cls=Verb, help=text + shown)(decorated)


@click.command("retry", cls=Verb)
@click.argument("name")
@click.argument("targets", metavar="[CLUSTER]...", nargs=-1)
@click.option("--failed", "everybody", is_flag=True, help="All that failed, were returned or are lost.")
@REASON
@OUTPUT
@click.pass_context
def retry(
    ctx: click.Context, name: str, targets: tuple[str, ...], everybody: bool, reason: str, style: str
) -> None:
    """Offer the same release again where it failed.

    To the clusters that are named, or with --failed to all that failed or are lost, as the next attempt. A rollout that its
    plan has paused goes on by it; one that a person paused stays so. For operators.

    \b
    Example:
      muster rollout retry shop-0007 --failed --reason 'the mirror is back'
    """
    if everybody == bool(targets):
        raise click.UsageError("Name the clusters, or say --failed for all that failed or are lost.")
    act(
        ctx,
        op.ActOnRolloutRequest(rollout=name, action=Action.RETRY, reason=reason, clusters=targets),
        style,
    )


@click.command("skip", cls=Verb)
@click.argument("name")
@click.argument("target", metavar="CLUSTER")
@REASON
@click.option("--yes", is_flag=True, help="Do not ask.")
@OUTPUT
@click.pass_context
def skip(ctx: click.Context, name: str, target: str, reason: str, yes: bool, style: str) -> None:
    """Leave CLUSTER out of this rollout.

    Only one that has not taken the release yet. It keeps what it has, and counts in the wave's quorum as one that is not
    done. For operators.

    \b
    Example:
      muster rollout skip shop-0007 berlin-04 --reason 'the shop moves' --yes
    """
    act(
        ctx,
        op.ActOnRolloutRequest(rollout=name, action=Action.SKIP, reason=reason, clusters=[target]),
        style,
        "" if yes else f"Leave {target} out of {name}",
    )


COMMANDS = (
    _whole(
        "approve",
        Action.APPROVE,
        "Give the approval that NAME waits for.\n\nFor approvers; the plan may name some of them. Who started it or wrote "
        "the commit may not, unless the plan says notAuthor: false.",
        "--reason 'dashboards are green'",
    ),
    _whole(
        "reject",
        Action.REJECT,
        "Turn down what waits for an approval.\n\nOne is enough; the plan's onFailure says what follows: pause, rollback or "
        "abort. For approvers, and for who wrote it.",
        "--reason 'wrong tax rates' --yes",
        asks="Reject {name}, with what its plan says follows",
    ),
    _whole(
        "promote",
        Action.PROMOTE,
        "Pass the wave over its soak or quorum.\n\nAlso over those that are away, held or deferred; not over gates or spent "
        "budgets. Needs a reason. For approvers.",
        "--reason 'hotfix, seen to work' --yes",
        asks="Promote the open wave of {name} over its soak and quorum",
    ),
    _whole(
        "pause",
        Action.PAUSE,
        "Make no new offers.\n\nOffers that nobody acknowledged are withdrawn, deadlines stand still; what applies or soaks "
        "goes on. For operators.",
        "--reason 'till trouble in Berlin'",
    ),
    _whole("resume", Action.RESUME, "Go on after a pause.\n\nFor operators.", ""),
    _whole(
        "abort",
        Action.ABORT,
        "End it for good.\n\nNothing of it is offered again, not as catch-up either. Clusters that have the release keep it. "
        "For operators.",
        "--reason 'the wrong branch' --yes",
        asks="End {name} for good",
    ),
    retry,
    skip,
)
