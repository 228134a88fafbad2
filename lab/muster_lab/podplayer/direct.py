"""Sets workload status inside the lab's server, with no pods in between.

Owns the timers and what is remembered of each workload. It writes through the server's own operations, so
watches and versions behave as for any controller. It never changes a spec.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from . import statuses
from .tags import Behaviour, of_pod

if TYPE_CHECKING:
    from muster_lab.kube.objects import Objects
    from muster_lab.kube.store import Change, ObjectKey, Record, ResourceKey

Obj = dict[str, Any]
PLAYED = {
    ("apps", "deployments"): "Deployment",
    ("apps", "statefulsets"): "StatefulSet",
    ("apps", "daemonsets"): "DaemonSet",
    ("batch", "jobs"): "Job",
}
STATUS = {
    "Deployment": statuses.deployment,
    "StatefulSet": statuses.stateful_set,
    "DaemonSet": statuses.daemon_set,
    "Job": statuses.job,
}
REVISION = "deployment.kubernetes.io/revision"


@dataclass(slots=True)
class Played:
    """One workload: which generation is being played, and the timers of its next scenes."""

    generation: int = 0
    template: str = ""
    revision: int = 0
    timers: list[asyncio.TimerHandle] = field(default_factory=list)

    def cancel(self) -> None:
        for timer in self.timers:
            timer.cancel()
        self.timers.clear()


class DirectPlayer:
    def __init__(self, objects: Objects, *, delay: float) -> None:
        self._objects = objects
        self._delay = delay
        self._played: dict[str, Played] = {}
        objects.store.listeners.append(self._changed)

    def stop(self) -> None:
        for played in self._played.values():
            played.cancel()

    def _changed(self, resource: ResourceKey, change: Change) -> None:
        if resource not in PLAYED:
            return
        if change.after is None:
            gone = self._played.pop(change.before.uid, None) if change.before else None
            if gone is not None:
                gone.cancel()
            return
        obj = change.after.load()
        generation = obj["metadata"].get("generation", 0)
        played = self._played.setdefault(change.after.uid, Played())
        if generation != played.generation and not obj["metadata"].get("deletionTimestamp"):
            self._begin(resource, change.after, obj, played)

    def _begin(self, resource: ResourceKey, record: Record, obj: Obj, played: Played) -> None:
        played.cancel()
        played.generation = obj["metadata"].get("generation", 0)
        template = json.dumps((obj.get("spec") or {}).get("template"), sort_keys=True)
        if template != played.template:
            played.template = template
            known = obj["metadata"].get("annotations") or {}
            played.revision = max(played.revision, int(known.get(REVISION, "0"))) + 1
        behaviour = of_pod(((obj.get("spec") or {}).get("template") or {}).get("spec") or {})
        self._after(played, min(0.02, self._delay), self._scene, resource, record, "progressing")
        if behaviour.ready:
            self._after(played, self._delay, self._scene, resource, record, "ready")
        else:
            deadline = (obj.get("spec") or {}).get("progressDeadlineSeconds", 600)
            self._after(played, float(deadline), self._scene, resource, record, "stuck")
        self._plan_crash(played, behaviour, resource, record)

    def _plan_crash(
        self, played: Played, behaviour: Behaviour, resource: ResourceKey, record: Record
    ) -> None:
        if behaviour.crash_after is not None:
            after = self._delay + behaviour.crash_after
            self._after(played, after, self._scene, resource, record, "crashed")

    def _after(self, played: Played, seconds: float, call: Callable[..., None], *args: Any) -> None:
        played.timers.append(asyncio.get_running_loop().call_later(seconds, call, *args))

    def _scene(self, resource: ResourceKey, record: Record, scene: str) -> None:
        key: ObjectKey = record.key
        found = self._objects.store.get(resource, key)
        kind = self._objects.catalog.by_key(resource)
        played = self._played.get(record.uid)
        if found is None or found.uid != record.uid or kind is None or played is None:
            return
        obj = found.load()
        if obj["metadata"].get("deletionTimestamp"):
            return
        from muster_lab.kube.objects import Options  # the server imports this module

        options = Options(manager="kube-controller-manager")
        if resource == ("apps", "deployments"):
            notes = obj["metadata"].setdefault("annotations", {})
            if notes.get(REVISION) != str(played.revision):
                notes[REVISION] = str(played.revision)
                obj = self._objects.update(kind, key[0], key[1], obj, "", options)
        status = STATUS[PLAYED[resource]](obj, scene)
        if status is not None and status != obj.get("status"):
            obj["status"] = status
            self._objects.update(kind, key[0], key[1], obj, "status", options)
