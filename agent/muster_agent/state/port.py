"""Named, versioned records, each replaced as a whole.

Owns the protocol: ``put`` returns when the record is on disk (fsynced); a reader after a crash sees the old or the new one,
never a mixture.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

import msgspec

R = TypeVar("R", bound=msgspec.Struct)


class StatePort(Protocol):
    def get(self, name: str, kind: type[R]) -> R | None:
        """The record, or None; ``MUSTER-K020`` when it is there and cannot be read."""
        ...

    def put(self, name: str, record: msgspec.Struct) -> None: ...

    def names(self, prefix: str) -> list[str]: ...

    def remove(self, name: str) -> None: ...
