"""The objects of one bundle in this cluster: put there, taken away, and how they are.

Owns what is remembered of them between two looks (rendered objects, what was applied, the roll-up of their health) and the
order of disk, cluster and audit log. What came of it is told as events; what follows is the machine's to say. It reads no
Git and speaks to no coordinator.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import structlog
from muster_core.apply.applyset import set_id
from muster_core.apply.changeset import Change, ChangeSet
from muster_core.apply.plan import Applied
from muster_core.errors import KubernetesError, MusterError
from muster_core.health import health
from muster_core.kinds.model import Remove
from muster_core.manifest.objects import Manifest, ObjectRef

from muster_agent.admission import Admissible
from muster_agent.cluster.apply import PHASE, Applier, located
from muster_agent.cluster.observe import Observer
from muster_agent.cluster.port import ClusterApi
from muster_agent.cluster.removing import Remover, protected_kinds
from muster_agent.obs.metrics import Metrics
from muster_agent.reconcile import events as ev
from muster_agent.reconcile.machine import BundleMachine
from muster_agent.state.files import StateError
from muster_agent.state.port import StatePort
from muster_agent.state.records import AppliedObject, AppliedRecord
from muster_agent.trust.floors import COMMIT
from muster_agent.witness import Witness

log = structlog.get_logger()

MAX_PROBLEMS = 20
MAX_KEPT = 100


@dataclass(slots=True)
class Holding:
    """What is known of one bundle's objects. ``admissible`` is what was rendered last, None until then."""

    bundle: str
    applied: dict[ObjectRef, Applied]
    admissible: Admissible | None = None
    objects: dict[ObjectRef, Manifest] = field(default_factory=dict)
    placed: bool = False  # whether ``objects`` are those of ``admissible``, all of them of known kinds
    rolled_up: tuple[int, dict[ObjectRef, Manifest], ev.HealthSeen] | None = None
    left: tuple[ObjectRef, ...] = ()  # of a release that takes everything away: what is still to go
    kept: tuple[ObjectRef, ...] = ()  # and what was protected from it

    def take(self, admissible: Admissible) -> None:
        """From the next pass on it is this that has to be there."""
        self.admissible, self.placed = admissible, False


