"""Secrets on a cluster never go back, and a re-wrap reaches it without a release."""

from __future__ import annotations

import base64
import os

import msgspec
import yaml
from muster_core.kinds.base import Selector
from muster_core.kinds.model import FleetSecret
from muster_core.sealing.envelope import Recipient, seal
from muster_core.sealing.keys import SealingKey
from muster_core.sealing.masked import Masked
from muster_proto.v1 import link_pb2 as wire
from unit.agent.stage import FLEET_ID, bundle, config_map
from unit.agent.test_pipeline import DEPLOYMENT, RETURNING, Stage, anyio_backend, stage

__all__ = ["anyio_backend", "stage"]

SPEC = bundle(", secrets: [../../secrets/db.yaml], health: {deadline: 1s}")


def sealed(uid: str, key: SealingKey, password: str, after: FleetSecret | None = None) -> FleetSecret:
    return seal(
        fleet_id=FLEET_ID, name="db", namespace="shop", data={"password": Masked(password.encode())},
        recipients=[Recipient("cluster", "berlin", uid, key.public)], selector=Selector(),
        random=os.urandom, after=after,
    )  # fmt: skip


def text(secret: FleetSecret) -> str:
    return yaml.safe_dump(msgspec.to_builtins(secret))


async def password(stage: Stage) -> str:
    status, body = await stage("GET", "/api/v1/namespaces/shop/secrets/db")
    assert status == 200, body
    return base64.b64decode(body["data"]["password"]).decode()


async def test_a_cluster_that_goes_back_keeps_the_newer_secret_and_says_so(stage: Stage) -> None:
    first = sealed(stage.uid, stage.sealing, "old")
    second = sealed(stage.uid, stage.sealing, "new", first)
    assert (second.spec.file_id, second.spec.key_generation, second.spec.revision) == (
        first.spec.file_id,
        2,
        2,
    )
    files = {"bundles/shop/bundle.yaml": SPEC, "plans/rings.yaml": RETURNING, "secrets/db.yaml": text(first)}
    good = stage.commit({**files, "bundles/shop/web.yaml": DEPLOYMENT % "1"})
    bad = stage.commit({"secrets/db.yaml": text(second), "bundles/shop/web.yaml": DEPLOYMENT % "2-never"})
    async with stage.agent():
        await stage.offer(good, "shop-0001")
        await stage.outcome("shop-0001", wire.OUTCOME_HEALTHY)
        assert await password(stage) == "old"
        await stage.offer(bad, "shop-0002")
        report = await stage.outcome("shop-0002", wire.OUTCOME_RETURNED)
        assert list(report.kept_secrets) == ["shop/db"]
        assert report.release.commit == good
        assert await password(stage) == "new"
    # A restart renders the older release again: the secret stays.
    async with stage.agent():
        await stage("DELETE", "/api/v1/namespaces/shop/secrets/db")
        await stage.until(lambda: stage.last().healed_count)
        assert await password(stage) == "new"


async def test_a_revert_in_git_does_not_take_a_secret_back(stage: Stage) -> None:
    first = sealed(stage.uid, stage.sealing, "old")
    second = sealed(stage.uid, stage.sealing, "new", first)
    one = stage.commit({"bundles/shop/bundle.yaml": SPEC, "secrets/db.yaml": text(first)})
    two = stage.commit({"secrets/db.yaml": text(second)})
    reverted = stage.commit(
        {"secrets/db.yaml": text(first), "bundles/shop/map.yaml": config_map("web", "three")}
    )
    async with stage.agent():
        for number, commit in enumerate((one, two, reverted), 1):
            await stage.offer(commit, f"shop-{number:04}")
            await stage.outcome(f"shop-{number:04}", wire.OUTCOME_HEALTHY)
        assert await stage.value() == "three"
        assert await password(stage) == "new"
        assert list(stage.last().kept_secrets) == ["shop/db"]


async def test_recipient_lines_come_from_the_newest_head_and_start_no_release(stage: Stage) -> None:
    """A late joiner: the release was sealed before it was there, a re-wrap added its line since."""
    whole = sealed(stage.uid, stage.sealing, "secret")
    without = msgspec.structs.replace(whole, spec=msgspec.structs.replace(whole.spec, recipients=[
        str(line).replace(stage.uid, "0" * 36) for line in whole.spec.recipients]))  # fmt: skip
    release = stage.commit({"bundles/shop/bundle.yaml": SPEC, "secrets/db.yaml": text(without)})
    stage.commit({"secrets/db.yaml": text(whole)})
    async with stage.agent():
        await stage.offer(release, "shop-0001")
        await stage.outcome("shop-0001", wire.OUTCOME_HEALTHY)
    assert await password(stage) == "secret"
