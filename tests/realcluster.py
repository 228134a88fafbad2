"""Real Kubernetes API servers for tests: etcd, kube-apiserver and, where asked for, kube-controller-manager.

Why it exists: a case counts only when it ran against the real server. This starts one in seconds, on
loopback, with RBAC on, certificates made on the spot and ServiceAccount tokens that the server itself issues.

It owns the processes, their ports, their folder and their end: each runs in a process group of its own, which
is killed when the cluster closes, when its start fails, and (by a guard process) when the test process dies.

It never builds anything (tests/tools/build.py does), never listens beyond loopback, and never runs a kubelet
or a scheduler: pods stay as the controllers make them until something plays their part.

    with open_real_cluster(controller_manager=True) as cluster:
        cluster.url, cluster.ca_file, cluster.token, cluster.kubeconfig
        cluster.call("GET", "/api/v1/namespaces")
        cluster.stop_apiserver(); cluster.start_apiserver()

    with Etcd() as etcd, RealCluster(etcd=etcd, etcd_prefix="/a") as a:    # many clusters share one etcd
        ...

The same class works as an asynchronous context manager; starting and closing then run in a thread.
"""

from __future__ import annotations

import abc
import atexit
import contextlib
import datetime
import http.client
import ipaddress
import json
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import anyio.to_thread
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from tools import build

#: Start and readiness of one cluster. Below the suite's per-test timeout, so that the logs are seen first.
DEADLINE = 50.0
TAIL_LINES = 30
PORT_TRIES = 3
ISSUER = "https://kubernetes.default.svc.cluster.local"
SERVICE_RANGE = "10.0.0.0/24"
ADMIN = "admin"

#: What workloads, namespaces and access need. Left out: everything that watches nodes (there is no kubelet,
#: and node-lifecycle would take the pods of a played Node away), volumes, and certificate signing.
CONTROLLERS = (
    "clusterrole-aggregation-controller",
    "cronjob-controller",
    "daemonset-controller",
    "deployment-controller",
    "disruption-controller",
    "endpointslice-controller",
    "garbage-collector-controller",
    "horizontal-pod-autoscaler-controller",
    "job-controller",
    "namespace-controller",
    "persistentvolumeclaim-protection-controller",
    "replicaset-controller",
    "resourcequota-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
    "serviceaccount-token-controller",
    "statefulset-controller",
    "ttl-after-finished-controller",
    "validatingadmissionpolicy-status-controller",
)

KUBECONFIG = """\
apiVersion: v1
kind: Config
current-context: {name}
clusters:
- name: {name}
  cluster:
    server: {url}
    certificate-authority: {ca}
users:
- name: {user}
  user:
    token: {token}
contexts:
- name: {name}
  context:
    cluster: {name}
    user: {user}
    namespace: default
"""


class RealClusterError(Exception):
    """A component did not start or did not become ready; the text ends with its log."""


# ---------------------------------------------------------------------------------------------- finding


def require_real(name: str) -> Path:
    """The component's path. Without it the test is skipped, or fails where MUSTER_REQUIRE_REAL=1."""
    path = build.find(name)
    if path is not None:
        return path
    reason = (
        f"needs the real {name} {build.VERSIONS[name]}: `make tools` builds it (Go), "
        "or KUBEBUILDER_ASSETS names a folder that has it"
    )
    if os.environ.get("MUSTER_REQUIRE_REAL") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def open_real_cluster(*, controller_manager: bool = False, **settings: Any) -> RealCluster:
    """A started cluster, for the body of a fixture, in a ``with`` or closed by hand. Skips what is not built.

    @pytest.fixture(scope="session")
    def real_cluster() -> Iterator[RealCluster]:
        with open_real_cluster(controller_manager=True) as cluster:
            yield cluster
    """
    for name in ("etcd", "kube-apiserver", *(["kube-controller-manager"] if controller_manager else [])):
        require_real(name)
    return RealCluster(controller_manager=controller_manager, **settings).start()


# ---------------------------------------------------------------------------------------------- processes

