"""What CLI tests stand on: an operator API on a real port, real git repositories, the command itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from muster_cli.main import main
from muster_core.sealing.keys import IdentityKey, SealingKey, sealing_key_statement
from muster_lab.authority import make_server
from muster_proto.v1 import operator_pb2 as op
from muster_proto.v1.operator_pb2_grpc import OperatorServicer, add_OperatorServicer_to_server

TOKEN = "operator-token"


@dataclass
class Answer:
    """How one run of the command ended."""

    code: int
    out: str
    err: str


Muster = Callable[..., Answer]


@pytest.fixture(autouse=True)
def clean_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home" / ".config"))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    monkeypatch.delenv("MUSTER_CONTEXT", raising=False)


@pytest.fixture
def muster(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Muster:
    """Runs the command as the entry point does."""

    def run(*args: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["muster", *(str(arg) for arg in args)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capsys.readouterr()
        return Answer(int(caught.value.code or 0), out, err)

    return run


def git(folder: Path, *args: str) -> str:
    return subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@example.com", *args],
        cwd=folder, check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip


@dataclass
class Repositories:
    """A bare origin and the operator's clone of it."""

    origin: Path
    clone: Path
    fleet_id: str = ""

    def commit(self, files: dict[str, str], message: str = "change") -> str:
        for path, text in files.items():
            target = self.clone / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        git(self.clone, "add", "-A")
        git(self.clone, "commit", "-qm", message)
        return git(self.clone, "rev-parse", "HEAD")

    def registry(self, path: str) -> str:
        return git(self.origin, "show", f"muster/registry:{path}")


@pytest.fixture
def repositories(tmp_path: Path, muster: Muster) -> Repositories:
    """A fleet made by ``init``, committed and pushed."""
    origin, clone = tmp_path / "origin.git", tmp_path / "clone"
    git(tmp_path, "init", "-q", "--bare", "-b", "main", str(origin))
    assert muster("init", clone, "--name", "acme").code == 0
    found = Repositories(origin, clone)
    found.commit({}, "a fleet")
    git(clone, "remote", "add", "origin", str(origin))
    git(clone, "push", "-q", "origin", "main")
    text = (clone / "fleet.yaml").read_text()
    found.fleet_id = text.split("id: ")[1].split()[0]
    return found


@dataclass
class Member:
    """A cluster's keys."""

    name: str
    uid: str
    identity: IdentityKey = field(default_factory=IdentityKey.generate)
    sealing: SealingKey = field(default_factory=SealingKey.generate)

    def join(self, fleet_id: str) -> op.Join:
        statement = sealing_key_statement(fleet_id, self.uid, self.sealing.public, 1)
        return op.Join(
            cluster=self.name,
            uid=self.uid,
            identity_key=self.identity.public,
            sealing_key=self.sealing.public,
            sealing_generation=1,
            sealing_signature=self.identity.sign(statement),
            state="Pending",
        )


