"""Kyverno's value operators: what one scalar of a pattern says of one value.

Owns ``| & ! > < >= <=``, ranges ``a-b`` and ``a!-b``, and the order in which a value is read: as a duration, as a
quantity, as text with wildcards. Operators are read when the policy is compiled. It never looks into mappings or lists.
Source: kyverno pkg/engine/pattern, pkg/engine/operator.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any

from muster_core.policy import wildcard
from muster_core.policy.quantity import duration, quantity

Check = Callable[[Any], bool]

_OPERATORS: Mapping[str, Callable[[Fraction, Fraction], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "!": operator.ne,
    "": operator.eq,
}
_END = r"([-+]?[0-9]+(?:\.[0-9]+)?[A-Za-z]*)"
_RANGE = re.compile(f"{_END}-{_END}")
_NOT_RANGE = re.compile(f"{_END}!-{_END}")
_INTEGER = re.compile(r"[-+]?[0-9]{1,19}")
_FLOAT = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]{1,3})?")


def compile_scalar(pattern: Any) -> Check:
    """The question that a scalar of a pattern asks. Types are kept apart: ``true`` is no text, ``"8"`` is a number."""
    if isinstance(pattern, bool):
        return lambda value: value is pattern
    if pattern is None:
        return _is_zero
    if isinstance(pattern, int):
        return lambda value: _integer(value) == pattern
    if isinstance(pattern, float):
        return lambda value: _float(value) == pattern
    return _text(str(pattern))


def _is_zero(value: Any) -> bool:
    if isinstance(value, (Mapping, list)):
        return False
    return value is None or value is False or value == "" or value == 0


def _integer(value: Any) -> int | None:
    if isinstance(value, str):
        return int(value) if _INTEGER.fullmatch(value) else None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _float(value: Any) -> float | None:
    if isinstance(value, str):
        return float(value) if _FLOAT.fullmatch(value) else None
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _text(pattern: str) -> Check:
    alternatives = [
        [_one(part.strip(" ")) for part in alternative.strip(" ").split("&")]
        for alternative in pattern.split("|")
    ]
    if len(alternatives) == 1 and len(alternatives[0]) == 1:
        only = alternatives[0][0]
        return lambda value: value == pattern or only(value)
    return lambda value: (
        value == pattern or any(all(check(value) for check in parts) for parts in alternatives)
    )


def _one(pattern: str) -> Check:
    """One operand, after ``|`` and ``&``."""
    if len(pattern) < 2:
        return _compare("", pattern)
    for sign in (">=", "<=", ">", "<", "!"):
        if pattern.startswith(sign):
            return _compare(sign, pattern[len(sign) :].strip())
    if outside := _NOT_RANGE.fullmatch(pattern):
        below, above = _compare("<", outside[1]), _compare(">", outside[2])
        return lambda value: below(value) or above(value)
    if inside := _RANGE.fullmatch(pattern):
        least, most = _compare(">=", inside[1]), _compare("<=", inside[2])
        return lambda value: least(value) and most(value)
    return _compare("", pattern)


def _compare(sign: str, wanted: str) -> Check:
    test = _OPERATORS[sign]
    readers = [(read, number) for read in (duration, quantity) if (number := read(wanted)) is not None]
    hit = wildcard.compiled(wanted)
    negated = sign == "!"
    textual = sign in ("", "!")

    def check(value: Any) -> bool:
        if readers and (numeral := _numeral(value)) is not None:
            for read, number in readers:
                found = read(numeral)
                if found is not None:
                    return test(found, number)
        if not textual:
            return False
        shown = value if isinstance(value, str) else _shown(value)
        # What is not there is neither equal nor different: a negation of text does not hold for it.
        return shown is not None and hit(shown) is not negated

    return check


def _numeral(value: Any) -> str | None:
    """How a value reads as a number. What is missing counts as 0, a bool as none."""
    if isinstance(value, str):
        return value
    if value is None:
        return "0"
    if isinstance(value, float):
        return f"{value:f}"
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _shown(value: Any) -> str | None:
    """How a value reads as text; a float has an exponent, like ``7.5E+00``."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, float):
        return None
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else f"{value:+}".title()  # as Go prints them: +Inf, -Inf
    digits = Decimal(repr(value)).normalize().as_tuple()
    mantissa, exponent = (
        f"{Decimal(repr(value)).normalize():E}".split("E") if digits.digits != (0,) else ("0", "+0")
    )
    return f"{mantissa}E{exponent[0]}{exponent[1:].zfill(2)}"
