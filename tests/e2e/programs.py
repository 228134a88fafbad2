"""The installed programs as processes that a test can kill: a coordinator, a cluster's API server, an agent.

Owns their starting, killing and logs, a file repository for the fleet, and an operator's hands (token, approval, commit).
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import grpc
import yaml
from muster_core.sealing.keys import encode_identity
from muster_core.token import JoinToken, Repository
from muster_proto.v1 import operator_pb2 as op
from muster_proto.v1 import operator_pb2_grpc

T = TypeVar("T")
FLEET_ID = "0123456789abcdef0123456789abcdef"
FLEET = f"""apiVersion: muster.dev/v1alpha1
kind: Fleet
metadata: {{name: acme}}
spec: {{id: {FLEET_ID}, mode: open, defaults: {{plan: rings}}}}
"""
PLAN = """apiVersion: muster.dev/v1alpha1
kind: RolloutPlan
metadata: {name: rings}
spec: {deadline: 60s, waves: [{name: all, rest: true, soak: 1s}]}
"""
BUNDLE = """apiVersion: muster.dev/v1alpha1
kind: Bundle
metadata: {name: shop}
spec: {source: {path: manifests}, targets: [{selector: {}}], namespace: shop, health: {deadline: 30s}}
"""
NAMESPACE = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n"
MAP = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web}\ndata: {version: '%s'}\n"
DEPLOYMENT = """apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: "registry.example/web:%s"}]}
"""


def shop(version: str) -> dict[str, str]:
    """One version of the bundle; a version that ends with ``-never`` does not become ready."""
    return {
        "bundles/shop/bundle.yaml": BUNDLE,
        "bundles/shop/manifests/namespace.yaml": NAMESPACE,
        "bundles/shop/manifests/map.yaml": MAP % version,
        "bundles/shop/manifests/deployment.yaml": DEPLOYMENT % version,
    }


def until(what: Callable[[], T], seconds: float = 20.0, why: Callable[[], str] = str) -> T:
    """The first true answer; fails after ``seconds``."""
    end = time.monotonic() + seconds
    while not (answer := what()):
        assert time.monotonic() < end, f"not within {seconds:.0f} s\n{why()}"
        time.sleep(0.03)
    return answer


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass
class Program:
    """One process; ``log`` gathers the standard error of all its lives."""

    argv: list[str]
    log: Path
    process: subprocess.Popen[str] | None = None

    def start(self, *, ready: bool = False) -> dict[str, Any]:
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                self.argv,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "GRPC_VERBOSITY": "NONE"},
            )
        assert self.process.stdout is not None
        if not ready:
            return {}
        line = self.process.stdout.readline()
        assert line, self.said()
        found: dict[str, Any] = json.loads(line)
        return found

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(10)
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None

    def ended(self, seconds: float = 20.0) -> int:
        """Its exit code, when it ends by itself."""
        assert self.process is not None
        code = self.process.wait(seconds)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process = None
        return code

    def said(self) -> str:
        return "\n".join(self.log.read_text().splitlines()[-25:]) if self.log.exists() else ""


@dataclass
class Kube:
    """A lab API server, asked over HTTPS."""

    program: Program
    kubeconfig: Path
    _context: ssl.SSLContext = field(init=False)
    _server: str = field(init=False)
    _token: str = field(init=False)

    def __post_init__(self) -> None:
        config = yaml.safe_load(self.kubeconfig.read_text())
        cluster = config["clusters"][0]["cluster"]
        if "certificate-authority-data" in cluster:
            pem = base64.b64decode(cluster["certificate-authority-data"]).decode()
            self._context = ssl.create_default_context(cadata=pem)
        else:
            self._context = ssl.create_default_context(cafile=cluster["certificate-authority"])
        self._server, self._token = cluster["server"], config["users"][0]["user"]["token"]

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": kind}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(  # noqa: S310 - the URL is the lab's own
            self._server + path, method=method, headers=headers, data=data
        )
        try:
            with urllib.request.urlopen(request, timeout=5, context=self._context) as answer:  # noqa: S310
                return json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 404:
                    return None
                raise

    def writes(self) -> int:
        return int(self.ask("GET", "/lab/requests")["writes"])

    def version(self) -> str:
        """What the bundle's map says, or nothing."""
        found = self.ask("GET", "/api/v1/namespaces/shop/configmaps/web")
        return str(found["data"]["version"]) if found else ""


