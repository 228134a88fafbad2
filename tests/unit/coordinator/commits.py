"""Git as the tests of the coordinator use it: nothing of this machine's configuration takes part."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def git(folder: Path, *args: str) -> None:
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@example.com", *args]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, env=environment)
