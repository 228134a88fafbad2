"""A few calls against any API server, by kubeconfig.

Owns credentials, TLS and the watch loop of the pod player. It never retries a write and never caches.
"""

from __future__ import annotations

import base64
import contextlib
import ssl
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import yaml

MERGE = "application/merge-patch+json"


class ApiError(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, body: Any) -> None:
        message = body.get("message", "") if isinstance(body, dict) else str(body)
        super().__init__(f"{status}: {message}")
        self.status = status


def _material(section: dict[str, str], name: str, base: Path) -> str:
    if f"{name}-data" in section:
        return base64.b64decode(section[f"{name}-data"]).decode()
    return (base / section[name]).read_text() if name in section else ""


def _read(kubeconfig: Path) -> tuple[str, dict[str, str], ssl.SSLContext]:
    """The server's address, what to send, whom to trust."""
    config = yaml.safe_load(kubeconfig.read_text())
    context = next(c["context"] for c in config["contexts"] if c["name"] == config["current-context"])
    cluster = next(c["cluster"] for c in config["clusters"] if c["name"] == context["cluster"])
    user = next(u["user"] for u in config["users"] if u["name"] == context["user"])
    authority = _material(cluster, "certificate-authority", kubeconfig.parent)
    tls = ssl.create_default_context(cadata=authority or None)
    certificate = _material(user, "client-certificate", kubeconfig.parent)
    if certificate:
        with tempfile.TemporaryDirectory() as folder:
            pair = Path(folder, "pair.pem")
            pair.touch(mode=0o600)
            pair.write_text(certificate + "\n" + _material(user, "client-key", kubeconfig.parent))
            tls.load_cert_chain(pair)
    headers = {"User-Agent": "podplayer/1"}
    if "token" in user:
        headers["Authorization"] = f"Bearer {user['token']}"
    return cluster["server"], headers, tls


class Client:
    def __init__(self, url: str, session: aiohttp.ClientSession, token: str = "") -> None:
        self.url, self.token = url, token
        self._session = session

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, kubeconfig: Path) -> AsyncIterator[Client]:
        url, headers, tls = _read(kubeconfig)
        connector = aiohttp.TCPConnector(ssl=tls)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
        async with aiohttp.ClientSession(headers=headers, connector=connector, timeout=timeout) as session:
            yield cls(url, session, headers.get("Authorization", "").removeprefix("Bearer "))

    async def call(self, method: str, path: str, body: Any = None, *, media: str = "application/json") -> Any:
        data = None if body is None else msgspec.json.encode(body)
        headers = {"Content-Type": media} if data is not None else {}
        timeout = aiohttp.ClientTimeout(total=30)
        async with self._session.request(
            method, self.url + path, data=data, headers=headers, timeout=timeout
        ) as response:
            raw = await response.read()
            try:
                parsed = msgspec.json.decode(raw)
            except msgspec.DecodeError:
                parsed = raw.decode(errors="replace")
            if response.status >= 400:
                raise ApiError(response.status, parsed)
            return parsed

    async def watch(self, path: str, version: str) -> AsyncIterator[tuple[str, Any]]:
        """Events until the server ends the watch."""
        query = {
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": "300",
        }
        async with self._session.get(self.url + path, params=query) as response:
            if response.status >= 400:
                raise ApiError(response.status, await response.text())
            pending = b""
            async for chunk in response.content.iter_any():
                *lines, pending = (pending + chunk).split(b"\n")
                for line in lines:
                    event = msgspec.json.decode(line)
                    yield event["type"], event["object"]
