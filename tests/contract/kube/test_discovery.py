"""What a client learns before it does anything."""

from __future__ import annotations

from contract.kube.client import Kube


async def test_version_names_a_release(kube: Kube) -> None:
    answer = await kube.call("GET", "/version")
    assert answer.status == 200
    assert answer.body["gitVersion"].startswith("v1.")
    assert answer.body["major"] == "1"
    assert (await kube.call("GET", "/version/")).body == answer.body
    assert (await kube.call("GET", "/apis/")).status == 200


async def test_health_endpoints_answer_ok(kube: Kube) -> None:
    for path in ("/healthz", "/livez", "/readyz"):
        answer = await kube.call("GET", path)
        assert (answer.status, answer.body) == (200, "ok")


async def test_core_resources_are_listed_with_scope_verbs_and_subresources(kube: Kube) -> None:
    answer = await kube.call("GET", "/api/v1")
    assert answer.body["kind"] == "APIResourceList"
    found = {item["name"]: item for item in answer.body["resources"]}
    assert found["configmaps"]["namespaced"] is True
    assert found["namespaces"]["namespaced"] is False
    assert found["configmaps"]["kind"] == "ConfigMap"
    assert found["configmaps"]["shortNames"] == ["cm"]
    assert {"create", "delete", "get", "list", "patch", "update", "watch"} <= set(
        found["configmaps"]["verbs"]
    )
    assert found["pods/status"]["kind"] == "Pod"


async def test_groups_name_their_preferred_version(kube: Kube) -> None:
    answer = await kube.call("GET", "/apis")
    groups = {item["name"]: item for item in answer.body["groups"]}
    assert groups["apps"]["preferredVersion"] == {"groupVersion": "apps/v1", "version": "v1"}
    one = await kube.call("GET", "/apis/apps")
    assert one.body["kind"] == "APIGroup"
    listed = await kube.call("GET", "/apis/apps/v1")
    assert listed.body["groupVersion"] == "apps/v1"
    assert "deployments/scale" in {item["name"] for item in listed.body["resources"]}


async def test_aggregated_discovery_when_asked_for(kube: Kube) -> None:
    accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"
    answer = await kube.call("GET", "/apis", headers={"Accept": accept})
    assert answer.body["kind"] == "APIGroupDiscoveryList"
    apps = next(item for item in answer.body["items"] if item["metadata"]["name"] == "apps")
    entry = next(item for item in apps["versions"][0]["resources"] if item["resource"] == "deployments")
    assert entry["scope"] == "Namespaced"
    assert entry["responseKind"]["kind"] == "Deployment"


async def test_an_unknown_resource_is_a_404(kube: Kube) -> None:
    answer = await kube.call("GET", "/api/v1/nonsense")
    assert answer.status == 404
    assert (await kube.call("GET", "/apis/nobody.example/v1")).status == 404


async def test_a_wrong_token_is_a_401(kube: Kube) -> None:
    answer = await kube.call("GET", "/api/v1/namespaces", headers={"Authorization": "Bearer wrong"})
    if "Authorization" not in kube.endpoint.headers:  # a client certificate would win over the header
        return
    assert answer.status == 401
    assert answer.body["reason"] == "Unauthorized"


async def test_the_first_namespaces_exist_and_kube_system_identifies_the_cluster(kube: Kube) -> None:
    answer = await kube.call("GET", "/api/v1/namespaces")
    names = {item["metadata"]["name"] for item in answer.body["items"]}
    assert {"default", "kube-system", "kube-public", "kube-node-lease"} <= names
    system = await kube.call("GET", "/api/v1/namespaces/kube-system")
    assert len(system.body["metadata"]["uid"]) == 36
    assert system.body["metadata"]["labels"]["kubernetes.io/metadata.name"] == "kube-system"
