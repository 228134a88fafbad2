"""A tree that was listed once gives the folders that a filter of all files gives."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from muster_core.tree import ListedTree, MemoryTree, Subtree

NAMES = st.text("ab-.0/", min_size=1, max_size=6)


@given(st.sets(NAMES), st.lists(NAMES | st.just(""), max_size=4))
def test_folders_of_a_listed_tree_are_those_of_the_tree(paths: set[str], prefixes: list[str]) -> None:
    tree = MemoryTree(dict.fromkeys(paths, b""))
    assert Subtree(ListedTree(tree), tuple(prefixes)).files() == Subtree(tree, tuple(prefixes)).files()
