"""A raw HTTP client: what a case sends is what is on the wire.

Owns paths, headers and JSON, nothing more. It never retries and never interprets an answer.
"""

from __future__ import annotations

import base64
import json
import ssl
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import yaml

APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"


@dataclass(frozen=True)
class Endpoint:
    """Where a server is, read from a kubeconfig."""

    url: str
    headers: dict[str, str]
    context: ssl.SSLContext

    @classmethod
    def read(cls, kubeconfig: Path) -> Endpoint:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        authority = _material(cluster, "certificate-authority")
        context = ssl.create_default_context(cadata=authority)
        if "client-certificate" in user or "client-certificate-data" in user:
            with tempfile.TemporaryDirectory() as folder:
                certificate, key = Path(folder, "crt"), Path(folder, "key")
                certificate.write_text(_material(user, "client-certificate") or "")
                key.write_text(_material(user, "client-key") or "")
                context.load_cert_chain(certificate, key)
        headers = {"Authorization": f"Bearer {user['token']}"} if "token" in user else {}
        return cls(cluster["server"], headers, context)


def _material(section: dict[str, str], name: str) -> str | None:
    if f"{name}-data" in section:
        return base64.b64decode(section[f"{name}-data"]).decode()
    return Path(section[name]).read_text() if name in section else None


async def until(check: Callable[[], Awaitable[bool]], seconds: float = 40) -> None:
    """For what another process does in its own time."""
    with anyio.fail_after(seconds):
        while not await check():
            await anyio.sleep(0.05)


@dataclass(frozen=True)
class Answer:
    status: int
    body: Any
    headers: Any

    @property
    def version(self) -> str:
        return str(self.body["metadata"]["resourceVersion"])

    @property
    def causes(self) -> dict[str, str]:
        """Field to message."""
        return {item.get("field", ""): item["message"] for item in self.body["details"]["causes"]}

    def managers(self) -> dict[tuple[str, str], Any]:
        entries = self.body["metadata"].get("managedFields", [])
        return {(item["manager"], item["operation"]): item["fieldsV1"] for item in entries}


class Kube:
    """One server, and a namespace of this case's own."""

    def __init__(self, endpoint: Endpoint, session: aiohttp.ClientSession, namespace: str, kind: str) -> None:
        self.endpoint, self.session, self.ns, self.kind = endpoint, session, namespace, kind

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        media: str = "application/json",
        headers: dict[str, str] | None = None,
        **query: str,
    ) -> Answer:
        data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        sent = {"Content-Type": media} if data is not None else {}
        sent |= {"User-Agent": "contract/1", **(headers or {})}
        url = self.endpoint.url + path
        async with self.session.request(method, url, data=data, headers=sent, params=query) as response:
            raw = await response.read()
            try:
                parsed = json.loads(raw)
            except ValueError:
                parsed = raw.decode(errors="replace")
            return Answer(response.status, parsed, response.headers)

    def path(
        self, resource: str, name: str = "", sub: str = "", *, api: str = "v1", ns: str | None = None
    ) -> str:
        root = f"/apis/{api}" if "/" in api else f"/api/{api}"
        space = f"/namespaces/{ns or self.ns}" if ns != "" else ""
        return root + space + "".join(f"/{part}" for part in (resource, name, sub) if part)

    async def config(self, name: str, data: dict[str, str] | None = None, **metadata: Any) -> Answer:
        body = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name, **metadata},
            "data": data if data is not None else {"a": "1"},
        }
        return await self.call("POST", self.path("configmaps"), body)

    async def status(self, path: str) -> int:
        return (await self.call("GET", path)).status

    async def gone(self, path: str) -> None:
        async def check() -> bool:
            return await self.status(path) == 404

        await until(check)

    async def there(self, path: str) -> None:
        async def check() -> bool:
            return await self.status(path) == 200

        await until(check)

    async def terminating(self, path: str) -> None:
        async def check() -> bool:
            return "deletionTimestamp" in (await self.call("GET", path)).body["metadata"]

        await until(check)

    async def get_config(self, name: str) -> Answer:
        return await self.call("GET", self.path("configmaps", name))

    async def apply(self, path: str, body: Any, manager: str = "one", **query: str) -> Answer:
        return await self.call("PATCH", path, body, media=APPLY, fieldManager=manager, **query)


def deployment(name: str, **spec: Any) -> dict[str, Any]:
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "main", "image": "registry.example/shop:1.0"}]},
            },
            **spec,
        },
    }


def config(name: str, data: dict[str, str] | None = None, **metadata: Any) -> dict[str, Any]:
    body: dict[str, Any] = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, **metadata}}
    if data is not None:
        body["data"] = data
    return body


def service(name: str, **spec: Any) -> dict[str, Any]:
    spec = {"selector": {"app": name}, "ports": [{"port": 80}], **spec}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}
