"""How many cases ran green on each server, for the summary of a test run.

Owns one function over the terminal reporter's results, so that it works with and without workers. It never
runs cases.
"""

from __future__ import annotations

from typing import Any

FOLDER = "contract/kube/"


def counted(stats: dict[str, list[Any]]) -> dict[str, int]:
    """``{"real": n, "lab": n}`` of passed cases."""
    found = {"real": 0, "lab": 0}
    for report in stats.get("passed", []):
        nodeid = str(getattr(report, "nodeid", ""))
        if FOLDER in nodeid and getattr(report, "when", "") == "call":
            for kind in found:
                found[kind] += f"[{kind}" in nodeid or f"-{kind}]" in nodeid
    return found


def line(stats: dict[str, list[Any]]) -> str:
    """Empty when the contract did not run."""
    found = counted(stats)
    if not any(found.values()):
        return ""
    return f"cluster API contract: real {found['real']}, lab {found['lab']}"
