"""The coordinator's serial brain on a real store, without a wire: what it sends, when, and at what cost."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest
from muster_coordinator.catalog.catalog import Reading
from muster_coordinator.catalog.repository import Heads
from muster_coordinator.notify.desk import Desk
from muster_coordinator.rollout import engine as engines
from muster_coordinator.rollout import launch
from muster_coordinator.rollout.effects import Effects
from muster_coordinator.rollout.engine import Engine
from muster_coordinator.rollout.wakes import Wakes
from muster_coordinator.store.sql.store import SqlStore
from muster_core.fleet import read_fleet
from muster_core.kinds.base import Metadata
from muster_core.kinds.model import Cluster, ClusterSpec
from muster_core.rollout.catchup import CatchUp
from muster_core.tree import MemoryTree
from muster_proto.v1 import link_pb2 as wire

FLEET = """\
apiVersion: muster.dev/v1alpha1
kind: Fleet
metadata: {name: acme}
spec: {id: "0123456789abcdef", mode: open, siteClasses: {edge: {contactInterval: 4m}}}
"""
PLAN = """\
apiVersion: muster.dev/v1alpha1
kind: RolloutPlan
metadata: {name: all}
spec:
  deadline: 2m
  waves:
  - {name: all, rest: true, maxInFlight: 100%, soak: 0s, offline: {after: 7m}}
"""
BUNDLE = """\
apiVersion: muster.dev/v1alpha1
kind: Bundle
metadata: {name: %s}
spec: {source: {path: manifests}, targets: [{selector: {}}], plan: all, namespace: default}
"""
OBJECT = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web}\ndata: {version: '%d'}\n"
MINUTE = 60.0


def cluster(name: str, **labels: str) -> Cluster:
    return Cluster(
        api_version="muster.dev/v1alpha1",
        kind="Cluster",
        metadata=Metadata(name=name, labels=labels),
        spec=ClusterSpec(uid=f"uid-of-{name}", identity_key="ed25519:" + "0" * 64),
    )


@dataclass
class Brain:
    """An engine that runs, the virtual time it reads, and what every cluster in contact was sent."""

    engine: Engine
    now: list[float]
    sent: dict[str, list[wire.HubFrame]] = field(default_factory=dict)
    connections: int = 0
    said: int = 0

    async def reads(self, version: int, *entries: Cluster, bundles: tuple[str, ...] = ("shop",)) -> None:
        files = {"fleet.yaml": FLEET, "plans/all.yaml": PLAN}
        for name in bundles:
            files[f"bundles/{name}/bundle.yaml"] = BUNDLE % name
            files[f"bundles/{name}/manifests/web.yaml"] = OBJECT % version
        contents = read_fleet(MemoryTree({path: text.encode() for path, text in files.items()}))
        assert not contents.problems
        heads = Heads(f"{version:040d}", "f" * 40)
        clusters = {entry.metadata.name: entry for entry in entries}
        await self.engine.ask(self.engine.read_catalog(Reading(heads, contents, clusters)))

    async def connect(self, name: str) -> None:
        self.connections += 1
        frames = self.sent.setdefault(name, [])
        hello = wire.Hello(capability=1, session_epoch="e")
        work = self.engine.agents.connected(name, hello, self.connections, frames.append, wire.Welcome())
        await self.engine.submit(work)
        await self.settled()

    async def lose(self, name: str) -> None:
        await self.engine.submit(self.engine.agents.disconnected(name, self.connections))
        await self.settled()

    async def says(self, name: str, frame: wire.AgentFrame) -> None:
        self.said += 1
        frame.seq = self.said
        await self.engine.submit(self.engine.agents.said(name, frame))
        await self.settled()

    async def settled(self) -> None:
        await self.engine.ask(lambda effects, now: None)

    async def passes(self, seconds: float) -> None:
        self.now[0] += seconds
        await self.settled()

    async def healthy(self, name: str, digest: str = "") -> None:
        """It takes the offer it was sent last, as a cluster whose objects are ready at once."""
        offer = self.offers(name)[-1]
        await self.says(name, wire.AgentFrame(offer_reply=reply(offer)))
        report = wire.Report(
            bundle=offer.release.bundle,
            release=offer.release,
            rollout=offer.rollout,
            attempt=offer.attempt,
            phase="Ready",
            outcome=wire.OUTCOME_HEALTHY,
            registry_digest=digest,
        )
        await self.says(name, wire.AgentFrame(report=report))

    def offers(self, name: str) -> list[wire.Offer]:
        return [frame.offer for frame in self.sent[name] if frame.HasField("offer")]

    def states(self) -> dict[str, str]:
        return {name: machine.state for name, machine in self.engine.state.rollouts.items()}


def reply(offer: wire.Offer) -> wire.OfferReply:
    return wire.OfferReply(
        rollout=offer.rollout,
        bundle=offer.release.bundle,
        attempt=offer.attempt,
        answer=wire.OfferReply.ACKNOWLEDGED,
    )


@asynccontextmanager
async def brain(
    folder: Path, publish: Callable[[Effects], None] = lambda effects: None, desk: Desk | None = None
) -> AsyncIterator[Brain]:
    """One life of an engine over the folder's store."""
    now = [1_000_000.0]
    store = await SqlStore.open(folder / "muster.db")
    engine = Engine(store, lambda: now[0], publish, 0.0, desk)
    try:
        await engine.load()
        async with anyio.create_task_group() as group:
            group.start_soon(engine.run)
            yield Brain(engine, now)
            group.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            await engine.aclose()
            await store.close()


