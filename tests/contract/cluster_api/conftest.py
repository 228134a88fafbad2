"""The port's contract: each case on the real API server and on the lab's, through the agent's own adapter."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from contract.kube.client import Endpoint, Kube
from muster_agent.cluster.apply import Applier, located
from muster_agent.cluster.kube import KubeCluster
from muster_agent.cluster.observe import Observer
from muster_core.apply.applyset import set_id
from muster_core.apply.changeset import ChangeSet
from muster_core.apply.plan import Applied
from muster_core.manifest.objects import Manifest, ObjectRef


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def api(kubeconfig: Path) -> AsyncIterator[KubeCluster]:
    cluster = await KubeCluster.connect(kubeconfig)
    yield cluster
    await cluster.aclose()


@pytest.fixture
async def other(kubeconfig: Path) -> AsyncIterator[Kube]:
    """Somebody else at the same cluster, with a namespace for this case."""
    where = Endpoint.read(kubeconfig)
    connector = aiohttp.TCPConnector(ssl=where.context)
    async with aiohttp.ClientSession(headers=where.headers, connector=connector) as session:
        client = Kube(where, session, f"port-{uuid.uuid4().hex[:10]}", "")
        space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": client.ns}}
        assert (await client.call("POST", "/api/v1/namespaces", space)).status == 201
        yield client
        await client.call("DELETE", f"/api/v1/namespaces/{client.ns}")


@dataclass
class Agent:
    """An applier with its observer and what a state folder would remember, for one bundle of this case."""

    api: KubeCluster
    observer: Observer
    applier: Applier
    namespace: str
    bundle: str
    changed: list[str]
    applied: dict[ObjectRef, Applied] = field(default_factory=dict)

    @property
    def set_id(self) -> str:
        return set_id(self.bundle, self.namespace)

    async def apply(
        self, *objects: Manifest, prune: bool = True, note: Mapping[str, str] | None = None
    ) -> ChangeSet:
        found, problems = await located(self.api, objects, self.namespace)
        assert not problems, problems
        result = await self.applier.apply(self.bundle, found, self.applied, prune=prune, note=note or {})
        self.applied = result.applied
        return result


Opener = Callable[..., Any]


@pytest.fixture
def agent(api: KubeCluster, other: Kube) -> Opener:
    """``async with agent() as a``: an agent's cluster side, running; again for one that restarted."""

    @asynccontextmanager
    async def run(
        bundle: str = "shop", applied: Mapping[ObjectRef, Applied] | None = None
    ) -> AsyncIterator[Agent]:
        changed: list[str] = []
        observer = Observer(api, changed.append, lambda low, _: low)
        async with anyio.create_task_group() as group:
            await group.start(observer.run)
            yield Agent(
                api,
                observer,
                Applier(api, observer, other.ns),
                other.ns,
                bundle,
                changed,
                dict(applied or {}),
            )
            group.cancel_scope.cancel()

    return run


async def until(fact: Callable[[], object], seconds: float = 20) -> None:
    """For what arrives by a watch."""
    with anyio.fail_after(seconds):
        while not fact():
            await anyio.sleep(0.02)
