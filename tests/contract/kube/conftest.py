"""Fixtures of the cluster API contract: one server a kind for the whole run, one namespace a case."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
from contract.kube import servers
from contract.kube.client import Endpoint, Kube

KINDS = [pytest.param("real", marks=pytest.mark.real), "lab"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


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


@pytest.fixture(scope="session")
def endpoint(server: tuple[str, Path]) -> tuple[str, Endpoint]:
    return server[0], Endpoint.read(server[1])


@pytest.fixture
async def kube(endpoint: tuple[str, Endpoint]) -> AsyncIterator[Kube]:
    kind, where = endpoint
    connector = aiohttp.TCPConnector(ssl=where.context)
    async with aiohttp.ClientSession(headers=where.headers, connector=connector) as session:
        client = Kube(where, session, f"case-{uuid.uuid4().hex[:10]}", kind)
        space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": client.ns}}
        made = await client.call("POST", "/api/v1/namespaces", space)
        assert made.status == 201, made.body
        yield client
        await client.call("DELETE", f"/api/v1/namespaces/{client.ns}")
