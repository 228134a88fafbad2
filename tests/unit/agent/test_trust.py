"""What an agent takes when the fleet is signed: by real git signatures, against the lab's API server."""

from __future__ import annotations

import pytest
from muster_core.fleet import read_fleet
from muster_core.release import Release
from muster_proto.v1 import link_pb2 as wire
from unit.agent.signed import CONTENT, Fleet
from unit.agent.stage import config_map
from unit.agent.test_pipeline import Stage, anyio_backend, stage
from unit.core.trust.keys import role

__all__ = ["anyio_backend", "stage"]


@pytest.fixture
def fleet(stage: Stage) -> Fleet:
    return Fleet(stage)


def map_of(value: str) -> dict[str, str | None]:
    return {"bundles/shop/map.yaml": config_map("web", value)}


async def test_a_signed_head_is_taken_and_its_release_applied(fleet: Fleet) -> None:
    stage, commit = fleet.stage, fleet.commit(map_of("two"))
    async with stage.agent():
        await stage.offer(commit, "shop-0001")
        report = await stage.outcome("shop-0001", wire.OUTCOME_HEALTHY)
    assert await stage.value() == "two"
    assert report.trust_version == 1
    assert report.head_commit == commit


async def test_the_anchor_itself_needs_no_signature(fleet: Fleet) -> None:
    stage = fleet.stage
    async with stage.agent():
        await stage.offer(stage.commits[0], "shop-0001")
        await stage.outcome("shop-0001", wire.OUTCOME_HEALTHY)


@pytest.mark.parametrize(
    ("who", "files", "code"),
    [
        ("", map_of("evil"), "T040"),
        ("stranger", map_of("evil"), "T041"),
        ("releaser", {"policies/new.yaml": "kind: nothing\n"}, "T042"),
        ("policy", map_of("evil"), "T042"),
        ("operator", map_of("evil"), "T042"),
    ],
    ids=["nobody", "a stranger", "a releaser of policies", "a policy maker of content", "an operator"],
)
async def test_a_head_of_somebody_who_may_not_is_refused(
    fleet: Fleet, who: str, files: dict[str, str | None], code: str
) -> None:
    stage = fleet.stage
    good = fleet.commit(map_of("good"))
    async with stage.agent() as reconciler:
        await stage.offer(good, "shop-0001")
        await stage.outcome("shop-0001", wire.OUTCOME_HEALTHY)
        fleet.by(who)
        evil = fleet.commit(files)
        await reconciler.receive(wire.HubFrame(head=wire.Head(commit=evil)))
        await stage.until(lambda: reconciler.head.commit == evil)
        await stage.offer(evil, "shop-0002")
        report = await stage.outcome("shop-0002", wire.OUTCOME_FAILED)
    assert (report.code, report.head_commit) == (code, good)
    assert await stage.value() == "good"


async def test_commits_below_a_signed_head_need_no_signature_but_are_not_releases(fleet: Fleet) -> None:
    stage = fleet.stage
    fleet.by("")
    below = fleet.commit(map_of("draft"))
    fleet.by("releaser")
    head = fleet.commit(map_of("final"))
    async with stage.agent():
        await stage.offer(below, "shop-0001")
        assert (await stage.outcome("shop-0001", wire.OUTCOME_FAILED)).code == "T040"
        await stage.offer(head, "shop-0002")
        await stage.outcome("shop-0002", wire.OUTCOME_HEALTHY)
    assert await stage.value() == "final"


async def test_a_head_on_top_of_heads_by_others_is_judged_step_by_step(fleet: Fleet) -> None:
    """While the cluster was away a releaser and a policy maker each pushed: no single key may sign for both."""
    stage = fleet.stage
    fleet.commit(map_of("two"))
    fleet.by("policy")
    fleet.commit({"policies/README.md": "none yet\n"})
    fleet.by("releaser")
    head = fleet.commit(map_of("three"))
    async with stage.agent():
        await stage.offer(head, "shop-0001")
        await stage.outcome("shop-0001", wire.OUTCOME_HEALTHY)
    assert await stage.value() == "three"


async def test_a_signed_tag_approves_an_unsigned_merge(fleet: Fleet) -> None:
    stage = fleet.stage
    fleet.by("")
    merge = fleet.commit(map_of("merged"))
    fleet.by("releaser")
    stage.origin.tag(f"muster/release-{merge[:12]}", merge)
    async with stage.agent():
        await stage.offer(merge, "shop-0001")
        await stage.outcome("shop-0001", wire.OUTCOME_HEALTHY)
    assert await stage.value() == "merged"


async def test_a_tag_under_another_name_than_its_own_counts_for_nothing(fleet: Fleet) -> None:
    stage = fleet.stage
    fleet.by("")
    merge = fleet.commit(map_of("merged"))
    fleet.by("releaser")
    stage.origin.tag("elsewhere", merge)
    stage.origin.git("push", "-q", str(stage.origin.folder / "origin.git"),
                     "refs/tags/elsewhere:refs/tags/muster/release-1", inside="work")  # fmt: skip
    async with stage.agent():
        await stage.offer(merge, "shop-0001")
        assert (await stage.outcome("shop-0001", wire.OUTCOME_FAILED)).code == "T044"


