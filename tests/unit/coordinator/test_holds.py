"""Who is not offered what would be its turn: freezes, dependencies, another bundle that changes there, the fleet's limit."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from muster_coordinator.catalog.catalog import Reading
from muster_coordinator.catalog.repository import Heads
from muster_coordinator.rollout.freezes import FreezeCreated
from muster_coordinator.rollout.launch import in_order
from muster_core.errors import MusterError
from muster_core.fleet import read_fleet
from muster_core.kinds.model import Bundle, Cluster
from muster_core.kinds.parse import parse
from muster_core.manifest.load import load_documents
from muster_core.release import BundleAt
from muster_core.tree import MemoryTree
from muster_proto.v1 import link_pb2 as wire
from unit.coordinator.test_engine import Brain, brain, cluster, reply

HOUR = 3600.0
OBJECT = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web}\ndata: {version: '%s'}\n"


@dataclass
class Repo:
    """A fleet repository in memory; ``bundles`` by name: what is added to their spec, and the version of their object."""

    bundles: dict[str, tuple[str, str]] = field(default_factory=dict)
    fleet: str = ""
    plan: str = "offline: {after: 7m}, maxInFlight: 100%"
    more: str = ""
    mode: str = "open"
    commits: int = 0

    async def read(self, at: Brain, *entries: Cluster) -> None:
        self.commits += 1
        kinds = "apiVersion: muster.dev/v1alpha1\nkind: "
        files = {
            "fleet.yaml": f"{kinds}Fleet\nmetadata: {{name: acme}}\n"
            f'spec: {{id: "0123456789abcdef", mode: {self.mode}{self.fleet}}}\n',
            "plans/all.yaml": f"{kinds}RolloutPlan\nmetadata: {{name: all}}\n"
            f"spec: {{deadline: 2m, waves: [{{name: all, rest: true, {self.plan}}}]{self.more}}}\n",
        }
        for name, (spec, version) in self.bundles.items():
            files[f"bundles/{name}/bundle.yaml"] = (
                f"{kinds}Bundle\nmetadata: {{name: {name}}}\nspec: {{source: {{path: m}}, plan: all, namespace: default,"
                f" {spec or 'targets: [{selector: {}}]'}}}\n"
            )
            files[f"bundles/{name}/m/web.yaml"] = OBJECT % version
        contents = read_fleet(MemoryTree({path: text.encode() for path, text in files.items()}))
        assert not contents.problems, contents.problems
        heads = Heads(f"{self.commits:040d}", "f" * 40)
        named = {entry.metadata.name: entry for entry in entries}
        await at.engine.ask(at.engine.read_catalog(Reading(heads, contents, named)))


def last(at: Brain, name: str) -> str:
    """The bundle that a cluster was offered last and that was not withdrawn since, or nothing."""
    offered = ""
    for frame in at.sent.get(name, []):
        if frame.HasField("offer"):
            offered = frame.offer.release.bundle
        elif frame.HasField("withdraw") and frame.withdraw.bundle == offered:
            offered = ""
    return offered


def offered(at: Brain, name: str) -> list[str]:
    return [offer.rollout for offer in at.offers(name)]


def held(at: Brain, rollout: str, name: str) -> str:
    machine = at.engine.state.rollouts[rollout]
    return machine.waves[machine.targets[name].wave].line.held.get(name, "")


async def says(at: Brain, name: str, offer: wire.Offer, outcome: int, phase: str = "Ready") -> None:
    await at.says(name, wire.AgentFrame(offer_reply=reply(offer)))
    report = wire.Report(
        bundle=offer.release.bundle,
        release=offer.release,
        rollout=offer.rollout,
        attempt=offer.attempt,
        phase=phase,
        outcome=outcome,  # type: ignore[arg-type]
        message="broken" if outcome == wire.OUTCOME_FAILED else "",
    )
    await at.says(name, wire.AgentFrame(report=report))


def target(at: Brain, rollout: str, name: str) -> str:
    return at.engine.state.rollouts[rollout].targets[name].state


# --- one bundle at a time ------------------------------------------------------------------------------------------


async def test_one_bundle_changes_at_a_time_on_one_cluster(tmp_path: Path) -> None:
    async with brain(tmp_path) as at:
        repo = Repo({"cart": ("", "1"), "shop": ("", "1")})
        await repo.read(at)
        await at.connect("a")
        await at.connect("b")
        await repo.read(at, cluster("a"), cluster("b"))
        assert [last(at, name) for name in "ab"] == ["cart", "cart"]
        assert "cart-0001 changes it" in held(at, "shop-0001", "a")
        await at.healthy("a")
        assert [last(at, name) for name in "ab"] == ["shop", "cart"]
        assert target(at, "shop-0001", "b") == "waiting"
        await at.healthy("a")
        await at.healthy("b")
        await at.healthy("b")
        assert set(at.states().values()) == {"Succeeded"}
        assert offered(at, "a") == ["cart-0001", "shop-0001"]


async def test_a_cluster_that_is_away_is_offered_everything_and_takes_one_when_it_is_back(
    tmp_path: Path,
) -> None:
    async with brain(tmp_path) as at:
        repo = Repo({"cart": ("", "1"), "shop": ("", "1")})
        await repo.read(at, cluster("a"), cluster("b"))
        assert [target(at, f"{bundle}-0001", "a") for bundle in ("cart", "shop")] == ["offered", "offered"]
        await at.connect("a")
        assert offered(at, "a") == ["cart-0001"]
        assert target(at, "shop-0001", "a") == "waiting"
        await at.lose("a")
        assert target(at, "shop-0001", "a") == "offered", "its time to be owed runs, beside the other's"
        await at.passes(7 * 60)
        assert [target(at, f"{bundle}-0001", "a") for bundle in ("cart", "shop")] == ["owed", "owed"]


async def test_who_waits_for_a_soak_says_so_and_a_soak_without_a_slot_keeps_nobody(tmp_path: Path) -> None:
    for more, then in (("", "cart"), (", soakHoldsSlot: false", "shop")):
        folder = tmp_path / (then or "x")
        folder.mkdir()
        async with brain(folder) as at:
            repo = Repo(
                {"cart": ("", "1"), "shop": ("", "1")}, plan="soak: 10m, maxInFlight: 100%", more=more
            )
            await repo.read(at)
            await at.connect("a")
            await repo.read(at, cluster("a"))
            await at.healthy("a")
            assert last(at, "a") == then
            await at.passes(600)
            assert last(at, "a") == "shop"


async def test_a_catch_up_waits_while_a_rollout_changes_the_cluster_and_the_other_way_round(
    tmp_path: Path,
) -> None:
    async with brain(tmp_path) as at:
        repo = Repo({"cart": ("", "1")})
        await repo.read(at, cluster("a"), cluster("b"), cluster("c"))
        await at.connect("a")
        await at.connect("c")
        await at.healthy("a")
        await at.healthy("c")
        await at.passes(7 * 60)
        assert at.states() == {"cart-0001": "Succeeded"}
        await at.connect("b")
        assert at.offers("b")[-1].catch_up
        repo.bundles["shop"] = ("", "1")
        await repo.read(at, cluster("a"), cluster("b"), cluster("c"))
        assert "cart+catchup changes it" in held(at, "shop-0001", "b")
        await at.healthy("b")
        assert last(at, "b") == "shop"
        # Now the rollout is on, and a changed entry of the registry owes the other bundle anew.
        await repo.read(at, cluster("a"), cluster("b", tier="gold"), cluster("c"))
        assert len(at.offers("b")) == 2
        await at.healthy("b")


# --- what a bundle depends on --------------------------------------------------------------------------------------

ON_CART = "dependsOn: [{name: cart}], targets: [{selector: {}}]"


async def test_a_bundle_waits_on_each_cluster_for_what_it_depends_on(tmp_path: Path) -> None:
    async with brain(tmp_path) as at:
        repo = Repo({"cart": ("", "1"), "app": (ON_CART, "1")})
        await repo.read(at)
        for name in "abc":
            await at.connect(name)
        await repo.read(at, *(cluster(name) for name in "abc"))
        assert [last(at, name) for name in "abc"] == ["cart"] * 3
        assert held(at, "app-0001", "a") == "it depends on cart, which is not there yet"
        await at.healthy("a")
        assert last(at, "a") == "app"
        await says(at, "b", at.offers("b")[-1], wire.OUTCOME_FAILED, "Degraded")
        assert held(at, "app-0001", "b") == "it depends on cart, which is Degraded there"
        assert last(at, "b") == "cart"
        await at.says("b", wire.AgentFrame(report=wire.Report(bundle="cart", phase="Ready")))
        assert held(at, "app-0001", "b") == "it depends on cart, which is not there yet"


async def test_an_older_release_of_what_it_depends_on_is_not_enough(tmp_path: Path) -> None:
    async with brain(tmp_path) as at:
        repo = Repo({"cart": ("", "1")})
        await repo.read(at, cluster("a"), cluster("b"), cluster("c"))
        for name in "abc":
            await at.connect(name)
            await at.healthy(name)
        await at.lose("c")
        repo.bundles["cart"] = ("", "2")
        repo.bundles["app"] = (ON_CART, "1")
        await repo.read(at, cluster("a"), cluster("b"), cluster("c"))
        assert last(at, "a") == "cart"
        assert target(at, "app-0001", "c") == "offered", "the old one is good until the new one has succeeded"
        await at.healthy("a")
        assert last(at, "a") == "app"
        await at.healthy("b")
        await at.passes(7 * 60)
        assert at.states()["cart-0002"] == "Succeeded"
        assert held(at, "app-0001", "c") == "it depends on cart, which is still on 0000000 there"
        await at.connect("c")
        assert at.offers("c")[-1].catch_up
        await at.healthy("c")
        assert last(at, "c") == "app"


def test_what_others_depend_on_starts_before_them_and_a_cycle_ends() -> None:
    kinds = "apiVersion: muster.dev/v1alpha1\nkind: Bundle\nmetadata: {name: %s}\nspec: {targets: [{selector: {}}]%s}"
    needs = {"a": "bc", "b": "d", "c": "d", "d": "", "x": "y", "y": "x", "z": "q"}
    bundles = {
        name: BundleAt(parse(load_documents((kinds % (name, on(others))).encode(), "b")[0], Bundle), "b", "")
        for name, others in needs.items()
    }
    assert in_order(bundles, needs) == ["d", "b", "c", "a", "x", "y", "z"]
    assert in_order(bundles, []) == []


def on(names: str) -> str:
    return f", dependsOn: [{', '.join(f'{{name: {name}}}' for name in names)}]" if names else ""


async def test_what_does_not_target_the_cluster_is_not_waited_for(tmp_path: Path) -> None:
    async with brain(tmp_path) as at:
        elsewhere = "targets: [{selector: {matchLabels: {tier: store}}}]"
        repo = Repo({"cart": (elsewhere, "1"), "app": (ON_CART, "1")})
        await repo.read(at)
        await at.connect("a")
        await at.connect("b")
        await repo.read(at, cluster("a"), cluster("b", tier="store"))
        assert last(at, "a") == "app"
        assert last(at, "b") == "cart"


# --- freezes -------------------------------------------------------------------------------------------------------


def freeze(name: str, selector: str, until: float, bundle: str = "", reason: str = "") -> FreezeCreated:
    return FreezeCreated(
        at=0.0, name=name, by="ada", until=until, selector=selector, bundle=bundle, reason=reason
    )


async def test_a_frozen_cluster_is_offered_nothing_until_its_time_and_what_runs_goes_on(
    tmp_path: Path,
) -> None:
    async with brain(tmp_path) as at:
        repo, entries = Repo({"cart": ("", "1")}), (cluster("a", tier="store"), cluster("b"))
        await repo.read(at)
        await at.connect("a")
        await at.connect("b")
        until = at.now[0] + 8 * HOUR
        await at.engine.ask(at.engine.freeze(freeze("sale", "tier=store", until, reason="black friday")))
        await repo.read(at, *entries)
        assert (last(at, "a"), last(at, "b")) == ("", "cart")
        why = held(at, "cart-0001", "a")
        assert why == "frozen by sale until 1970-01-12T21:46:40Z: black friday"
        await at.healthy("b")
        await at.passes(8 * HOUR - 1)
        assert last(at, "a") == ""
        at.now[0] += 1
        await at.settled()
        await at.settled()
        assert last(at, "a") == "cart", "no input is needed at its end"


async def test_a_freeze_takes_back_what_nobody_took_and_ends_when_it_is_deleted(tmp_path: Path) -> None:
    async with brain(tmp_path) as at:
        repo = Repo({"cart": ("", "1")}, plan="maxInFlight: 100%, offline: {after: 90m}")
        await repo.read(at, cluster("a"), cluster("b"))
        await at.connect("a")
        await at.engine.ask(at.engine.freeze(freeze("now", "", at.now[0] + HOUR)))
        assert last(at, "a") == ""
        assert target(at, "cart-0001", "a") == "waiting"
        ended = await at.engine.ask(at.engine.unfreeze("now", "ada"))
        assert ended.name == "now"
        assert last(at, "a") == "cart"
        assert await at.engine.ask(at.engine.unfreeze("now", "ada")) is None


async def test_a_freeze_of_one_bundle_and_a_freeze_of_a_catch_up(tmp_path: Path) -> None:
    async with brain(tmp_path) as at:
        repo = Repo({"cart": ("", "1"), "shop": ("", "1")})
        await repo.read(at, cluster("a"), cluster("b"))
        await at.connect("a")
        await at.healthy("a")
        await at.healthy("a")
        await at.passes(7 * 60)
        await at.engine.ask(at.engine.freeze(freeze("one", "", at.now[0] + HOUR, bundle="cart")))
        await at.connect("b")
        assert offered(at, "b") == ["shop-0001+catchup"]
        await at.healthy("b")
        assert offered(at, "b") == ["shop-0001+catchup"]
        await at.passes(HOUR)
        await at.settled()
        assert offered(at, "b") == ["shop-0001+catchup", "cart-0001+catchup"]


async def test_a_freeze_outlives_a_restart(tmp_path: Path) -> None:
    repo = Repo({"cart": ("", "1")})
    async with brain(tmp_path) as at:
        await at.engine.ask(at.engine.freeze(freeze("long", "", at.now[0] + HOUR)))
    async with brain(tmp_path) as at:
        await repo.read(at)
        await at.connect("a")
        await repo.read(at, cluster("a"))
        assert last(at, "a") == ""
        assert [f.created.name for f in at.engine.holds.freezes.standing(at.now[0])] == ["long"]
        await at.passes(HOUR)
        await at.settled()
        assert last(at, "a") == "cart"


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        (freeze("one", "", 0.0), "R084"),
        (freeze("one", "", 1e12), "R084"),
        (freeze("one", "", float("nan")), "R084"),
        (freeze("A name", "", 1_003_600.0), "R084"),
        (freeze("one", "x" * 2000, 1_003_600.0), "R084"),
        (freeze("one", "tier=(", 1_003_600.0), "V032"),
        (freeze("taken", "", 1_003_600.0), "R082"),
    ],
)
async def test_what_is_no_freeze_is_refused_and_nothing_is_kept(
    tmp_path: Path, wanted: FreezeCreated, code: str
) -> None:
    async with brain(tmp_path) as at:
        await at.engine.ask(at.engine.freeze(freeze("taken", "", 1_003_600.0)))
        with pytest.raises(MusterError) as failed:
            await at.engine.ask(at.engine.freeze(wanted))
        assert failed.value.code == code
        assert [f.created.name for f in at.engine.holds.freezes.standing(at.now[0])] == ["taken"]


# --- the fleet's limit ---------------------------------------------------------------------------------------------


def in_flight(at: Brain) -> int:
    state = at.engine.state
    return sum(m.in_flight for m in state.active()) + sum(ledger.busy for ledger in state.debts.values())


async def test_no_more_clusters_than_the_fleet_allows_are_in_flight_over_all_rollouts(tmp_path: Path) -> None:
    names = [f"c{number:02d}" for number in range(20)]
    async with brain(tmp_path) as at:
        repo = Repo({"cart": ("", "1"), "shop": ("", "1")}, fleet=", limits: {maxDisrupted: 20%}")
        await repo.read(at)
        for name in names:
            await at.connect(name)
        await repo.read(at, *(cluster(name) for name in names))
        most: dict[str, int] = {}
        for _ in range(200):
            assert in_flight(at) <= 4
            for machine in at.engine.state.active():
                most[machine.name] = max(most.get(machine.name, 0), machine.in_flight)
            busy = [
                (name, machine)
                for machine in at.engine.state.active()
                for name in names
                if machine.targets[name].state == "offered"
            ]
            if not busy:
                break
            name, machine = busy[0]
            offer = next(o for o in reversed(at.offers(name)) if o.rollout == machine.name)
            await says(at, name, offer, wire.OUTCOME_HEALTHY)
        assert at.states() == {"cart-0001": "Succeeded", "shop-0001": "Succeeded"}
        assert most["shop-0001"] >= 2, "what is free goes to both"
        assert most["cart-0001"] >= 2


async def test_a_limit_that_another_rollout_uses_up_is_the_reason_that_is_told(tmp_path: Path) -> None:
    async with brain(tmp_path) as at:
        repo = Repo({"cart": ("", "1")}, fleet=", limits: {maxDisrupted: 1}")
        await repo.read(at)
        await at.connect("a")
        await at.connect("b")
        await repo.read(at, cluster("a"), cluster("b"))
        assert in_flight(at) == 1
        repo.bundles["shop"] = ("", "1")
        await repo.read(at, cluster("a"), cluster("b"))
        machine = at.engine.state.rollouts["shop-0001"]
        assert machine.state == "Held"
        assert "maxDisrupted" in machine.why
        assert in_flight(at) == 1


async def test_catching_up_shares_the_fleet_s_limit(tmp_path: Path) -> None:
    names = "abcdef"
    async with brain(tmp_path) as at:
        repo = Repo(
            {"cart": ("", "1")}, fleet=", limits: {maxDisrupted: 2}", more=", catchUp: {maxInFlight: 100%}"
        )
        repo.plan += ", quorum: 0%"
        await repo.read(at, *(cluster(name) for name in names))
        await at.passes(7 * 60)
        await at.passes(7 * 60)
        await at.passes(7 * 60)
        for _ in range(20):
            if at.states() == {"cart-0001": "Succeeded"}:
                break
            machine = at.engine.state.rollouts["cart-0001"]
            flying = machine.outstanding()
            if flying and flying[0].cluster not in at.sent:
                await at.connect(flying[0].cluster)
            if flying:
                await says(at, flying[0].cluster, at.offers(flying[0].cluster)[-1], wire.OUTCOME_HEALTHY)
            await at.passes(7 * 60)
        ledger = at.engine.state.debts["cart"]
        for name in names:
            if name not in at.sent:
                await at.connect(name)
        assert in_flight(at) <= 2
        assert ledger.busy == min(2, len(ledger.debts))


async def test_a_limit_that_is_lifted_lets_everybody_go_on(tmp_path: Path) -> None:
    async with brain(tmp_path) as at:
        repo = Repo({"cart": ("", "1")}, fleet=", limits: {maxDisrupted: 1}")
        entries = [cluster(name) for name in "abcd"]
        await repo.read(at)
        for name in "abcd":
            await at.connect(name)
        await repo.read(at, *entries)
        assert in_flight(at) == 1
        repo.fleet = ""
        await repo.read(at, *entries)
        assert in_flight(at) == 4
        repo.fleet = ", limits: {maxDisrupted: 50%}"
        await repo.read(at, *entries)
        assert in_flight(at) == 4, "what runs goes on"


async def test_after_a_restart_nothing_is_offered_before_the_repository_is_read(tmp_path: Path) -> None:
    repo = Repo({"cart": ("", "1")}, plan="maxInFlight: 1, offline: {after: 7m}")
    entries = [cluster(name) for name in "ab"]
    async with brain(tmp_path) as at:
        await repo.read(at)
        await at.connect("a")
        await at.connect("b")
        await repo.read(at, *entries)
    async with brain(tmp_path) as at:
        await at.connect("a")
        await at.connect("b")
        await at.healthy("a")
        assert at.offers("b") == []
        await repo.read(at, *entries)
        assert last(at, "b") == "cart"


# --- deferred ------------------------------------------------------------------------------------------------------


async def defers(at: Brain, name: str, until: float) -> None:
    answer = reply(at.offers(name)[-1])
    answer.answer, answer.deferred_until_unix = wire.OfferReply.DEFERRED, int(until)
    answer.message = "its window opens at night"
    await at.says(name, wire.AgentFrame(offer_reply=answer))


async def test_a_site_that_takes_nothing_now_is_offered_it_again_at_its_time(tmp_path: Path) -> None:
    async with brain(tmp_path) as at:
        repo = Repo({"cart": ("", "1")})
        await repo.read(at)
        await at.connect("a")
        await repo.read(at, cluster("a"))
        await defers(at, "a", at.now[0] + 6 * HOUR)
        assert target(at, "cart-0001", "a") == "deferred"
        await at.passes(6 * HOUR - 10)
        assert len(at.offers("a")) == 1
        at.now[0] += 10
        await at.settled()
        await at.settled()
        assert len(at.offers("a")) == 2
        await at.healthy("a")
        assert at.states() == {"cart-0001": "Succeeded"}


async def test_a_site_that_names_no_time_is_asked_again_within_a_year(tmp_path: Path) -> None:
    async with brain(tmp_path) as at:
        repo = Repo({"cart": ("", "1")})
        await repo.read(at)
        await at.connect("a")
        await repo.read(at, cluster("a"))
        await defers(at, "a", 2**62)
        deadline = at.engine.state.rollouts["cart-0001"].targets["a"].deadline
        assert deadline is not None
        assert deadline <= at.now[0] + 366 * 24 * HOUR


async def test_a_catch_up_that_a_site_defers_frees_its_slot_and_is_offered_again(tmp_path: Path) -> None:
    async with brain(tmp_path) as at:
        repo = Repo({"cart": ("", "1")})
        await repo.read(at, *(cluster(name) for name in "abcd"))
        for name in "ab":
            await at.connect(name)
            await at.healthy(name)
        await at.passes(7 * 60)
        ledger = at.engine.state.debts["cart"]
        await at.connect("c")
        await at.connect("d")
        assert (ledger.busy, ledger.debts["c"].state) == (1, "offered")
        await defers(at, "c", at.now[0] + 6 * HOUR)
        assert ledger.debts["c"].state == "deferred"
        assert at.offers("d")[-1].catch_up
        await at.healthy("d")
        at.now[0] += 6 * HOUR
        await at.settled()
        await at.settled()
        assert len(at.offers("c")) == 2
        await at.healthy("c")
        assert ledger.debts == {}