@dataclass
class Stage:
    """A fleet of processes in one folder. Ports of the coordinator stay over its lives."""

    folder: Path
    hub: Program
    data: Path
    flags: list[str] = field(default_factory=list)
    programs: list[Program] = field(default_factory=list)
    channels: list[grpc.Channel] = field(default_factory=list)
    link: str = ""
    edge: str = ""

    # --- the operator's hands ---------------------------------------------------------------------------------

    def git(self, *args: str, inside: str = "work") -> str:
        environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
        command = ["git", "-c", "user.name=t", "-c", "user.email=t@example.com", *args]
        return subprocess.run(
            command, cwd=self.folder / inside, check=True, capture_output=True, text=True, env=environment
        ).stdout.strip()

    @property
    def repository(self) -> str:
        return f"file://{self.folder / 'origin.git'}"

    def commit(self, files: Mapping[str, str | None], *, tell: bool = True, inside: str = "work") -> str:
        for path, text in files.items():
            target = self.folder / inside / path
            if text is None:
                target.unlink()
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        self.git("add", "-A", inside=inside)
        self.git("commit", "-qm", "change", inside=inside)
        self.git("push", "-q", "origin", "HEAD", inside=inside)
        if tell:
            self.refresh()
        return self.git("rev-parse", "HEAD", inside=inside)

    def register(self, name: str, text: str | None) -> None:
        """Puts an entry into the registry branch, or takes it out."""
        if not (self.folder / "registry").exists():
            self.git("clone", "-q", str(self.folder / "origin.git"), "registry", inside="")
            self.git("checkout", "-q", "--orphan", "muster/registry", inside="registry")
            self.git("rm", "-rqf", ".", inside="registry")
        self.commit({f"clusters/{name}.yaml": text}, inside="registry")

    # --- the operator's calls -----------------------------------------------------------------------------------

    def call(self, method: str, request: Any) -> Any:
        ca = (self.data / "ca.crt").read_bytes()
        metadata = [("authorization", f"Bearer {(self.data / 'admin-token').read_text()}")]
        with grpc.secure_channel(self.edge, grpc.ssl_channel_credentials(ca)) as channel:
            stub = operator_pb2_grpc.OperatorStub(channel)
            return getattr(stub, method)(request, metadata=metadata, timeout=10, wait_for_ready=True)

    def refresh(self) -> None:
        self.call("Refresh", op.RefreshRequest())

    def token(self, name: str, ttl: int = 3600) -> str:
        secret = self.call("CreateToken", op.CreateTokenRequest(cluster=name, ttl_seconds=ttl)).secret
        return self.token_of(name, secret)

    def token_of(self, name: str, secret: str) -> str:
        anchor = self.git("rev-parse", "main")
        return JoinToken(
            self.edge, self.link, (self.data / "ca.crt").read_bytes(), secret, name, "open", "", FLEET_ID,
            (Repository("fleet", self.repository, "main", anchor),),
        ).encode()  # fmt: skip

    def cluster(self, name: str) -> op.ClusterView:
        found: op.ClusterView = self.call("GetCluster", op.GetRequest(name=name))
        return found

    def rollout(self, name: str) -> op.RolloutView | None:
        try:
            found: op.RolloutView = self.call("GetRollout", op.GetRequest(name=name))
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.NOT_FOUND:
                return None
            raise
        return found

    # --- programs -------------------------------------------------------------------------------------------------

    def start_hub(self) -> None:
        self.hub.start(ready=True)

    def kube(self, name: str, *more: str) -> Kube:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        program = Program(
            [sys.executable, "-m", "muster_lab.kube", "--dir", str(folder / "kube"), *more],
            folder / "kube.log",
        )
        self.programs.append(program)
        return Kube(program, Path(program.start(ready=True)["kubeconfig"]))

    def agent(self, name: str, kube: Kube, token: str, *more: str, state: str = "state") -> Program:
        """An agent that has not been started yet."""
        folder = self.folder / name
        file = folder / f"{state}.token"
        file.write_text(token)
        program = Program(
            [
                sys.executable, "-m", "muster_agent", "run", "--cluster", name, "--token-file", str(file),
                "--kubeconfig", str(kube.kubeconfig), "--state-dir", str(folder / state), "--poll", "60s", *more,
            ],
            folder / f"{state}.log",
        )  # fmt: skip
        self.programs.append(program)
        return program

    def approve(self, name: str) -> None:
        """Waits until the cluster asks, and writes its entry."""
        joins: list[op.Join] = until(
            lambda: [j for j in self.call("ListJoins", op.ListJoinsRequest()).joins if j.cluster == name],
            why=self.logs,
        )
        self.register(
            name,
            "apiVersion: muster.dev/v1alpha1\nkind: Cluster\n"
            f"metadata: {{name: {name}}}\n"
            f"spec: {{uid: {joins[0].uid}, identityKey: '{encode_identity(joins[0].identity_key)}'}}\n",
        )

    def joined(self, name: str, *kube_flags: str) -> tuple[Kube, Program]:
        """A cluster with an agent that is in contact."""
        kube = self.kube(name, *kube_flags)
        agent = self.agent(name, kube, self.token(name))
        agent.start()
        self.approve(name)
        until(lambda: self.cluster(name).state == "Online", why=self.logs)
        return kube, agent

    def logs(self) -> str:
        return "\n".join(f"--- {p.log}\n{p.said()}" for p in (self.hub, *self.programs))

    def rows(self, query: str, *values: str) -> list[tuple[Any, ...]]:
        """What the coordinator's database says."""
        database = sqlite3.connect(f"file:{self.data / 'muster.db'}?mode=ro", uri=True)
        try:
            return database.execute(query, values).fetchall()
        finally:
            database.close()

    def events(self, stream: str) -> list[bytes]:
        """The rollout's log as it is on disk."""
        rows = self.rows("select data from events where stream = ? order by number", stream)
        return [bytes(row[0]) for row in rows]


