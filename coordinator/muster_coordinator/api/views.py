"""What operators see of the state, as messages of the operator API.

Owns the projection; it never changes anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from muster_core.errors import coded
from muster_core.rollout.explain import why
from muster_core.rollout.gates import PhaseGates
from muster_core.rollout.machine import RolloutMachine
from muster_core.sealing.keys import decode_public, fingerprint
from muster_core.select import targeted
from muster_proto.v1 import link_pb2 as wire
from muster_proto.v1 import operator_pb2 as op

from muster_coordinator.catalog.catalog import Reading
from muster_coordinator.rollout.fleetstate import ClusterState, FleetState
from muster_coordinator.rollout.offers import release_of, wire_release


def cluster_view(state: FleetState, cluster: ClusterState) -> op.ClusterView:
    entry = cluster.entry
    identity = (
        decode_public(entry.spec.identity_key) if entry else cluster.join.identity if cluster.join else b""
    )
    return op.ClusterView(
        name=cluster.name,
        uid=entry.spec.uid if entry else cluster.join.uid if cluster.join else "",
        state=cluster.state,
        online=cluster.online,
        labels=entry.all_labels if entry else {},
        site_class=entry.spec.site_class if entry else "",
        identity_fingerprint=fingerprint(identity) if identity else "",
        last_seen_unix_ms=int(cluster.last_seen * 1000),
        joined_unix=cluster.join.issued if cluster.join else 0,
        agent_version=cluster.agent_version or (cluster.join.agent_version if cluster.join else ""),
        kubernetes_version=cluster.kubernetes_version,
        bundles=[cluster.reports[bundle] for bundle in sorted(cluster.reports)],
        owed=state.owed_to(cluster.name),
        message=" ".join(filter(None, (cluster.alarm, cluster.forgot))) or _waits_for(cluster),
        regressed=cluster.regressed,
        trust_version=max((report.trust_version for report in cluster.reports.values()), default=0),
    )


def asks_with(cluster: ClusterState) -> bytes | None:
    """The keys of a join that the registry does not answer, or None."""
    join = cluster.join
    if join is None or (cluster.entry and decode_public(cluster.entry.spec.identity_key) == join.identity):
        return None
    return join.identity + join.sealing


def _waits_for(cluster: ClusterState) -> str:
    if cluster.is_leaving:
        if not cluster.has_left:
            return "every bundle is taken away" if cluster.online else "it is taken away when it is back"
        kept = f"; kept there: {', '.join(cluster.kept)}" if cluster.kept else ""
        return f"nothing is left of its bundles{kept}: muster cluster remove {cluster.name} --uninstall"
    join = cluster.join
    if join is None or asks_with(cluster) is None:
        return ""
    if join.refused:
        return "its join was turned down"
    if cluster.entry:
        return f"another identity asks to join under this name: {fingerprint(join.identity)}"
    if cluster.state == "Pending":
        return f"waits for approval: muster cluster approve {cluster.name}"
    return ""


def join_view(cluster: ClusterState) -> op.Join | None:
    """A join that waits for an approval, or None."""
    join = cluster.join
    if join is None or join.refused or cluster.entry:
        return None
    return op.Join(
        cluster=join.cluster,
        uid=join.uid,
        identity_key=join.identity,
        sealing_key=join.sealing,
        sealing_generation=join.sealing_generation,
        sealing_signature=join.sealing_signature,
        requested_unix=join.requested,
        state="Pending",
        agent_version=join.agent_version,
    )


def bundle_names(reading: Reading) -> set[str]:
    """Every bundle of a reading, also those that are nothing but an error."""
    return {*reading.contents.bundles, *(problem.bundle for problem in reading.problems if problem.bundle)}


def bundle_view(state: FleetState, name: str, *, places: bool = True) -> op.BundleView:
    """``places``: also which cluster has which release; the counts are there in any case."""
    contents = state.reading.contents
    at = contents.bundles.get(name)
    active, last = state.active_of(name), state.last_succeeded(name)
    problems = [problem for problem in state.reading.problems if problem.bundle == name]
    error = str(problems[0]) if problems else state.bundle_errors.get(name, "")
    view = op.BundleView(
        name=name,
        current=wire.Release(
            bundle=name, commit=state.reading.heads.commit, tree_digest=contents.digests.get(name, "")
        ),
        plan=contents.plan_of(name) if at else "",
        error=error,
        owed=state.owed_count(name),
        active_rollout=active.name if active else "",
        labels=at.bundle.metadata.labels if at else {},
    )
    if last:
        view.last_succeeded.CopyFrom(wire_release(release_of(last)))
    moves_to = active or last
    view.target.CopyFrom(wire_release(release_of(moves_to)) if moves_to else view.current)
    if directed := state.directives.newest(name):
        view.directive_sequence = directed.directive.sequence
        view.directive_digest = directed.directive.digest
    owed = state.owed_in(name)
    counts: dict[str, op.ReleaseCount] = {}
    for cluster in state.clusters.values():
        report = cluster.reports.get(name)
        if at is None:  # it cannot be read: it is where it was
            matched = report is not None and report.phase != "Deselected"
        else:
            matched = cluster.entry is not None and targeted(at.bundle, cluster.entry.all_labels)
        if matched:
            phase = report.phase if report else "Pending"
            release = report.release if report else wire.Release(bundle=name)
            view.matched += 1
            view.ready += phase == "Ready"
            view.degraded += phase == "Degraded"
            view.blocked += phase == "Blocked"
            # By what it is: the same tree came with many a commit.
            count = counts.setdefault(release.tree_digest, op.ReleaseCount(release=release))
            count.clusters += 1
            count.ready += phase == "Ready"
            count.owed += cluster.name in owed
            if places:
                message = report.message if report else ""
                view.places.append(
                    op.BundlePlace(cluster=cluster.name, release=release, phase=phase, message=message)
                )
    if view.target.tree_digest in counts:  # one commit for one tree, wherever it is named
        counts[view.target.tree_digest].release.commit = view.target.commit
    view.releases.extend(sorted(counts.values(), key=_place))
    return view


def _place(count: op.ReleaseCount) -> tuple[bool, int, str]:
    """Most clusters first; those that have no release yet come last."""
    commit = count.release.commit
    return (not commit, -count.clusters, commit)


def rollout_view(machine: RolloutMachine, *, targets: bool) -> op.RolloutView:
    view = op.RolloutView(
        name=machine.name,
        bundle=machine.started.bundle,
        release=wire_release(release_of(machine)),
        plan=machine.started.plan.name,
        state=machine.state,
        why=why(machine),
        wave_index=max(0, machine.wave),
        started_unix_ms=int(machine.started.at * 1000),
        ended_unix_ms=int((machine.ended_at or 0) * 1000),
        started_by=machine.started.by,
        total=len(machine.targets),
        done=machine.count("done"),
        in_flight=sum(wave.in_flight for wave in machine.waves),
        failed=machine.count("failed", "returned"),
        lost=machine.count("lost"),
        owed=machine.count("owed"),
        waves=[_wave(machine, index) for index in range(len(machine.waves))],
        reason=machine.started.reason,
        attempt=machine.started.attempt,
        goes_back=machine.started.goes_back,
        skipped=machine.count("skipped"),
        deferred=machine.count("deferred"),
        held=0 if machine.has_ended else sum(wave.line.held_waiting for wave in machine.waves),
        returns=machine.started.returns,
        removes=machine.started.removes,
        authors=machine.started.authors,
        not_before_unix=int(machine.started.not_before),
    )
    if targets:
        view.targets.extend(target_view(machine, name) for name in machine.targets)
    return view


def _wave(machine: RolloutMachine, index: int) -> op.WaveView:
    wave = machine.waves[index]
    state = "passed" if wave.passed else "open" if index <= machine.wave else "waiting"
    return op.WaveView(
        name=wave.spec.name,
        state=state,
        total=len(wave.spec.members),
        done=wave.count("done"),
        in_flight=wave.in_flight,
        failed=wave.count("failed", "returned"),
        lost=wave.count("lost"),
        owed=wave.count("owed"),
        waiting=wave.count("waiting"),
        skipped=wave.count("skipped"),
        max_in_flight=wave.spec.max_in_flight,
        max_failed=wave.spec.max_failed,
        quorum=wave.quorum,
        soak_seconds=int(wave.spec.soak),
        soaking=wave.count("soaking"),
        soak_until_unix_ms=int(1000 * max(_soaks(machine, index), default=0.0)),
        deferred=wave.count("deferred"),
        held=0 if machine.has_ended else wave.line.held_waiting,
        promoted=wave.promoted,
        gates=[*_gates(wave.gates.before, "before"), *_gates(wave.gates.after, "after")],
    )


def _gates(phase: PhaseGates, name: str) -> Iterator[op.GateView]:
    for gate in phase.gates:
        state = "Passed" if gate.passed else "Failed" if gate.failed else "Asked" if phase.asked else "Later"
        yield op.GateView(
            phase=name,
            text=str(gate.spec),
            state=state,
            detail=gate.detail,
            wanted=gate.spec.count if gate.spec.kind == "approval" else 0,
            approvals=[op.GateApproval(by=by, reason=reason) for by, reason in gate.approvals.items()],
            by=gate.spec.by,
            since_unix_ms=int(gate.since * 1000),
            deadline_unix_ms=int((gate.deadline or 0) * 1000),
            not_author=gate.spec.kind == "approval" and gate.spec.not_author,
        )


def _soaks(machine: RolloutMachine, index: int) -> Iterator[float]:
    """When each soak of a wave that runs is over. O(in flight)."""
    if machine.has_ended:
        return
    for cluster in machine.waves[index].flying:
        target = machine.targets[cluster]
        if target.soak_runs and target.deadline is not None:
            yield target.deadline


def target_view(machine: RolloutMachine, cluster: str) -> op.TargetView:
    target = machine.targets[cluster]
    wave = machine.waves[target.wave]
    held = wave.line.held.get(cluster, "") if target.state == "waiting" and not machine.has_ended else ""
    return op.TargetView(
        cluster=cluster,
        wave=wave.spec.name,
        state=target.state,
        attempt=target.attempt,
        message=target.message or (f"held: {held}" if held else ""),
        code=coded(target.code),
        since_unix_ms=int(target.since * 1000),
        until_unix_ms=int((target.deadline or 0) * 1000),
        online=machine.is_online(cluster),
    )


def labels_of(state: FleetState, name: str) -> Mapping[str, str]:
    entry = state.clusters[name].entry
    return entry.all_labels if entry else {}
