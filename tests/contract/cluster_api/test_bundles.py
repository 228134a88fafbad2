"""A bundle on a cluster: stages, what is not ours, drift, prune, restarts; and no work where nothing changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from contract.cluster_api.conftest import Opener, until
from contract.cluster_api.test_port import config, ref
from contract.kube.client import APPLY, MERGE, Kube
from contract.kube.test_definitions import definition
from muster_agent.cluster.apply import located
from muster_agent.cluster.kube import KubeCluster
from muster_core.apply.applyset import GROUP_KINDS, NAMESPACES, PART_OF, SET_ID, TOOLING, parent_name, set_id
from muster_core.manifest.objects import ObjectRef


@pytest.fixture
def requests(api: KubeCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Every request of the adapter but the watches, from now on."""
    seen: list[str] = []
    once = api._once

    async def counted(method: str, path: str, *rest: Any) -> Any:
        seen.append(f"{method} {path}")
        return await once(method, path, *rest)

    monkeypatch.setattr(api, "_once", counted)
    return seen


def writes(requests: list[str]) -> list[str]:
    return [line for line in requests if not line.startswith("GET")]


def actions(result: Any) -> dict[str, str]:
    return {change.ref.name: change.action for change in result.changes}


async def test_members_and_parent_follow_the_convention(agent: Opener, api: KubeCluster, other: Kube) -> None:
    async with agent() as a:
        result = await a.apply(config(other.ns), note={"release": "r1"})
        assert (actions(result), result.errors) == ({"one": "created"}, [])
        assert (await api.get(ref(other.ns)))["metadata"]["labels"] == {PART_OF: a.set_id}  # type: ignore[index]
        found = await api.get(ref(other.ns, parent_name("shop")))
    assert found is not None
    assert found["metadata"]["labels"] == {SET_ID: set_id("shop", other.ns)}
    assert found["metadata"]["annotations"][GROUP_KINDS] == "ConfigMap"
    assert found["metadata"]["annotations"][NAMESPACES] == ""
    assert found["metadata"]["annotations"][TOOLING].startswith("muster/")
    assert found["data"] == {"release": "r1"}


async def test_the_parent_names_the_release_before_anything_of_it_is_applied(
    agent: Opener, api: KubeCluster, other: Kube, requests: list[str]
) -> None:
    """Also when the release has the same objects with other content, or nothing else than its commit is new."""
    home = f"/api/v1/namespaces/{other.ns}/configmaps"
    async with agent() as a:
        await a.apply(config(other.ns), note={"commit": "1", "phase": "Applying"})
        requests.clear()
        await a.apply(config(other.ns, data={"a": "2"}), note={"commit": "2", "phase": "Applying"})
        assert writes(requests) == [f"PATCH {home}/{parent_name('shop')}", f"PATCH {home}/one"]
        requests.clear()
        await a.apply(config(other.ns, data={"a": "2"}), note={"commit": "3", "phase": "Applying"})
        assert writes(requests) == [f"PATCH {home}/{parent_name('shop')}"]
        requests.clear()
        await a.apply(config(other.ns, data={"a": "2"}), note={"commit": "3", "phase": "Ready"})
        assert writes(requests) == []
    async with agent(applied=a.applied) as again:
        await again.apply(config(other.ns, data={"a": "2"}), note={"commit": "3", "phase": "Ready"})
    assert writes(requests) == []
    found = await api.get(ref(other.ns, parent_name("shop")))
    assert found is not None
    assert found["data"]["commit"] == "3"


async def test_the_second_pass_asks_and_writes_nothing(
    agent: Opener, other: Kube, requests: list[str]
) -> None:
    async with agent() as a:
        objects = [config(other.ns, f"c{n}") for n in range(5)]
        await a.apply(*objects)
        requests.clear()
        for _ in range(3):
            assert not (await a.apply(*objects)).changes
        assert requests == []


async def test_a_restart_writes_nothing(agent: Opener, other: Kube, requests: list[str]) -> None:
    """rancher/fleet#2436: correcting drift repeated itself and did not converge."""
    async with agent() as a:
        await a.apply(config(other.ns), config(other.ns, "two"))
    requests.clear()
    async with agent(applied=a.applied) as again:
        assert not (await again.apply(config(other.ns), config(other.ns, "two"))).changes
    assert writes(requests) == []


