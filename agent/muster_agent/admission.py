"""From an offer to objects that may be applied: verify, select, render, unseal, gate.

Owns the order of these stages and what is read of which commit: the bundle of the release's commit, policies of the newest
accepted one, the registry entry of the newest registry commit. Trust is judged by its own package. It never applies.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from muster_core.durations import parse_duration
from muster_core.errors import MusterError, TrustError, ValidationError
from muster_core.fleet import FleetContents, compile_fleet_policies, read_fleet, read_registry
from muster_core.kinds.model import Cluster, Remove
from muster_core.manifest.objects import Manifest
from muster_core.policy import PolicySet, Verdict
from muster_core.release import BundleAt, Release, entry_digest
from muster_core.sealing.keys import SealingKey, encode_identity
from muster_core.select import Value, targeted, values_for
from muster_core.trust.directive import SequencePlace

from muster_agent.cluster.surroundings import Surroundings
from muster_agent.gate import gate
from muster_agent.render.renderer import Renderer
from muster_agent.sealed import choose
from muster_agent.site import closed_until, require_allowed
from muster_agent.source.repository import BlobTree, Heads, SourceRepository
from muster_agent.state.records import Admission, Enrolment, OfferRecord, SecretPlace
from muster_agent.trust.floors import FloorKeeper
from muster_agent.trust.heads import HeadJudge
from muster_agent.trust.keeper import TrustKeeper
from muster_agent.trust.releases import COMMIT_ID, Content, Credentials, ReleaseJudge
from muster_agent.unseal import unseal
from muster_agent.witness import Witness

READ_COMMITS = 4
Look = Callable[[Sequence[Manifest]], Awaitable[Surroundings]]


class Offered(NamedTuple):
    """A release as it is offered; ``registry_digest`` (may be empty) is the entry that the coordinator means.

    ``own`` is what this cluster remembers: the admission that it has, and the last that was healthy before it, if any.
    ``returns``: the offer says that it goes back, which is for ``own`` or a directive to allow. ``not_before`` (unix
    seconds): what the coordinator asks for; a directive may say a later time.
    """

    release: Release
    credentials: Credentials = Credentials()
    registry_digest: str = ""
    returns: bool = False
    own: tuple[Admission, ...] = ()
    not_before: int = 0


class Early(NamedTuple):
    """A release that could be admitted, and was in every stage: its time (unix seconds) has not come."""

    not_before: int


@dataclass(slots=True)
class Admissible:
    """What an admission gives: objects, and how the bundle and its plan want to be handled.

    ``may_return``: the commit's own plan and bundle let this cluster go back by itself. ``removes``: the release has no
    objects, and what was delivered before goes but for what this protects.
    """

    admission: Admission
    objects: list[Manifest]
    namespace: str
    prune: bool
    health_deadline: float
    may_return: bool
    entry_digest: str
    secrets: Mapping[str, SecretPlace]
    kept_secrets: tuple[str, ...] = ()
    removes: Remove | None = None
    warnings: tuple[Verdict, ...] = ()


class Desired:
    """The fleet repository as accepted so far."""

    def __init__(
        self,
        source: SourceRepository,
        keeper: TrustKeeper,
        floors: FloorKeeper,
        enrolment: Enrolment,
        identity_public: bytes,
        sealing: Sequence[SealingKey],
        renderer: Renderer,
        witness: Witness,
        judged: Callable[[Sequence[Verdict]], None],
    ) -> None:
        self._source, self._keeper, self._floors, self._enrolment = source, keeper, floors, enrolment
        self._identity, self._sealing, self._renderer = identity_public, sealing, renderer
        self._witness, self._judged = witness, judged
        self._heads = HeadJudge(source, keeper)
        self._releases = ReleaseJudge(source, keeper, self._heads)
        self.entry: Cluster | None = None
        self.registry_commit = ""
        self.policies: PolicySet | None = None
        self.policy_commit = ""
        self.problem: MusterError | None = None
        self._started_with, self._was_greeted = "", False
        self._read: OrderedDict[str, tuple[BlobTree, FleetContents]] = OrderedDict()

    @property
    def branches(self) -> dict[str, str]:
        """The newest accepted commits by branch."""
        return self._floors.floors.branches

    @property
    def trust_version(self) -> int:
        return self._keeper.version

    @property
    def regressed(self) -> str:
        return self._floors.floors.regressed

    @property
    def is_leaving(self) -> bool | None:
        """The registry asks that every bundle is taken away from this cluster; None while no entry is known."""
        return None if self.entry is None else self.entry.is_leaving

    async def load(self) -> None:
        """What the floors say, without asking the Git host. Raises K001 when the cluster does not answer.

        What cannot be read of an accepted commit is kept in ``problem``; healing does without it.
        """
        await self._floors.load()
        self._started_with = self.branches.get("fleet", "")
        for branch, take in (("fleet", self._take_policies), ("registry", self._take_entry)):
            commit = self.branches.get(branch, "")
            try:
                if commit and await self._source.has(commit):
                    await take(commit)
            except MusterError as error:
                self.problem = self.problem or error

    async def greeted(self, reported: str) -> None:
        """A Welcome, with the newest floor that the coordinator had from this cluster; ours must not be older.

        The first one is held against what this process started with: a restored folder has caught up with Git before
        anybody can say that it was old. A floor that is not here was of a history that was lost.
        """
        current = self.branches.get("fleet", "")
        own = current if self._was_greeted else self._started_with or self._anchor("fleet")
        self._was_greeted = True
        if reported and reported != own and await self._is_behind(own, reported):
            self._regressed(own, reported)

    async def _is_behind(self, own: str, reported: str) -> bool:
        if not COMMIT_ID.fullmatch(reported):
            return False
        if not await self._source.has(reported):
            return bool(self._started_with)  # who has just joined may not know what was before the anchor
        return not await self._source.descends(own, reported)

    def _regressed(self, own: str, reported: str) -> None:
        if not self.regressed:
            self._witness.regressed(own, reported)
        self._floors.regressed(reported)

    def acknowledge_floor(self, commit: str) -> None:
        if commit and commit == self.regressed:
            self._witness.acknowledged(commit)
        self._floors.acknowledged(commit)

    async def accept(self, heads: Heads) -> None:
        """Moves trust, floors, policies and registry entry to new heads; what cannot be taken leaves the last good state.

        Raises the first problem after all was tried; it is also kept in ``problem``.
        """
        self.problem = None
        for step in (self._take_trust, self._take_fleet, self._take_registry):
            try:
                await step(heads)
            except MusterError as error:
                self.problem = self.problem or error
        if self.problem is not None:
            raise self.problem

    async def _take_trust(self, heads: Heads) -> None:
        """Trust documents come before anything else, of whatever head: they prove themselves."""
        before = self.trust_version
        for commit in (heads.commit, heads.registry):
            if commit and not self._keeper.is_open:
                self._keeper.take_documents(await self._source.tree(commit))
        if self.trust_version != before:
            self._witness.trusting(before, self.trust_version)

    async def _take_fleet(self, heads: Heads) -> None:
        floor = self.branches.get("fleet", "")
        if heads.commit == floor and self.policies is not None:
            return
        accepted = await self._heads.fleet(heads.commit, anchor=self._anchor("fleet"), floor=floor)
        await self._take_policies(heads.commit)
        self._keeper.saw_heads(accepted)
        await self._source.pin("floor/fleet", heads.commit)
        await self._floors.raise_branch("fleet", heads.commit)

    async def _take_registry(self, heads: Heads) -> None:
        known = self.branches.get("registry", "")
        if not heads.registry or (heads.registry == known and self.entry is not None):
            return
        await self._heads.registry(heads.registry, anchor=self._anchor("registry"), floor=known)
        await self._take_entry(heads.registry)
        await self._source.pin("floor/registry", heads.registry)
        await self._floors.raise_branch("registry", heads.registry)

    def _anchor(self, name: str) -> str:
        return next((r.anchor for r in self._enrolment.repositories if r.name == name), "")

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
        clusters, _ = await self._source.reading(read_registry, await self._source.tree(commit))
        entry = clusters.get(self._enrolment.cluster)
        if entry is None:
            raise self._no_entry()
        if entry.spec.revoked:
            raise TrustError(
                "T024", "the registry says that this cluster is revoked", object=self._enrolment.cluster
            )
        identity = encode_identity(self._identity)
        if entry.spec.uid != self._enrolment.uid or entry.spec.identity_key != identity:
            raise TrustError(
                "T021",
                "the registry's entry of this name is another cluster's",
                object=self._enrolment.cluster,
            )
        return entry

    def _no_entry(self) -> TrustError:
        return TrustError(
            "T020",
            "the registry has no entry for this cluster",
            object=self._enrolment.cluster,
            retryable=True,
        )

    async def _contents(self, commit: str) -> tuple[BlobTree, FleetContents]:
        if commit not in self._read:
            tree = await self._source.tree(commit)
            self._read[commit] = (tree, await self._source.reading(read_fleet, tree))
            if len(self._read) > READ_COMMITS:
                self._read.popitem(last=False)
        return self._read[commit]

    async def ready_for(self, release: Release) -> bool:
        """Whether all that the release needs is here already, so that nothing has to be fetched."""
        head = self.branches.get("fleet", "")
        return bool(
            head
            and await self._source.has(release.commit)
            and await self._source.descends(head, release.commit)
        )

    async def admit(self, offered: Offered, look: Look) -> Admissible | Early:
        """A new release. Its floor is on disk and mirrored when this returns; nothing was applied.

        Before its time no floor moves, and all of it is asked again then. ``look`` tells what policies need to know of the
        cluster.
        """
        self._floors.require_whole()
        if "fleet" not in self.branches:
            raise self.problem or TrustError(
                "T016",
                "no head of the fleet's branch was accepted yet",
                object=str(offered.release),
                retryable=True,
            )
        release, floors = offered.release, self._floors.floors
        if self.entry is not None:
            require_allowed(self.entry, release.bundle)
        if offered.returns:
            own = await self._releases.returning(offered, await self._head_contents())
            if own is not None:
                return await self.again(own)
        here = bool(offered.own) and offered.own[0].release == release
        try:
            await self._releases.require_place(
                release, offered.credentials, floors, self._anchor("fleet"), is_here=here
            )
        except MusterError as error:
            # When the newest head itself was not accepted, that is the reason to tell.
            raise (self.problem if self.problem and error.code == "T010" else error) from error
        entry = self._own_entry(offered.registry_digest)
        tree, contents, at = await self._bundle_at(release)
        _, accepted = await self._contents(self.branches["fleet"])
        approved = await self._releases.approve(
            release,
            offered.credentials,
            Content(tree, contents, accepted.digests.get(release.bundle, ""), self._anchor("fleet")),
            entry=entry,
            last=floors.directives.get(release.bundle, SequencePlace()),
        )
        values = values_for(at.bundle, entry)
        if values is None:
            raise TrustError(
                "T022",
                "the bundle does not target this cluster by its own registry entry",
                object=release.bundle,
            )
        admission = Admission(release, self.registry_commit, self.policy_commit)
        admissible = await self._build(admission, tree, contents, at, entry, values)
        if self.policies is None:
            raise ValidationError("V051", "no policies were accepted yet", object=release.bundle)
        shown = _located(admissible.objects, admissible.namespace)
        admissible.warnings = gate(self.policies, shown, await look(shown), self._judged)
        not_before = max(offered.not_before, approved.not_before)
        if self._keeper.now() < not_before:
            return Early(not_before)
        await self._source.pin(f"admitted/{release.bundle}", release.commit)
        await self._source.pin(f"admitted-entry/{release.bundle}", self.registry_commit)
        await self._floors.raise_bundle(release.bundle, release.commit, approved.place, admissible.secrets)
        return admissible

    def closed_until(self, offer: OfferRecord) -> float | None:
        """When the site's window opens; None while it takes releases, for one that goes back, and before an offer's time."""
        if offer.returns or not self.is_due(offer.not_before):
            return None
        return closed_until(self.entry, self._keeper.now())

    def is_due(self, not_before: float) -> bool:
        """Whether this time has come, by the later of the system's clock and the newest that was signed."""
        return self._keeper.now() >= not_before

    def _own_entry(self, offered: str) -> Cluster:
        if self.entry is None:
            raise self._no_entry()
        if offered and offered != entry_digest(self.entry):
            raise TrustError(
                "T023",
                "the registry's entry here is not the one that was offered",
                object=self._enrolment.cluster,
                retryable=True,
            )
        return self.entry

    async def again(self, admission: Admission) -> Admissible:
        """What was admitted before, rendered again with the same entry. A newer policy does not deny it."""
        tree, contents, at = await self._bundle_at(admission.release)
        entry = await self._entry_at(admission.registry_commit)
        return await self._build(admission, tree, contents, at, entry, values_for(at.bundle, entry) or {})

    async def _bundle_at(self, release: Release) -> tuple[BlobTree, FleetContents, BundleAt]:
        tree, contents = await self._contents(release.commit)
        problems = contents.problems_of(release.bundle)
        at = contents.bundles.get(release.bundle)
        if problems or at is None or contents.fleet is None:
            what = str(problems[0]) if problems else f"the commit has no valid bundle {release.bundle}"
            raise ValidationError("V050", what, object=release.bundle)
        if contents.digests.get(release.bundle) != release.tree_digest:
            raise TrustError("T030", "the commit's tree is not the one that was offered", object=str(release))
        return tree, contents, at

    async def _build(
        self,
        admission: Admission,
        tree: BlobTree,
        contents: FleetContents,
        at: BundleAt,
        entry: Cluster,
        values: Mapping[str, Value],
    ) -> Admissible:
        bundle, fleet = admission.release.bundle, contents.fleet
        if fleet is None:
            raise ValidationError(
                "V006", "the commit has no valid fleet.yaml", object=admission.release.commit
            )
        removes = at.bundle.spec.remove
        objects = await self._renderer.render(tree, at, values) if removes is None else []
        chosen = await choose(
            contents.secrets_of(bundle),
            admission.release.commit,
            await self._head_contents(),
            self._floors.floors.secrets,
            self._contents_at,
        )
        objects += unseal(
            chosen.secrets,
            fleet_id=fleet.spec.id,
            uid=self._enrolment.uid,
            keys=self._sealing,
            release=admission.release,
            witness=self._witness,
        )
        if chosen.secrets:  # every opening is on disk before anything of it is applied
            await self._witness.flush()
        plan = contents.plans.get(contents.plan_of(bundle))
        return Admissible(
            admission=admission,
            objects=objects,
            namespace=at.bundle.spec.namespace,
            prune=fleet.spec.defaults.prune,
            health_deadline=parse_duration(at.bundle.spec.health.deadline),
            may_return=at.bundle.spec.rollback == "previous"
            and plan is not None
            and plan.spec.on_failure.action == "rollback",
            entry_digest=entry_digest(entry),
            secrets=chosen.places,
            kept_secrets=chosen.kept,
            removes=removes,
        )

    async def _contents_at(self, commit: str) -> FleetContents:
        return (await self._contents(commit))[1]

    async def _head_contents(self) -> FleetContents | None:
        """The newest accepted head, if it is here: healing goes on without it."""
        head = self.branches.get("fleet", "")
        return await self._contents_at(head) if head and await self._source.has(head) else None

    async def targets_me(self, bundle: str) -> bool | None:
        """Whether the newest accepted commit's bundle targets this cluster; None when that is not known."""
        commit = self.branches.get("fleet", "")
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
