"""Help that a person can read: one whole sentence a command in every list."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
from muster_cli.program import PLUGIN_HELP, cli

WIDTH = 80
AUDIT = "audit"  # its lines are long: they are lists of what they hold


def commands(
    group: click.Group, context: click.Context, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command, int]]:
    """(path, command, room for its line in the list of its group)."""
    names = [name for name in group.list_commands(context) if path or name not in PLUGIN_HELP]
    for name in names:
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(
                command, click.Context(command, parent=context, info_name=name), (*path, name)
            )
        else:
            yield (*path, name), command, WIDTH - 6 - max(map(len, names))


@pytest.mark.parametrize(
    ("path", "command", "room"),
    [item for item in commands(cli, click.Context(cli, info_name="muster")) if item[0][0] != AUDIT],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_the_line_of_a_command_in_its_list_is_whole(
    path: tuple[str, ...], command: click.Command, room: int
) -> None:
    line = command.get_short_help_str(limit=room)
    assert line.endswith("."), line
    assert not line.endswith("..."), line
