"""The HTTP face: paths, verbs, and the long answers of watches.

Owns how a request becomes one operation. There is one administrator's token
and no RBAC: whoever has it may do everything. It never holds state of its own.
"""

from __future__ import annotations

import asyncio
import hmac
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import msgspec
from aiohttp import web

from . import discovery, errors
from .catalog import Catalog, Resource
from .errors import StatusError
from .faults import Faults, Requests, injected
from .listing import Watches, body_as, flag, list_page, make_filter, metadata_only, number
from .media import (
    JSON,
    UNKNOWN_FORMAT,
    body_of,
    cut,
    failure,
    negotiate,
    options_of,
    parse_body,
    patch_options,
    reply,
)
from .objects import Objects
from .scale import scale_of, with_replicas
from .store import encode

PATCHES = {
    "application/json-patch+json": "json",
    "application/merge-patch+json": "merge",
    "application/strategic-merge-patch+json": "strategic",
    "application/apply-patch+yaml": "apply",
}
OPEN_PATHS = frozenset({"/healthz", "/livez", "/readyz", "/version"})
VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch"}
MAX_BODY = 3 * 1024 * 1024


@dataclass(slots=True)
class Target:
    """What a path names."""

    resource: Resource
    namespace: str
    name: str
    sub: str


def parse(catalog: Catalog, path: str) -> Target | None:
    parts = [unquote(part) for part in path.strip("/").split("/")]
    if parts[0] == "api" and len(parts) > 2:
        group, version, rest = "", parts[1], parts[2:]
    elif parts[0] == "apis" and len(parts) > 3:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return None
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2 and not (group == "" and rest[2] in ("status", "finalize")):
        namespace, rest = rest[1], rest[2:]
    resource = catalog.find(group, version, rest[0])
    if resource is None or len(rest) > 3:
        return None
    name = rest[1] if len(rest) > 1 else ""
    if resource.namespaced != bool(namespace) and (namespace or name):
        return None
    return Target(resource, namespace, name, rest[2] if len(rest) > 2 else "")


