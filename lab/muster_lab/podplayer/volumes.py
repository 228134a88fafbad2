"""A pod's volumes as folders.

Owns what a kubelet would lay out: Secrets, ConfigMaps, empty folders, claims that outlive the pod, and the projected
ServiceAccount token, asked for from the API server and bound to the pod. Readable by this user only. It never mounts.
"""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from .client import ApiError, Client
from .pods import Obj

Token = Callable[[Obj, int], Awaitable[str]]
TOKEN_SECONDS = 3607


class VolumeError(Exception):
    """A volume that cannot be laid out yet; the text is what a kubelet would say."""


def _write(folder: Path, name: str, data: bytes) -> None:
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = target.with_name(f".{target.name}.partial")
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
    partial.replace(target)


async def issued_token(client: Client, pod: Obj, seconds: int) -> str:
    """TokenRequest for the pod's ServiceAccount, bound to the pod as a kubelet's is."""
    meta = pod["metadata"]
    account = pod["spec"].get("serviceAccountName", "default")
    bound = {"kind": "Pod", "apiVersion": "v1", "name": meta["name"], "uid": meta["uid"]}
    answer = await client.call(
        "POST",
        f"/api/v1/namespaces/{meta['namespace']}/serviceaccounts/{account}/token",
        {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": seconds, "boundObjectRef": bound},
        },
    )
    return str(answer["status"]["token"])


class Volumes:
    """``root`` holds everything: ``claims`` stay, what belongs to one pod goes with it."""

    def __init__(self, client: Client, root: Path, token: Token) -> None:
        self._client, self._root, self._token = client, root, token

    def _folder(self, pod: Obj) -> Path:
        return self._root / "pods" / str(pod["metadata"]["uid"])

    async def lay_out(self, pod: Obj) -> dict[str, Path]:
        """Volume name to folder. ``VolumeError`` when an object that it needs is not there."""
        found = {}
        for volume in pod["spec"].get("volumes") or ():
            found[volume["name"]] = await self._one(pod, volume)
        return found

    def forget(self, pod: Obj) -> None:
        shutil.rmtree(self._folder(pod), ignore_errors=True)

    async def _one(self, pod: Obj, volume: Obj) -> Path:
        folder = self._folder(pod) / str(volume["name"])
        if "persistentVolumeClaim" in volume:
            claim = str(volume["persistentVolumeClaim"]["claimName"])
            await self._get(pod, "persistentvolumeclaims", claim, optional=False)
            folder = self._root / "claims" / str(pod["metadata"]["namespace"]) / claim
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if "secret" in volume:
            await self._secret(pod, folder, volume["secret"], str(volume["secret"]["secretName"]))
        elif "configMap" in volume:
            await self._config_map(pod, folder, volume["configMap"])
        elif "projected" in volume:
            for source in volume["projected"].get("sources") or ():
                await self._projected(pod, folder, source)
        elif not {"persistentVolumeClaim", "emptyDir"} & volume.keys():
            raise VolumeError(f"volume {volume['name']}: the pod player has no such kind of volume")
        return folder

    async def _projected(self, pod: Obj, folder: Path, source: Obj) -> None:
        if "serviceAccountToken" in source:
            wanted = source["serviceAccountToken"]
            token = await self._token(pod, int(wanted.get("expirationSeconds", TOKEN_SECONDS)))
            _write(folder, str(wanted["path"]), token.encode())
        elif "configMap" in source:
            await self._config_map(pod, folder, source["configMap"])
        elif "secret" in source:
            await self._secret(pod, folder, source["secret"], str(source["secret"]["name"]))
        elif "downwardAPI" in source:
            for item in source["downwardAPI"].get("items") or ():
                _write(folder, str(item["path"]), field(pod, item["fieldRef"]["fieldPath"]).encode())

    async def _secret(self, pod: Obj, folder: Path, source: Obj, name: str) -> None:
        found = await self._get(pod, "secrets", name, optional=bool(source.get("optional")))
        data = {key: base64.b64decode(text) for key, text in ((found or {}).get("data") or {}).items()}
        self._items(folder, source, data)

    async def _config_map(self, pod: Obj, folder: Path, source: Obj) -> None:
        found = await self._get(pod, "configmaps", str(source["name"]), optional=bool(source.get("optional")))
        data = {key: text.encode() for key, text in ((found or {}).get("data") or {}).items()}
        self._items(folder, source, data)

    def _items(self, folder: Path, source: Obj, data: dict[str, bytes]) -> None:
        paths = {str(item["key"]): str(item["path"]) for item in source.get("items") or ()}
        for key, value in data.items():
            if not paths or key in paths:
                _write(folder, paths.get(key, key), value)

    async def _get(self, pod: Obj, plural: str, name: str, *, optional: bool) -> Any:
        path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/{plural}/{name}"
        try:
            return await self._client.call("GET", path)
        except ApiError as error:
            if error.status == 404 and optional:
                return None
            raise VolumeError(f"{plural} {name}: {error}") from error


def field(pod: Obj, path: str) -> str:
    """A downward API field: metadata.name, status.podIP and such."""
    value: Any = pod
    for part in path.split("."):
        value = value.get(part, "") if isinstance(value, dict) else ""
    return str(value)
