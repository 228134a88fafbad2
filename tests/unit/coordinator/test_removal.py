"""What the coordinator does about clusters that are to be uninstalled, and bundles that are being taken away."""

from __future__ import annotations

from pathlib import Path

import msgspec
from muster_coordinator.api.views import cluster_view, rollout_view
from muster_coordinator.catalog.catalog import Reading
from muster_coordinator.catalog.repository import Heads
from muster_core.fleet import read_fleet
from muster_core.kinds.model import Cluster
from muster_core.tree import MemoryTree
from muster_proto.v1 import link_pb2 as wire
from unit.coordinator.test_engine import BUNDLE, FLEET, PLAN, Brain, brain, cluster

KEPT = "v1/Namespace shop"


def leaving(name: str) -> Cluster:
    entry = cluster(name)
    return msgspec.structs.replace(entry, spec=msgspec.structs.replace(entry.spec, removal="uninstall"))


async def taken_away(at: Brain, name: str, phase: str) -> None:
    report = wire.Report(bundle="shop", release=at.offers(name)[-1].release, phase=phase)
    await at.says(name, wire.AgentFrame(report=report))


def seen(at: Brain, name: str) -> tuple[str, str]:
    view = cluster_view(at.engine.state, at.engine.state.clusters[name])
    return view.state, view.message


async def running(at: Brain) -> None:
    await at.reads(1, cluster("a"), cluster("b"))
    for name in "ab":
        await at.connect(name)
        await at.healthy(name)
    assert at.states() == {"shop-0001": "Succeeded"}


async def test_who_leaves_is_offered_nothing_and_nobody_waits_for_it(tmp_path: Path) -> None:
    async with brain(tmp_path) as at:
        await running(at)
        await at.reads(2, cluster("a"), cluster("b"))
        at.sent["b"].clear()
        await at.reads(2, cluster("a"), leaving("b"))
        await at.healthy("a")
        assert at.states()["shop-0002"] == "Succeeded"
        await at.reads(3, cluster("a"), leaving("b"))
        assert set(at.engine.state.rollouts["shop-0003"].targets) == {"a"}
        assert at.offers("b") == []
        assert at.engine.state.ledger("shop").debts == {}


async def test_it_is_listed_as_removing_until_it_says_that_it_is_done(tmp_path: Path) -> None:
    async with brain(tmp_path) as at:
        await running(at)
        await at.reads(1, cluster("a"), leaving("b"))
        assert seen(at, "b") == ("Removing", "every bundle is taken away")
        await taken_away(at, "b", "Removing")
        assert seen(at, "b")[0] == "Removing"
        removal = wire.Removal(registry_commit="f" * 40, kept=[KEPT])
        await at.says("b", wire.AgentFrame(removal=removal))
        state, message = seen(at, "b")
        assert state == "Removed"
        assert message.startswith(
            f"nothing is left of its bundles; kept there: {KEPT}: muster cluster remove b"
        )
        await at.lose("b")
        assert seen(at, "b")[0] == "Removed"
        await at.reads(1, cluster("a"), cluster("b"))
        assert seen(at, "b") == ("Offline", "")


async def test_who_is_away_is_waited_for(tmp_path: Path) -> None:
    async with brain(tmp_path) as at:
        await running(at)
        await at.lose("b")
        await at.reads(1, cluster("a"), leaving("b"))
        assert seen(at, "b") == ("Removing", "it is taken away when it is back")


async def test_what_it_said_is_known_after_a_restart(tmp_path: Path) -> None:
    async with brain(tmp_path) as at:
        await running(at)
        await at.reads(1, cluster("a"), leaving("b"))
        await taken_away(at, "b", "Removed")
    async with brain(tmp_path) as at:
        await at.reads(1, cluster("a"), leaving("b"))
        assert seen(at, "b")[0] == "Removed"


async def test_a_cluster_that_is_not_asked_to_leave_is_not_taken_at_its_word(tmp_path: Path) -> None:
    async with brain(tmp_path) as at:
        await running(at)
        await at.says("b", wire.AgentFrame(removal=wire.Removal()))
        assert seen(at, "b") == ("Online", "")
        assert not at.engine.state.clusters["b"].removed
        # What it said before it was asked does not count when it is.
        await at.reads(1, cluster("a"), leaving("b"))
        assert seen(at, "b")[0] == "Removing"


async def test_a_release_that_takes_a_bundle_away_says_so(tmp_path: Path) -> None:
    async with brain(tmp_path) as at:
        await running(at)
        empty = BUNDLE.replace("source: {path: manifests}, ", "").replace("namespace: default", "remove: {}")
        files = {"fleet.yaml": FLEET, "plans/all.yaml": PLAN, "bundles/shop/bundle.yaml": empty % "shop"}
        contents = read_fleet(MemoryTree({path: text.encode() for path, text in files.items()}))
        assert not contents.problems
        clusters = {name: cluster(name) for name in "ab"}
        reading = Reading(Heads("2" * 40, "f" * 40), contents, clusters)
        await at.engine.ask(at.engine.read_catalog(reading))
        views = {
            name: rollout_view(machine, targets=False) for name, machine in at.engine.state.rollouts.items()
        }
        assert {name: view.removes for name, view in views.items()} == {"shop-0001": False, "shop-0002": True}
