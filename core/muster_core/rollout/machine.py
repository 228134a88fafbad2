"""One rollout as a machine: inputs and now in, events out; the log of events is its whole memory.

Owns every rule of a rollout that is built: budgets, three clocks, owed and lost, quorum, soak, pause, and
what a spent budget does. Counting is the board's, so that deciding does not scan the fleet. It never reads
a clock, never logs, and never raises for what the world says; only an operator's command that does not
apply is an error.
"""

from __future__ import annotations

from collections.abc import Iterable

from muster_core.durations import format_duration
from muster_core.errors import RolloutError
from muster_core.rollout import events as ev
from muster_core.rollout.board import HARMED, IN_FLIGHT, Board, Target, WaveBoard

ENDED = frozenset({"Succeeded", "Failed", "Aborted", "RolledBack"})
MAX_FLAPS = 3
ACKNOWLEDGED = frozenset({"acknowledged", "applying", "soaking", "lost"})


class RolloutMachine:
    """The state of one rollout. Build it from its log with :meth:`replay`, or from a ``Started`` event.

    An executor tells it ``Contact`` before anything else from a cluster, and again for every connected one
    after a replay (see :meth:`reconnecting`): who is in contact is knowledge of the moment, never in the log.
    """

    def __init__(self, started: ev.Started) -> None:
        self.started = started
        self.state = "Running"
        self.why = ""
        self.wave = -1
        self.stopping = ""
        self.ended_at: float | None = None
        self.board = Board(started.plan, started.at, started.attempt)
        self._opened: list[WaveBoard] = []
        self._online: set[str] = set()

    @classmethod
    def replay(cls, log: Iterable[ev.AnyEvent]) -> RolloutMachine:
        """The machine after these events; the first must be :class:`Started`."""
        iterator = iter(log)
        first = next(iterator, None)
        if not isinstance(first, ev.Started):
            raise RolloutError("R003", "the log of a rollout does not begin with its start")
        machine = cls(first)
        for event in iterator:
            machine.apply(event)
        return machine

    # --- questions -------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self.started.rollout

    @property
    def targets(self) -> dict[str, Target]:
        return self.board.targets

    @property
    def waves(self) -> list[WaveBoard]:
        return self.board.waves

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED

    def count(self, *states: str) -> int:
        return sum(wave.count(*states) for wave in self.waves)

    def outstanding(self) -> list[Target]:
        """Targets whose offer stands. O(in flight)."""
        return [] if self.has_ended else list(self.board.in_flight())

    def offer_for(self, cluster: str) -> Target | None:
        """Its offer, if one stands: what is sent again when it connects. O(1)."""
        target = self.targets.get(cluster)
        return target if target and not self.has_ended and target.state in IN_FLIGHT else None

    def next_wake(self) -> float | None:
        """When a :class:`Tick` will have something to do, if nothing else happens."""
        return None if self.has_ended else self.board.next_due()

    def meet(self, clusters: Iterable[str]) -> None:
        """Who is in contact when it starts, told before :meth:`begin`."""
        self._online.update(clusters)

    def is_online(self, cluster: str) -> bool:
        return cluster in self._online

    # --- inputs ----------------------------------------------------------------------------------

    def handle(self, given: ev.Input, now: float) -> list[ev.AnyEvent]:
        """Takes one input; returns what follows, already applied. Store the events before acting on them.

        If they cannot be stored, this machine is ahead of its log: drop it and replay.
        """
        if isinstance(given, ev.Contact):
            (self._online.add if given.online else self._online.discard)(given.cluster)
        if self.has_ended:
            if isinstance(given, (ev.Pause, ev.Resume, ev.Abort)):
                raise RolloutError(
                    "R010",
                    f"the rollout has ended ({self.state})",
                    object=self.name,
                    hint="Start another one: muster rollout start.",
                )
            return []
        out: list[ev.AnyEvent] = []
        self._timeouts(now, out)  # what was due before this input comes first
        match given:
            case ev.Tick():
                pass
            case ev.Acknowledged():
                self._acknowledged(given.cluster, given.attempt, now, out)
            case ev.Refused():
                self._refused(given, now, out)
            case ev.Reported():
                self._reported(given, now, out)
            case ev.Contact():
                self._contact(given, now, out)
            case ev.MemberRemoved():
                self._removed(given, now, out)
            case ev.Pause():
                self._pause(given.by, given.reason, now, out)
            case ev.Resume():
                self._resume(given, now, out)
            case ev.Abort():
                self._withdraw_offers("the rollout was aborted", now, out)
                self._emit(ev.Ended(at=now, state="Aborted", why=_by(given.by, given.reason)), out)
        self._timeouts(now, out)  # a soak of nothing is over at once
        self._advance(now, out)
        return out

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
        for target in list(self.board.in_flight()):
            if target.soak_runs and target.cluster not in self._online:
                self._emit(ev.SoakSuspended(at=now, cluster=target.cluster), out)
        if self.board.due_before(until):
            self._emit(ev.ClocksDeferred(at=now, until=until), out)
        return out

    def _emit(self, event: ev.AnyEvent, out: list[ev.AnyEvent]) -> None:
        self.apply(event)
        out.append(event)

    def _answers(self, cluster: str, attempt: int) -> Target | None:
        """The target, if this answers an offer that was made to it.

        Its offer may be withdrawn since, or it may be owed: messages cross, and what an agent took, it runs.
        """
        target = self.targets.get(cluster)
        return target if target and target.was_offered and target.attempt == attempt else None

    def _acknowledged(self, cluster: str, attempt: int, now: float, out: list[ev.AnyEvent]) -> None:
        target = self._answers(cluster, attempt)
        if target and target.state in {"offered", "waiting", "owed"}:
            self._emit(ev.TargetAcknowledged(at=now, cluster=cluster), out)

    def _refused(self, given: ev.Refused, now: float, out: list[ev.AnyEvent]) -> None:
        target = self._answers(given.cluster, given.attempt)
        if target and target.state in {"offered", "waiting", "owed", *ACKNOWLEDGED}:
            failed = ev.TargetFailed(at=now, cluster=given.cluster, code=given.code, message=given.message)
            self._emit(failed, out)

    def _reported(self, given: ev.Reported, now: float, out: list[ev.AnyEvent]) -> None:
        """Only a report that names this release and attempt counts: no report is older than what it names."""
        if given.tree_digest != self.started.tree_digest:
            return
        self._acknowledged(given.cluster, given.attempt, now, out)
        target = self._answers(given.cluster, given.attempt)
        if not target:
            return
        cluster, state, code, message = given.cluster, target.state, given.code, given.message
        match given.outcome:
            case "applying" if state == "acknowledged":
                self._emit(ev.TargetApplying(at=now, cluster=cluster), out)
            case "applying" if state == "soaking" and not target.soak_broken:
                if target.flaps < MAX_FLAPS:
                    self._emit(ev.SoakBroken(at=now, cluster=cluster), out)
                else:
                    text = f"unhealthy {MAX_FLAPS + 1} times while soaking: {message}".removesuffix(": ")
                    self._emit(
                        ev.TargetFailed(at=now, cluster=cluster, code=code or "R021", message=text), out
                    )
            case "healthy" if state in ACKNOWLEDGED and (state != "soaking" or target.soak_broken):
                self._emit(ev.SoakStarted(at=now, cluster=cluster), out)
                if cluster not in self._online:
                    self._emit(ev.SoakSuspended(at=now, cluster=cluster), out)
            case "failed" if state in ACKNOWLEDGED:
                self._emit(ev.TargetFailed(at=now, cluster=cluster, code=code, message=message), out)
            case "returned" if state in ACKNOWLEDGED or state == "failed":
                self._emit(ev.TargetReturned(at=now, cluster=cluster, code=code, message=message), out)
            case _:
                pass

    def _contact(self, given: ev.Contact, now: float, out: list[ev.AnyEvent]) -> None:
        target = self.targets.get(given.cluster)
        if not target:
            return
        if given.online and target.state == "owed" and not self.stopping:
            self._emit(ev.TargetBack(at=now, cluster=given.cluster), out)
        elif target.soak_runs and not given.online:
            self._emit(ev.SoakSuspended(at=now, cluster=given.cluster), out)
        elif target.state == "soaking" and target.soak_left is not None and given.online:
            self._emit(ev.SoakResumed(at=now, cluster=given.cluster), out)

    def _removed(self, given: ev.MemberRemoved, now: float, out: list[ev.AnyEvent]) -> None:
        """Leaving shrinks the quorum's base; what is done or harmed stays counted."""
        target = self.targets.get(given.cluster)
        if target and target.state not in {"done", "skipped", *HARMED}:
            self._emit(ev.TargetSkipped(at=now, cluster=given.cluster, why=given.why), out)

    def _pause(self, by: str, reason: str, now: float, out: list[ev.AnyEvent]) -> None:
        if self.state == "Paused":
            raise RolloutError("R011", "the rollout is paused already", object=self.name)
        if self.stopping:
            raise RolloutError("R014", "the rollout is stopping and offers nothing", object=self.name)
        self._withdraw_offers("the rollout is paused", now, out)
        self._emit(ev.Paused(at=now, by=by, reason=reason), out)

    def _resume(self, given: ev.Resume, now: float, out: list[ev.AnyEvent]) -> None:
        if self.state != "Paused":
            raise RolloutError("R012", "the rollout is not paused", object=self.name)
        spent = self._spent()
        if spent:
            harmed, name = len(spent.harmed), spent.spec.name
            raise RolloutError(
                "R013",
                f"wave {name} has {harmed} failed or lost and allows {spent.spec.max_failed}",
                object=self.name,
                hint=f"Mend it with a new commit: muster rollout abort {self.name} lets the next one start.",
            )
        self._emit(ev.Resumed(at=now, by=given.by, reason=given.reason), out)

    def _withdraw_offers(self, why: str, now: float, out: list[ev.AnyEvent]) -> None:
        """The last one first, so that the queue is as it was: who saw an offer is first to get it again."""
        for target in reversed(self.board.offered()):
            self._emit(
                ev.OfferWithdrawn(at=now, cluster=target.cluster, attempt=target.attempt, why=why), out
            )

    # --- time ------------------------------------------------------------------------------------

    def _timeouts(self, now: float, out: list[ev.AnyEvent]) -> None:
        while not self.has_ended and (target := self.board.take_due(now)):
            self._timeout(target, now, out)

    def _timeout(self, target: Target, now: float, out: list[ev.AnyEvent]) -> None:
        cluster, online = target.cluster, target.cluster in self._online
        if target.state == "offered" and self.waves[target.wave].spec.offline_policy == "fail":
            text = "did not acknowledge in time, and the plan says offline: fail"
            self._emit(ev.TargetFailed(at=now, cluster=cluster, code="R022", message=text), out)
        elif target.state == "offered":
            self._emit(ev.TargetOwed(at=now, cluster=cluster), out)
        elif target.soak_runs and online:
            self._emit(ev.TargetDone(at=now, cluster=cluster), out)
        elif target.soak_runs:
            self._emit(ev.SoakSuspended(at=now, cluster=cluster), out)
        elif online:
            text = f"not healthy within {format_duration(self.started.plan.deadline)}"
            self._emit(ev.TargetFailed(at=now, cluster=cluster, code="R020", message=text), out)
        else:
            self._emit(ev.TargetLost(at=now, cluster=cluster), out)

    # --- progress --------------------------------------------------------------------------------

    def _advance(self, now: float, out: list[ev.AnyEvent]) -> None:
        """Everything that follows without a further input: breach, drain, offers, wave ends."""
        while not self.has_ended and self._step(now, out):
            pass

    def _spent(self) -> WaveBoard | None:
        for wave in self._opened:
            if wave.spent:
                return wave
        return None

    def _step(self, now: float, out: list[ev.AnyEvent]) -> bool:
        if self.wave < 0:
            self._emit(ev.WaveOpened(at=now, wave=0), out)
            return True
        if self.stopping:
            return self._drain(now, out)
        spent = self._spent()
        if spent:
            return self._breach(spent, now, out)
        if self.state == "Paused":
            return False
        for wave in self._opened:
            if wave.waiting:
                self._offer(wave, now, out)
        current = self.waves[self.wave]
        if current.waiting or current.flying:
            return self._unhold(now, out)
        if current.waits_for_absent:
            if self.state != "Held":
                why = f"offline: wave {current.spec.name} waits for {current.waits_for_absent} that are away"
                self._emit(ev.Held(at=now, why=why), out)
            return False
        if not current.reached_quorum:
            if self.state != "Held":
                why = f"quorum: wave {current.spec.name} has {current.done} of {current.quorum} done"
                self._emit(ev.Held(at=now, why=why), out)
            return False
        if not current.passed:
            self._emit(ev.WavePassed(at=now, wave=self.wave), out)
        if self.wave + 1 < len(self.waves):
            self._emit(ev.WaveOpened(at=now, wave=self.wave + 1), out)
            return True
        if any(wave.waiting or wave.flying for wave in self.waves):  # members of earlier waves that came back
            return self._unhold(now, out)
        self._emit(ev.Ended(at=now, state="Succeeded", why=self._success()), out)
        return True

    def _offer(self, wave: WaveBoard, now: float, out: list[ev.AnyEvent]) -> None:
        while wave.in_flight < wave.spec.max_in_flight and (cluster := wave.next_waiting()) is not None:
            self._emit(ev.OfferMade(at=now, cluster=cluster, attempt=self.targets[cluster].attempt), out)

    def _unhold(self, now: float, out: list[ev.AnyEvent]) -> bool:
        if self.state == "Held":
            self._emit(ev.Released(at=now), out)
        return False

    def _success(self) -> str:
        owed = self.count("owed")
        return f"{owed} owed at its end: muster rollout owed" if owed else ""

    def _breach(self, wave: WaveBoard, now: float, out: list[ev.AnyEvent]) -> bool:
        action = self.started.plan.action
        if action == "pause" and self.state == "Paused":
            return False
        first = self.targets[next(iter(wave.harmed))]
        harmed, allowed = len(wave.harmed), wave.spec.max_failed
        why = (
            f"wave {wave.spec.name}: {harmed} failed or lost, {allowed} allowed"
            f" ({first.cluster}: {first.message or first.state})"
        )
        self._withdraw_offers(why, now, out)
        match action:
            case "pause":
                self._emit(ev.Paused(at=now, by="plan", reason=why), out)
            case "abort":
                self._emit(ev.Ended(at=now, state="Failed", why=why), out)
            case _:
                self._emit(ev.Stopping(at=now, why=why), out)
        return True

    def _drain(self, now: float, out: list[ev.AnyEvent]) -> bool:
        """Rolling back: it ends when nothing that acknowledged is still on its way."""
        if any(wave.flying for wave in self.waves):
            return False
        self._emit(ev.Ended(at=now, state="RolledBack", why=self.stopping), out)
        return True

    # --- the one function of live path and replay ------------------------------------------------

    def apply(self, event: ev.AnyEvent) -> None:
        """O(log n), but for Paused, Resumed and Stopping, which touch what is in flight."""
        if isinstance(event, ev.TargetEvent):
            self.board.apply(event)
            return
        match event:
            case ev.WaveOpened():
                self.wave, self.state, self.why = event.wave, "Running", ""
                self._opened = self.waves[: event.wave + 1]
            case ev.WavePassed():
                self.waves[event.wave].passed = True
            case ev.Held():
                self.state, self.why = "Held", event.why
            case ev.Released():
                self.state, self.why = "Running", ""
            case ev.Paused():
                self.state, self.why = "Paused", _by(event.by, event.reason)
                self.board.stop_clocks(event.at)
            case ev.Resumed():
                self.state, self.why = "Running", ""
                self.board.start_clocks(event.at)
            case ev.ClocksDeferred():
                self.board.defer_clocks(event.until)
            case ev.Stopping():
                self.state, self.why, self.stopping = "Running", event.why, event.why
                self.board.start_clocks(event.at)
            case ev.Ended():
                self.state, self.why, self.ended_at = event.state, event.why, event.at
            case _:
                pass


def _by(by: str, reason: str) -> str:
    return f"by {by}: {reason}" if reason else f"by {by}"
