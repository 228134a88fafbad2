"""How many cases of the two cluster suites ran green on each server, for the summary of a test run.

Owns one function over the terminal reporter's results, so that it works with and without workers. It never
runs cases.
"""

from __future__ import annotations

from typing import Any

# What the API servers do, and what the agent's own adapter makes of them.
SUITES = {"cluster API contract": "contract/kube/", "cluster port contract": "contract/cluster_api/"}


def counted(stats: dict[str, list[Any]], folder: str) -> dict[str, int]:
    """``{"real": n, "lab": n}`` of passed cases under a folder."""
    found = {"real": 0, "lab": 0}
    for report in stats.get("passed", []):
        nodeid = str(getattr(report, "nodeid", ""))
        if folder in nodeid and getattr(report, "when", "") == "call":
            for kind in found:
                found[kind] += f"[{kind}" in nodeid or f"-{kind}]" in nodeid
    return found


def line(stats: dict[str, list[Any]]) -> str:
    """One line a suite; empty when none of them ran."""
    counts = {title: counted(stats, folder) for title, folder in SUITES.items()}
    return "\n".join(
        f"{title}: real {found['real']}, lab {found['lab']}"
        for title, found in counts.items()
        if any(found.values())
    )
