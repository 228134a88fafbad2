"""What the agent's audit log says of a cluster's life, on disk, in the whole pipeline: real API server, real repository."""

from __future__ import annotations

from muster_core.audit.chain import Entry, decode, verify_lines
from muster_core.sealing.keys import SealingKey
from muster_proto.v1 import link_pb2 as wire
from unit.agent.stage import bundle
from unit.agent.test_pipeline import DEPLOYMENT, MAPS, RETURNING, Stage, anyio_backend, stage
from unit.agent.test_troubles_git import sealed

__all__ = ["anyio_backend", "stage"]

SECRET = "/api/v1/namespaces/shop/secrets/db"
WITH_SECRET = {"bundles/shop/bundle.yaml": bundle(", secrets: [../../secrets/db.yaml]")}


def written(place: Stage) -> list[Entry]:
    """The log as it is on disk; it holds, and no secret's content is in it."""
    files = sorted((place.folder / "state" / "audit").glob("audit-*.jsonl"))
    lines = [line for file in files for line in file.read_bytes().splitlines(keepends=True)]
    assert verify_lines(lines).holds
    assert b"hunter2" not in b"".join(lines)
    return [decode(line) for line in lines]


def actions(place: Stage, *wanted: str) -> list[Entry]:
    return [entry for entry in written(place) if entry.action in wanted]


async def flush(place: Stage) -> None:
    await place.reconciler._witness.flush()


async def test_an_opened_secret_is_on_disk_before_anything_of_it_is_applied(stage: Stage) -> None:
    commit = stage.commit({**WITH_SECRET, "secrets/db.yaml": sealed(stage.uid, stage.sealing)})
    folder, away = stage.folder / "state" / "audit", stage.folder / "state" / "away"
    async with stage.agent():
        folder.rename(away)  # the disk takes nothing
        folder.write_text("")
        await stage.offer(commit, "shop-0001")
        await stage.until(lambda: "K030" in stage.last().code)
        assert (await stage("GET", SECRET))[0] == 404
        assert await stage.value() is None
        folder.unlink()
        away.rename(folder)
        await stage.outcome("shop-0001", wire.OUTCOME_HEALTHY)
    assert (await stage("GET", SECRET))[0] == 200
    opened = actions(stage, "secret-opened")
    assert (opened[0].object, opened[0].result, opened[0].detail["revision"]) == ("secret/shop/db", "ok", "1")
    assert opened[0].detail["commit"] == commit


async def test_a_secret_that_does_not_open_is_witnessed_with_its_code(stage: Stage) -> None:
    foreign = sealed("another-cluster", SealingKey.generate())
    commit = stage.commit({**WITH_SECRET, "secrets/db.yaml": foreign})
    async with stage.agent():
        await stage.offer(commit, "shop-0001")
        await stage.outcome("shop-0001", wire.OUTCOME_FAILED)
        await flush(stage)
    failed, refused = actions(stage, "secret-opened", "refusal")
    assert (failed.result, failed.detail["code"]) == ("failed", "MUSTER-S001")
    assert (refused.result, refused.detail["code"], refused.detail["rollout"]) == (
        "refused", "MUSTER-S001", "shop-0001",
    )  # fmt: skip


async def test_applying_healing_and_going_back_are_witnessed_and_a_pass_without_change_is_not(
    stage: Stage,
) -> None:
    spec = ", health: {deadline: 1s}"
    files = {"bundles/shop/bundle.yaml": bundle(spec), "bundles/shop/web.yaml": DEPLOYMENT % "1"}
    good = stage.commit({**files, "plans/rings.yaml": RETURNING})
    bad = stage.commit({"bundles/shop/web.yaml": DEPLOYMENT % "2-never"})
    async with stage.agent():
        await stage.offer(good, "shop-0001")
        await stage.outcome("shop-0001", wire.OUTCOME_HEALTHY)
        await flush(stage)
        assert [(e.action, e.detail["applied"], e.detail["rollout"]) for e in actions(stage, "apply")] == [
            ("apply", "3", "shop-0001")
        ]
        await stage("PATCH", f"{MAPS}/web", {"data": {"a": "edited"}})
        await stage.until(lambda: stage.last().healed_count)
        await stage.offer(bad, "shop-0002")
        await stage.outcome("shop-0002", wire.OUTCOME_RETURNED)
        await flush(stage)
    found = [(entry.action, entry.detail["commit"]) for entry in actions(stage, "apply", "heal", "return")]
    assert found == [("apply", good), ("heal", good), ("apply", bad), ("return", good), ("apply", good)]
    (back,) = actions(stage, "return")
    assert (back.detail["from"], back.detail["rollout"]) == (bad, "shop-0002")


async def test_a_refusal_that_is_tried_again_and_again_is_witnessed_once(stage: Stage) -> None:
    async with stage.agent() as reconciler:
        await stage.offer(stage.commits[0], "shop-0001", registry_digest="0" * 64)
        refusals = reconciler._metrics.refusals.labels("T023")
        await stage.until(lambda: refusals._value.get() >= 3)
        await flush(stage)
    (refused,) = actions(stage, "refusal")
    assert (refused.detail["code"], refused.detail["rollout"]) == ("MUSTER-T023", "shop-0001")
