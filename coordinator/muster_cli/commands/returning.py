"""Taking a bundle back: ``muster rollout rollback``.

Owns the question before it, and the choice between a return (to the release before, which agents allow by what they verified)
and a signed start of an older release. What an operator signs comes from the checkout, never from the coordinator.
"""

from __future__ import annotations

from pathlib import Path

import click
from muster_core.durations import parse_duration
from muster_proto.v1 import operator_pb2 as op

from muster_cli.columns import ROLLOUTS, where
from muster_cli.commands import watching
from muster_cli.output import Answer
from muster_cli.trust.starting import Wish, direct_start
from muster_cli.verbs import CHECKOUT, OUTPUT, Verb, client


@click.command("rollback", cls=Verb)
@click.argument("bundle")
@click.option(
    "--to",
    "commit",
    default="",
    metavar="COMMIT",
    help="The release to go back to (default: the one before).",
)
@click.option("--reason", default="", help="Kept in the rollout's log and in the audit log.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("-w", "--watch", "stay", is_flag=True, help="Stay until it ends.")
@click.option(
    "--key",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Sign it with this SSH private key. Only what is given here signs: going back one release needs none.",
)
@CHECKOUT
@OUTPUT
@click.pass_context
def rollback(
    ctx: click.Context,
    bundle: str,
    commit: str,
    reason: str,
    yes: bool,
    stay: bool,
    key: Path | None,
    checkout: Path,
    style: str,
) -> None:
    """Take BUNDLE back to the release before.

    Ends what runs of it and moves every cluster that has its newest release back: at rollbackMaxInFlight, without soak and
    windows. It needs no key where the bundle says rollback: previous, since each cluster goes back only to its own last
    healthy release. Further back, or where it says none, you sign: with --to, --reason and --key. For operators.

    \b
    Example:
      muster rollout rollback shop --reason 'tills reject cards' --yes
      muster rollout rollback shop --to a81b02e \\
        --reason 'tills reject cards' --key ~/.ssh/id_ed25519
    """
    if key is not None and not (commit and reason):
        raise click.UsageError("What is signed says where to and why: --key needs --to and --reason.")
    with client(ctx) as operator:
        if not yes:
            now = where(operator.get_bundle(bundle))
            click.confirm(
                f"Take {bundle} back to {commit or 'the release before'}? Now: {now}", abort=True, err=True
            )
        if key is None:
            request = op.RollBackRequest(bundle=bundle, commit=commit, reason=reason)
            view = operator.roll_back(request)
        else:
            start = op.StartRolloutRequest(bundle=bundle, commit=commit, reason=reason)
            wish = Wish(parse_duration("7d"), return_to="", goes_back=True, late_joiners="", late_for=0.0)
            direct_start(operator, start, checkout, key, wish)
            view = operator.start_rollout(start)
        Answer(ROLLOUTS, "rollout", style).one(view)
        if stay:
            watching.to_its_end(ctx, operator, view.name)
