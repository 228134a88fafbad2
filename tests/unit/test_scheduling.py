"""What stands on something dear is run where that was started."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from scheduling import group

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("tests/e2e/test_demo.py", "demo"),
        ("tests/contract/kube/test_workloads.py", "tests/contract"),
        ("tests/contract/cluster_api/test_port.py", "tests/contract"),
        ("tests/unit/agent/test_seen_from_outside.py", "tests/unit/agent/test_seen_from_outside.py"),
        ("tests/unit/core/test_windows.py", ""),
        ("tests/property/test_session.py", ""),
    ],
)
def test_a_file_stays_with_what_it_shares(path: str, expected: str) -> None:
    assert (ROOT / path).is_file()
    assert group(ROOT, path) == expected


def test_a_group_is_run_by_one_worker(tmp_path: Path) -> None:
    """In a run of its own: that groups were ignored, without a word, is how this came to be."""
    many = "import pytest\n@pytest.mark.parametrize('n', range(8))\ndef test_it(n): pass\n"
    (tmp_path / "conftest.py").write_text("from scheduling import pytest_xdist_make_scheduler\n")
    (tmp_path / "test_free.py").write_text(many)
    (tmp_path / "test_one.py").write_text(many + 'pytestmark = pytest.mark.xdist_group("a")\n')
    (tmp_path / "test_two.py").write_text(many + 'pytest.fixture(scope="module")\n')
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-n",
        "2",
        "--dist",
        "loadgroup",
        "-v",
        "-p",
        "no:hypothesispytest",
    ]
    where = {"PYTHONPATH": str(ROOT / "tests"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        [*command, "-p", "xdist", "--rootdir", str(tmp_path), str(tmp_path)],
        cwd=tmp_path, env={**os.environ, **where}, check=True, capture_output=True, text=True,
    )  # fmt: skip
    ran = re.findall(r"^\[(gw\d)\].* PASSED (\S+?)::", done.stdout, re.MULTILINE)
    by = {file: {worker for worker, path in ran if path == file} for _, file in ran}
    assert by.keys() == {"test_one.py", "test_two.py", "test_free.py"}
    assert len(by["test_one.py"]) == len(by["test_two.py"]) == 1, done.stdout
