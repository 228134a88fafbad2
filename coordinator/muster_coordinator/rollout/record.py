"""Feeds the machines and writes down what they say.

Owns the numbering of event streams, what follows from an event at once (an offer, a withdrawal, a line for people), and when
each machine wants to be woken. It decides nothing: machines and ledgers do, and the desk what people are told.
"""

from __future__ import annotations

from collections.abc import Iterable

from muster_core.rollout import catchup as cu
from muster_core.rollout import events as ev
from muster_core.rollout.machine import RolloutMachine
from muster_proto.v1 import link_pb2 as wire

from muster_coordinator.notify import notices
from muster_coordinator.notify.desk import Desk
from muster_coordinator.rollout.effects import Effects
from muster_coordinator.rollout.fleetstate import FleetState
from muster_coordinator.rollout.holds import Holds
from muster_coordinator.rollout.narration import debt_line, event_line
from muster_coordinator.rollout.wakes import Wakes
from muster_coordinator.store.port import EventRow

CATCHUP_STREAM = "catchup/"


class Recorder:
    """``touched`` are the bundles whose ledgers may have something to offer now; ``moved``: somebody was held or let go."""

    def __init__(self, state: FleetState, desk: Desk, holds: Holds) -> None:
        self._state, self._desk, self._holds = state, desk, holds
        self._spreading = False
        self._numbers: dict[str, int] = {}
        self.wakes = Wakes()
        self.touched: set[str] = set()
        self.moved = False

    def begin(self, stream: str, number: int) -> None:
        """``number`` is the newest that the store has of a stream."""
        self._numbers[stream] = number

    def number(self, stream: str) -> int:
        self._numbers[stream] = self._numbers.get(stream, 0) + 1
        return self._numbers[stream]

    def newest(self, stream: str) -> int:
        """The number of a stream's newest event, which may not be durable yet."""
        return self._numbers.get(stream, 0)

    def feed(self, machine: RolloutMachine, given: ev.Input, effects: Effects, now: float) -> None:
        self.record(machine, machine.handle(given, now), effects, now)

    def record(
        self, machine: RolloutMachine, events: Iterable[ev.AnyEvent], effects: Effects, now: float
    ) -> None:
        """Events that the machine has applied already."""
        bundle, name, ended = machine.started.bundle, machine.name, False
        for event in events:
            number = self.number(name)
            effects.batch.events.append(EventRow(name, number, ev.encode(event)))
            self.tell(self._desk.of_event(machine, event, number, now), effects)
            self._holds.follow(machine, event)
            effects.rollouts.add(name)
            effects.bundles.add(bundle)
            if line := event_line(machine, event):
                effects.lines.append(line)
            match event:
                case ev.OfferMade():
                    offer = self._state.offer(machine, machine.targets[event.cluster])
                    effects.sends.append((event.cluster, wire.HubFrame(offer=offer)))
                case ev.OfferWithdrawn():
                    withdraw = wire.Withdraw(rollout=name, bundle=bundle, attempt=event.attempt)
                    effects.sends.append((event.cluster, wire.HubFrame(withdraw=withdraw)))
                case ev.Ended():
                    ended = True
                case _:
                    pass
        self.wakes.put(name, machine.next_wake())
        if ended:
            effects.ended.add(bundle)
            self.touched.add(bundle)
            self._settle(machine, effects, now)
        self.spread(effects, now)

    def spread(self, effects: Effects, now: float) -> None:
        """Tells machines who is held now and who no longer is, until nothing follows from it any more.

        It runs once all events of a step are written down: what a machine answers belongs behind them in its log.
        """
        if self._spreading:
            return
        self._spreading = True
        try:
            moved = self._holds.tell(lambda machine, given: self.feed(machine, given, effects, now), now)
        finally:
            self._spreading = False
        if moved:
            self.moved = True
            for bundle, ledger in self._state.debts.items():
                if any((debt := ledger.debts.get(name)) and debt.state == "owed" for name in moved):
                    self.touched.add(bundle)

    def contact(self, cluster: str, effects: Effects, now: float) -> None:
        """It began or ended, and the state says so already; machines are told after this.

        Of several offers that were made while it was away the oldest rollout's stands: the others are held first.
        """
        for machine in self._state.active():
            self._holds.contact(machine, cluster)
            self.spread(effects, now)

    def reported(self, cluster: str, bundle: str) -> None:
        """What a cluster runs, or how that is, changed: others may have waited for it."""
        self._holds.reported(cluster, bundle)

    def _settle(self, machine: RolloutMachine, effects: Effects, now: float) -> None:
        """Who is owed what, now that a rollout has ended."""
        bundle = machine.started.bundle
        last = self._state.last_succeeded(bundle)
        ledger = self._state.ledger(bundle)
        settlement = cu.debts_after(machine, succeeded(last) if last else None)
        self.debts(bundle, ledger.settle(settlement, now), effects, now)

    def debts(self, bundle: str, events: Iterable[cu.AnyCatchUpEvent], effects: Effects, now: float) -> None:
        """Events that the bundle's ledger has applied already."""
        stream, ledger, any_event = CATCHUP_STREAM + bundle, self._state.ledger(bundle), False
        for event in events:
            any_event = True
            number = self.number(stream)
            effects.batch.events.append(EventRow(stream, number, cu.encode(event)))
            self.tell(self._desk.of_debt(ledger, event, number, now), effects)
            self._holds.follow_debt(ledger, event.cluster)
            effects.clusters.add(event.cluster)
            effects.bundles.add(bundle)
            if isinstance(event, cu.Offered):
                offer = self._state.debt_offer(bundle, ledger.debts[event.cluster])
                effects.sends.append((event.cluster, wire.HubFrame(offer=offer)))
            if line := debt_line(ledger, event):
                effects.lines.append(line)
        if any_event:
            self.touched.add(bundle)
            self.wakes.put(stream, ledger.next_wake())
            self.spread(effects, now)

    def tell(self, events: Iterable[notices.AnyNotifyEvent], effects: Effects) -> None:
        """Events that the outbox has applied already."""
        for event in events:
            number = self.number(notices.STREAM)
            effects.batch.events.append(EventRow(notices.STREAM, number, notices.encode(event)))
            effects.notices = True

    def wake_desk(self) -> None:
        self.wakes.put(notices.STREAM, self._desk.next_due())


def succeeded(machine: RolloutMachine) -> cu.Succeeded:
    return cu.Succeeded(machine.name, machine.started.commit, machine.started.tree_digest)
