"""What a cluster may be called, for those who hear a name before any file has it.

Owns the one question; the kinds in files have the same rule in their schema.
"""

from __future__ import annotations

import re

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
RULE = "lower-case letters, digits and '-', beginning and ending with a letter or digit, at most 63"


def is_name(text: str) -> bool:
    """Whether ``text`` may be the name of a cluster: :data:`RULE`."""
    return _NAME.fullmatch(text) is not None
