"""Ctrl-C while the program loads: 130, and not a word of its inside."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Interrupts itself where the module of that name is about to be imported: there a person's interrupt may fall as well.
PROGRAM = """
import os, signal, sys

class Interrupt:
    name = sys.argv.pop(1)

    def find_spec(self, name, path=None, target=None):
        if name == self.name:
            os.kill(os.getpid(), signal.SIGINT)

sys.argv[0] = "muster"
sys.meta_path.insert(0, Interrupt())
from muster_cli.main import main
main()
"""


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("muster_cli.program", ""),
        ("click", ""),
        ("muster_core.errors", ""),
        ("muster_cli.commands.listings", "interrupted"),
        ("muster_cli.context", "interrupted"),
    ],
)
def test_an_interrupt_while_it_loads_is_130_and_no_traceback(module: str, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, module, "get", "clusters"], capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stdout, done.stderr.strip()) == (130, "", said)
