"""Flags that several of the coordinator's commands take: where its data is.

Owns their names and how they are read.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click
from muster_core.errors import MusterError

from muster_coordinator.store.address import DatabaseUrl

F = TypeVar("F", bound=Callable[..., object])


class DatabaseType(click.ParamType[DatabaseUrl]):
    name = "URL"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> DatabaseUrl:
        if isinstance(value, DatabaseUrl):
            return value
        try:
            return DatabaseUrl.parse(str(value))
        except MusterError as error:
            self.fail(str(error), param, ctx)


class DatabaseFileType(click.ParamType[DatabaseUrl]):
    name = "FILE"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> DatabaseUrl:
        if isinstance(value, DatabaseUrl):
            return value
        try:
            return DatabaseUrl.of_file(Path(str(value)))
        except (MusterError, OSError) as error:
            self.fail(str(error), param, ctx)


def database_options(function: F) -> F:
    """``--database`` and ``--database-file``, read with :func:`chosen`."""
    for option in (
        click.option(
            "--database-file",
            type=DatabaseFileType(),
            help="The same, from a file's one line, so that the password is in no process list.",
        ),
        click.option(
            "--database",
            type=DatabaseType(),
            help="A PostgreSQL database shared with standby coordinators (default: a file in the data folder).",
        ),
    ):
        function = option(function)
    return function


def chosen(database: DatabaseUrl | None, database_file: DatabaseUrl | None) -> DatabaseUrl | None:
    if database and database_file:
        raise click.UsageError("pass --database or --database-file, not both")
    return database or database_file