async def test_only_what_changed_is_written(agent: Opener, other: Kube, requests: list[str]) -> None:
    async with agent() as a:
        await a.apply(config(other.ns), config(other.ns, "two"))
        requests.clear()
        result = await a.apply(config(other.ns), config(other.ns, "two", {"a": "2"}))
        assert actions(result) == {"two": "configured"}
        assert writes(requests) == [f"PATCH /api/v1/namespaces/{other.ns}/configmaps/two"]


async def test_namespaces_and_kinds_come_before_what_needs_them(
    agent: Opener, api: KubeCluster, other: Kube
) -> None:
    tag = other.ns.removeprefix("port-")
    space, kind = f"space-{tag}", f"V{tag}"
    objects = [
        {"apiVersion": "lab.example.com/v1", "kind": kind, "metadata": {"name": "one", "namespace": space},
         "spec": {"size": 2}},
        config(space),
        definition(f"v{tag}s", kind),
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space}},
    ]  # fmt: skip
    async with agent() as a:
        result = await a.apply(*objects)
        for _ in range(
            20
        ):  # a kind that is established may not be served for a moment; the next pass finds it
            if not result.errors:
                break
            assert {change.error.code for change in result.errors} <= {"K004"}  # type: ignore[union-attr]
            await anyio.sleep(0.1)
            result = await a.apply(*objects)
        assert not result.errors
        assert await api.get(ObjectRef("lab.example.com/v1", kind, space, "one")) is not None
        assert await api.get(ref(space)) is not None
        gone = actions(await a.apply(config(other.ns, "kept")))
        assert gone == {"kept": "created", "one": "pruned", f"v{tag}s.lab.example.com": "pruned"}
        assert await api.get(ref(space)) is None
        assert await api.get(ObjectRef("v1", "Namespace", "", space)) is not None, (
            "namespaces are never pruned"
        )
    await other.call("DELETE", f"/api/v1/namespaces/{space}")


async def test_the_bundles_namespace_is_filled_in(agent: Opener, api: KubeCluster, other: Kube) -> None:
    bare = config("")
    del bare["metadata"]["namespace"]
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": other.ns, "namespace": "odd"}}
    found, problems = await located(api, [bare, space], other.ns)
    assert not problems
    assert set(found) == {ref(other.ns), ObjectRef("v1", "Namespace", "", other.ns)}


async def test_two_of_one_name_are_refused(api: KubeCluster, other: Kube) -> None:
    _, problems = await located(api, [config(other.ns), config("")], other.ns)
    assert [problem.error.code for problem in problems if problem.error] == ["K013"]


