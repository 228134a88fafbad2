"""What every test shares: what was not proven is said last, and examples are as many as the run asks for."""

from __future__ import annotations

import os
import re
from typing import Any

import pytest
from scheduling import pytest_xdist_make_scheduler

__all__ = ["pytest_xdist_make_scheduler"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if os.environ.get("MUSTER_LONG") == "1":
        return
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.skip(reason="long: make test-long"))


def _reason(report: Any) -> str:
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    return str(report.longrepr)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """``NOT PROVEN: n`` with reasons, and how many contract cases ran where."""
    try:
        from contract.kube.counts import line
    except ImportError:
        said = ""
    else:
        said = line(terminalreporter.stats)
    if said:
        terminalreporter.write_line(said)
    skipped = [r for r in terminalreporter.stats.get("skipped", []) if not _reason(r).startswith("long:")]
    reasons: dict[str, int] = {}
    for report in skipped:
        reason = re.sub(r"\s+", " ", _reason(report))
        reasons[reason] = reasons.get(reason, 0) + 1
    for reason, count in sorted(reasons.items(), key=lambda pair: -pair[1]):
        terminalreporter.write_line(f"not proven ({count}): {reason}")
    terminalreporter.write_line(f"NOT PROVEN: {len(skipped)}")
