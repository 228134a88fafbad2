"""The unattended installer: new clusters are found, joined, and forgotten.

Owns the loop: which candidate is tried when, how long a failure waits, and one JSON line an event. A cluster that has joined
already costs one comparison of names and its credential is not even read. It never approves anything itself.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import anyio
import anyio.abc
from muster_core.errors import MusterError
from muster_core.session.backoff import Backoff

from muster_cli.install.desk import Desk
from muster_cli.install.fleetjoin import Ended, join_one
from muster_cli.install.joining import Patience, Wanted
from muster_cli.install.sources import Candidate, Source, look_everywhere

LONGEST_WAIT = 300.0


@dataclass(slots=True)
class _Tried:
    """What is remembered of a candidate: never its credential."""

    mark: str
    running: bool = False
    done: bool = False
    not_before: float = 0.0
    backoff: Backoff = field(default_factory=lambda: Backoff(random.uniform, 2.0, LONGEST_WAIT))


class Installer:
    """``every`` is seconds between two looks when nothing is told, ``parallel`` how many clusters join at a time."""

    def __init__(
        self,
        desk: Desk,
        sources: list[Source],
        template: Wanted,
        patience: Patience,
        every: float,
        parallel: int,
    ) -> None:
        self._desk, self._sources, self._template, self._patience = desk, sources, template, patience
        self._every, self._limiter = every, anyio.CapacityLimiter(parallel)
        self._tried: dict[str, _Tried] = {}
        self._said: dict[str, str] = {}
        self._news = anyio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        try:
            async with anyio.create_task_group() as group:
                for source in self._sources:
                    group.start_soon(source.follow, lambda: self._news.set())
                while True:
                    self._news = anyio.Event()
                    await self._round(group)
                    with anyio.move_on_after(self._every):
                        await self._news.wait()
        finally:
            with anyio.CancelScope(shield=True):
                for source in self._sources:
                    await source.aclose()

    async def _round(self, group: anyio.abc.TaskGroup) -> None:
        candidates, errors = await look_everywhere(self._sources)
        for error in errors:
            self._once("", "source-failed", error=str(error))
        names = {candidate.name for candidate in candidates}
        for name in [name for name, tried in self._tried.items() if name not in names and not tried.running]:
            del self._tried[name]
        due = [candidate for candidate in candidates if self._is_due(candidate)]
        if not due:
            return
        try:
            entries = await self._desk.entries()
        except MusterError as error:
            self._once("", "registry-unreadable", error=str(error))
            return
        for candidate in due:
            tried = self._tried[candidate.name]
            if tried.running:  # two candidates of one name: one at a time
                continue
            if candidate.name in entries and await self._has_joined(candidate.name):
                tried.done = True
                self._once(candidate.name, "joined-before")
                continue
            tried.running = True
            group.start_soon(self._join, candidate, tried)

    def _is_due(self, candidate: Candidate) -> bool:
        tried = self._tried.get(candidate.name)
        if tried is None or (tried.mark != candidate.mark and not tried.running):
            tried = self._tried[candidate.name] = _Tried(candidate.mark)
        return not (tried.running or tried.done) and time.monotonic() >= tried.not_before

    async def _has_joined(self, name: str) -> bool:
        """Whether the agent of this name has been heard; a coordinator that is away says no, and joining asks again."""
        try:
            view = await self._desk.view_of(name)
        except MusterError:
            return False
        return view is not None and (view.state == "Online" or view.last_seen_unix_ms > 0)

    async def _join(self, candidate: Candidate, tried: _Tried) -> None:
        try:
            async with self._limiter:
                self._say(candidate.name, "started")
                ended = await self._one(candidate)
        finally:
            tried.running = False
        if ended.joined is not None:
            tried.done = True
            self._say(candidate.name, "joined", **ended.value())
            return
        wait = tried.backoff.next_delay()
        tried.not_before = time.monotonic() + wait
        self._say(candidate.name, "failed", error=str(ended.error), retryInSeconds=round(wait, 1))

    async def _one(self, candidate: Candidate) -> Ended:
        """The credential lives in this call and no longer."""
        wanted = replace(self._template, name=candidate.name)
        try:
            access = await candidate.open()
        except MusterError as error:
            return Ended(candidate.name, error=error)
        return await join_one(access, self._desk, wanted, self._progress, self._patience)

    def _progress(self, name: str, text: str) -> None:
        self._say(name, "progress", text=text)

    def _once(self, name: str, event: str, **more: object) -> None:
        """Says it when it is news."""
        text = json.dumps(more)
        if self._said.get(f"{name}/{event}") != text:
            self._said[f"{name}/{event}"] = text
            self._say(name, event, **more)

    def _say(self, name: str, event: str, **more: object) -> None:
        line = {"event": event, **({"cluster": name} if name else {}), **more}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def run_until_stopped(make: Callable[[], Installer]) -> None:
    """Until SIGTERM or SIGINT."""

    async def go() -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with anyio.create_task_group() as group:
                group.start_soon(make().run)
                sys.stdout.write(json.dumps({"event": "ready"}) + "\n")
                sys.stdout.flush()
                async for _ in signals:
                    group.cancel_scope.cancel()
                    return

    anyio.run(go)