async def test_an_unknown_kind_is_a_problem_of_that_object(api: KubeCluster, other: Kube) -> None:
    odd = {"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}}
    found, problems = await located(api, [config(other.ns), odd], other.ns)
    assert list(found) == [ref(other.ns)]
    assert [(p.ref.kind, p.error.code) for p in problems if p.error] == [("Widget", "K004")]


async def test_what_is_not_ours_is_refused_and_left_alone(
    agent: Opener, api: KubeCluster, other: Kube
) -> None:
    before = (await other.config("one", {"a": "theirs"})).body
    async with agent() as a:
        result = await a.apply(config(other.ns), config(other.ns, "two"))
        assert actions(result) == {"one": "refused", "two": "created"}
        error = result.errors[0].error
        assert error is not None
        assert (error.code, error.object) == ("K014", f"v1/ConfigMap {other.ns}/one")
    assert await api.get(ref(other.ns)) == before


async def test_one_bundle_never_takes_anothers_object(agent: Opener, api: KubeCluster, other: Kube) -> None:
    async with agent("first") as first, agent("second") as second:
        await first.apply(config(other.ns))
        result = await second.apply(config(other.ns, data={"a": "2"}))
        assert [change.error.code for change in result.errors if change.error] == ["K014"]
    found = await api.get(ref(other.ns))
    assert found is not None
    assert found["data"] == {"a": "1"}


async def test_two_bundles_share_a_namespace_in_peace(
    agent: Opener, other: Kube, requests: list[str]
) -> None:
    name = f"{other.ns}-shared"
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    async with agent("first") as first, agent("second") as second:
        await first.apply(space, config(name))
        assert not (await second.apply(space, config(name, "two"))).errors
        await until(lambda: ref(name, "two") in first.observer.seen)
        requests.clear()
        for _ in range(3):
            assert not (await first.apply(space, config(name))).changes
            assert not (await second.apply(space, config(name, "two"))).changes
        assert requests == []
    await other.call("DELETE", f"/api/v1/namespaces/{name}")


async def test_drift_wakes_and_is_healed(agent: Opener, api: KubeCluster, other: Kube) -> None:
    async with agent() as a:
        await a.apply(config(other.ns))
        a.changed.clear()
        await other.call("PATCH", other.path("configmaps", "one"), {"data": {"a": "9"}}, media=MERGE)
        await until(lambda: a.set_id in a.changed)
        result = await a.apply(config(other.ns))
        assert result.healed == [ref(other.ns)]
        found = await api.get(ref(other.ns))
        assert found is not None
        assert found["data"] == {"a": "1"}
        assert not (await a.apply(config(other.ns))).changes


async def test_a_deleted_object_wakes_and_comes_back(agent: Opener, api: KubeCluster, other: Kube) -> None:
    async with agent() as a:
        await a.apply(config(other.ns))
        a.changed.clear()
        await other.call("DELETE", other.path("configmaps", "one"))
        await until(lambda: a.set_id in a.changed)
        assert (await a.apply(config(other.ns))).healed == [ref(other.ns)]
    assert await api.get(ref(other.ns)) is not None


async def test_what_others_add_is_no_drift(
    agent: Opener, api: KubeCluster, other: Kube, requests: list[str]
) -> None:
    async with agent() as a:
        await a.apply(config(other.ns), config(other.ns, "two"))
        await other.call("PATCH", other.path("configmaps", "one"), {"data": {"b": "9"}}, media=MERGE)
        await other.call("PATCH", other.path("configmaps", "two"), {"data": {"a": "9"}}, media=MERGE)
        await until(
            lambda: a.observer.seen[ref(other.ns, "two")].live.owned != a.applied[ref(other.ns, "two")].owned
        )
        assert (await a.apply(config(other.ns), config(other.ns, "two"))).healed == [ref(other.ns, "two")]
        found = await api.get(ref(other.ns))
        assert found is not None
        assert found["data"] == {"a": "1", "b": "9"}


async def test_a_field_of_another_manager_is_not_taken_at_first(agent: Opener, other: Kube) -> None:
    async with agent() as a:
        await a.apply(config(other.ns))
        body = config(other.ns, data={"mine": "1"})
        await other.call("PATCH", other.path("configmaps", "one"), body, media=APPLY, fieldManager="helm")
        a.applied.clear()  # a state that was lost: nothing says that the field was ours
        result = await a.apply(config(other.ns, data={"a": "1", "mine": "2"}))
        error = result.errors[0].error
        assert error is not None
        assert error.code == "K005"
        assert "helm" in error.message


async def test_prune_takes_what_left_the_bundle_in_reverse_order(
    agent: Opener, api: KubeCluster, other: Kube, requests: list[str]
) -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": other.ns},
               "spec": {"ports": [{"port": 80}]}}  # fmt: skip
    await other.config("bystander")
    async with agent() as a:
        await a.apply(config(other.ns), config(other.ns, "two"), service)
        requests.clear()
        result = await a.apply(config(other.ns, "two"))
        assert [change.ref.name for change in result.changes if change.action == "pruned"] == ["web", "one"]
        deletes = [line for line in requests if line.startswith("DELETE")]
        assert [line.rpartition("/")[2] for line in deletes] == ["web", "one"]
        found = await api.get(ref(other.ns, parent_name("shop")))
        assert found is not None
        assert found["metadata"]["annotations"][GROUP_KINDS] == "ConfigMap"
    assert await api.get(ref(other.ns, "bystander")) is not None


async def test_an_empty_set_takes_everything_of_the_bundle(
    agent: Opener, api: KubeCluster, other: Kube
) -> None:
    async with agent() as a:
        await a.apply(config(other.ns), config(other.ns, "two"))
        assert actions(await a.apply()) == {"one": "pruned", "two": "pruned"}
        assert not (await a.apply()).changes


