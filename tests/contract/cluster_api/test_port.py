"""Each call of the port: what it answers, and the code of each refusal."""

from __future__ import annotations

import contextlib
from typing import Any

import anyio
import pytest
from contract.kube.client import Kube
from contract.kube.test_definitions import definition
from muster_agent.cluster.kube import KubeCluster
from muster_core.apply.applyset import MANAGER
from muster_core.errors import KubernetesError
from muster_core.manifest.objects import ObjectRef


def config(
    space: str, name: str = "one", data: dict[str, str] | None = None, **labels: str
) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, "namespace": space}
    if labels:
        metadata["labels"] = labels
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data or {"a": "1"}}


def ref(space: str, name: str = "one") -> ObjectRef:
    return ObjectRef("v1", "ConfigMap", space, name)


async def refusal(call: Any) -> KubernetesError:
    with pytest.raises(KubernetesError) as caught:
        await call
    return caught.value


async def test_a_cluster_has_a_uid_and_a_version(api: KubeCluster, other: Kube) -> None:
    space = await other.call("GET", "/api/v1/namespaces/kube-system")
    assert await api.uid() == space.body["metadata"]["uid"]
    assert (await api.version()).startswith("v1.")


async def test_kinds_are_found_by_discovery(api: KubeCluster) -> None:
    deployment = await api.resource("apps/v1", "Deployment")
    assert (deployment.plural, deployment.namespaced) == ("deployments", True)
    assert not (await api.resource("v1", "Namespace")).namespaced
    for unknown in (("example.com/v1", "Widget"), ("v1", "Widget")):
        error = await refusal(api.resource(*unknown))
        assert (error.code, error.retryable) == ("K004", True)


async def test_a_new_kind_is_found_once_it_is_served(api: KubeCluster, other: Kube) -> None:
    tag = other.ns.removeprefix("port-")
    plural, kind = f"w{tag}s", f"W{tag}"
    assert (await refusal(api.resource("lab.example.com/v1", kind))).code == "K004"
    crd = await api.apply(definition(plural, kind))
    with anyio.fail_after(20):
        while True:
            try:
                found = await api.resource("lab.example.com/v1", kind)
                break
            except KubernetesError:
                await anyio.sleep(0.1)
    assert (found.plural, found.namespaced) == (plural, True)
    widget = {
        "apiVersion": "lab.example.com/v1",
        "kind": kind,
        "metadata": {"name": "one", "namespace": other.ns},
    }
    with anyio.fail_after(20):
        made = None
        while made is None:  # established, and not yet served for a moment
            with contextlib.suppress(KubernetesError):
                made = await api.apply({**widget, "spec": {"size": 2}})
            await anyio.sleep(0.05)
    assert (await refusal(api.apply({**widget, "spec": {"size": 0}}))).code == "K007"
    name = crd["metadata"]["name"]
    assert await api.delete(ObjectRef("apiextensions.k8s.io/v1", "CustomResourceDefinition", "", name), "")


async def test_apply_creates_and_changes_as_our_manager(api: KubeCluster, other: Kube) -> None:
    made = await api.apply(config(other.ns))
    assert [e["manager"] for e in made["metadata"]["managedFields"]] == [MANAGER]
    changed = await api.apply(config(other.ns, data={"a": "2"}))
    assert changed["metadata"]["uid"] == made["metadata"]["uid"]
    found = await api.get(ref(other.ns))
    assert found is not None
    assert found["data"] == {"a": "2"}
    assert (found["apiVersion"], found["kind"]) == ("v1", "ConfigMap")


async def test_a_field_that_is_left_out_is_taken_away(api: KubeCluster, other: Kube) -> None:
    await api.apply(config(other.ns, data={"a": "1", "b": "2"}))
    assert (await api.apply(config(other.ns)))["data"] == {"a": "1"}


async def test_the_same_apply_again_changes_nothing(api: KubeCluster, other: Kube) -> None:
    first = await api.apply(config(other.ns))
    assert (await api.apply(config(other.ns)))["metadata"]["resourceVersion"] == first["metadata"][
        "resourceVersion"
    ]


async def test_a_dry_run_answers_and_keeps_nothing(api: KubeCluster, other: Kube) -> None:
    assert (await api.apply(config(other.ns), dry_run=True))["data"] == {"a": "1"}
    assert await api.get(ref(other.ns)) is None


async def test_another_manager_is_named_and_gives_way_only_to_force(api: KubeCluster, other: Kube) -> None:
    answer = await other.call(
        "PATCH", other.path("configmaps", "one"), config(other.ns), media="application/apply-patch+yaml",
        fieldManager="helm",
    )  # fmt: skip
    assert answer.status == 201
    error = await refusal(api.apply(config(other.ns, data={"a": "2"})))
    assert error.code == "K005"
    assert "helm" in error.message
    assert ".data.a" in error.message
    assert error.object.endswith("/one")
    assert (await api.apply(config(other.ns, data={"a": "2"}), force=True))["data"] == {"a": "2"}


async def test_an_immutable_field_has_its_code(api: KubeCluster, other: Kube) -> None:
    await api.apply(config(other.ns) | {"immutable": True})
    error = await refusal(api.apply(config(other.ns, data={"a": "2"}) | {"immutable": True}))
    assert (error.code, error.retryable) == ("K006", False)


