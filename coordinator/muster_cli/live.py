"""The picture of a rollout that a terminal shows while it runs.

Owns the only use of rich: bars, marks and what fits the window. A picture is a function of what is known and of the time, so
that countdowns run between two changes. It never asks a coordinator.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from muster_proto.v1 import operator_pb2 as op
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from muster_cli.standing import asked, gate_line, next_step, took, wave_counts

REFRESHES = 4  # a second
LINES = 6
OTHER_ROWS = 6 + LINES  # of the picture that are no wave
WIDE = 100


class Signs(NamedTuple):
    """What a bar and a mark are made of: done, in flight, harmed, owed, waiting; passed, open, not yet."""

    done: str
    flying: str
    harmed: str
    owed: str
    waiting: str
    passed: str
    open: str
    closed: str


FULL = Signs("█", "▒", "✗", "○", "·", "✓", "▶", " ")
ASCII = Signs("#", "~", "x", "o", ".", "+", ">", " ")
COLOURS = {"done": "green", "flying": "yellow", "harmed": "bold red", "owed": "magenta", "waiting": "dim"}
STATES = {"Succeeded": "green", "Running": "yellow", "Held": "magenta", "Paused": "bold magenta"}


class Scene(NamedTuple):
    """What is known: the rollout, the last lines of its log (oldest first), and what troubles the line to the hub."""

    view: op.RolloutView
    lines: tuple[str, ...] = ()
    trouble: str = ""


@contextmanager
def showing(scene: Callable[[], Scene], *, colour: bool) -> Iterator[Console]:
    """Keeps the newest scene on the terminal until the block ends; its last picture stays."""
    console = Console(no_color=not colour, highlight=False, soft_wrap=False)

    def draw() -> RenderableType:
        return picture(scene(), time.time(), console.size.width, console.size.height, _signs(console))

    with Live(get_renderable=draw, console=console, refresh_per_second=REFRESHES, redirect_stderr=False):
        yield console


def _signs(console: Console) -> Signs:
    return FULL if console.encoding.lower().replace("-", "").startswith("utf") else ASCII


def picture(scene: Scene, now: float, width: int, height: int, signs: Signs = FULL) -> RenderableType:
    """The whole picture for a window of that size; ``now`` in unix seconds."""
    view = scene.view
    head = Text(no_wrap=True, overflow="ellipsis")
    head.append(view.name, style="bold")
    head.append(f"  {view.release.commit[:7]}  ")
    head.append(view.state, style=STATES.get(view.state, "bold red"))
    head.append(f"  {view.done}/{view.total} done  {took(view, now)}")
    head.append(f"  by {view.started_by}" if view.started_by else "", style="dim")
    parts: list[RenderableType] = [head, _waves(view, now, width, height, signs)]
    gates = [gate_line(gate, now) for gate in asked(view)]
    parts += [Text(f"gate {line}", style="magenta") for line in gates]
    if view.why and not (gates and view.why.startswith("gate:")):
        parts.append(Text(view.why, style="dim" if view.state == "Running" else "magenta"))
    parts += [Text(line, no_wrap=True, overflow="ellipsis", style="dim") for line in scene.lines[-LINES:]]
    if scene.trouble:
        parts.append(Text(scene.trouble, style="bold red"))
    if step := next_step(view):
        parts.append(Text(f"Next: {step}"))
    return Group(*parts)


def _waves(view: op.RolloutView, now: float, width: int, height: int, signs: Signs) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=1)
    grid.add_column(no_wrap=True, max_width=24, overflow="ellipsis")
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True, justify="right")
    grid.add_column(overflow="fold")
    first, last = window(len(view.waves), view.wave_index, max(3, height - OTHER_ROWS))
    cells = 20 if width < WIDE else 30
    if first:
        grid.add_row("", Text(f"{first} before, passed", style="dim"))
    for wave in view.waves[first:last]:
        mark = {"passed": signs.passed, "open": signs.open}.get(wave.state, signs.closed)
        grid.add_row(
            mark, wave.name, bar(wave, cells, signs), f"{wave.done}/{wave.total} ", wave_counts(wave, now)
        )
    if last < len(view.waves):
        grid.add_row("", Text(f"{len(view.waves) - last} more", style="dim"))
    return grid


def window(count: int, current: int, room: int) -> tuple[int, int]:
    """Which waves are shown, ``[first, last)``: the current one with one before it, as many as there is room for."""
    if count <= room:
        return 0, count
    first = min(max(0, current - 1), count - room)
    return first, first + room


def bar(wave: op.WaveView, cells: int, signs: Signs) -> Text:
    """One sign for each share of the wave; what is there at all has a sign, however small its share is."""
    harmed = wave.failed + wave.lost
    counts: Sequence[tuple[str, str, int]] = (
        ("done", signs.done, wave.done),
        ("flying", signs.flying, wave.in_flight),
        ("harmed", signs.harmed, harmed),
        ("owed", signs.owed, wave.owed),
    )
    total = max(1, wave.total - wave.skipped)
    text, free = Text(), cells
    some = [item for item in counts if item[2]]
    for index, (name, sign, count) in enumerate(some):
        reserved = len(some) - index - 1
        share = min(max(1, count * cells // total), max(1, free - reserved))
        text.append(sign * share, style=COLOURS[name])
        free -= share
    waits = wave.done + wave.in_flight + harmed + wave.owed < total
    if free and not waits and some:  # rounding: it belongs to the last that is there
        text.append(some[-1][1] * free, style=COLOURS[some[-1][0]])
    elif free:
        text.append(signs.waiting * free, style=COLOURS["waiting"])
    return text
