"""Where the tables are, as the store and the upkeep commands use it; each engine has one.

Owns the port and what becomes of a driver's errors.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa

from muster_coordinator.store.port import StoreError


class Place(Protocol):
    """``writing`` and ``snapshot`` are transactions. ``keep_copy`` is made before tables change. All calls block."""

    name: str
    engine: sa.Engine

    def writing(self) -> AbstractContextManager[sa.Connection]: ...

    def snapshot(self) -> AbstractContextManager[sa.Connection]: ...

    def keep_copy(self, mark: str) -> Path | None: ...

    def told(self, error: sa.exc.DBAPIError) -> StoreError: ...

    def close(self) -> None: ...


@contextlib.contextmanager
def told(place: Place) -> Iterator[None]:
    """What the disk or the server does to the driver, as an error that names the place."""
    try:
        yield
    except sa.exc.IntegrityError:  # this program's mistake, not the disk's
        raise
    except sa.exc.DBAPIError as error:
        raise place.told(error) from error
