"""Carries out a plan: server-side apply in stages, then prune.

Owns the order of requests and the protection of what is not ours: an existing object without our label is refused, and
prune runs only after everything else succeeded, on the exact object that was seen. It never decides what should be there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import anyio
from muster_core.apply.applyset import member, parent, parent_name, part_of, recorded_kinds, set_id
from muster_core.apply.changeset import Change, ChangeSet
from muster_core.apply.plan import Applied, Live, kinds_of, plan
from muster_core.errors import KubernetesError
from muster_core.health import health
from muster_core.manifest.objects import Manifest, ObjectRef, digest, ref_of

from muster_agent.cluster.home import apply_at_home
from muster_agent.cluster.observe import Observer
from muster_agent.cluster.port import ClusterApi

ESTABLISH_DEADLINE = 30.0
ESTABLISH_STEP = 0.2
NAMESPACE_KIND = "Namespace"
PHASE = "phase"


async def located(
    api: ClusterApi, objects: Sequence[Manifest], namespace: str
) -> tuple[dict[ObjectRef, Manifest], list[Change]]:
    """The objects by full name: ``namespace`` fills in where a namespaced one has none.

    Kinds that the cluster does not know yet, but that a CRD of the same objects defines, count by that CRD's scope. A kind
    that it does not know is asked for once a call; a server that does not answer is an error of the whole call.
    """
    scopes = {kind: scope for obj in objects for kind, scope in _defined(obj)}
    found: dict[ObjectRef, Manifest] = {}
    problems: list[Change] = []
    unknown: dict[tuple[str, str], KubernetesError] = {}
    for obj in objects:
        ref = ref_of(obj)
        kind = (ref.api_version, ref.kind)
        if kind in unknown:
            problems.append(Change(ref, "failed", unknown[kind]))
            continue
        try:
            namespaced = scopes.get(kind)
            if namespaced is None:
                namespaced = (await api.resource(*kind)).namespaced
        except KubernetesError as error:
            if error.code != "K004":
                raise
            unknown[kind] = error
            problems.append(Change(ref, "failed", error))
            continue
        if not namespaced and ref.namespace:
            ref = ref._replace(namespace="")
            obj = {**obj, "metadata": {k: v for k, v in obj["metadata"].items() if k != "namespace"}}
        elif namespaced and not ref.namespace:
            ref = ref._replace(namespace=namespace or "default")
            obj = {**obj, "metadata": {**obj["metadata"], "namespace": ref.namespace}}
        if ref in found:
            problems.append(
                Change(
                    ref,
                    "refused",
                    KubernetesError("K013", "the bundle has this object twice", object=str(ref)),
                )
            )
        found[ref] = obj
    return found, problems


def _defined(obj: Manifest) -> Iterator[tuple[tuple[str, str], bool]]:
    """The kinds that a CRD defines, and whether each is namespaced; one that is no CRD defines none, and fails by itself."""
    if obj.get("kind") != "CustomResourceDefinition" or not isinstance(obj.get("spec"), dict):
        return
    spec = obj["spec"]
    names, versions = spec.get("names"), spec.get("versions")
    if not isinstance(names, dict) or not isinstance(versions, list):
        return
    for version in versions:
        if isinstance(version, dict):
            api_version = f"{spec.get('group')}/{version.get('name')}"
            yield (api_version, str(names.get("kind"))), spec.get("scope") == "Namespaced"


class _Desired(NamedTuple):
    """A bundle's objects, labelled and digested once. ``source`` is the mapping that they were made of."""

    source: Mapping[ObjectRef, Manifest]
    objects: dict[ObjectRef, Manifest]
    digests: dict[ObjectRef, str]
    kinds: set[tuple[str, str]]


class _Settled(NamedTuple):
    """A pass that found nothing to do: while all of this is the same, the next one will not either."""

    source: Mapping[ObjectRef, Manifest]
    applied: dict[ObjectRef, Applied]
    moves: int
    kinds: set[tuple[str, str]]


