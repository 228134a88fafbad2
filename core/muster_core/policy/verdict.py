"""What a rule says of an object, and what a rule is. The one shape to which every policy dialect compiles."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from muster_core.errors import PolicyError as PolicyError

Status = Literal["pass", "fail", "warn", "error", "skip"]
Action = Literal["deny", "warn", "audit"]


class Verdict(NamedTuple):
    """``object`` like ``apps/v1/Deployment shop/web``, ``path`` like ``spec.template.metadata.labels.team``."""

    status: Status
    policy: str
    rule: str
    object: str
    path: str
    message: str
    action: Action


class Context(NamedTuple):
    """Everything that evaluation may look at; it was fetched before, so that evaluation is pure."""

    obj: Mapping[str, Any]
    old: Mapping[str, Any] | None = None
    operation: Literal["CREATE", "UPDATE"] = "CREATE"
    namespace_labels: Mapping[str, str] = {}
    user: str = "muster"
    name: str = ""  # how verdicts name the object, printed once for all rules


class CompiledRule(NamedTuple):
    """``kinds`` are lower-case kinds for the index, empty for any; ``needs`` names what must be fetched before."""

    policy: str
    rule: str
    kinds: frozenset[str]
    needs: frozenset[str]
    evaluate: Callable[[Context], Verdict | None]


def blocked(verdicts: tuple[Verdict, ...] | list[Verdict]) -> tuple[Verdict, ...]:
    """Those that forbid: a failed rule that denies, and every rule that could not be judged. Error is not pass."""
    return tuple(v for v in verdicts if v.status == "error" or (v.status == "fail" and v.action == "deny"))
