"""What of everything that happens is worth a notification.

Owns the choice and its sentences: a rollout pauses, fails, wants an approval, a cluster is owed a release for too long, or
somebody freezes clusters. It is asked about each event as it is written down, and costs nothing where nobody is told. Pure:
it keeps no log, sends nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence

from muster_core.durations import format_duration
from muster_core.rollout import catchup as cu
from muster_core.rollout import events as ev
from muster_core.rollout.machine import RolloutMachine
from muster_core.rollout.run import by
from muster_core.times import format_time

from muster_coordinator.notify.notices import AnyNotifyEvent, Notice, Outbox, one_line
from muster_coordinator.notify.settings import Endpoint
from muster_coordinator.rollout.freezes import STREAM as FREEZES
from muster_coordinator.rollout.freezes import AnyFreezeEvent, FreezeDeleted

NAMED = 3


class Desk:
    """``outbox`` is replayed also where no endpoint is: what was told stays told."""

    def __init__(self, endpoints: Sequence[Endpoint] = ()) -> None:
        self.endpoints = tuple(endpoints)
        self.outbox = Outbox()
        self._stopped: set[str] = set()
        # Who is owed since when, by bundle and cluster: (rollout, unix seconds); and when that is too long, per threshold.
        self._since: dict[tuple[str, str], tuple[str, float]] = {}
        self._long: list[tuple[float, float, str, str, str]] = []
        self._thresholds = sorted({e.owed_longer for e in self.endpoints if "owed" in e.on})

    def tell(self, notice: Notice, now: float) -> list[AnyNotifyEvent]:
        """What is written down so that everybody who asked for this occasion is told."""
        to = [endpoint.name for endpoint in self.endpoints if notice.on in endpoint.on]
        return self.outbox.want(notice, to, now)

    # --- after a start ---------------------------------------------------------------------------------------------

    def remember(self, ledger: cu.CatchUp, log: Iterable[cu.AnyCatchUpEvent]) -> None:
        """A ledger that was replayed; nothing of it is told again."""
        for event in log:
            self._follow(ledger.bundle, event)
        if ledger.stopped:
            self._stopped.add(ledger.bundle)

    def meet(self, machine: RolloutMachine) -> None:
        """A rollout that was replayed."""
        if machine.has_ended or not self._thresholds:
            return
        for target in machine.targets.values():
            if target.state == "owed":
                self._owed(machine.started.bundle, target.cluster, machine.name, target.since)

    def _follow(self, bundle: str, event: cu.AnyCatchUpEvent) -> None:
        if isinstance(event, (cu.Done, cu.Dropped)):
            self._since.pop((bundle, event.cluster), None)
        elif isinstance(event, cu.Owed):
            self._owed(bundle, event.cluster, event.origin, event.at)

    # --- what happened ---------------------------------------------------------------------------------------------

    def of_event(
        self, machine: RolloutMachine, event: ev.AnyEvent, number: int, now: float
    ) -> list[AnyNotifyEvent]:
        """``number`` is the event's in its stream."""
        if not self.endpoints:
            return []
        started = machine.started
        name, bundle = started.rollout, started.bundle
        match event:
            case ev.Paused():
                whose = by(event.by, one_line(event.reason))
                text = f"{name} ({bundle}@{started.commit[:7]}) is paused {whose}"
                hint = f"muster describe rollout {name}; then muster rollout resume or abort {name}"
                occasion = "paused"
            case ev.Stopping():
                text = f"{name} ({bundle}@{started.commit[:7]}) failed and goes back: {one_line(event.why)}"
                hint, occasion = f"muster describe rollout {name}", "failed"
            case ev.Ended(state="Failed"):
                text = f"{name} ({bundle}@{started.commit[:7]}) failed: {one_line(event.why)}"
                hint, occasion = f"muster describe rollout {name}", "failed"
            case ev.WaveOpened() | ev.WaveSettled():
                return self._approvals(machine, event.at, now)
            case ev.TargetOwed():
                self._owed(bundle, event.cluster, name, event.at)
                return []
            case _:
                return []
        notice = Notice(
            id=f"{name}/{number}",
            on="paused" if occasion == "paused" else "failed",
            at=event.at,
            rollout=name,
            bundle=bundle,
            commit=started.commit,
            text=text,
            hint=hint,
        )
        return self.tell(notice, now)

    def _approvals(self, machine: RolloutMachine, at: float, now: float) -> list[AnyNotifyEvent]:
        """A wave began to wait for approvals."""
        name, started, out = machine.name, machine.started, list[AnyNotifyEvent]()
        for wanted in machine.wanted_approvals():
            wave = machine.waves[wanted.wave].spec.name
            notice = Notice(
                id=f"{name}/{wanted.wave}/{wanted.phase}/{wanted.index}",
                on="approval",
                at=at,
                rollout=name,
                bundle=started.bundle,
                commit=started.commit,
                text=f"{name} ({started.bundle}@{started.commit[:7]}) waits for an approval {wanted.phase} wave {wave}: "
                f"{wanted.gate.count - len(wanted.given)} of {one_line(', '.join(wanted.gate.by)) or 'the approvers'}",
                hint=f"muster describe rollout {name}; then muster rollout approve or reject {name}",
            )
            out += self.tell(notice, now)
        return out

    def of_debt(
        self, ledger: cu.CatchUp, event: cu.AnyCatchUpEvent, number: int, now: float
    ) -> list[AnyNotifyEvent]:
        """``number`` is the event's in the ledger's stream."""
        if not self.endpoints:
            return []
        bundle, cluster = ledger.bundle, event.cluster
        self._follow(bundle, event)
        if not ledger.stopped:
            self._stopped.discard(bundle)
            return []
        if bundle in self._stopped or not isinstance(event, (cu.Failed, cu.Lost)):
            return []
        self._stopped.add(bundle)
        debt = ledger.debts[cluster]
        notice = Notice(
            id=f"catchup/{bundle}/{number}",
            on="paused",
            at=event.at,
            rollout=debt.origin,
            bundle=bundle,
            commit=debt.commit,
            text=f"catching up with {bundle}@{debt.commit[:7]} is paused: {ledger.harmed} failed or were lost, "
            f"{ledger.max_failed()} allowed ({cluster}: {one_line(debt.message)})",
            hint="Mend it with a new commit; muster rollout owed lists who waits.",
        )
        return self.tell(notice, now)

    def of_freeze(self, event: AnyFreezeEvent, number: int, now: float) -> list[AnyNotifyEvent]:
        """A person began one or ended it before its time; one that ends by itself was announced. ``number`` as above."""
        if isinstance(event, FreezeDeleted):
            text, hint = f"{event.by} ended the freeze {event.name}", ""
        else:
            whom = one_line(event.selector) or "every cluster"
            what = f" for {event.bundle}" if event.bundle else ""
            why = f": {one_line(event.reason)}" if event.reason else ""
            text = f"{event.by} froze {whom}{what} until {format_time(event.until)} ({event.name}){why}"
            hint = f"muster get freezes; to end it: muster freeze delete {event.name}"
        notice = Notice(
            id=f"{FREEZES}/{number}",
            on="frozen",
            at=event.at,
            rollout="",
            bundle="" if isinstance(event, FreezeDeleted) else event.bundle,
            commit="",
            text=text,
            hint=hint,
        )
        return self.tell(notice, now)

    # --- owed for too long -----------------------------------------------------------------------------------------

    def _owed(self, bundle: str, cluster: str, origin: str, at: float) -> None:
        known = self._since.get((bundle, cluster))
        if not self._thresholds or (known and known[0] == origin):
            return
        self._since[bundle, cluster] = (origin, at)
        for threshold in self._thresholds:
            heapq.heappush(self._long, (at + threshold, threshold, bundle, cluster, origin))

    def next_due(self) -> float | None:
        return self._long[0][0] if self._long else None

    def due(self, now: float, commit_owed: Callable[[str, str, str], str | None]) -> list[AnyNotifyEvent]:
        """``commit_owed(bundle, cluster, rollout)`` gives the commit that the cluster is owed of it, or None if it is not."""
        found: dict[tuple[str, str, float], list[str]] = {}
        commits: dict[str, str] = {}
        while self._long and self._long[0][0] <= now:
            _, threshold, bundle, cluster, origin = heapq.heappop(self._long)
            commit = commit_owed(bundle, cluster, origin)
            if commit is None or self._since.get((bundle, cluster), ("",))[0] != origin:
                continue
            found.setdefault((bundle, origin, threshold), []).append(cluster)
            commits[origin] = commit
        out: list[AnyNotifyEvent] = []
        for (bundle, origin, threshold), clusters in found.items():
            named = ", ".join(sorted(clusters)[:NAMED]) + (" …" if len(clusters) > NAMED else "")
            many = f"{len(clusters)} clusters are" if len(clusters) > 1 else "1 cluster is"
            notice = Notice(
                id=f"{origin}/owed/{int(threshold)}",
                on="owed",
                at=now,
                rollout=origin,
                bundle=bundle,
                commit=commits[origin],
                text=f"{many} owed {bundle}@{commits[origin][:7]} for longer than "
                f"{format_duration(threshold)}: {named}",
                hint="muster rollout owed",
            )
            to = [e.name for e in self.endpoints if "owed" in e.on and e.owed_longer == threshold]
            out += self.outbox.want(notice, to, now)
        return out
