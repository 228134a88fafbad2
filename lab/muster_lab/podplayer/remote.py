"""Plays the kubelet on a real API server: binds pods, sets their status, lets them go.

Owns one Node and every pod that no other node has. kube-controller-manager makes the pods and sums up the
workloads; this never touches a workload, and never a pod that another node holds. A pod of the agent is played by the real
program, where ``agents`` is given.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import anyio.abc
import structlog
from aiohttp import ClientError

from . import pods
from .agents import Agents, is_agent
from .client import MERGE, ApiError, Client
from .pods import Obj
from .tags import of_pod

log = structlog.get_logger("muster_lab.podplayer")
HEARTBEAT = 10.0
RETRY = 0.5


class RemotePlayer:
    def __init__(
        self, client: Client, *, node: str = "lab-node", delay: float = 0.2, agents: Agents | None = None
    ) -> None:
        self._client = client
        self._agents = agents
        self._ended: dict[str, anyio.Event] = {}
        self._node = node
        self._delay = delay
        self._playing: set[str] = set()
        self._addresses = 0

    async def run(self) -> None:
        """Until cancelled; an unreachable server is tried again."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._heart)
            while True:
                try:
                    await self._follow(group)
                except (ApiError, ClientError, OSError) as error:
                    log.warning("watch-ended", error=str(error))
                    await anyio.sleep(RETRY)

    async def _heart(self) -> None:
        while True:
            try:
                await self._keep_node()
            except (ApiError, ClientError, OSError) as error:
                log.warning("node-not-kept", error=str(error))
                await anyio.sleep(RETRY)
                continue
            await anyio.sleep(HEARTBEAT)

    async def _keep_node(self) -> None:
        path, wanted = f"/api/v1/nodes/{self._node}", pods.node(self._node)
        try:
            await self._client.call("POST", "/api/v1/nodes", wanted)
        except ApiError as error:
            if error.status != 409:
                raise
        await self._client.call("PATCH", path, {"spec": {"taints": None}}, media=MERGE)
        await self._client.call("PATCH", path + "/status", {"status": wanted["status"]}, media=MERGE)

    async def _follow(self, group: anyio.abc.TaskGroup) -> None:
        listed = await self._client.call("GET", "/api/v1/pods")
        for pod in listed["items"]:
            self._consider(group, pod)
        version = listed["metadata"]["resourceVersion"]
        while True:
            async for kind, pod in self._client.watch("/api/v1/pods", version):
                if kind == "ERROR":
                    raise ApiError(int(pod.get("code", 0)), pod)
                version = pod["metadata"]["resourceVersion"]
                if kind == "DELETED":
                    self._playing.discard(pod["metadata"]["uid"])
                    if self._agents is not None:
                        self._agents.stop(pod["metadata"]["uid"])
                elif kind != "BOOKMARK":
                    self._consider(group, pod)

    def _consider(self, group: anyio.abc.TaskGroup, pod: Obj) -> None:
        uid, holder = pod["metadata"]["uid"], pod["spec"].get("nodeName", self._node)
        if holder != self._node:
            return
        if pod["metadata"].get("deletionTimestamp"):
            group.start_soon(self._quietly, self._release, pod)
        elif uid not in self._playing and (
            self._is_agent(pod) or (pod.get("status") or {}).get("phase") in ("Pending", None)
        ):
            self._playing.add(uid)
            group.start_soon(self._quietly, self._play, pod)

    def _is_agent(self, pod: Obj) -> bool:
        return self._agents is not None and is_agent(pod["spec"])

    async def _quietly(self, act: Callable[[Obj], Awaitable[None]], pod: Obj) -> None:
        """A pod that is gone, or changed under us, is nobody's fault; anything else is logged."""
        try:
            await act(pod)
        except ApiError as error:
            if error.status not in (404, 409):
                log.warning("pod-not-played", pod=pod["metadata"]["name"], error=str(error))
                self._playing.discard(pod["metadata"]["uid"])
        except (ClientError, OSError) as error:
            log.warning("pod-not-played", pod=pod["metadata"]["name"], error=str(error))
            self._playing.discard(pod["metadata"]["uid"])

    async def _release(self, pod: Obj) -> None:
        uid = pod["metadata"]["uid"]
        if self._agents is not None and uid in self._ended:
            self._agents.stop(uid)
            await self._ended[uid].wait()
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod["metadata"]["uid"]}}
        await self._client.call("DELETE", _path(pod), body)

    async def _play(self, pod: Obj) -> None:
        if not pod["spec"].get("nodeName"):
            await self._bind(pod)
        if self._agents is not None and is_agent(pod["spec"]):
            await self._play_agent(self._agents, pod)
            return
        behaviour = of_pod(pod["spec"])
        self._addresses += 1
        address = f"10.244.{self._addresses // 250 % 250}.{self._addresses % 250 + 1}"
        await anyio.sleep(self._delay)
        if not behaviour.ready:
            await self._show(pod, "pulling", address)
            return
        await self._show(pod, "running", address)
        if behaviour.crash_after is not None:
            await anyio.sleep(behaviour.crash_after)
            await self._show(pod, "crashed", address)
        elif pod["spec"].get("restartPolicy") != "Always":
            await anyio.sleep(self._delay)
            await self._show(pod, "done", address)

    async def _play_agent(self, agents: Agents, pod: Obj) -> None:
        address, uid = agents.address(), pod["metadata"]["uid"]

        async def show(scene: str, restarts: int) -> None:
            await self._quietly(lambda it: self._show(it, scene, address, restarts), pod)

        self._ended[uid] = anyio.Event()
        try:
            await agents.play(pod, address, show)
        finally:
            self._ended.pop(uid).set()

    async def _bind(self, pod: Obj) -> None:
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name, "namespace": namespace},
            "target": {"apiVersion": "v1", "kind": "Node", "name": self._node},
        }
        try:
            await self._client.call("POST", _path(pod) + "/binding", binding)
        except ApiError as error:
            if error.status != 409:
                raise

    async def _show(self, pod: Obj, scene: str, address: str, restarts: int = 0) -> None:
        status = pods.status(pod, scene, address, restarts)
        body = {"metadata": {"uid": pod["metadata"]["uid"]}, "status": status}
        await self._client.call("PATCH", _path(pod) + "/status", body, media=MERGE)


def _path(pod: Obj) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"
