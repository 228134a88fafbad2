"""The composition of the agent: builds every part once and starts one task group.

Nothing else builds adapters or reads settings.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Awaitable, Callable

import anyio
import structlog
from muster_core.errors import MusterError
from muster_core.manifest.objects import ObjectRef
from muster_core.session.backoff import Backoff
from muster_core.token import JoinToken
from muster_host import probes
from muster_host.auditlog import AuditLog

from muster_agent.admission import Desired
from muster_agent.cluster.kube import KubeCluster
from muster_agent.identity import join as joining
from muster_agent.identity.publish import publish
from muster_agent.link import client
from muster_agent.link.session import LinkSession, load_outbox
from muster_agent.obs.metrics import Metrics
from muster_agent.reconcile.runner import Reconciler
from muster_agent.render.renderer import Renderer, find_kustomize
from muster_agent.settings import Settings
from muster_agent.source.repository import SourceRepository
from muster_agent.state.files import FileState
from muster_agent.state.records import Enrolment
from muster_agent.trust.floors import FloorKeeper
from muster_agent.trust.keeper import TrustKeeper
from muster_agent.witness import Witness

log = structlog.get_logger()


async def _patiently(what: Callable[[], Awaitable[str]]) -> str:
    """Waits for an API server that is not up yet."""
    backoff = Backoff(random.uniform, 0.5, 10.0)
    while True:
        try:
            return await what()
        except MusterError as error:
            if not error.retryable:
                raise
            log.warning("the API server is not there yet", error=str(error))
        await anyio.sleep(backoff.next_delay())


async def serve(settings: Settings) -> None:
    """Until SIGTERM or SIGINT. A refused token, or a mode that is not built, ends it with an error."""
    clock, uniform = time.time, random.uniform
    state = FileState(settings.state_dir)
    api = await KubeCluster.connect(settings.kubeconfig)
    metrics = Metrics()
    source: SourceRepository | None = None
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(_stop_on_signal, group.cancel_scope)
            group.start_soon(state.run)
            ready = ["not joined yet"]
            await group.start(
                probes.serve, settings.metrics_host, settings.metrics_port, metrics.registry, lambda: ready[0]
            )
            uid = await _patiently(api.uid)
            version = await _patiently(api.version)
            identity = joining.load_identity(state)
            await publish(api, settings.namespace, identity)
            writer = f"cluster/{uid}"
            audit = await AuditLog.open(settings.state_dir / "audit", writer, clock)
            witness = Witness(audit, writer)
            group.start_soon(audit.run)
            token = JoinToken.decode(settings.token) if settings.token else None
            enrolment = joining.enrolment_of(state, token, settings.cluster, uid)
            if enrolment.mode == "open":
                log.warning("the fleet's mode is open: nothing is signed, whoever can push can deploy")

            async def rejoin(known: Enrolment) -> Enrolment:
                joined = await joining.join(state, identity, known, client.join, Backoff(uniform))
                if known.certificate:
                    witness.renewal(joined)
                else:
                    witness.joined(joined, joining.identity_key(identity).public.hex())
                return joined

            if not enrolment.certificate:
                enrolment = await rejoin(enrolment)
            repository = enrolment.repositories[0]
            source = SourceRepository(
                settings.state_dir / "fleet.git",
                repository.url,
                repository.branch,
                settings.git_ca_file,
                repository.anchor,
            )
            home = ObjectRef("v1", "Namespace", "", settings.namespace)
            if await api.get(home) is None:
                await api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": home.name}})
            keeper = TrustKeeper(state, source, enrolment, clock)
            floors = FloorKeeper(state, source, api, settings.namespace)
            desired = Desired(
                source,
                keeper,
                floors,
                enrolment,
                joining.identity_key(identity).public,
                [joining.sealing_key(identity)],
                Renderer(find_kustomize(settings.kustomize)),
                witness,
                metrics.judged,
            )
            outbox = load_outbox(state, os.urandom(8).hex())
            reconciler: Reconciler
            link = LinkSession(
                state,
                identity,
                enrolment,
                outbox,
                lambda frame: reconciler.receive(frame),
                Backoff(uniform),
                clock,
                version,
                rejoin,
                audit,
                witness,
            )
            reconciler = Reconciler(
                api, source, desired, state, settings.namespace, link.say, clock, uniform, metrics, witness
            )
            link.resend = reconciler.resend
            link.removed = lambda: reconciler.removed
            link.spooled = metrics.spool.set
            link.sent, link.received = metrics.sent, metrics.received
            ready[0] = ""
            await group.start(reconciler.run, settings.poll_seconds)
            group.start_soon(link.run)
    finally:
        with anyio.CancelScope(shield=True):
            await api.aclose()
            if source:
                source.close()
            state.close()


async def _stop_on_signal(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            log.info("stopping", signal=signal.Signals(number).name)
            scope.cancel()
            return
