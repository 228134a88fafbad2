"""Numbers, acknowledgements and waiting, one story each."""

from __future__ import annotations

from muster_core.session.backoff import Backoff
from muster_core.session.inbox import Inbox
from muster_core.session.outbox import Outbox, OutboxState


def test_a_newer_report_replaces_an_older_one_and_keeps_the_order() -> None:
    outbox = Outbox(OutboxState("e"))
    outbox.put("shop", b"1")
    outbox.put("dns", b"2")
    outbox.put("shop", b"3")
    assert [(entry.key, entry.seq, entry.data) for entry in outbox.unsent()] == [
        ("dns", 2, b"2"),
        ("shop", 3, b"3"),
    ]
    assert outbox.unsent() == []
    assert len(outbox) == 2


def test_an_acknowledgement_of_the_replaced_one_does_not_forget_the_newer() -> None:
    outbox = Outbox(OutboxState("e"))
    first = outbox.put("shop", b"1")
    outbox.unsent()
    outbox.put("shop", b"2")
    assert not outbox.acknowledged(first)
    assert [entry.data for entry in outbox.unsent()] == [b"2"]
    assert outbox.acknowledged(2)
    assert not len(outbox)


def test_after_a_break_what_is_not_durable_goes_again() -> None:
    outbox = Outbox(OutboxState("e"))
    for key in "abc":
        outbox.put(key, key.encode())
    outbox.unsent()
    assert outbox.reconnected(1)
    assert [entry.key for entry in outbox.unsent()] == ["b", "c"]


def test_a_restart_goes_on_from_the_snapshot() -> None:
    outbox = Outbox(OutboxState("e"))
    outbox.put("a", b"1")
    again = Outbox(outbox.snapshot())
    assert again.put("b", b"2") == 2
    assert [entry.seq for entry in again.unsent()] == [1, 2]


def test_a_restored_older_state_is_numbered_past_the_hub_and_loses_nothing() -> None:
    outbox = Outbox(OutboxState("e"))
    outbox.put("a", b"1")
    outbox.put("b", b"2")
    assert outbox.reconnected(40)
    assert [(entry.seq, entry.data) for entry in outbox.unsent()] == [(41, b"1"), (42, b"2")]


def test_what_was_acknowledged_is_remembered_and_never_more_than_was_said() -> None:
    outbox = Outbox(OutboxState("e"))
    for _ in range(3):
        outbox.put("shop", b"1")
    assert outbox.acked == 0
    outbox.acknowledged(2)
    assert outbox.acked == 2
    outbox.acknowledged(1)
    outbox.acknowledged(2**64 - 1)
    assert (outbox.acked, outbox.newest) == (3, 3)
    again = Outbox(outbox.snapshot())
    assert not again.reconnected(1)
    assert (again.acked, again.newest) == (3, 3)
    assert again.reconnected(40)  # a restored folder: the hub has heard more than this one ever said
    assert (again.acked, again.newest) == (40, 40)


def test_the_hub_takes_each_number_of_an_epoch_once() -> None:
    inbox = Inbox()
    assert inbox.resume("e1") == 0
    inbox.stored(3)
    assert not inbox.is_new(3)
    assert inbox.is_new(5)
    inbox.stored(2)
    assert inbox.resume("e1") == 3
    assert inbox.resume("e2") == 0
    assert inbox.is_new(1)


def test_waiting_doubles_to_its_bound_and_starts_anew_after_a_stable_line() -> None:
    backoff = Backoff(lambda low, high: high, minimum=1, maximum=8, stable_after=30)
    assert [backoff.next_delay() for _ in range(5)] == [1, 2, 4, 8, 8]
    backoff.connected_for(29)
    assert backoff.next_delay() == 8
    backoff.connected_for(30)
    assert backoff.next_delay() == 1
    backoff.limits(5, 2)
    assert backoff.next_delay() == 5


def test_jitter_spreads_from_half_of_the_least_to_the_bound() -> None:
    spans: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        spans.append((low, high))
        return low

    backoff = Backoff(uniform, minimum=2, maximum=60)
    for _ in range(3):
        backoff.next_delay()
    assert spans == [(1, 2), (1, 4), (1, 8)]
