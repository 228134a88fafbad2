"""One site's Kubernetes API, seen as a person with kubectl would see it.

Owns plain reads and a hand-made edit over HTTPS with the site's kubeconfig. It never speaks to Muster.
"""

from __future__ import annotations

import base64
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio.to_thread
import yaml

DEADLINE = 5.0


@dataclass(frozen=True, slots=True)
class Site:
    """Where one cluster's API is and how to get in."""

    name: str
    kubeconfig: Path
    url: str
    token: str
    context: ssl.SSLContext

    @classmethod
    def read(cls, name: str, kubeconfig: Path) -> Site:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        if "certificate-authority-data" in cluster:
            pem = base64.b64decode(cluster["certificate-authority-data"]).decode()
            context = ssl.create_default_context(cadata=pem)
        else:
            context = ssl.create_default_context(cafile=cluster["certificate-authority"])
        return cls(name, kubeconfig, cluster["server"], user["token"], context)

    async def get(self, path: str) -> dict[str, Any] | None:
        """An object, or None where there is none."""
        return await anyio.to_thread.run_sync(self._send, "GET", path, None)

    async def patch(self, path: str, change: Mapping[str, object]) -> dict[str, Any] | None:
        """A merge patch by hand, as ``kubectl patch`` sends it."""
        return await anyio.to_thread.run_sync(self._send, "PATCH", path, change)

    async def create(self, path: str, value: Mapping[str, object]) -> dict[str, Any] | None:
        """A new object, as ``kubectl create`` sends it."""
        return await anyio.to_thread.run_sync(self._send, "POST", path, value)

    async def delete(self, path: str) -> dict[str, Any] | None:
        return await anyio.to_thread.run_sync(self._send, "DELETE", path, None)

    def _send(self, method: str, path: str, change: Mapping[str, object] | None) -> dict[str, Any] | None:
        query = "?fieldManager=kubectl-patch" if change is not None else ""
        request = urllib.request.Request(  # noqa: S310 - the URL is the lab's own
            f"{self.url}{path}{query}",
            method=method,
            data=None if change is None else json.dumps(change).encode(),
            headers={
                "Authorization": f"Bearer {self.token}",
                "Content-Type": "application/merge-patch+json" if method == "PATCH" else "application/json",
            },
        )
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE, context=self.context) as answer:  # noqa: S310
                value: dict[str, Any] = json.loads(answer.read() or b"{}")
                return value
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 404:
                    return None
                raise
