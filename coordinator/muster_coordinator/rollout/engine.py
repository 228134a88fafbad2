"""The one serial brain of the coordinator: everything that happens goes through it, one after the other.

Owns the order of things: take a batch of inputs, let the machines decide, make it durable in one transaction, and
only then acknowledge, send offers and tell watchers. What was acknowledged is never lost; what was not is said
again by the agent. It never speaks gRPC or git.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import anyio
import structlog
from muster_core.durations import parse_duration, resolve_count
from muster_core.errors import MusterError, RolloutError
from muster_core.release import Release, registry_digest
from muster_core.rollout import catchup as cu
from muster_core.rollout import events as ev
from muster_core.rollout.board import HARMED
from muster_core.rollout.machine import RolloutMachine
from muster_core.rollout.plan import Member, resolve
from muster_core.select import targeted
from muster_proto.v1 import link_pb2 as wire

from muster_coordinator.catalog.catalog import Reading
from muster_coordinator.rollout import directives
from muster_coordinator.rollout.fleetstate import ClusterState, FleetState
from muster_coordinator.rollout.narration import event_line, report_lines
from muster_coordinator.rollout.offers import catchup_origin
from muster_coordinator.store.port import Batch, EventRow, ReportRow, SessionRow, Store

log = structlog.get_logger()

MAX_BATCH = 500
QUEUE = 20_000
CATCHUP_STREAM = "catchup/"
NEEDS_DIRECTIVE = frozenset({"directives", "both"})
Outcome = Literal["applying", "healthy", "failed", "returned"]
OUTCOMES: dict[int, Outcome] = {
    wire.OUTCOME_APPLYING: "applying",
    wire.OUTCOME_HEALTHY: "healthy",
    wire.OUTCOME_FAILED: "failed",
    wire.OUTCOME_RETURNED: "returned",
}


@dataclass(slots=True)
class Effects:
    """What is done after the batch is durable."""

    batch: Batch = field(default_factory=Batch)
    sends: list[tuple[str, wire.HubFrame]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    clusters: set[str] = field(default_factory=set)
    rollouts: set[str] = field(default_factory=set)
    bundles: set[str] = field(default_factory=set)
    acks: dict[str, int] = field(default_factory=dict)
    replies: list[Callable[[], None]] = field(default_factory=list)


Work = Callable[[Effects, float], None]


class Engine:
    """``clock`` gives unix seconds; ``publish`` hears of every change after it is durable.

    ``grace`` is how long after a start silence is nobody's fault, in seconds.
    """

    def __init__(
        self, store: Store, clock: Callable[[], float], publish: Callable[[Effects], None], grace: float
    ) -> None:
        self.state = FleetState()
        self._store, self._clock, self._publish, self._grace = store, clock, publish, grace
        self._send, self._receive = anyio.create_memory_object_stream[Work](QUEUE)
        self._numbers: dict[str, int] = {}

    # --- start -------------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Rebuilds the state from the store. Nobody is in contact yet, so clocks are quiet for a while."""
        state = self.state
        for join in await self._store.joins():
            state.cluster(join.cluster).join = join
        for row in await self._store.sessions():
            cluster = state.cluster(row.cluster)
            cluster.inbox.epoch, cluster.inbox.last = row.epoch, row.last_seq
            cluster.last_seen, cluster.agent_version = row.last_seen / 1000, row.agent_version
            cluster.kubernetes_version = row.kubernetes_version
        for found in await self._store.reports():
            state.cluster(found.cluster).reports[found.bundle] = wire.Report.FromString(found.data)
        machines = []
        for stream, rows in (await self._store.streams()).items():
            self._numbers[stream] = rows[-1].number
            if stream.startswith(CATCHUP_STREAM):
                bundle = stream.removeprefix(CATCHUP_STREAM)
                state.debts[bundle] = cu.CatchUp.replay(bundle, (cu.decode(row.data) for row in rows))
            elif stream.startswith(directives.STREAM):
                for event in rows:
                    state.directives.put(directives.decode_event(event.data))
            else:
                machine = RolloutMachine.replay(ev.decode(row.data) for row in rows)
                machines.append(machine)
        for machine in sorted(machines, key=lambda m: (m.started.at, m.name)):
            state.rollouts[machine.name] = machine

    # --- the loop ----------------------------------------------------------------------------------------------

    async def submit(self, work: Work) -> None:
        """Queues work; waits while the queue is full, which slows the sender down."""
        await self._send.send(work)

    async def ask(self, work: Callable[[Effects, float], Any]) -> Any:
        """Runs work in its turn and returns its result once it is durable, or raises what it raised."""
        done = anyio.Event()
        result: list[Any] = []
        failure: list[MusterError] = []

        def wrapped(effects: Effects, now: float) -> None:
            try:
                result.append(work(effects, now))
            except MusterError as error:
                failure.append(error)
            effects.replies.append(done.set)

        await self.submit(wrapped)
        await done.wait()
        if failure:
            raise failure[0]
        return result[0]

    async def run(self) -> None:
        """For ever. A store that cannot be written ends the program: nothing is acknowledged that was not kept."""
        works: list[Work] = [self._reconnecting]
        while True:
            effects, now = Effects(), self._clock()
            for work in works:
                work(effects, now)
            for machine in self.state.active():
                wake = machine.next_wake()
                if wake is not None and wake <= now:
                    self._feed(machine, ev.Tick(), effects, now)
                    if machine.has_ended:
                        self.start_what_is_new(effects, now)
            self._tick_debts(effects, now)
            if effects.batch:
                await self._store.commit(effects.batch)
            self._perform(effects)
            works = await self._next_batch()

    def _reconnecting(self, effects: Effects, now: float) -> None:
        """After a start nobody is in contact until told: soaks that ran stand still, deadlines wait a while."""
        for machine in self.state.active():
            self._record(machine, machine.reconnecting(now, now + self._grace), effects, now)
        for bundle, ledger in self.state.debts.items():
            self._record_debts(bundle, ledger.reconnecting(now, now + self._grace), effects)

    async def _next_batch(self) -> list[Work]:
        times = [machine.next_wake() for machine in self.state.active()]
        times += [ledger.next_wake() for ledger in self.state.debts.values()]
        wakes = [wake for wake in times if wake is not None]
        delay = max(0.0, min(wakes) - self._clock()) if wakes else math.inf
        works: list[Work] = []
        with anyio.move_on_after(min(delay, 3600.0)):
            works.append(await self._receive.receive())
        while len(works) < MAX_BATCH:
            try:
                works.append(self._receive.receive_nowait())
            except anyio.WouldBlock:
                break
        return works

    def _perform(self, effects: Effects) -> None:
        for name, frame in effects.sends:
            self._deliver(name, frame)
        for name, seq in effects.acks.items():
            self._deliver(name, wire.HubFrame(ack=seq))
        for line in effects.lines:
            log.info("fleet", line=line)
        self._publish(effects)
        for reply in effects.replies:
            reply()

    def _deliver(self, name: str, frame: wire.HubFrame) -> None:
        cluster = self.state.clusters.get(name)
        if cluster and cluster.send:
            cluster.send(frame)

    # --- machines ----------------------------------------------------------------------------------------------

    def _feed(self, machine: RolloutMachine, given: ev.Input, effects: Effects, now: float) -> None:
        self._record(machine, machine.handle(given, now), effects, now)

    def _record(
        self, machine: RolloutMachine, events: Iterable[ev.AnyEvent], effects: Effects, now: float
    ) -> None:
        bundle = machine.started.bundle
        for event in events:
            effects.batch.events.append(EventRow(machine.name, self._number(machine.name), ev.encode(event)))
            effects.rollouts.add(machine.name)
            effects.bundles.add(bundle)
            if line := event_line(machine, event):
                effects.lines.append(line)
            if isinstance(event, ev.OfferMade):
                effects.sends.append(
                    (
                        event.cluster,
                        wire.HubFrame(offer=self.state.offer(machine, machine.targets[event.cluster])),
                    )
                )
            elif isinstance(event, ev.OfferWithdrawn):
                effects.sends.append(
                    (
                        event.cluster,
                        wire.HubFrame(
                            withdraw=wire.Withdraw(
                                rollout=machine.name, bundle=bundle, attempt=event.attempt, why=event.why
                            )
                        ),
                    )
                )
            elif isinstance(event, ev.Ended):
                self._after(machine, effects, now)

    def _number(self, stream: str) -> int:
        self._numbers[stream] = self._numbers.get(stream, 0) + 1
        return self._numbers[stream]

    def _record_debts(self, bundle: str, events: Iterable[cu.AnyCatchUpEvent], effects: Effects) -> None:
        stream, ledger = CATCHUP_STREAM + bundle, self.state.ledger(bundle)
        for event in events:
            effects.batch.events.append(EventRow(stream, self._number(stream), cu.encode(event)))
            effects.clusters.add(event.cluster)
            effects.bundles.add(bundle)
            if isinstance(event, cu.Offered):
                debt = ledger.debts[event.cluster]
                effects.sends.append(
                    (event.cluster, wire.HubFrame(offer=self.state.debt_offer(bundle, debt)))
                )
                effects.lines.append(
                    f"{event.cluster} is back and is offered {bundle}@{debt.commit[:7]}, which it is owed"
                )
            elif isinstance(event, cu.Done):
                effects.lines.append(f"{event.cluster} caught up with {bundle}")
            elif isinstance(event, cu.Failed):
                effects.lines.append(f"{event.cluster} failed to catch up with {bundle}: {event.message}")

    def _tick_debts(self, effects: Effects, now: float) -> None:
        for bundle, ledger in self.state.debts.items():
            self._record_debts(bundle, ledger.tick(now), effects)
            last = self.state.last_succeeded(bundle)
            if last and ledger.debts:
                active = self.state.active_of(bundle)
                limit = resolve_count(
                    last.started.plan.catch_up_in_flight,
                    len(self.state.clusters),
                    rounding="down-at-least-one",
                )
                self._record_debts(
                    bundle, ledger.offers(limit, now, active.targets if active else ()), effects
                )

    def _after(self, machine: RolloutMachine, effects: Effects, now: float) -> None:
        """Who is owed what, now that a rollout has ended."""
        bundle = machine.started.bundle
        last = self.state.last_succeeded(bundle)
        settlement = cu.debts_after(machine, _succeeded(last) if last else None)
        self._record_debts(bundle, self.state.ledger(bundle).settle(settlement, now), effects)
        self._late_joiners(effects, now)

    def _owe_last_succeeded(self, bundle: str, name: str, effects: Effects, now: float) -> None:
        last = self.state.last_succeeded(bundle)
        cluster = self.state.clusters.get(name)
        if last is None or cluster is None or cluster.entry is None:
            return
        report = cluster.reports.get(bundle)
        if report and report.release.tree_digest == last.started.tree_digest:
            return
        if (target := last.targets.get(name)) and target.state in HARMED:
            return
        self._record_debts(bundle, self.state.ledger(bundle).owe(name, _succeeded(last), now), effects)

    # --- what the catalog says -----------------------------------------------------------------------------------

    def read_catalog(self, reading: Reading) -> Work:
        def work(effects: Effects, now: float) -> None:
            state = self.state
            state.reading = reading
            for name, entry in reading.clusters.items():
                cluster = state.cluster(name)
                cluster.entry, cluster.entry_digest = entry, registry_digest(entry)
            for name, cluster in state.clusters.items():
                if cluster.entry is not None and name not in reading.clusters:
                    cluster.entry = None
                    self._removed(name, effects, now)
                effects.clusters.add(name)
                head = wire.Head(commit=reading.heads.commit, registry_commit=reading.heads.registry)
                effects.sends.append((name, wire.HubFrame(head=head)))
            effects.bundles.update(reading.contents.bundles)
            self.start_what_is_new(effects, now)
            self._late_joiners(effects, now)
            for name in state.clusters:
                self._owe_entry(name, effects, now)

        return work

    def _owe_entry(self, name: str, effects: Effects, now: float) -> None:
        """A registry entry that changed may change what the cluster renders, so its releases are offered again with it."""
        cluster = self.state.clusters[name]
        for bundle, report in list(cluster.reports.items()):
            if report.registry_digest in ("", cluster.entry_digest) or not cluster.entry:
                continue
            last = self.state.last_succeeded(bundle)
            active = self.state.active_of(bundle)
            if last is None or (active and name in active.targets):
                continue
            at = self.state.reading.contents.bundles.get(bundle)
            if (
                report.release.tree_digest == last.started.tree_digest
                and at
                and targeted(at.bundle, cluster.entry.all_labels)
            ):
                ledger = self.state.ledger(bundle)
                owed = ledger.owe(name, _succeeded(last), now, cluster.entry_digest)
                self._record_debts(bundle, owed, effects)

    def _removed(self, name: str, effects: Effects, now: float) -> None:
        for machine in self.state.active():
            self._feed(machine, ev.MemberRemoved(name, "removed from the registry"), effects, now)
        for bundle, ledger in self.state.debts.items():
            self._record_debts(bundle, ledger.drop(name, now), effects)
        effects.sends.append(
            (
                name,
                wire.HubFrame(
                    bye=wire.Bye(retry_after_seconds=300, why="the registry no longer has this cluster")
                ),
            )
        )
        effects.lines.append(f"{name} was removed from the registry")

    def start_what_is_new(self, effects: Effects, now: float) -> None:
        """Starts the plan of every bundle whose newest digest was not rolled out yet; depth-one queue, newest wins."""
        contents = self.state.reading.contents
        for bundle, digest in contents.digests.items():
            runs = self.state.rollouts_of(bundle)
            if runs and (not runs[-1].has_ended or runs[-1].started.tree_digest == digest):
                continue
            if contents.problems_of(bundle):
                continue
            if contents.fleet and contents.fleet.spec.mode in NEEDS_DIRECTIVE:
                self.state.bundle_errors[bundle] = f"waits for a directive: muster rollout start {bundle}"
                continue
            try:
                self.start(
                    Release(bundle, self.state.reading.heads.commit, digest),
                    "",
                    "muster",
                    "new commit",
                    effects,
                    now,
                )
                self.state.bundle_errors.pop(bundle, None)
            except MusterError as error:
                self.state.bundle_errors[bundle] = str(error)

    def start(
        self, release: Release, plan_name: str, by: str, reason: str, effects: Effects, now: float
    ) -> RolloutMachine:
        """Starts a rollout over the clusters that are targeted now; ``MUSTER-R0xx`` says why not."""
        contents, bundle = self.state.reading.contents, release.bundle
        active = self.state.active_of(bundle)
        if active:
            raise RolloutError(
                "R005",
                f"{active.name} is still {active.state}",
                object=bundle,
                hint=f"The newest commit starts when it has ended. To end it: muster rollout abort {active.name}.",
            )
        plan = contents.plans.get(plan_name or contents.plan_of(bundle))
        if plan is None:
            raise RolloutError(
                "R006",
                f"there is no plan {plan_name or contents.plan_of(bundle) or '(none named)'}",
                object=bundle,
            )
        members = self._members(bundle)
        runs = self.state.rollouts_of(bundle)
        same = [run for run in runs if run.started.tree_digest == release.tree_digest]
        number = 1 + len(runs)
        started = ev.Started(
            at=now,
            rollout=f"{bundle}-{number:04d}",
            bundle=bundle,
            commit=release.commit,
            tree_digest=release.tree_digest,
            plan=resolve(plan, members),
            by=by,
            reason=reason,
            attempt=1 + max((t.attempt for run in same for t in run.targets.values()), default=0),
        )
        machine = RolloutMachine(started)
        self.state.rollouts[machine.name] = machine
        ledger = self.state.ledger(bundle)
        self._record_debts(bundle, ledger.give_way([member.name for member in members], now), effects)
        machine.meet(member.name for member in members if self.state.clusters[member.name].online)
        self._record(machine, [started], effects, now)
        self._record(machine, machine.begin(now), effects, now)
        return machine

    def _members(self, bundle: str) -> list[Member]:
        reading = self.state.reading
        at = reading.contents.bundles[bundle]
        classes = reading.contents.fleet.spec.site_classes if reading.contents.fleet else {}
        members = []
        for name, entry in reading.clusters.items():
            if targeted(at.bundle, entry.all_labels):
                site = classes.get(entry.spec.site_class)
                members.append(
                    Member(name, entry.all_labels, parse_duration(site.contact_interval) if site else 60.0)
                )
                self.state.cluster(name)
        return members

    def _late_joiners(self, effects: Effects, now: float) -> None:
        """A targeted cluster that has no release of a bundle gets the last one that succeeded."""
        reading = self.state.reading
        for bundle, at in reading.contents.bundles.items():
            active, last = self.state.active_of(bundle), self.state.last_succeeded(bundle)
            if last is None:
                continue
            for name, entry in reading.clusters.items():
                in_active = active is not None and name in active.targets
                if name not in last.targets and not in_active and targeted(at.bundle, entry.all_labels):
                    self._owe_last_succeeded(bundle, name, effects, now)

    # --- what agents say -----------------------------------------------------------------------------------------

    def connected(
        self,
        name: str,
        hello: wire.Hello,
        connection: int,
        send: Callable[[wire.HubFrame], None],
        welcome: wire.Welcome,
    ) -> Work:
        """A session begins; ``welcome`` is completed and is the first frame of it."""

        def work(effects: Effects, now: float) -> None:
            cluster = self.state.cluster(name)
            last = cluster.inbox.resume(hello.session_epoch)
            cluster.send, cluster.connection, cluster.last_seen = send, connection, now
            cluster.agent_version, cluster.kubernetes_version = hello.agent_version, hello.kubernetes_version
            self._keep_session(cluster, effects)
            known = {item.bundle: item.digest for item in hello.bundles}
            resend = [
                bundle for bundle in known if known[bundle] != report_digest(cluster.reports.get(bundle))
            ]
            welcome.last_agent_seq, welcome.floor_commit = last, cluster.floor
            welcome.resend_bundles.extend(resend)
            effects.sends.append((name, wire.HubFrame(welcome=welcome)))
            heads = self.state.reading.heads
            effects.sends.append(
                (name, wire.HubFrame(head=wire.Head(commit=heads.commit, registry_commit=heads.registry)))
            )
            effects.clusters.add(name)
            effects.lines.append(f"{name} is in contact")
            effects.sends += [(name, wire.HubFrame(offer=offer)) for offer in self.state.offers_for(name)]
            self._contact(name, True, effects, now)
            effects.sends = _without_repeats(effects.sends, name)

        return work

    def disconnected(self, name: str, connection: int) -> Work:
        def work(effects: Effects, now: float) -> None:
            cluster = self.state.cluster(name)
            if cluster.connection != connection or not cluster.online:
                return
            cluster.send, cluster.last_seen = None, now
            self._keep_session(cluster, effects)
            effects.clusters.add(name)
            effects.lines.append(f"{name} is out of contact")
            self._contact(name, False, effects, now)

        return work

    def _contact(self, name: str, online: bool, effects: Effects, now: float) -> None:
        for machine in self.state.active():
            if name in machine.targets:
                self._feed(machine, ev.Contact(name, online), effects, now)
        for bundle, ledger in list(self.state.debts.items()):
            self._record_debts(bundle, ledger.contact(name, online, now), effects)
        if online:
            self._late_joiners(effects, now)
            for bundle, ledger in self.state.debts.items():
                self._record_debts(bundle, ledger.contact(name, True, now), effects)

    def said(self, name: str, frame: wire.AgentFrame) -> Work:
        """One numbered frame of an agent."""

        def work(effects: Effects, now: float) -> None:
            cluster = self.state.cluster(name)
            cluster.last_seen = now
            if frame.seq and not cluster.inbox.is_new(frame.seq):
                effects.acks[name] = cluster.inbox.last
                return
            body = frame.WhichOneof("body")
            if body == "report":
                self._report(cluster, frame.report, effects, now)
            elif body == "offer_reply":
                self._reply(name, frame.offer_reply, effects, now)
            if frame.seq:
                cluster.inbox.stored(frame.seq)
                effects.acks[name] = frame.seq
                self._keep_session(cluster, effects)

        return work

    def seen(self, name: str, now: float) -> None:
        """A heartbeat: memory only."""
        self.state.cluster(name).last_seen = now

    def _report(self, cluster: ClusterState, report: wire.Report, effects: Effects, now: float) -> None:
        name, bundle = cluster.name, report.bundle
        old = cluster.reports.get(bundle)
        cluster.reports[bundle] = report
        effects.batch.reports[name, bundle] = ReportRow(name, bundle, report.SerializeToString())
        effects.clusters.add(name)
        effects.bundles.add(bundle)
        effects.lines += report_lines(name, old, report)
        outcome = OUTCOMES.get(report.outcome)
        if not outcome:
            return
        origin = catchup_origin(report.rollout)
        if origin is not None:
            ledger = self.state.ledger(bundle)
            self._record_debts(bundle, ledger.acknowledged(name, origin, now), effects)
            self._record_debts(
                bundle,
                ledger.reported(name, report.release.tree_digest, outcome, report.message, now),
                effects,
            )
            return
        machine = self.state.rollouts.get(report.rollout)
        if machine:
            # A verdict names the attempt; the release that runs may be the last healthy one again.
            settled = outcome in {"failed", "returned"}
            digest = machine.started.tree_digest if settled else report.release.tree_digest
            given = ev.Reported(name, report.attempt, digest, outcome, report.code, report.message)
            self._feed(machine, given, effects, now)
            if machine.has_ended:
                self.start_what_is_new(effects, now)

    def _reply(self, name: str, reply: wire.OfferReply, effects: Effects, now: float) -> None:
        origin = catchup_origin(reply.rollout)
        if origin is not None:
            ledger = self.state.ledger(reply.bundle)
            if reply.answer == wire.OfferReply.ACKNOWLEDGED:
                self._record_debts(reply.bundle, ledger.acknowledged(name, origin, now), effects)
            else:
                self._record_debts(reply.bundle, ledger.refused(name, origin, reply.message, now), effects)
            return
        machine = self.state.rollouts.get(reply.rollout)
        if machine is None:
            return
        if reply.answer == wire.OfferReply.REFUSED:
            self._feed(machine, ev.Refused(name, reply.attempt, reply.code, reply.message), effects, now)
        else:
            self._feed(machine, ev.Acknowledged(name, reply.attempt), effects, now)
        if machine.has_ended:
            self.start_what_is_new(effects, now)

    def _keep_session(self, cluster: ClusterState, effects: Effects) -> None:
        effects.batch.sessions[cluster.name] = SessionRow(
            cluster.name,
            cluster.inbox.epoch,
            cluster.inbox.last,
            int(cluster.last_seen * 1000),
            cluster.agent_version,
            cluster.kubernetes_version,
        )

    def keep_directive(
        self,
        release: Release,
        statement: bytes,
        signature: bytes,
        uids: Iterable[str],
        effects: Effects,
        now: float,
    ) -> None:
        """Stores what an operator signed, to be carried with every offer of the release."""
        shelf = self.state.directives
        names = tuple(sorted(set(uids)))
        directives.check(statement, signature, names, release, shelf.newest(release.bundle))
        event = directives.DirectiveEvent(now, statement, signature, names)
        stream = directives.STREAM + release.bundle
        effects.batch.events.append(EventRow(stream, self._number(stream), directives.encode_event(event)))
        effects.bundles.add(release.bundle)
        shelf.put(event)

    def acknowledge_floor(self, name: str) -> Callable[[Effects, float], str]:
        """Tells a cluster that an operator has seen its floor go back; returns the floor that it is behind of."""

        def work(effects: Effects, now: float) -> str:
            commit = self.state.cluster(name).regressed
            seen = wire.FloorAcknowledged(commit=commit)
            effects.sends.append((name, wire.HubFrame(floor_acknowledged=seen)))
            effects.lines.append(f"{name}: its regressed floor was acknowledged")
            return commit

        return work

    # --- what operators say --------------------------------------------------------------------------------------

    def act(
        self, rollout: str, given: ev.Pause | ev.Resume | ev.Abort
    ) -> Callable[[Effects, float], RolloutMachine]:
        def work(effects: Effects, now: float) -> RolloutMachine:
            machine = self.state.rollouts[rollout]
            self._feed(machine, given, effects, now)
            self.start_what_is_new(effects, now)
            return machine

        return work


def _succeeded(machine: RolloutMachine) -> cu.Succeeded:
    return cu.Succeeded(machine.name, machine.started.commit, machine.started.tree_digest)


def report_digest(report: wire.Report | None) -> bytes:
    """What a hello compares: the hash of the last report's bytes."""
    return hashlib.sha256(report.SerializeToString(deterministic=True)).digest() if report else b""


def _without_repeats(sends: list[tuple[str, wire.HubFrame]], name: str) -> list[tuple[str, wire.HubFrame]]:
    """An offer made while connecting stands in both lists; it goes out once."""
    kept, seen = [], set[tuple[str, int]]()
    for cluster, frame in sends:
        if cluster == name and frame.HasField("offer"):
            key = (frame.offer.rollout, frame.offer.attempt)
            if key in seen:
                continue
            seen.add(key)
        kept.append((cluster, frame))
    return kept
