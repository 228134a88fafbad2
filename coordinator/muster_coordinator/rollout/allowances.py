"""How many offers each rollout and each catch-up may make now under ``Fleet.limits.maxDisrupted``.

Owns the sharing of one limit over everything that is in flight: what is free goes round in equal parts, to whoever got
nothing for the longest first, and to rollouts that take clusters back before all others. What is left is reserved, so that a
rollout can go on within its own step. It costs the number of rollouts, waves and ledgers, not of clusters.
"""

from __future__ import annotations

from collections.abc import Callable

from muster_core.rollout import events as ev
from muster_core.rollout.machine import RolloutMachine

from muster_coordinator.rollout.effects import Effects
from muster_coordinator.rollout.fleetstate import FleetState
from muster_coordinator.rollout.record import CATCHUP_STREAM, Recorder

OfferDebts = Callable[[str, int | None, Effects, float], int]


class Allowances:
    """``offer_debts(bundle, at most, effects, now)`` lets a ledger offer, and says how many offers it made."""

    def __init__(self, state: FleetState, recorder: Recorder, offer_debts: OfferDebts) -> None:
        self._state, self._recorder, self._offer_debts = state, recorder, offer_debts
        self._served: dict[str, int] = {}  # by name: the number of the turn in which it got something last
        self._turn = 0

    def at_start(self) -> int | None:
        """What a rollout that begins now may use at once; the rest is shared at the end of the batch."""
        state = self._state
        if not state.is_read:
            return 0
        limit = state.max_disrupted()
        if limit is None:
            return None
        others = [machine for machine in state.active() if _wants(machine)]
        self._take_back()
        free = max(0, limit - self._used())
        return min(free, max(1, free // (1 + len(others))))

    def share(self, effects: Effects, now: float) -> None:
        """After a batch. Nothing is offered before the fleet repository was read: no hold could be judged."""
        state, touched = self._state, sorted(self._recorder.touched)
        if not state.is_read or not (effects.rollouts or touched or effects.read or self._recorder.moved):
            return
        limit = state.max_disrupted()
        if limit is None:
            for machine in state.active():
                if machine.run.allowance is not None:
                    self._recorder.feed(machine, ev.Allowance(None), effects, now)
            for bundle in touched:
                self._offer_debts(bundle, None, effects, now)
            return
        self._take_back()
        while (free := limit - self._used()) > 0 and self._round(free, effects, now):
            pass
        self._reserve(max(0, limit - self._used()))

    def _used(self) -> int:
        state = self._state
        return sum(m.in_flight for m in state.active()) + sum(ledger.busy for ledger in state.debts.values())

    def _take_back(self) -> None:
        for machine in self._state.active():
            machine.allow(0)

    def _round(self, free: int, effects: Effects, now: float) -> bool:
        """One part for everybody who wants some; whether anybody took any."""
        wanting: list[tuple[bool, int, str]] = [
            (not machine.started.returns, self._served.get(machine.name, 0), machine.name)
            for machine in self._state.active()
            if _wants(machine)
        ]
        for bundle, ledger in self._state.debts.items():
            if ledger.debts and not ledger.stopped:
                name = CATCHUP_STREAM + bundle
                wanting.append((True, self._served.get(name, 0), name))
        part, took = max(1, free // max(1, len(wanting))), False
        for _, _, name in sorted(wanting):
            made = self._give(name, min(part, free), effects, now)
            free -= made
            if made:
                took = True
                self._turn += 1
                self._served[name] = self._turn
            if free <= 0:
                break
        return took

    def _give(self, name: str, offers: int, effects: Effects, now: float) -> int:
        if name.startswith(CATCHUP_STREAM):
            return self._offer_debts(name.removeprefix(CATCHUP_STREAM), offers, effects, now)
        machine = self._state.rollouts[name]
        self._recorder.feed(machine, ev.Allowance(offers), effects, now)
        made = offers - (machine.run.allowance or 0)
        machine.allow(0)
        return made

    def _reserve(self, free: int) -> None:
        active = [machine for machine in self._state.active() if not machine.run.is_paused]
        for index, machine in enumerate(active):
            part, rest = divmod(free, len(active))
            machine.allow(part + (index < rest))


def _wants(machine: RolloutMachine) -> bool:
    run = machine.run
    if run.makes_no_offers or run.is_paused:
        return False
    return not run.opened or any(wave.line.ready for wave in run.opened)
