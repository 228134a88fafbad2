"""A state folder that cannot be used is one line that says so, at the start and at the end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from muster_agent.state.files import FileState, StateError
from muster_agent.state.records import BundleRecord


def refused(folder: Path) -> str:
    with pytest.raises(StateError) as error:
        FileState(folder)
    assert str(folder) in str(error.value)
    return error.value.code


def test_a_file_in_the_folders_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    assert refused(tmp_path / "state") == "K022"
    assert refused(tmp_path / "state" / "below") == "K022"


def test_a_place_where_nothing_can_be_made_is_refused() -> None:
    assert refused(Path("/proc/nowhere")) == "K022"


def test_a_record_that_is_a_folder_is_named(tmp_path: Path) -> None:
    state = FileState(tmp_path)
    try:
        (tmp_path / "bundle%2Fshop.json").mkdir()
        with pytest.raises(StateError, match="shop") as error:
            state.get("bundle/shop", BundleRecord)
        assert error.value.code == "K020"
    finally:
        state.close()


FULL = """
import resource, sys
from pathlib import Path
from muster_agent.state.files import FileState, StateError
from muster_agent.state.records import BundleRecord

state = FileState(Path(sys.argv[1]))
state.put("bundle/shop", BundleRecord(bundle="shop"))
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
try:
    state.close()
except StateError as error:
    assert (error.code, error.retryable) == ("K022", True), error
else:
    raise AssertionError("it was written")
"""


def test_a_disk_that_is_full_at_the_end_is_told(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_an_agent_without_a_usable_folder_ends_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    argv = [
        "run",
        "--cluster",
        "a",
        "--state-dir",
        str(tmp_path / "state"),
        "--kubeconfig",
        str(tmp_path / "x"),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "muster_agent", *argv], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 1
    assert done.stderr.startswith("MUSTER-K022 ")
    assert done.stderr.count("\n") == 1
