"""The state folder: a reader after a crash sees the old record or the new one, and a second agent stays out."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from muster_agent.state import files
from muster_agent.state.files import FileState, StateError
from muster_agent.state.records import Floors

OLD, NEW = Floors({"fleet": "a" * 40}), Floors({"fleet": "b" * 40})


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Crash(BaseException):
    """The process ends here."""


def crash(*_: Any, **__: Any) -> None:
    raise Crash


def partial(real: Callable[[int, bytes], int]) -> Callable[[int, bytes], int]:
    def write(descriptor: int, data: bytes) -> int:
        real(descriptor, data[:7])
        raise Crash

    return write


def test_a_record_comes_back_as_it_was_put(tmp_path: Path) -> None:
    state = FileState(tmp_path / "state")
    assert state.get("floors", Floors) is None
    state.put("floors", OLD)
    state.put("bundle/shop", NEW)
    state.close()
    again = FileState(tmp_path / "state")
    assert again.get("floors", Floors) == OLD
    assert again.names("bundle/") == ["bundle/shop"]
    again.remove("bundle/shop")
    assert again.names("bundle/") == []
    again.close()


@pytest.mark.parametrize("step", ["open", "write", "fsync", "replace"])
async def test_a_crash_before_the_rename_leaves_the_old_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    state = FileState(tmp_path)
    state.put("floors", OLD)
    await state.durable()
    with monkeypatch.context() as patched:
        patched.setattr(os, step, partial(os.write) if step == "write" else crash)
        state.put("floors", NEW)
        with pytest.raises(Crash):
            await state.durable()
    assert on_disk(tmp_path) == OLD
    await state.durable()
    assert on_disk(tmp_path) == NEW
    state.close()


def on_disk(folder: Path) -> Floors | None:
    """What another process would read after a kill."""
    data = json.loads((folder / "floors.json").read_text())
    return msgspec.convert(data["record"], Floors)


async def test_what_was_put_is_read_at_once_and_on_disk_after_the_barrier(tmp_path: Path) -> None:
    state = FileState(tmp_path)
    state.put("floors", OLD)
    assert state.get("floors", Floors) == OLD
    assert state.names("") == ["floors"]
    assert not (tmp_path / "floors.json").exists()
    await state.durable()
    assert on_disk(tmp_path) == OLD
    state.remove("floors")
    assert state.get("floors", Floors) is None
    assert state.names("") == []
    await state.durable()
    assert not (tmp_path / "floors.json").exists()
    state.close()


async def test_records_that_are_put_together_are_synced_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, steps = FileState(tmp_path), list[str]()
    sync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        sync(descriptor)

    def renamed(source: Path, target: Path) -> None:
        steps.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    state.put("floors", OLD)
    state.put("other", NEW)
    state.put("floors", NEW)
    await state.durable()
    assert steps == ["file", "rename", "file", "rename", "folder"]
    assert on_disk(tmp_path) == NEW
    await state.durable()
    assert len(steps) == 5, "nothing new, nothing written"
    state.close()


async def test_what_is_put_while_it_is_written_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, replace = FileState(tmp_path), os.replace

    def renamed(source: Path, target: Path) -> None:
        replace(source, target)
        state.put("floors", NEW)

    state.put("floors", OLD)
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", renamed)
        await state.durable()
    assert state.get("floors", Floors) == NEW
    state.close()
    assert on_disk(tmp_path) == NEW, "closing writes what waits"


async def test_a_full_disk_is_told_and_nothing_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = FileState(tmp_path)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    state.put("floors", OLD)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(StateError, match=r"MUSTER-K022 .*No space left"):
            await state.durable()
    await state.durable()
    assert on_disk(tmp_path) == OLD
    state.close()


def test_a_second_agent_is_refused(tmp_path: Path) -> None:
    state = FileState(tmp_path)
    with pytest.raises(StateError, match="MUSTER-K021"):
        FileState(tmp_path)
    state.close()
    FileState(tmp_path).close()


def test_what_cannot_be_read_is_an_error_and_not_a_fresh_start(tmp_path: Path) -> None:
    state = FileState(tmp_path)
    (tmp_path / "floors.json").write_text('{"version": 1, "kind": "Flo')
    with pytest.raises(StateError, match="MUSTER-K020"):
        state.get("floors", Floors)
    (tmp_path / "floors.json").write_text('{"version": 9, "kind": "Floors", "record": {}}')
    with pytest.raises(StateError, match="version 9"):
        state.get("floors", Floors)
    state.close()


def test_records_are_the_owners_alone(tmp_path: Path) -> None:
    FileState(tmp_path / "state").close()
    state = FileState(tmp_path / "state")
    state.put("floors", OLD)
    state.close()
    state = FileState(tmp_path / "state")
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "state" / "floors.json").stat().st_mode) == 0o600
    state.close()


async def test_what_nobody_waits_for_is_on_disk_within_moments(tmp_path: Path) -> None:
    """A report made while the hub is away was lost by a kill: no send ever waited for it."""
    state = FileState(tmp_path)
    async with anyio.create_task_group() as group:
        group.start_soon(state.run)
        for record in (OLD, NEW):
            state.put("floors", record)
            with anyio.fail_after(10):
                while not (tmp_path / "floors.json").exists() or on_disk(tmp_path) != record:
                    await anyio.sleep(0.005)
        group.cancel_scope.cancel()
    state.close()


async def test_a_volume_that_fills_up_is_written_when_there_is_room_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = FileState(tmp_path)
    monkeypatch.setattr(files, "AGAIN", 0.01)
    tries: list[int] = []

    def full(*_: Any) -> None:
        tries.append(1)
        raise OSError(errno.ENOSPC, "no space left on device")

    async with anyio.create_task_group() as group:
        group.start_soon(state.run)
        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", full)
            state.put("floors", NEW)
            with anyio.fail_after(10):
                while len(tries) < 2:
                    await anyio.sleep(0.005)
            assert not (tmp_path / "floors.json").exists()
        with anyio.fail_after(10):
            while not (tmp_path / "floors.json").exists():
                await anyio.sleep(0.005)
        group.cancel_scope.cancel()
    assert on_disk(tmp_path) == NEW
    state.close()
