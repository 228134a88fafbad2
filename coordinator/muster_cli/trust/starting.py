"""A directive that goes with a start: what is signed, from the operator's own checkout.

Owns what ``rollout start`` and ``rollout rollback`` put into their request where a signature is asked for. It never asks the
coordinator what to sign.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click
from muster_core.errors import RolloutError
from muster_proto.v1 import operator_pb2 as op

if TYPE_CHECKING:
    from muster_core.trust.directive import LateJoiners

    from muster_cli.client import OperatorClient


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


def direct_start(
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
                not_before=request.not_before_unix,
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
