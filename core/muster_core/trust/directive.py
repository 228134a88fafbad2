"""Directives: what an operator signs so that a release may go to clusters.

Owns the statement (a PAE, DESIGN §6), its strict inverse, and whether one cluster may take a release by it. A
directive names one release, one plan, all clusters by a Merkle root, and its place in the bundle's sequence; the
coordinator carries it and can change nothing of it. It never reads a clock or keeps a sequence: both are given.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from muster_core.errors import MusterError, TrustError
from muster_core.kinds.base import Requirement, Selector
from muster_core.kinds.model import Cluster
from muster_core.pae import pae, u64, unpae
from muster_core.release import Release
from muster_core.select import matches
from muster_core.times import format_time
from muster_core.trust.authority import counts, covers
from muster_core.trust.documents import TrustDocument, selector_bytes
from muster_core.trust.merkle import Proof, is_member
from muster_core.trust.sshsig import verify_ssh

DOMAIN = b"muster.directive.v1"
SIGNATURE_NAMESPACE = "muster-directive"
MAX_BYTES = 64 << 10
# Numbers rise by one; what one operator signs must not use up the numbers of all others.
MAX_JUMP = 10_000
MAX_TIME = 253_402_300_799  # the end of the year 9999


class LateJoiners(msgspec.Struct, frozen=True):
    """Clusters that registered after it was signed, by their registry labels, until then (unix seconds).

    ``registry`` is the registry's commit at signing: who had an entry in it was left out on purpose.
    """

    selector: Selector
    until: int
    registry: str


class Directive(msgspec.Struct, frozen=True, kw_only=True):
    """Times are unix seconds; 0 where there is none. ``previous`` is the digest of the bundle's last directive, hex.

    ``not_after`` bounds first offers, ``catch_up_until`` offers to who was away. ``goes_back`` allows a commit
    below the floors, and ``return_to`` one release that the coordinator may move clusters back to.
    """

    fleet: str
    release: Release
    plan_digest: str
    clusters_root: bytes
    clusters_count: int
    sequence: int
    previous: str
    issued: int
    not_after: int
    catch_up_until: int
    not_before: int = 0
    late_joiners: LateJoiners | None = None
    return_to: Release | None = None
    goes_back: bool = False
    reason: str = ""

    @property
    def digest(self) -> str:
        return hashlib.sha256(statement(self)).hexdigest()


class SequencePlace(msgspec.Struct, frozen=True):
    """The newest directive that was taken for a bundle."""

    sequence: int = 0
    digest: str = ""


class Allowed(NamedTuple):
    """``key`` signed it; ``place`` is to be kept before anything of it is applied, which is not before ``not_before``."""

    key: str
    place: SequencePlace
    not_before: int = 0


def _release_bytes(release: Release | None) -> bytes:
    return pae(*(text.encode() for text in release)) if release else pae()


def statement(directive: Directive) -> bytes:
    """What an operator signs."""
    d, late = directive, directive.late_joiners
    return pae(
        DOMAIN,
        d.fleet.encode(),
        _release_bytes(d.release),
        d.plan_digest.encode(),
        d.clusters_root,
        u64(d.clusters_count),
        u64(d.sequence),
        d.previous.encode(),
        u64(d.issued),
        u64(d.not_after),
        u64(d.catch_up_until),
        u64(d.not_before),
        pae(selector_bytes(late.selector), u64(late.until), late.registry.encode()) if late else pae(),
        _release_bytes(d.return_to),
        b"back" if d.goes_back else b"",
        d.reason.encode(),
    )


def decode(data: bytes) -> Directive:
    """The directive of a statement; ``MUSTER-T070`` for anything that is not exactly one."""
    try:
        if len(data) > MAX_BYTES:
            raise TrustError("T070", "the directive is too large")
        (domain, fleet, release, plan, root, count, sequence, previous, issued, not_after, until, not_before, late,
         back_to, back, reason) = unpae(data)  # fmt: skip
        named = _release(release)
        if domain != DOMAIN or named is None or len(root) != hashlib.sha256().digest_size:
            raise TrustError("T070", "these bytes are no directive")
        directive = Directive(
            fleet=fleet.decode(),
            release=named,
            plan_digest=plan.decode(),
            clusters_root=root,
            clusters_count=_int(count),
            sequence=_int(sequence),
            previous=previous.decode(),
            issued=_time(issued),
            not_after=_time(not_after),
            catch_up_until=_time(until),
            not_before=_time(not_before),
            late_joiners=_late(late),
            return_to=_release(back_to),
            goes_back=back == b"back",
            reason=reason.decode(),
        )
    except TrustError:
        raise
    except (MusterError, ValueError, struct.error) as error:
        raise TrustError("T070", "these bytes are no directive") from error
    if statement(directive) != data:
        raise TrustError("T070", "these bytes are no directive in its one form")
    return directive


def _int(data: bytes) -> int:
    (value,) = struct.unpack("<Q", data)
    return int(value)


def _time(data: bytes) -> int:
    seconds = _int(data)
    if seconds > MAX_TIME:
        raise ValueError("a time after the year 9999")
    return seconds


def _release(data: bytes) -> Release | None:
    parts = unpae(data)
    return Release(*(part.decode() for part in parts)) if len(parts) == 3 else None


def _late(data: bytes) -> LateJoiners | None:
    parts = unpae(data)
    if not parts:
        return None
    selector, until, registry = parts
    labels, expressions = unpae(selector)
    texts = [text.decode() for text in unpae(labels)]
    requirements = []
    for item in unpae(expressions):
        key, operator, values = unpae(item)
        built = {
            "key": key.decode(),
            "operator": operator.decode(),
            "values": [v.decode() for v in unpae(values)],
        }
        requirements.append(msgspec.convert(built, Requirement))
    pairs = dict(zip(texts[::2], texts[1::2], strict=True))
    selected = Selector(match_labels=pairs, match_expressions=requirements)
    return LateJoiners(selected, _time(until), registry.decode())


def judge(
    directive: Directive,
    signature: bytes,
    proof: Proof | None,
    *,
    document: TrustDocument,
    entry: Cluster,
    plans: Mapping[str, str],
    last: SequencePlace,
    now: float,
    catching_up: bool,
    is_late: bool,
) -> Allowed:
    """Whether this cluster may take the directive's release now.

    ``entry`` is the cluster's own registry entry, ``plans`` the digests of the plans at the release's commit by
    name, ``last`` the place kept for the bundle, ``is_late`` whether it was not yet in the registry when the
    directive was signed. Raises :class:`TrustError`: T071 signature or signer, T072
    outside the signer's bundles or clusters, T073 another fleet's, T074 this cluster is not among its clusters,
    T075 too late, T076 older than one taken, or not its successor, T077 another plan.
    """
    bundle = directive.release.bundle
    if directive.fleet != document.fleet:
        raise TrustError("T073", "the directive is another fleet's", object=str(directive.release))
    key = _signer(directive, signature, document, entry, now)
    if not _names(directive, entry, proof, now, is_late=is_late):
        raise TrustError("T074", "the directive does not name this cluster", object=str(directive.release))
    if directive.plan_digest not in plans.values():
        raise TrustError("T077", "the directive names another plan than the commit has", object=bundle)
    last_time = directive.catch_up_until if catching_up else directive.not_after
    if directive.issued >= directive.not_after:
        raise TrustError("T075", "the directive expires before it was issued", object=bundle)
    if now >= last_time:
        raise TrustError(
            "T075",
            f"the directive expired at {format_time(last_time)}",
            object=bundle,
            hint="muster directive renew signs a new one for all who wait.",
        )
    digest = directive.digest
    if directive.sequence < last.sequence or (directive.sequence == last.sequence and digest != last.digest):
        raise TrustError(
            "T076",
            f"the directive is number {directive.sequence}, and number {last.sequence} was taken",
            object=bundle,
        )
    if directive.sequence > last.sequence + MAX_JUMP:
        raise TrustError(
            "T076",
            f"the directive is number {directive.sequence}, too far after number {last.sequence}",
            object=bundle,
        )
    if last.sequence and directive.sequence == last.sequence + 1 and directive.previous != last.digest:
        raise TrustError("T076", "the directive follows another one than was taken", object=bundle)
    return Allowed(key, SequencePlace(directive.sequence, digest), directive.not_before)


def _signer(
    directive: Directive, signature: bytes, document: TrustDocument, entry: Cluster, now: float
) -> str:
    try:
        key = verify_ssh(signature, statement(directive), namespace=SIGNATURE_NAMESPACE).fingerprint
    except TrustError as error:
        raise TrustError(
            "T071", "the directive's signature does not hold", object=str(directive.release)
        ) from error
    held = [
        role for role in document.roles_of("operator") if any(counts(known, key, now) for known in role.keys)
    ]
    if not held:
        raise TrustError("T071", "the directive is signed by nobody who may", object=key)
    bundle = directive.release.bundle
    if not any(covers(role.bundles, bundle) and matches(role.clusters, entry.all_labels) for role in held):
        raise TrustError("T072", f"the signer may not direct {bundle} on this cluster", object=key)
    back = directive.return_to
    if back and back.bundle != bundle:  # else a signer's bundles would end where returning begins
        raise TrustError("T072", f"a directive for {bundle} may not return {back.bundle}", object=key)
    return key


def _names(directive: Directive, entry: Cluster, proof: Proof | None, now: float, *, is_late: bool) -> bool:
    uid, late = entry.spec.uid, directive.late_joiners
    if proof and is_member(uid, proof, directive.clusters_root, directive.clusters_count):
        return True
    return late is not None and is_late and now < late.until and matches(late.selector, entry.all_labels)