class Hub(OperatorServicer):
    """An operator API that answers what a test put in."""

    def __init__(self) -> None:
        self.info = op.Info(version="9.9.9", edge_address="hub:1", link_address="hub:2")
        self.joins: list[op.Join] = []
        self.clusters: list[op.ClusterView] = []
        self.bundles: list[op.BundleView] = []
        self.rollouts: list[op.RolloutView] = []
        self.tokens: list[op.Token] = []
        self.freezes: list[op.Freeze] = []
        self.events: list[op.Event] = []
        self.log: list[op.RolloutEvent] = []  # of every rollout, with the views that a follower is told
        # Whose line breaks after one item more, by the request.
        self.breaks_when: Callable[[op.ListEventsRequest], bool] = lambda request: False
        self.requests: list[Any] = []
        self.refuse: tuple[grpc.StatusCode, str] | None = None
        self.hold = threading.Event()
        self.hold_calls = False
        self.issues_on_refresh = True

    def _admit(self, request: Any, context: grpc.ServicerContext) -> None:
        self.requests.append(request)
        if ("authorization", f"Bearer {TOKEN}") not in context.invocation_metadata():
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "MUSTER-L001 this needs an operator's credential.")
        if self.refuse:
            context.abort(*self.refuse)

    def GetInfo(self, request: Any, context: Any) -> op.Info:
        self._admit(request, context)
        return self.info

    def Refresh(self, request: Any, context: Any) -> op.Info:
        self._admit(request, context)
        if self.issues_on_refresh:
            self.joins = []
        return self.info

    def CreateToken(self, request: Any, context: Any) -> op.CreateTokenResponse:
        self._admit(request, context)
        return op.CreateTokenResponse(id="t1", secret="the-secret-part", expires_unix=1)

    def ListTokens(self, request: Any, context: Any) -> op.TokenList:
        self._admit(request, context)
        return op.TokenList(tokens=self.tokens)

    def CreateFreeze(self, request: Any, context: Any) -> op.Freeze:
        self._admit(request, context)
        return op.Freeze(
            name=request.name, until_unix=request.until_unix, by="ada", clusters=len(self.clusters)
        )

    def DeleteFreeze(self, request: Any, context: Any) -> Any:
        self._admit(request, context)
        return self._one(self.freezes, request.name, context)

    def ListFreezes(self, request: Any, context: Any) -> op.FreezeList:
        self._admit(request, context)
        return op.FreezeList(freezes=self.freezes)

    def ListJoins(self, request: Any, context: Any) -> op.JoinList:
        self._admit(request, context)
        return op.JoinList(joins=self.joins)

    def ListClusters(self, request: Any, context: Any) -> op.ClusterList:
        self._admit(request, context)
        if self.hold_calls:
            self.hold.wait(5.0)
        return op.ClusterList(clusters=self.clusters)

    def ListBundles(self, request: Any, context: Any) -> op.BundleList:
        self._admit(request, context)
        return op.BundleList(bundles=self.bundles)

    def ListRollouts(self, request: Any, context: Any) -> op.RolloutList:
        self._admit(request, context)
        return op.RolloutList(rollouts=self.rollouts)

    def _one(self, items: list[Any], name: str, context: grpc.ServicerContext) -> Any:
        for item in items:
            if item.name == name:
                return item
        context.abort(grpc.StatusCode.NOT_FOUND, f"MUSTER-R001 there is no such thing: {name}.")
        return None

    def GetCluster(self, request: Any, context: Any) -> Any:
        self._admit(request, context)
        return self._one(self.clusters, request.name, context)

    def GetBundle(self, request: Any, context: Any) -> Any:
        self._admit(request, context)
        return self._one(self.bundles, request.name, context)

    def GetRollout(self, request: Any, context: Any) -> Any:
        self._admit(request, context)
        return self._one(self.rollouts, request.name, context)

    def StartRollout(self, request: Any, context: Any) -> op.RolloutView:
        self._admit(request, context)
        return op.RolloutView(name=f"{request.bundle}-0001", bundle=request.bundle, state="Running")

    def ActOnRollout(self, request: Any, context: Any) -> op.RolloutView:
        self._admit(request, context)
        return op.RolloutView(name=request.rollout, state="Paused")

    def ListOwed(self, request: Any, context: Any) -> op.OwedList:
        self._admit(request, context)
        return op.OwedList()

    def RollBack(self, request: Any, context: Any) -> op.RolloutView:
        self._admit(request, context)
        return op.RolloutView(name=f"{request.bundle}-0009", bundle=request.bundle, state="Running")

    def Explain(self, request: Any, context: Any) -> op.Explanation:
        self._admit(request, context)
        return op.Explanation(text=f"{request.cluster} is waiting (wave stores).")

    def ListEvents(self, request: Any, context: Any) -> Iterator[op.RolloutEvent]:
        self._admit(request, context)
        self._one(self.rollouts, request.rollout, context)
        for item in list(self.log):
            if item.HasField("view") and not request.views:
                continue
            if not item.HasField("view") and item.number <= request.after:
                continue
            if self.breaks_when(request):
                context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
            yield item
        if request.follow and self.hold_calls:
            self.hold.wait(5.0)

    def Watch(self, request: Any, context: Any) -> Iterator[op.Event]:
        self._admit(request, context)
        yield from self.events


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A listening hub, with a context file that the command finds by MUSTER_CONTEXT."""
    files = make_server(tmp_path / "hub", "hub")
    servicer = Hub()
    server = grpc.server(futures.ThreadPoolExecutor(4))
    add_OperatorServicer_to_server(servicer, server)
    credentials = grpc.ssl_server_credentials([(files.key.read_bytes(), files.certificate.read_bytes())])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    (tmp_path / "hub" / "admin-token").write_text(TOKEN + "\n")
    context = tmp_path / "hub" / "context.json"
    context.write_text(json.dumps({
        "edge": f"127.0.0.1:{port}", "ca_pem_file": "ca.crt", "token_file": "admin-token", "name": "lab",
    }))  # fmt: skip
    monkeypatch.setenv("MUSTER_CONTEXT", str(context))
    yield servicer
    servicer.hold.set()
    server.stop(None).wait(5)
