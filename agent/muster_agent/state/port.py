"""Named, versioned records, each replaced as a whole.

Owns the protocol: ``put`` and ``remove`` hold at once for whoever asks here, and are on disk (fsynced) when
``durable`` returns. Whoever is about to act on a record (send, apply) waits for that first; a reader after a crash
sees an old record or a new one, never a mixture, and nothing that was acted on is missing. What nobody waits for is
written within moments all the same."""

from __future__ import annotations

from typing import Protocol, TypeVar

import msgspec

R = TypeVar("R", bound=msgspec.Struct)


class StatePort(Protocol):
    def get(self, name: str, kind: type[R]) -> R | None:
        """The record, or None; ``MUSTER-K020`` when it is there and cannot be read."""
        ...

    def put(self, name: str, record: msgspec.Struct) -> None: ...

    async def durable(self) -> None:
        """Everything put so far is on disk; ``MUSTER-K022`` (retryable) when it cannot be written."""
        ...

    def names(self, prefix: str) -> list[str]: ...

    def remove(self, name: str) -> None: ...
