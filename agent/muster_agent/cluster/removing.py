"""Takes away what a bundle delivered, because a release says that nothing of it shall be left, or the registry does.

Owns the order: the last kinds of an apply go first, and the next kind only when those before are gone, so that a
controller is there as long as its objects need it. What takes other things with it (namespaces, claims, definitions) stays
unless somebody said so. It never touches an object that is not of the bundle's set.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import anyio
from muster_core.apply.applyset import set_id
from muster_core.apply.changeset import Change
from muster_core.apply.plan import Applied, Live, kinds_of, rank
from muster_core.errors import KubernetesError
from muster_core.kinds.model import Remove
from muster_core.manifest.objects import ObjectRef

from muster_agent.cluster.apply import NAMESPACE_KIND, Applier
from muster_agent.cluster.observe import Observer
from muster_agent.cluster.port import ClusterApi

PATIENCE = (
    10.0  # seconds for the objects of one kind to go; what stays longer is looked at again when it moves
)
STEP = 0.1


class Removal(NamedTuple):
    """``left`` is still to go, ``kept`` was protected and stays."""

    changes: tuple[Change, ...]
    left: tuple[ObjectRef, ...]
    kept: tuple[ObjectRef, ...]


def protected_kinds(said: Remove) -> frozenset[str]:
    """The kinds that stay."""
    asked = {
        NAMESPACE_KIND: said.namespaces,
        "PersistentVolumeClaim": said.claims,
        "CustomResourceDefinition": said.definitions,
    }
    return frozenset(kind for kind, goes in asked.items() if not goes)


class Remover:
    """``namespace`` is the agent's own, which is nobody's to remove."""

    def __init__(self, api: ClusterApi, observer: Observer, applier: Applier, namespace: str) -> None:
        self._api, self._observer, self._applier, self._namespace = api, observer, applier, namespace

    async def remove(
        self, bundle: str, applied: Mapping[ObjectRef, Applied], protected: Collection[str]
    ) -> Removal:
        """As far as it gets now; the changes hold what is in the way of the rest."""
        applyset = set_id(bundle, self._namespace)
        kinds = kinds_of(applied) | await self._applier.recorded_kinds(bundle)
        served = {kind for kind in kinds if await self._applier.is_served(kind)}
        forbidden = await self._observer.watch(served)
        unseen = [ref for ref in applied if (ref.api_version, ref.kind) in forbidden]
        changes = [Change(ref, "failed", forbidden[ref.api_version, ref.kind]) for ref in unseen]
        live = self._observer.members(applyset)
        kept = [ref for ref in live if ref.kind in protected or self._is_shared(ref, applyset)]
        going = sorted(set(live) - set(kept), key=rank, reverse=True)
        left = list(going)
        for _, group in groupby(going, key=lambda ref: rank(ref)[0]):
            refs = list(group)
            changes += await self._delete(refs, live)
            gone = await self._wait_for(refs, live)
            left = [ref for ref in left if ref not in gone]
            if len(gone) < len(refs):
                break
        return Removal(tuple(changes), (*left, *unseen), tuple(sorted(kept, key=rank)))

    def _is_shared(self, ref: ObjectRef, applyset: str) -> bool:
        """Whether another bundle, or the agent, lives in this namespace."""
        if ref.kind != NAMESPACE_KIND:
            return False
        return ref.name == self._namespace or any(
            other.namespace == ref.name and seen.live.part_of not in ("", applyset)
            for other, seen in self._observer.seen.items()
        )

    async def _delete(self, refs: Sequence[ObjectRef], live: Mapping[ObjectRef, Live]) -> list[Change]:
        changes = []
        for ref in refs:
            seen = self._observer.seen.get(ref)
            if seen is not None and seen.health.status == "Terminating":
                continue  # it waits for its finalizers: saying it again changes nothing
            try:
                await self._api.delete(ref, live[ref].uid)
            except KubernetesError as error:
                changes.append(Change(ref, "failed", error))
            else:
                changes.append(Change(ref, "pruned"))
        return changes

    async def _wait_for(self, refs: Sequence[ObjectRef], live: Mapping[ObjectRef, Live]) -> set[ObjectRef]:
        """Those that are gone, or that are others of the same name by now."""
        gone = set[ObjectRef]()
        with anyio.move_on_after(PATIENCE):
            while True:
                for ref in refs:
                    if ref not in gone and await self._is_gone(ref, live[ref].uid):
                        self._observer.forget(ref)
                        gone.add(ref)
                if len(gone) == len(refs):
                    break
                await anyio.sleep(STEP)
        return gone

    async def _is_gone(self, ref: ObjectRef, uid: str) -> bool:
        try:
            found = await self._api.get(ref)
        except KubernetesError as error:
            if error.code in {"K004", "K009"}:
                return True
            raise
        return found is None or found["metadata"].get("uid") != uid
