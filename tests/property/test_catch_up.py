"""The ledger of catching up, under every order of inputs, on virtual time."""

from __future__ import annotations

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from muster_core.rollout import catchup as cu

RELEASES = [cu.Succeeded(f"shop-000{number}", f"c{number}", f"digest-{number}") for number in range(3)]
NAMES = [f"edge-{number}" for number in range(6)]
name_of = st.sampled_from(NAMES)


class Ledger(RuleBasedStateMachine):
    """Limits hold for every order; only told releases are offered; the log is the whole memory."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.ledger = cu.CatchUp("shop", deadline=60, offer_for=30)
        self.shadow = cu.CatchUp("shop", deadline=60, offer_for=30)
        self.log: list[cu.AnyCatchUpEvent] = []
        self.told: dict[str, set[str]] = {}
        self.online: set[str] = set()
        self.acknowledged: set[str] = set()

    def take(self, events: list[cu.AnyCatchUpEvent]) -> None:
        for event in events:
            note(str(event))
            self.shadow.apply(cu.decode(cu.encode(event)))
            if isinstance(event, cu.Lost):
                assert event.cluster in self.acknowledged
            if isinstance(event, cu.Acknowledged):
                self.acknowledged.add(event.cluster)
            elif not isinstance(event, cu.Offered):
                self.acknowledged.discard(event.cluster)
        self.log += events
        assert self.shadow.debts == self.ledger.debts
        states = [debt.state for debt in self.ledger.debts.values()]
        for ledger in (self.shadow, self.ledger):
            assert ledger.busy == sum(state in cu.BUSY for state in states)
            assert ledger.harmed == sum(state in cu.HARMED for state in states)
            assert ledger.base >= len(ledger.debts)
            assert ledger.next_wake() == self.ledger.next_wake()

    @initialize(owed=st.sets(name_of), online=st.sets(name_of))
    def begin(self, owed: set[str], online: set[str]) -> None:
        for cluster in sorted(owed):
            self.owe(cluster, 0)
        for cluster in sorted(online):
            self.contact(cluster, True)

    @rule(cluster=name_of, number=st.integers(0, 2), returns=st.sampled_from(["", "", "shop-0009"]))
    def owe(self, cluster: str, number: int, returns: str = "") -> None:
        self.told.setdefault(cluster, set()).add(RELEASES[number].tree_digest)
        before = self.ledger.debts.get(cluster)
        self.take(self.ledger.owe(cluster, RELEASES[number], self.now, returns=returns))
        debt = self.ledger.debts[cluster]
        assert debt.tree_digest == RELEASES[number].tree_digest
        same = before is not None and before.tree_digest == debt.tree_digest
        assert debt.returns == (returns or (before.returns if before and same else ""))

    @rule(cluster=name_of, online=st.booleans())
    def contact(self, cluster: str, online: bool) -> None:
        (self.online.add if online else self.online.discard)(cluster)
        self.take(self.ledger.contact(cluster, online, self.now))

    @rule(limit=st.integers(1, 3), taken=st.sets(name_of, max_size=2))
    def offers(self, limit: int, taken: set[str]) -> None:
        busy, stopped = self.ledger.busy, self.ledger.stopped
        owed = {name for name, debt in self.ledger.debts.items() if debt.state == "owed"}
        events = self.ledger.offers(limit, self.now, lambda debt: debt.cluster not in taken)
        able = (owed & self.online) - taken
        assert len(events) == (0 if stopped else min(len(able), max(0, limit - busy)))
        back = [bool(self.ledger.debts[event.cluster].returns) for event in events]
        assert back == sorted(back, reverse=True), "what has to be given back goes first"
        for event in events:
            assert isinstance(event, cu.Offered)
            assert event.cluster in able
            assert self.ledger.debts[event.cluster].tree_digest in self.told[event.cluster]
        self.take(events)

    @rule(cluster=name_of, number=st.integers(0, 2))
    def acknowledge(self, cluster: str, number: int) -> None:
        self.take(self.ledger.acknowledged(cluster, RELEASES[number].origin, self.now))

    @rule(cluster=name_of, number=st.integers(0, 2))
    def refuse(self, cluster: str, number: int) -> None:
        self.take(self.ledger.refused(cluster, RELEASES[number].origin, "denied", self.now))

    @rule(
        cluster=name_of,
        number=st.integers(0, 2),
        outcome=st.sampled_from(["applying", "healthy", "failed", "returned"]),
    )
    def report(self, cluster: str, number: int, outcome: str) -> None:
        digest = RELEASES[number].tree_digest
        before = self.ledger.debts.get(cluster)
        named = before is not None and before.tree_digest == digest
        events = self.ledger.reported(cluster, digest, outcome, "x", self.now)
        assert named or not events, "a report of another release settles nothing"
        self.take(events)

    @rule(seconds=st.sampled_from([0, 1, 29, 30, 60, 3600]))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds
        self.take(self.ledger.tick(self.now))
        wake = self.ledger.next_wake()
        assert wake is None or wake > self.now

    @rule(clusters=st.sets(name_of))
    def give_way(self, clusters: set[str]) -> None:
        owed = {name: debt.tree_digest for name, debt in self.ledger.debts.items()}
        self.take(self.ledger.give_way(sorted(clusters), self.now))
        assert owed == {name: debt.tree_digest for name, debt in self.ledger.debts.items()}
        assert not any(self.ledger.offer_to(name) for name in clusters)

    @rule(cluster=name_of)
    def drop(self, cluster: str) -> None:
        self.take(self.ledger.drop(cluster, self.now))
        assert cluster not in self.ledger.debts

    @rule()
    def coordinator_restarts(self) -> None:
        self.ledger = cu.CatchUp.replay("shop", self.log, deadline=60, offer_for=30)
        for cluster in sorted(self.online):
            self.take(self.ledger.contact(cluster, True, self.now))

    def teardown(self) -> None:
        """Everybody back and well: every debt that is not harm is settled, unless harm stopped the ledger."""
        for cluster in NAMES:
            self.contact(cluster, True)
        for _ in range(3 * len(NAMES)):
            self.now += 1
            self.take(self.ledger.offers(1, self.now))
            for cluster, debt in list(self.ledger.debts.items()):
                if debt.state in cu.BUSY:
                    self.take(self.ledger.acknowledged(cluster, debt.origin, self.now))
                    self.take(self.ledger.reported(cluster, debt.tree_digest, "healthy", "", self.now))
        assert self.ledger.stopped or not self.ledger.owed()


TestLedger = Ledger.TestCase
