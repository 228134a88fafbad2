"""Fixtures of the cluster API contract: one namespace a case."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from contract.kube.client import Endpoint, Kube


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


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
