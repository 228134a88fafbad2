"""Where releases ask for an operator's signature, a rollout that fails takes nobody back but by what was signed."""

from __future__ import annotations

from pathlib import Path

import pytest
from muster_coordinator.rollout.launch import Start
from muster_core.release import Release
from muster_core.rollout.machine import RolloutMachine
from muster_core.trust.directive import Directive, decode, statement
from muster_core.trust.merkle import ClusterTree
from muster_proto.v1 import link_pb2 as wire
from unit.coordinator.test_engine import Brain, brain, cluster
from unit.coordinator.test_holds import Repo, says
from unit.coordinator.test_superseding import ROLLOUT_BACK

UIDS = ("uid-of-a", "uid-of-b")


def release_of(at: Brain) -> Release:
    reading = at.engine.state.reading
    return Release("cart", reading.heads.commit, reading.contents.digests["cart"])


async def directed(at: Brain, return_to: Release | None = None) -> Release:
    """What ``muster rollout start`` does: a directive for the newest release, and the rollout of it."""
    release, newest = release_of(at), at.engine.state.directives.newest("cart")
    tree = ClusterTree(list(UIDS))
    given = statement(
        Directive(
            fleet="0123456789abcdef",
            release=release,
            plan_digest="0" * 64,
            clusters_root=tree.root,
            clusters_count=tree.count,
            sequence=newest.directive.sequence + 1 if newest else 1,
            previous=newest.directive.digest if newest else "",
            issued=1,
            not_after=2_000_000_000,
            catch_up_until=2_000_000_000,
            return_to=return_to,
        )
    )

    def work(effects: object, now: float) -> RolloutMachine:
        at.engine.keep_directive(release, given, b"signed", UIDS, effects, now)  # type: ignore[arg-type]
        return at.engine.start(Start(release, "", "ada", ""), effects, now)  # type: ignore[arg-type]

    await at.engine.ask(work)
    return release


@pytest.mark.parametrize("named", ["the last one", "another", "none"])
async def test_only_the_release_that_its_directive_names_is_gone_back_to(tmp_path: Path, named: str) -> None:
    entries = (cluster("a"), cluster("b"))
    repo = Repo(
        {"cart": ("rollback: previous, targets: [{selector: {}}]", "1")}, mode="directives", more=ROLLOUT_BACK
    )
    async with brain(tmp_path) as at:
        for name in "ab":
            await at.connect(name)
        await repo.read(at, *entries)
        one = await directed(at)
        for name in "ab":
            await at.healthy(name)
        repo.bundles["cart"] = (repo.bundles["cart"][0], "2")
        await repo.read(at, *entries)
        other = Release("cart", "e" * 40, one.tree_digest)
        two = await directed(at, {"the last one": one, "another": other, "none": None}[named])
        await at.healthy("a")
        await says(at, "b", at.offers("b")[-1], wire.OUTCOME_FAILED, "Degraded")
        machine = at.engine.state.rollouts["cart-0002"]
        if named != "the last one":
            assert machine.state == "Paused"
            assert "a directive with returnTo" in machine.why
            assert at.offers("a")[-1].rollout == "cart-0002"
            return
        assert (machine.state, at.states()["cart-0003"]) == ("RolledBack", "Running")
        offer = at.offers("a")[-1]
        assert (offer.rollout, offer.returns, offer.release.commit) == ("cart-0003", True, one.commit)
        # Its agent judges the way back by what was signed for the release that it leaves.
        assert decode(offer.directive).release == two
        assert decode(offer.directive).return_to == one
        assert offer.HasField("proof")
        await at.healthy("a")
        assert at.states()["cart-0003"] == "Succeeded"
