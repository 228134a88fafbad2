"""Carries out what the bundles' machines say.

Owns one task a bundle, the order of its commands, and what is remembered in between (rendered objects, what was applied). An
error of one bundle is that bundle's; the process stays up. It never decides: the machine does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import anyio
import anyio.to_thread
import structlog
from anyio.abc import TaskGroup, TaskStatus
from muster_core.apply.applyset import set_id
from muster_core.apply.changeset import Change, ChangeSet
from muster_core.apply.plan import Applied
from muster_core.errors import KubernetesError, MusterError
from muster_core.health import health
from muster_core.kinds.model import Remove
from muster_core.manifest.objects import Manifest, ObjectRef
from muster_core.policy import Verdict
from muster_core.session.backoff import Backoff
from muster_core.times import format_time
from muster_proto.v1 import link_pb2 as wire

from muster_agent.admission import Admissible, Desired
from muster_agent.cluster.apply import PHASE, Applier, located
from muster_agent.cluster.observe import Observer
from muster_agent.cluster.port import ClusterApi
from muster_agent.cluster.removing import Remover, protected_kinds
from muster_agent.cluster.surroundings import Surroundings, look_around
from muster_agent.gate import DeniedError
from muster_agent.obs.metrics import Metrics
from muster_agent.reconcile import events as ev
from muster_agent.reconcile.machine import BundleMachine
from muster_agent.reconcile.messages import Admitted, Standing, offered_of, record_of, report_of
from muster_agent.source.repository import Heads, SourceRepository
from muster_agent.state.files import StateError
from muster_agent.state.port import StatePort
from muster_agent.state.records import AppliedObject, AppliedRecord, BundleRecord, OfferRecord
from muster_agent.trust.floors import COMMIT
from muster_agent.witness import Witness

log = structlog.get_logger()

MAX_PROBLEMS = 20
MAX_BUNDLES = 500
MAX_EVENTS = 256
MAX_KEPT = 100
SETTLE = 0.05


@dataclass(slots=True)
class _Bundle:
    machine: BundleMachine
    events: list[ev.Event] = field(default_factory=list)
    due: anyio.Event = field(default_factory=anyio.Event)
    objects: dict[ObjectRef, Manifest] = field(default_factory=dict)
    placed: bool = False  # whether ``objects`` are those of ``admissible``, all of them of known kinds
    rolled_up: tuple[int, dict[ObjectRef, Manifest], ev.HealthSeen] | None = None
    applied: dict[ObjectRef, Applied] = field(default_factory=dict)
    admissible: Admissible | None = None
    verdicts: tuple[Verdict, ...] = ()
    last_report: bytes = b""
    left: tuple[ObjectRef, ...] = ()  # of a release that takes everything away: what is still to go
    kept: tuple[ObjectRef, ...] = ()  # and what was protected from it


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
        self._applier = Applier(api, self.observer, namespace)
        self._remover = Remover(api, self.observer, self._applier, namespace)
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
        bundle = _Bundle(BundleMachine(record))
        stored = self._state.get(f"applied/{record.bundle}", AppliedRecord) or AppliedRecord()
        bundle.applied = {item.ref: item.applied for item in stored.objects}
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
            delay = max(0.0, wake - self._clock()) if wake is not None else 3600.0
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
            closed = self._desired.closed_until(returns=record.returns)
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
                await self._applier.give_up(name)
        except KubernetesError as error:
            log.warning("a bundle's inventory is not gone yet", error=str(error))
            return
        self.removed = True
        kept = [ref for bundle in bundles.values() for ref in bundle.machine.record.kept]
        log.info("nothing of any bundle is left", kept=kept[:MAX_KEPT])
        said = wire.Removal(registry_commit=self._desired.registry_commit, kept=kept[:MAX_KEPT])
        self._say("removal", wire.AgentFrame(removal=said))

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
                case ev.Defer():
                    self._defer(name, command)
                case ev.Admit():
                    queue += bundle.machine.handle(await self._admit(bundle, command.offer), self._clock())
                case ev.Readmit():
                    self._witness.returning(bundle.machine.record)
                    queue += bundle.machine.handle(await self._again(bundle, command), self._clock())
                case ev.Apply():
                    queue += await self._apply(name, bundle)
                case ev.TakeAway():
                    queue += await self._take_away(name, bundle)
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
            return await look_around(self._api, objects, bundle.applied)

        try:
            if not await self._desired.ready_for(offer.release):
                await self._fetch()
            closed = self._desired.closed_until(returns=offer.returns)
            if closed is not None:
                return ev.Deferred(closed)
            admissible = await self._desired.admit(offered_of(offer, bundle.machine), bundle_around)
        except DeniedError as denied:
            bundle.verdicts = denied.verdicts
            self._witness.denied(offer, denied.code, denied.verdicts[0])
            self._metrics.refusals.labels(denied.code).inc()
            return ev.Refused(denied.code, denied.message, False)
        except MusterError as error:
            closed = self._desired.closed_until(returns=offer.returns)
            if error.retryable and closed is not None:  # it would wait for Git beyond the window
                return ev.Deferred(closed)
            bundle.verdicts = ()
            self._witness.refused(offer, error.code)
            self._metrics.refusals.labels(error.code).inc()
            log.warning("release not admitted", release=str(offer.release), error=str(error))
            return ev.Refused(error.code, _text(error), error.retryable)
        finally:
            await self._rest()
        bundle.verdicts = admissible.warnings
        self._hold(bundle, admissible)
        return ev.Admitted(admissible.admission, admissible.health_deadline, admissible.may_return)

    async def _again(self, bundle: _Bundle, command: ev.Readmit) -> ev.Event:
        try:
            admissible = await self._desired.again(command.admission)
        except MusterError as error:
            return ev.Refused(error.code, _text(error), True)
        finally:
            await self._rest()
        self._hold(bundle, admissible)
        return ev.Readmitted(admissible.admission, admissible.health_deadline, admissible.may_return)

    async def _rest(self) -> None:
        """git's readers end with the work that needed them: an idle agent has no children."""
        await anyio.to_thread.run_sync(self._source.idle)

    def _hold(self, bundle: _Bundle, admissible: Admissible) -> None:
        bundle.admissible, bundle.placed = admissible, False

    async def _apply(self, name: str, bundle: _Bundle) -> list[ev.Command]:
        if bundle.admissible is None:
            admission = bundle.machine.record.admission
            return (
                bundle.machine.handle(await self._again(bundle, ev.Readmit(admission)), self._clock())
                if admission
                else []
            )
        admissible = bundle.admissible
        try:
            await self._state.durable()  # floors and admission are on disk before the first object
            with self._metrics.reconcile_seconds.time():
                problems: list[Change] = []
                if not bundle.placed:
                    placed = await located(self._api, admissible.objects, admissible.namespace)
                    bundle.objects, problems = placed
                    bundle.placed = not problems
                release = admissible.admission.release
                note = {
                    "release": str(release),
                    COMMIT: release.commit,
                    PHASE: bundle.machine.phase,
                }
                prune = admissible.prune and not problems and admissible.removes is None
                result = await self._applier.apply(
                    name, bundle.objects, bundle.applied, prune=prune, note=note
                )
                if admissible.removes is not None:
                    await self._remove(name, bundle, admissible.removes, result, note)
        except (KubernetesError, StateError) as error:
            self._metrics.reconciles.labels(name, "error").inc()
            return [*bundle.machine.handle(ev.AppliedAll(error.code, _text(error), ()), self._clock())]
        if result.changes or (
            result.applied is not bundle.applied and result.applied.keys() != bundle.applied.keys()
        ):
            self._remember(name, bundle, result.applied)
        self._witness.applied(bundle.machine.record, admissible.admission.release, result)
        errors = [*problems, *result.errors]
        self._metrics.reconciles.labels(
            name, "error" if errors else "changed" if result.writes else "unchanged"
        ).inc()
        self._metrics.drift.inc(len(result.healed))
        if result.changes:
            log.info(
                "applied",
                bundle=name,
                writes=result.writes,
                errors=[str(c.error) for c in errors[:3]],
                healed=[str(r) for r in result.healed[:3]],
            )
        first = errors[0].error if errors else None
        healed = tuple(str(ref) for ref in result.healed)
        out = bundle.machine.handle(
            ev.AppliedAll(first.code if first else "", _text(first) if first else "", healed), self._clock()
        )
        return [*out, *bundle.machine.handle(self._health(bundle), self._clock())]

    async def _remove(
        self, name: str, bundle: _Bundle, said: Remove, result: ChangeSet, note: Mapping[str, str]
    ) -> None:
        """What a release without objects does, into what its apply found."""
        removal = await self._remover.remove(name, result.applied, protected_kinds(said))
        result.changes += removal.changes
        result.applied = {ref: record for ref, record in result.applied.items() if ref in removal.left}
        bundle.left, bundle.kept, bundle.rolled_up = removal.left, removal.kept, None
        if not removal.left:
            await self._applier.forget(name, note, removal.kept)

    async def _take_away(self, name: str, bundle: _Bundle) -> list[ev.Command]:
        """Because the registry asks for it: whatever the release says, what takes others with it stays."""
        bundle.admissible, bundle.objects, bundle.placed, bundle.rolled_up = None, {}, False, None
        try:
            await self._state.durable()  # that it leaves is on disk before the first object goes
            removal = await self._remover.remove(name, bundle.applied, protected_kinds(Remove()))
        except (KubernetesError, StateError) as error:
            return bundle.machine.handle(ev.TakenAway(error.code, _text(error), 1, ()), self._clock())
        admission = bundle.machine.record.admission
        changes = ChangeSet(changes=list(removal.changes))
        if admission:
            self._witness.applied(bundle.machine.record, admission.release, changes)
        self._remember(name, bundle, {r: a for r, a in bundle.applied.items() if r in removal.left})
        if changes.changes:
            log.info("taken away", bundle=name, pruned=changes.writes, left=len(removal.left))
        first = changes.errors[0].error if changes.errors else None
        kept = tuple(str(ref) for ref in removal.kept)
        told = ev.TakenAway(
            first.code if first else "", _text(first) if first else "", len(removal.left), kept
        )
        out = bundle.machine.handle(told, self._clock())
        await self._end_removal()
        return out

    def _remember(self, name: str, bundle: _Bundle, applied: dict[ObjectRef, Applied]) -> None:
        bundle.applied = applied
        stored = AppliedRecord(tuple(AppliedObject(ref, record) for ref, record in applied.items()))
        self._state.put(f"applied/{name}", stored)

    def _health(self, bundle: _Bundle) -> ev.HealthSeen:
        """The roll-up, worked out again only when something of the bundle moved."""
        moves = self.observer.moves(set_id(bundle.machine.record.bundle, self._namespace))
        known = bundle.rolled_up
        if known is None or known[0] != moves or known[1] is not bundle.objects:
            known = bundle.rolled_up = (moves, bundle.objects, self._roll_up(bundle))
        return known[2]

    def _roll_up(self, bundle: _Bundle) -> ev.HealthSeen:
        problems, statuses = [], []
        for ref in bundle.objects:
            seen = self.observer.seen.get(ref)
            state = seen.health if seen else health(None)
            statuses.append(state.status)
            if state.status != "Current":
                problems.append((str(ref), state.status, state.message))
        kept: tuple[str, ...] = ()
        if bundle.admissible is not None and bundle.admissible.removes is not None:
            kept = tuple(str(ref) for ref in bundle.kept)
            for ref in bundle.left:
                statuses.append("Terminating")
                problems.append((str(ref), "Terminating", "is not gone yet"))
        self._metrics.healths(bundle.machine.record.bundle, statuses)
        problems.sort(key=lambda problem: (problem[1] != "Failed", problem[0]))
        ready = len(statuses) - len(problems)
        return ev.HealthSeen(len(statuses), ready, tuple(problems[:MAX_PROBLEMS]), kept[:MAX_KEPT])

    # --- reports -------------------------------------------------------------------------------------------------------

    def _report(self, name: str, bundle: _Bundle) -> None:
        desired = self._desired
        standing = Standing(desired.branches.get("fleet", ""), desired.trust_version, desired.regressed)
        known = bundle.admissible
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


def _text(error: MusterError) -> str:
    return (
        f"{error.message}: {error.object}"
        if error.object and error.object not in error.message
        else error.message
    )
