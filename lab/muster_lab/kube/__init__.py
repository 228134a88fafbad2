"""An in-memory Kubernetes API server for the lab.

Speaks enough of the API that real clients and the real agent work against it: discovery, CRUD, server-side
apply, watches, paging, CRDs. Owns everything below ``muster_lab.kube``; it is held to the truth by
``tests/contract/kube``, whose cases run on a real kube-apiserver too. It never implements RBAC, admission
webhooks, aggregated APIs or protobuf.
"""

from .server import LabKube, Settings

__all__ = ["LabKube", "Settings"]
