"""Anchors, lists, and the order in which a pattern is asked."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from muster_core.policy.pattern import BadPatternError, Mismatch, compile_pattern, match

IMAGES = {"containers": [{"name": "a", "image": "good/a"}, {"name": "b", "image": "bad/b"}]}


def verdict(value: Any, pattern: Any) -> str:
    missed = match(value, pattern)
    return "pass" if missed is None else "skip" if missed.skip else "fail"


CASES: list[tuple[str, Any, Any, str]] = [
    ("plain", {"a": 1}, {"a": 1}, "pass"),
    ("absent", {}, {"a": "?*"}, "fail"),
    ("absent, wanted null", {}, {"a": None}, "pass"),
    ("absent mapping", {}, {"a": {"b": None}}, "fail"),
    ("star takes a mapping", {"a": {"b": 1}}, {"a": "*"}, "pass"),
    ("star takes an empty list", {"a": []}, {"a": "*"}, "pass"),
    ("star takes no null", {"a": None}, {"a": "*"}, "fail"),
    ("condition holds", {"a": 1, "b": 2}, {"(a)": 1, "b": 2}, "pass"),
    ("condition holds, rest fails", {"a": 1, "b": 3}, {"(a)": 1, "b": 2}, "fail"),
    ("condition fails", {"a": 2, "b": 3}, {"(a)": 1, "b": 2}, "skip"),
    ("condition absent", {"b": 3}, {"(a)": 1, "b": 2}, "skip"),
    ("condition before a failure", {"a": 2, "c": 1}, {"X(c)": None, "(a)": 1}, "skip"),
    ("nested condition before a failure", {"a": 1, "z": {"k": 2}}, {"a": 2, "z": {"(k)": 1}}, "skip"),
    ("global absent", {"b": 2}, {"<(a)": 1, "b": 2}, "pass"),
    ("global fails", {"a": 2, "b": 3}, {"<(a)": 1, "b": 2}, "skip"),
    ("equality absent", {}, {"=(a)": 1}, "pass"),
    ("equality fails", {"a": 2}, {"=(a)": 1}, "fail"),
    ("equality of null", {"a": None}, {"=(a)": {"b": 1}}, "fail"),
    ("negation absent", {}, {"X(a)": "null"}, "pass"),
    ("negation of null", {"a": None}, {"X(a)": "null"}, "fail"),
    ("existence", IMAGES, {"^(containers)": [{"image": "good/*"}]}, "pass"),
    ("existence of two", IMAGES, {"^(containers)": [{"image": "good/*"}, {"image": "bad/*"}]}, "pass"),
    ("existence fails", IMAGES, {"^(containers)": [{"image": "other/*"}]}, "fail"),
    ("existence in nothing", {"containers": []}, {"^(containers)": [{"image": "*"}]}, "fail"),
    ("existence absent", {}, {"^(containers)": [{"image": "*"}]}, "pass"),
    ("a skipped sibling", {"a": [{"k": 1}], "b": 1}, {"=(a)": [{"(k)": 2}], "=(b)": 1}, "pass"),
    (
        "a skipped sibling hides no failure",
        {"a": [{"k": 1}], "b": 2},
        {"=(a)": [{"(k)": 2}], "=(b)": 1},
        "fail",
    ),
    ("all siblings skipped", {"a": [{"k": 1}]}, {"=(a)": [{"(k)": 2}]}, "skip"),
    ("a condition before its siblings", {"k": 1, "b": 2}, {"(k)": 2, "=(b)": 1}, "skip"),
    ("a condition inside existence", {"a": [{"k": 1}]}, {"^(a)": [{"(k)": 2}]}, "fail"),
    ("every element", IMAGES, {"containers": [{"image": "good/*"}]}, "fail"),
    ("elements by condition", IMAGES, {"containers": [{"(name)": "a", "image": "good/*"}]}, "pass"),
    ("no element applies", IMAGES, {"containers": [{"(name)": "c", "image": "x"}]}, "skip"),
    ("the first element speaks", IMAGES, {"containers": [{"image": "*/?"}, {"image": "never"}]}, "pass"),
    ("an empty list", {"containers": []}, {"containers": [{"image": "x"}]}, "pass"),
    ("an empty pattern", IMAGES, {"containers": []}, "fail"),
    ("list of scalars", {"drop": ["ALL", "NET"]}, {"drop": ["ALL"]}, "fail"),
    ("scalar against a list", {"drop": ["ALL", "ALL"]}, {"drop": "ALL"}, "pass"),
    ("a mapping for a list", {"a": {}}, {"a": [{"b": 1}]}, "fail"),
    ("lists in lists", {"a": [[1], [2]]}, {"a": [[1], [2]]}, "pass"),
    ("lists in lists, too short", {"a": [[1]]}, {"a": [[1], [2]]}, "fail"),
    ("wild label", {"metadata": {"labels": {"x/y": "v"}}}, {"metadata": {"labels": {"x/*": "v"}}}, "pass"),
    (
        "wild label absent",
        {"metadata": {"labels": {"z": "v"}}},
        {"metadata": {"labels": {"x/*": "v"}}},
        "fail",
    ),
    (
        "wild annotations, all of them",
        {"metadata": {"annotations": {"x/1": "ok", "x/2": "bad"}}},
        {"=(metadata)": {"=(annotations)": {"=(x/*)": "ok"}}},
        "fail",
    ),
    (
        "wild negation",
        {"metadata": {"labels": {"x/y": "v"}}},
        {"metadata": {"labels": {"X(x/*)": ""}}},
        "fail",
    ),
    ("no wild keys elsewhere", {"data": {"ab": "v"}}, {"data": {"a*": "v"}}, "fail"),
]


@pytest.mark.parametrize(("value", "pattern", "wanted"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_case(value: Any, pattern: Any, wanted: str) -> None:
    assert verdict(value, pattern) == wanted


def test_the_path_says_where() -> None:
    missed = match({"spec": IMAGES}, {"spec": {"containers": [{"image": "good/*"}]}})
    assert missed == Mismatch("spec.containers[1].image", "does not match, wanted 'good/*'")


def test_a_message_holds_no_value() -> None:
    missed = match({"data": {"key": "plain-secret"}}, {"data": {"key": "x*"}})
    assert missed is not None
    assert "plain-secret" not in missed.message


@pytest.mark.parametrize("pattern", [{"a": {"+(b)": 1}}, {"^(a)": {"b": 1}}, {"^(a)": ["b"]}, {1: 2}])
def test_what_cannot_be_asked_is_refused(pattern: Any) -> None:
    with pytest.raises(BadPatternError):
        compile_pattern(pattern)


KEYS = st.sampled_from(["a", "b", "(a)", "=(b)", "X(c)", "^(d)", "<(e)", "metadata", "labels", "a*", "=(a*)"])
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from(["", "*", "?*", "!x", ">1", "1-2", "x|y"])
)
TREES = st.recursive(
    LEAVES, lambda t: st.lists(t, max_size=3) | st.dictionaries(KEYS, t, max_size=4), max_leaves=12
)


@given(TREES, TREES)
def test_every_tree_is_refused_or_answers(pattern: Any, value: Any) -> None:
    try:
        matcher = compile_pattern(pattern)
    except BadPatternError:
        return
    assert matcher(value) is None or isinstance(matcher(value), Mismatch)


@given(st.dictionaries(KEYS, TREES, max_size=5), TREES)
def test_the_order_of_keys_says_nothing(pattern: dict[str, Any], value: Any) -> None:
    try:
        forward = match(value, pattern)
    except BadPatternError:
        return
    assert match(value, dict(reversed(pattern.items()))) == forward