def kinds(frames: list[wire.HubFrame]) -> list[str | None]:
    return [frame.WhichOneof("body") for frame in frames]


async def test_an_offer_goes_out_before_the_news_of_its_commit(tmp_path: Path) -> None:
    async with brain(tmp_path) as at:
        await at.reads(1, cluster("a"), bundles=())
        await at.connect("a")
        assert kinds(at.sent["a"]) == ["welcome", "head"]
        at.sent["a"].clear()
        await at.reads(2, cluster("a"))
        assert kinds(at.sent["a"]) == ["offer", "head"]


async def test_batches_that_follow_each_other_are_acknowledged_in_one_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "MAX_BATCH", 1)
    monkeypatch.setattr(engines, "ACK_PAUSE", 3600.0)
    async with brain(tmp_path) as at:
        await at.reads(1, cluster("a"), bundles=())
        await at.connect("a")
        at.sent["a"].clear()
        for seq in range(1, 21):
            frame = wire.AgentFrame(seq=seq, report=wire.Report(bundle="shop", phase="Ready"))
            at.engine.submit_nowait(at.engine.agents.said("a", frame))
        await at.settled()
        acks = [frame.ack for frame in at.sent["a"]]
        assert acks[-1] == 20, "an answer is never before the acknowledgement of what came earlier"
        assert len(acks) <= 2, "the first goes out at once"


async def test_what_was_taken_shortly_after_an_acknowledgement_is_acknowledged_without_a_further_input(
    tmp_path: Path,
) -> None:
    async with brain(tmp_path) as at:
        await at.reads(1, cluster("a"), bundles=())
        await at.connect("a")
        for seq in range(1, 4):
            frame = wire.AgentFrame(seq=seq, report=wire.Report(bundle="shop", phase="Ready"))
            await at.engine.submit(at.engine.agents.said("a", frame))
            with anyio.fail_after(5):
                while at.sent["a"][-1].ack < seq:
                    await anyio.sleep(0.01)


async def test_a_queued_release_starts_when_the_one_before_it_ends(tmp_path: Path) -> None:
    async with brain(tmp_path) as at:
        await at.reads(1, cluster("a"))
        await at.connect("a")
        await at.reads(2, cluster("a"))
        assert at.states() == {"shop-0001": "Running"}
        await at.healthy("a")
        assert at.states() == {"shop-0001": "Succeeded", "shop-0002": "Running"}
        assert [offer.rollout for offer in at.offers("a")] == ["shop-0001", "shop-0002"]


async def test_a_clock_that_ends_a_rollout_needs_no_input(tmp_path: Path) -> None:
    async with brain(tmp_path) as at:
        await at.reads(1, cluster("a"), cluster("b"))
        await at.connect("a")
        await at.healthy("a")
        assert at.engine.state.rollouts["shop-0001"].targets["b"].state == "offered"
        at.now[0] += 7 * MINUTE
        await at.settled()
        assert at.states() == {"shop-0001": "Succeeded"}


async def owing(at: Brain) -> CatchUp:
    """``b`` was away for the whole rollout."""
    await at.reads(1, cluster("a"), cluster("b"))
    await at.connect("a")
    await at.healthy("a")
    await at.passes(7 * MINUTE)
    assert at.states() == {"shop-0001": "Succeeded"}
    return at.engine.state.debts["shop"]


async def test_catching_up_has_the_clocks_of_the_plan(tmp_path: Path) -> None:
    async with brain(tmp_path) as at:
        ledger = await owing(at)
        await at.connect("b")
        assert ledger.debts["b"].until == at.now[0] + 7 * MINUTE  # offline.after
        await at.says("b", wire.AgentFrame(offer_reply=reply(at.offers("b")[-1])))
        assert ledger.debts["b"].until == at.now[0] + 2 * MINUTE  # deadline
        await at.passes(2 * MINUTE)
        assert ledger.debts["b"].state == "failed"


