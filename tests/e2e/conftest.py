"""The stage that most of these tests stand on; what it is, is in ``programs``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.programs import Stage, stage


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Stage]:
    with stage(tmp_path) as found:
        yield found
