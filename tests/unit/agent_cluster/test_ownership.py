"""Whose an object is when people and other bundles get in the way: labels by hand, Muster's own objects, shared names."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from muster_agent.cluster.apply import Applier, located
from muster_agent.cluster.kube import KubeCluster
from muster_agent.cluster.observe import Observer
from muster_core.apply.applyset import PART_OF, parent_name, set_id
from muster_core.apply.changeset import ChangeSet
from muster_core.apply.plan import Applied
from muster_core.errors import KubernetesError
from muster_core.manifest.objects import Manifest, ObjectRef, ref_of
from muster_lab.kube import LabKube, Settings


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[KubeCluster]:
    async with LabKube.serve(Settings(tmp_path / "lab", ready_delay=0.05)) as server:
        cluster = await KubeCluster.connect(server.kubeconfig)
        yield cluster
        await cluster.aclose()


def config(name: str = "one", labels: dict[str, str] | None = None) -> Manifest:
    metadata: dict[str, Any] = {"name": name, "namespace": "default"}
    if labels:
        metadata["labels"] = labels
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"a": "1"}}


class Bundle:
    """One bundle of an agent that lives in namespace ``home``."""

    def __init__(self, api: KubeCluster, observer: Observer, name: str, home: str = "default") -> None:
        self.applier, self.name, self.id = Applier(api, observer, home), name, set_id(name, home)
        self.applied: dict[ObjectRef, Applied] = {}

    async def apply(self, *objects: Manifest) -> ChangeSet:
        desired = {ref_of(obj): obj for obj in objects}
        result = await self.applier.apply(self.name, desired, self.applied, prune=True, note={})
        self.applied = result.applied
        return result


@contextlib.asynccontextmanager
async def observing(api: KubeCluster) -> AsyncIterator[Observer]:
    observer = Observer(api, lambda _: None, lambda low, _: low)
    async with anyio.create_task_group() as group:
        await group.start(observer.run)
        yield observer
        group.cancel_scope.cancel()


async def relabel(api: KubeCluster, observer: Observer, label: str) -> None:
    """What ``kubectl label --overwrite`` does; returns when the agent has seen it."""
    ref = ref_of(config())
    patch = f'{{"metadata": {{"labels": {{"{PART_OF}": {label}}}}}}}'.encode()
    await api._request(
        "PATCH", "/api/v1/namespaces/default/configmaps/one", None, patch, "application/merge-patch+json"
    )
    with anyio.fail_after(10):
        while (seen := observer.seen.get(ref)) is not None and seen.live.part_of != label.strip('"'):
            await anyio.sleep(0.02)


@pytest.mark.parametrize("label", ["null", '"applyset-of-somebody-v1"'])
async def test_a_label_taken_by_hand_does_not_take_the_object(api: KubeCluster, label: str) -> None:
    async with observing(api) as observer:
        bundle = Bundle(api, observer, "shop")
        await bundle.apply(config())
        await relabel(api, observer, label)
        result = await bundle.apply(config())
        assert [(change.action, change.error) for change in result.changes] == [("configured", None)]
        live = await api.get(ref_of(config()))
        assert live is not None
        assert live["metadata"]["labels"] == {PART_OF: bundle.id}


async def test_another_object_of_the_same_name_is_not_taken(api: KubeCluster) -> None:
    async with observing(api) as observer:
        bundle = Bundle(api, observer, "shop")
        await bundle.apply(config())
        await api.delete(ref_of(config()), "")
        await api.apply({**config(), "data": {"whose": "somebody's"}})
        with anyio.fail_after(10):
            while ref_of(config()) in observer.seen:
                await anyio.sleep(0.02)
        result = await bundle.apply(config())
        assert [(c.action, c.error.code) for c in result.changes if c.error] == [("refused", "K014")]
        live = await api.get(ref_of(config()))
        assert live is not None
        assert live["data"] == {"whose": "somebody's"}


async def test_one_object_of_two_bundles_stays_with_the_first(api: KubeCluster) -> None:
    async with observing(api) as observer:
        first, second = Bundle(api, observer, "first"), Bundle(api, observer, "second")
        await first.apply(config())
        result = await second.apply(config(), config("two"))
        assert [(c.ref.name, c.error.code) for c in result.changes if c.error] == [("one", "K014")]
        assert (await first.apply(config())).changes == []
        assert (
            await second.apply(config("two"))
        ).errors == []  # leaving it out again prunes nothing of the other's
        assert await api.get(ref_of(config())) is not None


@pytest.mark.parametrize("whose", ["shop", "other", "not-here-yet"])
async def test_a_bundle_cannot_deliver_a_parent_object(api: KubeCluster, whose: str) -> None:
    async with observing(api) as observer:
        other, bundle = Bundle(api, observer, "other"), Bundle(api, observer, "shop")
        await other.apply(config("theirs"))
        result = await bundle.apply(config(), config(parent_name(whose), {PART_OF: other.id}))
        assert [(c.ref.name, c.error.code) for c in result.changes if c.error] == [
            (parent_name(whose), "K014")
        ]
        assert (await other.apply(config("theirs"))).changes == []


async def test_a_bundle_cannot_deliver_the_agents_own_namespace(api: KubeCluster) -> None:
    await api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "muster-system"}})
    async with observing(api) as observer:
        bundle = Bundle(api, observer, "shop", "muster-system")
        labels = {"pod-security.kubernetes.io/enforce": "privileged"}
        mine = {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": "muster-system", "labels": labels},
        }
        result = await bundle.apply(mine, config())
    assert [str(change.error.code) for change in result.errors if change.error] == ["K014"]
    live = await api.get(ObjectRef("v1", "Namespace", "", "muster-system"))
    assert live is not None
    assert labels.items() - (live["metadata"].get("labels") or {}).items()
    assert await api.get(ObjectRef("v1", "ConfigMap", "default", "one")) is not None, "the others go on"


async def test_a_prune_that_waits_for_a_finalizer_is_asked_for_once(api: KubeCluster) -> None:
    held = config("held")
    held["metadata"]["finalizers"] = ["example.com/never"]
    async with observing(api) as observer:
        bundle = Bundle(api, observer, "shop")
        await bundle.apply(config(), held)
        assert [c.action for c in (await bundle.apply(config())).changes] == ["pruned"]
        with anyio.fail_after(10):
            while (seen := observer.seen.get(ref_of(held))) is None or seen.health.status != "Terminating":
                await anyio.sleep(0.02)
        for _ in range(3):
            result = await bundle.apply(config())
            assert (result.changes, result.errors) == ([], [])
        patch = b'{"metadata": {"finalizers": null}}'
        await api._request(
            "PATCH", "/api/v1/namespaces/default/configmaps/held", None, patch, "application/merge-patch+json"
        )
        with anyio.fail_after(10):
            while ref_of(held) in observer.seen:
                await anyio.sleep(0.02)
        assert (await bundle.apply(config())).changes == []
        assert await api.get(ref_of(held)) is None


async def test_the_agents_own_namespace_is_made_again(api: KubeCluster) -> None:
    async with observing(api) as observer:
        bundle = Bundle(api, observer, "shop", "muster-gone")
        result = await bundle.apply(config())
        assert result.errors == []
        assert await api.get(ObjectRef("v1", "ConfigMap", "muster-gone", parent_name("shop"))) is not None


@pytest.mark.parametrize(
    "spec",
    [None, "x", [], {"versions": "x"}, {"versions": [{"name": "v1"}]}, {"names": [], "versions": [None]},
     {"group": 5, "names": {"kind": []}, "versions": [{"name": {}}, 7]}],
)  # fmt: skip
async def test_a_crd_that_is_none_is_a_problem_of_that_object(api: KubeCluster, spec: object) -> None:
    odd = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "a.b.c"},
        "spec": spec,
    }
    found, problems = await located(api, [odd, config()], "default")
    assert (len(found), problems) == (2, [])
    async with observing(api) as observer:
        with anyio.fail_after(20):
            result = await Bundle(api, observer, "shop").apply(*found.values())
    assert [change.ref.kind for change in result.errors] == ["CustomResourceDefinition"]


async def test_a_name_is_one_step_of_a_path(api: KubeCluster) -> None:
    ref = ObjectRef("v1", "ConfigMap", "default", "../../namespaces/default")
    try:
        found = await api.get(ref)
    except KubernetesError:
        return
    assert found is None
