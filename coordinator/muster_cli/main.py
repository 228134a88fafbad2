"""The entry point: nothing but what an interrupt does while the program loads.

Owns the moments before the command runs and after it has: an interrupt there ends the process with 130 and says nothing,
since nothing was begun, or all of it is done; and that the three standard streams are there. It imports next to nothing
before that holds; the rest is ``program``'s.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # what `signal` wraps, without the time that its enums take
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> NoReturn:
    """Runs the command that the arguments say; ends with its exit code."""
    _signal.signal(_signal.SIGINT, _leave)
    _open_streams()
    from muster_cli import program

    try:
        program.run()
    finally:
        _signal.signal(_signal.SIGINT, _leave)


def _open_streams() -> None:
    """Whoever started us may have closed some: nothing is read there, and what is said there goes nowhere.

    Else the next file or connection that is opened would get that number, and a child would write into it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            at = os.open(os.devnull, os.O_RDWR)
            if at != number:
                os.dup2(at, number)
                os.close(at)
            stream = open(number, "w" if number else "r", encoding="utf-8", closefd=False)  # noqa: SIM115 - stays open
            setattr(sys, name, stream)


def _leave(number: int, frame: object) -> NoReturn:
    os._exit(128 + number)


if __name__ == "__main__":
    main()
