"""Carries out what the bundles' machines say.

Owns one task a bundle, the order of its commands, the looks at Git and registry, and what is said to the coordinator. An
error of one bundle is that bundle's; the process stays up. It never decides: the machine does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import anyio
import anyio.to_thread
import structlog
from anyio.abc import TaskGroup, TaskStatus
from muster_core.apply.applyset import set_id
from muster_core.errors import KubernetesError, MusterError
from muster_core.manifest.objects import Manifest
from muster_core.policy import Verdict
from muster_core.session.backoff import Backoff
from muster_core.times import format_time
from muster_proto.v1 import link_pb2 as wire

from muster_agent.admission import Desired, Early
from muster_agent.cluster.observe import Observer
from muster_agent.cluster.port import ClusterApi
from muster_agent.cluster.surroundings import Surroundings, look_around
from muster_agent.gate import DeniedError
from muster_agent.obs.metrics import Metrics
from muster_agent.reconcile import events as ev
from muster_agent.reconcile.holding import MAX_KEPT, Holding, Holdings, said
from muster_agent.reconcile.machine import BundleMachine
from muster_agent.reconcile.messages import Admitted, Standing, offered_of, record_of, report_of
from muster_agent.source.repository import Heads, SourceRepository
from muster_agent.state.port import StatePort
from muster_agent.state.records import BundleRecord, OfferRecord
from muster_agent.witness import Witness

log = structlog.get_logger()

MAX_BUNDLES = 500
MAX_EVENTS = 256
LONGEST_SLEEP = 60.0  # seconds: a system clock that is set forward is seen by then
SETTLE = 0.05


@dataclass(slots=True)
class _Bundle:
    machine: BundleMachine
    held: Holding
    events: list[ev.Event] = field(default_factory=list)
    due: anyio.Event = field(default_factory=anyio.Event)
    verdicts: tuple[Verdict, ...] = ()
    last_report: bytes = b""


class Reconciler:
    """``say(key, frame)`` queues what goes to the coordinator; ``clock`` gives unix seconds."""

    def __init__(
        self,
        api: ClusterApi,
        source: SourceRepository,
        desired: Desired,
        state: StatePort,
        namespace: str,
        say: Callable[[str, wire.AgentFrame], None],
        clock: Callable[[], float],
        uniform: Callable[[float, float], float],
        metrics: Metrics,
        witness: Witness,
    ) -> None:
        self._api, self._source, self._desired, self._state, self._namespace = (
            api,
            source,
            desired,
            state,
            namespace,
        )
        self._say, self._clock, self._uniform, self._metrics = say, clock, uniform, metrics
        self._witness = witness
        self.observer = Observer(api, self._changed, uniform)
        self._holdings = Holdings(api, self.observer, state, namespace, metrics, witness)
        self.removed = False
        self._bundles: dict[str, _Bundle] = {}
        self._sets: dict[str, str] = {}
        self._group: TaskGroup | None = None
        self._fetching = anyio.Lock()
        self._wake_fetch = anyio.Event()
        self.head = Heads("", "")

    # --- life ----------------------------------------------------------------------------------------------------

    async def run(self, poll: float, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Starts with what is on disk, then follows events for ever; started when :meth:`receive` may be called."""
        await self._load()
        async with anyio.create_task_group() as group:
            self._group = group
            await group.start(self.observer.run)
            for name in self._state.names("bundle/"):
                record = self._state.get(name, BundleRecord)
                if record:
                    self._start(record)
            task_status.started()
            group.start_soon(self._follow_heads, poll)

    async def _load(self) -> None:
        """Waits for an API server that is away: without it nobody knows whether floors were lost."""
        backoff = Backoff(self._uniform, 0.5, 30.0)
        while True:
            try:
                return await self._desired.load()
            except MusterError as error:
                if not error.retryable:
                    raise
                log.warning("the cluster's own record of floors cannot be read yet", error=str(error))
            await anyio.sleep(backoff.next_delay())

    def _start(self, record: BundleRecord) -> _Bundle:
        bundle = _Bundle(BundleMachine(record), self._holdings.known(record.bundle))
        self._bundles[record.bundle] = bundle
        self._sets[set_id(record.bundle, self._namespace)] = record.bundle
        if self._group is None:
            raise RuntimeError("the reconciler does not run")
        self._group.start_soon(self._drive, record.bundle, bundle)
        return bundle

    async def _drive(self, name: str, bundle: _Bundle) -> None:
        """One bundle's life: events in order, commands in order."""
        await self._safely(name, bundle, bundle.machine.start(self._clock()))
        while True:
            wake = bundle.machine.next_wake()
            delay = min(max(0.0, wake - self._clock()), LONGEST_SLEEP) if wake is not None else 3600.0
            with anyio.move_on_after(delay):
                await bundle.due.wait()
            bundle.due = anyio.Event()
            events, bundle.events = bundle.events or [ev.Tick()], []
            for event in dict.fromkeys(events):
                await self._safely(name, bundle, bundle.machine.handle(event, self._clock()))
            if ev.Changed() in events:
                await anyio.sleep(SETTLE)  # a burst of events is looked at once

    async def _safely(self, name: str, bundle: _Bundle, commands: list[ev.Command]) -> None:
        """A fault of ours in one bundle is that bundle's: it is told with its place, and the others go on."""
        try:
            await self._perform(name, bundle, commands)
        except Exception as error:
            log.exception("a fault of the agent itself", bundle=name)
            what = f"a fault of the agent itself ({type(error).__name__}); its log says where"
            await self._perform(name, bundle, bundle.machine.fault(what, self._clock()))

    def _tell(self, name: str, event: ev.Event) -> None:
        bundle = self._bundles[name]
        if isinstance(event, ev.Offered):  # the newest offer counts; the others were not looked at yet
            bundle.events = [known for known in bundle.events if not isinstance(known, ev.Offered)]
        elif len(bundle.events) >= MAX_EVENTS:
            return
        bundle.events.append(event)
        bundle.due.set()

    def _changed(self, applyset: str) -> None:
        name = self._sets.get(applyset)
        if name:
            self._tell(name, ev.Changed())

    # --- from the coordinator --------------------------------------------------------------------------------------

    async def receive(self, frame: wire.HubFrame) -> None:
        """An offer, a withdrawal, or news of a head."""
        if frame.HasField("offer"):
            record = record_of(frame.offer)
            if record is None:
                log.warning("an offer that is none was ignored", rollout=frame.offer.rollout[:80])
                return
            name = record.release.bundle
            if name not in self._bundles:
                if len(self._bundles) >= MAX_BUNDLES:
                    log.warning("an offer of one bundle too many was ignored", bundle=name, limit=MAX_BUNDLES)
                    return
                self._start(BundleRecord(bundle=name))
            closed = self._desired.closed_until(record)
            self._tell(name, ev.Offered(record, closed))
        elif frame.HasField("withdraw") and frame.withdraw.bundle in self._bundles:
            self._tell(frame.withdraw.bundle, ev.Withdrawn(frame.withdraw.rollout, frame.withdraw.attempt))
        elif frame.HasField("floor_acknowledged"):
            self._desired.acknowledge_floor(frame.floor_acknowledged.commit)
            for name, bundle in self._bundles.items():
                self._report(name, bundle)
                self._tell(name, ev.Changed())
        elif frame.HasField("welcome"):
            await self._desired.greeted(frame.welcome.floor_commit)
            self._wake_fetch.set()
        elif frame.HasField("head") and (frame.head.commit, frame.head.registry_commit) != self.head:
            self._wake_fetch.set()

    async def _follow_heads(self, poll: float) -> None:
        while True:
            self._wake_fetch = anyio.Event()
            try:
                await self._fetch()
            except MusterError as error:
                log.warning("the last good state stays", error=str(error))
            await self._look_for_leaving()
            self._look_for_due()
            try:
                await self._look_for_deselected()
            except MusterError as error:
                log.warning("whether bundles still target this cluster is not known", error=str(error))
            with anyio.move_on_after(poll):
                await self._wake_fetch.wait()

    async def _fetch(self) -> None:
        async with self._fetching:
            with self._metrics.git_fetch.time():
                heads = await self._source.fetch()
            try:
                await self._desired.accept(heads)
            finally:
                self.head = heads
                await self._rest()

    def _look_for_due(self) -> None:
        """Who waits for a time that has come by what was signed since, while the system's clock is behind it."""
        for name, bundle in self._bundles.items():
            until = bundle.machine.staged_until
            if until is not None and self._desired.is_due(until):
                self._tell(name, ev.Due())

    async def _look_for_deselected(self) -> None:
        for name, bundle in self._bundles.items():
            if bundle.machine.record.admission:
                targets = await self._desired.targets_me(name)
                if targets is not None:
                    self._tell(name, ev.Deselected(not targets))

    async def _look_for_leaving(self) -> None:
        """What the registry asks of this cluster as a whole. An entry that is gone asks nothing: what is so stays so."""
        leaving = self._desired.is_leaving
        if leaving is None:
            return
        for name in self._bundles:
            self._tell(name, ev.Leaving(leaving))
        if leaving:
            await self._end_removal()
        else:
            self.removed = False

    async def _end_removal(self) -> None:
        """When the last bundle is gone: the inventories too, and the coordinator hears of it."""
        bundles = self._bundles
        if self.removed or any(bundle.machine.phase != "Removed" for bundle in bundles.values()):
            return
        try:
            for name in bundles:
                await self._holdings.give_up(name)
        except KubernetesError as error:
            log.warning("a bundle's inventory is not gone yet", error=str(error))
            return
        self.removed = True
        kept = [ref for bundle in bundles.values() for ref in bundle.machine.record.kept]
        log.info("nothing of any bundle is left", kept=kept[:MAX_KEPT])
        removal = wire.Removal(registry_commit=self._desired.registry_commit, kept=kept[:MAX_KEPT])
        self._say("removal", wire.AgentFrame(removal=removal))

    # --- commands ----------------------------------------------------------------------------------------------------

    async def _perform(self, name: str, bundle: _Bundle, commands: list[ev.Command]) -> None:
        queue = list(commands)
        while queue:
            command = queue.pop(0)
            match command:
                case ev.Save():
                    self._state.put(f"bundle/{name}", bundle.machine.record)
                case ev.Acknowledge():
                    reply = wire.OfferReply(
                        rollout=command.offer.rollout,
                        bundle=name,
                        attempt=command.offer.attempt,
                        answer=wire.OfferReply.ACKNOWLEDGED,
                    )
                    self._say(f"reply/{name}", wire.AgentFrame(offer_reply=reply))
                    if (
                        bundle.machine.record.outcome == "staged"
                    ):  # offered again: what was said of it is said again
                        bundle.last_report = b""
                case ev.Defer():
                    self._defer(name, command)
                case ev.Admit():
                    queue += bundle.machine.handle(await self._admit(bundle, command.offer), self._clock())
                case ev.Readmit():
                    self._witness.returning(bundle.machine.record)
                    queue += bundle.machine.handle(await self._again(bundle, command), self._clock())
                case ev.Apply():
                    queue += await self._apply(bundle)
                case ev.TakeAway():
                    queue += await self._take_away(bundle)
                case ev.Report():
                    self._report(name, bundle)

    def _defer(self, name: str, command: ev.Defer) -> None:
        offer, opens = command.offer, math.ceil(command.until)
        log.info("the site's window is closed", release=str(offer.release), until=format_time(opens))
        reply = wire.OfferReply(
            rollout=offer.rollout,
            bundle=name,
            attempt=offer.attempt,
            answer=wire.OfferReply.DEFERRED,
            message=f"the site's window is closed until {format_time(opens)}",
            deferred_until_unix=opens,
        )
        self._say(f"reply/{name}", wire.AgentFrame(offer_reply=reply))

    async def _admit(self, bundle: _Bundle, offer: OfferRecord) -> ev.Event:
        async def bundle_around(objects: Sequence[Manifest]) -> Surroundings:
            return await look_around(self._api, objects, bundle.held.applied)

        try:
            if not await self._desired.ready_for(offer.release):
                await self._fetch()
            closed = self._desired.closed_until(offer)
            if closed is not None:
                return ev.Deferred(closed)
            admissible = await self._desired.admit(offered_of(offer, bundle.machine), bundle_around)
            if isinstance(admissible, Early):
                until = float(admissible.not_before)
                log.info("staged", release=str(offer.release), until=format_time(until))
                return ev.Staged(until)
        except DeniedError as denied:
            bundle.verdicts = denied.verdicts
            self._witness.denied(offer, denied.code, denied.verdicts[0])
            self._metrics.refusals.labels(denied.code).inc()
            return ev.Refused(denied.code, denied.message, False)
        except MusterError as error:
            closed = self._desired.closed_until(offer)
            if error.retryable and closed is not None:  # it would wait for Git beyond the window
                return ev.Deferred(closed)
            bundle.verdicts = ()
            self._witness.refused(offer, error.code)
            self._metrics.refusals.labels(error.code).inc()
            log.warning("release not admitted", release=str(offer.release), error=str(error))
            return ev.Refused(error.code, said(error), error.retryable)
        finally:
            await self._rest()
        bundle.verdicts = admissible.warnings
        bundle.held.take(admissible)
        return ev.Admitted(admissible.admission, admissible.health_deadline, admissible.may_return)

    async def _again(self, bundle: _Bundle, command: ev.Readmit) -> ev.Event:
        try:
            admissible = await self._desired.again(command.admission)
        except MusterError as error:
            return ev.Refused(error.code, said(error), True)
        finally:
            await self._rest()
        bundle.held.take(admissible)
        return ev.Readmitted(admissible.admission, admissible.health_deadline, admissible.may_return)

    async def _rest(self) -> None:
        """git's readers end with the work that needed them: an idle agent has no children."""
        await anyio.to_thread.run_sync(self._source.idle)

    async def _apply(self, bundle: _Bundle) -> list[ev.Command]:
        """What was admitted, rendered again first where this process has not done so yet."""
        held, machine = bundle.held, bundle.machine
        if held.admissible is None:
            admission = machine.record.admission
            return (
                machine.handle(await self._again(bundle, ev.Readmit(admission)), self._clock())
                if admission
                else []
            )
        came = await self._holdings.apply(held, held.admissible, machine)
        return [command for event in came for command in machine.handle(event, self._clock())]

    async def _take_away(self, bundle: _Bundle) -> list[ev.Command]:
        came = await self._holdings.take_away(bundle.held, bundle.machine)
        out = bundle.machine.handle(came, self._clock())
        if not came.code:
            await self._end_removal()
        return out

    # --- reports -------------------------------------------------------------------------------------------------------

    def _report(self, name: str, bundle: _Bundle) -> None:
        desired = self._desired
        standing = Standing(desired.branches.get("fleet", ""), desired.trust_version, desired.regressed)
        known = bundle.held.admissible
        admitted = Admitted(known.entry_digest, known.kept_secrets) if known else Admitted()
        report = report_of(bundle.machine, bundle.verdicts, admitted, standing)
        same = report.SerializeToString(deterministic=True)
        if same == bundle.last_report:
            return
        bundle.last_report = same
        report.observed_unix_ms = int(self._clock() * 1000)
        self._say(f"report/{name}", wire.AgentFrame(report=report))

    def resend(self, name: str) -> None:
        """The hub holds another report than the last one."""
        bundle = self._bundles.get(name)
        if bundle:
            bundle.last_report = b""
            self._report(name, bundle)
