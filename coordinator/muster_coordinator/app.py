"""The composition of the coordinator: builds every part once and starts one task group.

Owns the first start (CA, certificates, admin token, context file) and the order of waiting and leading. Nothing else builds
adapters or reads settings.
"""

from __future__ import annotations

import datetime as dt
import gc
import json
import random
import secrets
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.to_thread
import structlog
from muster_core.addresses import is_wildcard
from muster_host import probes
from muster_host.auditlog import AuditLog
from prometheus_client import CollectorRegistry

from muster_coordinator import folder as files
from muster_coordinator import leadership
from muster_coordinator.access.calls import Calls
from muster_coordinator.access.issuer import IssuerKeys, https_fetch
from muster_coordinator.access.oidc import OidcSettings, TokenVerifier
from muster_coordinator.access.operators import OperatorBooks
from muster_coordinator.access.principal import Access
from muster_coordinator.api.audits import AuditApi
from muster_coordinator.api.credentials import CredentialApi
from muster_coordinator.api.operator import OperatorApi
from muster_coordinator.api.watchers import Watchers
from muster_coordinator.audit.database import DatabaseWitness
from muster_coordinator.audit.exchange import HeadExchange
from muster_coordinator.audit.keeper import HeadKeeper
from muster_coordinator.audit.registry import ACTOR, certified, noted, read_before
from muster_coordinator.catalog.catalog import Catalog, Reading
from muster_coordinator.catalog.repository import FleetRepository
from muster_coordinator.enrol.enrolment import Enrolment
from muster_coordinator.enrol.x509 import Authority, write_private
from muster_coordinator.errands import Errands
from muster_coordinator.link.agents import LinkServicer
from muster_coordinator.link.listeners import Listener, edge_servicers, link_servicers, listen, taken
from muster_coordinator.link.operators import OperatorServicer
from muster_coordinator.notify.desk import Desk
from muster_coordinator.notify.settings import Endpoint, read_endpoints
from muster_coordinator.obs.metrics import Metrics
from muster_coordinator.rollout.effects import Effects
from muster_coordinator.rollout.engine import Engine
from muster_coordinator.settings import Address, Oidc, Settings
from muster_coordinator.store.sql.postgres import PostgresPlace
from muster_coordinator.store.sql.store import SqlStore

log = structlog.get_logger()

BEAT_SECONDS = 60
BACKOFF_SECONDS = (1, 30)
# Until then every agent that lives has tried to come back, at the longest of its pauses.
GRACE_SECONDS = BACKOFF_SECONDS[1] + 15.0
STOP_GRACE = 2.0
# An earlier leader on the same machine that lost its seat has let go of its addresses by then.
HANDOVER = 10.0
STANDBY = "standby: another coordinator leads"
# Sessions are many objects that stay: with the interpreter's 700 a wave sets off a look through all of them again and again.
# 20,000 is some tens of frames; the oldest generation is looked at rarely, since what is in it is the fleet itself.
COLLECT_AFTER = (20_000, 20, 100)


def _token(path: Path) -> str:
    if not path.exists():
        write_private(path, secrets.token_urlsafe(32).encode())
    return path.read_text().strip()


def _verifier(given: Oidc | None) -> TokenVerifier | None:
    """``MUSTER-V064`` for an issuer that is no https URL."""
    if given is None:
        return None
    keys = IssuerKeys(given.issuer, https_fetch(given.ca_file), time.monotonic)
    settings = OidcSettings(
        given.issuer, given.audience, given.roles, given.groups_claim, given.name_claim, given.required
    )
    return TokenVerifier(settings, keys)


async def serve(settings: Settings) -> None:
    """Runs until SIGTERM or SIGINT. Prints one JSON line when it waits as a standby, and one when it is ready."""
    gc.set_threshold(*COLLECT_AFTER)
    told = read_endpoints(settings.notify) if settings.notify else ()
    with files.claimed(settings.data_dir):
        if settings.database is None:
            authority = _authority(settings)
            store = await SqlStore.open(settings.data_dir / files.DATABASE)
            await _lead(settings, authority, store, told)
            return
        place = PostgresPlace(settings.database)
        try:
            leadership.check_files(await leadership.known(place), settings.data_dir)
            authority = _authority(settings)
            identity = leadership.Identity(
                settings.name,
                files.instance(settings.data_dir),
                leadership.fingerprints(authority.pem),
                settings.data_dir,
            )
            settings, leads = await _stand_by(settings, place, identity)
            if not leads:
                return
            store = await leadership.begin(place, identity)
            async with anyio.create_task_group() as group:
                group.start_soon(leadership.keep, place, store)
                await _lead(settings, authority, store, told, HANDOVER)
                group.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(place.close)