async def test_nothing_is_pruned_when_something_failed_and_all_of_it_later(
    agent: Opener, api: KubeCluster, other: Kube
) -> None:
    broken = config(other.ns, "two") | {"dota": {}}
    async with agent() as a:
        await a.apply(config(other.ns))
        result = await a.apply(broken)
        assert [change.error.code for change in result.errors if change.error] == ["K007"]
        assert await api.get(ref(other.ns)) is not None
    async with agent(applied=a.applied) as again:
        assert actions(await again.apply(config(other.ns, "two"))) == {"one": "pruned", "two": "created"}
    assert await api.get(ref(other.ns)) is None


async def test_members_are_found_again_after_all_records_are_lost(
    agent: Opener, api: KubeCluster, other: Kube
) -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": other.ns},
               "spec": {"ports": [{"port": 80}]}}  # fmt: skip
    async with agent() as a:
        await a.apply(config(other.ns), service)
    async with agent() as fresh:
        result = await fresh.apply(config(other.ns))
        assert actions(result) == {"one": "configured", "web": "pruned"}
    assert await api.get(ObjectRef("v1", "Service", other.ns, "web")) is None


async def test_without_prune_nothing_is_taken(agent: Opener, api: KubeCluster, other: Kube) -> None:
    async with agent() as a:
        await a.apply(config(other.ns))
        await a.apply(config(other.ns, "two"), prune=False)
        assert await api.get(ref(other.ns)) is not None
        assert actions(await a.apply(config(other.ns, "two"))) == {"one": "pruned"}


async def test_an_object_made_anew_by_others_is_not_pruned(
    agent: Opener, api: KubeCluster, other: Kube
) -> None:
    async with agent() as a:
        await a.apply(config(other.ns))
        await other.call("DELETE", other.path("configmaps", "one"))
        theirs = (await other.config("one", {"a": "theirs"})).body
        await a.apply()
        assert await api.get(ref(other.ns)) == theirs


async def test_an_answer_that_comes_after_newer_events_undoes_none_of_them(
    agent: Opener, api: KubeCluster, other: Kube, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody is so quick that their change is seen by the watch before our own write is answered."""
    async with agent() as a:
        await a.apply(config(other.ns, "first"))  # the kind is watched
        before, apply = dict(a.observer.seen), api.apply

        async def late(obj: dict[str, Any], **more: Any) -> Any:
            answer = await apply(obj, **more)
            if obj["metadata"]["name"] == "one":
                monkeypatch.setattr(api, "apply", apply)
                await until(lambda: ref(other.ns) in a.observer.seen)
                ours = a.observer.seen[ref(other.ns)]
                await other.call(
                    "PATCH", other.path("configmaps", "one"), {"data": {"a": "theirs"}}, media=MERGE
                )
                await until(lambda: a.observer.seen[ref(other.ns)] != ours)
            return answer

        monkeypatch.setattr(api, "apply", late)
        await a.apply(config(other.ns, "first"), config(other.ns))
        assert before.keys() < a.observer.seen.keys()
        assert actions(await a.apply(config(other.ns, "first"), config(other.ns))) == {"one": "configured"}
        found = await api.get(ref(other.ns))
        assert found is not None
        assert found["data"] == {"a": "1"}


async def test_health_comes_with_the_watch(agent: Opener, other: Kube) -> None:
    labels = {"app": "web"}
    deployment = {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": other.ns},
        "spec": {"replicas": 0, "selector": {"matchLabels": labels},
                 "template": {"metadata": {"labels": labels},
                              "spec": {"containers": [{"name": "c", "image": "registry.example/web:1"}]}}},
    }  # fmt: skip
    where = ObjectRef("apps/v1", "Deployment", other.ns, "web")
    async with agent() as a:
        await a.apply(deployment, config(other.ns))
        assert a.observer.seen[ref(other.ns)].health.status == "Current"
        await until(lambda: a.observer.seen[where].health.status == "Current")
        assert not (await a.apply(deployment, config(other.ns))).changes, "status and defaults are no drift"
