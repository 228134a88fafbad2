"""A directive, made from what the operator has checked out and signed there.

Owns reading release, plan and clusters from the operator's own verified checkout: the coordinator says only which
number the bundle's sequence has reached. It never asks the coordinator what to sign.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
from muster_core.durations import parse_duration
from muster_core.errors import RolloutError, TrustError, ValidationError
from muster_core.fleet import FleetContents, in_service, read_fleet
from muster_core.kinds.model import Cluster
from muster_core.manifest.objects import digest
from muster_core.release import Release
from muster_core.rollout.plan import require_not_before
from muster_core.select import targeted
from muster_core.trust.authority import counts, covers
from muster_core.trust.directive import SIGNATURE_NAMESPACE, Directive, LateJoiners, decode, statement
from muster_core.trust.documents import TrustDocument
from muster_core.trust.merkle import ClusterTree
from muster_core.trust.sshsig import verify_ssh

from muster_cli.trust.registry import accepted_registry
from muster_cli.trust.signing import SigningKey

if TYPE_CHECKING:
    from muster_cli.checkout import Checkout

CATCH_UP_DAYS = {"edge": 90}
OTHER_DAYS = 7
MAX_SEQUENCE = 1 << 32
DAY = 86_400


@dataclass(frozen=True, slots=True)
class Ground:
    """What is checked out: the commit, what it says, and the registry as it was fetched now."""

    commit: str
    contents: FleetContents
    clusters: dict[str, Cluster]
    registry: str


@dataclass(frozen=True, slots=True)
class Signed:
    """What goes to the coordinator."""

    directive: Directive
    statement: bytes
    signature: bytes
    uids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Terms:
    """How long, and what besides. Seconds; 0 takes the default of the clusters' site classes; ``not_before`` is a time."""

    offers_for: float = 7 * DAY
    catch_up_for: float = 0.0
    not_before: int = 0
    late_joiners: LateJoiners | None = None
    return_to: Release | None = None
    goes_back: bool = False
    reason: str = ""


def survey(clone: Checkout) -> Ground:
    """The pushed commit that is checked out, and the newest registry; ``G017`` when it is not pushed."""
    commit = clone.published_head()
    registry, clusters = accepted_registry(clone)
    return Ground(commit, read_fleet(clone.tree(commit)), in_service(clusters), registry)


def survey_at(clone: Checkout, clusters: dict[str, Cluster], commit: str, release: Release | None) -> Ground:
    """An older commit; ``T079`` when it has not the release that somebody else named."""
    ground = Ground(commit, read_fleet(clone.tree(commit)), clusters, "")
    if release and ground.contents.digests.get(release.bundle) != release.tree_digest:
        raise TrustError(
            "T079", "the commit has not the release that the coordinator names", object=str(release)
        )
    return ground


def release_at(ground: Ground, bundle: str) -> Release:
    """``V050`` when the bundle is not whole at this commit."""
    problems = ground.contents.problems_of(bundle)
    found = ground.contents.digests.get(bundle)
    if problems or found is None:
        raise ValidationError(
            "V050", str(problems[0]) if problems else "there is no such bundle", object=bundle
        )
    return Release(bundle, ground.commit, found)


def members(ground: Ground, bundle: str) -> dict[str, Cluster]:
    """The registered clusters that the bundle targets; ``R001`` when it is nobody."""
    at = ground.contents.bundles[bundle]
    found = {n: entry for n, entry in ground.clusters.items() if targeted(at.bundle, entry.all_labels)}
    if not found:
        raise RolloutError("R001", "the bundle targets no cluster of the registry", object=bundle)
    return found


def direct(
    ground: Ground,
    release: Release,
    clusters: Sequence[Cluster],
    terms: Terms,
    *,
    plan: str,
    place: tuple[int, str],
    key: SigningKey,
    now: float,
) -> Signed:
    """Signs one directive. ``place`` is the sequence and digest of the bundle's newest one."""
    contents = ground.contents
    if place[0] > MAX_SEQUENCE:
        raise TrustError(
            "T076",
            f"the coordinator says that the bundle's newest directive is number {place[0]}, which nobody reaches",
            object=release.bundle,
        )
    if contents.fleet is None or plan not in contents.plans:
        raise RolloutError("R006", f"there is no plan {plan or '(none named)'}", object=release.bundle)
    uids = tuple(sorted({entry.spec.uid for entry in clusters}))
    tree = ClusterTree(uids)
    issued = int(now)
    not_after = issued + int(terms.offers_for)
    if terms.not_before:
        expire = contents.plans[plan].spec.expire
        ends = parse_duration(expire) if isinstance(expire, str) else None
        require_not_before(terms.not_before, now, expire=ends, not_after=not_after)
    catch_up = terms.catch_up_for or max(_catch_up_days(entry.spec.site_class) for entry in clusters) * DAY
    directive = Directive(
        fleet=contents.fleet.spec.id,
        release=release,
        plan_digest=digest(msgspec.to_builtins(contents.plans[plan])),
        clusters_root=tree.root,
        clusters_count=tree.count,
        sequence=place[0] + 1,
        previous=place[1],
        issued=issued,
        not_after=not_after,
        catch_up_until=issued + int(max(catch_up, terms.offers_for)),
        not_before=terms.not_before,
        late_joiners=terms.late_joiners,
        return_to=terms.return_to,
        goes_back=terms.goes_back,
        reason=terms.reason,
    )
    said = statement(directive)
    return Signed(directive, said, key.sign(said, SIGNATURE_NAMESPACE), uids)


def require_directed(
    document: TrustDocument, release: Release, said: bytes, signature: bytes, *, now: float
) -> None:
    """That an operator of the document directed this release before: the coordinator's word for it is not enough.

    ``T089`` when it shows no directive, ``T070`` for what is none, ``T071`` by nobody who may, ``T073`` another fleet's,
    ``T079`` for another release. Its times are over, as a rule, and its clusters may be others.
    """
    hint = f"What you have checked out: muster rollout start {release.bundle}."
    if not said:
        raise TrustError(
            "T089", "no directive is shown that named this release before", object=str(release), hint=hint
        )
    directive = decode(said)
    if directive.fleet != document.fleet:
        raise TrustError("T073", "the directive is another fleet's", object=str(release), hint=hint)
    if release not in (directive.release, directive.return_to):
        raise TrustError(
            "T079", "the directive is for another release", object=str(directive.release), hint=hint
        )
    try:
        key = verify_ssh(signature, said, namespace=SIGNATURE_NAMESPACE).fingerprint
    except TrustError as error:
        raise TrustError(
            "T071", "the directive's signature does not hold", object=str(release), hint=hint
        ) from error
    if not any(
        covers(role.bundles, release.bundle) and any(counts(known, key, now) for known in role.keys)
        for role in document.roles_of("operator")
    ):
        raise TrustError("T071", "the directive is signed by nobody who may", object=key, hint=hint)


def _catch_up_days(site_class: str) -> int:
    return CATCH_UP_DAYS.get(site_class, OTHER_DAYS)
