"""What an image tag stands for.

Owns the one rule both players follow. It never touches an API.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

_CRASH = re.compile(r"crash-after-(\d+(?:\.\d+)?)s")


@dataclass(frozen=True, slots=True)
class Behaviour:
    """``ready`` becomes ready; a ``crash_after`` takes that back after so many seconds."""

    ready: bool = True
    crash_after: float | None = None


READY = Behaviour()
NEVER = Behaviour(ready=False)


def of_image(image: str) -> Behaviour:
    """The tag decides; anything that is not ``never`` or ``crash-after-Ns`` becomes ready."""
    last = image.rpartition("/")[2].partition("@")[0]
    tag = last.partition(":")[2]
    crash = _CRASH.search(tag)
    if crash:
        return Behaviour(crash_after=float(crash[1]))
    return NEVER if "never" in tag else READY


def of_pod(spec: dict[str, Any]) -> Behaviour:
    """The worst of a pod's containers."""
    found = [of_image(str(item.get("image", ""))) for item in spec.get("containers") or ()]
    if any(not item.ready for item in found):
        return NEVER
    crashes = [item.crash_after for item in found if item.crash_after is not None]
    return Behaviour(crash_after=min(crashes)) if crashes else READY
