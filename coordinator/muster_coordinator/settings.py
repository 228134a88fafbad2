"""What an operator may set. Read once, in the composition root; nothing else reads flags or the environment."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from muster_coordinator.access.roles import Role
from muster_coordinator.store.address import DatabaseUrl


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
class Oidc:
    """Bearer tokens of one issuer; ``roles`` by group, ``required`` claims with exactly this text."""

    issuer: str
    audience: str
    roles: Mapping[str, Role]
    ca_file: Path | None = None
    groups_claim: str = "groups"
    name_claim: str = "sub"
    required: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Settings:
    """``poll_seconds`` is how often the fleet repository is asked for news when nobody says so.

    ``notify`` is the file that names who is told of pauses and failures.
    ``database`` is a shared one; without it a file in the data folder is used.
    """

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
    oidc: Oidc | None = None
    notify: Path | None = None
    database: DatabaseUrl | None = None