def _authority(settings: Settings) -> Authority:
    return Authority.load_or_make(settings.data_dir, dt.datetime.now(dt.UTC), settings.certificate_life)


async def _stand_by(
    settings: Settings, place: PostgresPlace, identity: leadership.Identity
) -> tuple[Settings, bool]:
    """Waits for the seat with nothing open but the probes; the settings with the probes' port, and whether it leads now."""
    leads, waits = anyio.Event(), anyio.Event()
    at = settings.metrics

    async def wait() -> None:
        await leadership.wait_to_lead(place, identity, waits.set)
        leads.set()
        waits.set()

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await waits.wait()
        if not leads.is_set():
            with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                try:
                    port = await group.start(
                        probes.serve, at.host, at.port, CollectorRegistry(), lambda: STANDBY
                    )
                except OSError as error:
                    raise taken(str(at)) from error
                at = Address(at.host, port)
                _say({"event": "standby", "metrics": str(at)})
                log.info("waiting as a standby: another coordinator leads", database=str(settings.database))

                async def stop() -> None:
                    async for number in signals:
                        log.info("stopping", signal=signal.Signals(number).name)
                        group.cancel_scope.cancel()
                        return

                group.start_soon(stop)
                await leads.wait()
                log.info("this coordinator leads now", database=str(settings.database))
        group.cancel_scope.cancel()
    return replace(settings, metrics=at), leads.is_set()


