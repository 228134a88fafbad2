"""One rollout as a machine: inputs and now in, events out; the log of events is its whole memory.

Owns the order in which an input is taken, and what others may ask. The rules are in ``answers`` (the world), ``orders``
(people), ``offering`` and ``progress`` (what follows); the state is ``run``'s. It never reads a clock, never logs, and never
raises for what the world says; only an operator's order that does not apply is an error.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import get_args

from muster_core.errors import RolloutError
from muster_core.rollout import answers, orders, progress
from muster_core.rollout import events as ev
from muster_core.rollout.board import IN_FLIGHT, Board, Target, WaveBoard
from muster_core.rollout.gates import PendingGate
from muster_core.rollout.plan import ResolvedGate
from muster_core.rollout.run import ENDED, Run

__all__ = ["ENDED", "RolloutMachine", "WantedApproval"]

COMMANDS = get_args(ev.Command)


@dataclass(frozen=True, slots=True)
class WantedApproval:
    """An approval that the rollout waits for since then (unix seconds); ``given`` names who approved so far."""

    wave: int
    phase: ev.Phase
    index: int
    gate: ResolvedGate
    since: float
    given: tuple[str, ...]


class RolloutMachine:
    """One rollout. Build it from its log with :meth:`replay`, or from a ``Started`` event.

    An executor tells who is in contact, who is held and what the fleet's limit leaves before anything else (:meth:`meet`,
    :meth:`hold`, :meth:`allow`), and again after a replay (see :meth:`reconnecting`): these are knowledge of the moment,
    never in the log.
    """

    def __init__(self, started: ev.Started) -> None:
        self.run = Run(started)
        self._unsaid: list[ev.AnyEvent] = []  # what time brought before an order that was refused

    @classmethod
    def replay(cls, log: Iterable[ev.AnyEvent]) -> RolloutMachine:
        """The machine after these events; the first must be :class:`Started`."""
        iterator = iter(log)
        first = next(iterator, None)
        if not isinstance(first, ev.Started):
            raise RolloutError("R003", "the log of a rollout does not begin with its start")
        machine = cls(first)
        apply = machine.run.apply
        with machine.board.replaying():
            for event in iterator:
                apply(event)
        return machine

    # --- questions -------------------------------------------------------------------------------

    @property
    def started(self) -> ev.Started:
        return self.run.started

    @property
    def name(self) -> str:
        return self.run.started.rollout

    @property
    def state(self) -> str:
        return self.run.state

    @property
    def why(self) -> str:
        return self.run.why

    @property
    def wave(self) -> int:
        """The number of the wave that is open; -1 before the first."""
        return self.run.wave

    @property
    def stopping(self) -> str:
        return self.run.stopping

    @property
    def ended_at(self) -> float | None:
        return self.run.ended_at

    @property
    def board(self) -> Board:
        return self.run.board

    @property
    def targets(self) -> dict[str, Target]:
        return self.run.targets

    @property
    def waves(self) -> list[WaveBoard]:
        return self.run.waves

    @property
    def has_ended(self) -> bool:
        return self.run.has_ended

    def count(self, *states: str) -> int:
        return self.run.count(*states)

    @property
    def in_flight(self) -> int:
        """How many hold a slot; what ``Fleet.limits.maxDisrupted`` counts of this rollout. O(waves)."""
        return 0 if self.has_ended else self.run.in_flight

    def outstanding(self) -> list[Target]:
        """Targets whose offer stands. O(in flight)."""
        return [] if self.has_ended else list(self.board.in_flight())

    def offer_for(self, cluster: str) -> Target | None:
        """Its offer, if one stands: what is sent again when it connects. O(1)."""
        target = self.targets.get(cluster)
        return target if target and not self.has_ended and target.state in IN_FLIGHT else None

    @property
    def has_unsaid(self) -> bool:
        """Whether it has applied events that no call has returned yet: it is ahead of its log until the next one."""
        return bool(self._unsaid)

    def stands(self, cluster: str, attempt: int) -> bool:
        """Whether who took this offer may go on with it: also who was lost, and who is only now heard of. O(1)."""
        target = self.targets.get(cluster)
        taken = target is not None and target.state in IN_FLIGHT | {"lost"} and target.attempt == attempt
        return taken and not self.has_ended

    def next_wake(self) -> float | None:
        """When a :class:`Tick` will have something to do, if nothing else happens."""
        return self._unsaid[0].at if self._unsaid else progress.next_wake(self.run)

    def is_online(self, cluster: str) -> bool:
        return cluster in self.run.online

    def pending_gates(self) -> list[PendingGate]:
        """The gates that an executor has to measure now: http and prometheus, each at its interval."""
        run = self.run
        if run.makes_no_offers or not run.opened:
            return []
        return [
            PendingGate(run.wave, phase, index, gate.spec, gate.since)
            for phase, gates in run.current.gates.asked()
            for index, gate in gates.pending()
            if gate.spec.is_measured and not gate.failed
        ]

    def wanted_approvals(self) -> list[WantedApproval]:
        """The approvals that are asked now."""
        return [
            WantedApproval(self.wave, phase, index, gate.spec, gate.since, tuple(gate.approvals))
            for phase, index, gate in orders.approvals_asked(self.run)
        ]

    def to_return(self) -> list[str]:
        """Rolled back with scope wave or rollout: who is healthy on the release and is to be taken back. O(members)."""
        return [cluster for cluster in self._in_scope() if self.targets[cluster].state == "done"]

    def returns_owed(self) -> list[str]:
        """As :meth:`to_return`: who holds the release and fell silent. They are owed their return."""
        return [cluster for cluster in self._in_scope() if self.targets[cluster].state == "lost"]

    def to_carry(self) -> list[str]:
        """Superseded: who is still busy with this release, and keeps counting in the rollout that took its place."""
        if self.state != "Superseded":
            return []
        busy = [target.cluster for target in self.board.in_flight()]
        return busy + [cluster for wave in self.waves for cluster in wave.carried]

    def _in_scope(self) -> list[str]:
        run = self.run
        if run.state != "RolledBack" or run.plan.scope == "target":
            return []
        waves = run.opened if run.plan.scope == "rollout" else [run.waves[run.stopping_wave]]
        return [cluster for wave in waves for cluster in wave.spec.members]

    # --- inputs ----------------------------------------------------------------------------------

    def meet(self, clusters: Iterable[str]) -> None:
        """Who is in contact when it starts, told before :meth:`begin`."""
        self.run.online.update(clusters)

    def hold(self, cluster: str, why: str) -> None:
        """Who is held when it starts or after a replay, told before :meth:`begin`. Later: :class:`~.events.Hold`."""
        if target := self.targets.get(cluster):
            self.waves[target.wave].line.hold(cluster, why)

    def allow(self, offers: int | None) -> None:
        """As :class:`~.events.Allowance`, told before :meth:`begin`."""
        self.run.allowance = offers

    def handle(self, given: ev.Input, now: float) -> list[ev.AnyEvent]:
        """Takes one input; returns what follows, already applied. Store the events before acting on them.

        If they cannot be stored, this machine is ahead of its log: drop it and replay. An order that is refused raises; what
        time brought before it is returned by the next call, which :meth:`next_wake` asks for at once.
        """
        run = self.run
        if isinstance(given, ev.Contact):
            (run.online.add if given.online else run.online.discard)(given.cluster)
        if run.has_ended:
            if isinstance(given, COMMANDS):
                orders.require_running(run)
            out, self._unsaid = self._unsaid, []
            return out
        out, self._unsaid = self._unsaid, []
        progress.clocks(run, now, out)  # what was due before this input comes first
        try:
            self._take(given, now, out)
        except RolloutError:
            self._unsaid = out
            raise
        progress.target_clocks(run, now, out)  # a soak of nothing is over at once
        progress.advance(run, now, out)
        return out

    def _take(self, given: ev.Input, now: float, out: list[ev.AnyEvent]) -> None:
        run = self.run
        match given:
            case ev.Tick():
                pass
            case ev.Acknowledged():
                answers.acknowledged(run, given.cluster, given.attempt, now, out)
            case ev.Reported():
                answers.reported(run, given, now, out)
            case ev.Contact():
                answers.contact(run, given, now, out)
            case ev.Refused():
                answers.refused(run, given, now, out)
            case ev.Deferred():
                answers.deferred(run, given, now, out)
            case ev.Hold():
                answers.hold(run, given, now, out)
            case ev.Unhold():
                answers.unhold(run, given)
            case ev.Allowance():
                run.allowance = given.offers
            case ev.Settled():
                answers.settled(run, given, now, out)
            case ev.MemberRemoved():
                answers.removed(run, given, now, out)
            case ev.GateMeasured():
                answers.measured(run, given, now, out)
            case _:
                orders.obey(run, given, now, out)

    def begin(self, now: float) -> list[ev.AnyEvent]:
        """The first offers, after :class:`Started` is stored."""
        return self.handle(ev.Tick(), now)

    def reconnecting(self, now: float, until: float) -> list[ev.AnyEvent]:
        """After a replay nobody is in contact until told, and nobody was heard meanwhile. O(in flight).

        Running soaks stand still, and no deadline fires before ``until``: silence counts only while somebody listens.
        """
        out: list[ev.AnyEvent] = []
        if self.has_ended:
            return out
        progress.windows(self.run, now, out)
        for target in list(self.board.in_flight()):
            if target.soak_runs and not self.is_online(target.cluster):
                self.run.emit(ev.SoakSuspended(at=now, cluster=target.cluster), out)
        if self.board.due_before(until):
            self.run.emit(ev.ClocksDeferred(at=now, until=until), out)
        return out

    def apply(self, event: ev.AnyEvent) -> None:
        """The one function of live path and replay."""
        self.run.apply(event)
