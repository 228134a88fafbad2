"""The coordinator as a process, over its real wire: joins, sessions, and what a kill -9 must not take."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from muster_core.sealing.keys import IdentityKey, SealingKey, encode_identity, join_statement
from muster_proto.v1 import link_pb2 as wire
from muster_proto.v1 import link_pb2_grpc, operator_pb2_grpc
from muster_proto.v1 import operator_pb2 as op
from unit.coordinator.commits import git

FLEET = """apiVersion: muster.dev/v1alpha1
kind: Fleet
metadata: {name: acme}
spec: {id: "7d41", mode: open}
"""


@dataclass
class Hub:
    """A coordinator that can be killed and started again on the same folder."""

    data: Path
    repository: Path
    process: subprocess.Popen[str] | None = None
    ready: dict[str, str] = field(default_factory=dict)
    channels: list[grpc.Channel] = field(default_factory=list)

    def start(self) -> None:
        code = "from muster_coordinator.command import serve; serve()"
        flags = [f"--{name}=127.0.0.1:0" for name in ("link", "edge", "metrics")]
        where = [f"--data-dir={self.data}", f"--repository=file://{self.repository}"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *where, *flags],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.ready = json.loads(self.process.stdout.readline())

    def kill(self) -> None:
        for channel in self.channels:
            channel.close()
        self.channels.clear()
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(10)
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None

    def channel(self, to: str, key: bytes | None = None, certificate: bytes | None = None) -> grpc.Channel:
        ca = (self.data / "ca.crt").read_bytes()
        channel = grpc.secure_channel(self.ready[to], grpc.ssl_channel_credentials(ca, key, certificate))
        self.channels.append(channel)
        return channel

    @property
    def operator(self) -> operator_pb2_grpc.OperatorStub:
        return operator_pb2_grpc.OperatorStub(self.channel("edge"))

    @property
    def credential(self) -> list[tuple[str, str]]:
        return [("authorization", f"Bearer {(self.data / 'admin-token').read_text()}")]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    work, origin = tmp_path / "work", tmp_path / "origin.git"
    git(tmp_path, "init", "-q", "-b", "main", str(work))
    (work / "fleet.yaml").write_text(FLEET)
    git(work, "add", "-A")
    git(work, "commit", "-qm", "fleet")
    git(tmp_path, "clone", "-q", "--bare", str(work), str(origin))
    found = Hub(tmp_path / "data", origin)
    found.start()
    yield found
    found.kill()


class Joiner:
    def __init__(self, name: str) -> None:
        self.name, self.uid = name, f"uid-of-{name}"
        self.identity, self.sealing = IdentityKey.generate(), SealingKey.generate()
        key = ec.generate_private_key(ec.SECP256R1())
        self.key = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        self.csr = request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)

    def request(self, secret: str) -> wire.JoinRequest:
        keys = self.identity.public, self.sealing.public
        statement = join_statement(secret, self.name, self.uid, *keys, self.csr)
        return wire.JoinRequest(
            capability=1, token_secret=secret, cluster_name=self.name, cluster_uid=self.uid,
            identity_key=keys[0], sealing_key=keys[1], sealing_generation=1, csr_der=self.csr,
            proof=self.identity.sign(statement),
        )  # fmt: skip

    def join(self, hub: Hub, secret: str) -> wire.JoinResponse:
        return link_pb2_grpc.EnrolStub(hub.channel("edge")).Join(self.request(secret), timeout=10)

    def approve(self, repository: Path, work: Path) -> None:
        git(work.parent, "clone", "-q", str(repository), str(work))
        git(work, "checkout", "-q", "--orphan", "muster/registry")
        git(work, "rm", "-rqf", ".")
        (work / "clusters").mkdir()
        (work / "clusters" / f"{self.name}.yaml").write_text(
            "apiVersion: muster.dev/v1alpha1\nkind: Cluster\n"
            f"metadata: {{name: {self.name}}}\n"
            f"spec: {{uid: {self.uid}, identityKey: '{encode_identity(self.identity.public)}'}}\n"
        )
        git(work, "add", "-A")
        git(work, "commit", "-qm", "approve")
        git(work, "push", "-q", "origin", "muster/registry")


def token(hub: Hub, cluster: str) -> str:
    request = op.CreateTokenRequest(cluster=cluster)
    return hub.operator.CreateToken(request, metadata=hub.credential, timeout=10).secret


def refused(call: object) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        call()  # type: ignore[operator]
    return str(caught.value.details())


def test_an_operator_without_the_token_is_refused(hub: Hub) -> None:
    assert "L001" in refused(lambda: hub.operator.GetInfo(op.GetInfoRequest(), timeout=10))


def test_a_token_serves_one_identity_and_one_name(hub: Hub) -> None:
    """rancher/fleet PR #1687: two agents of one cluster registered at once."""
    secret, first = token(hub, "berlin-04"), Joiner("berlin-04")
    assert "J006" in refused(lambda: Joiner("munich-01").join(hub, secret))
    assert first.join(hub, secret).state == wire.JoinResponse.PENDING
    assert first.join(hub, secret).state == wire.JoinResponse.PENDING
    assert "J004" in refused(lambda: Joiner("berlin-04").join(hub, secret))
    lying = first.request(secret)
    lying.cluster_uid = "another"
    assert "J007" in refused(lambda: link_pb2_grpc.EnrolStub(hub.channel("edge")).Join(lying, timeout=10))


def test_what_was_acknowledged_survives_kill_9(hub: Hub, tmp_path: Path) -> None:
    secret, agent = token(hub, "berlin-04"), Joiner("berlin-04")
    agent.join(hub, secret)
    hub.kill()
    hub.start()
    agent.approve(hub.repository, tmp_path / "registry")
    hub.operator.Refresh(op.RefreshRequest(), metadata=hub.credential, timeout=10)
    answer = agent.join(hub, secret)
    assert answer.state == wire.JoinResponse.APPROVED
    hello = wire.AgentFrame(hello=wire.Hello(capability=1, session_epoch="e1"))
    report = wire.AgentFrame(seq=1, report=wire.Report(bundle="shop", phase="Ready"))

    def exchange(*frames: wire.AgentFrame) -> list[wire.HubFrame]:
        line = link_pb2_grpc.LinkStub(hub.channel("link", agent.key, answer.certificate_pem))
        return list(line.Exchange(wire.AgentBatch(frames=frames), timeout=10).frames)

    assert max(frame.ack for frame in exchange(hello, report)) == 1
    hub.kill()
    hub.start()
    hub.operator.Refresh(op.RefreshRequest(), metadata=hub.credential, timeout=10)
    assert exchange(hello)[0].welcome.last_agent_seq == 1
    view = hub.operator.GetCluster(op.GetRequest(name=agent.name), metadata=hub.credential, timeout=10)
    assert [found.phase for found in view.bundles] == ["Ready"]