async def _lead(
    settings: Settings,
    authority: Authority,
    store: SqlStore,
    endpoints: Sequence[Endpoint],
    patience: float = 0.0,
) -> None:
    """From the store to the end. ``patience`` is how long, in seconds, addresses may still be taken."""
    data, clock = settings.data_dir, time.time
    token = _token(data / files.ADMIN_TOKEN)
    verifier = _verifier(settings.oidc)
    writer = f"coordinator/{settings.name}"
    audit = await AuditLog.open(data / files.AUDIT, writer, clock)
    books = await OperatorBooks.open(store, authority, clock)
    keeper = await HeadKeeper.open(store, audit)
    calls = Calls(Access(token, verifier, books.require), audit)
    repository = FleetRepository.open(
        data / files.MIRROR, settings.repository, settings.branch, settings.git_ca_file
    )
    watchers = Watchers()
    late: list[OperatorApi] = []
    metrics_of: list[Metrics] = []
    errands_of: list[Errands] = []

    def publish(effects: Effects) -> None:
        if metrics_of:
            metrics_of[0].reports.inc(len(effects.batch.reports))
            if effects.batch.reports:
                metrics_of[0].report_commit.observe(effects.commit_seconds)
            if effects.read:
                metrics_of[0].wake.observe(effects.taken_seconds)
        if late:
            late[0].publish(effects)
        if errands_of:
            errands_of[0].heard(effects)

    engine = Engine(store, clock, publish, GRACE_SECONDS, Desk(endpoints), GRACE_SECONDS)
    await engine.load()

    async def changed(reading: Reading) -> None:
        before, joins = engine.state.reading, [cluster.join for cluster in engine.state.clusters.values()]
        known = read_before(before.clusters) if before.heads.commit else certified(joins)
        for action, thing, detail in noted(known, reading.clusters, reading.heads.registry):
            audit.record(action, actor=ACTOR, object=thing, **detail)
        await engine.ask(engine.read_catalog(reading))

    HeadExchange(engine, keeper)
    DatabaseWitness(engine, audit)
    catalog = Catalog(repository, settings.poll_seconds, changed)
    enrolment = Enrolment(engine, store, authority, clock, audit)
    servicer = LinkServicer(engine, enrolment, clock, BEAT_SECONDS, BACKOFF_SECONDS)
    metrics = Metrics(engine.state, lambda: servicer.streams, clock)
    metrics_of.append(metrics)
    errands_of.append(
        Errands(
            engine,
            clock,
            random.uniform,
            lambda name, result: metrics.notifications.labels(name, result).inc(),
        )
    )
    engine.agents.strays.tally = lambda why: metrics.reports_ignored.labels(why).inc()
    enrolment.renewing = lambda result: metrics.renewals.labels(result).inc()
    hosts = [
        address.rpartition(":")[0].strip("[]")
        for address in (settings.advertise_link, settings.advertise_edge)
        if address
    ]
    certificate = authority.server([*hosts, settings.link.host, settings.edge.host], dt.datetime.now(dt.UTC))
    listeners: list[Listener] = []
    stack = ExitStack()
    # From here on: who stops it while it starts gets a whole start and a whole end.
    signals = stack.enter_context(anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT))
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(audit.run)
            group.start_soon(keeper.run)
            group.start_soon(engine.run)
            group.start_soon(errands_of[0].run)
            api = OperatorApi(
                engine,
                catalog,
                store,
                watchers,
                clock,
                secrets.token_bytes,
                authority.pem,
                (
                    settings.advertise_link or str(settings.link),
                    settings.advertise_edge or str(settings.edge),
                ),
            )
            operators = OperatorServicer(
                api,
                CredentialApi(books, audit, authority.pem, lambda: _from_here(api.addresses[0])),
                AuditApi(audit, keeper, writer),
            )
            link = await listen(
                str(settings.link),
                certificate,
                authority.pem,
                *link_servicers(servicer, operators),
                calls=calls,
                patience=patience,
            )
            listeners.append(link)
            link_address = settings.advertise_link or str(Address(settings.link.host, link.port))
            edge = await listen(
                str(settings.edge),
                certificate,
                None,
                *edge_servicers(enrolment, operators),
                calls=calls,
                patience=patience,
            )
            listeners.append(edge)
            edge_address = settings.advertise_edge or str(Address(settings.edge.host, edge.port))
            api.addresses = (link_address, edge_address)
            late.append(api)
            try:
                port = await group.start(
                    probes.serve,
                    settings.metrics.host,
                    settings.metrics.port,
                    metrics.registry,
                    lambda: _unready(catalog),
                )
            except OSError as error:
                raise taken(str(settings.metrics)) from error
            context = {
                "name": settings.name,
                "edge": _from_here(edge_address),
                "ca_pem_file": str((data / files.AUTHORITY[0]).resolve()),
                "token_file": str((data / files.ADMIN_TOKEN).resolve()),
            }
            write_private(data / files.CONTEXT, json.dumps(context, indent=2).encode())
            group.start_soon(catalog.run)
            ready = {
                "event": "ready",
                "edge": edge_address,
                "link": link_address,
                "metrics": str(Address(settings.metrics.host, port)),
                "context": str((data / files.CONTEXT).resolve()),
            }
            _say(ready)
            for flag, address in (("--advertise-link", link_address), ("--advertise-edge", edge_address)):
                if is_wildcard(address):
                    log.warning(
                        "no cluster can reach this address: name one that they can, or no token is made",
                        address=address,
                        flag=f"{flag} HOST:PORT",
                    )
            log.info("coordinator is ready", edge=edge_address, link=link_address)
            async for number in signals:
                log.info("stopping", signal=signal.Signals(number).name)
                break
            await edge.server.stop(STOP_GRACE)
            await link.server.stop(STOP_GRACE)
            group.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            for listener in listeners:  # also those of a start that came to nothing
                await listener.server.stop(None)
            await engine.aclose()
            await store.close()
            repository.close()
            stack.close()


def _from_here(address: str) -> str:
    """How programs on this machine reach a listener of ours."""
    return str(Address("127.0.0.1", Address.parse(address).port)) if is_wildcard(address) else address


def _say(event: dict[str, str]) -> None:
    sys.stdout.write(_told(event) + "\n")
    sys.stdout.flush()


def _told(ready: dict[str, str]) -> str:
    """One JSON line for programs; words for a person at a terminal."""
    if not sys.stdout.isatty():
        return json.dumps(ready)
    if ready["event"] == "standby":
        return (
            f"Another coordinator leads. This one waits to take over; its probes are at {ready['metrics']}."
        )
    return (
        f"The coordinator is ready: edge {ready['edge']}, link {ready['link']}, metrics {ready['metrics']}.\n"
        f"Next, in your checkout: export MUSTER_CONTEXT={ready['context']}"
    )


def _unready(catalog: Catalog) -> str:
    """Why nothing can be rolled out yet, or nothing."""
    return catalog.error or ("" if catalog.reading.heads.commit else "the fleet repository was not read yet")