@contextmanager
def stage(folder: Path, *flags: str) -> Iterator[Stage]:
    """A fleet repository and a running coordinator with these extra flags."""
    data = folder / "hub"
    link, edge = free_port(), free_port()
    hub = Program(
        [
            sys.executable, "-c", "from muster_coordinator.command import serve; serve()",
            f"--data-dir={data}", f"--repository=file://{folder / 'origin.git'}", f"--link=127.0.0.1:{link}",
            f"--edge=127.0.0.1:{edge}", "--metrics=127.0.0.1:0", "--poll=60", *flags,
        ],
        folder / "hub.log",
    )  # fmt: skip
    found = Stage(folder, hub, data, link=f"127.0.0.1:{link}", edge=f"127.0.0.1:{edge}")
    found.git("init", "-q", "--bare", "-b", "main", "origin.git", inside="")
    found.git("clone", "-q", "origin.git", "work", inside="")
    found.git("checkout", "-q", "-b", "main")
    try:
        found.commit({"fleet.yaml": FLEET, "plans/rings.yaml": PLAN}, tell=False)
        found.start_hub()
        yield found
    finally:
        for program in reversed(found.programs):
            program.kill()
        hub.kill()


def code_in(text: str) -> str:
    """The first error code of a text."""
    found = re.search(r"MUSTER-[A-Z]\d+", text)
    return found[0] if found else ""
