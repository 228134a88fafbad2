"""The operator service as gRPC carries it.

Owns the one interceptor that every operator's call passes, on both listeners: it reads the credential, asks who that is and
whether they may, and tells the audit log how it ended. It decides nothing: ``access`` does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import structlog
from google.protobuf.message import Message
from muster_core.errors import MusterError
from muster_host.auditlog import AuditError
from muster_proto.v1 import operator_pb2 as op
from muster_proto.v1 import operator_pb2_grpc

from muster_coordinator.access.calls import Calls
from muster_coordinator.access.errors import DeniedError, UnauthenticatedError
from muster_coordinator.access.principal import Credentials, Principal
from muster_coordinator.access.roles import SERVICE
from muster_coordinator.api.audits import AuditApi
from muster_coordinator.api.credentials import CredentialApi
from muster_coordinator.api.directives import DirectiveApi
from muster_coordinator.api.freezes import FreezeApi
from muster_coordinator.api.history import HistoryApi
from muster_coordinator.api.joins import JoinApi
from muster_coordinator.api.operator import OperatorApi
from muster_coordinator.enrol.x509 import presented
from muster_coordinator.link.statuses import carried, fail

log = structlog.get_logger()

RECHECK_SECONDS = 5.0
_RESULTS = {
    grpc.StatusCode.OK: "ok",
    grpc.StatusCode.PERMISSION_DENIED: "denied",
    grpc.StatusCode.INVALID_ARGUMENT: "refused",
    grpc.StatusCode.FAILED_PRECONDITION: "refused",
    grpc.StatusCode.NOT_FOUND: "refused",
}


def _credentials(context: Any) -> Credentials:
    given = [str(value) for key, value in context.invocation_metadata() or () if key == "authorization"]
    pem = next(iter(context.auth_context().get("x509_pem_cert", [])), b"")
    if not pem:
        return Credentials(", ".join(given))
    certificate = presented(pem)
    return Credentials(", ".join(given), certificate.uris, certificate.serial)


class OperatorInterceptor(grpc.aio.ServerInterceptor):
    """Nothing of the operator service runs without it; agents' services pass untouched."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        handler = await continuation(details)
        method = details.method
        if not method.startswith(SERVICE):
            return handler
        if handler is None:  # who is not known learns nothing about which methods there are
            return grpc.unary_unary_rpc_method_handler(self._single(method, _nobody))
        coding = (handler.request_deserializer, handler.response_serializer)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(self._stream(method, handler.unary_stream), *coding)
        return grpc.unary_unary_rpc_method_handler(self._single(method, handler.unary_unary), *coding)

    async def _enter(self, method: str, context: Any) -> Principal:
        try:
            return await self._calls.enter(method, _credentials(context))
        except UnauthenticatedError as error:
            log.warning(
                "call without a credential that holds",
                method=method,
                peer=context.peer(),
                code=error.code,
            )
            await fail(context, error)
        except (DeniedError, AuditError) as error:
            await fail(context, error)

    async def _sound(self, request: Any, context: Any) -> None:
        if isinstance(request, Message):  # of no method there are only bytes
            try:
                self._calls.check_texts(request)
            except MusterError as error:
                await fail(context, error)

    async def _leave(
        self, method: str, principal: Principal, request: Message, context: Any, result: str, code: str
    ) -> None:
        """What cannot be written down is not answered."""
        try:
            await self._calls.leave(method, principal, request, result, code)
        except MusterError as error:
            await context.abort(grpc.StatusCode.INTERNAL, carried(str(error)))

    def _single(self, method: str, behaviour: Any) -> Any:
        async def call(request: Any, context: Any) -> Any:
            principal = await self._enter(method, context)
            try:
                await self._sound(request, context)
                answer = await behaviour(request, context)
            except BaseException:
                result, code = _outcome(context)
                await self._leave(method, principal, request, context, result, code)
                raise
            await self._leave(method, principal, request, context, "ok", "")
            return answer

        return call

    def _stream(self, method: str, behaviour: Any) -> Any:
        """Written down when it begins; ends when the credential does."""

        async def call(request: Any, context: Any) -> Any:
            principal = await self._enter(method, context)
            await self._sound(request, context)
            await self._leave(method, principal, request, context, "ok", "")
            credentials, items = _credentials(context), behaviour(request, context)
            following = asyncio.ensure_future(anext(items, None))
            try:
                while True:
                    done, _ = await asyncio.wait({following}, timeout=RECHECK_SECONDS)
                    if not done:
                        await self._still(method, credentials, context)
                        continue
                    item = following.result()
                    if item is None:
                        return
                    following = asyncio.ensure_future(anext(items, None))
                    yield item
            finally:
                following.cancel()
                await asyncio.wait({following})
                await items.aclose()

        return call

    async def _still(self, method: str, credentials: Credentials, context: Any) -> None:
        try:
            await self._calls.still(method, credentials)
        except (UnauthenticatedError, DeniedError) as error:
            await fail(context, error)


