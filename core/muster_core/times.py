"""Points in time as people write them: RFC 3339, always with an offset.

Owns parsing and printing. It never reads a clock.
"""

from __future__ import annotations

import datetime as dt
import re

from muster_core.errors import ValidationError

LAST = 253402300800  # the first second that no calendar here has a name for: the year 10000
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:[0-5]\d)", re.ASCII)


def parse_time(text: str) -> float:
    """Unix seconds; ``MUSTER-V032`` when the text is no RFC 3339 time."""
    try:
        if not _RFC3339.fullmatch(text):
            raise ValueError(text)
        seconds = dt.datetime.fromisoformat(text).timestamp()
        if not 0 <= seconds < LAST:
            raise ValueError(text)
        return seconds
    except ValueError as error:
        raise ValidationError(
            "V032", f"{text!r} is no time", hint="Write it like 2027-01-31T12:00:00Z."
        ) from error


def format_time(seconds: float) -> str:
    """UTC, whole seconds: ``2027-01-31T12:00:00Z``. What is before 1970 or after 9999 is that end."""
    return dt.datetime.fromtimestamp(int(min(max(seconds, 0), LAST - 1)), dt.UTC).strftime(
        "%Y-%m-%dT%H:%M:%SZ"
    )
