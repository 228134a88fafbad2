"""What whoever runs the agent may set. Read once, in the composition root."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Settings:
    """``poll_seconds`` is how often Git is asked when nobody says that something is new."""

    cluster: str | None
    token: str | None
    kubeconfig: Path | None
    state_dir: Path
    namespace: str
    git_ca_file: Path | None
    metrics_host: str
    metrics_port: int
    poll_seconds: float
    kustomize: str | None
