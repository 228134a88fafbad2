"""What one coordinator keeps on its machine, and that nobody else uses it meanwhile.

Owns the names of the files in the data folder, the lock on it, and the coordinator's own random id. It never reads what the
files hold.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from muster_coordinator.store.port import StoreError

DATABASE = "muster.db"
AUTHORITY = ("ca.crt", "ca.key")
OVERLAP = ("ca-next.crt", "ca-next.key", "ca-previous.crt")
ADMIN_TOKEN = "admin-token"  # noqa: S105 - a file's name
AUDIT = "audit"
MIRROR = "fleet.git"
CONTEXT = "context.json"
INSTANCE = "instance"
LOCK = "lock"
ID_BYTES = 16


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Makes the folder, and keeps others out until the block ends or the process does. ``MUSTER-L056`` when it is in use."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(
                "L056",
                "a coordinator uses this data folder",
                object=str(folder),
                hint="Stop it first, or give this one a folder of its own.",
            ) from None
        yield
    finally:
        os.close(descriptor)


def instance(folder: Path) -> str:
    """A random id that this folder keeps: whose name and audit log it is."""
    file = folder / INSTANCE
    if not file.exists():
        partial = file.with_suffix(".part")
        partial.write_text(secrets.token_hex(ID_BYTES))
        partial.replace(file)
    return file.read_text().strip()