def _outcome(context: Any) -> tuple[str, str]:
    """The result and the code that the audit log gets for a call that ended with an error."""
    status = context.code()
    if not isinstance(status, grpc.StatusCode):
        status = next((one for one in grpc.StatusCode if one.value[0] == status), grpc.StatusCode.UNKNOWN)
    text = context.details() or ""
    word = (text.decode() if isinstance(text, bytes) else text).partition(" ")[0]
    result = "failed" if status is grpc.StatusCode.OK else _RESULTS.get(status, "failed")
    return result, word if word.startswith("MUSTER-") else ""


async def _nobody(request: Any, context: Any) -> Any:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "there is no such method")


class OperatorServicer(operator_pb2_grpc.OperatorServicer):
    """Passes on; who gets here was let in by :class:`OperatorInterceptor`."""

    def __init__(self, api: OperatorApi, credentials: CredentialApi, audits: AuditApi) -> None:
        self._api, self._credentials, self._audits = api, credentials, audits
        self._directives, self._joins = DirectiveApi(api.engine), JoinApi(api.engine)
        self._freezes = FreezeApi(api.engine)
        self._history = HistoryApi(api.engine, api.store, api.watchers)

    async def _answer(self, context: grpc.aio.ServicerContext[Any, Any], call: Callable[[], Any]) -> Any:
        try:
            result = call()
            return await result if isinstance(result, Awaitable) else result
        except MusterError as error:
            await fail(context, error)

    async def GetInfo(self, request: op.GetInfoRequest, context: Any) -> op.Info:
        return await self._answer(context, self._api.info)  # type: ignore[no-any-return]

    async def Refresh(self, request: op.RefreshRequest, context: Any) -> op.Info:
        return await self._answer(context, self._api.refresh)  # type: ignore[no-any-return]

    async def CreateToken(self, request: op.CreateTokenRequest, context: Any) -> op.CreateTokenResponse:
        return await self._answer(context, lambda: self._api.create_token(request))  # type: ignore[no-any-return]

    async def ListTokens(self, request: op.ListTokensRequest, context: Any) -> op.TokenList:
        return await self._answer(context, self._api.list_tokens)  # type: ignore[no-any-return]

    async def RejectJoin(self, request: op.GetRequest, context: Any) -> op.ClusterView:
        return await self._answer(context, lambda: self._joins.reject(request.name))  # type: ignore[no-any-return]

    async def ListJoins(self, request: op.ListJoinsRequest, context: Any) -> op.JoinList:
        return await self._answer(context, self._api.list_joins)  # type: ignore[no-any-return]

    async def ListClusters(self, request: op.ListClustersRequest, context: Any) -> op.ClusterList:
        return await self._answer(context, lambda: self._api.list_clusters(request.selector))  # type: ignore[no-any-return]

    async def ListBundles(self, request: op.ListBundlesRequest, context: Any) -> op.BundleList:
        return await self._answer(context, lambda: self._api.list_bundles(request))  # type: ignore[no-any-return]

    async def ListRollouts(self, request: op.ListRolloutsRequest, context: Any) -> op.RolloutList:
        return await self._answer(context, lambda: self._api.list_rollouts(request.bundle))  # type: ignore[no-any-return]

    async def GetCluster(self, request: op.GetRequest, context: Any) -> op.ClusterView:
        return await self._answer(context, lambda: self._api.get_cluster(request.name))  # type: ignore[no-any-return]

    async def GetBundle(self, request: op.GetRequest, context: Any) -> op.BundleView:
        return await self._answer(context, lambda: self._api.get_bundle(request.name))  # type: ignore[no-any-return]

    async def GetRollout(self, request: op.GetRequest, context: Any) -> op.RolloutView:
        return await self._answer(context, lambda: self._api.get_rollout(request.name))  # type: ignore[no-any-return]

    async def StartRollout(self, request: op.StartRolloutRequest, context: Any) -> op.RolloutView:
        return await self._answer(context, lambda: self._api.start_rollout(request))  # type: ignore[no-any-return]

    async def ActOnRollout(self, request: op.ActOnRolloutRequest, context: Any) -> op.RolloutView:
        return await self._answer(context, lambda: self._api.act(request))  # type: ignore[no-any-return]

    async def RollBack(self, request: op.RollBackRequest, context: Any) -> op.RolloutView:
        return await self._answer(context, lambda: self._api.roll_back(request))  # type: ignore[no-any-return]

    async def RenewDirective(self, request: op.RenewDirectiveRequest, context: Any) -> op.BundleView:
        return await self._answer(context, lambda: self._directives.renew(request))  # type: ignore[no-any-return]

    async def AcknowledgeFloor(self, request: op.GetRequest, context: Any) -> op.ClusterView:
        return await self._answer(context, lambda: self._directives.acknowledge_floor(request.name))  # type: ignore[no-any-return]

    async def ListOwed(self, request: op.ListOwedRequest, context: Any) -> op.OwedList:
        return await self._answer(context, lambda: self._directives.owed(request))  # type: ignore[no-any-return]

    async def CreateFreeze(self, request: op.CreateFreezeRequest, context: Any) -> op.Freeze:
        return await self._answer(context, lambda: self._freezes.create(request))  # type: ignore[no-any-return]

    async def DeleteFreeze(self, request: op.GetRequest, context: Any) -> op.Freeze:
        return await self._answer(context, lambda: self._freezes.delete(request.name))  # type: ignore[no-any-return]

    async def ListFreezes(self, request: op.ListFreezesRequest, context: Any) -> op.FreezeList:
        return await self._answer(context, lambda: self._freezes.list(self._api.clock()))  # type: ignore[no-any-return]

    async def Explain(self, request: op.ExplainRequest, context: Any) -> op.Explanation:
        return await self._answer(context, lambda: self._api.explain(request))  # type: ignore[no-any-return]

    async def IssueCertificate(
        self, request: op.IssueCertificateRequest, context: Any
    ) -> op.OperatorCertificate:
        return await self._answer(context, lambda: self._credentials.issue(request))  # type: ignore[no-any-return]

    async def ListOperators(self, request: op.ListOperatorsRequest, context: Any) -> op.OperatorList:
        return await self._answer(context, self._credentials.list)  # type: ignore[no-any-return]

    async def RevokeOperator(self, request: op.RevokeOperatorRequest, context: Any) -> op.OperatorList:
        return await self._answer(context, lambda: self._credentials.revoke(request))  # type: ignore[no-any-return]

    async def ListAuditHeads(self, request: op.ListAuditHeadsRequest, context: Any) -> op.AuditHeadList:
        return await self._answer(context, self._audits.heads)  # type: ignore[no-any-return]

    async def AcknowledgeHead(self, request: op.AcknowledgeHeadRequest, context: Any) -> op.AuditHead:
        return await self._answer(context, lambda: self._audits.acknowledge(request))  # type: ignore[no-any-return]

    async def ListEvents(self, request: op.ListEventsRequest, context: Any) -> AsyncIterator[op.RolloutEvent]:
        events = self._history.events(request)
        try:
            async for event in events:
                yield event
        except MusterError as error:
            await fail(context, error)
        finally:
            await events.aclose()  # type: ignore[attr-defined]

    async def ListAudit(self, request: op.ListAuditRequest, context: Any) -> AsyncIterator[op.AuditLine]:
        try:
            async for line in self._audits.lines(request):
                yield line
        except MusterError as error:
            await fail(context, error)

    async def Watch(self, request: op.WatchRequest, context: Any) -> AsyncIterator[op.Event]:
        events = self._api.watch(request)
        try:
            async for event in events:
                yield event
        finally:
            await events.aclose()  # type: ignore[attr-defined]
