"""Starts the real ``muster-agent`` where a pod says so.

Owns the processes of agent pods: the pod's command, args, env, mounts at the pod's own paths, its ServiceAccount token, its
probes. Nothing is added and nothing left out, so that what the pod's role forbids is forbidden. It never plays other pods.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import structlog

from . import confine
from .client import ApiError, Client
from .pods import Obj
from .volumes import Token, VolumeError, Volumes, field, issued_token

log = structlog.get_logger("muster_lab.podplayer")
AGENT = "muster-agent"
PROBE_DEADLINE = 3.0
RESTART_AFTER = (0.5, 10.0)
Show = Callable[[str, int], Awaitable[None]]


def is_agent(spec: Obj) -> bool:
    """A pod whose one container is an image called ``muster-agent``."""
    containers: list[Obj] = list(spec.get("containers") or ())
    return len(containers) == 1 and image_name(str(containers[0].get("image", ""))) == AGENT


def image_name(image: str) -> str:
    """The last part of an image's repository, without tag and digest."""
    return image.partition("@")[0].rpartition("/")[2].partition(":")[0]


class Agents:
    """``root`` holds volumes and logs; every pod gets a loopback address of its own, so that ports do not meet."""

    def __init__(self, client: Client, root: Path, token: Token | None = None) -> None:
        async def issued(pod: Obj, seconds: int) -> str:
            return await issued_token(client, pod, seconds)

        self._client, self._root = client, root
        self._volumes = Volumes(client, root, token or issued)
        self._scopes: dict[str, anyio.CancelScope] = {}
        self._block = f"127.{random.randrange(64, 250)}.{random.randrange(1, 250)}"
        self._addresses = 0

    def address(self) -> str:
        """The next pod's."""
        self._addresses += 1
        return f"{self._block}.{self._addresses % 250 + 1}"

    def stop(self, uid: str) -> None:
        """Ends the pod's process; :meth:`play` returns when it has ended."""
        scope = self._scopes.get(uid)
        if scope is not None:
            scope.cancel()

    async def play(self, pod: Obj, address: str, show: Show) -> None:
        """Until :meth:`stop`: starts it, probes it, starts it again when it ends. ``show(scene, restarts)`` tells the pod."""
        uid, backoff, restarts = str(pod["metadata"]["uid"]), RESTART_AFTER[0], 0
        pod = {**pod, "status": {**(pod.get("status") or {}), "podIP": address, "hostIP": "192.0.2.1"}}
        with anyio.CancelScope() as scope:
            self._scopes[uid] = scope
            try:
                while True:
                    try:
                        await self._once(pod, address, show, restarts)
                    except VolumeError as error:
                        log.warning("agent-waits", pod=pod["metadata"]["name"], error=str(error))
                        await show("pulling", restarts)
                        await anyio.sleep(1.0)
                        continue
                    restarts += 1
                    await show("crashed", restarts)
                    await anyio.sleep(backoff)
                    backoff = min(backoff * 2, RESTART_AFTER[1])
            finally:
                self._scopes.pop(uid, None)
                self._volumes.forget(pod)

    async def _once(self, pod: Obj, address: str, show: Show, restarts: int) -> None:
        """One life of the process."""
        container = pod["spec"]["containers"][0]
        folders = await self._volumes.lay_out(pod)
        mounts = [[mount["mountPath"], str(folders[mount["name"]])] for mount in container["volumeMounts"]]
        environment = self._environment(pod, container)
        argv = [
            expanded(part, environment) for part in [*container["command"], *(container.get("args") or ())]
        ]
        argv[0] = _program(argv[0])
        async with self._running(pod, mounts, argv, environment) as process:
            probes = Probes(container, address)
            shown = ""
            while process.poll() is None:
                scene = "running" if await probes.ready() else "starting"
                if scene != shown:
                    await show(scene, restarts)
                    shown = scene
                await anyio.sleep(0.3 if scene == "starting" else 1.0)
            log.warning("agent-ended", pod=pod["metadata"]["name"], code=process.returncode)

    @contextlib.asynccontextmanager
    async def _running(
        self, pod: Obj, mounts: list[list[str]], argv: list[str], environment: dict[str, str]
    ) -> AsyncIterator[subprocess.Popen[bytes]]:
        process = self._start(pod, mounts, argv, environment)
        log.info("agent-started", pod=pod["metadata"]["name"], argv=argv, process=process.pid)
        try:
            yield process
        finally:
            with anyio.CancelScope(shield=True):
                await _end(process, float(pod["spec"].get("terminationGracePeriodSeconds", 30)))

    def _start(
        self, pod: Obj, mounts: list[list[str]], argv: list[str], environment: dict[str, str]
    ) -> subprocess.Popen[bytes]:
        logs, own = self._root / "logs", self._root / "pods" / str(pod["metadata"]["uid"])
        for folder in (logs, own):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        plan = own / "plan.json"
        plan.write_text(json.dumps({"mounts": mounts, "argv": argv}))
        with (logs / f"{pod['metadata']['name']}.log").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", str(confine.__file__), str(plan)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def _environment(self, pod: Obj, container: Obj) -> dict[str, str]:
        """PATH of this machine (there is no image), the pod's env, and the address of the API server."""
        server = urlsplit(self._client.url)
        found = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "KUBERNETES_SERVICE_HOST": server.hostname or "",
            "KUBERNETES_SERVICE_PORT": str(server.port or 443),
        }
        for item in container.get("env") or ():
            reference = (item.get("valueFrom") or {}).get("fieldRef")
            value = field(pod, reference["fieldPath"]) if reference else item.get("value", "")
            found[item["name"]] = expanded(str(value), found)
        return found


class Probes:
    """The readiness probe of a container, over HTTP."""

    def __init__(self, container: Obj, address: str) -> None:
        get = (container.get("readinessProbe") or {}).get("httpGet")
        ports = {port.get("name"): port["containerPort"] for port in container.get("ports") or ()}
        self._address = address
        self._path = get["path"] if get else ""
        self._port = int(ports.get(get["port"], get["port"])) if get else 0

    async def ready(self) -> bool:
        if not self._port:
            return True
        try:
            with anyio.fail_after(PROBE_DEADLINE):
                async with await anyio.connect_tcp(self._address, self._port) as stream:
                    await stream.send(
                        f"GET {self._path} HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n".encode()
                    )
                    return b" 200 " in (await stream.receive(64))[:20]
        except (OSError, TimeoutError, anyio.EndOfStream, anyio.BrokenResourceError):
            return False


def expanded(text: str, environment: dict[str, str]) -> str:
    """``$(NAME)`` as Kubernetes replaces it; an unknown name stays as it is."""
    return re.sub(r"\$\(([A-Za-z_]\w*)\)", lambda found: environment.get(found[1], found[0]), text)


def _program(name: str) -> str:
    """The installed program beside this interpreter, which is what the image would hold."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else shutil.which(name) or name


async def _end(process: subprocess.Popen[bytes], patience: float) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with anyio.move_on_after(patience):
        while process.poll() is None:
            await anyio.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def may_confine() -> str:
    """Empty where this machine lets the player give a pod its mounts, else why not."""
    probe = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        "import ctypes,sys;sys.exit(ctypes.CDLL(None).unshare(0x20000)!=0)",
    ]
    if not sys.platform.startswith("linux"):
        return "pods' mounts need Linux"
    done = subprocess.run(probe, check=False, capture_output=True)
    return "" if done.returncode == 0 else "this user may not make mount namespaces"


__all__ = ["AGENT", "Agents", "ApiError", "is_agent", "may_confine"]