def _lasting(note: Mapping[str, str]) -> dict[str, str]:
    """What a note says of the release; the phase is of the moment that it was written."""
    return {key: text for key, text in note.items() if key != PHASE}


class Applier:
    """``namespace`` is where the agent lives and where bundles' parent objects are.

    Whoever passes the same mapping again gets what was worked out for it before; it must not be changed meanwhile.
    """

    def __init__(self, api: ClusterApi, observer: Observer, namespace: str) -> None:
        self._api, self._observer, self._namespace = api, observer, namespace
        self._recorded: dict[str, set[tuple[str, str]]] = {}
        self._noted: dict[str, dict[str, str]] = {}
        self._desired: dict[str, _Desired] = {}
        self._settled: dict[str, _Settled] = {}

    def _prepared(self, bundle: str, objects: Mapping[ObjectRef, Manifest], applyset: str) -> _Desired:
        known = self._desired.get(bundle)
        if known is None or known.source is not objects:
            labelled = {ref: member(obj, applyset) for ref, obj in objects.items()}
            digests = {ref: digest(obj) for ref, obj in labelled.items()}
            known = self._desired[bundle] = _Desired(objects, labelled, digests, kinds_of(labelled))
        return known

    async def _is_settled(
        self,
        bundle: str,
        objects: Mapping[ObjectRef, Manifest],
        applied: Mapping[ObjectRef, Applied],
        moves: int,
    ) -> bool:
        """Nothing moved since the last pass found nothing to do; raises when what is there is not seen any more."""
        known = self._settled.get(bundle)
        if (
            known is None
            or known.source is not objects
            or known.applied is not applied
            or known.moves != moves
        ):
            return False
        return not await self._observer.watch(known.kinds)

    async def apply(
        self,
        bundle: str,
        objects: Mapping[ObjectRef, Manifest],
        applied: Mapping[ObjectRef, Applied],
        *,
        prune: bool,
        note: Mapping[str, str],
    ) -> ChangeSet:
        """Makes the cluster hold exactly ``objects`` for this bundle; what is so already costs nothing.

        Errors stand in the change set, one per object; the others go on.
        """
        applyset = set_id(bundle, self._namespace)
        if self._is_noted(bundle, note) and await self._is_settled(
            bundle, objects, applied, self._observer.moves(applyset)
        ):
            return ChangeSet(applied=self._settled[bundle].applied)
        prepared = self._prepared(bundle, objects, applyset)
        desired, digests = prepared.objects, prepared.digests
        result = ChangeSet()
        kinds = prepared.kinds | kinds_of(applied) | await self.recorded_kinds(bundle)
        known_kinds = {kind for kind in kinds if await self.is_served(kind)}
        forbidden = await self._observer.watch(known_kinds)
        moves = self._observer.moves(applyset)
        live = self._live(applyset, desired)
        if forbidden:
            result.changes += [
                Change(ref, "failed", forbidden[kind])
                for ref in desired
                if (kind := (ref.api_version, ref.kind)) in forbidden
            ]
            # What may not be seen is neither applied nor missed: nothing is pruned while it is so.
            digests = {r: d for r, d in digests.items() if (r.api_version, r.kind) not in forbidden}
        # What is being deleted already waits for its finalizers: telling the server again changes nothing.
        staying = {ref: seen for ref, seen in live.items() if ref in desired or not self._is_going(ref)}
        todo = plan(digests, applied, staying, prune=prune and not forbidden)
        grows = not todo.empty and (not desired.keys() <= applied.keys() or not applied)
        if grows or ((desired or applied) and not self._is_noted(bundle, note)):
            # The parent names every kind before the first member of it exists, so that none can be lost; and the release
            # before anything of it is applied, for it is one of the places from which a lost floor comes back.
            await self._record(bundle, {*desired, *applied, *live}, note)
        if todo.empty and isinstance(applied, dict) and applied.keys() == desired.keys():
            self._settled[bundle] = _Settled(objects, applied, moves, known_kinds)
            return ChangeSet(applied=applied)
        # What is no longer desired is remembered until it is seen to be gone: a prune may have to wait for a later pass.
        result.applied = {
            ref: record for ref, record in applied.items()
            if ref in desired or (ref in live and ref.kind != NAMESPACE_KIND)
        }  # fmt: skip
        if todo.empty:
            return result
        for stage in (todo.first, todo.then):
            for ref in stage:
                if _no_use_to_go_on(result):
                    return result
                await self._apply_one(ref, desired[ref], digests[ref], applyset, applied, result)
            if stage is todo.first:
                await self._established([ref for ref in stage if ref.kind != NAMESPACE_KIND], result)
        if not result.errors:
            await self._observer.watch(kinds_of(desired) - known_kinds)
            await self._prune(todo.prune, result)
            if todo.prune and not result.errors:
                await self._record(bundle, desired, note)
                self._recorded[bundle] = kinds_of(desired)
        drifted = set(todo.drifted)
        result.healed = [
            c.ref for c in result.changes if c.ref in drifted and c.action in {"created", "configured"}
        ]
        return result

    def _live(self, applyset: str, desired: Mapping[ObjectRef, Manifest]) -> dict[ObjectRef, Live]:
        """The set's live members, and the desired Namespaces that another bundle has: they are shared, not fought for."""
        live = self._observer.members(applyset)
        for ref in desired:
            if ref.kind == NAMESPACE_KIND and ref not in live and ref in self._observer.seen:
                live[ref] = self._observer.seen[ref].live
        return live

    def _is_going(self, ref: ObjectRef) -> bool:
        seen = self._observer.seen.get(ref)
        return seen is not None and seen.health.status == "Terminating"

    async def recorded_kinds(self, bundle: str) -> set[tuple[str, str]]:
        """The kinds that the parent names; asked once. They may have members that no record of ours knows."""
        if bundle not in self._recorded:
            ref = ObjectRef("v1", "ConfigMap", self._namespace, parent_name(bundle))
            there = await self._api.get(ref)
            self._recorded[bundle] = recorded_kinds(there)
            self._noted.setdefault(bundle, _lasting((there or {}).get("data") or {}))
        return self._recorded[bundle]

    def _is_noted(self, bundle: str, note: Mapping[str, str]) -> bool:
        """Whether the parent says this already."""
        return _lasting(note) == self._noted.get(bundle)

    async def _record(self, bundle: str, members: Iterable[ObjectRef], note: Mapping[str, str]) -> None:
        await apply_at_home(self._api, parent(bundle, self._namespace, members, dict(note)))
        self._noted[bundle] = _lasting(note)

    async def forget(self, bundle: str, note: Mapping[str, str], kept: Sequence[ObjectRef]) -> None:
        """The parent names only the kinds of what was kept, so that nothing else is watched any more."""
        if self._recorded.get(bundle) != kinds_of(kept):
            await self._record(bundle, kept, note)
            self._recorded[bundle] = kinds_of(kept)

    async def give_up(self, bundle: str) -> None:
        """The parent itself goes, and with it the last that says that the bundle was here."""
        ref = ObjectRef("v1", "ConfigMap", self._namespace, parent_name(bundle))
        if (found := await self._api.get(ref)) is not None:
            await self._api.delete(ref, str(found["metadata"].get("uid", "")))
        for known in (self._recorded, self._noted, self._desired, self._settled):
            known.pop(bundle, None)

    async def is_served(self, kind: tuple[str, str]) -> bool:
        try:
            await self._api.resource(*kind)
        except KubernetesError as error:
            if error.code == "K004":
                return False
            raise
        return True

    async def _apply_one(
        self,
        ref: ObjectRef,
        obj: Manifest,
        desired: str,
        applyset: str,
        applied: Mapping[ObjectRef, Applied],
        result: ChangeSet,
    ) -> None:
        seen = self._observer.seen.get(ref)
        if ref.kind == NAMESPACE_KIND and ref.name == self._namespace:
            own = KubernetesError(
                "K014",
                "this namespace is the agent's own",
                object=str(ref),
                hint="Its labels say what may run beside the agent. Take it out of the bundle.",
            )
            result.changes.append(Change(ref, "refused", own))
            return
        if ref.kind == NAMESPACE_KIND and seen and seen.live.part_of not in ("", applyset):
            result.applied[ref] = Applied(desired, seen.live.owned, seen.live.uid)
            result.changes.append(Change(ref, "unchanged"))
            return
        try:
            self._require_not_muster(ref)
            ours = await self._is_ours(ref, applyset, applied.get(ref))
            # Fields that were ours are taken back from whoever changed them; those of an object's first apply are not.
            answer = await self._api.apply(obj, force=ours and ref in applied)
        except KubernetesError as error:
            result.changes.append(Change(ref, "refused" if error.code == "K014" else "failed", error))
            return
        live = self._observer.note(answer)
        result.applied[ref] = Applied(desired, live.owned, live.uid)
        result.changes.append(Change(ref, "configured" if ours else "created"))

    def _require_not_muster(self, ref: ObjectRef) -> None:
        """``MUSTER-K014`` for the parent of a bundle, also of one that is not here yet: two would write it in turns."""
        if (
            ref.kind == "ConfigMap"
            and ref.namespace == self._namespace
            and ref.name.startswith(parent_name(""))
        ):
            raise KubernetesError(
                "K014",
                "an object of this name is where Muster keeps a bundle's inventory",
                object=str(ref),
                hint="Rename yours.",
            )

    async def _is_ours(self, ref: ObjectRef, applyset: str, known: Applied | None) -> bool:
        """Whether the object is there and of this set; ``MUSTER-K014`` when it is somebody else's.

        The very object that was applied before stays ours, whatever somebody made of its label.
        """
        seen = self._observer.seen.get(ref)
        if seen:
            owner, uid = seen.live.part_of, seen.live.uid
        else:
            live = await self._api.get(ref)
            if live is None:
                return False
            owner, uid = part_of(live), str(live["metadata"].get("uid", ""))
        if owner == applyset or (known is not None and known.uid and known.uid == uid):
            return True
        if ref.kind == NAMESPACE_KIND:
            return False
        whose = "another bundle's" if owner else "not Muster's"
        raise KubernetesError(
            "K014",
            f"an object of this name is there and is {whose}",
            object=str(ref),
            hint="It is left alone. Rename yours, or delete that one by hand.",
        )

    async def _established(self, refs: Sequence[ObjectRef], result: ChangeSet) -> None:
        failed = {change.ref for change in result.errors}
        with anyio.move_on_after(ESTABLISH_DEADLINE):
            for ref in refs:
                while ref not in failed and health(await self._api.get(ref)).status != "Current":
                    await anyio.sleep(ESTABLISH_STEP)

    async def _prune(self, refs: Sequence[ObjectRef], result: ChangeSet) -> None:
        for ref in refs:
            seen = self._observer.seen.get(ref)
            try:
                await self._api.delete(ref, seen.live.uid if seen else "")
            except KubernetesError as error:
                result.changes.append(Change(ref, "failed", error))
                continue
            self._observer.forget(ref)
            result.applied.pop(ref, None)
            result.changes.append(Change(ref, "pruned"))


def _no_use_to_go_on(result: ChangeSet) -> bool:
    """Whether the last object got no answer at all, or a plea to slow down: the next one would fare alike, slowly."""
    error = result.changes[-1].error if result.changes else None
    return error is not None and (
        error.code == "K002" or (error.code == "K001" and error.__cause__ is not None)
    )
