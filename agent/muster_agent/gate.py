"""What policies say of every object, before anything is applied.

Owns the verdict over a whole bundle: one denied object, or one rule that could not be judged, blocks all of it. Policies are
those of the newest accepted commit, never of the bundle's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from muster_core.errors import PolicyError
from muster_core.manifest.objects import Manifest
from muster_core.policy import PolicySet, Verdict, blocked

from muster_agent.cluster.surroundings import Surroundings


class DeniedError(PolicyError):
    """The bundle is blocked; ``verdicts`` says by what."""

    def __init__(self, verdicts: Sequence[Verdict]) -> None:
        first = verdicts[0]
        where = f" at {first.path}" if first.path else ""
        more = f" (and {len(verdicts) - 1} more)" if len(verdicts) > 1 else ""
        super().__init__(
            "P001",
            f"policy {first.policy}, rule {first.rule} forbids {first.object}{where}: {first.message}{more}",
            hint="Change the object, or the policy.",
        )
        self.verdicts = tuple(verdicts)


def gate(
    policies: PolicySet,
    objects: Sequence[Manifest],
    around: Surroundings,
    judged: Callable[[Sequence[Verdict]], None],
) -> tuple[Verdict, ...]:
    """Warnings, when nothing denies; :class:`DeniedError` otherwise. ``judged`` hears of every verdict, passes too."""
    verdicts = policies.evaluate(objects, namespace_labels=around.namespace_labels, exists=around.exists)
    judged(verdicts)
    denied = blocked(verdicts)
    if denied:
        raise DeniedError(denied)
    return tuple(verdict for verdict in verdicts if verdict.status in {"fail", "warn"})
