"""The one serial brain of the coordinator: everything that happens goes through it, one after the other.

Owns the order of things: take a batch of inputs, let the machines decide, make it durable in one transaction, and
only then acknowledge, send offers and tell watchers. What was acknowledged is never lost; what was not is said
again by the agent. It never speaks gRPC or git.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import structlog
from google.protobuf.message import DecodeError
from muster_core.errors import MusterError
from muster_core.release import Release
from muster_core.rollout import catchup as cu
from muster_core.rollout import events as ev
from muster_core.rollout.machine import RolloutMachine
from muster_proto.v1 import link_pb2 as wire

from muster_coordinator.catalog.catalog import Reading
from muster_coordinator.notify import notices
from muster_coordinator.notify.desk import Desk
from muster_coordinator.rollout import directives, freezes, rebuild, recollection
from muster_coordinator.rollout.conversation import Conversation
from muster_coordinator.rollout.effects import Effects, Work
from muster_coordinator.rollout.fleetstate import FleetState
from muster_coordinator.rollout.holds import Holds
from muster_coordinator.rollout.launch import Launch, Start
from muster_coordinator.rollout.record import CATCHUP_STREAM, Recorder
from muster_coordinator.rollout.returning import TakeBack, take_back
from muster_coordinator.rollout.snapshots import Snapshots
from muster_coordinator.store.port import EventRow, ReportRow, Store, StoreError

log = structlog.get_logger()

MAX_BATCH = 500
QUEUE = 20_000
LONGEST_SLEEP = 3600.0
ACK_PAUSE = 0.1
BUSY = 16
GATHER = 0.01
MANY_LINES = 8


class Engine:
    """``clock`` gives unix seconds; ``publish`` hears of every change after it is durable.

    ``grace`` is how long after a start silence is nobody's fault, in seconds. ``agents`` is what agents say, ``desk``
    decides what people are told. ``rebuild_for`` is how long a database that knows no cluster waits for what they run.
    """

    def __init__(
        self,
        store: Store,
        clock: Callable[[], float],
        publish: Callable[[Effects], None],
        grace: float,
        desk: Desk | None = None,
        rebuild_for: float = 0.0,
    ) -> None:
        self.state = FleetState()
        self.desk = desk or Desk()
        self._store, self._clock, self._publish, self._grace = store, clock, publish, grace
        self.holds = Holds(self.state)
        self._recorder = Recorder(self.state, self.desk, self.holds)
        self._snapshots = Snapshots()
        self._launch = Launch(self.state, self._recorder, self.holds, rebuild_for)
        self.agents = Conversation(self.state, self._recorder, self._launch)
        self._acks: dict[str, int] = {}
        self._acked_at = -math.inf
        self._send, self._receive = anyio.create_memory_object_stream[Work](QUEUE)

    # --- start -------------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Rebuilds the state from the store. Nobody is in contact yet, so clocks are quiet for a while.

        ``MUSTER-L032`` names a row that is not one of ours: going on without it would be going on with another history.
        """
        state = self.state
        for join in await self._store.joins():
            state.cluster(join.cluster).join = join
        sessions = await self._store.sessions()
        self.agents.recollection.knew_agents = bool(sessions)
        for row in sessions:
            cluster = state.cluster(row.cluster)
            cluster.inbox.epoch, cluster.inbox.last = row.epoch, row.last_seq
            cluster.last_seen, cluster.agent_version = row.last_seen / 1000, row.agent_version
            cluster.kubernetes_version = row.kubernetes_version
        for found in await self._store.reports():
            state.cluster(found.cluster).reports[found.bundle] = _report(found)
        machines = []
        logs, restored = await self._snapshots.read(self._store)
        for stream, rows in logs.items():
            self._recorder.begin(stream, rows[-1].number)
            with _whole(f"the log {stream}"):
                if stream.startswith(CATCHUP_STREAM):
                    bundle = stream.removeprefix(CATCHUP_STREAM)
                    debts = [cu.decode(row.data) for row in rows]
                    state.debts[bundle] = cu.CatchUp.replay(bundle, debts)
                    self.desk.remember(state.debts[bundle], debts)
                elif stream == freezes.STREAM:
                    for frozen in rows:
                        self.holds.freezes.apply(freezes.decode(frozen.data))
                elif stream == notices.STREAM:
                    for told in rows:
                        self.desk.outbox.apply(notices.decode(told.data))
                elif stream.startswith(recollection.STREAM):
                    self.agents.recollection.load(
                        state.cluster(stream.removeprefix(recollection.STREAM)), rows
                    )
                elif stream.startswith(directives.STREAM):
                    for event in rows:
                        state.directives.put(directives.decode_event(event.data))
                else:
                    machine = restored.get(stream) or RolloutMachine.replay(
                        ev.decode_log(row.data for row in rows)
                    )
                    machines.append(machine)
                    self._snapshots.begin(machine, rows[0].data)
        for machine in sorted(machines, key=lambda m: (m.started.at, m.name)):
            state.put(machine)
            self.desk.meet(machine)
            self.holds.meet(machine)
            machine.allow(0)  # until the fleet repository is read: before, no hold can be judged
        for bundle in state.debts:
            state.set_clocks(bundle)
            for name in state.debts[bundle].debts:
                self.holds.follow_debt(state.debts[bundle], name)
        self._recorder.wake_desk()
        self._recorder.wakes.put(freezes.STREAM, self.holds.freezes.next_end())

    # --- the loop ----------------------------------------------------------------------------------------------

    async def submit(self, work: Work) -> None:
        """Queues work; waits while the queue is full, which slows the sender down."""
        try:
            self._send.send_nowait(work)
        except anyio.WouldBlock:
            await self._send.send(work)

    def submit_nowait(self, work: Work) -> None:
        """Queues work, or raises ``anyio.WouldBlock`` while the queue is full."""
        self._send.send_nowait(work)

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
            effects, now, began = Effects(), self._clock(), anyio.current_time()
            for work in works:
                work(effects, now)
            self._wake(effects, now)
            self._launch.settle(effects, now)
            self._recorder.wake_desk()
            for name in effects.rollouts:
                self._snapshots.follow(self.state.rollouts[name], self._recorder.newest(name), effects.batch)
            if effects.batch:
                committing = anyio.current_time()
                await self._store.commit(effects.batch)
                effects.commit_seconds = anyio.current_time() - committing
            await self._perform(effects, began)
            if len(works) > BUSY:
                await anyio.sleep(
                    GATHER
                )  # many talk at once: a transaction costs as much for one frame as for many
            works = await self._next_batch()

    async def aclose(self) -> None:
        """After :meth:`run` was cancelled: who still asks is told that nobody listens any more."""
        self._send.close()
        self._receive.close()

    def _reconnecting(self, effects: Effects, now: float) -> None:
        """After a start nobody is in contact until told: soaks that ran stand still, deadlines wait a while."""
        self._snapshots.forget((machine.name for machine in self.state.active()), effects.batch)
        for machine in self.state.active():
            self._recorder.record(machine, machine.reconnecting(now, now + self._grace), effects, now)
        for bundle, ledger in list(self.state.debts.items()):
            self._recorder.debts(bundle, ledger.reconnecting(now, now + self._grace), effects, now)
            self._recorder.wakes.put(CATCHUP_STREAM + bundle, ledger.next_wake())

    def _wake(self, effects: Effects, now: float) -> None:
        """Whose time has come."""
        for key in self._recorder.wakes.due(now):
            if key == notices.STREAM:
                self._recorder.tell(self.desk.due(now, self.state.owed_commit), effects)
            elif key == rebuild.WAKE:
                pass  # settling looks whether the wait is over
            elif key == freezes.STREAM:
                self._refreeze(effects, now)
            elif key.startswith(CATCHUP_STREAM):
                bundle = key.removeprefix(CATCHUP_STREAM)
                ledger = self.state.debts[bundle]
                self._recorder.debts(bundle, ledger.tick(now), effects, now)
                self._recorder.wakes.put(key, ledger.next_wake())
            else:
                self._recorder.feed(self.state.rollouts[key], ev.Tick(), effects, now)

    async def _next_batch(self) -> list[Work]:
        wake = self._recorder.wakes.next()
        delay = max(0.0, wake - self._clock()) if wake is not None else LONGEST_SLEEP
        if self._acks:
            delay = min(delay, max(0.0, self._ack_due()))
        works: list[Work] = []
        try:
            works.append(self._receive.receive_nowait())
        except anyio.WouldBlock:
            with anyio.move_on_after(min(delay, LONGEST_SLEEP)):
                works.append(await self._receive.receive())
        while len(works) < MAX_BATCH:
            try:
                works.append(self._receive.receive_nowait())
            except anyio.WouldBlock:
                break
        return works

    async def _perform(self, effects: Effects, began: float) -> None:
        """Offers first, then what can wait; people are told when the frames are on their way."""
        for name, frame in effects.sends:
            self._deliver(name, frame)
        for name, frame in effects.heads:
            self._deliver(name, frame)
        self._acks.update(effects.acks)
        if effects.replies or self._ack_due() <= 0:
            self._acknowledge()
        await anyio.lowlevel.checkpoint()  # every session writes its first frame now
        effects.taken_seconds = anyio.current_time() - began
        _log(effects.lines)
        self._publish(effects)
        for reply in effects.replies:
            reply()

    def _ack_due(self) -> float:
        """Seconds until acknowledgements may go out again."""
        return self._acked_at + ACK_PAUSE - anyio.current_time()

    def _acknowledge(self) -> None:
        """The first at once, then one for all of a pause: a frame costs more than what it carries."""
        if not self._acks:
            return
        self._acked_at = anyio.current_time()
        for name, seq in self._acks.items():
            self._deliver(name, wire.HubFrame(ack=seq))
        self._acks.clear()

    def _deliver(self, name: str, frame: wire.HubFrame) -> None:
        cluster = self.state.clusters.get(name)
        if cluster and cluster.send:
            cluster.send(frame)

    # --- what the catalog and operators say ----------------------------------------------------------------------

    def read_catalog(self, reading: Reading) -> Work:
        def work(effects: Effects, now: float) -> None:
            self._launch.read(reading, effects, now)

        return work

    def start(self, start: Start, effects: Effects, now: float) -> RolloutMachine:
        """Starts a rollout over the clusters that are targeted now; ``MUSTER-R0xx`` says why not."""
        return self._launch.start(start, effects, now)

    def act(self, rollout: str, given: ev.Command) -> Callable[[Effects, float], RolloutMachine]:
        def work(effects: Effects, now: float) -> RolloutMachine:
            machine = self.state.rollouts[rollout]
            self._recorder.feed(machine, given, effects, now)
            return machine

        return work

    def take_back(self, order: TakeBack) -> Callable[[Effects, float], RolloutMachine]:
        """As :func:`~.returning.take_back`."""

        def work(effects: Effects, now: float) -> RolloutMachine:
            return take_back(self.state, self._launch, self._recorder, order, effects, now)

        return work

    def newest(self, rollout: str) -> int:
        """As :meth:`Recorder.newest`."""
        return self._recorder.newest(rollout)

    def measured(self, rollout: str, given: ev.GateMeasured) -> Work:
        """One look at a gate; nothing when the rollout has gone on meanwhile."""

        def work(effects: Effects, now: float) -> None:
            machine = self.state.rollouts.get(rollout)
            if machine and not machine.has_ended:
                self._recorder.feed(machine, given, effects, now)

        return work

    def freeze(self, wanted: freezes.FreezeCreated) -> Callable[[Effects, float], freezes.FreezeCreated]:
        """Holds clusters from now on; ``MUSTER-R082`` and ``R084`` say why not. ``wanted.at`` is set here."""

        def work(effects: Effects, now: float) -> freezes.FreezeCreated:
            event = self.holds.freezes.create(msgspec.structs.replace(wanted, at=now))
            self._keep_freeze(event, effects, now)
            effects.lines.append(f"{event.by} freezes {event.selector or 'every cluster'}: {event.name}")
            return event

        return work

    def unfreeze(self, name: str, by: str) -> Callable[[Effects, float], freezes.FreezeCreated | None]:
        """Ends a freeze before its time and returns it; None when there is no such one."""

        def work(effects: Effects, now: float) -> freezes.FreezeCreated | None:
            found = self.holds.freezes.get(name, now)
            if found is None:
                return None
            self._keep_freeze(freezes.FreezeDeleted(at=now, name=name, by=by), effects, now)
            effects.lines.append(f"{by} ends the freeze {name}")
            return found.created

        return work

    def _keep_freeze(self, event: freezes.AnyFreezeEvent, effects: Effects, now: float) -> None:
        number = self._recorder.number(freezes.STREAM)
        effects.batch.events.append(EventRow(freezes.STREAM, number, freezes.encode(event)))
        self._recorder.tell(self.desk.of_freeze(event, number, now), effects)
        self.holds.freezes.apply(event)
        self._refreeze(effects, now)

    def _refreeze(self, effects: Effects, now: float) -> None:
        self.holds.freezes.expire(now)
        self._recorder.wakes.put(freezes.STREAM, self.holds.freezes.next_end())
        self.holds.all_moved()
        self._recorder.spread(effects, now)

    def notice_sent(self, notice: str, endpoint: str) -> Work:
        def work(effects: Effects, now: float) -> None:
            self._recorder.tell(self.desk.outbox.sent(notice, endpoint, now), effects)

        return work

    def notice_dropped(self, notice: str, endpoint: str, why: str) -> Work:
        def work(effects: Effects, now: float) -> None:
            self._recorder.tell(self.desk.outbox.drop(notice, endpoint, why, now), effects)

        return work

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
        row = EventRow(stream, self._recorder.number(stream), directives.encode_event(event))
        effects.batch.events.append(row)
        effects.bundles.add(release.bundle)
        shelf.put(event)


def _report(row: ReportRow) -> wire.Report:
    try:
        return wire.Report.FromString(row.data)
    except DecodeError:
        with _whole(f"the report of {row.bundle} on {row.cluster}"):
            raise


@contextmanager
def _whole(what: str) -> Iterator[None]:
    """``MUSTER-L032`` for stored bytes that no program of this version wrote."""
    try:
        yield
    except (DecodeError, msgspec.MsgspecError, ValueError, LookupError) as error:
        said = " ".join(str(error).split())[:200]
        raise StoreError("L032", f"a row of the database is not one of ours ({said})", object=what) from error


def _log(lines: list[str]) -> None:
    if len(lines) > MANY_LINES:
        log.info("fleet", lines=lines)  # of a batch that moves many clusters: one record
        return
    for line in lines:
        log.info("fleet", line=line)
