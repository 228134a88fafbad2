"""How a program runs to its end: the loop, and the exit code.

Owns the one place where an error of ours becomes one line for people. It never hides an error that is not ours: that one ends
the program with its traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import anyio
from muster_core.errors import MusterError, ValidationError

S = TypeVar("S")
FAILED, USAGE, INTERRUPTED = 1, 2, 130


def run(serve: Callable[[S], Awaitable[None]], settings: S) -> int:
    """Runs until it is stopped; the process's exit code (SURFACE): 0, 1, 2 for bad input, 130 when interrupted too early."""
    try:
        anyio.run(serve, settings)
    except KeyboardInterrupt:  # before it was ready to be stopped
        return INTERRUPTED
    except MusterError as error:
        errors: tuple[Exception, ...] = (error,)
    except ExceptionGroup as group:
        ours, others = group.split(MusterError)
        if others or ours is None:
            raise
        errors = tuple(_each(ours))
    else:
        return 0
    for text in dict.fromkeys(map(str, errors)):
        sys.stderr.write(f"{text}\n")
    return USAGE if isinstance(errors[0], ValidationError) else FAILED


def _each(group: ExceptionGroup[MusterError]) -> Iterator[MusterError]:
    """Those of a task group within a task group too."""
    for one in group.exceptions:
        if isinstance(one, ExceptionGroup):
            yield from _each(one)
        else:
            yield one
