"""A real Prometheus server for as long as a test module needs it, found on PATH and never built.

Distributions package it, and building it is heavier than what it proves, so without it the test is skipped and counted as not
proven, also where MUSTER_REQUIRE_REAL=1 (CONTRIBUTING says so).
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from realcluster.ports import ask, free_port

CONFIG = """\
global: {scrape_interval: 1s}
scrape_configs:
- job_name: itself
  static_configs: [{targets: ['127.0.0.1:%d']}]
"""
START_SECONDS = 30.0


def require_prometheus() -> str:
    found = shutil.which("prometheus")
    if found is None:
        pytest.skip("needs a real Prometheus server on PATH: apt-get install prometheus")
    return found


@contextmanager
def prometheus(folder: Path) -> Iterator[str]:
    """Its URL. It scrapes itself every second."""
    binary, port = require_prometheus(), free_port()
    (folder / "prometheus.yml").write_text(CONFIG % port)
    arguments = [
        binary,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(arguments, stdout=log, stderr=log)
    try:
        _wait(port, process, folder / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        if ask(port, "/-/ready", context=None)[0] == 200:
            return
        time.sleep(0.05)
    pytest.fail(f"Prometheus did not become ready: {log.read_text()[-500:]}", pytrace=False)
