"""Taking away: a release without objects, an entry that asks the cluster to uninstall, and what stays."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from muster_agent.cluster import removing
from muster_proto.v1 import link_pb2 as wire
from unit.agent.signed import Fleet
from unit.agent.stage import bundle, config_map
from unit.agent.test_pipeline import DEPLOYMENT, MAPS, Stage, anyio_backend, stage

__all__ = ["anyio_backend", "stage"]

CLAIMS = "/api/v1/namespaces/shop/persistentvolumeclaims"
SHOP = "/api/v1/namespaces/shop"
DEPLOYMENTS = "/apis/apps/v1/namespaces/shop/deployments"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
CLAIM = """\
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
"""
WIDGETS = """\
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget, listKind: WidgetList}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
"""
FILES: dict[str, str | None] = {
    "bundles/shop/claim.yaml": CLAIM,
    "bundles/shop/web.yaml": DEPLOYMENT % "1",
    "bundles/shop/crd.yaml": WIDGETS,
    "bundles/shop/widget.yaml": "apiVersion: example.com/v1\nkind: Widget\nmetadata: {name: one}\n",
}
PARENT = "/api/v1/namespaces/muster-system/configmaps/muster-bundle-shop"


def emptied(said: str = "") -> dict[str, str | None]:
    text = bundle(", remove: {" + said + "}").replace(", namespace: shop", "")
    return {"bundles/shop/bundle.yaml": text}


async def exists(stage: Stage, path: str) -> bool:
    return (await stage("GET", path))[0] == 200


async def running(stage: Stage) -> str:
    commit = stage.commit(FILES)
    await stage.until(lambda: stage.reconciler.head.commit == commit)
    await stage.offer(commit, "shop-0001")
    await stage.outcome("shop-0001", wire.OUTCOME_HEALTHY)
    for path in (f"{MAPS}/web", f"{CLAIMS}/data", f"{DEPLOYMENTS}/web", f"{CRDS}/widgets.example.com"):
        assert await exists(stage, path)
    return commit


async def test_a_release_without_objects_takes_all_away_but_what_takes_others_with_it(stage: Stage) -> None:
    async with stage.agent(poll=0.1) as reconciler:
        await running(stage)
        gone = stage.commit(emptied())
        await stage.until(lambda: reconciler.head.commit == gone)
        await stage.offer(gone, "shop-0002")
        report = await stage.outcome("shop-0002", wire.OUTCOME_HEALTHY)
        assert (report.phase, report.object_count) == ("Ready", 0)
        kept = ("v1/Namespace shop", "apiextensions.k8s.io/v1/CustomResourceDefinition widgets.example.com",
                "v1/PersistentVolumeClaim shop/data")  # fmt: skip
        assert report.message == f"taken away; kept here: {', '.join(kept)}"
        assert not await exists(stage, f"{MAPS}/web")
        assert not await exists(stage, f"{DEPLOYMENTS}/web")
        assert not await exists(stage, f"{SHOP.replace('/api/v1', '/apis/example.com/v1')}/widgets/one")
        for path in (SHOP, f"{CLAIMS}/data", f"{CRDS}/widgets.example.com"):
            assert await exists(stage, path)
        # The folder can go now: nobody hears of it again.
        stage.frames.clear()
        last = stage.commit(dict.fromkeys((*FILES, "bundles/shop/bundle.yaml"), None))
        await stage.until(lambda: reconciler.head.commit == last)
    assert [frame for frame in stage.frames if frame.report.rollout != "shop-0002"] == []
    assert await exists(stage, f"{CLAIMS}/data")


async def test_what_is_said_goes_too(stage: Stage) -> None:
    async with stage.agent(poll=0.1) as reconciler:
        await running(stage)
        gone = stage.commit(emptied("claims: true, definitions: true, namespaces: true"))
        await stage.until(lambda: reconciler.head.commit == gone)
        await stage.offer(gone, "shop-0002")
        await stage.outcome("shop-0002", wire.OUTCOME_HEALTHY)
        assert not await exists(stage, f"{CRDS}/widgets.example.com")
        assert not await exists(stage, SHOP)
        # Its namespace is the agent's own: that one stays, as does what another bundle lives in.
        assert await exists(stage, "/api/v1/namespaces/muster-system")


async def test_a_removal_is_healthy_only_when_what_waits_for_a_finalizer_is_gone(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removing, "PATIENCE", 0.2)
    async with stage.agent(poll=0.1) as reconciler:
        await running(stage)
        await stage("PATCH", f"{DEPLOYMENTS}/web", {"metadata": {"finalizers": ["example.com/hold"]}})
        gone = stage.commit(emptied())
        await stage.until(lambda: reconciler.head.commit == gone)
        await stage.offer(gone, "shop-0002")
        await stage.until(lambda: "Deployment" in stage.last().message)
        assert stage.last().outcome == wire.OUTCOME_APPLYING
        # What came before it in the apply is not touched before it is gone.
        assert await exists(stage, f"{MAPS}/web")
        await stage("PATCH", f"{DEPLOYMENTS}/web", {"metadata": {"finalizers": None}})
        await stage.outcome("shop-0002", wire.OUTCOME_HEALTHY)
        assert not await exists(stage, f"{MAPS}/web")


async def test_a_removal_goes_back_like_any_release(stage: Stage) -> None:
    async with stage.agent(poll=0.1) as reconciler:
        commit = await running(stage)
        gone = stage.commit(emptied())
        await stage.until(lambda: reconciler.head.commit == gone)
        await stage.offer(gone, "shop-0002")
        await stage.outcome("shop-0002", wire.OUTCOME_HEALTHY)
        await stage.offer(commit, "shop-0003", returns=True)
        await stage.outcome("shop-0003", wire.OUTCOME_HEALTHY)
        assert await exists(stage, f"{DEPLOYMENTS}/web")


async def test_a_folder_that_is_deleted_prunes_nothing(stage: Stage) -> None:
    async with stage.agent(poll=0.1) as reconciler:
        await running(stage)
        last = stage.commit(dict.fromkeys((*FILES, "bundles/shop/bundle.yaml"), None))
        await stage.until(lambda: reconciler.head.commit == last)
        await stage("DELETE", f"{MAPS}/web")
        await stage.until(lambda: stage.last().healed_count)
    assert await stage.value() == "one"


# --- the whole cluster --------------------------------------------------------------------------------------------


def removals(stage: Stage) -> list[wire.Removal]:
    return [frame.removal for frame in stage.frames if frame.HasField("removal")]


async def test_an_entry_that_asks_takes_every_bundle_away_and_says_when_it_is_done(stage: Stage) -> None:
    async with stage.agent(poll=0.1) as reconciler:
        await running(stage)
        head = stage.register(", removal: uninstall")
        await stage.until(lambda: removals(stage))
        said = removals(stage)[-1]
        assert said.registry_commit == head
        kept = ["v1/Namespace shop", "apiextensions.k8s.io/v1/CustomResourceDefinition widgets.example.com",
                "v1/PersistentVolumeClaim shop/data"]  # fmt: skip
        assert sorted(said.kept) == sorted(kept)
        assert stage.last().phase == "Removed"
        for path in (f"{MAPS}/web", f"{DEPLOYMENTS}/web", PARENT):
            assert not await exists(stage, path)
        assert await exists(stage, f"{CLAIMS}/data")
        # Nothing is taken any more, and nothing comes back by itself.
        two = stage.commit({"bundles/shop/map.yaml": config_map("web", "two")})
        await stage.until(lambda: reconciler.head.commit == two)
        await stage.offer(two, "shop-0002")
        assert (await stage.outcome("shop-0002", wire.OUTCOME_FAILED)).code == "J070"
        # That the entry goes is no reason to come back.
        gone = stage.origin.commit({"clusters/berlin.yaml": None}, "muster/registry")
        await stage.until(lambda: reconciler.head.registry == gone)
    stage.frames.clear()
    async with stage.agent(poll=0.1):
        await stage.until(lambda: removals(stage))
        assert sorted(removals(stage)[-1].kept) == sorted(kept)
    assert not await exists(stage, f"{MAPS}/web")


async def test_a_cluster_without_bundles_is_done_at_once(stage: Stage) -> None:
    stage.register(", removal: uninstall")
    async with stage.agent(poll=0.1):
        await stage.until(lambda: removals(stage))


async def test_an_uninstall_that_a_kill_cuts_goes_on(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when Git is away meanwhile: that it leaves is on disk before the first object goes."""
    monkeypatch.setattr(removing, "PATIENCE", 0.2)
    async with stage.agent(poll=0.1):
        await running(stage)
        await stage("PATCH", f"{DEPLOYMENTS}/web", {"metadata": {"finalizers": ["example.com/hold"]}})
        stage.register(", removal: uninstall")
        await stage.until(lambda: stage.last().phase == "Removing" and stage.last().object_count)
    assert await exists(stage, f"{MAPS}/web")
    stage.frames.clear()
    host = stage.origin.folder / "origin.git"
    host.rename(host.with_name("gone.git"))
    async with stage.agent(alone=True):
        await stage("PATCH", f"{DEPLOYMENTS}/web", {"metadata": {"finalizers": None}})
        await stage.until(lambda: removals(stage))
    assert not await exists(stage, f"{MAPS}/web")
    assert not await exists(stage, f"{DEPLOYMENTS}/web")


