"""Durations as people write them (``1h30m``) and counts that may be a percentage.

Owns both small languages. It never reads a clock.
"""

from __future__ import annotations

import math
import re
from typing import Literal

from muster_core.errors import ValidationError

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"([0-9]+)(ms|s|m|h|d)")
# At most some centuries: a moment so far from now is still one that a calendar has.
DURATION = r"^([0-9]{1,12}ms|[0-9]{1,9}s|[0-9]{1,7}m|[0-9]{1,6}h|[0-9]{1,5}d){1,5}$(?!\n)"
_WHOLE = re.compile(DURATION)


def parse_duration(text: str) -> float:
    """Seconds; ``MUSTER-V031`` when the text is no duration."""
    parts = _PART.findall(text)
    parts = _PART.findall(text)
    if not _WHOLE.match(text):
        raise ValidationError("V031", f"{text!r} is not a duration", hint="Write it like 30s, 10m or 1h30m.")
    return sum(int(number) * _UNITS[unit] for number, unit in parts)


def parse_seconds(text: str) -> float:
    """What a flag says, in seconds: a duration, or a bare number; ``MUSTER-V031`` when it is neither, or nothing."""
    bare = text.isascii() and len(text) <= 12 and text.replace(".", "", 1).isdecimal()
    seconds = float(text) if bare else parse_duration(text)
    if seconds <= 0:
        raise ValidationError("V031", f"{text!r} is no time", hint="It must be more than zero.")
    return seconds


def format_duration(seconds: float) -> str:
    """Two units at most: ``2d3h``, ``14m``, ``9s``."""
    left = max(0, int(seconds))
    words: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        if left >= size or (unit == "s" and not words):
            words.append(f"{left // size}{unit}")
            left %= size
        elif words:
            break
        if len(words) == 2:
            break
    return "".join(word for index, word in enumerate(words) if index == 0 or not word.startswith("0"))


def resolve_count(
    value: int | str, total: int, *, rounding: Literal["down", "down-at-least-one", "up"]
) -> int:
    """An integer from a count or a percentage of ``total``.

    In-flight limits round down but to at least 1; limits of failures round down; quorums round up.
    """
    if isinstance(value, int):
        return value if rounding != "down-at-least-one" else max(1, value)
    share = int(value.removesuffix("%")) * total / 100
    if rounding == "up":
        return math.ceil(share)
    return max(1, math.floor(share)) if rounding == "down-at-least-one" else math.floor(share)
