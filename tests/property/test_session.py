"""Agent's outbox and hub's inbox over a line that loses, repeats and breaks, with kill -9 on both sides."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from muster_core.session.backoff import Backoff
from muster_core.session.inbox import Inbox
from muster_core.session.outbox import Entry, Outbox, OutboxState

KEYS = ["report/shop", "report/dns", "reply/shop-0001/1"]


class Line(RuleBasedStateMachine):
    """The hub ends with the last word of every key; nothing is taken twice; the outbox stays small."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = OutboxState("epoch-1")
        self.outbox = Outbox(self.disk)
        self.inbox = Inbox()
        self.stored = Inbox()  # what the hub committed: inbox and messages in one transaction
        self.table: dict[str, bytes] = {}
        self.taken: set[bytes] = set()
        self.last: dict[str, bytes] = {}
        self.wire: list[Entry] = []
        self.acks: list[int] = []
        self.up = False
        self.words = 0

    @rule(key=st.sampled_from(KEYS))
    def say(self, key: str) -> None:
        self.words += 1
        data = b"%d" % self.words
        self.outbox.put(key, data)
        self.disk = self.outbox.snapshot()  # durable before it is sent
        self.last[key] = data
        assert len(self.outbox) <= len(KEYS)

    @rule()
    def connect(self) -> None:
        self.wire, self.acks = [], []
        self.inbox = Inbox(self.stored.epoch, self.stored.last)
        if self.outbox.reconnected(self.inbox.resume(self.outbox.epoch)):
            self.disk = self.outbox.snapshot()
        self.up = True

    @precondition(lambda self: self.up)
    @rule()
    def send(self) -> None:
        self.wire += self.outbox.unsent()

    @precondition(lambda self: self.wire)
    @rule(twice=st.booleans())
    def arrive(self, twice: bool) -> None:
        entry = self.wire[0]
        self.wire = self.wire if twice else self.wire[1:]
        if self.inbox.is_new(entry.seq):
            assert entry.data not in self.taken
            self.taken.add(entry.data)
            self.table[entry.key] = entry.data
            self.inbox.stored(entry.seq)
            self.stored = Inbox(self.inbox.epoch, self.inbox.last)
        self.acks.append(self.stored.last)

    @precondition(lambda self: self.acks)
    @rule()
    def acknowledge(self) -> None:
        if self.outbox.acknowledged(self.acks.pop(0)):
            self.disk = self.outbox.snapshot()

    @rule()
    def agent_dies(self) -> None:
        self.outbox, self.up, self.wire, self.acks = Outbox(self.disk), False, [], []

    @rule()
    def hub_dies(self) -> None:
        self.inbox, self.up, self.wire, self.acks = Inbox(self.stored.epoch, self.stored.last), False, [], []

    def teardown(self) -> None:
        self.connect()
        self.send()
        while self.wire:
            self.arrive(False)
        while self.acks:
            self.acknowledge()
        assert self.table == self.last
        assert not len(self.outbox)


TestLine = Line.TestCase


@given(
    minimum=st.floats(0.1, 5), maximum=st.floats(5, 600), failures=st.integers(1, 100), share=st.floats(0, 1)
)
def test_backoff_stays_within_what_the_hub_asked_for(
    minimum: float, maximum: float, failures: int, share: float
) -> None:
    backoff = Backoff(lambda low, high: low + share * (high - low))
    backoff.limits(minimum, maximum)
    delays = [backoff.next_delay() for _ in range(failures)]
    assert all(0 < delay <= maximum for delay in delays)
    backoff.connected_for(backoff.stable_after - 1)
    assert backoff.next_delay() >= delays[0] - 1e-9
    backoff.connected_for(backoff.stable_after)
    assert backoff.next_delay() == delays[0]
