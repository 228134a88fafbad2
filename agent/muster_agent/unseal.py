"""Secrets, opened as late as can be.

Owns turning a FleetSecret into a Kubernetes Secret, and that every opening is witnessed. Plaintext is masked until
the object is built; it is never logged and never written to disk.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

import structlog
from muster_core.errors import SecretError
from muster_core.kinds.model import FleetSecret
from muster_core.manifest.objects import Manifest
from muster_core.release import Release
from muster_core.sealing.envelope import open_secret
from muster_core.sealing.keys import SealingKey

from muster_agent.witness import Witness

log = structlog.get_logger()


def unseal(
    secrets: Sequence[FleetSecret],
    *,
    fleet_id: str,
    uid: str,
    keys: Sequence[SealingKey],
    release: Release,
    witness: Witness,
) -> list[Manifest]:
    """The bundle's Secrets; raises :class:`muster_core.errors.SecretError` for the first that does not open."""
    opened = []
    for secret in secrets:
        try:
            plain = open_secret(secret, fleet_id=fleet_id, uid=uid, keys=keys)
        except SecretError as error:
            witness.unopened(secret, release, error.code)
            raise
        witness.opened(secret, release)
        log.info(
            "secret opened",
            bundle=release.bundle,
            secret=f"{plain.namespace}/{plain.name}",
            file_id=secret.spec.file_id,
            key_generation=secret.spec.key_generation,
            revision=secret.spec.revision,
            entries=sorted(plain.data),
        )
        metadata: Manifest = {"name": plain.name, "namespace": plain.namespace}
        if plain.labels:
            metadata["labels"] = dict(plain.labels)
        if plain.annotations:
            metadata["annotations"] = dict(plain.annotations)
        obj: Manifest = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": metadata,
            "type": plain.type,
            "data": {name: base64.b64encode(value.reveal()).decode() for name, value in plain.data.items()},
        }
        if plain.immutable:
            obj["immutable"] = True
        opened.append(obj)
    return opened
