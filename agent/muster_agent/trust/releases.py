"""Whether an offered release may be taken.

Owns the questions of DESIGN §6 for one release: is its content approved, does an operator's directive allow it
here and now, is it of the branch and above the floors. What an offer says of itself proves nothing. It never
renders and never moves a floor.
"""

from __future__ import annotations

import re
from typing import NamedTuple, Protocol

import msgspec
from muster_core.errors import TrustError
from muster_core.fleet import FleetContents, read_fleet, read_registry
from muster_core.kinds.model import NEEDS_DIRECTIVE, Cluster
from muster_core.kinds.plans import RolloutPlan
from muster_core.manifest.objects import digest
from muster_core.release import Release, bundle_tree
from muster_core.trust import directive as directives
from muster_core.trust.authority import CONTENT, Change, judge_content
from muster_core.trust.directive import Directive, SequencePlace
from muster_core.trust.merkle import Proof

from muster_agent.source.repository import BlobTree, SourceRepository
from muster_agent.state.records import Admission, Floors
from muster_agent.trust.heads import HeadJudge, require_descent
from muster_agent.trust.keeper import TrustKeeper

COMMIT_ID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


class Credentials(NamedTuple):
    """What an offer carries besides the release: an operator's statement, its signature, and this cluster's proof."""

    statement: bytes = b""
    signature: bytes = b""
    proof: Proof | None = None
    catching_up: bool = False


class Content(NamedTuple):
    """The release's commit as it was read, and what the newest accepted head says of the bundle."""

    tree: BlobTree
    contents: FleetContents
    accepted_digest: str
    anchor: str


class Approved(NamedTuple):
    """``place`` is to be kept with the floor; there is none without a directive. Nothing is applied before ``not_before``."""

    place: SequencePlace | None = None
    not_before: int = 0


class Return(Protocol):
    """An offer that goes back; ``own`` is what this cluster remembers of itself."""

    @property
    def release(self) -> Release: ...
    @property
    def credentials(self) -> Credentials: ...
    @property
    def own(self) -> tuple[Admission, ...]: ...


def _no_return(release: Release, why: str) -> TrustError:
    return TrustError(
        "T093",
        f"this cluster does not go back: {why}",
        object=str(release),
        hint="An operator allows it by a directive with returnTo; or revert in Git and roll that out.",
    )


def plan_digest(plan: RolloutPlan) -> str:
    """What a directive names of a plan."""
    return digest(msgspec.to_builtins(plan))


