"""Directives: what operators sign so that releases go out."""

from __future__ import annotations

import time
from pathlib import Path

import click
from muster_core.durations import parse_duration
from muster_core.errors import RolloutError
from muster_core.release import Release
from muster_proto.v1 import operator_pb2 as op

from muster_cli.trust.signing import KEY
from muster_cli.verbs import CHECKOUT, Nouns, client


@click.group(cls=Nouns)
def directive() -> None:
    """Directives: what operators sign so that releases go out."""


@directive.command("renew")
@click.argument("bundle")
@click.option(
    "--for",
    "valid",
    default="",
    metavar="DURATION",
    help="How long (default: by the site classes, 7d or 90d).",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@KEY
@CHECKOUT
@click.pass_context
def renew(ctx: click.Context, bundle: str, valid: str, yes: bool, key: Path | None, checkout: Path) -> None:
    """Sign anew for everybody who waits for BUNDLE.

    All at once, for the release that each still waits for.

    Who waits comes from the coordinator; who they are, and the plan, from your checkout and the registry. Where the
    mode asks for directives, only a release is renewed that an operator directed before: that directive is verified.

    \b
    Example:
      muster directive renew shop --for 30d

    Next: muster rollout owed shows until when it holds now.
    """
    from muster_core.kinds.model import NEEDS_DIRECTIVE

    from muster_cli.checkout import open_checkout
    from muster_cli.trust.chain import read_chain
    from muster_cli.trust.directing import Terms, direct, require_directed, survey, survey_at
    from muster_cli.trust.signing import require_key

    with open_checkout(checkout) as clone, client(ctx) as operator:
        mine = require_key(key, clone.setting)
        waiting = [row for row in operator.list_owed(bundle).owed if row.state in {"owed", "offered"}]
        if not waiting:
            raise RolloutError(
                "R018",
                "nobody waits for a release of it",
                object=bundle,
                hint="There is nothing to renew. Who waits: muster rollout owed.",
            )
        ground = survey(clone)
        seconds = parse_duration(valid) if valid else 0.0
        for commit in sorted({row.release.commit for row in waiting}):
            rows = [row for row in waiting if row.release.commit == commit]
            entries = [ground.clusters[row.cluster] for row in rows if row.cluster in ground.clusters]
            wanted = rows[0].release
            release = Release(wanted.bundle, wanted.commit, wanted.tree_digest)
            if clone.fleet().spec.mode in NEEDS_DIRECTIVE:
                document = read_chain(clone.tree(ground.commit)).require()
                require_directed(
                    document, release, rows[0].directive, rows[0].directive_signature, now=time.time()
                )
            names = ", ".join(row.cluster for row in rows)
            click.echo(f"{release}: {len(entries)} wait ({names})", err=True)
            if not yes:
                click.confirm("Sign for them?", abort=True, err=True)
            view = operator.get_bundle(bundle)
            at = survey_at(clone, ground.clusters, commit, release)
            terms = Terms(offers_for=seconds or 7 * 86_400, catch_up_for=seconds, reason="renewed")
            signed = direct(
                at,
                release,
                entries,
                terms,
                plan=at.contents.plan_of(bundle),
                place=(view.directive_sequence, view.directive_digest),
                key=mine,
                now=time.time(),
            )
            operator.renew_directive(
                op.RenewDirectiveRequest(
                    release=wanted,
                    directive=signed.statement,
                    directive_signature=signed.signature,
                    cluster_uids=signed.uids,
                )
            )
            click.echo(f"directive/{bundle} {signed.directive.sequence} signed for {len(entries)} clusters")
