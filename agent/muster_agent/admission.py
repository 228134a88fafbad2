"""From an offer to objects that may be applied: verify, select, render, unseal, gate.

Owns the order of these stages and what is read of which commit: the bundle of the release's commit, policies of the newest
accepted one, the registry entry of the newest registry commit. It never applies.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import msgspec
from muster_core.durations import parse_duration
from muster_core.errors import MusterError, TrustError, ValidationError
from muster_core.fleet import FleetContents, compile_fleet_policies, read_fleet, read_registry
from muster_core.kinds.model import Cluster
from muster_core.manifest.objects import Manifest
from muster_core.policy import PolicySet, Verdict
from muster_core.release import Release
from muster_core.sealing.keys import SealingKey, encode_identity
from muster_core.select import targeted, values_for

from muster_agent.cluster.surroundings import Surroundings
from muster_agent.gate import gate
from muster_agent.render.renderer import Renderer
from muster_agent.source.repository import BlobTree, Heads, SourceRepository
from muster_agent.state.port import StatePort
from muster_agent.state.records import Admission, Enrolment, Floors
from muster_agent.unseal import unseal
from muster_agent.verify import acceptable

READ_COMMITS = 4
Look = Callable[[Sequence[Manifest]], Awaitable[Surroundings]]


@dataclass(slots=True)
class Admissible:
    """What an admission gives: objects, and how the bundle wants to be handled."""

    admission: Admission
    objects: list[Manifest]
    namespace: str
    prune: bool
    health_deadline: float
    may_roll_back: bool
    warnings: tuple[Verdict, ...] = ()


@dataclass(slots=True)
class Desired:
    """The fleet repository as accepted so far. ``heads`` are the newest accepted commits."""

    source: SourceRepository
    state: StatePort
    enrolment: Enrolment
    identity_public: bytes
    sealing: Sequence[SealingKey]
    renderer: Renderer
    floors: Floors = field(default_factory=Floors)
    entry: Cluster | None = None
    registry_commit: str = ""
    policies: PolicySet | None = None
    policy_commit: str = ""
    problem: MusterError | None = None
    _read: OrderedDict[str, tuple[BlobTree, FleetContents]] = field(default_factory=OrderedDict)

    async def load(self) -> None:
        """Floors from disk, and what they say, without asking anybody."""
        self.floors = self.state.get("floors", Floors) or Floors()
        branch, registry = self.floors.branches.get("fleet", ""), self.floors.branches.get("registry", "")
        if branch and await self.source.has(branch):
            await self._take_policies(branch)
        if registry and await self.source.has(registry):
            await self._take_entry(registry)

    async def accept(self, heads: Heads) -> None:
        """Moves floors, policies and registry entry to new heads; what cannot be taken leaves the last good state.

        Raises the first problem after all was tried; it is also kept in ``problem``.
        """
        self.problem = None
        repository = self.enrolment.repositories[0]
        floor = self.floors.branches.get("fleet", "")
        if heads.commit != floor or self.policies is None:
            try:
                await acceptable(
                    self.source, heads.commit, anchor=repository.anchor, floor=floor, branch_head=heads.commit
                )
                await self._take_policies(heads.commit)
                await self.source.pin("floor/fleet", heads.commit)
                self._raise_floor("fleet", heads.commit)
            except MusterError as error:
                self.problem = error
        known = self.floors.branches.get("registry", "")
        if heads.registry and (heads.registry != known or self.entry is None):
            try:
                await acceptable(
                    self.source, heads.registry, anchor="", floor=known, branch_head=heads.registry
                )
                await self._take_entry(heads.registry)
                await self.source.pin("floor/registry", heads.registry)
                self._raise_floor("registry", heads.registry)
            except MusterError as error:
                self.problem = self.problem or error
        if self.problem is not None:
            raise self.problem

    def _raise_floor(self, branch: str, commit: str) -> None:
        self.floors = msgspec.structs.replace(self.floors, branches={**self.floors.branches, branch: commit})
        self.state.put("floors", self.floors)

    async def _take_policies(self, commit: str) -> None:
        _, contents = await self._contents(commit)
        if contents.fleet is None:
            raise ValidationError("V006", str(contents.problems[0]), object=commit[:12])
        self.policies = compile_fleet_policies(contents)
        self.policy_commit = commit

    async def _take_entry(self, commit: str) -> None:
        self.entry, self.registry_commit = await self._entry_at(commit), commit

    async def _entry_at(self, commit: str) -> Cluster:
        """This cluster's own entry at a registry commit; ``T020`` without one, ``T021`` when it is another's."""
        clusters, _ = await self.source.reading(read_registry, await self.source.tree(commit))
        entry = clusters.get(self.enrolment.cluster)
        if entry is None:
            raise TrustError(
                "T020",
                "the registry has no entry for this cluster",
                object=self.enrolment.cluster,
                retryable=True,
            )
        if entry.spec.uid != self.enrolment.uid or entry.spec.identity_key != encode_identity(
            self.identity_public
        ):
            raise TrustError(
                "T021",
                "the registry's entry of this name is another cluster's",
                object=self.enrolment.cluster,
            )
        return entry

    async def _contents(self, commit: str) -> tuple[BlobTree, FleetContents]:
        if commit not in self._read:
            tree = await self.source.tree(commit)
            self._read[commit] = (tree, await self.source.reading(read_fleet, tree))
            if len(self._read) > READ_COMMITS:
                self._read.popitem(last=False)
        return self._read[commit]

    async def admit(self, release: Release, look: Look) -> Admissible:
        """A new release. Its floor is on disk when this returns; nothing was applied.

        ``look`` tells what policies need to know of the cluster.
        """
        repository = self.enrolment.repositories[0]
        floor = self.floors.bundles.get(release.bundle, "")
        try:
            await acceptable(
                self.source,
                release.commit,
                anchor=repository.anchor,
                floor=floor,
                branch_head=self.floors.branches.get("fleet", ""),
            )
        except MusterError as error:
            # When the newest head itself was not accepted, that is the reason to tell.
            raise (self.problem if self.problem and error.code == "T010" else error) from error
        admission = Admission(release, self.registry_commit, self.policy_commit)
        admissible = await self._build(admission, look)
        await self.source.pin(f"admitted/{release.bundle}", release.commit)
        await self.source.pin(f"admitted-entry/{release.bundle}", self.registry_commit)
        self.floors = msgspec.structs.replace(
            self.floors, bundles={**self.floors.bundles, release.bundle: release.commit}
        )
        self.state.put("floors", self.floors)
        return admissible

    async def again(self, admission: Admission) -> Admissible:
        """What was admitted before, rendered again. A newer policy does not deny it."""
        return await self._build(admission, None)

    async def _build(self, admission: Admission, look: Look | None) -> Admissible:
        """``look`` is there when it is to be judged: healing to what was admitted is never denied by a newer policy."""
        release = admission.release
        tree, contents = await self._contents(release.commit)
        problems = contents.problems_of(release.bundle)
        at = contents.bundles.get(release.bundle)
        if problems or at is None or contents.fleet is None:
            what = str(problems[0]) if problems else f"the commit has no valid bundle {release.bundle}"
            raise ValidationError("V050", what, object=release.bundle)
        if contents.digests.get(release.bundle) != release.tree_digest:
            raise TrustError("T030", "the commit's tree is not the one that was offered", object=str(release))
        # Healing sees the entry that was admitted; a newer one moves objects only through an offer.
        entry = self.entry if look else await self._entry_at(admission.registry_commit)
        if entry is None:
            raise TrustError(
                "T020",
                "the registry has no entry for this cluster",
                object=self.enrolment.cluster,
                retryable=True,
            )
        values = values_for(at.bundle, entry)
        if values is None and look:
            raise TrustError(
                "T022",
                "the bundle does not target this cluster by its own registry entry",
                object=release.bundle,
            )
        objects = await self.renderer.render(tree, at, values or {})
        objects += unseal(
            contents.secrets_of(release.bundle),
            fleet_id=contents.fleet.spec.id,
            uid=self.enrolment.uid,
            keys=self.sealing,
            bundle=release.bundle,
        )
        warnings: tuple[Verdict, ...] = ()
        if look:
            if self.policies is None:
                raise ValidationError("V051", "no policies were accepted yet", object=release.bundle)
            shown = _located(objects, at.bundle.spec.namespace)
            warnings = gate(self.policies, shown, await look(shown))
        return Admissible(
            admission=admission,
            objects=objects,
            namespace=at.bundle.spec.namespace,
            prune=contents.fleet.spec.defaults.prune,
            health_deadline=parse_duration(at.bundle.spec.health.deadline),
            may_roll_back=at.bundle.spec.rollback == "previous",
            warnings=warnings,
        )

    async def targets_me(self, bundle: str) -> bool | None:
        """Whether the newest accepted commit's bundle targets this cluster; None when that is not known."""
        commit = self.floors.branches.get("fleet", "")
        if not commit or self.entry is None:
            return None
        _, contents = await self._contents(commit)
        at = contents.bundles.get(bundle)
        return targeted(at.bundle, self.entry.all_labels) if at else None


def _located(objects: Sequence[Manifest], namespace: str) -> list[Manifest]:
    """Objects as policies see them: with the namespace that they will have, where one is filled in."""
    shown = []
    for obj in objects:
        metadata = obj.get("metadata") or {}
        if namespace and not metadata.get("namespace") and obj.get("kind") != "Namespace":
            obj = {**obj, "metadata": {**metadata, "namespace": namespace}}
        shown.append(obj)
    return shown
