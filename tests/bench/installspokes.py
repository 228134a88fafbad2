"""Clusters without machines, for the installer's benchmark: the lab's API servers and a stub of an agent for each.

All in one process; each server listens on a port of its own. When the agent's Deployment appears, a stub reads the token
Secret from the API, publishes its keys there, joins, and holds a session, as the agent does; its start-up time is not
simulated. Prints one JSON line when all servers listen; their kubeconfigs are in the folder then.

    python installspokes.py --clusters 100 --folder F --context HUB/context.json
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from muster_agent.cluster.kube import KubeCluster
from muster_core.manifest.objects import ObjectRef
from muster_core.sealing.keys import encode_identity, encode_sealing
from muster_core.token import JoinToken
from muster_lab.kube.server import LabKube, Settings
from muster_proto.v1 import link_pb2 as wire
from muster_proto.v1 import link_pb2_grpc
from stubfleet import CALL_DEADLINE, Hub, Stub

NAMESPACE = "muster-system"
RETRY = 1.0


class Spoke:
    """One cluster: its API server, and the stub that comes to life with the Deployment."""

    def __init__(self, name: str, kube: LabKube, hub: Hub) -> None:
        self.name, self._kube, self._hub = name, kube, hub
        self._deployed = asyncio.Event()
        kube.store.listeners.append(self._changed)

    def _changed(self, resource: Any, change: Any) -> None:
        if resource == ("apps", "deployments") and change.after is not None:
            self._deployed.set()

    async def live(self) -> None:
        """From the Deployment to a session, which is held until cancelled."""
        await self._deployed.wait()
        api = await KubeCluster.connect(self._kube.kubeconfig)
        try:
            secret = await api.get(ObjectRef("v1", "Secret", NAMESPACE, "muster-agent-token"))
            assert secret is not None
            token = JoinToken.decode(base64.b64decode(secret["data"]["token"]).decode())
            self._hub.link, self._hub.fleet_id = token.link_address, token.fleet_id
            stub = Stub(self.name, self._hub, lambda _sighting: None)
            stub.uid = await api.uid()
            request = stub.request(token.secret)
            await api.apply(
                {
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "metadata": {"name": "muster-agent-identity", "namespace": NAMESPACE},
                    "data": {
                        "identityKey": encode_identity(request.identity_key),
                        "sealingKey": encode_sealing(request.sealing_key),
                        "sealingGeneration": "1",
                    },
                },
                force=True,
            )
        finally:
            await api.aclose()
        credentials = grpc.ssl_channel_credentials(token.ca_pem)
        async with grpc.aio.secure_channel(token.edge_address, credentials) as channel:
            enrol = link_pb2_grpc.EnrolStub(channel)
            while True:
                answer = await enrol.Join(request, timeout=CALL_DEADLINE)
                if answer.state == wire.JoinResponse.APPROVED:
                    break
                await asyncio.sleep(max(RETRY, answer.retry_after_seconds))
        stub.admitted(answer.certificate_pem)
        await stub.run()


def inline(kube: LabKube, name: str) -> str:
    """The kubeconfig with everything in it."""
    authority = base64.b64encode(kube.files.ca.read_bytes()).decode()
    return json.dumps({
        "current-context": name,
        "clusters": [{"name": name, "cluster": {"server": kube.url, "certificate-authority-data": authority}}],
        "users": [{"name": name, "user": {"token": kube.token}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
    })  # fmt: skip


async def serve(clusters: int, folder: Path, context: Path) -> None:
    hub = Hub.of(context)
    async with AsyncExitStack() as stack:
        spokes = []
        for number in range(clusters):
            name = f"site-{number:04}"
            kube = await stack.enter_async_context(LabKube.serve(Settings(folder / "kube" / name)))
            spokes.append(Spoke(name, kube, hub))
            path = folder / "kubeconfigs" / f"{name}.kubeconfig"
            path.parent.mkdir(exist_ok=True)
            path.write_text(inline(kube, name))
        sys.stdout.write(json.dumps({"clusters": clusters}) + "\n")
        sys.stdout.flush()
        async with asyncio.TaskGroup() as group:
            for spoke in spokes:
                group.create_task(spoke.live())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clusters", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--context", type=Path, required=True)
    given = parser.parse_args()
    asyncio.run(serve(given.clusters, given.folder, given.context))


if __name__ == "__main__":
    main()
