"""The port on a real API server, through kubernetes_asyncio.

Owns the only use of that library: its configuration, TLS and connection pool. Requests and answers are raw JSON, since its
dynamic client neither raises on HTTP errors nor sends every parameter; its generated models are never imported, which
saves 30 MB. Every request has a deadline, and the environment's proxies play no part.
"""

from __future__ import annotations

import asyncio
import binascii
import importlib.util
import json
import sys
import types
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import anyio
import yaml
from muster_core.apply.applyset import MANAGER
from muster_core.errors import KubernetesError
from muster_core.manifest.objects import Manifest, ObjectRef

from muster_agent.cluster.port import Page, Resource, WatchEvent
from muster_agent.cluster.statuses import typed_error

DEADLINE = 30.0
WATCH_SECONDS = 240  # the server ends a watch after this; the next one goes on from the last version
WATCH_SILENCE = 270.0  # a watch that neither said anything nor ended by then is half dead
PAGE = 500
MAX_LINE = 16 << 20
DISCOVERY_RETRY = 5.0
SLOW_DOWNS = 3
LONGEST_SLOW_DOWN = (
    10.0  # waited out in place; a longer one fails at once and nothing is sent until it is over
)
LONGEST_QUIET = 600.0
UNNAMED_SLOW_DOWN = 1.0

_WAYS_IN = "Pass --kubeconfig FILE, or run as a pod with a service account."


def _without_models() -> None:
    """Registers the client's packages without running their ``__init__``, which would import a thousand models."""
    for name in ("kubernetes_asyncio", "kubernetes_asyncio.client", "kubernetes_asyncio.client.models"):
        if name in sys.modules:
            continue
        spec = importlib.util.find_spec("kubernetes_asyncio") if name == "kubernetes_asyncio" else None
        if spec is not None and spec.submodule_search_locations:
            _without_models.root = Path(next(iter(spec.submodule_search_locations)))  # type: ignore[attr-defined]
        root: Path = _without_models.root  # type: ignore[attr-defined]
        module = types.ModuleType(name)
        module.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
    from kubernetes_asyncio.client.api_client import ApiClient
    from kubernetes_asyncio.client.configuration import Configuration

    client = sys.modules["kubernetes_asyncio.client"]
    client.ApiClient, client.Configuration = ApiClient, Configuration  # type: ignore[attr-defined]


