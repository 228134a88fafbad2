"""Merge patch, JSON patch and strategic merge patch."""

from __future__ import annotations

from contract.kube.client import JSON_PATCH, MERGE, STRATEGIC, Kube, deployment


async def test_merge_patch_sets_and_removes(kube: Kube) -> None:
    await kube.config("one", {"a": "1", "b": "2"})
    answer = await kube.call(
        "PATCH", kube.path("configmaps", "one"), {"data": {"a": None, "c": "3"}}, media=MERGE
    )
    assert answer.status == 200
    assert answer.body["data"] == {"b": "2", "c": "3"}


async def test_a_patch_that_changes_nothing_keeps_the_version(kube: Kube) -> None:
    made = await kube.config("one")
    answer = await kube.call("PATCH", kube.path("configmaps", "one"), {"data": {"a": "1"}}, media=MERGE)
    assert answer.version == made.version


async def test_a_patch_with_a_stale_version_is_a_conflict(kube: Kube) -> None:
    await kube.config("one")
    patch = {"metadata": {"resourceVersion": "1"}, "data": {"a": "2"}}
    answer = await kube.call("PATCH", kube.path("configmaps", "one"), patch, media=MERGE)
    assert (answer.status, answer.body["reason"]) == (409, "Conflict")


async def test_a_patch_of_a_missing_object_is_a_404(kube: Kube) -> None:
    answer = await kube.call("PATCH", kube.path("configmaps", "none"), {"data": {}}, media=MERGE)
    assert answer.status == 404


async def test_json_patch_adds_replaces_and_tests(kube: Kube) -> None:
    await kube.config("one", {"a": "1"}, annotations={"x/y": "2"})
    path = kube.path("configmaps", "one")
    steps = [
        {"op": "test", "path": "/data/a", "value": "1"},
        {"op": "replace", "path": "/data/a", "value": "2"},
        {"op": "remove", "path": "/metadata/annotations/x~1y"},
        {"op": "add", "path": "/metadata/labels", "value": {"l": "1"}},
    ]
    answer = await kube.call("PATCH", path, steps, media=JSON_PATCH)
    assert answer.status == 200, answer.body
    assert answer.body["data"] == {"a": "2"}
    assert answer.body["metadata"]["labels"] == {"l": "1"}
    assert "annotations" not in answer.body["metadata"]
    wrong = await kube.call(
        "PATCH", path, [{"op": "test", "path": "/data/a", "value": "9"}], media=JSON_PATCH
    )
    assert wrong.status == 422
    missing = await kube.call("PATCH", path, [{"op": "remove", "path": "/data/none"}], media=JSON_PATCH)
    assert missing.status == 422


async def test_strategic_merge_finds_containers_by_name(kube: Kube) -> None:
    await kube.call("POST", kube.path("deployments", api="apps/v1"), deployment("web"))
    path = kube.path("deployments", "web", api="apps/v1")
    containers = [
        {"name": "side", "image": "registry.example/side:1"},
        {"name": "main", "env": [{"name": "A", "value": "1"}]},
    ]
    patch = {"spec": {"template": {"spec": {"containers": containers}}}}
    answer = await kube.call("PATCH", path, patch, media=STRATEGIC)
    assert answer.status == 200, answer.body
    found = {item["name"]: item for item in answer.body["spec"]["template"]["spec"]["containers"]}
    assert found["main"]["image"] == "registry.example/shop:1.0"
    assert found["main"]["env"] == [{"name": "A", "value": "1"}]
    assert found["side"]["image"] == "registry.example/side:1"


async def test_strategic_merge_deletes_and_replaces_by_directive(kube: Kube) -> None:
    body = deployment("web")
    pod = body["spec"]["template"]["spec"]
    pod["containers"].append({"name": "side", "image": "registry.example/side:1"})
    pod["nodeSelector"] = {"a": "1"}
    await kube.call("POST", kube.path("deployments", api="apps/v1"), body)
    path = kube.path("deployments", "web", api="apps/v1")
    patch = {
        "containers": [{"name": "side", "$patch": "delete"}],
        "nodeSelector": {"$patch": "replace", "b": "2"},
    }
    answer = await kube.call("PATCH", path, {"spec": {"template": {"spec": patch}}}, media=STRATEGIC)
    assert answer.status == 200, answer.body
    pod = answer.body["spec"]["template"]["spec"]
    assert [item["name"] for item in pod["containers"]] == ["main"]
    assert pod["nodeSelector"] == {"b": "2"}


async def test_a_patch_that_is_no_object_is_a_bad_request(kube: Kube) -> None:
    await kube.config("one")
    answer = await kube.call("PATCH", kube.path("configmaps", "one"), ["x"], media=MERGE)
    assert answer.status == 400