async def test_an_uninstall_that_is_taken_back_brings_everything_back(stage: Stage) -> None:
    async with stage.agent(poll=0.1):
        await running(stage)
        stage.register(", removal: uninstall")
        await stage.until(lambda: removals(stage))
        assert not await exists(stage, f"{MAPS}/web")
        stage.register()
        await stage.until(lambda: stage.last().phase == "Ready" and stage.last().object_count > 3)
    assert await stage.value() == "one"


async def test_only_a_registrar_who_manages_can_ask_for_it(stage: Stage) -> None:
    fleet = Fleet(stage)
    async with stage.agent(poll=0.1) as reconciler:
        await stage.offer(stage.commits[0], "shop-0001")
        await stage.outcome("shop-0001", wire.OUTCOME_HEALTHY)
        fleet.by("releaser")
        head = stage.register(", removal: uninstall")
        await stage.until(lambda: reconciler.head.registry == head)
        await anyio.sleep(0.3)  # a look or two at Git
        assert await stage.value() == "one"
        fleet.by("registrar")
        stage.register(", removal: uninstall, values: {a: b}")
        await stage.until(lambda: removals(stage))
    assert await stage.value() is None


def test_what_stays_is_what_takes_others_with_it() -> None:
    from muster_core.kinds.model import Remove

    kinds: dict[str, Any] = {"namespaces": "Namespace", "claims": "PersistentVolumeClaim",
                             "definitions": "CustomResourceDefinition"}  # fmt: skip
    assert removing.protected_kinds(Remove()) == set(kinds.values())
    for field, kind in kinds.items():
        assert removing.protected_kinds(Remove(**{field: True})) == set(kinds.values()) - {kind}
