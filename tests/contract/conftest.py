"""One server a kind, for all that talks to clusters: each case runs on the real one and on the lab's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from contract.kube import servers

KINDS = [pytest.param("real", marks=pytest.mark.real), "lab"]


@pytest.fixture(scope="session", params=KINDS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    kind = request.param
    folder: Path = tmp_path_factory.mktemp(f"kube-{kind}")
    with getattr(servers, kind)(folder) as kubeconfig:
        yield kind, kubeconfig


@pytest.fixture(scope="session")
def kubeconfig(server: tuple[str, Path]) -> Path:
    return server[1]
