"""What a new reading of the registry approved, changed or took out, as entries of the audit log.

Owns the comparison of two readings. Who signed is not judged here: agents judge it, and Git keeps it under the commit
that is named.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from muster_core.kinds.model import Cluster
from muster_core.release import registry_digest
from muster_core.sealing.keys import encode_identity

from muster_coordinator.store.port import JoinRow

ACTOR = "registry"


class Known(NamedTuple):
    """An entry as it was: its identity key, and its digest (empty: not known, so nothing else can have changed)."""

    identity: str
    digest: str


class Noted(NamedTuple):
    """``action``, ``object`` and details for the log; the actor is :data:`ACTOR`."""

    action: str
    object: str
    detail: dict[str, str]


def read_before(clusters: Mapping[str, Cluster]) -> dict[str, Known]:
    """What the reading before said."""
    return {name: Known(entry.spec.identity_key, registry_digest(entry)) for name, entry in clusters.items()}


def certified(joins: Iterable[JoinRow | None]) -> dict[str, Known]:
    """After a start nothing was read before; who has a certificate was approved, and that was written down then."""
    return {join.cluster: Known(encode_identity(join.identity), "") for join in joins if join and join.issued}


def noted(before: Mapping[str, Known], after: Mapping[str, Cluster], commit: str) -> Iterator[Noted]:
    """An approval for each identity that is new under a name, ``registry-changed`` for all else that differs."""
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        detail = {"commit": commit}
        if new is None:
            if old is not None and old.digest:
                yield Noted("registry-changed", f"cluster/{name}", detail | {"how": "removed"})
            continue
        detail["identity"] = new.spec.identity_key
        if old is None or old.identity != new.spec.identity_key:
            yield Noted("approval", f"cluster/{name}", detail | {"how": "registry"})
        elif old.digest not in ("", registry_digest(new)):
            yield Noted("registry-changed", f"cluster/{name}", detail | {"how": "changed"})
