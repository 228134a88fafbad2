"""The Merkle tree against RFC 6962 written down a second time, by its own recursion, and against forgers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest
from muster_core.pae import pae
from muster_core.trust.merkle import MAX_DEPTH, ClusterTree, Proof, is_member, leaf

SIZES = range(1, 71)


def sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def data_of(uid: str) -> bytes:
    """What a leaf hashes: written out, so that a change of the encoding is seen."""
    domain, name = b"muster.cluster.v1", uid.encode()
    two, first, second = (n.to_bytes(8, "little") for n in (2, len(domain), len(name)))
    return two + first + domain + second + name


def split(count: int) -> int:
    """The largest power of two smaller than ``count``."""
    power = 1
    while power * 2 < count:
        power *= 2
    return power


def mth(data: Sequence[bytes]) -> bytes:
    """RFC 6962, 2.1: the Merkle tree hash."""
    if not data:
        return sha256()
    if len(data) == 1:
        return sha256(b"\x00", data[0])
    k = split(len(data))
    return sha256(b"\x01", mth(data[:k]), mth(data[k:]))


def audit_path(m: int, data: Sequence[bytes]) -> list[bytes]:
    """RFC 6962, 2.1.1."""
    if len(data) == 1:
        return []
    k = split(len(data))
    if m < k:
        return [*audit_path(m, data[:k]), mth(data[k:])]
    return [*audit_path(m - k, data[k:]), mth(data[:k])]


def uids(count: int) -> list[str]:
    return [f"5f0c{number:04}-cluster" for number in range(count)]


def tree_and_proof(count: int, index: int) -> tuple[ClusterTree, str, Proof]:
    tree = ClusterTree(uids(count))
    proof = tree.proof(tree.uids[index])
    assert proof is not None
    return tree, tree.uids[index], proof


@pytest.mark.parametrize("count", SIZES)
def test_roots_and_every_proof_are_those_of_the_rfc(count: int) -> None:
    tree, data = ClusterTree(uids(count)), [data_of(uid) for uid in uids(count)]
    assert tree.root == mth(data)
    assert tree.count == count
    for index, uid in enumerate(uids(count)):
        proof = tree.proof(uid)
        assert proof == Proof(index, tuple(audit_path(index, data)))
        assert is_member(uid, proof, tree.root, count)


def test_an_empty_tree_has_the_hash_of_nothing_and_no_members() -> None:
    tree = ClusterTree([])
    assert (tree.root, tree.count) == (mth([]), 0)
    assert tree.proof("a") is None
    assert not is_member("a", Proof(0, ()), tree.root, 0)


def test_order_and_repetition_of_the_clusters_do_not_matter() -> None:
    mixed = ["c", "a", "b", "a", "c"]
    assert ClusterTree(mixed).uids == ["a", "b", "c"]
    assert ClusterTree(mixed).root == ClusterTree(["a", "b", "c"]).root


def test_a_cluster_that_is_not_in_the_tree_has_no_proof() -> None:
    assert ClusterTree(uids(5)).proof("someone-else") is None


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 13, 33, 70])
def test_a_proof_serves_no_other_cluster_and_no_other_place(count: int) -> None:
    tree = ClusterTree(uids(count))
    for index, uid in enumerate(uids(count)):
        proof = tree.proof(uid)
        assert proof is not None
        assert not is_member("someone-else", proof, tree.root, count)
        for other in range(-1, count + 1):
            if other != index:
                assert not is_member(uid, proof._replace(leaf_index=other), tree.root, count), (index, other)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 13, 64, 70])
def test_a_path_that_was_shortened_lengthened_reordered_or_changed_proves_nothing(count: int) -> None:
    for index in range(count):
        tree, uid, proof = tree_and_proof(count, index)
        path = proof.path
        forged = [(*path, tree.root), (tree.root, *path), (*path, b""), (*path, *path, leaf(uid))]
        if path:
            forged += [path[1:], path[:-1], (), (bytes(32), *path[1:]), (path[0][:31], *path[1:])]
        if len(set(path)) > 1:
            forged.append(tuple(reversed(path)))
        for wrong in forged:
            assert not is_member(uid, Proof(index, wrong), tree.root, count), (index, wrong)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 13, 33, 70])
def test_another_count_lets_nobody_in_who_is_not_a_leaf(count: int) -> None:
    """The count is signed beside the root. With another one, at most the very leaf of the proof could pass."""
    tree = ClusterTree(uids(count))
    for uid in tree.uids:
        proof = tree.proof(uid)
        assert proof is not None
        for other in [*range(2 * count + 2), 2**63, 2**64 - 1]:
            assert not is_member("someone-else", proof, tree.root, other)
            if other <= proof.leaf_index:
                assert not is_member(uid, proof, tree.root, other)


def test_a_count_with_another_height_refuses_the_proof() -> None:
    tree, uid, proof = tree_and_proof(8, 3)
    for other in (0, 1, 2, 4, 9, 16, 2**64 - 1):
        assert not is_member(uid, proof, tree.root, other)


def test_a_node_is_no_leaf() -> None:
    """Second preimages: the children of a node, offered as if they were a cluster's data, hash to something else."""
    tree = ClusterTree(uids(4))
    left, right = (sha256(b"\x01", *map(leaf, pair)) for pair in (uids(4)[:2], uids(4)[2:]))
    assert sha256(b"\x01", left, right) == tree.root
    assert sha256(b"\x00", left, right) != tree.root
    # Of four leaves a tree of two "leaves" that are nodes: nobody's data hashes to a node.
    for pair in (uids(4)[:2], uids(4)[2:]):
        for text in ("".join(pair), pae(*(uid.encode() for uid in pair)).decode("latin-1")):
            assert leaf(text) not in (left, right, tree.root)
            assert not is_member(text, Proof(0, (right,)), tree.root, 2)
            assert not is_member(text, Proof(1, (left,)), tree.root, 2)


def test_siblings_of_other_lengths_move_no_boundary() -> None:
    tree = ClusterTree(uids(2))
    a, b = map(leaf, tree.uids)
    whole = b"\x01" + a + b
    assert hashlib.sha256(whole).digest() == tree.root
    for cut in range(len(b) + 1):
        assert not is_member("someone-else", Proof(1, (a + b[:cut],)), tree.root, 2)
        assert not is_member("someone-else", Proof(0, (b[cut:],)), tree.root, 2)
    assert not is_member(tree.uids[0], Proof(0, (b + b"\x00",)), tree.root, 2)


def test_a_path_without_end_is_refused_before_it_is_hashed() -> None:
    tree, uid, proof = tree_and_proof(2, 0)
    endless = proof.path + (bytes(32),) * MAX_DEPTH
    assert not is_member(uid, Proof(0, endless), tree.root, 2**64 - 1)


def test_names_that_run_together_are_different_leaves() -> None:
    assert leaf("ab") != leaf("a") != leaf("")
    assert ClusterTree(["ab", "c"]).root != ClusterTree(["a", "bc"]).root