GUARD = """
import os, signal, sys
groups = set()
for line in sys.stdin:
    (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
for group in groups:
    try:
        os.killpg(group, signal.SIGKILL)
    except OSError:
        pass
"""


class Guard:
    """A process that outlives this one for a moment: when its input ends it kills the groups still listed."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None
        self.lock = threading.Lock()

    def tell(self, sign: str, group: int) -> None:
        with self.lock:
            if self.process is None:
                self.process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", GUARD],
                    stdin=subprocess.PIPE,
                    text=True,
                    start_new_session=True,
                )
                atexit.register(self.close)
            assert self.process.stdin is not None
            self.process.stdin.write(f"{sign}{group}\n")
            self.process.stdin.flush()

    def close(self) -> None:
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()
            self.process.wait(10)


guard = Guard()


class Program:
    """One server process in its own group, with its output in a file."""

    def __init__(self, binary: Path, arguments: Iterable[str], log: Path) -> None:
        self.name = binary.name
        self.log = log
        self.began = log.stat().st_size if log.exists() else 0
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [str(binary), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=log.parent,
                env={"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": str(log.parent)},
                start_new_session=True,
            )
        guard.tell("+", self.process.pid)

    def failure(self, what: str) -> RealClusterError:
        code = self.process.poll()
        state = "is running" if code is None else f"ended with {code}"
        return RealClusterError(f"{what}: {self.name} {state}; the end of {self.log}:\n{self.tail()}")

    def written(self) -> str:
        with self.log.open("rb") as file:
            file.seek(self.began)
            return file.read().decode(errors="replace")

    def tail(self) -> str:
        return "\n".join(line[:400] for line in self.written().splitlines()[-TAIL_LINES:])

    def lost_its_port(self) -> bool:
        return self.process.poll() is not None and "address already in use" in self.written()

    def stop(self, *, graceful: bool, patience: float = 15) -> None:
        if graceful and self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(patience)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)
        guard.tell("-", self.process.pid)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def ask(
    port: int, path: str, *, context: ssl.SSLContext | None, token: str = "", body: bytes | None = None
) -> tuple[int, bytes]:
    """One request over loopback; 0 when nothing answers."""
    connection: http.client.HTTPConnection
    if context is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    else:
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=context)
    try:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        connection.request("GET" if body is None else "POST", path, body=body, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException) as error:
        return 0, str(error).encode()
    finally:
        connection.close()


class Service(abc.ABC):
    """What starts, has a folder, and ends; in a ``with`` or an ``async with``."""

    def __init__(self, folder: Path | None, deadline: float) -> None:
        self.given = folder
        self.made: Path | None = None
        self.deadline = deadline

    @abc.abstractmethod
    def start(self) -> Self: ...

    @abc.abstractmethod
    def close(self, *, keep: bool = False) -> None:
        """Ends it and removes a folder of its own making; ``keep`` leaves the folder, for its logs."""

    @property
    def folder(self) -> Path:
        assert self.made is not None, "it is not started"
        return self.made

    def make_folder(self, name: str) -> None:
        if self.given is None:
            self.made = Path(tempfile.mkdtemp(prefix=f"muster-real-{name}-"))
        else:
            self.given.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.made = self.given.resolve()

    def remove_folder(self) -> None:
        if self.given is None and self.made is not None:
            shutil.rmtree(self.made, ignore_errors=True)
        self.made = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return await anyio.to_thread.run_sync(self.start)

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self.close)


# ---------------------------------------------------------------------------------------------- etcd


class Etcd(Service):
    """One etcd without fsync. Several clusters share it, each under its own prefix."""

    def __init__(self, *, folder: Path | None = None, deadline: float = DEADLINE) -> None:
        super().__init__(folder, deadline)
        self.name = f"etcd-{secrets.token_hex(8)}"
        self.port = 0
        self.program: Program | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Self:
        if self.program is not None:
            return self
        self.make_folder("etcd")
        try:
            for attempt in range(PORT_TRIES):
                self.port = free_port()
                self.program = Program(require_real("etcd"), self.arguments(), self.folder / "etcd.log")
                if self.ready(self.program, last=attempt == PORT_TRIES - 1):
                    return self
        except BaseException:
            self.close(keep=True)
            raise
        raise AssertionError("unreachable")

    def arguments(self) -> list[str]:
        return [
            f"--name={self.name}",
            f"--data-dir={self.folder / 'data'}",
            f"--listen-client-urls={self.url}",
            f"--advertise-client-urls={self.url}",
            "--listen-peer-urls=http://127.0.0.1:0",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ]

    def ready(self, program: Program, *, last: bool) -> bool:
        """False: another process took the port between choosing and listening, so choose again."""
        end = time.monotonic() + self.deadline
        while time.monotonic() < end:
            if program.process.poll() is not None:
                if program.lost_its_port() and not last:
                    program.stop(graceful=False)
                    return False
                break
            status, answer = ask(self.port, "/v3/cluster/member/list", context=None, body=b"{}")
            # By name: another run's etcd may have taken the port, and answers as well as ours would.
            if status == 200 and [m.get("name") for m in json.loads(answer)["members"]] == [self.name]:
                return True
            time.sleep(0.05)
        raise program.failure("etcd did not become healthy")

    def close(self, *, keep: bool = False) -> None:
        if self.program is not None:
            self.program.stop(graceful=False)
            self.program = None
        if not keep:
            self.remove_folder()


# ---------------------------------------------------------------------------------------------- the cluster


class RealCluster(Service):
    """One API server with its etcd (its own, or a shared one under ``etcd_prefix``); if asked, controllers.

    ``users`` adds static tokens: user name to groups; the tokens are in ``tokens``. They may do what RBAC in
    the cluster says. ServiceAccount tokens come from the server: ``service_account_token``.
    """

    def __init__(
        self,
        *,
        controller_manager: bool = False,
        etcd: Etcd | None = None,
        etcd_prefix: str = "/registry",
        folder: Path | None = None,
        users: Mapping[str, Sequence[str]] | None = None,
        apiserver_args: Sequence[str] = (),
        deadline: float = DEADLINE,
    ) -> None:
        super().__init__(folder, deadline)
        self.controller_manager = controller_manager
        self.owns_etcd = etcd is None
        self.etcd = etcd or Etcd(folder=folder / "etcd" if folder else None, deadline=deadline)
        self.etcd_prefix = etcd_prefix
        self.users = {ADMIN: ["system:masters"], **(users or {})}
        self.tokens = {user: secrets.token_urlsafe(24) for user in self.users}
        self.apiserver_args = list(apiserver_args)
        self.port = 0
        self.apiserver: Program | None = None
        self.controllers: Program | None = None
        self.tls: ssl.SSLContext | None = None

    # What tests use.

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def ca_file(self) -> Path:
        return self.folder / "ca.crt"

    @property
    def token(self) -> str:
        return self.tokens[ADMIN]

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "admin.kubeconfig"

    def kubeconfig_for(self, token: str, user: str = "user") -> Path:
        """A kubeconfig file for a bearer token; the same token and user give the same file."""
        text = KUBECONFIG.format(name="real", url=self.url, ca=self.ca_file, user=user, token=token)
        digest = hashes.Hash(hashes.SHA256())
        digest.update(text.encode())
        return write_private(self.folder / f"{user}-{digest.finalize().hex()[:12]}.kubeconfig", text.encode())

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        content_type: str = "application/json",
        token: str | None = None,
        timeout: float = 20,
    ) -> tuple[int, Any]:
        """One request: the status and the decoded JSON, or text. ``bytes`` are sent as they are."""
        assert self.tls is not None, "the cluster is not started"
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=timeout, context=self.tls)
        headers = {
            "Authorization": f"Bearer {self.token if token is None else token}",
            "Accept": "application/json",
        }
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        if data is not None:
            headers["Content-Type"] = content_type
        try:
            connection.request(method, path, body=data, headers=headers)
            answer = connection.getresponse()
            raw = answer.read()
        finally:
            connection.close()
        try:
            return answer.status, json.loads(raw)
        except ValueError:
            return answer.status, raw.decode(errors="replace")

    def apply(
        self, path: str, item: Mapping[str, Any], *, manager: str = "test", token: str | None = None
    ) -> tuple[int, Any]:
        """Server-side apply, forced."""
        query = f"?fieldManager={manager}&force=true&fieldValidation=Strict"
        return self.call(
            "PATCH", path + query, item, content_type="application/apply-patch+yaml", token=token
        )

    def service_account_token(self, namespace: str, name: str, *, seconds: int = 3600) -> str:
        """A token that the server issues (TokenRequest), bound to its RBAC."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest"}
        status, answer = self.call("POST", path, {**request, "spec": {"expirationSeconds": seconds}})
        if status != 201:
            raise RealClusterError(f"no token for {namespace}/{name}: {status} {answer}")
        token: str = answer["status"]["token"]
        return token

    # Life.

    def start(self) -> Self:
        if self.apiserver is not None:
            return self
        self.make_folder("cluster")
        try:
            self.etcd.start()
            write_keys(self.folder)
            write_private(self.folder / "tokens.csv", token_file(self.users, self.tokens).encode())
            self.tls = ssl.create_default_context(cafile=str(self.ca_file))
            self.start_apiserver()
            if self.controller_manager:
                self.start_controller_manager()
        except BaseException:
            self.close(keep=True)
            raise
        return self

    def start_apiserver(self) -> None:
        """Starts it, again on the same port after ``stop_apiserver``, and waits until it is ready."""
        assert self.apiserver is None, "it is running"
        again = self.port != 0
        for attempt in range(PORT_TRIES):
            if not again:
                self.port = free_port()
            write_private(
                self.kubeconfig,
                KUBECONFIG.format(
                    name="real", url=self.url, ca=self.ca_file, user=ADMIN, token=self.token
                ).encode(),
            )
            program = Program(
                require_real("kube-apiserver"), self.apiserver_arguments(), self.folder / "kube-apiserver.log"
            )
            self.apiserver = program
            if self.wait_for_apiserver(program, may_move=not again and attempt < PORT_TRIES - 1):
                return

    def stop_apiserver(self, *, graceful: bool = False) -> None:
        """An outage: by default as if the machine went away. etcd and the controllers stay."""
        if self.apiserver is not None:
            self.apiserver.stop(graceful=graceful)
            self.apiserver = None

    def wait_for_apiserver(self, program: Program, *, may_move: bool) -> bool:
        end = time.monotonic() + self.deadline
        answer = b""
        while time.monotonic() < end:
            if program.process.poll() is not None:
                if may_move and program.lost_its_port():
                    program.stop(graceful=False)
                    return False
                break
            status, answer = ask(self.port, "/readyz?verbose", context=self.tls, token=self.token)
            if status == 200:
                return True
            time.sleep(0.1)
        error = program.failure(f"kube-apiserver was not ready in {self.deadline:g} s")
        raise RealClusterError(f"{error}\nits last answer: {answer.decode(errors='replace')[-1500:]}")

    def apiserver_arguments(self) -> list[str]:
        # Without controllers nobody makes the default ServiceAccounts that this plugin insists on.
        unused = [] if self.controller_manager else ["--disable-admission-plugins=ServiceAccount"]
        return [
            f"--etcd-servers={self.etcd.url}",
            f"--etcd-prefix={self.etcd_prefix}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={self.port}",
            f"--cert-dir={self.folder}",
            f"--tls-cert-file={self.folder / 'server.crt'}",
            f"--tls-private-key-file={self.folder / 'server.key'}",
            f"--client-ca-file={self.ca_file}",
            f"--token-auth-file={self.folder / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            f"--service-account-issuer={ISSUER}",
            f"--service-account-key-file={self.folder / 'sa.pub'}",
            f"--service-account-signing-key-file={self.folder / 'sa.key'}",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            "--allow-privileged=true",
            "--endpoint-reconciler-type=none",
            "--profiling=false",
            *unused,
            *self.apiserver_args,
        ]

    def start_controller_manager(self) -> None:
        assert self.controllers is None, "it is running"
        for attempt in range(PORT_TRIES):
            port = free_port()
            program = Program(
                require_real("kube-controller-manager"),
                self.controller_arguments(port),
                self.folder / "kube-controller-manager.log",
            )
            self.controllers = program
            if self.wait_for_controllers(program, port, may_move=attempt < PORT_TRIES - 1):
                return

    def stop_controller_manager(self) -> None:
        if self.controllers is not None:
            self.controllers.stop(graceful=False)
            self.controllers = None

    def wait_for_controllers(self, program: Program, port: int, *, may_move: bool) -> bool:
        """Ready is when a pod can be made: the default ServiceAccount and the CA's ConfigMap are there."""
        wanted = [
            "/api/v1/namespaces/default/serviceaccounts/default",
            "/api/v1/namespaces/default/configmaps/kube-root-ca.crt",
        ]
        end = time.monotonic() + self.deadline
        while time.monotonic() < end:
            if program.process.poll() is not None:
                if may_move and program.lost_its_port():
                    program.stop(graceful=False)
                    return False
                break
            if ask(port, "/healthz", context=self.tls)[0] == 200:
                while wanted and ask(self.port, wanted[0], context=self.tls, token=self.token)[0] == 200:
                    wanted.pop(0)
                if not wanted:
                    return True
            time.sleep(0.1)
        raise program.failure(f"the controllers were not ready in {self.deadline:g} s")

    def controller_arguments(self, port: int) -> list[str]:
        return [
            f"--kubeconfig={self.kubeconfig}",
            "--leader-elect=false",
            f"--controllers={','.join(CONTROLLERS)}",
            f"--service-account-private-key-file={self.folder / 'sa.key'}",
            f"--root-ca-file={self.ca_file}",
            "--bind-address=127.0.0.1",
            f"--secure-port={port}",
            f"--tls-cert-file={self.folder / 'server.crt'}",
            f"--tls-private-key-file={self.folder / 'server.key'}",
            # One admin for all controllers starts quicker than a ServiceAccount for each.
            "--use-service-account-credentials=false",
            "--kube-api-qps=300",
            "--kube-api-burst=600",
            "--profiling=false",
        ]

    def close(self, *, keep: bool = False) -> None:
        self.stop_controller_manager()
        self.stop_apiserver()
        if self.owns_etcd:
            self.etcd.close(keep=keep)
        if not keep:
            self.remove_folder()


