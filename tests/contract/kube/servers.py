"""The two servers that every case runs on.

Owns starting the lab's server as the program that it is, and finding the real one. It never builds anything.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from realcluster import open_real_cluster


@contextlib.contextmanager
def lab(folder: Path) -> Iterator[Path]:
    command = [sys.executable, "-m", "muster_lab.kube", "--dir", str(folder), "--ready-delay", "0.05"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, (folder / "log").read_text()
            yield Path(json.loads(line)["kubeconfig"])
        finally:
            process.terminate()
            process.wait(10)
            if process.stdout is not None:
                process.stdout.close()


@contextlib.contextmanager
def real(folder: Path) -> Iterator[Path]:
    """``MUSTER_CONTRACT_KUBECONFIG`` names a running server; otherwise the built binaries start one."""
    given = os.environ.get("MUSTER_CONTRACT_KUBECONFIG")
    if given:
        yield Path(given)
        return
    with open_real_cluster(controller_manager=True) as cluster:
        yield Path(cluster.kubeconfig)
