"""The operator service as gRPC carries it.

Owns the check of the credential and the way of every call to the API. It decides nothing.
"""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from muster_core.errors import LinkError, MusterError
from muster_proto.v1 import operator_pb2 as op
from muster_proto.v1 import operator_pb2_grpc

from muster_coordinator.api.directives import DirectiveApi
from muster_coordinator.api.operator import OperatorApi
from muster_coordinator.link.statuses import fail


class OperatorServicer(operator_pb2_grpc.OperatorServicer):
    """Checks the credential, then passes on."""

    def __init__(self, api: OperatorApi, token: str) -> None:
        self._api, self._token = api, f"Bearer {token}".encode()
        self._directives = DirectiveApi(api.engine)

    async def _answer(self, context: grpc.aio.ServicerContext[Any, Any], call: Callable[[], Any]) -> Any:
        await self._admit(context)
        try:
            result = call()
            return await result if isinstance(result, Awaitable) else result
        except MusterError as error:
            await fail(context, error)

    async def _admit(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        given = dict(context.invocation_metadata() or ()).get("authorization", "")
        if not hmac.compare_digest(str(given).encode(), self._token):
            error = LinkError(
                "L001",
                "this needs an operator's credential",
                hint="Use the context file that `muster serve` wrote.",
            )
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))

    async def GetInfo(self, request: op.GetInfoRequest, context: Any) -> op.Info:
        return await self._answer(context, self._api.info)  # type: ignore[no-any-return]

    async def Refresh(self, request: op.RefreshRequest, context: Any) -> op.Info:
        return await self._answer(context, self._api.refresh)  # type: ignore[no-any-return]

    async def CreateToken(self, request: op.CreateTokenRequest, context: Any) -> op.CreateTokenResponse:
        return await self._answer(context, lambda: self._api.create_token(request))  # type: ignore[no-any-return]

    async def ListTokens(self, request: op.ListTokensRequest, context: Any) -> op.TokenList:
        return await self._answer(context, self._api.list_tokens)  # type: ignore[no-any-return]

    async def ListJoins(self, request: op.ListJoinsRequest, context: Any) -> op.JoinList:
        return await self._answer(context, self._api.list_joins)  # type: ignore[no-any-return]

    async def ListClusters(self, request: op.ListClustersRequest, context: Any) -> op.ClusterList:
        return await self._answer(context, lambda: self._api.list_clusters(request.selector))  # type: ignore[no-any-return]

    async def ListBundles(self, request: op.ListBundlesRequest, context: Any) -> op.BundleList:
        return await self._answer(context, lambda: self._api.list_bundles(request.selector))  # type: ignore[no-any-return]

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

    async def RenewDirective(self, request: op.RenewDirectiveRequest, context: Any) -> op.BundleView:
        return await self._answer(context, lambda: self._directives.renew(request))  # type: ignore[no-any-return]

    async def AcknowledgeFloor(self, request: op.GetRequest, context: Any) -> op.ClusterView:
        return await self._answer(context, lambda: self._directives.acknowledge_floor(request.name))  # type: ignore[no-any-return]

    async def ListOwed(self, request: op.ListOwedRequest, context: Any) -> op.OwedList:
        return await self._answer(context, lambda: self._directives.owed(request))  # type: ignore[no-any-return]

    async def Explain(self, request: op.ExplainRequest, context: Any) -> op.Explanation:
        return await self._answer(context, lambda: self._api.explain(request))  # type: ignore[no-any-return]

    async def Watch(self, request: op.WatchRequest, context: Any) -> AsyncIterator[op.Event]:
        await self._admit(context)
        events = self._api.watch(request)
        try:
            async for event in events:
                yield event
        finally:
            await events.aclose()  # type: ignore[attr-defined]