# ---------------------------------------------------------------------------------------------- files


def write_private(path: Path, data: bytes) -> Path:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
    return path


def token_file(users: Mapping[str, Sequence[str]], tokens: Mapping[str, str]) -> str:
    return "".join(f'{tokens[user]},{user},{user},"{",".join(groups)}"\n' for user, groups in users.items())


def write_keys(folder: Path) -> None:
    """A CA, one serving certificate for both servers, and the key that signs ServiceAccount tokens."""
    now = datetime.datetime.now(datetime.UTC)
    span = (now - datetime.timedelta(minutes=5), now + datetime.timedelta(days=2))
    ca_key, server_key, account_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "muster test cluster CA")])
    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    ca = (
        x509.CertificateBuilder(ca_name, ca_name, ca_key.public_key(), x509.random_serial_number(), *span)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    service = ["kubernetes", "default", "svc", "cluster", "local"]
    hosts: list[x509.GeneralName] = [x509.DNSName(".".join(service[:count])) for count in (1, 2, 3, 5)]
    hosts.append(x509.DNSName("localhost"))
    hosts += [x509.IPAddress(ipaddress.ip_address(text)) for text in ("127.0.0.1", "10.0.0.1")]
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kube-apiserver")])
    server = (
        x509.CertificateBuilder(ca_name, name, server_key.public_key(), x509.random_serial_number(), *span)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = (pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_private(folder / "ca.crt", ca.public_bytes(pem))
    write_private(folder / "server.crt", server.public_bytes(pem))
    write_private(folder / "server.key", server_key.private_bytes(*secret))
    write_private(folder / "sa.key", account_key.private_bytes(*secret))
    public = account_key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    write_private(folder / "sa.pub", public)
