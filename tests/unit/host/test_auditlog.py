"""Audit logs on a real disk: what a program was told is written is there after kill -9, and the event loop never waits."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from muster_core.audit.chain import START, Entry, Head, decode, verify, verify_lines
from muster_core.audit.journal import ordered
from muster_core.errors import MusterError
from muster_host import auditlog

WRITER = "cluster/5f0c"


def entries(folder: Path) -> list[Entry]:
    names = ordered(os.listdir(folder))
    return [decode(line) for name in names for line in (folder / name).read_bytes().splitlines(keepends=True)]


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


async def opened(folder: Path, **sizes: int) -> Any:
    return await auditlog.AuditLog.open(folder, WRITER, lambda: 1_700_000_000.5, **sizes)


def apply(audit: Any, number: int) -> Entry:
    entry: Entry = audit.record("apply", actor="hub", object=f"bundle-{number}", bundle="shop")
    return entry


async def test_entries_come_back_after_a_restart_and_the_chain_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "audit"
    for round_number in range(3):
        audit = await opened(folder)
        assert audit.recovered.seq == round_number * 2
        apply(audit, round_number)
        await audit.flush()
        assert audit.head.seq == (round_number + 1) * 2
    assert verify(entries(folder), expected_head=audit.head).holds
    assert [entry.action for entry in entries(folder)] == ["log-started", "apply"] * 3
    assert entries(folder)[0].at == 1_700_000_000_500


async def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    await opened(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o600}


async def test_a_head_is_told_only_when_it_is_on_disk(tmp_path: Path) -> None:
    audit = await opened(tmp_path)
    before = audit.head
    entry = apply(audit, 1)
    assert audit.head == before
    await audit.flush()
    assert audit.head == entry.head == entries(tmp_path)[-1].head


class Counting:
    """The real fsync, counted by thread."""

    def __init__(self) -> None:
        self.threads: list[int] = []
        self._real = os.fsync

    def __call__(self, descriptor: int) -> None:
        self.threads.append(threading.get_ident())
        self._real(descriptor)


async def test_many_entries_share_one_sync_and_none_is_on_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = await opened(tmp_path)
    counting = Counting()
    monkeypatch.setattr(os, "fsync", counting)

    async def one(number: int) -> None:
        entry = apply(audit, number)
        await audit.flush()
        assert audit.head.seq >= entry.seq

    async with anyio.create_task_group() as group:
        for number in range(200):
            group.start_soon(one, number)
    assert len(entries(tmp_path)) == 201
    assert 1 <= len(counting.threads) <= 4
    assert threading.get_ident() not in counting.threads


async def test_the_writer_task_writes_soon_and_what_is_left_when_it_ends(tmp_path: Path) -> None:
    audit = await opened(tmp_path)
    async with anyio.create_task_group() as group:
        group.start_soon(audit.run)
        entry = apply(audit, 1)
        with anyio.fail_after(5):
            while audit.head != entry.head:
                await anyio.sleep(0.001)
        last = apply(audit, 2)
        group.cancel_scope.cancel()
    assert audit.head == last.head == entries(tmp_path)[-1].head


def failing(real: Callable[[int], None], failures: int) -> Callable[[int], None]:
    left = [failures]

    def fsync(descriptor: int) -> None:
        if left[0]:
            left[0] -= 1
            raise OSError(28, "No space left on device")
        real(descriptor)

    return fsync


async def test_a_full_disk_is_an_error_and_nothing_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = await opened(tmp_path)
    before = audit.head
    monkeypatch.setattr(os, "fsync", failing(os.fsync, 1))
    apply(audit, 1)
    with pytest.raises(MusterError, match="No space left") as caught:
        await audit.flush()
    assert (caught.value.code, caught.value.retryable, audit.head) == ("K030", True, before)
    apply(audit, 2)
    await audit.flush()
    assert verify(entries(tmp_path), expected_head=audit.head).count == 3


async def test_the_writer_task_tries_again_when_the_disk_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = await opened(tmp_path)
    monkeypatch.setattr(auditlog, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(os, "fsync", failing(os.fsync, 3))
    entry = apply(audit, 1)
    async with anyio.create_task_group() as group:
        group.start_soon(audit.run)
        with anyio.fail_after(5):
            while audit.head != entry.head:
                await anyio.sleep(0.001)
        group.cancel_scope.cancel()
    assert len(entries(tmp_path)) == 2


async def test_a_flush_that_is_cancelled_in_mid_write_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = await opened(tmp_path)
    real = os.fsync
    with anyio.CancelScope() as scope:

        def fsync(descriptor: int) -> None:
            anyio.from_thread.run_sync(scope.cancel)
            real(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)
        first = apply(audit, 1)
        await audit.flush()
        await anyio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert audit.head == first.head
    monkeypatch.setattr(os, "fsync", real)
    last = apply(audit, 2)
    await audit.flush()
    assert audit.head == last.head
    assert verify(entries(tmp_path), expected_head=last.head).count == 3


async def test_it_rotates_and_keeps_its_size_when_heads_are_acknowledged(tmp_path: Path) -> None:
    audit = await opened(tmp_path, segment_bytes=2_000, total_bytes=8_000)
    for number in range(200):
        apply(audit, number)
        await audit.flush()
        audit.acknowledge(audit.head.seq)
    size = sum(map(len, contents(tmp_path).values()))
    assert 4_000 < size <= 12_000
    kept = entries(tmp_path)
    assert kept[0].seq > 1
    assert verify(kept, expected_head=audit.head).holds


async def test_a_restored_old_folder_shows_an_older_head(tmp_path: Path) -> None:
    audit = await opened(tmp_path)
    apply(audit, 1)
    await audit.flush()
    backup = contents(tmp_path)
    for number in range(3):
        apply(audit, number)
    await audit.flush()
    told = audit.head
    for name, data in backup.items():
        (tmp_path / name).write_bytes(data)
    restored = await opened(tmp_path)
    assert restored.recovered.seq == 2 < told.seq
    assert verify(entries(tmp_path), known_heads=[told]).code in ("forked", "truncated")


async def test_lines_after_a_number_are_what_an_export_holds(tmp_path: Path) -> None:
    audit = await opened(tmp_path, segment_bytes=1_500)
    for number in range(20):
        apply(audit, number)
    everything = [line async for line in audit.lines()]
    assert [decode(line).seq for line in everything] == list(range(1, 22))
    assert verify_lines(everything, expected_head=audit.head).holds
    for after in (1, 6, 20, 21, 99):
        assert [line async for line in audit.lines(after)] == everything[after:]


async def test_a_changed_line_is_exported_as_it_is_and_found(tmp_path: Path) -> None:
    audit = await opened(tmp_path, segment_bytes=1_500)
    for number in range(20):
        apply(audit, number)
    await audit.flush()
    name = ordered(contents(tmp_path))[0]
    (tmp_path / name).write_bytes(contents(tmp_path)[name].replace(b"bundle-1", b"\xffundle-1"))
    verdict = verify_lines([line async for line in audit.lines()], known_heads=[audit.head])
    assert (verdict.broken_seq, verdict.code) == (3, "unreadable")


async def test_what_must_not_be_written_is_refused(tmp_path: Path) -> None:
    audit = await opened(tmp_path)
    with pytest.raises(MusterError, match="V060"):
        audit.record("secret-opened", actor="agent", object="shop-db", value="hunter2")
    await audit.flush()
    assert b"hunter2" not in b"".join(contents(tmp_path).values())


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 400), count=st.integers(1, 6))
def test_a_file_that_was_cut_anywhere_opens_again(
    tmp_path_factory: pytest.TempPathFactory, cut: int, count: int
) -> None:
    folder = tmp_path_factory.mktemp("audit")

    async def run() -> tuple[Head, Head]:
        audit = await opened(folder)
        for number in range(count):
            apply(audit, number)
        await audit.flush()
        (file,) = folder.iterdir()
        whole = file.read_bytes()
        file.write_bytes(whole[: max(0, len(whole) - cut)])
        lost = whole[-cut:].count(b"\n") if cut else 0
        again = await opened(folder)
        return Head(max(0, audit.head.seq - lost), ""), again.recovered

    expected, recovered = anyio.run(run)
    assert recovered.seq == expected.seq
    assert verify(entries(folder)).holds


PROGRAM = """
import sys, time
from pathlib import Path
import anyio
from muster_host.auditlog import AuditLog

async def main():
    audit = await AuditLog.open(Path(sys.argv[1]), "{writer}", time.time, 4_000, 400_000)
    while True:
        for number in range(5):
            audit.record("apply", actor="hub", object=f"bundle-{{number}}", bundle="shop" * number)
        await audit.flush()
        sys.stdout.write(f"{{audit.head.seq}} {{audit.head.hash}}\\n")
        sys.stdout.flush()

anyio.run(main)
"""


def test_every_head_that_was_told_is_there_after_kill_9(tmp_path: Path) -> None:
    program = PROGRAM.format(writer=WRITER)
    told: list[Head] = [START]
    for round_number in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout
        with process:
            told += [_head(process.stdout.readline()) for _ in range(20 + 7 * round_number)]
            process.kill()
            told += [
                _head(line) for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")
            ]
    audit = anyio.run(opened, tmp_path)
    assert audit.recovered.seq >= told[-1].seq
    verdict = verify(
        entries(tmp_path), expected_head=audit.head, known_heads=[head for head in told if head.seq]
    )
    assert verdict.holds, verdict
    assert len(told) > 100


def _head(line: str) -> Head:
    seq, _, hashed = line.strip().partition(" ")
    return Head(int(seq), hashed)
