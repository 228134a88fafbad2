"""One API server with RBAC, its etcd, and the workload controllers where they are asked for."""

from __future__ import annotations

import hashlib
import http.client
import json
import secrets
import ssl
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from . import ports
from .binaries import require_real
from .certificates import token_file, write_keys, write_private
from .etcd import Etcd
from .programs import Program, RealClusterError
from .service import DEADLINE, PORT_TRIES, Service

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
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        return write_private(self.folder / f"{user}-{digest}.kubeconfig", text.encode())

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
                self.port = ports.free_port()
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
            status, answer = ports.ask(self.port, "/readyz?verbose", context=self.tls, token=self.token)
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
            port = ports.free_port()
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
            if ports.ask(port, "/healthz", context=self.tls)[0] == 200:
                while (
                    wanted and ports.ask(self.port, wanted[0], context=self.tls, token=self.token)[0] == 200
                ):
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
