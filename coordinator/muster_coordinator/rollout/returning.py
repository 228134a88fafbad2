"""Taking a bundle back by an operator's word: to the release before, where the bundle's signed text allows it.

Owns who goes back and where to. Each agent judges it again: only to its own last healthy release, or by a directive. Anything
deeper is signed by an operator and is a start, not a return. It never looks into Git.
"""

from __future__ import annotations

from typing import NamedTuple

from muster_core.errors import RolloutError
from muster_core.rollout import events as ev
from muster_core.rollout.machine import RolloutMachine
from muster_core.rollout.run import by

from muster_coordinator.rollout.effects import Effects
from muster_coordinator.rollout.fleetstate import FleetState
from muster_coordinator.rollout.launch import Launch
from muster_coordinator.rollout.offers import release_of
from muster_coordinator.rollout.record import Recorder, succeeded

# A target in one of these states has the release, or will have it in a moment.
HOLDS = frozenset({"acknowledged", "staged", "applying", "soaking", "done", "lost"})


class TakeBack(NamedTuple):
    """Who says so and why; ``to`` is a commit or its beginning, empty: that of the release before."""

    bundle: str
    to: str
    by: str
    reason: str


def take_back(
    state: FleetState, launch: Launch, recorder: Recorder, order: TakeBack, effects: Effects, now: float
) -> RolloutMachine:
    """Ends what runs of the bundle and starts the return of everybody who has its release.

    ``MUSTER-L082`` when there is nothing to go back from or to, ``MUSTER-L083`` when it needs a signature, which says what to
    sign.
    """
    newest, before = _places(state, order)
    release = release_of(before)
    if order.to and not release.commit.startswith(order.to):
        raise _unsigned(
            state, order, order.to, f"only {release.commit[:7]}, the release before, needs no signature"
        )
    if not launch.may_return(release_of(newest), release):
        why = "the bundle says rollback: none, or the fleet's mode asks for a directive"
        raise _unsigned(state, order, release.commit, why)
    clusters = holders(state, newest)
    if not clusters:
        raise RolloutError("L082", f"no cluster has the release of {newest.name}", object=order.bundle)
    reason = f"taken back {by(order.by, order.reason)}"
    if not newest.has_ended:
        recorder.feed(newest, ev.Abort(order.by, reason), effects, now)
    machine = launch.begin_return(newest, before, clusters, order.by, reason, effects, now)
    _correct_debts(state, recorder, newest, before, effects, now)
    return machine


def _places(state: FleetState, order: TakeBack) -> tuple[RolloutMachine, RolloutMachine]:
    """The newest rollout, and the one of the release before it that succeeded and was not taken back."""
    runs = state.rollouts_of(order.bundle)
    if not runs:
        raise RolloutError("L082", "nothing of it was ever rolled out", object=order.bundle)
    newest = runs[-1]
    if newest.started.returns:
        what = f"{newest.name} takes it back already ({newest.state})"
        if order.to:
            raise _unsigned(state, order, order.to, what)
        raise RolloutError(
            "L082", what, object=order.bundle, hint=f"Further back is signed: {_how(order, 'COMMIT')}"
        )
    before = state.last_succeeded(order.bundle, besides=newest.started.tree_digest)
    if before is None:
        raise RolloutError(
            "L082",
            "no release before this one succeeded",
            object=order.bundle,
            hint="Mend it with a new commit, or revert in Git.",
        )
    if before.started.removes:
        raise RolloutError(
            "L082",
            f"the release before, of {before.name}, took the bundle away",
            object=order.bundle,
            hint=f"To take it away again: muster bundle remove {order.bundle}.",
        )
    return newest, before


def _correct_debts(
    state: FleetState,
    recorder: Recorder,
    newest: RolloutMachine,
    before: RolloutMachine,
    effects: Effects,
    now: float,
) -> None:
    """Who was away and is owed what is taken back is owed the release before instead, or nothing when it has that."""
    bundle = newest.started.bundle
    ledger = state.ledger(bundle)
    wrong = [d.cluster for d in ledger.debts.values() if d.tree_digest == newest.started.tree_digest]
    for name in wrong:
        report = state.cluster(name).reports.get(bundle)
        has_it = report is not None and report.release.tree_digest == before.started.tree_digest
        events = ledger.drop(name, now) if has_it else ledger.owe(name, succeeded(before), now)
        recorder.debts(bundle, events, effects, now)


def holders(state: FleetState, machine: RolloutMachine) -> list[str]:
    """Its members that are registered and have its release, by their last report or by what they said since. O(members)."""
    bundle, digest, found = machine.started.bundle, machine.started.tree_digest, []
    for name, target in machine.targets.items():
        cluster = state.clusters.get(name)
        if cluster is None or cluster.entry is None or target.state == "returned":
            continue
        report = cluster.reports.get(bundle)
        if target.state in HOLDS or (report is not None and report.release.tree_digest == digest):
            found.append(name)
    return found


def _unsigned(state: FleetState, order: TakeBack, commit: str, why: str) -> RolloutError:
    """Says exactly what an operator signs: the release, the plan, the clusters."""
    plan = (
        state.reading.contents.plan_of(order.bundle) if order.bundle in state.reading.contents.bundles else ""
    )
    return RolloutError(
        "L083",
        f"going back to {commit[:7]} needs an operator's signature: {why}",
        object=order.bundle,
        hint=f"In your checkout: {_how(order, commit[:12])}. That signs the release at this commit, the plan "
        f"{plan or '(none)'} and the clusters that the registry names.",
    )


def _how(order: TakeBack, commit: str) -> str:
    return f"muster rollout rollback {order.bundle} --to {commit} --reason WHY --key FILE"