class ReleaseJudge:
    def __init__(self, source: SourceRepository, keeper: TrustKeeper, heads: HeadJudge) -> None:
        self._source, self._keeper, self._heads = source, keeper, heads

    async def returning(self, offered: Return, head: FleetContents | None) -> Admission | None:
        """The admission that a return leads back to; None where a directive allows it, which is then judged in full.

        Without a directive it is one that this cluster remembers (``own``), and the newest accepted head says ``rollback:
        previous``. Where releases ask for a directive, going back does too. ``MUSTER-T093`` for every other return.
        """
        release = offered.release
        if self._goes_back(release, offered.credentials):
            return None
        mode = "open" if self._keeper.is_open else self._keeper.mode
        if mode in NEEDS_DIRECTIVE:
            raise _no_return(release, f"the mode is {mode}, and no directive says that it may")
        own = next((a for a in offered.own if a.release.tree_digest == release.tree_digest), None)
        if own is None:
            raise _no_return(release, "it is not what was healthy here last")
        at = head.bundles.get(release.bundle) if head else None
        if at is None or at.bundle.spec.rollback != "previous":
            raise _no_return(release, "the newest accepted bundle does not say rollback: previous")
        return own

    async def require_place(
        self,
        release: Release,
        credentials: Credentials,
        floors: Floors,
        anchor: str,
        *,
        is_here: bool = False,
    ) -> None:
        """Ancestry: of the accepted branch, from the anchor, not below the bundle's floor unless a directive goes back.

        ``is_here``: it is the release that runs, so it goes nowhere. ``T010``, ``T011``, ``T012``, ``T014``; ``T030`` for
        anything but a full commit id: a name, or a part of an id, may be another commit tomorrow.
        """
        if not COMMIT_ID.fullmatch(release.commit):
            raise TrustError("T030", "the offer does not name a commit by its full id", object=str(release))
        floor = floors.bundles.get(release.bundle, "")
        if floor and (is_here or self._goes_back(release, credentials)):
            floor = ""
        head = floors.branches.get("fleet", "")
        await require_descent(self._source, release.commit, anchor=anchor, floor=floor, branch_head=head)

    def _goes_back(self, release: Release, credentials: Credentials) -> bool:
        """Only what is judged in full by :meth:`approve` may say so; a statement that does not decode says nothing."""
        if not credentials.statement or self._keeper.is_open:
            return False
        directive = directives.decode(credentials.statement)
        return directive.return_to == release or (directive.release == release and directive.goes_back)

    async def approve(
        self,
        release: Release,
        credentials: Credentials,
        content: Content,
        *,
        entry: Cluster,
        last: SequencePlace,
    ) -> Approved:
        """Raises :class:`TrustError` unless the mode's conditions hold for this release on this cluster."""
        if self._keeper.is_open:
            return Approved()
        self._keeper.require_current()
        mode = self._keeper.mode
        allowed = (
            await self._directive(release, credentials, content, entry, last)
            if credentials.statement
            else None
        )
        if allowed is None and mode in NEEDS_DIRECTIVE:
            raise TrustError(
                "T078",
                f"the mode is {mode}, and the offer carries no directive",
                object=str(release),
                hint="An operator signs one: muster rollout start.",
            )
        if mode in {"signed-commits", "both"}:
            await self._content(release, content)
        return allowed or Approved()

    async def _directive(
        self,
        release: Release,
        credentials: Credentials,
        content: Content,
        entry: Cluster,
        last: SequencePlace,
    ) -> Approved:
        directive: Directive = directives.decode(credentials.statement)
        if release not in (directive.release, directive.return_to):
            raise TrustError("T079", "the directive is for another release", object=str(directive.release))
        allowed = directives.judge(
            directive,
            credentials.signature,
            credentials.proof,
            document=self._keeper.document,
            entry=entry,
            plans=await self._plans(directive, release, content),
            last=last,
            now=self._keeper.now(),
            catching_up=credentials.catching_up,
            is_late=await self._is_late(directive, entry),
        )
        self._keeper.saw_time(directive.issued)
        return Approved(allowed.place, allowed.not_before)

    async def _plans(self, directive: Directive, release: Release, content: Content) -> dict[str, str]:
        """Of the commit that the directive names, also when it is its return that is offered."""
        contents = content.contents
        if directive.release != release:
            tree = await self._source.tree(directive.release.commit)
            contents = await self._source.reading(read_fleet, tree)
        return {name: plan_digest(plan) for name, plan in contents.plans.items()}

    async def _is_late(self, directive: Directive, entry: Cluster) -> bool:
        """Whether the registry had no entry of this name when the directive was signed."""
        late = directive.late_joiners
        if late is None or not await self._source.has(late.registry):
            return False
        known, _ = await self._source.reading(read_registry, await self._source.tree(late.registry))
        return entry.metadata.name not in known

    async def _content(self, release: Release, content: Content) -> None:
        """Whether somebody who may has approved this content.

        The accepted head has it; or the commit was an accepted head itself, or the anchor; or whoever signed the
        commit may approve all that the bundle is of; or it would have been an accepted head of its time. A commit
        below a signed head is approved by nobody: its tree is another one.
        """
        commit = release.commit
        if content.accepted_digest == release.tree_digest or self._keeper.was_head(commit):
            return
        if commit == content.anchor:
            return
        at = content.contents.bundles[release.bundle]
        paths = {at.file, *at.secret_files, *(file.path for file in bundle_tree(content.tree, at).files())}
        try:
            judge_content(
                [Change(path, "changed") for path in sorted(paths)],
                self._keeper.document,
                await self._keeper.signers(commit),
                now=self._keeper.now(),
                names=CONTENT,
            )
        except TrustError as error:
            if error.retryable or error.code != "T042":
                raise
            self._keeper.saw_heads(await self._heads.fleet(commit, anchor=content.anchor, floor=""))
