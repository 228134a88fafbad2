"""What starts, has a folder, and ends."""

from __future__ import annotations

import abc
import shutil
import tempfile
from pathlib import Path
from typing import Self

import anyio
import anyio.to_thread

#: Start and readiness of one cluster. Below the suite's per-test timeout, so that the logs are seen first.
DEADLINE = 50.0
PORT_TRIES = 3


class Service(abc.ABC):
    """What starts, has a folder, and ends; in a ``with`` or an ``async with``."""

    def __init__(self, folder: Path | None, deadline: float) -> None:
        self.given = folder
        self.made: Path | None = None
        self.deadline = deadline

    @abc.abstractmethod
    def start(self) -> Self: ...

    @abc.abstractmethod
    def close(self, *, keep: bool = False) -> None:
        """Ends it and removes a folder of its own making; ``keep`` leaves the folder, for its logs."""

    @property
    def folder(self) -> Path:
        assert self.made is not None, "it is not started"
        return self.made

    def make_folder(self, name: str) -> None:
        if self.given is None:
            self.made = Path(tempfile.mkdtemp(prefix=f"muster-real-{name}-"))
        else:
            self.given.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.made = self.given.resolve()

    def remove_folder(self) -> None:
        if self.given is None and self.made is not None:
            shutil.rmtree(self.made, ignore_errors=True)
        self.made = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return await anyio.to_thread.run_sync(self.start)

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self.close)
