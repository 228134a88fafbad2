"""What the cluster looks like now, kept by watches.

Owns one watch per kind with the part-of label, a cache of digests (no objects are kept), health per object, and the wake-up
of whoever cares for a bundle. Nothing is asked of the API server while nothing changes. It never writes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import anyio
import anyio.lowlevel
import structlog
from anyio.abc import TaskGroup
from muster_core.apply.applyset import MANAGER, PART_OF, part_of
from muster_core.apply.owned import owned_digest
from muster_core.apply.plan import Live
from muster_core.errors import KubernetesError
from muster_core.health import Health, health
from muster_core.manifest.objects import Manifest, ObjectRef, ref_of
from muster_core.session.backoff import Backoff

from muster_agent.cluster.port import ClusterApi

log = structlog.get_logger()

LIST_WAIT = 60.0
SHORT_WATCH = 5.0
BLIND_AFTER = 10.0  # a watch that broke is nearly always back by then


class Seen(NamedTuple):
    """One object: digests and health instead of the object."""

    live: Live
    health: Health


@dataclass(slots=True)
class _Kind:
    listed: anyio.Event = field(default_factory=anyio.Event)
    answered: anyio.Event = field(default_factory=anyio.Event)  # listed, or told that it may not be
    refs: set[ObjectRef] = field(default_factory=set)
    version: int = 0  # everything up to here was seen
    error: KubernetesError | None = None
    broken_at: float | None = None
    blind: bool = False


def _live(obj: Manifest) -> Live:
    return Live(str(obj["metadata"].get("uid", "")), part_of(obj), owned_digest(obj, MANAGER))


def _number(version: object) -> int:
    """Versions of one server rise with every write; of one that counts otherwise, nothing counts as seen."""
    text = str(version or "")
    return int(text) if text.isascii() and text.isdigit() else 0


class Observer:
    """``changed(set_id)`` is called for every event that changes a digest or a health; ``uniform`` gives jitter."""

    def __init__(
        self, api: ClusterApi, changed: Callable[[str], None], uniform: Callable[[float, float], float]
    ) -> None:
        self._api, self._changed, self._uniform = api, changed, uniform
        self._kinds: dict[tuple[str, str], _Kind] = {}
        self._group: TaskGroup | None = None
        self.seen: dict[ObjectRef, Seen] = {}
        self._sets: dict[str, dict[ObjectRef, Live]] = {}
        self._moves: dict[str, int] = {}
        self._shared = 0

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Holds the watches until cancelled."""
        async with anyio.create_task_group() as group:
            self._group = group
            task_status.started()
            await anyio.sleep_forever()

    async def watch(self, kinds: set[tuple[str, str]]) -> dict[tuple[str, str], KubernetesError]:
        """Returns when each of these kinds was listed once and is seen still; raises what is in the way of one of them.

        The kinds that this agent may not see are returned, each with what the server says (K003).
        """
        forbidden: dict[tuple[str, str], KubernetesError] = {}
        if self._group is None:
            raise RuntimeError("the observer does not run")
        for kind in kinds - self._kinds.keys():
            self._kinds[kind] = _Kind()
            self._group.start_soon(self._follow, *kind)
        for kind in kinds:
            state = self._kinds[kind]
            with anyio.move_on_after(LIST_WAIT):
                await state.answered.wait()
            if state.error and state.error.code == "K003":
                forbidden[kind] = state.error
                continue
            if not state.listed.is_set():
                raise state.error or KubernetesError(
                    "K001", "the kind could not be listed", object=kind[1], retryable=True
                )
            if state.blind and state.error:
                raise state.error
        return forbidden

    def members(self, set_id: str) -> dict[ObjectRef, Live]:
        """The live objects of one set."""
        return dict(self._sets.get(set_id, {}))

    def moves(self, set_id: str) -> int:
        """Rises with every change of what is seen of a set, and of Namespaces, which sets share."""
        return self._moves.get(set_id, 0) + self._shared

    def note(self, obj: Manifest) -> Live:
        """Takes in what a write answered, if its event did not come before: what came after that must not be undone.

        Gives what the answer itself says.
        """
        ref = ref_of(obj)
        state = self._kinds.get((ref.api_version, ref.kind))
        if state is None or _number(obj["metadata"].get("resourceVersion")) > state.version:
            self._take(obj)
        return _live(obj)

    def forget(self, ref: ObjectRef) -> None:
        before = self.seen.pop(ref, None)
        if before:
            self._count(ref, before.live.part_of, None)

    async def _follow(self, api_version: str, kind: str) -> None:
        """Lists and watches for ever; a watch that broke, expired or fell silent lists anew, with back-off."""
        state, backoff = self._kinds[api_version, kind], Backoff(self._uniform, 0.2, 30.0, 10.0)
        while True:
            started = anyio.current_time()
            try:
                resource = await self._api.resource(api_version, kind)
                version = await self._list(api_version, kind, state)
                state.version = _number(version)
                while True:
                    opened = anyio.current_time()
                    async for event in self._api.watch(resource, PART_OF, version):
                        version = str(event.object["metadata"].get("resourceVersion", version))
                        if event.type == "DELETED":
                            self._gone(ref_of(event.object), state)
                        elif event.type != "BOOKMARK":
                            self._take(event.object)
                            state.refs.add(ref_of(event.object))
                        state.version = _number(version)
                    lasted = anyio.current_time() - opened
                    backoff.connected_for(lasted)
                    if (
                        lasted < SHORT_WATCH
                    ):  # a server that ends every watch at once is not asked in a hot loop
                        await anyio.sleep(backoff.next_delay())
            except KubernetesError as error:
                state.error = error
                if error.code == "K003":
                    state.answered.set()
                if error.code == "K004":  # without its kind no object is left
                    for ref in list(state.refs):
                        self._gone(ref, state)
                else:
                    self._broken(state)
                log.debug("watch starts anew", kind=kind, error=str(error))
            backoff.connected_for(anyio.current_time() - started)
            await anyio.sleep(backoff.next_delay())

    async def _list(self, api_version: str, kind: str, state: _Kind) -> str:
        resource = await self._api.resource(api_version, kind)
        found: set[ObjectRef] = set()
        version = ""
        async for page in self._api.pages(resource, PART_OF):
            for obj in page.items:
                self._take(obj)
                found.add(ref_of(obj))
            version = page.resource_version
            await anyio.lowlevel.checkpoint()
        for ref in state.refs - found:
            self._gone(ref, state)
        state.refs, state.error, state.broken_at = found, None, None
        state.listed.set()
        state.answered.set()
        if state.blind:
            state.blind = False
            self._wake(state)
        return version

    def _broken(self, state: _Kind) -> None:
        """What was seen is not what is there any more when it lasts: the bundles that have objects of the kind must know."""
        now = anyio.current_time()
        state.broken_at = now if state.broken_at is None else state.broken_at
        if not state.blind and state.listed.is_set() and now - state.broken_at >= BLIND_AFTER:
            state.blind = True
            self._wake(state)

    def _wake(self, state: _Kind) -> None:
        for owner in {self.seen[ref].live.part_of for ref in state.refs if ref in self.seen} - {""}:
            self._changed(owner)

    def _take(self, obj: Manifest) -> None:
        ref = ref_of(obj)
        live = _live(obj)
        seen, before = Seen(live, health(obj)), self.seen.get(ref)
        if before == seen:
            return
        self.seen[ref] = seen
        for owner in {live.part_of, before.live.part_of if before else ""} - {""}:
            self._count(ref, owner, live if owner == live.part_of else None)
            self._changed(owner)

    def _count(self, ref: ObjectRef, owner: str, live: Live | None) -> None:
        """Keeps the index of a set, and that something moved in it."""
        if not owner:
            return
        members = self._sets.setdefault(owner, {})
        if live is None:
            members.pop(ref, None)
        else:
            members[ref] = live
        self._moves[owner] = self._moves.get(owner, 0) + 1
        self._shared += ref.kind == "Namespace"

    def _gone(self, ref: ObjectRef, state: _Kind) -> None:
        state.refs.discard(ref)
        before = self.seen.pop(ref, None)
        if before:
            self._count(ref, before.live.part_of, None)
            self._changed(before.live.part_of)
