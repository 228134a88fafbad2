"""The agent's program before it has anything to do: its flags, its logs, and what it says when they are wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

LOGS = (
    "import structlog\nfrom muster_host.logs import configure\nconfigure({style!r}, debug={debug})\n"
    "log = structlog.get_logger()\nlog.debug('whisper')\nlog.info('said', cluster='a')\n"
)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60)


def test_a_token_file_that_cannot_be_read_has_a_code(tmp_path: Path) -> None:
    path = str(tmp_path / "nope")
    done = run("-m", "muster_agent", "run", "--token-file", path, "--state-dir", str(tmp_path / "state"))
    assert done.returncode == 2
    assert done.stderr.startswith("MUSTER-J001 the token file cannot be read (No such file or directory): ")
    assert "muster token create" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_help_tells_defaults_only_where_there_are_some() -> None:
    text = run("-m", "muster_agent", "run", "--help").stdout
    assert "None" not in text
    assert "(default: 5m)" in " ".join(text.split())


def test_logs_are_json_to_a_pipe_and_hold_nothing_for_developers() -> None:
    for style in ("auto", "json"):
        (line,) = run("-c", LOGS.format(style=style, debug=False)).stderr.splitlines()
        said = json.loads(line)
        assert (said["event"], said["level"], said["cluster"]) == ("said", "info", "a")
    (line,) = run("-c", LOGS.format(style="text", debug=False)).stderr.splitlines()
    assert "said" in line
    assert not line.startswith("{")
    assert len(run("-c", LOGS.format(style="json", debug=True)).stderr.splitlines()) == 2


def test_an_exception_is_logged_whole_in_both_styles() -> None:
    code = LOGS + "try:\n    1 / 0\nexcept ZeroDivisionError:\n    log.exception('broke')\n"
    for style in ("text", "json"):
        done = run("-W", "error", "-c", code.format(style=style, debug=False))
        assert done.returncode == 0, done.stderr
        assert "ZeroDivisionError" in done.stderr
    assert json.loads(done.stderr.splitlines()[-1])["exception"].startswith("Traceback")
