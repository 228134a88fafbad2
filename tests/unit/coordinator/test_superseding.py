"""What takes whose place, and the way back to what was healthy before."""

from __future__ import annotations

from pathlib import Path

from muster_proto.v1 import link_pb2 as wire
from unit.coordinator.test_engine import Brain, brain, cluster
from unit.coordinator.test_holds import Repo, last, offered, says, target


async def test_a_newer_release_takes_the_place_of_one_whose_plan_says_so(tmp_path: Path) -> None:
    async with brain(tmp_path) as at:
        repo = Repo(
            {"cart": ("", "1")}, plan="maxInFlight: 2, offline: {after: 7m}", more=", supersede: replace"
        )
        entries = [cluster(name) for name in "abcd"]
        await repo.read(at)
        for name in "abcd":
            await at.connect(name)
        await repo.read(at, *entries)
        first = at.offers("a")[-1]
        await says(at, "a", first, wire.OUTCOME_APPLYING, "Applying")
        repo.bundles["cart"] = ("", "2")
        await repo.read(at, *entries)
        assert at.states() == {"cart-0001": "Superseded", "cart-0002": "Running"}
        machine = at.engine.state.rollouts["cart-0002"]
        assert machine.started.carried == ("a",)
        assert machine.in_flight == 2, "who is busy with the old one counts"
        assert last(at, "b") == "cart"
        assert offered(at, "a") == ["cart-0001"]
        await says(at, "a", first, wire.OUTCOME_HEALTHY)
        await at.healthy("b")
        assert offered(at, "a") == ["cart-0001", "cart-0002"]
        for name in "acd":
            await at.healthy(name)
        assert at.states()["cart-0002"] == "Succeeded"


async def test_without_the_word_a_newer_release_waits_and_one_that_cannot_start_replaces_nothing(
    tmp_path: Path,
) -> None:
    async with brain(tmp_path) as at:
        repo = Repo({"cart": ("", "1")}, more=", supersede: replace")
        await repo.read(at)
        await at.connect("a")
        await repo.read(at, cluster("a"))
        repo.bundles["cart"] = ("targets: [{selector: {matchLabels: {no: one}}}]", "2")
        await repo.read(at, cluster("a"))
        assert at.states() == {"cart-0001": "Running"}
        assert "R001" in at.engine.state.bundle_errors["cart"]


ROLLOUT_BACK = ", onFailure: {action: rollback, scope: rollout}"


async def failing(at: Brain, repo: Repo) -> None:
    """Version 1 is everywhere; of version 2 ``a`` is healthy, ``b`` fails."""
    entries = [cluster(name) for name in "abc"]
    await repo.read(at, *entries)
    for name in "abc":
        await at.connect(name)
        await at.healthy(name)
    assert at.states() == {"cart-0001": "Succeeded"}
    repo.bundles["cart"] = (repo.bundles["cart"][0], "2")
    await repo.read(at, *entries)
    await at.healthy("a")
    await says(at, "b", at.offers("b")[-1], wire.OUTCOME_FAILED, "Degraded")


async def test_what_was_healthy_on_a_failed_release_is_taken_back_to_the_last_one(tmp_path: Path) -> None:
    async with brain(tmp_path) as at:
        repo = Repo({"cart": ("", "1")}, plan="maxInFlight: 2, offline: {after: 7m}", more=ROLLOUT_BACK)
        await failing(at, repo)
        assert at.states() == {
            "cart-0001": "Succeeded",
            "cart-0002": "RolledBack",
            "cart-0003": "Running",
        }
        back = at.engine.state.rollouts["cart-0003"]
        assert back.started.returns == "cart-0002"
        assert list(back.targets) == ["a"]
        offer = at.offers("a")[-1]
        assert (offer.rollout, offer.returns) == ("cart-0003", True)
        assert offer.release == wire.Release(
            bundle="cart", commit="0" * 39 + "1", tree_digest=at.offers("a")[0].release.tree_digest
        )
        assert not at.offers("a")[0].returns
        await at.healthy("a")
        assert at.states()["cart-0003"] == "Succeeded"
        # The failed release is not started again, and the last one that succeeded everywhere is still the first.
        assert len(at.states()) == 3
        succeeded = at.engine.state.last_succeeded("cart")
        assert succeeded is not None
        assert succeeded.name == "cart-0001"
        assert at.engine.state.debts["cart"].debts == {}


async def test_a_bundle_that_may_not_go_back_pauses_and_says_what_to_sign(tmp_path: Path) -> None:
    async with brain(tmp_path) as at:
        repo = Repo(
            {"cart": ("rollback: none, targets: [{selector: {}}]", "1")},
            plan="maxInFlight: 2, offline: {after: 7m}",
            more=ROLLOUT_BACK,
        )
        await failing(at, repo)
        machine = at.engine.state.rollouts["cart-0002"]
        assert machine.state == "Paused"
        assert "returnTo" in machine.why
        assert "rollback: previous" in machine.why


async def test_without_a_release_that_succeeded_before_nothing_can_be_taken_back(tmp_path: Path) -> None:
    async with brain(tmp_path) as at:
        repo = Repo({"cart": ("", "1")}, more=ROLLOUT_BACK)
        await repo.read(at)
        await at.connect("a")
        await repo.read(at, cluster("a"))
        await says(at, "a", at.offers("a")[-1], wire.OUTCOME_FAILED, "Degraded")
        assert at.states() == {"cart-0001": "Paused"}


async def test_who_fell_silent_on_a_failed_release_is_owed_the_way_back(tmp_path: Path) -> None:
    async with brain(tmp_path) as at:
        repo = Repo(
            {"cart": ("", "1")}, plan="maxInFlight: 3, maxFailed: 1, offline: {after: 7m}", more=ROLLOUT_BACK
        )
        entries = [cluster(name) for name in "abc"]
        await repo.read(at, *entries)
        for name in "abc":
            await at.connect(name)
            await at.healthy(name)
        repo.bundles["cart"] = ("", "2")
        await repo.read(at, *entries)
        await says(at, "c", at.offers("c")[-1], wire.OUTCOME_APPLYING, "Applying")
        await at.lose("c")
        await at.passes(120)
        assert target(at, "cart-0002", "c") == "lost"
        await at.healthy("a")
        await says(at, "b", at.offers("b")[-1], wire.OUTCOME_FAILED, "Degraded")
        await at.healthy("a")
        assert at.states()["cart-0003"] == "Succeeded"
        debt = at.engine.state.debts["cart"].debts["c"]
        assert (debt.origin, debt.returns) == ("cart-0001", "cart-0002")
        await at.connect("c")
        offer = at.offers("c")[-1]
        assert offer.catch_up
        assert offer.returns
        await at.healthy("c")
        assert at.engine.state.debts["cart"].debts == {}