async def test_the_clocks_of_catching_up_are_the_plan_s_after_a_restart_too(tmp_path: Path) -> None:
    async with brain(tmp_path) as at:
        await owing(at)
    async with brain(tmp_path) as at:
        ledger = at.engine.state.debts["shop"]
        assert (ledger.deadline, ledger.offer_for) == (2 * MINUTE, 7 * MINUTE)


async def test_who_was_in_contact_before_there_were_debts_is_offered_at_once(tmp_path: Path) -> None:
    async with brain(tmp_path) as at:
        await at.reads(1, cluster("a"), bundles=())
        await at.connect("a")
        await at.reads(1, cluster("a"))
        await at.healthy("a", at.engine.state.clusters["a"].entry_digest)
        await at.reads(1, cluster("a", tier="gold"))
        assert at.offers("a")[-1].catch_up
        assert at.offers("a")[-1].registry_digest == at.engine.state.clusters["a"].entry_digest


async def test_an_entry_that_says_the_same_as_before_owes_nothing(tmp_path: Path) -> None:
    async with brain(tmp_path) as at:
        await at.reads(1, cluster("a"))
        await at.connect("a")
        await at.healthy("a", at.engine.state.clusters["a"].entry_digest)
        await at.reads(1, cluster("a"))
        assert len(at.offers("a")) == 1


async def test_a_contact_costs_what_concerns_its_own_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def counting(*given: object) -> bool:
        asked.append(given)
        return takes(*given)  # type: ignore[arg-type]

    takes = launch.takes
    async with brain(tmp_path) as at:
        await owing(at)
        late = [cluster(f"late-{number}") for number in range(40)]
        await at.reads(1, cluster("a"), cluster("b"), *late)
        monkeypatch.setattr(launch, "takes", counting)
        await at.connect("late-7")
        assert len(asked) <= 1
        assert at.offers("late-7")[-1].catch_up


async def test_ledgers_of_other_bundles_are_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    offers = CatchUp.offers

    def counting(ledger: CatchUp, *given: object) -> object:
        asked.append(ledger.bundle)
        return offers(ledger, *given)  # type: ignore[arg-type]

    async with brain(tmp_path) as at:
        await at.reads(1, cluster("a"), cluster("b"), bundles=("cart", "shop"))
        await at.connect("a")
        for bundle in ("cart", "shop"):  # one at a time
            assert at.offers("a")[-1].release.bundle == bundle
            await at.healthy("a")
        await at.passes(7 * MINUTE)
        assert set(at.states().values()) == {"Succeeded"}
        await at.connect("b")
        monkeypatch.setattr(CatchUp, "offers", counting)
        await at.says("b", wire.AgentFrame(report=wire.Report(bundle="shop", phase="Ready")))
        assert asked == []
        (catch_up,) = (offer for offer in at.offers("b") if offer.release.bundle == "cart")
        await at.says("b", wire.AgentFrame(offer_reply=reply(catch_up)))
        assert asked == ["cart"]


async def test_a_contact_that_is_taken_over_is_no_news(tmp_path: Path) -> None:
    lines: list[str] = []
    async with brain(tmp_path, lambda effects: lines.extend(effects.lines)) as at:
        await at.reads(1, cluster("a"), bundles=())
        await at.connect("a")
        await at.connect("a")
        await at.lose("a")
    assert lines == ["a is in contact", "a is out of contact"]


async def test_after_its_end_nobody_waits_for_an_answer(tmp_path: Path) -> None:
    async with brain(tmp_path) as at:
        engine = at.engine
    with pytest.raises(anyio.ClosedResourceError):
        await engine.ask(lambda effects, now: None)


def test_the_newest_word_about_a_wake_counts() -> None:
    wakes = Wakes()
    wakes.put("a", 5.0)
    wakes.put("b", 3.0)
    wakes.put("a", 9.0)
    assert wakes.next() == 3.0
    wakes.put("b", None)
    assert wakes.next() == 9.0
    assert wakes.due(8.9) == []
    wakes.put("c", 1.0)
    assert wakes.due(9.0) == ["c", "a"]
    assert wakes.next() is None


def test_wakes_that_are_put_off_again_and_again_take_no_room() -> None:
    wakes = Wakes()
    for at in range(10_000):
        wakes.put("a", float(at))
    assert len(wakes._heap) < 100
    assert wakes.due(1e9) == ["a"]
