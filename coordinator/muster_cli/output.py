"""How answers look: tables that fit, or JSON, YAML and names for scripts.

Owns the ``-o`` formats. Data goes to standard output, everything else to standard error. It never decides
what is shown.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import click
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from muster_core.durations import format_duration

M = TypeVar("M", bound=Message)
GAP = "  "
SHORT = 12  # a cell below its line that is not longer has its head before it


@dataclass(frozen=True, slots=True)
class Column(Generic[M]):
    """A column: its head, its text, and whether only ``-o wide`` shows it.

    On a terminal that is too narrow a ``spare`` one is left out, and a ``long`` one stands on a line of its own."""

    head: str
    text: Callable[[M], str]
    wide: bool = False
    spare: bool = False
    long: bool = False


class Answer(Generic[M]):
    """Prints items of one kind in one style; columns keep their widths from one call to the next."""

    def __init__(self, columns: Sequence[Column[M]], kind: str, style: str, identity: str = "name") -> None:
        self._columns = [column for column in columns if style == "wide" or not column.wide]
        self._kind, self._style, self._identity = kind, style, identity
        self._widths: list[int] = []
        self._shown: list[int] = []
        self._long = 0

    def show(self, items: Sequence[M], nothing: str = "") -> None:
        """The whole list; an empty table says so on standard error, in the words of ``nothing`` if given."""
        if self._style in {"json", "yaml"}:
            write_value([plain(item) for item in items], self._style)
        elif self._style == "name":
            for item in items:
                click.echo(f"{self._kind}/{getattr(item, self._identity)}")
        else:
            if not items:
                click.echo(nothing or f"no {self._kind}s", err=True)
                return
            self._rows([self._cells(item) for item in items], head=True)

    def change(self, item: M) -> None:
        """One more line while watching: a row, a JSON line, a YAML document or a name."""
        if self._style == "json":
            click.echo(json.dumps(plain(item)))
        elif self._style == "yaml":
            click.echo("---")
            write_value(plain(item), "yaml")
        elif self._style == "name":
            click.echo(f"{self._kind}/{getattr(item, self._identity)}")
        else:
            self._rows([self._cells(item)], head=not self._widths)
        sys.stdout.flush()

    def one(self, item: M) -> None:
        """A single thing: not a list of one in JSON and YAML."""
        if self._style in {"json", "yaml"}:
            write_value(plain(item), self._style)
        else:
            self.show([item])

    def _cells(self, item: M) -> list[str]:
        return [" ".join(column.text(item).split()) for column in self._columns]

    def _rows(self, rows: list[list[str]], *, head: bool) -> None:
        if head:
            heads = [column.head for column in self._columns]
            widths = [max(len(row[index]) for row in (heads, *rows)) for index in range(len(heads))]
            self._shown = self._fitting(widths)
            self._widths = [widths[index] for index in self._shown]
            self._long = sum(self._columns[index].long for index in self._shown)
            _line([heads[index] for index in self._shown], self._widths, self._long, head=True)
        for row in rows:
            _line([row[index] for index in self._shown], self._widths, self._long)

    def _fitting(self, widths: Sequence[int]) -> list[int]:
        """The columns that are shown: without spare ones while what has to stand on one line does not fit."""
        shown, room = list(range(len(widths))), _room()
        for index in [index for index in shown if self._columns[index].spare]:
            line = [widths[i] for i in shown if not self._columns[i].long]
            if sum(line) + len(GAP) * (len(line) - 1) <= room:
                break
            shown.remove(index)
        return shown


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Rows that are no messages; the last column is the one that may be long."""
    widths = [max(len(row[index]) for row in (heads, *rows)) for index in range(len(heads))]
    _line(heads, widths, 1, head=True)
    for row in rows:
        _line(row, widths, 1, heads[-1])


def _line(
    cells: Sequence[str], widths: Sequence[int], long: int, last: str = "", *, head: bool = False
) -> None:
    """On a terminal what does not fit is cut, but the ``long`` last columns, which say why, get a line each."""
    padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
    line, room = GAP.join(padded).rstrip(), _room()
    below: Sequence[str] = ()
    if len(line) > room:
        kept = len(cells) - min(long, len(cells) - 1)
        line, below = GAP.join(padded[:kept]).rstrip(), cells[kept:]
    line = _cut(line, room)
    click.echo(click.style(line, bold=True) if head and coloured() else line)
    for cell in () if head else below:
        if cell not in ("", "-"):
            named = f"{last} {cell}" if last and len(cell) <= SHORT else cell
            click.echo(_cut(f"  {named}", room))


def wrapped(text: str, indent: int) -> str:
    """A sentence that a terminal breaks between words, each further line indented; elsewhere one line."""
    if not sys.stdout.isatty():
        return text
    return textwrap.fill(
        text,
        max(_room() - 1, 20),
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _room() -> int:
    """Signs of a line of the terminal; no end elsewhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize


def _cut(line: str, room: int) -> str:
    return line if len(line) <= room else line[: room - 1] + "…"


def plain(item: Message) -> dict[str, Any]:
    """A message as JSON values, fields with empty values included."""
    value: dict[str, Any] = MessageToDict(item, always_print_fields_with_no_presence=True)
    return value


def write_value(value: object, style: str) -> None:
    if style == "json":
        click.echo(json.dumps(value, indent=2))
    else:
        from muster_core.manifest.dump import dump_yaml

        click.echo(dump_yaml(value), nl=False)


def coloured() -> bool:
    ctx = click.get_current_context(silent=True)
    refused = ctx is not None and ctx.find_root().color is False
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ and not refused


def counted(count: int, noun: str) -> str:
    """``1 bundle``, ``2 bundles``, ``2 policies``."""
    plural = noun if count == 1 else f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count} {plural}"


def age(unix_ms: int) -> str:
    """How long ago, or ``-``."""
    return format_duration(time.time() - unix_ms / 1000) if unix_ms else "-"


def ago(unix_ms: int) -> str:
    """``12m ago``, or ``never``."""
    return f"{age(unix_ms)} ago" if unix_ms else "never"