class KubeCluster:
    """Open with :meth:`connect`; close with :meth:`aclose`."""

    def __init__(self, configuration: Any) -> None:
        from kubernetes_asyncio.client.rest import RESTClientObject

        self._configuration = configuration
        self._rest = RESTClientObject(configuration)
        self._session = self._rest.pool_manager
        self._session._trust_env = False  # two thread hops a request, and proxies nobody chose
        self._host = str(configuration.host).rstrip("/")
        self._resources: dict[tuple[str, str], Resource] = {}
        self._discovered: dict[str, float] = {}
        self._quiet_until = 0.0

    @classmethod
    async def connect(cls, kubeconfig: Path | None) -> KubeCluster:
        """From a kubeconfig, or from the pod's service account. ``MUSTER-K011`` when there is neither, or it is none."""
        _without_models()
        from kubernetes_asyncio.client.configuration import Configuration
        from kubernetes_asyncio.config.config_exception import ConfigException

        configuration = Configuration()
        configuration.connection_pool_maxsize = 16
        if kubeconfig and not await anyio.Path(kubeconfig).is_file():
            raise KubernetesError(
                "K011", "there is no such kubeconfig", object=str(kubeconfig), hint=_WAYS_IN
            )
        try:
            if kubeconfig:
                from kubernetes_asyncio.config.kube_config import load_kube_config

                await load_kube_config(
                    config_file=str(kubeconfig), client_configuration=configuration, persist_config=False
                )
            else:
                from kubernetes_asyncio.config.incluster_config import load_incluster_config

                load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
            return cls(configuration)
        except (ConfigException, OSError) as error:
            raise KubernetesError(
                "K011",
                f"no way into the cluster ({error})",
                object=str(kubeconfig or "service account"),
                hint=_WAYS_IN,
            ) from error
        except (yaml.YAMLError, binascii.Error, KeyError, TypeError, AttributeError, ValueError) as error:
            said = " ".join(str(error).split())[:200]
            raise KubernetesError(
                "K011", f"this is no kubeconfig ({said})", object=str(kubeconfig), hint=_WAYS_IN
            ) from error

    async def aclose(self) -> None:
        await self._session.close()

    # --- requests ------------------------------------------------------------------------------------------------

    async def _headers(self) -> dict[str, str]:
        key = self._configuration.get_api_key_with_prefix("BearerToken")
        key = await key if asyncio.iscoroutine(key) else key
        return {
            "Accept": "application/json",
            "User-Agent": "muster-agent",
            **({"Authorization": key} if key else {}),
        }

    async def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content: str = "application/json",
        what: str = "",
    ) -> tuple[int, Manifest]:
        """One request, and again after Retry-After when the server asks to slow down, which means it did nothing."""
        for _ in range(SLOW_DOWNS + 1):
            await self._quiet(what or path)
            status, value, retry = await self._once(method, path, query, body, content, what)
            if status != 429:
                break
            self._slow_down(retry)
        if status >= 400 and status != 404:
            raise typed_error(status, value, what or path, retry)
        return status, value

    def _slow_down(self, retry_after: str) -> None:
        """Nothing is sent before Retry-After is over."""
        wait = float(retry_after) if retry_after.isdigit() else UNNAMED_SLOW_DOWN
        now = asyncio.get_running_loop().time()
        self._quiet_until = max(self._quiet_until, now + min(wait, LONGEST_QUIET))

    async def _quiet(self, what: str) -> None:
        left = self._quiet_until - asyncio.get_running_loop().time()
        if left > LONGEST_SLOW_DOWN:
            raise typed_error(429, {}, what, f"{left:.0f}")
        if left > 0:
            await asyncio.sleep(left)

    async def _once(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: bytes | None,
        content: str,
        what: str,
    ) -> tuple[int, Manifest, str]:
        import aiohttp

        url = self._host + path + ("?" + urlencode(query) if query else "")
        headers = await self._headers()
        if body is not None:
            headers["Content-Type"] = content
        try:
            async with self._session.request(
                method,
                url,
                data=body,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=DEADLINE),
                proxy=self._rest.proxy,
            ) as answer:
                data = await answer.read()
                status = answer.status
                retry = answer.headers.get("Retry-After", "")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise KubernetesError(
                "K001",
                f"the API server does not answer ({type(error).__name__})",
                object=what or path,
                retryable=True,
            ) from error
        try:
            value = json.loads(data) if data else {}
        except ValueError:
            value = {"message": data[:200].decode(errors="replace")}
        return status, value if isinstance(value, dict) else {}, retry

    # --- discovery -----------------------------------------------------------------------------------------------

    async def uid(self) -> str:
        found = await self.get(ObjectRef("v1", "Namespace", "", "kube-system"))
        if found is None:
            raise KubernetesError("K012", "the cluster has no namespace kube-system", object=self._host)
        return str(found["metadata"]["uid"])

    async def version(self) -> str:
        _, value = await self._request("GET", "/version")
        return str(value.get("gitVersion", ""))

    async def resource(self, api_version: str, kind: str) -> Resource:
        known = self._resources.get((api_version, kind))
        if known:
            return known
        now = asyncio.get_running_loop().time()
        if now - self._discovered.get(api_version, -DISCOVERY_RETRY) >= DISCOVERY_RETRY:
            status, value = await self._request(
                "GET", f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
            )
            if status != 404:
                self._discovered[api_version] = now
            for item in value.get("resources") or []:
                if "/" not in item["name"]:
                    self._resources[api_version, item["kind"]] = Resource(
                        api_version, item["kind"], item["name"], bool(item["namespaced"])
                    )
        found = self._resources.get((api_version, kind))
        if found is None:
            self._discovered.pop(api_version, None)
            raise KubernetesError(
                "K004",
                f"the cluster has no kind {kind} in {api_version}",
                object=f"{api_version}/{kind}",
                retryable=True,
                hint="Deliver its CustomResourceDefinition first, in this bundle or another.",
            )
        return found

    def _path(self, resource: Resource, namespace: str = "", name: str = "") -> str:
        root = (
            f"/apis/{resource.api_version}" if "/" in resource.api_version else f"/api/{resource.api_version}"
        )
        scope = f"/namespaces/{quote(namespace, safe='')}" if resource.namespaced and namespace else ""
        return f"{root}{scope}/{resource.plural}" + (f"/{quote(name, safe='')}" if name else "")

    # --- objects -------------------------------------------------------------------------------------------------

    async def get(self, ref: ObjectRef) -> Manifest | None:
        resource = await self.resource(ref.api_version, ref.kind)
        status, value = await self._request(
            "GET", self._path(resource, ref.namespace, ref.name), what=str(ref)
        )
        return None if status == 404 else value

    async def apply(self, obj: Manifest, *, force: bool = False, dry_run: bool = False) -> Manifest:
        metadata = obj["metadata"]
        ref = ObjectRef(obj["apiVersion"], obj["kind"], metadata.get("namespace") or "", metadata["name"])
        resource = await self.resource(ref.api_version, ref.kind)
        query = {"fieldManager": MANAGER, "fieldValidation": "Strict", "force": "true" if force else "false"}
        if dry_run:
            query["dryRun"] = "All"
        status, value = await self._request(
            "PATCH",
            self._path(resource, ref.namespace, ref.name),
            query,
            json.dumps(obj).encode(),
            "application/apply-patch+yaml",
            str(ref),
        )
        if status == 404:
            if (value.get("details") or {}).get("kind") != "namespaces":
                self._resources.pop((ref.api_version, ref.kind), None)
                raise KubernetesError("K004", "the kind is gone", object=str(ref), retryable=True)
            raise KubernetesError(
                "K009",
                str(value.get("message") or "its namespace is not there"),
                object=str(ref),
                retryable=True,
            )
        return value

    async def delete(self, ref: ObjectRef, uid: str) -> bool:
        resource = await self.resource(ref.api_version, ref.kind)
        options: Manifest = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if uid:
            options["preconditions"] = {"uid": uid}
        status, _ = await self._request(
            "DELETE",
            self._path(resource, ref.namespace, ref.name),
            None,
            json.dumps(options).encode(),
            what=str(ref),
        )
        return status != 404

    async def pages(self, resource: Resource, selector: str) -> AsyncIterator[Page]:
        query = {"labelSelector": selector, "limit": str(PAGE)}
        while True:
            status, value = await self._request("GET", self._path(resource), query, what=resource.kind)
            if status == 404:
                self._resources.pop((resource.api_version, resource.kind), None)
                raise KubernetesError(
                    "K004", f"the kind {resource.kind} is gone", object=resource.api_version, retryable=True
                )
            metadata = value.get("metadata") or {}
            for item in value.get("items") or []:
                item.setdefault("apiVersion", resource.api_version)
                item.setdefault("kind", resource.kind)
            yield Page(value.get("items") or [], str(metadata.get("resourceVersion", "")))
            if not metadata.get("continue"):
                return
            query["continue"] = metadata["continue"]

    async def watch(
        self, resource: Resource, selector: str, resource_version: str
    ) -> AsyncIterator[WatchEvent]:
        """Ends when the server ends it; ``K008`` when the version is too old, ``K001`` when nothing came for too long.

        The server is asked to end it after ``WATCH_SECONDS``, so that silence beyond that means a dead connection.
        """
        import aiohttp

        await self._quiet(resource.kind)

        query = {
            "labelSelector": selector,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        url = self._host + self._path(resource) + "?" + urlencode(query)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=DEADLINE, sock_read=WATCH_SILENCE)
        try:
            async with self._session.get(
                url, headers=await self._headers(), timeout=timeout, proxy=self._rest.proxy
            ) as answer:
                if answer.status == 429:
                    self._slow_down(answer.headers.get("Retry-After", ""))
                if answer.status != 200:
                    raise typed_error(
                        answer.status, {"message": (await answer.text())[:300]}, resource.kind, ""
                    )
                async for line in _lines(answer.content):
                    event = json.loads(line)
                    if not isinstance(event, dict) or not isinstance(event.get("object"), dict):
                        raise ValueError("this is no watch event")
                    if event.get("type") == "ERROR":
                        code = int(event["object"].get("code", 500))
                        raise typed_error(code, event["object"], resource.kind, "")
                    event["object"].setdefault("apiVersion", resource.api_version)
                    event["object"].setdefault("kind", resource.kind)
                    event["object"].setdefault("metadata", {})
                    yield WatchEvent(event.get("type", ""), event["object"])
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise KubernetesError(
                "K001", f"the watch broke ({type(error).__name__})", object=resource.kind, retryable=True
            ) from error


async def _lines(content: Any) -> AsyncIterator[bytes]:
    """Lines of any length up to a bound; the library's own reader stops at 4 MiB."""
    rest = b""
    async for chunk in content.iter_any():
        rest += chunk
        if len(rest) > MAX_LINE:
            raise ValueError("a watch event is too large")
        *whole, rest = rest.split(b"\n")
        for line in whole:
            if line:
                yield line
