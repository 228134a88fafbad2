"""Segments: a crash at any byte loses only what nobody was told of, and the log stays within its size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from muster_core.audit.chain import START, Entry, decode, verify
from muster_core.audit.journal import BROKEN, MAX_PENDING, Batch, Journal, Remove, ordered
from muster_core.errors import ValidationError

WRITER = "cluster/5f0c"
SEGMENT = 1_500
TOTAL = 6_000


class Disk:
    """Files in memory; a kill can come after any byte that a command writes."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def read(self, name: str, limit: int) -> bytes:
        return self.files[name][:limit]

    def journal(self, segment: int = SEGMENT, total: int = TOTAL, writer: str = WRITER) -> Journal:
        sizes = {name: len(data) for name, data in self.files.items()}
        return Journal(writer, sizes, self.read, 7, segment, total)

    def perform(self, batch: Batch, budget: int | None = None) -> bool:
        """Whether all was done; ``budget`` is how many bytes are written before the kill."""
        for command in batch.commands:
            if isinstance(command, Remove):
                self.files.pop(command.segment, None)
                continue
            kept = self.files.get(command.segment, b"")[: command.at]
            data = command.data if budget is None else command.data[:budget]
            self.files[command.segment] = kept + data
            if budget is not None:
                if budget < len(command.data):
                    return False
                budget -= len(command.data)
        return True

    def entries(self) -> list[Entry]:
        lines = (line for name in ordered(self.files) for line in self.files[name].splitlines(keepends=True))
        return [decode(line) for line in lines]


def record(journal: Journal, number: int) -> Entry:
    return journal.record(
        number, "apply", actor="hub", object=f"bundle-{number}", detail={"bundle": "x" * (number % 90)}
    )


def flush(journal: Journal, disk: Disk) -> None:
    batch = journal.take(9)
    assert disk.perform(batch)
    journal.done(batch)


def fill(journal: Journal, disk: Disk, count: int) -> None:
    for number in range(count):
        record(journal, number)
        flush(journal, disk)


def actions(entries: Iterable[Entry]) -> list[str]:
    return [entry.action for entry in entries]


def test_the_chain_goes_on_over_segments_and_restarts() -> None:
    disk = Disk()
    for _ in range(4):
        fill(disk.journal(total=1 << 20), disk, 6)
    assert len(disk.files) > 3
    assert all(len(data) <= SEGMENT for data in disk.files.values())
    entries = disk.entries()
    assert len(entries) == 24
    assert verify(entries, expected_head=entries[-1].head).holds


def test_only_what_is_on_disk_is_told_as_the_head() -> None:
    disk = Disk()
    journal = disk.journal()
    entry = record(journal, 1)
    assert (journal.durable, journal.newest) == (START, entry.head)
    batch = journal.take(9)
    record(journal, 2)
    disk.perform(batch)
    journal.done(batch)
    assert journal.durable == entry.head
    assert [kept.object for kept in disk.entries()] == ["bundle-1"]
    again = disk.journal()
    assert (again.durable, again.recovered, again.newest) == (START, entry.head, entry.head)
    flush(again, disk)
    assert again.durable == entry.head


def test_what_is_recorded_while_a_batch_is_written_comes_with_the_next() -> None:
    disk = Disk()
    journal = disk.journal()
    record(journal, 1)
    batch = journal.take(9)
    late = record(journal, 2)
    disk.perform(batch)
    journal.done(batch)
    flush(journal, disk)
    assert (journal.durable, len(disk.entries())) == (late.head, 2)


def test_a_batch_that_failed_is_taken_again_whole() -> None:
    disk = Disk()
    journal = disk.journal()
    for number in range(12):
        record(journal, number)
    disk.perform(journal.take(9), budget=1_700)
    record(journal, 12)
    flush(journal, disk)
    assert verify(disk.entries(), expected_head=journal.newest).count == 13


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 3_000)), min_size=1, max_size=6), st.booleans())
def test_a_kill_at_any_byte_loses_at_most_what_nobody_was_told(
    rounds: list[tuple[int, int]], acknowledges: bool
) -> None:
    disk = Disk()
    told = [START]
    for count, budget in rounds:
        journal = disk.journal()
        assert journal.recovered.seq >= told[-1].seq
        flush(journal, disk)
        told.append(journal.durable)
        if acknowledges:
            journal.acknowledge(journal.durable.seq)
        for number in range(count):
            record(journal, number)
        batch = journal.take(9)
        if disk.perform(batch, budget):
            journal.done(batch)
            told.append(journal.durable)
    journal = disk.journal()
    flush(journal, disk)
    heads = [head for head in told if head.seq]
    verdict = verify(disk.entries(), expected_head=journal.durable, known_heads=heads)
    assert verdict.holds, verdict
    assert BROKEN not in disk.files


