"""Points in time as flags take them: RFC 3339, or a duration from now.

Owns that reading and what is said of a text that is neither. It never decides whether a time makes sense.
"""

from __future__ import annotations

import time

import click
from muster_core.durations import parse_duration
from muster_core.errors import ValidationError
from muster_core.times import parse_time


def point_in_time(text: str, flag: str) -> float:
    """Unix seconds."""
    try:
        if text[:1].isdecimal() and "T" not in text:
            return time.time() + parse_duration(text)
        return parse_time(text)
    except ValidationError as error:
        raise click.BadParameter(
            f"{text!r} is neither a time nor a duration. Write 2027-01-02T06:00:00Z or 8h.",
            param_hint=flag,
        ) from error
