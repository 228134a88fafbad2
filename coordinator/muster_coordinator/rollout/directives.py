"""The directives that operators have signed, as the coordinator carries them.

Owns the newest ones of each bundle, the list of clusters each was signed for, and the proof that every agent gets
of it. It cannot make one and does not judge one: agents do. What it refuses is only what no agent would take.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec
from muster_core.errors import TrustError
from muster_core.release import Release
from muster_core.trust.directive import Directive, decode
from muster_core.trust.merkle import ClusterTree
from muster_proto.v1 import link_pb2 as wire

STREAM = "directive/"
KEPT = 8


class DirectiveEvent(msgspec.Struct, frozen=True, tag_field="event", tag="directive"):
    """A directive as it is stored."""

    at: float
    statement: bytes
    signature: bytes
    uids: tuple[str, ...]


@dataclass(slots=True)
class Carried:
    """One directive and the tree of its clusters."""

    directive: Directive
    event: DirectiveEvent
    tree: ClusterTree


@dataclass(slots=True)
class Shelf:
    """By bundle, the oldest first; only the newest few can still be offered."""

    _carried: dict[str, list[Carried]] = field(default_factory=dict)

    def newest(self, bundle: str) -> Carried | None:
        carried = self._carried.get(bundle)
        return carried[-1] if carried else None

    def of(self, release: Release) -> Carried | None:
        """The newest directive for exactly this release."""
        carried = self._carried.get(release.bundle, ())
        return next((c for c in reversed(carried) if c.directive.release == release), None)

    def put(self, event: DirectiveEvent) -> Carried:
        """Takes in what is stored."""
        directive = decode(event.statement)
        carried = Carried(directive, event, ClusterTree(event.uids))
        kept = self._carried.setdefault(directive.release.bundle, [])
        kept.append(carried)
        del kept[:-KEPT]
        return carried

    def credentials(self, release: Release, uid: str, offer: wire.Offer) -> None:
        """Completes an offer with what its agent needs to judge it."""
        carried = self.of(release)
        if carried is None:
            return
        offer.directive, offer.directive_signature = carried.event.statement, carried.event.signature
        proof = carried.tree.proof(uid)
        if proof:
            offer.proof.CopyFrom(wire.MerkleProof(index=proof.leaf_index, path=proof.path))


def check(
    statement: bytes, signature: bytes, uids: Iterable[str], release: Release, newest: Carried | None
) -> Directive:
    """What an operator sent with a start; ``T070``, ``T076``, ``T079``, ``T083`` for what no agent would take."""
    directive = decode(statement)
    if directive.release != release:
        raise TrustError("T079", "the directive is for another release", object=str(directive.release))
    tree = ClusterTree(list(uids))
    if (tree.root, tree.count) != (directive.clusters_root, directive.clusters_count):
        raise TrustError(
            "T083", "the clusters are not those that the directive was signed for", object=str(release)
        )
    place = (newest.directive.sequence, newest.directive.digest) if newest else (0, "")
    if (directive.sequence, directive.previous) != (place[0] + 1, place[1]):
        raise TrustError(
            "T076",
            f"the directive is number {directive.sequence}, and the bundle's next is {place[0] + 1}",
            object=release.bundle,
            hint="Somebody signed another one meanwhile. Try again.",
        )
    if not signature:
        raise TrustError("T071", "the directive is not signed", object=str(release))
    return directive


def encode_event(event: DirectiveEvent) -> bytes:
    return msgspec.msgpack.encode(event)


def decode_event(data: bytes) -> DirectiveEvent:
    return msgspec.msgpack.decode(data, type=DirectiveEvent)
