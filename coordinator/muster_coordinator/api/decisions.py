"""What people decide about a rollout, from the wire to the machine's orders.

Owns which request makes which order. Whether the caller may is the access table's to say, whether it applies the machine's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from muster_core.errors import ValidationError
from muster_core.rollout import events as ev
from muster_proto.v1 import operator_pb2 as op

Action = op.ActOnRolloutRequest

ACTIONS: Mapping[int, Callable[[str, str], ev.Command]] = {
    Action.PAUSE: ev.Pause,
    Action.RESUME: ev.Resume,
    Action.ABORT: ev.Abort,
    Action.APPROVE: ev.Approve,
    Action.REJECT: ev.Reject,
    Action.PROMOTE: ev.Promote,
    Action.RETRY: ev.Retry,
    Action.SKIP: lambda by, reason: ev.Skip("", by, reason),
}
"""Every action, by what it makes of (who, why)."""


def order(request: op.ActOnRolloutRequest, by: str) -> ev.Command:
    """``MUSTER-L081`` for clusters where none belong, or not one where one does."""
    given, names = ACTIONS[request.action](by, request.reason), tuple(request.clusters)
    match given:
        case ev.Retry():
            return given._replace(clusters=names)
        case ev.Skip():
            if len(names) != 1:
                raise ValidationError("L081", f"one cluster is skipped at a time, and {len(names)} are named")
            return given._replace(cluster=names[0])
        case _ if names:
            raise ValidationError(
                "L081",
                "this is about the rollout as a whole, and clusters are named",
                object=", ".join(names[:5]),
            )
        case _:
            return given
