"""What agents say, and who of them is in contact.

Owns what a frame means to rollouts and ledgers, the numbering of what was taken, and what a session is told at its start. It
holds no stream: of a session it has the function that sends.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Literal

from muster_core.rollout import events as ev
from muster_core.rollout.machine import RolloutMachine
from muster_core.session.inbox import LAST_SEQ
from muster_proto.v1 import link_pb2 as wire

from muster_coordinator.rollout.effects import Effects, Work
from muster_coordinator.rollout.fleetstate import ClusterState, FleetState
from muster_coordinator.rollout.launch import Launch
from muster_coordinator.rollout.narration import report_lines
from muster_coordinator.rollout.offers import catchup_origin
from muster_coordinator.rollout.recollection import Recollection
from muster_coordinator.rollout.record import Recorder
from muster_coordinator.rollout.strays import Strays, stray
from muster_coordinator.store.port import ReportRow, SessionRow

KEPT = 100
Outcome = Literal["staged", "applying", "healthy", "failed", "returned"]
OUTCOMES: dict[int, Outcome] = {
    wire.OUTCOME_STAGED: "staged",
    wire.OUTCOME_APPLYING: "applying",
    wire.OUTCOME_HEALTHY: "healthy",
    wire.OUTCOME_FAILED: "failed",
    wire.OUTCOME_RETURNED: "returned",
}


LONGEST_DEFERRAL = 366 * 86400.0


class Conversation:
    def __init__(self, state: FleetState, recorder: Recorder, launch: Launch) -> None:
        self._state, self._recorder, self._launch = state, recorder, launch
        self.strays = Strays()
        self.recollection = Recollection(recorder)
        # The head of an agent's audit log (number, hash); gives how much of that log is kept for good.
        self.heard_head: Callable[[ClusterState, int, bytes], int] = lambda cluster, seq, digest: 0

    # --- contact ---------------------------------------------------------------------------------------------------

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
            cluster = self._state.cluster(name)
            last = self.recollection.resumed(cluster, hello, effects, now)
            if not cluster.online:
                effects.lines.append(f"{name} is in contact")
            cluster.send, cluster.connection, cluster.last_seen = send, connection, now
            cluster.agent_version, cluster.kubernetes_version = hello.agent_version, hello.kubernetes_version
            if hello.removed:
                taken_away(cluster, cluster.kept, effects)
            _keep_session(cluster, effects)
            welcome.last_agent_seq, welcome.floor_commit = last, cluster.floor
            welcome.resend_bundles.extend(
                item.bundle
                for item in hello.bundles
                if item.digest != report_digest(cluster.reports.get(item.bundle))
            )
            self._launch.rebuild.greeted(name, welcome.resend_bundles)
            welcome.audit_ack = self.heard_head(cluster, hello.audit_seq, hello.audit_hash)
            effects.sends.append((name, wire.HubFrame(welcome=welcome)))
            heads = self._state.reading.heads
            head = wire.Head(commit=heads.commit, registry_commit=heads.registry)
            effects.heads.append((name, wire.HubFrame(head=head)))
            effects.clusters.add(name)
            before = len(effects.sends)
            self._contact(name, True, effects, now)
            for report in cluster.reports.values():
                self._recall(name, report, effects)
            # What contact offers anew stands too; it goes out once.
            told = {
                (frame.offer.rollout, frame.offer.attempt)
                for cluster, frame in effects.sends[before:]
                if cluster == name and frame.HasField("offer")
            }
            effects.sends += [
                (name, wire.HubFrame(offer=offer))
                for offer in self._state.offers_for(name)
                if (offer.rollout, offer.attempt) not in told
            ]

        return work

    def disconnected(self, name: str, connection: int) -> Work:
        """The end of a session; nothing if a newer one has begun."""

        def work(effects: Effects, now: float) -> None:
            cluster = self._state.cluster(name)
            if cluster.connection != connection or not cluster.online:
                return
            cluster.send, cluster.last_seen = None, now
            _keep_session(cluster, effects)
            effects.clusters.add(name)
            effects.lines.append(f"{name} is out of contact")
            self._contact(name, False, effects, now)

        return work

    def _contact(self, name: str, online: bool, effects: Effects, now: float) -> None:
        self._recorder.contact(name, effects, now)
        for machine in self._state.active():
            if name in machine.targets:
                self._recorder.feed(machine, ev.Contact(name, online), effects, now)
        if online:
            self._launch.late_joiner(name, effects, now)
        for bundle, ledger in list(self._state.debts.items()):
            self._recorder.debts(bundle, ledger.contact(name, online, now), effects, now)
            if name in ledger.debts:
                self._recorder.touched.add(bundle)

    def seen(self, name: str, now: float, beat: wire.Beat | None = None) -> None:
        """A heartbeat: memory only."""
        cluster = self._state.cluster(name)
        cluster.last_seen = now
        if beat is not None and beat.audit_hash:
            self.heard_head(cluster, beat.audit_seq, beat.audit_hash)

    # --- what is said ----------------------------------------------------------------------------------------------

    def said(self, name: str, frame: wire.AgentFrame) -> Work:
        """One numbered frame of an agent."""

        def work(effects: Effects, now: float) -> None:
            cluster = self._state.cluster(name)
            cluster.last_seen = now
            seq = frame.seq
            if seq > LAST_SEQ:
                effects.lines.append(f"{name} numbers its messages as nobody can, and is not heard")
                return
            if seq and not cluster.inbox.is_new(seq):
                effects.acks[name] = cluster.inbox.last
                self._repeated(name, frame)
                return
            body = frame.WhichOneof("body")
            if body == "report":
                self._report(cluster, frame.report, effects, now)
            elif body == "offer_reply":
                self._reply(name, frame.offer_reply, effects, now)
            elif body == "removal":
                taken_away(cluster, tuple(frame.removal.kept), effects)
            if seq:
                cluster.inbox.stored(seq)
                effects.acks[name] = seq
                _keep_session(cluster, effects)

        return work

    def _report(self, cluster: ClusterState, report: wire.Report, effects: Effects, now: float) -> None:
        name, bundle = cluster.name, report.bundle
        old = cluster.reports.get(bundle)
        cluster.reports[bundle] = report
        effects.batch.reports[name, bundle] = ReportRow(name, bundle, report.SerializeToString())
        self._launch.rebuild.reported(name, bundle)
        effects.clusters.add(name)
        effects.bundles.add(bundle)
        effects.lines += report_lines(name, old, report)
        if old is None or (old.phase, old.release.tree_digest) != (report.phase, report.release.tree_digest):
            self._recorder.reported(name, bundle)
        outcome = OUTCOMES.get(report.outcome)
        if not outcome:
            return
        digest, message = report.release.tree_digest, report.message
        origin = catchup_origin(report.rollout)
        if origin is not None:
            if not self._caught(name, bundle, origin, report.rollout):
                return
            ledger = self._state.ledger(bundle)
            self._recorder.debts(bundle, ledger.acknowledged(name, origin, now), effects, now)
            if outcome != "staged":
                events = ledger.reported(name, digest, outcome, message, now)
                self._recorder.debts(bundle, events, effects, now)
            return
        machine = self._answered(name, bundle, report.rollout, report.attempt, outcome, effects, now)
        if machine:
            # A verdict names the attempt; the release that runs may be the last healthy one again, or still.
            if outcome in {"failed", "returned", "staged"}:
                digest = machine.started.tree_digest
            given = ev.Reported(name, report.attempt, digest, outcome, report.code, message)
            self._recorder.feed(machine, given, effects, now)
        self._recall(name, report, effects)

    def _recall(self, name: str, report: wire.Report, effects: Effects) -> None:
        """What it has staged of an offer that stands no more is taken back, once more where it did not hear of that."""
        machine = self._state.rollouts.get(report.rollout)
        if report.outcome != wire.OUTCOME_STAGED or machine is None:
            return
        if machine.started.bundle == report.bundle and not machine.stands(name, report.attempt):
            withdraw = wire.Withdraw(rollout=machine.name, bundle=report.bundle, attempt=report.attempt)
            effects.sends.append((name, wire.HubFrame(withdraw=withdraw)))

    def _answered(
        self,
        name: str,
        bundle: str,
        rollout: str,
        attempt: int,
        outcome: Outcome | None,
        effects: Effects,
        now: float,
    ) -> RolloutMachine | None:
        """The rollout that this answers to; None, and counted, when it can move nothing. ``outcome`` None: none yet."""
        machine = self._state.rollouts.get(rollout)
        why = stray(machine, bundle, name, attempt)
        if not why:
            return machine
        if why == "ended" and machine and machine.state == "Superseded":
            self._of_replaced(machine, name, outcome, effects, now)
            return None
        # A cluster goes on naming the rollout that it has its release from: that is no stray.
        settled = (
            why == "ended" and outcome == "healthy" and machine and machine.targets[name].state == "done"
        )
        if not settled:
            self.strays.ignore(why, name, bundle, rollout)
        return None

    def _of_replaced(
        self, machine: RolloutMachine, name: str, outcome: Outcome | None, effects: Effects, now: float
    ) -> None:
        """Of a rollout that another one took the place of: its verdict frees the cluster for that one."""
        successor = self._state.active_of(machine.started.bundle)
        target = successor.targets.get(name) if successor else None
        if successor is None or target is None or name not in successor.waves[target.wave].carried:
            self.strays.ignore("ended", name, machine.started.bundle, machine.name)
        elif outcome not in (None, "applying"):
            self._recorder.feed(successor, ev.Settled(name), effects, now)

    def _caught(self, name: str, bundle: str, origin: str, rollout: str) -> bool:
        """Whether there was a rollout of this bundle that could be caught up with."""
        machine = self._state.rollouts.get(origin)
        if machine and machine.started.bundle == bundle:
            return True
        self.strays.ignore("foreign" if machine else "unknown", name, bundle, rollout)
        return False

    def _repeated(self, name: str, frame: wire.AgentFrame) -> None:
        body = frame.WhichOneof("body")
        if body == "report":
            self.strays.ignore("duplicate", name, frame.report.bundle, frame.report.rollout)
        elif body == "offer_reply":
            self.strays.ignore("duplicate", name, frame.offer_reply.bundle, frame.offer_reply.rollout)

    def _reply(self, name: str, reply: wire.OfferReply, effects: Effects, now: float) -> None:
        origin = catchup_origin(reply.rollout)
        if origin is not None:
            if not self._caught(name, reply.bundle, origin, reply.rollout):
                return
            ledger = self._state.ledger(reply.bundle)
            if reply.answer == wire.OfferReply.ACKNOWLEDGED:
                events = ledger.acknowledged(name, origin, now)
            elif reply.answer == wire.OfferReply.DEFERRED:
                events = ledger.postponed(name, origin, _opening(reply, now), now)
            else:
                events = ledger.refused(name, origin, reply.message, now)
            self._recorder.debts(reply.bundle, events, effects, now)
            return
        refused = reply.answer != wire.OfferReply.ACKNOWLEDGED
        machine = self._answered(
            name, reply.bundle, reply.rollout, reply.attempt, "failed" if refused else None, effects, now
        )
        if machine is None:
            return
        if reply.answer == wire.OfferReply.REFUSED:
            given: ev.Input = ev.Refused(name, reply.attempt, reply.code, reply.message)
        elif reply.answer == wire.OfferReply.DEFERRED:
            given = ev.Deferred(name, reply.attempt, _opening(reply, now), reply.message)
        else:
            given = ev.Acknowledged(name, reply.attempt)
        self._recorder.feed(machine, given, effects, now)

    def acknowledge_floor(self, name: str) -> Callable[[Effects, float], str]:
        """An operator knows why this cluster's floor went back (it is told so), or why the database did; the floor that it is
        behind of, empty when it is behind of none."""

        def work(effects: Effects, now: float) -> str:
            cluster = self._state.cluster(name)
            self.recollection.acknowledged(cluster, effects, now)
            commit = cluster.regressed
            seen = wire.FloorAcknowledged(commit=commit)
            effects.sends.append((name, wire.HubFrame(floor_acknowledged=seen)))
            effects.lines.append(f"{name}: what went back was acknowledged")
            return commit

        return work


def _opening(reply: wire.OfferReply, now: float) -> float:
    """When the site says that it takes the offer, within a year: a wrong number holds nobody for ever."""
    return min(float(reply.deferred_until_unix), now + LONGEST_DEFERRAL)


def taken_away(cluster: ClusterState, kept: tuple[str, ...], effects: Effects) -> None:
    """Nothing of any bundle is left on a cluster whose registry entry asks for that."""
    if not cluster.is_leaving:
        return
    if not cluster.removed:
        effects.lines.append(f"{cluster.name}: nothing of any bundle is left; its registry entry can go")
    cluster.removed, cluster.kept = True, kept[:KEPT]
    effects.clusters.add(cluster.name)


def _keep_session(cluster: ClusterState, effects: Effects) -> None:
    effects.batch.sessions[cluster.name] = SessionRow(
        cluster.name,
        cluster.inbox.epoch,
        cluster.inbox.last,
        int(cluster.last_seen * 1000),
        cluster.agent_version,
        cluster.kubernetes_version,
    )


def report_digest(report: wire.Report | None) -> bytes:
    """What a hello compares: the hash of the last report's bytes."""
    return hashlib.sha256(report.SerializeToString(deterministic=True)).digest() if report else b""
