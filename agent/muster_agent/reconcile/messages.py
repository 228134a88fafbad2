"""What goes over the link, from and to this cluster's own values.

Owns the two conversions: an offer as it came into a record that survives a restart, and a bundle's state into a
report. Nothing is believed here; what an offer claims is judged by admission."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from muster_core.policy import Verdict
from muster_core.release import Release
from muster_core.trust.directive import MAX_TIME
from muster_core.trust.merkle import Proof
from muster_proto.v1 import link_pb2 as wire

from muster_agent.admission import Offered
from muster_agent.reconcile.machine import BundleMachine
from muster_agent.state.records import OfferRecord
from muster_agent.trust.releases import Credentials

MAX_VIOLATIONS = 50
MAX_DIRECTIVE = 64 << 10
MAX_PROOF = 64
_BUNDLE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\Z")
_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?\Z")
_DIGEST = re.compile(r"([0-9a-f]{64})?\Z")
OUTCOMES = {
    "": wire.OUTCOME_UNSPECIFIED,
    "staged": wire.OUTCOME_STAGED,
    "applying": wire.OUTCOME_APPLYING,
    "healthy": wire.OUTCOME_HEALTHY,
    "failed": wire.OUTCOME_FAILED,
    "returned": wire.OUTCOME_RETURNED,
}


class Standing(NamedTuple):
    """What every report of this cluster says of it as a whole: its floor, its trust document, a floor that was
    ahead."""

    head_commit: str
    trust_version: int
    regressed: str


class Admitted(NamedTuple):
    """What of an admission is reported: the registry entry's digest, and secrets that were kept from going back."""

    entry_digest: str = ""
    kept_secrets: tuple[str, ...] = ()


def record_of(offer: wire.Offer) -> OfferRecord | None:
    """The offer as a record; None when it is none: names and sizes are bounded before anything is kept of it."""
    release = offer.release
    whole = (
        _BUNDLE.match(release.bundle)
        and _COMMIT.match(release.commit)
        and _DIGEST.match(release.tree_digest)
        and _DIGEST.match(offer.registry_digest)
        and 0 < len(offer.rollout) <= 200
        and len(offer.directive) <= MAX_DIRECTIVE
        and len(offer.directive_signature) <= MAX_DIRECTIVE
        and len(offer.proof.path) <= MAX_PROOF
        and 0 <= offer.not_before_unix <= MAX_TIME
    )
    if not whole:
        return None
    return OfferRecord(
        offer.rollout,
        offer.attempt,
        Release(release.bundle, release.commit, release.tree_digest),
        offer.registry_digest,
        offer.directive,
        offer.directive_signature,
        (offer.proof.index, tuple(offer.proof.path)) if offer.HasField("proof") else None,
        offer.catch_up,
        offer.returns,
        offer.not_before_unix,
    )


def offered_of(offer: OfferRecord, machine: BundleMachine) -> Offered:
    """For admission. What it may go back to is what the bundle's own record says."""
    proof = Proof(*offer.proof) if offer.proof else None
    credentials = Credentials(offer.directive, offer.signature, proof, offer.catch_up)
    own = machine.may_go_back_to()
    return Offered(offer.release, credentials, offer.registry_digest, offer.returns, own, offer.not_before)


def report_of(
    machine: BundleMachine, verdicts: Sequence[Verdict], admitted: Admitted, standing: Standing
) -> wire.Report:
    """The bundle's last state; its time is whoever sends it to add."""
    record = machine.record
    code, message = machine.verdict
    return wire.Report(
        bundle=record.bundle,
        release=_release(record.admission.release if record.admission else None),
        rollout=record.offer.rollout if record.offer else "",
        attempt=record.offer.attempt if record.offer else 0,
        phase=machine.shown_phase(),
        outcome=OUTCOMES[record.outcome],
        code=code,
        message=message,
        objects=[wire.ObjectState(object=o, health=h, message=text) for o, h, text in machine.problems],
        object_count=machine.total,
        ready_count=machine.ready,
        healed_count=record.healed,
        last_healed=record.last_healed,
        violations=[
            wire.Violation(
                policy=v.policy,
                rule=v.rule,
                object=v.object,
                path=v.path,
                message=v.message,
                action=v.action,
                status=v.status,
            )
            for v in verdicts[:MAX_VIOLATIONS]
        ],
        last_healthy=_release(record.last_healthy.release if record.last_healthy else None),
        head_commit=standing.head_commit,
        registry_digest=admitted.entry_digest,
        kept_secrets=admitted.kept_secrets,
        trust_version=standing.trust_version,
        regressed=standing.regressed,
    )


def _release(release: Release | None) -> wire.Release:
    return (
        wire.Release(bundle=release.bundle, commit=release.commit, tree_digest=release.tree_digest)
        if release
        else wire.Release()
    )
