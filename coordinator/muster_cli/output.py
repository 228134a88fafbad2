"""How answers look: tables that fit, or JSON, YAML and names for scripts.

Owns the ``-o`` formats. Data goes to standard output, everything else to standard error. It never decides
what is shown.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import click
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from muster_core.durations import format_duration

M = TypeVar("M", bound=Message)
FORMATS = ("table", "wide", "json", "yaml", "name")


@dataclass(frozen=True, slots=True)
class Column(Generic[M]):
    """A column: its head, its text, and whether only ``-o wide`` shows it."""

    head: str
    text: Callable[[M], str]
    wide: bool = False


def show(
    items: Sequence[M], columns: Sequence[Column[M]], kind: str, style: str, *, one: bool = False
) -> None:
    """Prints items in the style asked for; an empty table says so on standard error."""
    if style in {"json", "yaml"}:
        values: Any = [plain(item) for item in items]
        write_value(values[0] if one and values else values, style)
    elif style == "name":
        for item in items:
            click.echo(f"{kind}/{item.name}")  # type: ignore[attr-defined]
    elif not items:
        click.echo(f"no {kind}s yet", err=True)
    else:
        kept = [column for column in columns if style == "wide" or not column.wide]
        table([column.head for column in kept], [[column.text(item) for column in kept] for item in items])


def plain(item: Message) -> dict[str, Any]:
    value: dict[str, Any] = MessageToDict(item, always_print_fields_with_no_presence=True)
    return value


def write_value(value: object, style: str) -> None:
    if style == "json":
        click.echo(json.dumps(value, indent=2))
    else:
        import yaml

        click.echo(yaml.safe_dump(value, sort_keys=False), nl=False)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Aligned columns; on a terminal the last column is cut to what fits."""
    widths = [max(len(str(row[index])) for row in [heads, *rows]) for index in range(len(heads))]
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000
    for number, row in enumerate([heads, *rows]):
        line = "  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        line = line if len(line) <= room else line[: room - 1] + "…"
        click.echo(click.style(line, bold=True) if number == 0 and colour() else line)


def colour() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def age(unix_ms: int) -> str:
    """How long ago, or ``-``."""
    return format_duration(time.time() - unix_ms / 1000) if unix_ms else "-"


def warn(text: str) -> None:
    click.echo(text, err=True)
