"""What one scalar of a pattern says of one value."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from muster_core.policy import wildcard
from muster_core.policy.operators import compile_scalar
from muster_core.policy.quantity import duration, quantity

HOLDS: list[tuple[Any, Any]] = [
    # pattern, value
    ("web", "web"),
    ("?*", "x"),
    ("*", ""),
    ("nginx:1.?", "nginx:1.2"),
    ("!*:latest", "nginx:1.2"),
    ("a* | b*", "beta"),
    ("!a & !b", "c"),
    (">1 & <20 | >31 & <33", "32"),
    (">= 3", 4),
    ("<=1Gi", "1024Mi"),
    ("1Gi", "1024Mi"),
    ("500m", 0.5),
    ("8", 8),
    ("!5", None),  # nothing counts as the number 0
    ("<5", None),
    ("0", None),
    ("10-20", 15),
    ("10-20", "20"),
    ("10!-20", 21),
    ("128Mi-512Mi", "256Mi"),
    ("-5-5", 0),
    (">30s", "1m"),
    ("1h", "60m"),
    ("true", True),
    ("7.5E+00", 7.5),
    (True, True),
    (False, False),
    (8, 8),
    (8, "8"),
    (8, 8.0),
    (7.5, "7.5"),
    (None, None),
    (None, ""),
    (None, 0),
    (None, False),
    ("!", "!"),
    ("1.2.3-4", "1.2.3-4"),
]
FAILS: list[tuple[Any, Any]] = [
    ("web", "Web"),
    ("?*", ""),
    ("?*", None),
    ("*", None),
    ("", None),
    ("!*:latest", "nginx:latest"),
    ("!*:latest", None),  # no text is neither like nor unlike text
    ("!a & !b", "b"),
    (">1 & <20 | >31 & <33", "21"),
    (">5", "five"),
    (">5", None),
    ("10-20", 21),
    ("10!-20", 15),
    ("10 - 20", 15),  # no range, a text with spaces
    ("128Mi-512Mi", "1Gi"),
    ("true", None),
    (True, "true"),
    (True, 1),
    (True, None),
    (8, True),
    (8, "8.0"),
    (8, 8.5),
    (1, None),
    (None, "x"),
    (None, {}),
    (None, []),
    ("*", {"a": 1}),
    ("!x", {"a": 1}),
]


@pytest.mark.parametrize(("pattern", "value"), HOLDS)
def test_holds(pattern: Any, value: Any) -> None:
    assert compile_scalar(pattern)(value)


@pytest.mark.parametrize(("pattern", "value"), FAILS)
def test_does_not_hold(pattern: Any, value: Any) -> None:
    assert not compile_scalar(pattern)(value)


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
PATTERNS = VALUES | st.text("0123456789-!|&<>=*? .kMiGsmh", max_size=20)


@pytest.mark.parametrize(("value", "text"), [(math.nan, "NaN"), (math.inf, "+Inf"), (-math.inf, "-Inf")])
def test_what_is_no_number_reads_as_a_word(value: float, text: str) -> None:
    assert compile_scalar(text)(value)
    assert not compile_scalar("")(value)
    assert not compile_scalar("> 1")(value)


@given(PATTERNS, VALUES)
def test_every_pattern_answers(pattern: Any, value: Any) -> None:
    assert compile_scalar(pattern)(value) in (True, False)


@given(st.text("ab*?", max_size=8), st.text("ab", max_size=8))
def test_a_compiled_wildcard_says_the_same(pattern: str, text: str) -> None:
    assert wildcard.compiled(pattern)(text) is wildcard.matches(pattern, text)
    assert wildcard.any_of([pattern])(text) is wildcard.matches(pattern, text)


def test_a_hostile_wildcard_takes_no_time() -> None:
    assert not wildcard.matches("*a" * 200 + "b", "a" * 2000)


@pytest.mark.parametrize("text", ["", "Ki", "1kk", "1 ", "١", "0x1", "1e", "--1", "9" * 65, "1e9999"])
def test_no_quantity(text: str) -> None:
    assert quantity(text) is None


@pytest.mark.parametrize("text", ["", "5", "s", "1d", "1h ", "h1", "1h-1m"])
def test_no_duration(text: str) -> None:
    assert duration(text) is None
