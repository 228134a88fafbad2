"""Fixtures of the cluster API contract: one server a kind for the whole run, one namespace a case."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
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
def endpoint(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Endpoint]]:
    kind = request.param
    folder: Path = tmp_path_factory.mktemp(f"kube-{kind}")
    with ExitStack() as stack:
        kubeconfig = stack.enter_context(getattr(servers, kind)(folder))
        yield kind, Endpoint.read(kubeconfig)


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
