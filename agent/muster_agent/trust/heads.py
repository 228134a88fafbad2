"""Whether the newest head of a branch may be taken.

Owns ancestry against anchor and floor, and the judgement of what a head changes by who signed it. Where the head's
own signer may not have made all changes since the floor, the way to it is judged step by step: each signed commit
on it counts as a head of its time. It never moves a floor.
"""

from __future__ import annotations

from typing import Protocol

from muster_core.errors import TrustError
from muster_core.fleet import read_registry
from muster_core.trust.authority import Change, is_policy, judge_content, judge_registry

from muster_agent.source.repository import SourceRepository
from muster_agent.trust.keeper import TrustKeeper

MAX_WAY = 2_000


async def require_descent(
    source: SourceRepository, commit: str, *, anchor: str, floor: str, branch_head: str
) -> None:
    """``T010`` not of the tracked branch, ``T011`` not from the anchor, ``T012`` older than, or beside, the floor."""
    if not await source.has(commit):
        raise TrustError("T013", "the commit is not in the repository", object=commit[:12], retryable=True)
    if anchor and not await source.descends(commit, anchor):
        raise TrustError(
            "T011",
            "the commit does not descend from the anchor of the join",
            object=commit[:12],
            hint="The history was rewritten, or this is another repository. Join again if that is meant.",
        )
    if floor and not await source.descends(commit, floor):
        raise TrustError(
            "T012",
            f"the commit does not descend from {floor[:12]}, which was accepted before",
            object=commit[:12],
            hint="The branch was forced back. The last good state stays; revert with a new commit instead.",
        )
    if branch_head and not await source.descends(branch_head, commit):
        raise TrustError("T010", "the commit is not on the tracked branch", object=commit[:12])


class HeadJudge:
    """Judges heads of the fleet's branch and of the registry's by the trust document that holds."""

    def __init__(self, source: SourceRepository, keeper: TrustKeeper) -> None:
        self._source, self._keeper = source, keeper

    async def fleet(self, commit: str, *, anchor: str, floor: str) -> list[str]:
        """The heads of their time on the way to this one, itself the last; raises when it may not be taken."""
        await require_descent(self._source, commit, anchor=anchor, floor=floor, branch_head=commit)
        if self._keeper.is_open:
            return [commit]
        return await self._way(commit, floor or anchor, self._content)

    async def registry(self, commit: str, *, anchor: str, floor: str) -> None:
        await require_descent(self._source, commit, anchor=anchor, floor=floor, branch_head=commit)
        if not self._keeper.is_open:
            await self._way(commit, floor or anchor, self._entries)

    async def _way(self, commit: str, base: str, judge: _Judge) -> list[str]:
        try:
            await judge(base, commit)
        except TrustError as error:
            if error.retryable:
                raise
            return await self._stepwise(commit, base, judge, error)
        return [commit]

    async def _stepwise(self, commit: str, base: str, judge: _Judge, reason: TrustError) -> list[str]:
        accepted = []
        for step in await self._source.first_parents(base, commit, MAX_WAY):
            try:
                await judge(base, step)
            except TrustError as error:
                if error.retryable:
                    raise
                if step == commit:
                    raise reason from error
            else:
                base = step
                accepted.append(step)
        if base != commit:
            raise reason
        return accepted

    async def _content(self, base: str, commit: str) -> None:
        changes = await self._source.changes(base, commit)
        if self._keeper.mode == "directives":
            changes = [change for change in changes if self._is_policy(change)]
        if not changes:
            return
        signers = await self._keeper.signers(commit)
        judge_content(changes, self._keeper.document, signers, now=self._keeper.now())

    def _is_policy(self, change: Change) -> bool:
        return is_policy(change.path, self._keeper.document)

    async def _entries(self, base: str, commit: str) -> None:
        changes = await self._source.changes(base, commit)
        if not changes:
            return
        before, _ = await self._source.reading(read_registry, await self._source.tree(base))
        after, _ = await self._source.reading(read_registry, await self._source.tree(commit))
        signers = await self._keeper.signers(commit)
        judge_registry(changes, before, after, self._keeper.document, signers, now=self._keeper.now())


class _Judge(Protocol):
    async def __call__(self, base: str, commit: str, /) -> None: ...
