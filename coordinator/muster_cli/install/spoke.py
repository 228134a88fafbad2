"""The spoke's side of an installation: applying the agent's objects, and reading what only the spoke can say.

Owns every request to the spoke's API. UID and public keys read here come from the cluster itself, not from the hub. It
never approves and keeps nothing.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from muster_core.errors import KubernetesError, SecretError
from muster_core.manifest.objects import Manifest, ObjectRef, ref_of
from muster_core.sealing.keys import decode_public

from muster_cli.install.manifest import TOKEN_SECRET

if TYPE_CHECKING:
    from muster_agent.cluster.port import ClusterApi

IDENTITY = "muster-agent-identity"


@dataclass(frozen=True, slots=True)
class Keys:
    """The agent's public keys as its own cluster has them."""

    identity: bytes
    sealing: bytes
    generation: int


@dataclass(frozen=True, slots=True)
class Applied:
    """How many objects were created, changed, or already so."""

    created: int = 0
    configured: int = 0
    unchanged: int = 0

    def __str__(self) -> str:
        counts = {"created": self.created, "configured": self.configured, "unchanged": self.unchanged}
        return ", ".join(f"{count} {what}" for what, count in counts.items() if count)


class Spoke:
    """``namespace`` is the agent's."""

    def __init__(self, api: ClusterApi, namespace: str) -> None:
        self._api, self._namespace = api, namespace

    async def uid(self) -> str:
        return await self._api.uid()

    async def token(self) -> str:
        """The join token that the agent has now, or an empty text."""
        secret = await self._api.get(ObjectRef("v1", "Secret", self._namespace, TOKEN_SECRET))
        try:
            return base64.b64decode(((secret or {}).get("data") or {}).get("token", "")).decode()
        except (binascii.Error, UnicodeDecodeError):
            return ""

    async def keys(self) -> Keys | None:
        """What the agent published, or None before it did. ``MUSTER-K054`` when it is no set of keys."""
        found = await self._api.get(ObjectRef("v1", "ConfigMap", self._namespace, IDENTITY))
        if found is None:
            return None
        data = found.get("data") or {}
        try:
            return Keys(
                decode_public(data["identityKey"]),
                decode_public(data["sealingKey"]),
                int(data["sealingGeneration"]),
            )
        except (KeyError, ValueError, SecretError) as error:
            raise KubernetesError(
                "K054",
                f"the agent's public keys cannot be read ({error})",
                object=f"ConfigMap {self._namespace}/{IDENTITY}",
                hint="Delete it: the agent writes it again when it starts.",
            ) from error

    async def apply(self, objects: Sequence[Manifest]) -> Applied:
        """Server-side apply in the order given; nothing is written where nothing differs."""
        counts = {"created": 0, "configured": 0, "unchanged": 0}
        for obj in objects:
            before = await self._api.get(ref_of(obj))
            after = await self._api.apply(obj, force=True)
            if before is None:
                counts["created"] += 1
            elif _asked_for(before) == _asked_for(after):
                counts["unchanged"] += 1
            else:
                counts["configured"] += 1
        return Applied(**counts)


def _asked_for(obj: Manifest) -> Manifest:
    """An object without what controllers and the server write on their own."""
    metadata = {k: v for k, v in obj["metadata"].items() if k not in ("resourceVersion", "managedFields")}
    return {**{k: v for k, v in obj.items() if k != "status"}, "metadata": metadata}