async def test_an_unknown_field_is_invalid(api: KubeCluster, other: Kube) -> None:
    error = await refusal(api.apply(config(other.ns) | {"dota": {"a": "1"}}))
    assert (error.code, error.retryable) == ("K007", False)
    assert "dota" in error.message


async def test_a_value_that_is_not_allowed_is_invalid(api: KubeCluster, other: Kube) -> None:
    ports = [{"port": 99999}]
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "one", "namespace": other.ns}}
    error = await refusal(api.apply({**service, "spec": {"ports": ports}}))
    assert error.code == "K007"
    assert "65535" in error.message


async def test_a_missing_namespace_has_its_code(api: KubeCluster) -> None:
    error = await refusal(api.apply(config("nowhere")))
    assert (error.code, error.retryable) == ("K009", True)


async def test_what_is_not_there_is_none(api: KubeCluster, other: Kube) -> None:
    assert await api.get(ref(other.ns)) is None
    assert not await api.delete(ref(other.ns), "")


async def test_delete_takes_only_the_object_that_was_seen(api: KubeCluster, other: Kube) -> None:
    made = await api.apply(config(other.ns))
    error = await refusal(api.delete(ref(other.ns), "00000000-0000-0000-0000-000000000000"))
    assert error.code == "K010"
    assert await api.get(ref(other.ns)) is not None
    assert await api.delete(ref(other.ns), made["metadata"]["uid"])
    assert await api.get(ref(other.ns)) is None


async def test_a_list_comes_in_pages_and_only_what_is_selected(api: KubeCluster, other: Kube) -> None:
    await api.apply(config(other.ns, "one", side=other.ns))
    await api.apply(config(other.ns, "two", side=other.ns))
    await api.apply(config(other.ns, "three"))
    resource = await api.resource("v1", "ConfigMap")
    pages = [page async for page in api.pages(resource, f"side={other.ns}")]
    items = [item for page in pages for item in page.items]
    assert {item["metadata"]["name"] for item in items} == {"one", "two"}
    assert {(item["apiVersion"], item["kind"]) for item in items} == {("v1", "ConfigMap")}
    assert pages[-1].resource_version


async def test_pages_follow_each_other(
    api: KubeCluster, other: Kube, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("muster_agent.cluster.kube.PAGE", 2)
    for number in range(5):
        await api.apply(config(other.ns, f"c{number}", side=other.ns))
    resource = await api.resource("v1", "ConfigMap")
    sizes = [len(page.items) async for page in api.pages(resource, f"side={other.ns}")]
    assert sizes == [2, 2, 1]


async def test_a_watch_tells_every_change_after_a_version(api: KubeCluster, other: Kube) -> None:
    resource, selector = await api.resource("v1", "ConfigMap"), f"side={other.ns}"
    version = [page.resource_version async for page in api.pages(resource, selector)][-1]
    await api.apply(config(other.ns, "one", side=other.ns))
    await api.apply(config(other.ns, "one", {"a": "2"}, side=other.ns))
    await api.delete(ref(other.ns), "")
    seen = []
    events = api.watch(resource, selector, version)
    with anyio.fail_after(20):
        async for event in events:
            if event.type == "BOOKMARK":
                continue
            seen.append((event.type, event.object["metadata"]["name"]))
            if event.type == "DELETED":
                break
    await events.aclose()  # type: ignore[attr-defined]
    assert seen == [("ADDED", "one"), ("MODIFIED", "one"), ("DELETED", "one")]


async def test_a_version_that_is_too_old_has_its_code(api: KubeCluster, other: Kube) -> None:
    tag = other.ns.removeprefix("port-")
    plural, kind = f"e{tag}s", f"E{tag}"
    await api.apply(definition(plural, kind))
    await other.there(f"/apis/lab.example.com/v1/{plural}")

    async def watch() -> None:
        resource = await api.resource("lab.example.com/v1", kind)
        async for _ in api.watch(resource, "", "1"):  # from before the kind was served
            pass

    with anyio.fail_after(20):
        assert (await refusal(watch())).code == "K008"
    await other.call(
        "DELETE", f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{plural}.lab.example.com"
    )


async def test_an_unknown_token_is_forbidden(api: KubeCluster, other: Kube) -> None:
    api._configuration.api_key["BearerToken"] = "Bearer wrong"
    api._configuration.refresh_api_key_hook = None
    error = await refusal(api.get(ref(other.ns)))
    assert error.code == "K003"
    assert "Bearer" not in str(error)


async def test_an_object_larger_than_a_line_of_the_library_is_watched(api: KubeCluster, other: Kube) -> None:
    resource, selector = await api.resource("v1", "ConfigMap"), f"side={other.ns}"
    version = [page.resource_version async for page in api.pages(resource, selector)][-1]
    text = (
        "x" * 900_000
    )  # the server's own limit for these is 1 MiB; longer lines are in tests/unit/agent_cluster
    await api.apply(config(other.ns, "one", {"a": text}, side=other.ns))
    events = api.watch(resource, selector, version)
    with anyio.fail_after(20):
        async for event in events:
            if event.type == "ADDED":
                assert event.object["data"]["a"] == text
                break
    await events.aclose()  # type: ignore[attr-defined]
