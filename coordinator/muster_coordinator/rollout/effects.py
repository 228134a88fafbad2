"""What one batch of inputs leads to, gathered while the machines decide.

Owns the list of what is made durable, sent, told and answered. Nothing of it is done before the batch is durable.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from muster_proto.v1 import link_pb2 as wire

from muster_coordinator.store.port import Batch


@dataclass(slots=True)
class Effects:
    """What is done after the batch is durable. A frame belongs to the one cluster that it is for.

    ``heads`` are frames that can wait: they go out after ``sends``. ``ended`` has the bundles of which a
    rollout has ended. ``read``: a new reading of the repository was told to everybody in contact. ``notices``: the log of
    notifications grew. Seconds are of the transaction, and from the batch's beginning to the last frame handed over.
    """

    batch: Batch = field(default_factory=Batch)
    sends: list[tuple[str, wire.HubFrame]] = field(default_factory=list)
    heads: list[tuple[str, wire.HubFrame]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    clusters: set[str] = field(default_factory=set)
    rollouts: set[str] = field(default_factory=set)
    bundles: set[str] = field(default_factory=set)
    acks: dict[str, int] = field(default_factory=dict)
    replies: list[Callable[[], None]] = field(default_factory=list)
    ended: set[str] = field(default_factory=set)
    read: bool = False
    notices: bool = False
    commit_seconds: float = 0.0
    taken_seconds: float = 0.0


Work = Callable[[Effects, float], None]
