"""Which version of a bundle's secrets is opened.

Owns two rules of DESIGN §6 and §7. Recipient lines are those of the newest accepted head where it has the very
same file, so that a re-wrap reaches a cluster without a release. And a secret never goes back: where the release
has an older version than one that was applied here, the version that was applied is opened instead, and it is told
as kept. It opens nothing itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec
from muster_core.errors import SecretError
from muster_core.fleet import FleetContents
from muster_core.kinds.model import FleetSecret

from muster_agent.state.records import SecretPlace

ContentsAt = Callable[[str], Awaitable[FleetContents]]


class Chosen(NamedTuple):
    """The files to open, where each was found, and (namespace/name) of those that were kept from going back."""

    secrets: tuple[FleetSecret, ...]
    places: Mapping[str, SecretPlace]
    kept: tuple[str, ...]


def _version(secret: FleetSecret) -> tuple[int, int]:
    return secret.spec.key_generation, secret.spec.revision


def _same(one: FleetSecret, other: FleetSecret) -> bool:
    return (one.spec.file_id, *_version(one), one.spec.mac) == (
        other.spec.file_id,
        *_version(other),
        other.spec.mac,
    )


async def choose(
    secrets: Sequence[FleetSecret],
    commit: str,
    head: FleetContents | None,
    floors: Mapping[str, SecretPlace],
    contents_at: ContentsAt,
) -> Chosen:
    """For a release's files at ``commit``; ``contents_at`` reads an older commit that is kept by the floor."""
    chosen, places, kept = list[FleetSecret](), dict[str, SecretPlace](), list[str]()
    for secret in secrets:
        place = SecretPlace(*_version(secret), commit)
        known = floors.get(secret.spec.file_id)
        if known and _version(secret) < (known.key_generation, known.revision):
            older = secret
            secret, place = _find(await contents_at(known.commit), secret), known
            kept.append(f"{older.metadata.namespace}/{older.metadata.name}")
        chosen.append(_with_newest_recipients(secret, head))
        places[secret.spec.file_id] = place
    return Chosen(tuple(chosen), places, tuple(kept))


def _find(contents: FleetContents, wanted: FleetSecret) -> FleetSecret:
    for secret in contents.secrets.values():
        if secret.spec.file_id == wanted.spec.file_id:
            return secret
    raise SecretError(
        "S030",
        "the version of the secret that was applied here cannot be found any more",
        object=f"{wanted.metadata.namespace}/{wanted.metadata.name}",
        retryable=True,
    )


def _with_newest_recipients(secret: FleetSecret, head: FleetContents | None) -> FleetSecret:
    for known in head.secrets.values() if head else ():
        if _same(known, secret):
            return msgspec.structs.replace(
                secret, spec=msgspec.structs.replace(secret.spec, recipients=known.spec.recipients)
            )
    return secret
