"""What agent and coordinator have each, because neither may import the other, is one text."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TWINS = [
    ("agent/muster_agent/obs/http.py", "coordinator/muster_coordinator/obs/http.py"),
    ("agent/muster_agent/obs/logging.py", "coordinator/muster_coordinator/obs/logging.py"),
    ("agent/muster_agent/audit.py", "coordinator/muster_coordinator/audit/log.py"),
]


def code_of(path: str) -> str:
    """The module below its docstring, which may say whose it is."""
    return (ROOT / path).read_text().split('"""', 2)[2]


@pytest.mark.parametrize(("ours", "theirs"), TWINS)
def test_what_both_programs_have_is_one_text(ours: str, theirs: str) -> None:
    assert code_of(ours) == code_of(theirs), f"copy what changed in {ours} or {theirs} to the other"
