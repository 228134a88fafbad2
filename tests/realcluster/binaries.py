"""Where the real components are: built by tests/tools/build.py, or named by ``KUBEBUILDER_ASSETS``.

It never builds anything.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tools import build


def require_real(name: str) -> Path:
    """The component's path. Without it the test is skipped, or fails where MUSTER_REQUIRE_REAL=1."""
    path = build.find(name)
    if path is not None:
        return path
    reason = (
        f"needs the real {name} {build.VERSIONS[name]}: `make tools` builds it (Go), "
        "or KUBEBUILDER_ASSETS names a folder that has it"
    )
    if os.environ.get("MUSTER_REQUIRE_REAL") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
