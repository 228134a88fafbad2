"""Where new clusters appear: a folder of kubeconfigs, or Cluster API on a hub cluster.

Owns finding them and reading each credential at the moment it is used. It never keeps a credential, never writes, and never
runs a program that a credential names.
"""

from __future__ import annotations

import base64
import binascii
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from muster_core.errors import KubernetesError, MusterError
from muster_core.manifest.objects import Manifest, ObjectRef
from muster_core.session.backoff import Backoff

from muster_cli.install.kubeconfig import Access, cluster_name, parse

if TYPE_CHECKING:
    from muster_agent.cluster.kube import KubeCluster

CLUSTER_API = "cluster.x-k8s.io/v1beta1"
READ_DEADLINE = 30.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A cluster that is there. ``open`` reads its credential, which may not be there yet (``K056``, retryable).

    ``mark`` changes when it is worth trying anew (another credential, another cluster of that name).
    """

    name: str
    mark: str
    open: Callable[[], Awaitable[Access]]


def _current(data: bytes, where: str, origin: str) -> Access:
    current, found = parse(data, where, "inline" if origin == "inline" else "folder", Path(where).parent)
    if current not in found:
        raise KubernetesError("K055", "the kubeconfig has no current context", object=where)
    return found[current]


class Folder:
    """``NAME`` or ``NAME.kubeconfig``; a file that vanishes is forgotten, a file that changes is tried again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def follow(self, changed: Callable[[], None]) -> None:
        """A folder is looked at, and tells nothing by itself."""

    async def look(self) -> list[Candidate]:
        found = []
        async for path in anyio.Path(self._folder).iterdir():
            if path.name.startswith(".") or not await path.is_file():
                continue
            stat = await path.stat()
            name = cluster_name(path.name.removesuffix(".kubeconfig"))
            found.append(Candidate(name, f"{stat.st_mtime_ns}-{stat.st_ino}", self._opener(path)))
        return found

    def _opener(self, path: anyio.Path) -> Callable[[], Awaitable[Access]]:
        async def read() -> Access:
            try:
                return _current(await path.read_bytes(), str(path), "folder")
            except OSError as error:
                raise KubernetesError(
                    "K056",
                    f"the credential is not there ({error.strerror})",
                    object=str(path),
                    retryable=True,
                ) from error

        return read

    async def aclose(self) -> None:
        """Nothing is held."""


class ClusterApiHub:
    """``Cluster`` objects of every namespace and the Secret ``<name>-kubeconfig`` beside each.

    ``kubeconfig`` None is the cluster that this runs in.
    """

    def __init__(self, kubeconfig: Path | None) -> None:
        self._kubeconfig = kubeconfig
        self._api: KubeCluster | None = None
        self._connecting = anyio.Lock()
        self._seen: dict[str, Manifest] | None = None
        self._error: MusterError | None = None

    async def follow(self, changed: Callable[[], None]) -> None:
        """Keeps what :meth:`look` tells by one watch, until cancelled; a watch that breaks begins anew."""
        backoff = Backoff(random.uniform, 0.5, 30.0, 10.0)
        while True:
            opened = anyio.current_time()
            try:
                await self._watch(changed)
            except MusterError as error:
                self._seen, self._error = None, error
            backoff.connected_for(anyio.current_time() - opened)
            await anyio.sleep(backoff.next_delay())

    async def _watch(self, changed: Callable[[], None]) -> None:
        api = await self._connected()
        seen, version = await self._listed(api)
        self._seen, self._error = seen, None
        changed()
        async for event in api.watch(await api.resource(CLUSTER_API, "Cluster"), "", version):
            if event.type == "BOOKMARK":
                continue
            if event.type == "DELETED":
                seen.pop(event.object["metadata"]["uid"], None)
            else:
                seen[event.object["metadata"]["uid"]] = event.object
            changed()

    async def look(self) -> list[Candidate]:
        """What the watch has seen; without one, what a list says now."""
        if self._error is not None:
            raise self._error
        seen = self._seen if self._seen is not None else (await self._listed(await self._connected()))[0]
        return [found for item in seen.values() if (found := self._candidate(item)) is not None]

    async def _connected(self) -> KubeCluster:
        async with self._connecting:  # who looks and who follows come at the same time
            if self._api is None:
                from muster_agent.cluster.kube import KubeCluster

                self._api = await KubeCluster.connect(self._kubeconfig)
            return self._api

    async def _listed(self, api: KubeCluster) -> tuple[dict[str, Manifest], str]:
        found: dict[str, Manifest] = {}
        version = ""
        async for page in api.pages(await api.resource(CLUSTER_API, "Cluster"), ""):
            found |= {item["metadata"]["uid"]: item for item in page.items}
            version = page.resource_version
        return found, version

    def _candidate(self, item: Manifest) -> Candidate | None:
        metadata = item["metadata"]
        if metadata.get("deletionTimestamp") or (item.get("spec") or {}).get("paused"):
            return None
        ref = ObjectRef("v1", "Secret", metadata["namespace"], f"{metadata['name']}-kubeconfig")
        return Candidate(metadata["name"], metadata["uid"], self._opener(ref))

    def _opener(self, ref: ObjectRef) -> Callable[[], Awaitable[Access]]:
        async def read() -> Access:
            if self._api is None:
                raise KubernetesError("K056", "the hub is not connected", object=str(ref), retryable=True)
            secret = await self._api.get(ref)
            text = ((secret or {}).get("data") or {}).get("value")
            if not text:
                raise KubernetesError(
                    "K056", "the credential is not there yet", object=str(ref), retryable=True
                )
            try:
                return _current(base64.b64decode(text), str(ref), "inline")
            except binascii.Error as error:
                raise KubernetesError("K051", f"this is no kubeconfig ({error})", object=str(ref)) from error

        return read

    async def aclose(self) -> None:
        if self._api is not None:
            await self._api.aclose()
            self._api = None


Source = Folder | ClusterApiHub


async def look_everywhere(sources: list[Source]) -> tuple[list[Candidate], list[MusterError]]:
    """All that is there now; a source that cannot be read is an error beside the others."""
    found, errors = [], []
    for source in sources:
        try:
            with anyio.fail_after(READ_DEADLINE):
                found += await source.look()
        except MusterError as error:
            errors.append(error)
        except TimeoutError:
            errors.append(KubernetesError("K001", "a source does not answer", retryable=True))
        except OSError as error:
            errors.append(KubernetesError("K056", str(error), retryable=True))
    return found, errors
