"""The one line of git's standard error that says what is wrong."""

from __future__ import annotations

import pytest
from muster_core.gitwords import reason

ADVICE = "\n\nPlease make sure you have the correct access rights\nand the repository exists.\n"


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (
            "\n  stderr: 'fatal: '/nope' does not appear to be a git repository\n"
            f"fatal: Could not read from remote repository.{ADVICE}'",
            "'/nope' does not appear to be a git repository",
        ),
        (
            f"ssh: Could not resolve hostname git.example\nfatal: Could not read from remote repository.{ADVICE}",
            "ssh: Could not resolve hostname git.example",
        ),
        (f"fatal: Could not read from remote repository.{ADVICE}", "Could not read from remote repository"),
        ("fatal: unable to access 'https://x/': SSL problem", "unable to access 'https://x/': SSL problem"),
        ("hint: pull first\nerror: failed to push some refs", "failed to push some refs"),
        ("", "128"),
        (None, "128"),
    ],
)
def test_the_reason_is_the_line_that_says_it(said: str | None, line: str) -> None:
    assert reason(said, 128) == line
