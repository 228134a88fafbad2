"""Lists: pages, selectors, forms."""

from __future__ import annotations

import pytest
from contract.kube.client import Kube


async def _names(kube: Kube, **query: str) -> list[str]:
    answer = await kube.call("GET", kube.path("configmaps"), **query)
    assert answer.status == 200, answer.body
    names = [item["metadata"]["name"] for item in answer.body["items"]]
    return [name for name in names if name != "kube-root-ca.crt"]


async def test_a_list_has_a_version_and_items_without_kind(kube: Kube) -> None:
    await kube.config("one")
    answer = await kube.call("GET", kube.path("configmaps"))
    assert (answer.body["kind"], answer.body["apiVersion"]) == ("ConfigMapList", "v1")
    assert int(answer.version) > 0
    assert all("kind" not in item and "apiVersion" not in item for item in answer.body["items"])


async def test_an_empty_list_has_items(kube: Kube) -> None:
    answer = await kube.call("GET", kube.path("secrets"))
    assert answer.body["items"] == []


async def test_pages_are_of_one_version(kube: Kube) -> None:
    for number in range(5):
        await kube.config(f"c{number}", labels={"page": "yes"})
    first = await kube.call("GET", kube.path("configmaps"), limit="2", labelSelector="page=yes")
    assert [item["metadata"]["name"] for item in first.body["items"]] == ["c0", "c1"]
    await kube.config("c9", labels={"page": "yes"})
    found, token, version = [], first.body["metadata"]["continue"], first.version
    while token:
        page = await kube.call(
            "GET", kube.path("configmaps"), limit="2", labelSelector="page=yes", **{"continue": token}
        )
        assert page.version == version
        found += [item["metadata"]["name"] for item in page.body["items"]]
        token = page.body["metadata"].get("continue", "")
    assert found == ["c2", "c3", "c4"]


async def test_a_page_says_how_much_remains(kube: Kube) -> None:
    for number in range(3):
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": f"s{number}"}}
        await kube.call("POST", kube.path("secrets"), secret)
    page = await kube.call("GET", kube.path("secrets"), limit="1")
    assert page.body["metadata"]["remainingItemCount"] == 2


async def test_a_broken_continue_token_is_a_bad_request(kube: Kube) -> None:
    answer = await kube.call("GET", kube.path("configmaps"), limit="1", **{"continue": "nonsense"})
    assert (answer.status, answer.body["reason"]) == (400, "BadRequest")


async def test_label_selectors(kube: Kube) -> None:
    await kube.config("a", labels={"ring": "canary", "zone": "eu"})
    await kube.config("b", labels={"ring": "stores"})
    await kube.config("c")
    expected = {
        "ring=canary": ["a"],
        "ring==canary": ["a"],
        "ring!=canary": ["b", "c"],
        "ring": ["a", "b"],
        "!ring": ["c"],
        "ring in (canary, stores)": ["a", "b"],
        "ring notin (canary)": ["b", "c"],
        "ring=canary,zone=eu": ["a"],
        "ring in (canary),zone notin (us)": ["a"],
    }
    for selector, names in expected.items():
        assert await _names(kube, labelSelector=selector) == names, selector


async def test_field_selectors(kube: Kube) -> None:
    await kube.config("a")
    await kube.config("b")
    assert await _names(kube, fieldSelector="metadata.name=a") == ["a"]
    assert await _names(kube, fieldSelector="metadata.name!=a") == ["b"]
    everywhere = await kube.call(
        "GET", "/api/v1/configmaps", fieldSelector=f"metadata.namespace={kube.ns},metadata.name=b"
    )
    assert [item["metadata"]["name"] for item in everywhere.body["items"]] == ["b"]


async def test_pods_are_found_by_node_and_phase(kube: Kube) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p"},
        "spec": {"nodeName": "somewhere", "containers": [{"name": "main", "image": "registry.example/x:1"}]},
    }
    await kube.there(kube.path("serviceaccounts", "default"))
    made = await kube.call("POST", kube.path("pods"), pod)
    assert made.status == 201, made.body
    assert made.body["status"]["phase"] == "Pending"
    for selector, count in (
        ("spec.nodeName=somewhere", 1),
        ("status.phase=Pending", 1),
        ("status.phase!=Pending", 0),
        ("spec.nodeName=", 0),
    ):
        answer = await kube.call("GET", kube.path("pods"), fieldSelector=selector)
        assert len(answer.body["items"]) == count, selector


@pytest.mark.parametrize(
    "query",
    [{"labelSelector": "a in b"}, {"labelSelector": "=x"}, {"fieldSelector": "data.a=1"}, {"limit": "many"}],
)
async def test_a_bad_query_is_a_bad_request(kube: Kube, query: dict[str, str]) -> None:
    answer = await kube.call("GET", kube.path("configmaps"), **query)
    assert (answer.status, answer.body["reason"]) == (400, "BadRequest")


async def test_metadata_only_when_asked_for(kube: Kube) -> None:
    await kube.config("one", labels={"a": "b"})
    accept = {"Accept": "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"}
    one = await kube.call("GET", kube.path("configmaps", "one"), headers=accept)
    assert (one.body["kind"], one.body["apiVersion"]) == ("PartialObjectMetadata", "meta.k8s.io/v1")
    assert one.body["metadata"]["labels"] == {"a": "b"}
    assert "data" not in one.body
    accept = {"Accept": "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"}
    listed = await kube.call("GET", kube.path("configmaps"), headers=accept)
    assert listed.body["kind"] == "PartialObjectMetadataList"
    assert all("data" not in item for item in listed.body["items"])


async def test_a_list_of_all_namespaces(kube: Kube) -> None:
    await kube.config("one")
    answer = await kube.call("GET", "/api/v1/configmaps", fieldSelector="metadata.name=one")
    assert kube.ns in {item["metadata"]["namespace"] for item in answer.body["items"]}


async def test_a_version_from_the_future_is_a_timeout_with_a_cause(kube: Kube) -> None:
    answer = await kube.call(
        "GET", kube.path("configmaps"), resourceVersion="99999999", resourceVersionMatch="NotOlderThan"
    )
    assert answer.status == 504
    assert answer.body["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"
