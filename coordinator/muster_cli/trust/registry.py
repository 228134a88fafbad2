"""The registry as the operator's machine accepts it: verified as agents verify it, with a floor of the clone's own.

Owns the judgement of a fetched registry head by the checkout's trust documents, and the ref that remembers how far
it was accepted, so that neither the Git host nor the coordinator can show an operator another cluster's keys. It
never writes the registry."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from muster_core.errors import TrustError
from muster_core.fleet import read_registry
from muster_core.kinds.model import Cluster
from muster_core.trust.authority import Change, judge_registry, signer_of
from muster_core.trust.documents import TrustDocument
from muster_core.trust.gitobject import parse_object

from muster_cli.checkout import REGISTRY_BRANCH
from muster_cli.trust.chain import read_chain

if TYPE_CHECKING:
    from muster_cli.checkout import Checkout

FLOOR = "refs/muster/accepted/registry"
MAX_WAY = 2_000
_HOW = {"A": "added", "D": "removed"}


def accepted_registry(clone: Checkout) -> tuple[str, dict[str, Cluster]]:
    """(commit, entries) of the newest registry; ``T040``–``T043`` or ``T012`` when it cannot be accepted.

    In mode ``open`` nothing is signed and everything is taken.
    """
    head = clone.fetch(REGISTRY_BRANCH)
    tree = clone.tree(clone.head())
    if not head or clone.fleet().spec.mode == "open":
        return head, read_registry(clone.tree(head))[0]
    document, floor = read_chain(tree).require(), clone.ref(FLOOR)
    if floor and not clone.descends(head, floor):
        raise TrustError(
            "T012",
            f"the registry does not descend from {floor[:12]}, which was accepted here before",
            object=head[:12],
            hint="Somebody forced the branch back. Find out who before you go on.",
        )
    _require_way(clone, document, floor, head)
    clone.set_ref(FLOOR, head)
    return head, read_registry(clone.tree(head))[0]


def require_own(clone: Checkout, parent: str, commit: str) -> None:
    """``T040``–``T043`` when agents would not take what was just committed on top of ``parent``."""
    if clone.fleet().spec.mode != "open":
        _judge(clone, read_chain(clone.tree(clone.head())).require(), parent, commit)


def _require_way(clone: Checkout, document: TrustDocument, base: str, head: str) -> None:
    """The head as a whole, or every signed step to it as a head of its time."""
    try:
        _judge(clone, document, base, head)
    except TrustError as reason:
        for commit in reversed(clone.first_parents(head, MAX_WAY, base)):
            try:
                _judge(clone, document, base, commit)
            except TrustError:
                continue  # a later step may cover what this one may not
            base = commit
        if base != head:
            raise reason from None


def _judge(clone: Checkout, document: TrustDocument, base: str, commit: str) -> None:
    changes = [Change(path, _HOW.get(status, "changed")) for status, path in clone.changes(base, commit)]  # type: ignore[arg-type]
    if not changes:
        return
    before, after = read_registry(clone.tree(base))[0], read_registry(clone.tree(commit))[0]
    now = time.time()
    signer = signer_of(parse_object("commit", clone.raw("commit", commit)), document, now=now)
    judge_registry(changes, before, after, document, {signer}, now=now)
