"""Whether a commit may be taken at all.

Owns ancestry against anchor and floors, in the mode ``open``. It fails closed and never fetches. Signatures and directives
belong here when they are built; until then any other mode is refused.
"""

from __future__ import annotations

from muster_core.errors import TrustError

from muster_agent.source.repository import SourceRepository


def require_mode(mode: str) -> None:
    """``MUSTER-T001`` for a mode that this agent cannot hold to."""
    if mode != "open":
        raise TrustError(
            "T001",
            f"the mode {mode} is not built into this agent",
            hint="It would not check signatures, so it takes nothing.",
        )


async def acceptable(
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
