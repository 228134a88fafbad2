"""What others wrote, as a person's terminal may show it.

Owns which signs are dangerous there: those that move a cursor, set a title, or turn the direction of a line. Clusters,
authors of commits and other operators write texts that somebody reads later. Pure.
"""

from __future__ import annotations

import re

_ODD = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def has_controls(text: str) -> bool:
    """Whether there is anything in it that a terminal would obey; a tab and the end of a line are not."""
    return _ODD.search(text) is not None


def harmless(text: str) -> str:
    """The same text, with ``\ufffd`` for each such sign."""
    return _ODD.sub("\ufffd", text)