async def test_a_new_trust_document_holds_at_once_and_an_older_key_no_longer(fleet: Fleet) -> None:
    stage = fleet.stage
    who = fleet.people
    second = fleet.document(
        2,
        roles=[
            role("release", who["stranger"], paths=CONTENT),
            role("registrar", who["registrar"], paths=["**"]),
        ],
    )
    fleet.by("stranger")
    head = fleet.commit({**map_of("theirs"), "trust/2.json": fleet.text(second)})
    async with stage.agent() as reconciler:
        await stage.offer(head, "shop-0001")
        assert (await stage.outcome("shop-0001", wire.OUTCOME_HEALTHY)).trust_version == 2
        fleet.by("releaser")
        late = fleet.commit(map_of("removed"))
        await reconciler.receive(wire.HubFrame(head=wire.Head(commit=late)))
        await stage.until(lambda: reconciler.head.commit == late)
        await stage.offer(late, "shop-0002")
        assert (await stage.outcome("shop-0002", wire.OUTCOME_FAILED)).code == "T041"
    assert await stage.value() == "theirs"


async def test_a_trust_document_that_the_roots_did_not_sign_changes_nothing(fleet: Fleet) -> None:
    stage, stranger = fleet.stage, fleet.people["stranger"]
    forged = fleet.document(2, roles=[role("release", stranger, paths=["**"])])
    fleet.by("stranger")
    head = fleet.commit({**map_of("evil"), "trust/2.json": fleet.text(forged, stranger)})
    async with stage.agent() as reconciler:
        await stage.offer(head, "shop-0001")
        report = await stage.outcome("shop-0001", wire.OUTCOME_FAILED)
        assert reconciler._desired.trust_version == 1
    assert report.code == "T061"
    assert await stage.value() is None


async def test_an_expired_trust_document_stops_new_releases_and_not_healing(stage: Stage) -> None:
    fleet = Fleet(stage, expires="2026-06-01T00:00:00Z")
    now = [1_767_400_000.0]  # 2026-01-03
    stage.clock = lambda: now[0]
    first, second = stage.commits[0], fleet.commit(map_of("two"))
    async with stage.agent():
        await stage.offer(first, "shop-0001")
        await stage.outcome("shop-0001", wire.OUTCOME_HEALTHY)
        now[0] = 1_790_000_000.0  # 2026-09-21
        await stage.offer(second, "shop-0002")
        assert (await stage.outcome("shop-0002", wire.OUTCOME_FAILED)).code == "T065"
        await stage("DELETE", "/api/v1/namespaces/shop/configmaps/web")
        await stage.until(lambda: stage.last().healed_count)
    assert await stage.value() == "one"


async def test_in_mode_directives_a_release_needs_one(stage: Stage) -> None:
    fleet = Fleet(stage, "directives")
    fleet.by("")
    commit = fleet.commit(map_of("two"))
    async with stage.agent():
        await stage.offer(commit, "shop-0001")
        assert (await stage.outcome("shop-0001", wire.OUTCOME_FAILED)).code == "T078"
        offer = await fleet.directed(commit)
        await stage.offer(commit, "shop-0002", directive=offer.directive,
                          directive_signature=offer.directive_signature, proof=offer.proof)  # fmt: skip
        await stage.outcome("shop-0002", wire.OUTCOME_HEALTHY)
    assert await stage.value() == "two"


async def test_a_directive_lets_the_coordinator_return_to_the_one_release_that_it_names(stage: Stage) -> None:
    fleet = Fleet(stage, "directives")
    before = fleet.commit(map_of("before"))
    other = fleet.commit(map_of("other"))
    after = fleet.commit(map_of("after"))

    async def offered(commit: str, rollout: str, by: wire.Offer) -> None:
        await stage.offer(commit, rollout, directive=by.directive,
                          directive_signature=by.directive_signature, proof=by.proof)  # fmt: skip

    async with stage.agent() as reconciler:
        digest = read_fleet(await reconciler._source.tree(before)).digests["shop"]
        given = await fleet.directed(after, return_to=Release("shop", before, digest))
        await offered(after, "shop-0001", given)
        await stage.outcome("shop-0001", wire.OUTCOME_HEALTHY)
        await offered(other, "shop-0002", given)
        assert (await stage.outcome("shop-0002", wire.OUTCOME_FAILED)).code == "T012"
        await offered(before, "shop-0003", given)
        await stage.outcome("shop-0003", wire.OUTCOME_HEALTHY)
        assert await stage.value() == "before"
        assert reconciler._desired._floors.floors.bundles["shop"] == after, "the floor stays"


async def test_in_mode_directives_an_unsigned_head_moves_no_policy(stage: Stage) -> None:
    fleet = Fleet(stage, "directives")
    fleet.by("releaser")
    commit = fleet.commit({"policies/README.md": "lax\n"})
    async with stage.agent() as reconciler:
        await stage.until(lambda: reconciler._desired.problem)
        problem = reconciler._desired.problem
    assert problem is not None
    assert problem.code == "T042"
    assert reconciler._desired.policy_commit != commit


async def test_a_registry_entry_by_somebody_who_is_no_registrar_is_refused(fleet: Fleet) -> None:
    stage = fleet.stage
    async with stage.agent() as reconciler:
        before = reconciler._desired.registry_commit
        fleet.by("releaser")
        stage.register(", protectedLabels: {tier: secret}")
        await reconciler.receive(wire.HubFrame(head=wire.Head(commit="x")))
        await stage.until(lambda: reconciler._desired.problem)
        problem = reconciler._desired.problem
    assert problem is not None
    assert problem.code == "T043"
    assert reconciler._desired.registry_commit == before
