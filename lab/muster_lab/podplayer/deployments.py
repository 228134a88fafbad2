"""Plays the agent's own Deployment on the lab's API server, which makes no pods.

Owns one process a Deployment of the agent, with the pod that its template describes. There is no RBAC on that server: the
agent's ServiceAccount token is the administrator's, and the log says so. It never touches other workloads.
"""

from __future__ import annotations

from dataclasses import dataclass

import anyio
import anyio.abc
import structlog
from aiohttp import ClientError

from .agents import Agents, is_agent
from .client import ApiError, Client
from .pods import Obj

log = structlog.get_logger("muster_lab.podplayer")
PATH = "/apis/apps/v1/deployments"
RETRY = 0.5


@dataclass(slots=True)
class _Played:
    """The template that is played, and when its process has ended."""

    template: Obj
    uid: str
    ended: anyio.Event


def pod_of(deployment: Obj) -> Obj:
    """The pod that a controller would make, with the volume that admission would add."""
    meta, template = deployment["metadata"], deployment["spec"]["template"]
    uid = f"{meta['uid']}-{meta.get('generation', 1)}"
    spec = {**template["spec"]}
    account = {
        "name": "kube-api-access",
        "projected": {
            "sources": [
                {"serviceAccountToken": {"path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt"}},
            ]
        },
    }
    mount = {"name": account["name"], "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}
    container = {**spec["containers"][0]}
    container["volumeMounts"] = [*(container.get("volumeMounts") or ()), mount]
    spec |= {"containers": [container], "volumes": [*(spec.get("volumes") or ()), account]}
    name = f"{meta['name']}-{meta.get('generation', 1)}"
    return {"metadata": {"name": name, "namespace": meta["namespace"], "uid": uid}, "spec": spec}


class DeploymentPlayer:
    def __init__(self, client: Client, agents: Agents) -> None:
        self._client, self._agents = client, agents
        self._played: dict[str, _Played] = {}

    async def run(self) -> None:
        """Until cancelled; an unreachable server is tried again."""
        log.info("no RBAC here: the agent's ServiceAccount token is the administrator's")
        async with anyio.create_task_group() as group:
            while True:
                try:
                    await self._follow(group)
                except (ApiError, ClientError, OSError) as error:
                    log.warning("watch-ended", error=str(error))
                    await anyio.sleep(RETRY)

    async def _follow(self, group: anyio.abc.TaskGroup) -> None:
        listed = await self._client.call("GET", PATH)
        for deployment in listed["items"]:
            self._consider(group, deployment)
        version = listed["metadata"]["resourceVersion"]
        while True:
            async for kind, deployment in self._client.watch(PATH, version):
                if kind == "ERROR":
                    raise ApiError(int(deployment.get("code", 0)), deployment)
                version = deployment["metadata"]["resourceVersion"]
                if kind == "DELETED":
                    self._end(deployment["metadata"]["uid"])
                elif kind != "BOOKMARK":
                    self._consider(group, deployment)

    def _consider(self, group: anyio.abc.TaskGroup, deployment: Obj) -> None:
        key, template = deployment["metadata"]["uid"], deployment["spec"]["template"]
        if not is_agent(template["spec"]):
            return
        before = self._played.get(key)
        if before is not None and before.template == template:
            return
        self._end(key)
        pod = pod_of(deployment)
        played = self._played[key] = _Played(template, pod["metadata"]["uid"], anyio.Event())
        group.start_soon(self._play, pod, played, before)

    def _end(self, key: str) -> None:
        before = self._played.pop(key, None)
        if before is not None:
            self._agents.stop(before.uid)

    async def _play(self, pod: Obj, played: _Played, before: _Played | None) -> None:
        async def show(_scene: str, _restarts: int) -> None:
            """The server's own player sets the Deployment's status."""

        try:
            if before is not None:
                await before.ended.wait()
            if any(known is played for known in self._played.values()):
                await self._agents.play(pod, self._agents.address(), show)
        finally:
            played.ended.set()