def test_a_torn_line_is_cut_and_the_log_says_so() -> None:
    disk = Disk()
    fill(disk.journal(), disk, 2)
    (name,) = disk.files
    whole = len(disk.files[name])
    disk.files[name] += b'{"seq":3,"at'
    journal = disk.journal()
    flush(journal, disk)
    entries = disk.entries()
    assert actions(entries) == ["apply", "apply", "log-torn"]
    assert entries[-1].detail == {"last": "2", "bytes": "12", "reason": "cut in mid-write"}
    assert disk.files[name][:whole].count(b"\n") == 2
    assert verify(entries).holds


def test_a_torn_line_is_cut_though_its_segment_is_full() -> None:
    disk = Disk()
    fill(disk.journal(segment=600), disk, 2)
    (name,) = disk.files
    disk.files[name] += b"{"
    flush(disk.journal(segment=600), disk)
    assert list(disk.files) == [name]
    assert actions(disk.entries()) == ["apply", "apply", "log-torn"]


def test_a_changed_entry_is_set_aside_as_evidence_and_the_log_says_so() -> None:
    disk = Disk()
    fill(disk.journal(), disk, 4)
    (name,) = disk.files
    good, changed = disk.files[name], disk.files[name].replace(b"bundle-2", b"bundle-9")
    disk.files[name] = changed
    told = decode(good.splitlines(keepends=True)[3]).head
    journal = disk.journal()
    assert journal.recovered.seq == 2
    flush(journal, disk)
    assert changed.endswith(disk.files[BROKEN])
    assert disk.files[BROKEN].count(b"\n") == 2
    assert actions(disk.entries()) == ["apply", "apply", "log-broken"]
    assert verify(disk.entries()).holds
    assert verify(disk.entries(), known_heads=[told]).code == "truncated"


def test_a_last_segment_without_one_good_entry_gives_way_to_the_one_before() -> None:
    disk = Disk()
    fill(disk.journal(total=1 << 20), disk, 8)
    last = ordered(disk.files)[-1]
    for content in (b"", b"garbage\n", b'{"seq"'):
        damaged = Disk()
        damaged.files = {**disk.files, last: content}
        journal = damaged.journal(total=1 << 20)
        assert journal.recovered.seq == int(last[6:22]) - 1
        record(journal, 1)
        flush(journal, damaged)
        assert verify(damaged.entries(), expected_head=journal.durable).holds
        assert (BROKEN in damaged.files) == (content == b"garbage\n")


def test_a_segment_under_another_number_does_not_count() -> None:
    disk = Disk()
    fill(disk.journal(), disk, 2)
    (name,) = disk.files
    disk.files = {"audit-0000000000000009.jsonl": disk.files[name]}
    journal = disk.journal()
    flush(journal, disk)
    assert (journal.recovered, actions(disk.entries())) == (START, ["log-broken"])


def test_a_folder_of_another_writer_is_refused() -> None:
    disk = Disk()
    fill(disk.journal(), disk, 1)
    with pytest.raises(ValidationError) as caught:
        disk.journal(writer="cluster/other")
    assert caught.value.code == "V062"


def test_files_that_are_no_segments_are_left_alone() -> None:
    disk = Disk()
    disk.files = {"audit-1.jsonl": b"x\n", "lock": b"", "audit-0000000000000001.jsonl.bak": b"y"}
    before = dict(disk.files)
    fill(disk.journal(), disk, 1)
    assert {name: disk.files[name] for name in before} == before


# --- size --------------------------------------------------------------------------------------------------------------


def grown(journal: Journal, disk: Disk, count: int, acknowledge: bool) -> Iterator[int]:
    for number in range(count):
        record(journal, number)
        flush(journal, disk)
        if acknowledge:
            journal.acknowledge(journal.durable.seq)
        yield sum(len(data) for data in disk.files.values())


