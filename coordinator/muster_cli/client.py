"""The operator API as the CLI calls it.

Owns the one gRPC channel of a command: TLS pinned to the context's CA, the bearer token or the client
certificate, a deadline on every call, and the translation of statuses into errors with codes; and that no text of an answer
is one that a terminal would obey. It never retries an action.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import TracebackType
from typing import Any, TypeVar

import grpc
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from muster_core.errors import LinkError, MusterError
from muster_core.terminal import harmless, has_controls
from muster_proto.v1 import operator_pb2 as op
from muster_proto.v1.operator_pb2_grpc import OperatorStub

from muster_cli.context import Context
from muster_cli.errors import DeniedError, InvalidRequestError, NotFoundError, UnreachableError

Q = TypeVar("Q")
A = TypeVar("A", bound=Message)

_CODED = re.compile(r"^MUSTER-([A-Z]\d+) (.*)$", re.DOTALL)
MAX_MESSAGE = 64 << 20
# A watch lives long: pings find a line that died silently. Servers refuse more than one in five minutes.
KEEPALIVE_MS = 301_000


class OperatorClient:
    """Calls of the operator API; use it in a ``with`` block."""

    def __init__(self, context: Context, timeout: float) -> None:
        self.context, self._timeout = context, timeout
        self._channel = grpc.secure_channel(
            context.address,
            grpc.ssl_channel_credentials(context.ca_pem, context.key, context.certificate),
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE),
                ("grpc.enable_http_proxy", 0),
                ("grpc.keepalive_time_ms", KEEPALIVE_MS),
            ],
        )
        self._stub = OperatorStub(self._channel)
        self._metadata = (("authorization", f"Bearer {context.token}"),) if context.token else ()

    def __enter__(self) -> OperatorClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()

    def _call(self, method: grpc.UnaryUnaryMultiCallable[Q, A], request: Q) -> A:
        with self._translated():
            return readable(method(request, timeout=self._timeout, metadata=self._metadata))

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise translate(error, self.context.address) from error

    def info(self) -> op.Info:
        return self._call(self._stub.GetInfo, op.GetInfoRequest())

    def refresh(self) -> op.Info:
        return self._call(self._stub.Refresh, op.RefreshRequest())

    def create_token(self, cluster: str, ttl_seconds: int) -> op.CreateTokenResponse:
        request = op.CreateTokenRequest(cluster=cluster, ttl_seconds=ttl_seconds)
        return self._call(self._stub.CreateToken, request)

    def list_tokens(self) -> op.TokenList:
        return self._call(self._stub.ListTokens, op.ListTokensRequest())

    def list_joins(self) -> op.JoinList:
        return self._call(self._stub.ListJoins, op.ListJoinsRequest())

    def list_clusters(self, selector: str = "") -> op.ClusterList:
        return self._call(self._stub.ListClusters, op.ListClustersRequest(selector=selector))

    def list_bundles(self, selector: str = "", *, places: bool = False) -> op.BundleList:
        """``places``: also which cluster has which release, which is much where many are."""
        return self._call(self._stub.ListBundles, op.ListBundlesRequest(selector=selector, places=places))

    def list_rollouts(self, bundle: str = "") -> op.RolloutList:
        return self._call(self._stub.ListRollouts, op.ListRolloutsRequest(bundle=bundle))

    def get_cluster(self, name: str) -> op.ClusterView:
        return self._call(self._stub.GetCluster, op.GetRequest(name=name))

    def get_bundle(self, name: str) -> op.BundleView:
        return self._call(self._stub.GetBundle, op.GetRequest(name=name))

    def get_rollout(self, name: str) -> op.RolloutView:
        return self._call(self._stub.GetRollout, op.GetRequest(name=name))

    def start_rollout(self, request: op.StartRolloutRequest) -> op.RolloutView:
        return self._call(self._stub.StartRollout, request)

    def act_on_rollout(self, request: op.ActOnRolloutRequest) -> op.RolloutView:
        return self._call(self._stub.ActOnRollout, request)

    def roll_back(self, request: op.RollBackRequest) -> op.RolloutView:
        return self._call(self._stub.RollBack, request)

    def renew_directive(self, request: op.RenewDirectiveRequest) -> op.BundleView:
        return self._call(self._stub.RenewDirective, request)

    def list_owed(self, bundle: str = "") -> op.OwedList:
        return self._call(self._stub.ListOwed, op.ListOwedRequest(bundle=bundle))

    def create_freeze(self, request: op.CreateFreezeRequest) -> op.Freeze:
        return self._call(self._stub.CreateFreeze, request)

    def delete_freeze(self, name: str) -> op.Freeze:
        return self._call(self._stub.DeleteFreeze, op.GetRequest(name=name))

    def list_freezes(self) -> op.FreezeList:
        return self._call(self._stub.ListFreezes, op.ListFreezesRequest())

    def reject_join(self, name: str) -> op.ClusterView:
        return self._call(self._stub.RejectJoin, op.GetRequest(name=name))

    def acknowledge_floor(self, name: str) -> op.ClusterView:
        return self._call(self._stub.AcknowledgeFloor, op.GetRequest(name=name))

    def explain(self, rollout: str, cluster: str) -> op.Explanation:
        return self._call(self._stub.Explain, op.ExplainRequest(rollout=rollout, cluster=cluster))

    def issue_certificate(self, request: op.IssueCertificateRequest) -> op.OperatorCertificate:
        return self._call(self._stub.IssueCertificate, request)

    def list_operators(self) -> op.OperatorList:
        return self._call(self._stub.ListOperators, op.ListOperatorsRequest())

    def revoke_operator(self, name: str, reason: str) -> op.OperatorList:
        return self._call(self._stub.RevokeOperator, op.RevokeOperatorRequest(name=name, reason=reason))

    def audit_heads(self) -> op.AuditHeadList:
        return self._call(self._stub.ListAuditHeads, op.ListAuditHeadsRequest())

    def acknowledge_head(self, writer: str, reason: str) -> op.AuditHead:
        return self._call(self._stub.AcknowledgeHead, op.AcknowledgeHeadRequest(name=writer, reason=reason))

    def audit_lines(self, after: int = 0) -> Iterator[bytes]:
        """The coordinator's own log as it is on disk, in order."""
        with self._translated():
            request = op.ListAuditRequest(after=after)
            for line in self._stub.ListAudit(request, metadata=self._metadata, timeout=self._timeout):
                yield line.line

    def rollout_events(
        self, request: op.ListEventsRequest, limit: float | None = None
    ) -> Iterator[op.RolloutEvent]:
        """A rollout's log in order. With ``follow`` until it ends, for at most ``limit`` seconds where that is given."""
        with self._translated():
            timeout = limit if request.follow else self._timeout
            for event in self._stub.ListEvents(request, metadata=self._metadata, timeout=timeout):
                yield readable(event)

    def watch(self, request: op.WatchRequest) -> Iterator[op.Event]:
        """The present state, one SYNCED, then changes until the caller stops: the call without a deadline."""
        with self._translated():
            for event in self._stub.Watch(request, metadata=self._metadata):
                yield readable(event)