class Face:
    def __init__(
        self,
        objects: Objects,
        watches: Watches,
        faults: Faults,
        requests: Requests,
        token: str,
        *,
        bookmark_interval: float,
    ) -> None:
        self.objects = objects
        self.catalog = objects.catalog
        self.watches = watches
        self.faults = faults
        self.requests = requests
        self._authorization = f"Bearer {token}"
        self._bookmark_interval = bookmark_interval

    def application(self) -> web.Application:
        app = web.Application(client_max_size=MAX_BODY)
        app.router.add_route("*", "/lab/{what}", self.lab)
        app.router.add_route("*", "/{path:.*}", self.serve)
        return app

    # -- the lab's own switches

    async def lab(self, request: web.Request) -> web.StreamResponse:
        if not self._known(request):
            return failure(errors.unauthorized())
        what, method = request.match_info["what"], request.method
        if what == "faults" and method == "PUT":
            try:
                wanted = msgspec.json.decode(await request.read(), type=Faults)
            except msgspec.MsgspecError as error:
                return failure(errors.bad_request(f"faults: {error}"))
            if wanted.drop_watches or wanted.partition:
                self.watches.close_all()
                wanted.drop_watches = False
            self.faults = wanted
        elif what == "requests" and method == "DELETE":
            self.requests.reset()
        elif what == "compact" and method == "POST":
            self.objects.store.forget()
        elif method != "GET" or what not in ("faults", "requests"):
            return failure(errors.no_route())
        body = msgspec.json.encode(self.faults if what == "faults" else self.requests.report())
        return web.Response(body=body, content_type=JSON)

    # -- everything else

    def _known(self, request: web.Request) -> bool:
        return hmac.compare_digest(
            request.headers.get("Authorization", "").encode(), self._authorization.encode()
        )

    async def serve(self, request: web.Request) -> web.StreamResponse:
        if self.faults.latency_ms:
            await asyncio.sleep(self.faults.latency_ms / 1000)
        if self.faults.partition:
            return cut(request)
        path = request.path.rstrip("/") or "/"
        if path not in OPEN_PATHS and not self._known(request):
            return failure(errors.unauthorized())
        try:
            target = parse(self.catalog, path)
            self.requests.count(verb_of(request, target), request.headers.get("User-Agent", "none"))
            failing = self.faults.next_failure() if path not in OPEN_PATHS else None
            if failing is not None:
                raise injected(*failing)
            if target is None:
                return self._discover(request, path)
            return await self._operate(request, target)
        except StatusError as error:
            return failure(error)

    def _discover(self, request: web.Request, path: str) -> web.StreamResponse:
        if path in OPEN_PATHS and path != "/version":
            return web.Response(text="ok")
        accept = request.headers.get("Accept", "")
        if path in ("/api", "/apis") and discovery.aggregate_asked(accept):
            document = discovery.aggregated(self.catalog, core=path == "/api")
            etag = f'"{discovery.digest(document)}"'
            if request.headers.get("If-None-Match") == etag:
                return web.Response(status=304, headers={"ETag": etag})
            kind = f"{JSON};g=apidiscovery.k8s.io;v=v2;as={discovery.AGGREGATED}"
            return web.Response(
                body=msgspec.json.encode(document), headers={"Content-Type": kind, "ETag": etag}
            )
        parts = path.strip("/").split("/")
        found: dict[str, Any] | None = None
        if path == "/version":
            found = discovery.version()
        elif path == "/api":
            found = discovery.core_versions()
        elif path == "/apis":
            found = discovery.groups(self.catalog)
        elif len(parts) == 2 and parts[0] == "api":
            found = discovery.resources(self.catalog, "", parts[1])
        elif len(parts) == 2 and parts[0] == "apis":
            found = discovery.group(self.catalog, parts[1])
        elif len(parts) == 3 and parts[0] == "apis":
            found = discovery.resources(self.catalog, parts[1], parts[2])
        if found is None:
            return web.Response(status=404, text="404 page not found\n")
        return reply(request, msgspec.json.encode(found))

    async def _operate(self, request: web.Request, target: Target) -> web.StreamResponse:
        method = request.method
        query = dict(request.query)
        partial = negotiate(request)
        if target.sub and not self._has_sub(target):
            raise errors.no_route()
        if not target.name:
            if method == "GET":
                if flag(query, "watch"):
                    return await self._watch(request, target, query, partial=partial)
                body = list_page(
                    self.objects.store, target.resource, target.namespace, query, partial=partial
                )
                return reply(request, body)
            if method == "POST":
                return await self._create(request, target, query)
            if method == "DELETE":
                return await self._delete_many(request, target, query)
            raise errors.method_not_allowed()
        if target.sub == "scale":
            return await self._scale(request, target, query)
        if target.sub == "binding":
            return await self._bind(request, target)
        if method == "GET":
            record = self.objects.get(target.resource, target.namespace, target.name)
            view = metadata_only if partial else body_as
            return reply(request, view(target.resource, record))
        if method == "PUT":
            options = options_of(request, query)
            obj = self.objects.update(
                target.resource, target.namespace, target.name, await body_of(request), target.sub, options
            )
            return reply(request, encode(obj), warnings=options.warnings)
        if method == "PATCH":
            return await self._patch(request, target, query)
        if method == "DELETE" and not target.sub:
            return await self._delete(request, target, query)
        raise errors.method_not_allowed()

    def _has_sub(self, target: Target) -> bool:
        resource = target.resource
        return (
            (target.sub == "status" and resource.status)
            or (target.sub == "scale" and resource.scale)
            or (target.sub == "binding" and resource.builtin and resource.kind == "Pod")
        )

    async def _create(
        self, request: web.Request, target: Target, query: dict[str, str]
    ) -> web.StreamResponse:
        if target.resource.namespaced and not target.namespace:
            raise errors.method_not_allowed()
        options = options_of(request, query)
        obj = self.objects.create(target.resource, target.namespace, await body_of(request), options)
        return reply(request, encode(obj), status=201, warnings=options.warnings)

    async def _patch(self, request: web.Request, target: Target, query: dict[str, str]) -> web.StreamResponse:
        kind = PATCHES.get(request.content_type)
        if kind is None or (kind == "strategic" and not target.resource.builtin):
            accepted = [name for name in PATCHES if target.resource.builtin or PATCHES[name] != "strategic"]
            raise errors.unsupported_media(UNKNOWN_FORMAT + ", ".join(accepted))
        options = options_of(request, query)
        if kind == "apply" and not query.get("fieldManager"):
            raise patch_options("fieldManager: Required value: is required for apply patch")
        if kind != "apply" and options.force:
            raise patch_options("force: Forbidden: may not be specified for non-apply patch")
        patch = parse_body(await request.read(), yaml_too=kind == "apply")
        obj, created = self.objects.patch(
            target.resource, target.namespace, target.name, kind, patch, target.sub, options
        )
        return reply(request, encode(obj), status=201 if created else 200, warnings=options.warnings)

    async def _delete(
        self, request: web.Request, target: Target, query: dict[str, str]
    ) -> web.StreamResponse:
        how, dry_run = await self._how(request, query)
        obj, gone = self.objects.delete(target.resource, target.namespace, target.name, how, dry_run=dry_run)
        if gone and not self.objects.returns_object(target.resource):
            details: dict[str, Any] = {"name": target.name, "kind": target.resource.plural}
            if target.resource.group:
                details["group"] = target.resource.group
            details["uid"] = obj["metadata"]["uid"]
            status = {
                "kind": "Status",
                "apiVersion": "v1",
                "metadata": {},
                "status": "Success",
                "details": details,
            }
            return reply(request, msgspec.json.encode(status))
        return reply(request, encode(obj))

    async def _delete_many(
        self, request: web.Request, target: Target, query: dict[str, str]
    ) -> web.StreamResponse:
        if target.resource.key == ("", "namespaces"):
            raise errors.method_not_allowed()
        how, dry_run = await self._how(request, query)
        passes = make_filter(target.resource, target.namespace, query)
        store = self.objects.store
        doomed = [r for r in store.walk(target.resource.key, target.namespace) if passes is None or passes(r)]
        for record in doomed:
            self.objects.delete(target.resource, record.key[0], record.key[1], how, dry_run=dry_run)
        body = {
            "kind": target.resource.collection_kind,
            "apiVersion": target.resource.api_version,
            "metadata": {"resourceVersion": str(store.version)},
            "items": [record.load() for record in doomed],
        }
        return reply(request, msgspec.json.encode(body))

    async def _how(self, request: web.Request, query: dict[str, str]) -> tuple[dict[str, Any], bool]:
        raw = await request.read()
        how = parse_body(raw, yaml_too=False) if raw else {}
        if not isinstance(how, dict):
            raise errors.bad_request("the body of a delete is not DeleteOptions")
        if query.get("propagationPolicy"):
            how.setdefault("propagationPolicy", query["propagationPolicy"])
        return how, query.get("dryRun") == "All" or "All" in (how.get("dryRun") or ())

    async def _scale(self, request: web.Request, target: Target, query: dict[str, str]) -> web.StreamResponse:
        obj = self.objects.get(target.resource, target.namespace, target.name).load()
        if request.method != "GET":
            patch = parse_body(await request.read(), yaml_too=True)
            options = options_of(request, query)
            obj = self.objects.update(
                target.resource, target.namespace, target.name, with_replicas(obj, patch), "", options
            )
        return reply(request, encode(scale_of(obj)))

    async def _bind(self, request: web.Request, target: Target) -> web.StreamResponse:
        binding = await body_of(request)
        obj = self.objects.get(target.resource, target.namespace, target.name).load()
        if obj["spec"].get("nodeName"):
            raise errors.conflict(
                target.resource, target.name, f"pod {target.name} is already assigned to node"
            )
        obj["spec"]["nodeName"] = (binding.get("target") or {}).get("name", "")
        self.objects.store.put(target.resource.key, obj)
        status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}
        return reply(request, msgspec.json.encode(status), status=201)

    async def _watch(
        self, request: web.Request, target: Target, query: dict[str, str], *, partial: bool
    ) -> web.StreamResponse:
        if target.namespace and not target.resource.namespaced:
            raise errors.no_route()
        response = web.StreamResponse(headers={"Content-Type": JSON, "Cache-Control": "no-cache, private"})
        seconds = number(query, "timeoutSeconds") or 1800
        bookmarks = flag(query, "allowWatchBookmarks")
        try:
            watcher = self.watches.open(target.resource, target.namespace, query, partial=partial)
        except StatusError as error:
            if error.code not in (410, 504):
                raise
            await response.prepare(request)
            await response.write(b'{"type":"ERROR","object":' + msgspec.json.encode(error.status()) + b"}\n")
            return response
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        mark = loop.time() + min(self._bookmark_interval, max(seconds - 2.0, 0.5))
        try:
            await response.prepare(request)
            while not watcher.closed:
                while watcher.pending:
                    chunk = b"".join(watcher.pending)
                    watcher.pending.clear()
                    await response.write(chunk)
                watcher.wake.clear()
                now = loop.time()
                if bookmarks and now >= mark:
                    watcher.bookmark(self.objects.store.version)
                    mark = now + self._bookmark_interval
                    continue
                if now >= end:
                    break
                try:
                    async with asyncio.timeout(max(min(end, mark if bookmarks else end) - now, 0)):
                        await watcher.wake.wait()
                except TimeoutError:
                    continue
            if watcher.closed:
                return cut(request, response)
        except (ConnectionError, asyncio.CancelledError):
            return response
        finally:
            self.watches.leave(watcher)
        return response


def verb_of(request: web.Request, target: Target | None) -> str:
    if target is None:
        return "discovery"
    if request.method == "GET":
        if target.name:
            return "get"
        return "watch" if flag(request.query, "watch") else "list"
    if request.method == "PATCH" and request.content_type == "application/apply-patch+yaml":
        return "apply"
    if request.method == "DELETE":
        return "delete" if target.name else "deletecollection"
    return VERBS.get(request.method, request.method.lower())