def test_segments_that_were_acknowledged_go_first_and_the_chain_says_which() -> None:
    disk = Disk()
    journal = disk.journal()
    assert max(grown(journal, disk, 120, True)) <= TOTAL + 2 * SEGMENT
    assert journal.size == sum(len(data) for data in disk.files.values())
    entries = disk.entries()
    assert entries[0].seq > 1
    assert verify(entries, expected_head=journal.durable).holds
    dropped = [entry for entry in entries if entry.action == "log-dropped"]
    assert dropped[-1].detail["last"] == str(entries[0].seq - 1)
    assert {entry.detail["acknowledged"] for entry in dropped} == {"yes"}


def test_what_nobody_acknowledged_stays_up_to_twice_the_size_and_then_the_chain_says_so() -> None:
    disk = Disk()
    journal = disk.journal()
    sizes = list(grown(journal, disk, 200, False))
    assert TOTAL + 2 * SEGMENT < max(sizes) <= 2 * TOTAL + 2 * SEGMENT
    entries = disk.entries()
    assert verify(entries, expected_head=journal.durable).holds
    assert {entry.detail["acknowledged"] for entry in entries if entry.action == "log-dropped"} == {"no"}


def test_dropping_goes_on_after_a_restart() -> None:
    disk = Disk()
    list(grown(disk.journal(total=1 << 20), disk, 60, False))
    journal = disk.journal()
    flush(journal, disk)
    journal.acknowledge(journal.durable.seq)
    record(journal, 1)
    flush(journal, disk)
    assert journal.size <= TOTAL + SEGMENT
    assert verify(disk.entries(), expected_head=journal.durable).holds


def test_a_number_that_is_not_on_disk_acknowledges_nothing() -> None:
    disk = Disk()
    journal = disk.journal()
    journal.acknowledge(10_000)
    assert max(grown(journal, disk, 36, False)) > TOTAL + SEGMENT
    assert "log-dropped" not in actions(disk.entries())


def test_a_kill_between_the_entry_and_the_removal_drops_again() -> None:
    disk = Disk()
    journal = disk.journal(total=1 << 20)
    list(grown(journal, disk, 60, False))
    journal = disk.journal()
    flush(journal, disk)
    journal.acknowledge(journal.durable.seq)
    record(journal, 1)
    batch = journal.take(9)
    assert any(isinstance(command, Remove) for command in batch.commands)
    disk.perform(
        Batch(tuple(c for c in batch.commands if not isinstance(c, Remove)), batch.head, batch.taken)
    )
    assert verify(disk.entries()).holds
    journal = disk.journal()
    flush(journal, disk)
    journal.acknowledge(journal.durable.seq)
    record(journal, 2)
    flush(journal, disk)
    assert journal.size <= TOTAL + SEGMENT
    assert verify(disk.entries()).holds


def test_a_disk_that_takes_nothing_is_an_error_and_not_memory_without_end() -> None:
    journal = Disk().journal(segment=1 << 30)
    for number in range(MAX_PENDING):
        record(journal, number)
    with pytest.raises(ValidationError) as caught:
        record(journal, 1)
    assert caught.value.code == "V063"


def test_a_log_that_waits_for_a_full_disk_and_is_too_large_can_still_be_written() -> None:
    disk = Disk()
    list(grown(disk.journal(total=1 << 20), disk, 60, False))
    journal = disk.journal(total=3_000)
    flush(journal, disk)
    journal.acknowledge(journal.durable.seq)
    for number in range(MAX_PENDING):
        record(journal, number)
    flush(journal, disk)
    record(journal, 1)
    flush(journal, disk)
    assert verify(disk.entries(), expected_head=journal.durable).holds


def test_texts_are_cut_to_their_bounds_and_empty_details_left_out() -> None:
    journal = Disk().journal()
    entry = journal.record(
        1, "call", actor="a" * 999, object="o" * 999, detail={"reason": "r" * 9_999, "code": ""}
    )
    assert (len(entry.actor.encode()), len(entry.object.encode())) == (256, 256)
    assert len(entry.detail["reason"].encode()) == 1024
    assert "code" not in entry.detail
