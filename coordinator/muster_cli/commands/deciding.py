"""What people decide about a rollout that runs: ``pause``, ``resume``, ``abort``.

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
        click.confirm(question, abort=True, err=True)
    with client(ctx) as operator:
        view = operator.act_on_rollout(request)
    Answer(ROLLOUTS, "rollout", style).one(view)
    if step := next_step(view):
        click.echo(f"Next: {step}", err=True)


def _plain_action(verb: str, action: Action.Action.ValueType, text: str, asks: str = "") -> click.Command:
    """A decision about the rollout as a whole. ``asks`` is what is asked before, without its question mark."""

    def command(ctx: click.Context, name: str, reason: str, style: str, yes: bool) -> None:
        question = f"{asks.format(name=name)}?" if asks and not yes else ""
        act(ctx, op.ActOnRolloutRequest(rollout=name, action=action, reason=reason), style, question)

    decorated: Callable[..., None] = click.pass_context(command)
    yes = click.option("--yes", is_flag=True, help="Do not ask.", hidden=not asks)
    for option in (OUTPUT, yes, REASON, click.argument("name")):
        decorated = option(decorated)
    example = f"\n\n\b\nExample:\n  muster rollout {verb} shop-0007 --reason 'till trouble in Berlin'"
    return click.command(verb, cls=Verb, help=text + example)(decorated)


COMMANDS = (
    _plain_action(
        "pause",
        Action.PAUSE,
        "Make no new offers.\n\nOffers that nobody acknowledged are withdrawn, deadlines stand still; what applies or soaks "
        "goes on. For operators.",
    ),
    _plain_action("resume", Action.RESUME, "Go on after a pause.\n\nFor operators."),
    _plain_action(
        "abort",
        Action.ABORT,
        "End it for good.\n\nNothing of it is offered again, not as catch-up either. Clusters that have the release keep it. "
        "For operators.",
        asks="End {name} for good",
    ),
)
