"""The entry point: nothing but what an interrupt does while the program loads.

Owns the moments before the command runs and after it has: an interrupt there ends the process with 130 and says nothing,
since nothing was begun, or all of it is done. It imports next to nothing before that holds; the rest is ``program``'s.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # what `signal` wraps, without the time that its enums take
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> NoReturn:
    """Runs the command that the arguments say; ends with its exit code."""
    _signal.signal(_signal.SIGINT, _leave)
    from muster_cli import program

    try:
        program.run()
    finally:
        _signal.signal(_signal.SIGINT, _leave)


def _leave(number: int, frame: object) -> NoReturn:
    os._exit(128 + number)


if __name__ == "__main__":
    main()
