"""The operator API as the CLI calls it.

Owns the one gRPC channel of a command: TLS pinned to the context's CA, the bearer token, a deadline on
every call, and the translation of statuses into errors with codes. It never retries an action.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import grpc
from muster_core.errors import LinkError, MusterError
from muster_proto.v1 import operator_pb2 as op
from muster_proto.v1.operator_pb2_grpc import OperatorStub

from muster_cli.context import Context

_CODED = re.compile(r"^MUSTER-([A-Z]\d+) (.*)$", re.DOTALL)
MAX_MESSAGE = 64 << 20


class NotFoundError(MusterError):
    """Exit code 3."""


class DeniedError(MusterError):
    """Exit code 4."""


class UnreachableError(LinkError):
    """Exit code 5."""


class OperatorClient:
    """Calls of the operator API; use it in a ``with`` block."""

    def __init__(self, context: Context, timeout: float = 30.0) -> None:
        self._context, self._timeout = context, timeout
        self._channel = grpc.secure_channel(
            context.edge,
            grpc.ssl_channel_credentials(root_certificates=context.ca_pem),
            options=[("grpc.max_receive_message_length", MAX_MESSAGE), ("grpc.enable_http_proxy", 0)],
        )
        self._stub = OperatorStub(self._channel)
        self._metadata = (("authorization", f"Bearer {context.token}"),)

    def __enter__(self) -> OperatorClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()

    def _call(self, name: str, request: Any) -> Any:
        with self._translated():
            return getattr(self._stub, name)(request, timeout=self._timeout, metadata=self._metadata)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise translate(error, self._context.edge) from error

    def info(self) -> op.Info:
        return self._call("GetInfo", op.GetInfoRequest())

    def refresh(self) -> op.Info:
        return self._call("Refresh", op.RefreshRequest())

    def create_token(self, cluster: str, ttl_seconds: int) -> op.CreateTokenResponse:
        return self._call("CreateToken", op.CreateTokenRequest(cluster=cluster, ttl_seconds=ttl_seconds))

    def list_tokens(self) -> op.TokenList:
        return self._call("ListTokens", op.ListTokensRequest())

    def list_joins(self) -> op.JoinList:
        return self._call("ListJoins", op.ListJoinsRequest())

    def list_clusters(self, selector: str = "") -> op.ClusterList:
        return self._call("ListClusters", op.ListClustersRequest(selector=selector))

    def list_bundles(self, selector: str = "") -> op.BundleList:
        return self._call("ListBundles", op.ListBundlesRequest(selector=selector))

    def list_rollouts(self, bundle: str = "") -> op.RolloutList:
        return self._call("ListRollouts", op.ListRolloutsRequest(bundle=bundle))

    def get_cluster(self, name: str) -> op.ClusterView:
        return self._call("GetCluster", op.GetRequest(name=name))

    def get_bundle(self, name: str) -> op.BundleView:
        return self._call("GetBundle", op.GetRequest(name=name))

    def get_rollout(self, name: str) -> op.RolloutView:
        return self._call("GetRollout", op.GetRequest(name=name))

    def start_rollout(self, request: op.StartRolloutRequest) -> op.RolloutView:
        return self._call("StartRollout", request)

    def act_on_rollout(
        self, name: str, action: op.ActOnRolloutRequest.Action.ValueType, reason: str
    ) -> op.RolloutView:
        return self._call("ActOnRollout", op.ActOnRolloutRequest(rollout=name, action=action, reason=reason))

    def explain(self, rollout: str, cluster: str) -> op.Explanation:
        return self._call("Explain", op.ExplainRequest(rollout=rollout, cluster=cluster))

    def watch(self, request: op.WatchRequest) -> Iterator[op.Event]:
        """Events until the caller stops; each ends the wait of no longer than the stream lives."""
        with self._translated():
            yield from self._stub.Watch(request, metadata=self._metadata)


def translate(error: grpc.RpcError, address: str) -> MusterError:
    """A status as an error with code and exit code."""
    status, details = error.code(), error.details() or ""
    coded = _CODED.match(details)
    code, message = (coded[1], coded[2]) if coded else ("L011", details or status.name)
    match status:
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.DEADLINE_EXCEEDED:
            return UnreachableError(
                "L012",
                "the coordinator does not answer",
                object=address,
                retryable=True,
                hint="Check that `muster serve` runs and that the context's address is right.",
            )
        case grpc.StatusCode.NOT_FOUND:
            return NotFoundError(code, message)
        case (
            grpc.StatusCode.PERMISSION_DENIED
            | grpc.StatusCode.UNAUTHENTICATED
            | grpc.StatusCode.FAILED_PRECONDITION
        ):
            return DeniedError(code, message)
        case _:
            return LinkError(code, message)
