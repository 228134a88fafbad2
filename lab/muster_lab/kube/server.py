"""One in-memory Kubernetes API server, in this process.

Owns the composition of store, operations, controllers, pod player and HTTP face, the files that clients
need, and the saved state. It never starts a second process. RBAC is not implemented: one token, and it may
do everything.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
from aiohttp import web

from muster_lab.authority import make_server
from muster_lab.podplayer.direct import DirectPlayer

from .catalog import Catalog
from .controllers import NAMESPACES, Controllers
from .definitions import CRDS, Definitions
from .faults import Faults, Requests
from .listing import Watches
from .objects import Objects
from .schemas import Schemas
from .store import Store
from .web import Face

KUBECONFIG = """\
apiVersion: v1
kind: Config
current-context: lab
clusters:
- name: lab
  cluster:
    server: {url}
    certificate-authority: {ca}
users:
- name: admin
  user:
    token: {token}
contexts:
- name: lab
  context:
    cluster: lab
    user: admin
    namespace: default
"""

log = logging.getLogger("muster_lab.kube")  # not structlog: it costs 4 MB, and this logs one line


@dataclass(slots=True)
class Settings:
    folder: Path
    host: str = "127.0.0.1"
    port: int = 0
    token: str = ""
    state_file: Path | None = None
    ready_delay: float = 0.2
    controller_delay: float = 0.02
    bookmark_interval: float = 60.0
    history: int = 2000
    play: bool = True


class LabKube:
    """A running server. Use ``async with LabKube.serve(Settings(folder))``."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.token = settings.token or secrets.token_urlsafe(24)
        self.files = make_server(settings.folder, "muster-lab-kube")
        self.kubeconfig = settings.folder / "kubeconfig"
        self.store = Store(history=settings.history)
        self.catalog = Catalog()
        self.schemas = Schemas()
        self.watches = Watches(self.store)
        self.definitions = Definitions(self.store, self.catalog, self.schemas)
        self.objects = Objects(self.store, self.catalog, self.schemas, self.definitions)
        self.controllers = Controllers(
            self.store,
            self.catalog,
            self.objects,
            self.definitions,
            ca=self.files.ca.read_text(),
            delay=settings.controller_delay,
        )
        self.requests = Requests()
        self.face = Face(
            self.objects,
            self.watches,
            Faults(),
            self.requests,
            self.token,
            bookmark_interval=settings.bookmark_interval,
        )
        self.player = DirectPlayer(self.objects, delay=settings.ready_delay) if settings.play else None
        self.url = ""
        self._runner: web.AppRunner | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def serve(cls, settings: Settings) -> AsyncIterator[LabKube]:
        server = cls(settings)
        await server.start()
        try:
            yield server
        finally:
            await server.stop()

    @property
    def faults(self) -> Faults:
        return self.face.faults

    async def start(self) -> None:
        self._load()
        self.controllers.begin()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.files.certificate, self.files.key)
        self._runner = web.AppRunner(self.face.application(), access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.settings.host, self.settings.port, ssl_context=context)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"https://{host}:{port}"
        self.kubeconfig.touch(mode=0o600)
        self.kubeconfig.write_text(
            KUBECONFIG.format(url=self.url, ca=self.files.ca.resolve(), token=self.token)
        )
        log.info("serving %s; RBAC is not implemented: the one token may do everything", self.url)

    async def stop(self) -> None:
        self.watches.close_all()
        self.controllers.stop()
        if self.player is not None:
            self.player.stop()
        if self._runner is not None:
            await self._runner.cleanup()
        self._save()

    # -- state between two runs; written at a clean stop only

    def _save(self) -> None:
        if self.settings.state_file is None:
            return
        objects = [
            msgspec.Raw(record.body) for key in self.store.resources() for record in self.store.walk(key)
        ]
        body = msgspec.json.encode({"version": self.store.version, "objects": objects})
        partial = self.settings.state_file.with_suffix(".partial")
        partial.touch(mode=0o600)
        partial.write_bytes(body)
        partial.replace(self.settings.state_file)

    def _load(self) -> None:
        path = self.settings.state_file
        if path is None or not path.exists():
            return
        saved = msgspec.json.decode(path.read_bytes())
        first = {NAMESPACES: 0, CRDS: 1}
        found = []
        for obj in saved["objects"]:
            if obj["kind"] == "CustomResourceDefinition":
                self.store.put(CRDS, obj)
            else:
                found.append(obj)
        for obj in sorted(found, key=lambda o: first.get(("", o["kind"].lower() + "s"), 2)):
            resource = self.catalog.by_kind(obj["apiVersion"], obj["kind"])
            if resource is not None:
                self.store.put(resource.key, obj)
        self.store.version = max(self.store.version, int(saved["version"])) + 1
        self.store.forget()
