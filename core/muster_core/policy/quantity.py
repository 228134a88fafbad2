"""Kubernetes quantities and Go durations as comparable numbers.

Owns both grammars. Source: apimachinery resource.Quantity, Go time.ParseDuration.
"""

from __future__ import annotations

import re
from fractions import Fraction

_QUANTITY = re.compile(
    r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))(?:[eE]([+-]?[0-9]{1,3})|(Ki|Mi|Gi|Ti|Pi|Ei|n|u|m|k|M|G|T|P|E))?"
)
_SUFFIX = {
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 1000),
    "k": Fraction(10**3),
    "M": Fraction(10**6),
    "G": Fraction(10**9),
    "T": Fraction(10**12),
    "P": Fraction(10**15),
    "E": Fraction(10**18),
    "Ki": Fraction(2**10),
    "Mi": Fraction(2**20),
    "Gi": Fraction(2**30),
    "Ti": Fraction(2**40),
    "Pi": Fraction(2**50),
    "Ei": Fraction(2**60),
}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_UNITS = {
    "ns": Fraction(1, 10**9),
    "us": Fraction(1, 10**6),
    "µs": Fraction(1, 10**6),
    "μs": Fraction(1, 10**6),
    "ms": Fraction(1, 1000),
    "s": Fraction(1),
    "m": Fraction(60),
    "h": Fraction(3600),
}
MAX_LENGTH = 64


def quantity(text: str) -> Fraction | None:
    """The number, or None when the text is no quantity."""
    found = _QUANTITY.fullmatch(text) if len(text) <= MAX_LENGTH else None
    if not found:
        return None
    number = Fraction(found[1].rstrip(".") if found[1].rstrip(".") else "0")
    if found[2]:
        return number * Fraction(10) ** int(found[2])
    return number * _SUFFIX[found[3]] if found[3] else number


def duration(text: str) -> Fraction | None:
    """Seconds, or None when the text is no Go duration (``0`` alone is one)."""
    sign, body = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if body == "0":
        return Fraction(0)
    parts = _DURATION.findall(body) if len(text) <= MAX_LENGTH else []
    if not parts or "".join(number + unit for number, unit in parts) != body:
        return None
    return sign * sum((Fraction(number) * _UNITS[unit] for number, unit in parts), Fraction(0))
