"""Takes notifications to where they belong.

Owns one task per endpoint with its own back-off, so that a dead one delays nobody else, and never the engine: what waits is
in the outbox. What was taken is written down; a crash between the two tells once more, with the same id. It decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import anyio
import structlog
from muster_core.session.backoff import Backoff

from muster_coordinator.notify.bodies import body_of
from muster_coordinator.notify.notices import Notice
from muster_coordinator.notify.settings import Endpoint
from muster_coordinator.outgoing import Outgoing, OutgoingError
from muster_coordinator.rollout.engine import Engine

log = structlog.get_logger()

DEADLINE = 10.0
PACE = (2.0, 600.0)
KEPT_SECONDS = 24 * 3600.0
# Of answers that say the request itself is wrong: the same words will hardly be taken later.
TRIES = 5
PASSING = frozenset({408, 425, 429})

Result = Literal["sent", "failed", "dropped"]


class Courier:
    """``tally(endpoint, result)`` counts; ``pace`` is the shortest and the longest pause after a failure, in seconds."""

    def __init__(
        self,
        engine: Engine,
        outgoing: Outgoing,
        clock: Callable[[], float],
        uniform: Callable[[float, float], float],
        tally: Callable[[str, Result], None],
        pace: tuple[float, float] = PACE,
    ) -> None:
        self._engine, self._outgoing, self._clock = engine, outgoing, clock
        self._uniform, self._tally, self._pace = uniform, tally, pace
        self._news = {endpoint.name: anyio.Event() for endpoint in engine.desk.endpoints}

    def stir(self) -> None:
        """There is something new in the outbox."""
        for event in self._news.values():
            event.set()

    async def run(self) -> None:
        """For ever."""
        async with anyio.create_task_group() as group:
            for endpoint in self._engine.desk.endpoints:
                group.start_soon(self._serve, endpoint)

    async def _serve(self, endpoint: Endpoint) -> None:
        outbox, fresh = self._engine.desk.outbox, partial(Backoff, self._uniform, *self._pace)
        backoff, refused = fresh(), 0
        while True:
            self._news[endpoint.name] = anyio.Event()
            notice = outbox.next_for(endpoint.name)
            if notice is None:
                await self._news[endpoint.name].wait()
                continue
            why, status = await self._take(endpoint, notice)
            if not why:
                backoff, refused = fresh(), 0
                self._tally(endpoint.name, "sent")
                await self._engine.ask(self._engine.notice_sent(notice.id, endpoint.name))
                continue
            refused += 400 <= status < 500 and status not in PASSING
            self._tally(endpoint.name, "failed")
            log.warning(
                "a notification was not taken",
                endpoint=endpoint.name,
                place=endpoint.place,
                notice=notice.id,
                why=why,
                waiting=outbox.waiting_for(endpoint.name),
            )
            if refused >= TRIES or self._clock() - notice.at > KEPT_SECONDS:
                refused = 0
                self._tally(endpoint.name, "dropped")
                log.error("a notification is given up", endpoint=endpoint.name, notice=notice.id, why=why)
                await self._engine.ask(self._engine.notice_dropped(notice.id, endpoint.name, why))
            await anyio.sleep(backoff.next_delay())

    async def _take(self, endpoint: Endpoint, notice: Notice) -> tuple[str, int]:
        """An empty text when it was taken, else why not; and the status of the answer, 0 without one."""
        headers = {name: value.reveal().decode() for name, value in endpoint.headers}
        headers |= {"Content-Type": "application/json", "Muster-Notification": notice.id}
        body = body_of(endpoint.kind, endpoint.body, notice)
        try:
            answer = await self._outgoing.post(endpoint.url.reveal().decode(), body, headers, DEADLINE)
        except OutgoingError as error:
            return str(error), 0
        if 200 <= answer.status < 300:
            return "", answer.status
        return f"it answered {answer.status}", answer.status
