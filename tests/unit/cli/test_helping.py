"""Help that a person can read: one whole sentence a command in every list, an example that is right."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from muster_cli.program import PLUGIN_HELP, cli

WIDTH = 80
AUDIT = "audit"  # its lines are long: they are lists of what they hold


def commands(
    group: click.Group, context: click.Context, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command, int]]:
    """(path, command, room for its line in the list of its group)."""
    names = group.list_commands(context)
    for name in names:
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(
                command, click.Context(command, parent=context, info_name=name), (*path, name)
            )
        else:
            yield (*path, name), command, WIDTH - 6 - max(map(len, names))


ALL = list(commands(cli, click.Context(cli, info_name="muster")))


def spelled(value: object) -> str:
    return " ".join(value) if isinstance(value, tuple) else ""


@pytest.mark.parametrize(
    ("path", "command", "room"),
    [item for item in ALL if item[0][0] not in {AUDIT, *PLUGIN_HELP}],
    ids=spelled,
)
def test_the_line_of_a_command_in_its_list_is_whole(
    path: tuple[str, ...], command: click.Command, room: int
) -> None:
    line = command.get_short_help_str(limit=room)
    assert line.endswith("."), line
    assert not line.endswith("..."), line


@pytest.mark.parametrize(("path", "command", "room"), ALL, ids=spelled)
def test_help_has_an_example_that_fits_a_terminal_and_that_the_command_takes(
    path: tuple[str, ...],
    command: click.Command,
    room: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("ada.pub", "audit.jsonl"):
        Path(name).touch()
    Path("new-clusters").mkdir()
    text = inspect.cleandoc(command.help or "")
    assert "Example:" in text, path
    lines = text.split("Example:\n")[1].split("\n\n")[0].splitlines()
    assert max(map(len, lines)) <= WIDTH - 2
    shown = "\n".join(lines).replace("\\\n", " ").splitlines()
    own = [shlex.split(line.split("|")[0].split(">")[0]) for line in shown]
    mine = [words for words in own if words[: len(path) + 1] == ["muster", *path]]
    assert mine, lines
    for words in mine:
        command.make_context(path[-1], words[len(path) + 1 :], parent=click.Context(cli))
