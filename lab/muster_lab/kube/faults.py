"""Faults on purpose, and the count of what clients asked for.

Owns the switches behind ``/lab/faults`` and the counters behind ``/lab/requests``. These paths keep
answering while everything else is cut off, or a fault could never be taken back. It never changes stored
objects.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import msgspec

from .errors import StatusError

READS = frozenset({"get", "list", "watch"})


class Override(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """The next ``count`` requests (0: all) end with this code."""

    code: int = 429
    retry_after: int = 1
    count: int = 1


class Faults(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """``dropWatches`` closes the watches that are open now, once; the rest lasts until it is put back."""

    latency_ms: float = 0
    error_rate: float = 0
    error_code: int = 500
    status_override: Override | None = None
    drop_watches: bool = False
    partition: bool = False

    def next_failure(self) -> tuple[int, int] | None:
        """The code and Retry-After that this request must end with."""
        override = self.status_override
        if override is not None:
            if override.count > 0:
                override.count -= 1
                if override.count == 0:
                    self.status_override = None
            return override.code, override.retry_after
        if self.error_rate and random.random() < self.error_rate:
            return self.error_code, 0
        return None


def injected(code: int, retry_after: int) -> StatusError:
    """The failure as an API server would write it; ``retry_after`` in seconds, 0 for none."""
    reason = {429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable", 504: "Timeout"}.get(
        code, ""
    )
    text = {429: "too many requests, please try again later"}.get(
        code, "the lab was asked to fail this request"
    )
    if not retry_after:
        return StatusError(code, reason, text)
    headers = {"Retry-After": str(retry_after)}
    return StatusError(code, reason, text, details={"retryAfterSeconds": retry_after}, headers=headers)


class Requests:
    """Requests by verb and by client, since the last reset."""

    def __init__(self) -> None:
        self.verbs: Counter[str] = Counter()
        self.agents: dict[str, Counter[str]] = {}

    def count(self, verb: str, agent: str) -> None:
        self.verbs[verb] += 1
        if agent not in self.agents and len(self.agents) >= 100:
            agent = "other"
        self.agents.setdefault(agent, Counter())[verb] += 1

    def reset(self) -> None:
        self.verbs.clear()
        self.agents.clear()

    def report(self) -> dict[str, Any]:
        return {
            **_sums(self.verbs),
            "byVerb": dict(self.verbs),
            "byUserAgent": {
                name: {**_sums(verbs), "byVerb": dict(verbs)} for name, verbs in sorted(self.agents.items())
            },
        }


def _sums(verbs: Counter[str]) -> dict[str, int]:
    reads = sum(count for verb, count in verbs.items() if verb in READS)
    discovery = verbs.get("discovery", 0)
    return {"reads": reads, "writes": sum(verbs.values()) - reads - discovery, "discovery": discovery}
