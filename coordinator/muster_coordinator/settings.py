"""What an operator may set. Read once, in the composition root; nothing else reads flags or the environment."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Address:
    """``host:port``; port 0 lets the system choose."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        host, _, port = text.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            raise ValueError(f"{text!r} is not HOST:PORT")
        return cls(host.strip("[]"), int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Settings:
    """``poll_seconds`` is how often the fleet repository is asked for news when nobody says so."""

    data_dir: Path
    repository: str
    branch: str
    git_ca_file: Path | None
    link: Address
    edge: Address
    metrics: Address
    advertise_link: str | None
    advertise_edge: str | None
    poll_seconds: float
    name: str
    certificate_life: dt.timedelta = dt.timedelta(hours=24)
