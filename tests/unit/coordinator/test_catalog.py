"""Reading the fleet repository: nothing that stands in a commit, and nothing that fails after it, stops the reading."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from muster_coordinator.catalog import catalog as module
from muster_coordinator.catalog.catalog import Catalog, Reading
from muster_coordinator.catalog.repository import FleetRepository
from muster_core.errors import KubernetesError, ValidationError
from unit.coordinator.commits import git
from unit.coordinator.test_watch import FLEET, PLAN


class Heard:
    """Who is told of readings; refuses so many times."""

    def __init__(self) -> None:
        self.readings: list[Reading] = []
        self.refusals = 0

    async def changed(self, reading: Reading) -> None:
        if self.refusals:
            self.refusals -= 1
            raise KubernetesError("K030", "the log cannot be written")
        self.readings.append(reading)


def opened(tmp_path: Path, heard: Heard, poll: float = 60.0) -> Catalog:
    work = tmp_path / "work"
    git(tmp_path, "init", "-q", "-b", "main", str(work))
    (work / "plans").mkdir()
    (work / "fleet.yaml").write_text(FLEET)
    (work / "plans" / "all.yaml").write_text(PLAN)
    git(work, "add", "-A")
    git(work, "commit", "-qm", "a fleet")
    repository = FleetRepository.open(tmp_path / "fleet.git", f"file://{work}", "main", None)
    return Catalog(repository, poll, heard.changed)


async def test_a_reading_that_could_not_be_taken_in_is_offered_again(tmp_path: Path) -> None:
    heard = Heard()
    catalog = opened(tmp_path, heard)
    heard.refusals = 1
    with pytest.raises(KubernetesError):
        await catalog.refresh()
    assert "K030" in catalog.error
    await catalog.refresh()
    assert [reading.heads for reading in heard.readings] == [catalog.reading.heads]
    assert not catalog.error


async def test_a_commit_that_breaks_a_parser_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard, read, broken = Heard(), module.read, [True]

    def reads(*args: object) -> Reading:
        if broken:
            raise RecursionError("too deep")
        return read(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "read", reads)
    catalog = opened(tmp_path, heard, poll=0.01)
    with pytest.raises(ValidationError, match="V006"):
        await catalog.refresh()
    async with anyio.create_task_group() as group:
        group.start_soon(catalog.run)
        with anyio.fail_after(20):
            while not catalog.error:
                await anyio.sleep(0.01)
            broken.clear()
            while not heard.readings:
                await anyio.sleep(0.01)
        group.cancel_scope.cancel()
    assert not catalog.error
