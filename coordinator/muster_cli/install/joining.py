"""One cluster joins: apply, compare, approve, wait.

Owns the order of the steps and the one decision in them: a join is approved only if UID and keys read from the spoke's own
API equal it. Every step looks at what is there first, so that a run that was cut off is finished by the next one, and a
run after that changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import anyio
from muster_core.errors import JoinError, MusterError
from muster_core.kinds.model import Cluster
from muster_core.sealing.keys import encode_identity, fingerprint

from muster_cli.errors import UnreachableError
from muster_cli.install.desk import Desk
from muster_cli.install.manifest import Installation, base_objects, render
from muster_cli.install.spoke import Applied, Keys, Spoke

if TYPE_CHECKING:
    from muster_agent.cluster.port import ClusterApi
    from muster_proto.v1 import operator_pb2 as op

T = TypeVar("T")
Say = Callable[[str, str], None]
STEP = 0.5


@dataclass(frozen=True, slots=True)
class Wanted:
    """One cluster to be. ``git_ca`` is PEM text or empty."""

    name: str
    image: str
    namespace: str
    git_ca: str = ""


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: for everything together, and how long other keys than the spoke's may stand at the hub.

    An agent that lost its state publishes new keys a moment before the hub hears of them.
    """

    whole: float = 300.0
    other_keys: float = 10.0


@dataclass(frozen=True, slots=True)
class Joined:
    """What an installation came to."""

    cluster: str
    uid: str
    applied: Applied
    approved: bool
    seconds: float


async def join_cluster(
    api: ClusterApi, desk: Desk, wanted: Wanted, say: Say, patience: Patience = Patience()
) -> Joined:
    """Until the agent is online. ``MUSTER-J050`` when time is up, ``J051`` when another one than the spoke asks."""
    started, spoke = time.monotonic(), Spoke(api, wanted.namespace)
    way = _Way(desk, spoke, wanted, say, patience)
    try:
        with anyio.fail_after(patience.whole):
            uid, applied, approved = await way.go()
    except TimeoutError as error:
        raise UnreachableError(
            "J050",
            f"not joined within {patience.whole:g} s, waiting for {way.waits_for}",
            object=wanted.name,
            retryable=True,
            hint="Look at the agent's log, then run the same again: it goes on where this ended.",
        ) from error
    return Joined(wanted.name, uid, applied, approved, time.monotonic() - started)


class _Way:
    def __init__(self, desk: Desk, spoke: Spoke, wanted: Wanted, say: Say, patience: Patience) -> None:
        self._desk, self._spoke, self._wanted = desk, spoke, wanted
        self._say, self._patience = say, patience
        self.waits_for = "the cluster's API"

    async def go(self) -> tuple[str, Applied, bool]:
        desk, name = self._desk, self._wanted.name
        uid = await self._answer(self._spoke.uid)
        entry = await desk.entry_of(name, uid)
        applied = await self._spoke.apply(await self._objects(uid, entry))
        self._say(name, f"applied: {applied}")
        approved = entry is None
        if entry is None:
            join, keys = await self._matching_join(uid)
            commit = await desk.approve(name, join)
            self._say(name, f"approved: identity {fingerprint(keys.identity)} (registry {commit[:7]})")
        else:
            await self._until(lambda: self._same_as_entry(entry), "the agent's keys in its own cluster")
        view = await self._until(lambda: self._online(uid), "the agent's first report")
        self._say(name, f"online: {view.kubernetes_version or 'reports'}")
        return uid, applied, approved

    async def _objects(self, uid: str, entry: Cluster | None) -> list[dict[str, object]]:
        """The agent's objects. The token is fresh unless the right agent has used the one that is there."""
        token = ""
        keys = await self._spoke.keys()
        if keys is not None and await self._is_known(keys, uid, entry):
            token = await self._spoke.token()
        if not token:
            token = await self._desk.mint(self._wanted.name)
        wanted = self._wanted
        return render(
            base_objects(),
            Installation(wanted.name, token, wanted.image, wanted.namespace, wanted.git_ca),
        )

    async def _is_known(self, keys: Keys, uid: str, entry: Cluster | None) -> bool:
        if entry is not None:
            return entry.spec.identity_key == encode_identity(keys.identity)
        join = await self._desk.join_of(self._wanted.name)
        return join is not None and _differences(join, uid, keys) == []

    async def _matching_join(self, uid: str) -> tuple[op.Join, Keys]:
        """The pending join, once it equals what the spoke says of itself."""
        differs_since: list[float] = []

        async def look() -> tuple[op.Join, Keys] | None:
            keys, join = await self._spoke.keys(), await self._desk.join_of(self._wanted.name)
            if keys is None or join is None:
                self.waits_for = "the agent's keys in its own cluster" if keys is None else "its join"
                return None
            differences = _differences(join, uid, keys)
            if not differences:
                return join, keys
            self._refuse_later(differs_since, "the join at the coordinator is", differences)
            return None

        return await self._until(look, "the agent to start and ask")

    async def _same_as_entry(self, entry: Cluster) -> bool | None:
        keys = await self._spoke.keys()
        if keys is None:
            return None
        if entry.spec.identity_key == encode_identity(keys.identity):
            return True
        raise JoinError(
            "J052",
            "the registry has this cluster with another identity key than its agent",
            object=self._wanted.name,
            hint=f"If the agent lost its state, remove clusters/{self._wanted.name}.yaml from the registry; run this again.",
        )

    def _refuse_later(self, since: list[float], what: str, differences: list[str]) -> None:
        now = time.monotonic()
        if not since:
            since.append(now)
        elif now - since[0] >= self._patience.other_keys:
            raise JoinError(
                "J051",
                f"{what} not that of this cluster: other {', '.join(differences)}",
                object=self._wanted.name,
                hint="It is not approved: somebody else may have asked with a stolen token. Look who that is.",
            )

    async def _online(self, uid: str) -> op.ClusterView | None:
        view = await self._desk.view_of(self._wanted.name)
        return view if view is not None and view.state == "Online" and view.uid in ("", uid) else None

    async def _answer(self, what: Callable[[], Awaitable[T]]) -> T:
        """The first answer of an API server that may not be up yet."""
        while True:
            try:
                return await what()
            except MusterError as error:
                if not error.retryable:
                    raise
                self.waits_for = f"the cluster's API ({error.message})"
            await anyio.sleep(STEP)

    async def _until(self, look: Callable[[], Awaitable[T | None]], what: str) -> T:
        """Looks again and again; a line that is down for a moment is waited for."""
        self.waits_for = what
        while True:
            try:
                found = await look()
            except MusterError as error:
                if not error.retryable:
                    raise
                self.waits_for = f"{what} ({error.message})"
            else:
                if found is not None:
                    return found
            await anyio.sleep(STEP)


def _differences(join: op.Join, uid: str, keys: Keys) -> list[str]:
    """What in a join is not as the spoke says; no differences, no doubt."""
    pairs = {
        "cluster UID": (join.uid, uid),
        "identity key": (join.identity_key, keys.identity),
        "sealing key": (join.sealing_key, keys.sealing),
        "sealing key generation": (join.sealing_generation, keys.generation),
    }
    return [what for what, (theirs, ours) in pairs.items() if theirs != ours]
