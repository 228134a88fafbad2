"""The state of one rollout, moved by its events alone.

Owns what the rules read and :meth:`Run.apply`, the one function of live path and replay. Beside what the log gives it keeps
knowledge of the moment, which executors tell again after a replay: who is in contact, who is held, how many offers the
fleet's limit leaves, and what gates measured. It decides nothing.
"""

from __future__ import annotations

from muster_core.rollout import events as ev
from muster_core.rollout.board import Board, Target, WaveBoard
from muster_core.rollout.gates import PhaseGates

ENDED = frozenset({"Succeeded", "Failed", "Aborted", "RolledBack", "Superseded"})
PLAN = "plan"  # who pauses when no person does


def by(who: str, reason: str) -> str:
    """Of an order, for people."""
    return f"by {who}: {reason}" if reason else f"by {who}"


class Run:
    """``why`` is why it is held, paused, stopping or ended."""

    def __init__(self, started: ev.Started) -> None:
        self.started = started
        self.plan = started.plan
        self.state = "Running"
        self.why = ""
        self.wave = -1
        self.stopping = ""
        self.stopping_wave = -1
        self.expired = False
        self.expires_at = None if started.plan.expire is None else started.at + started.plan.expire
        self.paused_by = ""
        self.ended_at: float | None = None
        self.board = Board(started.plan, started.at, started.attempt, started.carried, started.not_before)
        self.waves = self.board.waves
        self.targets = self.board.targets
        self.opened: list[WaveBoard] = []
        self.unspent_at = -1  # no budget was used up as of so many harms; nothing but harm uses one up
        self.with_hours: list[WaveBoard] = []  # those of the opened ones that have a window
        self.online: set[str] = set()
        self.allowance: int | None = 0 if started.plan.limited else None

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED

    @property
    def is_paused(self) -> bool:
        return self.state == "Paused"

    @property
    def makes_no_offers(self) -> bool:
        """For good: it only waits for what runs."""
        return bool(self.stopping) or self.expired or self.has_ended

    @property
    def current(self) -> WaveBoard:
        return self.waves[self.wave]

    @property
    def in_flight(self) -> int:
        return sum(wave.in_flight for wave in self.waves)

    def count(self, *states: str) -> int:
        return sum(wave.count(*states) for wave in self.waves)

    def answers(self, cluster: str, attempt: int) -> Target | None:
        """The target, if this answers an offer that was made to it.

        Its offer may be withdrawn since, or it may be owed: messages cross, and what an agent took, it runs.
        """
        target = self.targets.get(cluster)
        return target if target and target.was_offered and target.attempt == attempt else None

    def emit(self, event: ev.AnyEvent, out: list[ev.AnyEvent]) -> None:
        self.apply(event)
        out.append(event)

    def may_recall(self, target: Target, now: float) -> bool:
        """Whether its offer can be taken back: nobody took it, or who did waits for its time and is there to be told.

        Who is out of contact may apply what it staged before it hears of anything: it stays in flight until it is back.
        """
        waits = now < self.started.not_before and target.state in {"acknowledged", "staged"}
        return target.state == "offered" or (waits and target.cluster in self.online)

    def withdraw(self, target: Target, why: str, now: float, out: list[ev.AnyEvent]) -> None:
        withdrawn = ev.OfferWithdrawn(at=now, cluster=target.cluster, attempt=target.attempt, why=why)
        self.emit(withdrawn, out)

    def withdraw_all(self, why: str, now: float, out: list[ev.AnyEvent]) -> None:
        """Every offer that :meth:`may_recall` names. O(in flight).

        The last one first, so that the line is as it was: who saw an offer is first to get it again.
        """
        for target in reversed([t for t in self.board.in_flight() if self.may_recall(t, now)]):
            self.withdraw(target, why, now, out)

    # --- live and replayed -----------------------------------------------------------------------

    def apply(self, event: ev.AnyEvent) -> None:
        """O(log n), but for Paused, Resumed, Promoted and Stopping (what is in flight) and Expired (who waits)."""
        if isinstance(event, ev.TargetEvent):
            self.board.apply(event)
        elif isinstance(event, ev.GateEvent):
            self._gate(event)
        else:
            self._whole(event)

    def _gate(self, event: ev.GateEvent) -> None:
        phase = self.waves[event.wave].gates.of(event.phase)
        match event:
            case ev.GateApproved():
                phase.gates[event.index].approvals[event.by] = event.reason
            case ev.GatePassed():
                phase.pass_gate(event.index)
            case ev.GateFailed():
                phase.gates[event.index].failed = event.why
            case _:
                pass

    def _whole(self, event: ev.AnyEvent) -> None:
        match event:
            case ev.WaveOpened():
                self.wave, self.state, self.why = event.wave, "Running", ""
                self.see_opened()
                self.current.gates.before.begin(event.at)
            case ev.WavePassed():
                self.waves[event.wave].passed = True
            case ev.WaveSettled():
                self.waves[event.wave].gates.after.begin(event.at)
            case ev.Promoted():
                self.board.promote(self.waves[event.wave], event.at)
            case ev.CarriedSettled():
                self.board.settle(event.cluster, event.at)
            case ev.Held():
                self.state, self.why = "Held", event.why
            case ev.Released():
                self.state, self.why = "Running", ""
            case ev.Paused():
                self.state, self.why, self.paused_by = "Paused", by(event.by, event.reason), event.by
                self.board.stop_clocks(event.at)
                for _, gates in self._asked():
                    gates.stop_clocks(event.at)
            case ev.Resumed():
                self.state, self.why, self.paused_by = "Running", "", ""
                self.board.start_clocks(event.at)
                for _, gates in self._asked():
                    gates.start_clocks(event.at)
            case ev.ClocksDeferred():
                self.board.defer_clocks(event.until)
            case ev.Stopping():
                self.state, self.why, self.stopping = "Running", event.why, event.why
                self.stopping_wave = event.wave
                self.board.start_clocks(event.at)
            case ev.Expired():
                self.state, self.why, self.expired = "Running", "", True
                self.board.expire(event.at)
                self.board.start_clocks(event.at)
            case ev.Ended():
                self.state, self.why, self.ended_at = event.state, event.why, event.at
            case _:
                pass

    def see_opened(self) -> None:
        """What follows from the number of the wave that is open."""
        self.opened = self.waves[: self.wave + 1]
        self.with_hours = [wave for wave in self.opened if not wave.hours.always]

    def _asked(self) -> list[tuple[ev.Phase, PhaseGates]]:
        return list(self.current.gates.asked()) if self.opened else []
