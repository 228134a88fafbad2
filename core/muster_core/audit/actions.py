"""The one table of what may be written into an audit log.

Owns the actions and, for each, the names of its details. What is not named here cannot be written, so no free text of an
error, no value of a secret and no plain hash of one gets in by accident: digests named here are of public things (trees,
commits) or keyed. It never knows who writes.
"""

from __future__ import annotations

from collections.abc import Mapping

from muster_core.errors import ValidationError

MAX_DETAIL_BYTES = 1024
MAX_NAME_BYTES = 256

RESULTS = frozenset({"ok", "refused", "failed", "denied"})
"""``refused``: Muster's own rules said no. ``denied``: the credential did not suffice. ``failed``: it was tried."""

_RELEASE = ("bundle", "commit", "tree")
_WHO = ("role", "how")
_LOG = frozenset({"first", "last", "head", "bytes", "acknowledged", "reason"})

ACTIONS: Mapping[str, frozenset[str]] = {
    # the log itself
    "log-started": frozenset({"version"}),
    "log-torn": _LOG,
    "log-broken": _LOG,
    "log-dropped": _LOG,
    # an agent
    "refusal": frozenset({"code", "rollout", "attempt", *_RELEASE}),
    "denial": frozenset({"code", "policy", "rule", *_RELEASE}),
    "secret-opened": frozenset(
        {"code", "file", "generation", "revision", "namespace", "recipient", *_RELEASE}
    ),
    "apply": frozenset({"code", "rollout", "attempt", "applied", "pruned", *_RELEASE}),
    "heal": frozenset({"code", "corrected", *_RELEASE}),
    "return": frozenset({"code", "rollout", "attempt", "from", *_RELEASE}),
    "join": frozenset({"code", "identity", "mode", "trust", "edge"}),
    "renewal": frozenset({"code", "counter", "serial", "until"}),
    "floor-regressed": frozenset({"code", "repository", "floor", "reported"}),
    "floor-acknowledged": frozenset({"code", "repository", "floor", "by"}),
    "trust-changed": frozenset({"code", "from", "to", "trust"}),
    "suspend": frozenset({"bundle", "reason", "by"}),
    "resume": frozenset({"bundle", "reason", "by"}),
    # the coordinator
    "call": frozenset(
        {
            "code",
            *_WHO,
            "rollout",
            "cluster",
            "bundle",
            "commit",
            "plan",
            "reason",
            "verb",
            "selector",
            "until",
        }
    ),
    "approval": frozenset({"code", *_WHO, "rollout", "wave", "reason", "commit", "identity"}),
    "token-created": frozenset({"code", *_WHO, "cluster", "until"}),
    "token-used": frozenset({"code", "cluster", "identity"}),
    "certificate-issued": frozenset({"code", "identity", "serial", "granted", "until", *_WHO}),
    "certificate-revoked": frozenset({"code", "serial", "reason", *_WHO}),
    "registry-changed": frozenset({"how", "commit", "identity"}),
    "clone-alarm": frozenset({"code", "identity", "counter", "known"}),
    "head-alarm": frozenset({"code", "known", "told", "known_hash", "told_hash"}),
    "head-acknowledged": frozenset({*_WHO, "known", "told", "known_hash", "told_hash", "reason"}),
    "database-alarm": frozenset({"code", "known", "told"}),
    "database-rebuilt": frozenset(),
    "checkpoint": frozenset({"code", *_WHO, "writers", "commit"}),
}


def check(action: str, result: str, names: tuple[str, ...], detail: Mapping[str, str]) -> None:
    """``MUSTER-V060`` for an action, a result, a detail or a length that the table does not allow.

    ``names`` are writer, actor and object. Lengths are of UTF-8, in bytes.
    """
    allowed = ACTIONS.get(action)
    if allowed is None:
        raise ValidationError("V060", "there is no such action in an audit log", object=action)
    if result not in RESULTS:
        raise ValidationError("V060", "there is no such result in an audit log", object=result)
    if unknown := sorted(set(detail) - allowed):
        raise ValidationError(
            "V060", "this detail must not be written into an audit log", object=f"{action}.{unknown[0]}"
        )
    for key, value in detail.items():
        if size(value) > MAX_DETAIL_BYTES:
            raise ValidationError("V060", "a detail is too long for an audit log", object=f"{action}.{key}")
    if any(size(name) > MAX_NAME_BYTES for name in names):
        raise ValidationError("V060", "a name is too long for an audit log", object=action)


def size(text: str) -> int:
    """Bytes of UTF-8; a text that is none counts as too long."""
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return MAX_DETAIL_BYTES + 1


def clip(text: str, limit: int = MAX_DETAIL_BYTES) -> str:
    """The text, valid as UTF-8 and within ``limit`` bytes; what was cut ends in an ellipsis."""
    data = text.encode(errors="replace")
    if len(data) <= limit:
        return data.decode()
    return data[: limit - 3].decode(errors="ignore") + "…"