def readable(message: A) -> A:
    """The message itself, every text in it made harmless: clusters, commits and other people wrote them."""
    texts, lists, parts, many, maps = _fields(message.DESCRIPTOR)
    if has_controls("".join([getattr(message, name) for name in texts])):
        for name in texts:
            setattr(message, name, harmless(getattr(message, name)))
    for name in lists:
        if has_controls("".join(values := getattr(message, name))):
            values[:] = [harmless(text) for text in values]
    for name in maps:
        _clean_map(getattr(message, name))
    for name in parts:
        if message.HasField(name):
            readable(getattr(message, name))
    for name in many:
        for item in getattr(message, name):
            readable(item)
    return message


@cache
def _fields(kind: Descriptor) -> tuple[list[str], list[str], list[str], list[str], list[str]]:
    """Names of its texts, lists of texts, messages, lists of messages, and maps: a list of a fleet has many of one kind."""
    texts, lists, parts, many, maps = list[str](), list[str](), list[str](), list[str](), list[str]()
    for field in kind.fields:
        if field.type == FieldDescriptor.TYPE_STRING:
            (lists if field.is_repeated else texts).append(field.name)
        elif field.message_type is not None:
            is_map = field.message_type.GetOptions().map_entry
            (maps if is_map else many if field.is_repeated else parts).append(field.name)
    return texts, lists, parts, many, maps


def _clean_map(value: Any) -> None:
    """Labels: texts by texts."""
    for key, text in list(value.items()):
        if has_controls(key) or has_controls(text):
            del value[key]
            value[harmless(key)] = harmless(text)


# What the transport says when nobody can be reached -> what that means, and what to do.
_CAUSES = (
    (
        "CERTIFICATE_VERIFY_FAILED",
        "its certificate is of another CA",
        "This is not the coordinator of the context. Pass the context.json that it wrote: --context FILE.",
    ),
    (
        "ostname Verification",
        "its certificate does not name this host",
        "Start it with this address: muster serve --advertise-edge HOST:PORT.",
    ),
    ("lookup", "no such host name", "Check the address in the context."),
    ("resol", "no such host name", "Check the address in the context."),
    ("refused", "connection refused", "Check that `muster serve` runs there and listens on this port."),
    ("WRONG_VERSION_NUMBER", "no TLS is spoken there", "Check the address and port in the context."),
)


def _cause(details: str) -> tuple[str, str]:
    """(the transport's reason in a few words, what to do)."""
    for sign, cause, hint in _CAUSES:
        if sign in details:
            return cause, hint
    said = details.rpartition("last error: ")[2].strip()[:120] or "no reason given"
    return said, "Check that `muster serve` runs there and that the context is of this coordinator."


def translate(error: grpc.RpcError, address: str) -> MusterError:
    """A status as an error with code and exit code; the coordinator's own code is kept."""
    status, details = error.code(), harmless(error.details() or "")
    coded = _CODED.match(details)
    code, message = (coded[1], coded[2]) if coded else ("L011", details or status.name)
    match status:
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.ABORTED if (
            coded
        ):  # it has the trouble, not we with it
            return UnreachableError(code, message, retryable=True)
        case grpc.StatusCode.UNAVAILABLE:
            cause, hint = _cause(details)
            what = f"the coordinator cannot be reached ({cause})"
            return UnreachableError("L012", what, object=address, retryable=True, hint=hint)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return UnreachableError(
                "L012",
                "the coordinator does not answer in time",
                object=address,
                retryable=True,
                hint="Is this its address? A slow one gets longer with --timeout DURATION.",
            )
        case grpc.StatusCode.NOT_FOUND:
            return NotFoundError(code, message)
        case grpc.StatusCode.UNAUTHENTICATED if not coded:
            return DeniedError(
                "L013",
                "the coordinator does not know this credential",
                object=address,
                hint="Pass the context.json that this coordinator wrote: --context FILE.",
            )
        case grpc.StatusCode.PERMISSION_DENIED | grpc.StatusCode.UNAUTHENTICATED:
            return DeniedError(code, message)
        case grpc.StatusCode.INVALID_ARGUMENT:
            return InvalidRequestError(code, message)
        case _:
            return LinkError(code, message)
