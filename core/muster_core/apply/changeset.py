"""What became of a plan, as a value that logs, reports and tables render alike."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from muster_core.apply.plan import Applied
from muster_core.errors import MusterError
from muster_core.manifest.objects import ObjectRef

Action = Literal["created", "configured", "unchanged", "pruned", "refused", "failed"]


class Change(NamedTuple):
    ref: ObjectRef
    action: Action
    error: MusterError | None = None


@dataclass(slots=True)
class ChangeSet:
    """``applied`` is what to remember: what was last applied, also of objects that are still to be pruned."""

    changes: list[Change] = field(default_factory=list)
    applied: dict[ObjectRef, Applied] = field(default_factory=dict)
    healed: list[ObjectRef] = field(default_factory=list)

    @property
    def errors(self) -> list[Change]:
        return [change for change in self.changes if change.error is not None]

    @property
    def writes(self) -> int:
        return sum(change.action in {"created", "configured", "pruned"} for change in self.changes)
