"""What git says when it fails, in the one line that people need.

Owns the choice of that line from git's standard error, which ends with advice that says nothing. It runs no git.
"""

from __future__ import annotations

_EMPTY = "Could not read from remote repository"


def reason(stderr: object, otherwise: object = "") -> str:
    """The first ``fatal:`` line without that word; the line before it where it says nothing by itself.

    ``otherwise`` is the text for a git that said nothing.
    """
    text = str(stderr or "").strip().removeprefix("stderr: ").strip("'\n ")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for index, line in enumerate(lines):
        if line.startswith("fatal: "):
            said = line.removeprefix("fatal: ")
            before = lines[index - 1] if index else ""
            return (before if said.startswith(_EMPTY) and before else said).rstrip(".")
    return lines[-1].removeprefix("error: ").rstrip(".") if lines else str(otherwise)
