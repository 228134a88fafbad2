"""Which tests of a parallel run stay on one worker, one after the other.

Owns the rule: what stands on something dear that is started once (a fleet for a module, servers for a folder) stays
where it was started, or every worker would start its own; a file or folder may also name its group with
``xdist_group``. It reads files, because the process that hands out the tests collects none, and because the ids that
``xdist`` writes its groups into are no longer writable: with ``--dist loadgroup`` alone all groups were ignored.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

_NAMED = re.compile(r'xdist_group\("([^"]+)"\)')


@cache
def group(root: Path, path: str) -> str:
    """Of a test file, by its path below the root; empty when each of its tests may run anywhere."""
    file = root / path
    text = file.read_text() if file.is_file() else ""
    if named := _NAMED.search(text):
        return named[1]
    for folder in reversed(Path(path).parents[:-2]):  # from the outermost, without the folder of all tests
        shared = root / folder / "conftest.py"
        if shared.is_file() and 'scope="session"' in shared.read_text():
            return str(folder)
    return path if 'scope="module"' in text else ""


class ByWhatTheyStandOn(LoadScopeScheduling):  # type: ignore[misc]
    """Groups come first, the largest before the others; then all other tests one by one, in their order."""

    def _split_scope(self, nodeid: str) -> str:
        return group(self.config.rootpath, nodeid.partition("::")[0]) or nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByWhatTheyStandOn | None:
    """For ``--dist loadgroup``; ``conftest.py`` has this hook from here."""
    return ByWhatTheyStandOn(config, log) if config.getvalue("dist") == "loadgroup" else None
