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

from typing import Any

from . import ports
from .binaries import require_real
from .cluster import RealCluster
from .etcd import Etcd
from .programs import RealClusterError

__all__ = ["Etcd", "RealCluster", "RealClusterError", "open_real_cluster", "ports", "require_real"]


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
