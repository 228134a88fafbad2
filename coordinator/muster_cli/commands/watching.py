"""Watching one rollout until it ends: ``muster rollout watch``.

Owns following its log and its standing on one stream, over the coordinator's restarts, and how that looks: a picture on a
terminal, lines elsewhere. What it shows is the log as it is stored, so nothing is told twice and nothing is left out.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NoReturn

import click
from muster_core.durations import format_duration
from muster_proto.v1 import operator_pb2 as op

from muster_cli.columns import ROLLOUTS
from muster_cli.errors import UnreachableError
from muster_cli.output import Answer, coloured
from muster_cli.standing import ENDED, next_step, progress_line, took
from muster_cli.verbs import VALUES_OUTPUT, Verb, client, given_timeout

if TYPE_CHECKING:
    from muster_cli.client import OperatorClient

AWAY_SECONDS = 60.0  # how long a coordinator may be away while somebody watches
PAUSE_SECONDS = 1.0
TAIL = 6


@click.command("watch", cls=Verb)
@click.argument("name")
@VALUES_OUTPUT
@click.pass_context
def watch(ctx: click.Context, name: str, style: str) -> None:
    """Show rollout NAME until it ends.

    Waves with bars on a terminal; elsewhere one line for each thing that happens. Exit code 0 when it succeeded, 1 when it
    ended otherwise, 5 when --timeout passed before its end, 130 on Ctrl-C. Watching changes nothing.

    \b
    Example:
      muster rollout watch shop-0007 --timeout 2h
    """
    with client(ctx) as operator:
        to_its_end(ctx, operator, name, style)


def to_its_end(ctx: click.Context, operator: OperatorClient, name: str, style: str = "table") -> NoReturn:
    """Shows it to its end, and ends the command with how it did; ``MUSTER-L080`` when ``--timeout`` passes before."""
    shown = style == "table" and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    watched = Watched(operator, name, given_timeout(ctx), (lambda _: None) if shown else _say_trouble)
    if style in {"json", "yaml"}:
        answer = Answer(ROLLOUTS, "rollout", style)
        for item in watched.items():
            if item.HasField("view"):
                answer.change(item.view)
    elif shown:
        _live(watched)
    else:
        _lines(watched)
    ctx.exit(0 if watched.view.state == "Succeeded" else 1)


class Watched:
    """A rollout as it is told; ``view`` is where it stood last, ``trouble`` why nothing is told now."""

    def __init__(
        self, operator: OperatorClient, name: str, limit: float | None, on_trouble: Callable[[str], None]
    ) -> None:
        self._operator, self.name, self._on_trouble = operator, name, on_trouble
        self._limit, self._began = limit, time.monotonic()
        self.view = operator.get_rollout(name)
        del self.view.targets[:]
        self.trouble = ""
        self._last = 0

    def items(self) -> Iterator[op.RolloutEvent]:
        """Its newest events, a view, and then every change until it has ended."""
        away_since: float | None = None
        while True:
            try:
                for item in self._stream():
                    away_since, self.trouble = None, ""
                    if item.HasField("view"):
                        self.view = item.view
                    else:
                        self._last = item.number
                    yield item
                return
            except UnreachableError as error:
                self._check_limit()
                now = time.monotonic()
                away_since = away_since if away_since is not None else now
                if now - away_since > AWAY_SECONDS:
                    raise
                if not self.trouble:
                    self.trouble = f"{error.message}; trying again"
                    self._on_trouble(self.trouble)
                time.sleep(PAUSE_SECONDS)

    def _stream(self) -> Iterator[op.RolloutEvent]:
        request = op.ListEventsRequest(
            rollout=self.name, after=self._last, follow=True, views=True, tail=0 if self._last else TAIL
        )
        return self._operator.rollout_events(request, self._left())

    def _left(self) -> float | None:
        return None if self._limit is None else max(0.01, self._began + self._limit - time.monotonic())

    def _check_limit(self) -> None:
        left = self._left()
        if left is None or left > 0.02 or self._limit is None:
            return
        raise UnreachableError(
            "L080",
            f"it has not ended after {format_duration(self._limit)}: it is {self.view.state}",
            object=self.name,
            hint=f"It goes on without you. Look again: muster rollout watch {self.name}.",
        )


def _live(watched: Watched) -> None:
    from muster_cli.live import Scene, showing

    lines: list[str] = []
    with showing(lambda: Scene(watched.view, tuple(lines), watched.trouble), colour=coloured()):
        for item in watched.items():
            if not item.HasField("view"):
                lines.append(f"{clock(item.at_unix_ms)}  {item.text}")
                del lines[:-TAIL]
    _say_end(watched.view)


def _lines(watched: Watched) -> None:
    """Nothing of the past; then each event, and the standing when state or wave have changed."""
    say = _saying(watched)
    say(watched.view)
    began = False
    for item in watched.items():
        if item.HasField("view"):
            began = True
            say(item.view)
        elif began:
            click.echo(item.text)
            sys.stdout.flush()
    _say_end(watched.view)


def _saying(watched: Watched) -> Callable[[op.RolloutView], None]:
    last: list[tuple[str, int]] = []

    def say(view: op.RolloutView) -> None:
        place = (view.state, view.wave_index)
        if place in last:
            return
        last[:] = [place]
        click.echo(progress_line(view))
        sys.stdout.flush()
        if view.state not in ENDED and (step := next_step(view)):
            click.echo(f"Next: {step}", err=True)

    return say


def _say_trouble(trouble: str) -> None:
    click.echo(f"warning: {trouble}", err=True)


def _say_end(view: op.RolloutView) -> None:
    """What is left to do, on standard error: the answer itself was shown."""
    owed = f", {view.owed} owed" if view.owed else ""
    click.echo(
        f"{view.name} {view.state} after {took(view, time.time())}: {view.done}/{view.total} done{owed}",
        err=True,
    )
    if step := next_step(view):
        click.echo(f"Next: {step}", err=True)


def clock(unix_ms: int) -> str:
    """The time of day, UTC as everywhere."""
    return datetime.fromtimestamp(unix_ms / 1000, UTC).strftime("%H:%M:%S")
