"""A Merkle tree over cluster ids, so that one signature covers all clusters and each gets only its own proof.

Owns the hashing of RFC 6962 section 2.1 (leaf and node prefixes, unbalanced trees) and inclusion proofs. Leaves
are the sorted, distinct cluster UIDs. It never says who signed the root.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from muster_core.pae import pae

LEAF_DOMAIN = b"muster.cluster.v1"
MAX_DEPTH = 64


class Proof(NamedTuple):
    """That the leaf at ``leaf_index`` is in the tree; ``path`` are the sibling hashes, the lowest first."""

    leaf_index: int
    path: tuple[bytes, ...]


def leaf(uid: str) -> bytes:
    return hashlib.sha256(b"\x00" + pae(LEAF_DOMAIN, uid.encode())).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


class ClusterTree:
    """The tree of these clusters, all levels kept: a root and any proof in O(log n)."""

    def __init__(self, uids: Sequence[str]) -> None:
        self.uids = sorted(set(uids))
        self._index = {uid: number for number, uid in enumerate(self.uids)}
        self._levels = [[leaf(uid) for uid in self.uids]]
        while len(self._levels[-1]) > 1:
            below = self._levels[-1]
            # A node without a sibling goes up as it is: that is what the split of RFC 6962 comes to.
            self._levels.append(
                [
                    _node(below[i], below[i + 1]) if i + 1 < len(below) else below[i]
                    for i in range(0, len(below), 2)
                ]
            )

    @property
    def root(self) -> bytes:
        """32 bytes; of an empty tree the hash of nothing."""
        return self._levels[-1][0] if self.uids else hashlib.sha256(b"").digest()

    @property
    def count(self) -> int:
        return len(self.uids)

    def proof(self, uid: str) -> Proof | None:
        """None for a cluster that is not in the tree."""
        index = self._index.get(uid)
        if index is None:
            return None
        path, at = [], index
        for level in self._levels[:-1]:
            sibling = at ^ 1
            if sibling < len(level):
                path.append(level[sibling])
            at //= 2
        return Proof(index, tuple(path))


def is_member(uid: str, proof: Proof, root: bytes, count: int) -> bool:
    """Whether ``proof`` shows that ``uid`` is a leaf of the tree with this root and number of leaves."""
    at, size, seen, path = proof.leaf_index, count, leaf(uid), list(proof.path)
    if not 0 <= at < size or len(path) > MAX_DEPTH:
        return False
    while size > 1:
        if at % 2 or at + 1 < size:
            if not path:
                return False
            sibling = path.pop(0)
            seen = _node(sibling, seen) if at % 2 else _node(seen, sibling)
        at, size = at // 2, (size + 1) // 2
    return not path and seen == root