class Holdings:
    """Carries out passes over the cluster; ``observer`` says what is there."""

    def __init__(
        self,
        api: ClusterApi,
        observer: Observer,
        state: StatePort,
        namespace: str,
        metrics: Metrics,
        witness: Witness,
    ) -> None:
        self._api, self._observer, self._state, self._namespace = api, observer, state, namespace
        self._metrics, self._witness = metrics, witness
        self._applier = Applier(api, observer, namespace)
        self._remover = Remover(api, observer, self._applier, namespace)

    def known(self, bundle: str) -> Holding:
        """As the state has it."""
        stored = self._state.get(f"applied/{bundle}", AppliedRecord) or AppliedRecord()
        return Holding(bundle, {item.ref: item.applied for item in stored.objects})

    async def give_up(self, bundle: str) -> None:
        """The inventory of a bundle of which nothing is left; ``KubernetesError`` when it is not gone yet."""
        await self._applier.give_up(bundle)

    async def apply(
        self, held: Holding, admissible: Admissible, machine: BundleMachine
    ) -> tuple[ev.Event, ...]:
        """Brings the cluster to what was admitted: how far that got, then how it is."""
        name, release = held.bundle, admissible.admission.release
        try:
            await self._state.durable()  # floors and admission are on disk before the first object
            with self._metrics.reconcile_seconds.time():
                problems: list[Change] = []
                if not held.placed:
                    placed = await located(self._api, admissible.objects, admissible.namespace)
                    held.objects, problems = placed
                    held.placed = not problems
                note = {"release": str(release), COMMIT: release.commit, PHASE: machine.phase}
                prune = admissible.prune and not problems and admissible.removes is None
                result = await self._applier.apply(name, held.objects, held.applied, prune=prune, note=note)
                if admissible.removes is not None:
                    await self._remove(held, admissible.removes, result, note)
        except (KubernetesError, StateError) as error:
            self._metrics.reconciles.labels(name, "error").inc()
            return (ev.AppliedAll(error.code, said(error), ()),)
        if result.changes or (
            result.applied is not held.applied and result.applied.keys() != held.applied.keys()
        ):
            self._remember(held, result.applied)
        self._witness.applied(machine.record, release, result)
        errors = [*problems, *result.errors]
        self._metrics.reconciles.labels(
            name, "error" if errors else "changed" if result.writes else "unchanged"
        ).inc()
        self._metrics.drift.inc(len(result.healed))
        if result.changes:
            log.info(
                "applied",
                bundle=name,
                writes=result.writes,
                errors=[str(c.error) for c in errors[:3]],
                healed=[str(r) for r in result.healed[:3]],
            )
        code, worst = _first(errors)
        return (
            ev.AppliedAll(code, worst, tuple(str(ref) for ref in result.healed)),
            self._health(held),
        )

    async def _remove(self, held: Holding, asked: Remove, result: ChangeSet, note: Mapping[str, str]) -> None:
        """What a release without objects does, into what its apply found."""
        removal = await self._remover.remove(held.bundle, result.applied, protected_kinds(asked))
        result.changes += removal.changes
        result.applied = {ref: record for ref, record in result.applied.items() if ref in removal.left}
        held.left, held.kept, held.rolled_up = removal.left, removal.kept, None
        if not removal.left:
            await self._applier.forget(held.bundle, note, removal.kept)

    async def take_away(self, held: Holding, machine: BundleMachine) -> ev.TakenAway:
        """Because the registry asks for it: whatever the release says, what takes others with it stays."""
        held.admissible, held.objects, held.placed, held.rolled_up = None, {}, False, None
        try:
            await self._state.durable()  # that it leaves is on disk before the first object goes
            removal = await self._remover.remove(held.bundle, held.applied, protected_kinds(Remove()))
        except (KubernetesError, StateError) as error:
            return ev.TakenAway(error.code, said(error), 1, ())
        admission = machine.record.admission
        changes = ChangeSet(changes=list(removal.changes))
        if admission:
            self._witness.applied(machine.record, admission.release, changes)
        self._remember(held, {r: a for r, a in held.applied.items() if r in removal.left})
        if changes.changes:
            log.info("taken away", bundle=held.bundle, pruned=changes.writes, left=len(removal.left))
        code, worst = _first(changes.errors)
        return ev.TakenAway(code, worst, len(removal.left), tuple(str(ref) for ref in removal.kept))

    def _remember(self, held: Holding, applied: dict[ObjectRef, Applied]) -> None:
        held.applied = applied
        stored = AppliedRecord(tuple(AppliedObject(ref, record) for ref, record in applied.items()))
        self._state.put(f"applied/{held.bundle}", stored)

    def _health(self, held: Holding) -> ev.HealthSeen:
        """The roll-up, worked out again only when something of the bundle moved."""
        moves = self._observer.moves(set_id(held.bundle, self._namespace))
        known = held.rolled_up
        if known is None or known[0] != moves or known[1] is not held.objects:
            known = held.rolled_up = (moves, held.objects, self._roll_up(held))
        return known[2]

    def _roll_up(self, held: Holding) -> ev.HealthSeen:
        problems, statuses = [], []
        for ref in held.objects:
            seen = self._observer.seen.get(ref)
            state = seen.health if seen else health(None)
            statuses.append(state.status)
            if state.status != "Current":
                problems.append((str(ref), state.status, state.message))
        kept: tuple[str, ...] = ()
        if held.admissible is not None and held.admissible.removes is not None:
            kept = tuple(str(ref) for ref in held.kept)
            for ref in held.left:
                statuses.append("Terminating")
                problems.append((str(ref), "Terminating", "is not gone yet"))
        self._metrics.healths(held.bundle, statuses)
        problems.sort(key=lambda problem: (problem[1] != "Failed", problem[0]))
        ready = len(statuses) - len(problems)
        return ev.HealthSeen(len(statuses), ready, tuple(problems[:MAX_PROBLEMS]), kept[:MAX_KEPT])


def _first(errors: list[Change]) -> tuple[str, str]:
    """Code and words of the first error; empty when there is none."""
    first = errors[0].error if errors else None
    return (first.code, said(first)) if first else ("", "")


def said(error: MusterError) -> str:
    """An error as a report tells it: its words, and of what."""
    return (
        f"{error.message}: {error.object}"
        if error.object and error.object not in error.message
        else error.message
    )
