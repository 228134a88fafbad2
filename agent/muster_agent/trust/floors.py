"""The newest commits that this cluster has accepted, which never sink.

Owns where floors are kept: the state folder, a Secret of the agent's namespace, and the bundles' parent objects, so that
losing one of them gains nobody anything. A floor is on disk and mirrored before anything of it is applied. It never
judges a commit.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping

import msgspec
import structlog
from muster_core.apply.applyset import SET_ID, parent_name
from muster_core.errors import KubernetesError, TrustError
from muster_core.manifest.objects import Manifest, ObjectRef
from muster_core.trust.directive import SequencePlace

from muster_agent.cluster.home import apply_at_home
from muster_agent.cluster.port import ClusterApi
from muster_agent.source.repository import SourceRepository
from muster_agent.state.port import StatePort
from muster_agent.state.records import Floors, SecretPlace

log = structlog.get_logger()

SECRET = "muster-floors"  # noqa: S105 - a name
KEY = "floors.json"
COMMIT = "commit"


class FloorKeeper:
    """``namespace`` is the agent's own."""

    def __init__(self, state: StatePort, source: SourceRepository, api: ClusterApi, namespace: str) -> None:
        self._state, self._source, self._api, self._namespace = state, source, api, namespace
        self.floors = state.get("floors", Floors) or Floors()
        self._mirrored: Floors | None = None

    async def load(self) -> None:
        """The newest of what the state folder, the Secret and the parents say; what is behind is mended.

        Raises ``K001`` when the API server does not answer: nobody knows then what was lost.
        """
        own, mirror = self.floors, _decoded(await self._api.get(self._secret()))
        branches, bundles, directives = dict(own.branches), dict(own.bundles), dict(own.directives)
        for name, commit in mirror.branches.items():
            branches[name] = await self._newer(branches.get(name, ""), commit)
        for name, commit in [*mirror.bundles.items(), *(await self._parents()).items()]:
            bundles[name] = await self._newer(bundles.get(name, ""), commit)
        for name, place in mirror.directives.items():
            if place.sequence > directives.get(name, SequencePlace()).sequence:
                directives[name] = place
        secrets = dict(own.secrets)
        for file_id, found in mirror.secrets.items():
            if file_id not in secrets or _version(found) > _version(secrets[file_id]):
                secrets[file_id] = found
        self.floors = Floors(branches, bundles, directives, own.regressed or mirror.regressed, secrets)
        self._mirrored = mirror
        if self.floors != own:
            log.warning("the floors of the state folder were behind and are mended", branches=branches)
            self._state.put("floors", self.floors)

    async def _parents(self) -> dict[str, str]:
        resource, found = await self._api.resource("v1", "ConfigMap"), dict[str, str]()
        prefix = parent_name("")
        async for page in self._api.pages(resource, SET_ID):
            for obj in page.items:
                name, commit = obj["metadata"]["name"], (obj.get("data") or {}).get(COMMIT)
                if commit and name.startswith(prefix) and obj["metadata"].get("namespace") == self._namespace:
                    found[name.removeprefix(prefix)] = str(commit)
        return found

    async def _newer(self, one: str, other: str) -> str:
        """Of two commits the one that descends from the other; one that is not here yet counts as newer."""
        if not one or not other or one == other:
            return one or other
        if not await self._source.has(other):
            return other
        if not await self._source.has(one) or await self._source.descends(one, other):
            return one
        return other

    async def raise_branch(self, name: str, commit: str) -> None:
        """On disk when this returns; mirrored as soon as the API server takes it, and before any bundle's floor."""
        self._put(msgspec.structs.replace(self.floors, branches={**self.floors.branches, name: commit}))
        await self._state.durable()
        try:
            await self.mirror()
        except KubernetesError as error:
            log.warning("the floor is not mirrored yet", error=str(error))

    async def raise_bundle(
        self,
        bundle: str,
        commit: str,
        place: SequencePlace | None,
        secrets: Mapping[str, SecretPlace],
    ) -> None:
        """On disk and mirrored when this returns; raises what keeps it from being so.

        A directive may take a bundle back to an older commit; its floor stays where it was.
        """
        floor = self.floors.bundles.get(bundle, "")
        if floor and not await self._source.descends(commit, floor):
            commit = floor
        directives = {**self.floors.directives, bundle: place} if place else self.floors.directives
        newest = {**self.floors.secrets, **{i: p for i, p in secrets.items() if self._is_newer(i, p)}}
        bundles = {**self.floors.bundles, bundle: commit}
        self._put(
            msgspec.structs.replace(self.floors, bundles=bundles, directives=directives, secrets=newest)
        )
        await self._state.durable()
        await self.mirror()

    def _is_newer(self, file_id: str, place: SecretPlace) -> bool:
        known = self.floors.secrets.get(file_id)
        return known is None or _version(place) > _version(known)

    def regressed(self, commit: str) -> None:
        """The coordinator had a newer floor from this cluster than there is here: a backup was restored, or it lies."""
        if not self.floors.regressed:
            self._put(msgspec.structs.replace(self.floors, regressed=commit))

    def acknowledged(self, commit: str) -> None:
        """An operator has seen it."""
        if commit and commit == self.floors.regressed:
            self._put(msgspec.structs.replace(self.floors, regressed=""))

    def require_whole(self) -> None:
        """``MUSTER-T015`` while a regressed floor is not acknowledged."""
        if self.floors.regressed:
            raise TrustError(
                "T015",
                "floor-regressed: this cluster had accepted a newer commit before its state was lost or restored",
                object=self.floors.regressed[:12],
                hint="If that is known: muster cluster acknowledge NAME. Nothing new is taken before.",
            )

    def _put(self, floors: Floors) -> None:
        if floors != self.floors:
            self._state.put("floors", floors)
            self.floors = floors

    async def mirror(self) -> None:
        """Writes the Secret, if it does not say the same already."""
        if self._mirrored == self.floors:
            return
        data = base64.b64encode(msgspec.json.encode(self.floors)).decode()
        ref = self._secret()
        await apply_at_home(
            self._api,
            {
                "apiVersion": ref.api_version,
                "kind": ref.kind,
                "metadata": {"name": ref.name, "namespace": ref.namespace},
                "type": "Opaque",
                "data": {KEY: data},
            },
        )
        self._mirrored = self.floors

    def _secret(self) -> ObjectRef:
        return ObjectRef("v1", "Secret", self._namespace, SECRET)


def _version(place: SecretPlace) -> tuple[int, int]:
    return place.key_generation, place.revision


def _decoded(secret: Manifest | None) -> Floors:
    """What the Secret says; one that cannot be read says nothing, and the log says so."""
    data = ((secret or {}).get("data") or {}).get(KEY)
    if not data:
        return Floors()
    try:
        return msgspec.json.decode(base64.b64decode(data, validate=True), type=Floors)
    except (binascii.Error, ValueError, TypeError, msgspec.MsgspecError) as error:
        log.warning("the mirrored floors cannot be read", secret=SECRET, error=str(error))
        return Floors()
