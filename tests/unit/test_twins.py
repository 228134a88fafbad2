"""What agent and coordinator have each, because neither may import the other, is one text."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["http.py", "logging.py"])
def test_what_both_programs_have_is_one_text(name: str) -> None:
    ours = (ROOT / "agent/muster_agent/obs" / name).read_text()
    theirs = (ROOT / "coordinator/muster_coordinator/obs" / name).read_text()
    assert ours == theirs, f"copy obs/{name} from one program to the other"
