"""What the API refuses, with the code, the reason and the cause that clients act on."""

from __future__ import annotations

from typing import Any

import pytest
from contract.kube.client import MERGE, Kube, config, deployment, service

IMMUTABLE = "field is immutable"


async def _make(kube: Kube, resource: str, body: dict[str, Any], api: str = "v1") -> str:
    made = await kube.call("POST", kube.path(resource, api=api), body)
    assert made.status == 201, made.body
    return kube.path(resource, body["metadata"]["name"], api=api)


async def test_missing_required_fields_are_named(kube: Kube) -> None:
    body = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {}}
    answer = await kube.call("POST", kube.path("deployments", api="apps/v1"), body)
    assert (answer.status, answer.body["reason"]) == (422, "Invalid")
    assert answer.body["details"]["kind"] == "Deployment"
    assert answer.body["details"]["group"] == "apps"
    assert answer.causes["spec.selector"] == "Required value"
    assert answer.body["message"].startswith('Deployment.apps "web" is invalid: ')


async def test_a_container_needs_an_image_and_a_unique_name(kube: Kube) -> None:
    body = deployment("web")
    containers = body["spec"]["template"]["spec"]["containers"]
    containers += [{"name": "main", "image": "registry.example/x:1"}, {"name": "bare"}]
    answer = await kube.call("POST", kube.path("deployments", api="apps/v1"), body)
    assert answer.status == 422
    assert answer.causes["spec.template.spec.containers[1].name"] == 'Duplicate value: "main"'
    assert answer.causes["spec.template.spec.containers[2].image"] == "Required value"


async def test_a_selector_must_match_its_template(kube: Kube) -> None:
    body = deployment("web", selector={"matchLabels": {"app": "other"}})
    answer = await kube.call("POST", kube.path("deployments", api="apps/v1"), body)
    assert answer.status == 422
    assert "`selector` does not match template `labels`" in answer.causes["spec.template.metadata.labels"]


async def test_a_bad_name_is_invalid(kube: Kube) -> None:
    answer = await kube.call("POST", kube.path("configmaps"), config("Not_Good", {}))
    assert answer.status == 422
    assert "a lowercase RFC 1123 subdomain must consist of" in answer.causes["metadata.name"]
    nameless = await kube.call("POST", kube.path("configmaps"), {"apiVersion": "v1", "kind": "ConfigMap"})
    assert nameless.status == 422
    assert nameless.causes["metadata.name"] == "Required value: name or generateName is required"


async def test_a_bad_label_value_is_invalid(kube: Kube) -> None:
    answer = await kube.config("one", labels={"a": "no spaces"})
    assert answer.status == 422
    assert "a valid label must be an empty string or consist of" in answer.causes["metadata.labels"]


async def test_a_deployment_selector_is_immutable(kube: Kube) -> None:
    path = await _make(kube, "deployments", deployment("web"), "apps/v1")
    labels = {"app": "web", "more": "x"}
    change = {"spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}}}}
    answer = await kube.call("PATCH", path, change, media=MERGE)
    assert (answer.status, answer.body["reason"]) == (422, "Invalid")
    assert answer.causes["spec.selector"].endswith(IMMUTABLE)


async def test_an_immutable_config_cannot_change(kube: Kube) -> None:
    path = await _make(kube, "configmaps", config("one", {"a": "1"}) | {"immutable": True})
    answer = await kube.call("PATCH", path, {"data": {"a": "2"}}, media=MERGE)
    assert answer.status == 422
    assert answer.causes["data"] == "Forbidden: field is immutable when `immutable` is set"
    opened = await kube.call("PATCH", path, {"immutable": None}, media=MERGE)
    assert opened.status == 422
    assert "immutable" in opened.causes


async def test_a_secret_type_is_immutable(kube: Kube) -> None:
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "type": "example.com/a"}
    path = await _make(kube, "secrets", body)
    answer = await kube.call("PATCH", path, {"type": "example.com/b"}, media=MERGE)
    assert answer.status == 422
    assert answer.causes["type"] == f'Invalid value: "example.com/b": {IMMUTABLE}'


async def test_a_service_address_is_immutable(kube: Kube) -> None:
    path = await _make(kube, "services", service("web"))
    answer = await kube.call("PATCH", path, {"spec": {"clusterIP": "10.0.200.200"}}, media=MERGE)
    assert answer.status == 422
    assert answer.causes["spec.clusterIPs[0]"] == 'Invalid value: ["10.0.200.200"]: may not change once set'


async def test_a_job_template_is_immutable(kube: Kube) -> None:
    pod = {
        "restartPolicy": "Never",
        "containers": [{"name": "main", "image": "registry.example/job:1-never"}],
    }
    body = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "once"},
        "spec": {"template": {"spec": pod}},
    }
    path = await _make(kube, "jobs", body, "batch/v1")
    pod = {"containers": [{"name": "main", "image": "registry.example/job:2"}]}
    answer = await kube.call("PATCH", path, {"spec": {"template": {"spec": pod}}}, media=MERGE)
    assert answer.status == 422
    assert answer.causes["spec.template"].endswith(IMMUTABLE)


async def test_most_of_a_stateful_set_is_immutable(kube: Kube) -> None:
    body = deployment("db", serviceName="db") | {"kind": "StatefulSet"}
    path = await _make(kube, "statefulsets", body, "apps/v1")
    assert (await kube.call("PATCH", path, {"spec": {"replicas": 2}}, media=MERGE)).status == 200
    answer = await kube.call("PATCH", path, {"spec": {"serviceName": "other"}}, media=MERGE)
    assert answer.status == 422
    assert answer.causes["spec"].startswith("Forbidden: updates to statefulset spec for fields other than")


async def test_a_role_reference_is_immutable(kube: Kube) -> None:
    api = "rbac.authorization.k8s.io/v1"
    body = {
        "apiVersion": api,
        "kind": "RoleBinding",
        "metadata": {"name": "b"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": kube.ns}],
    }
    path = await _make(kube, "rolebindings", body, api)
    answer = await kube.call("PATCH", path, {"roleRef": {"name": "edit"}}, media=MERGE)
    assert answer.status == 422
    assert answer.causes["roleRef"].endswith("cannot change roleRef")


async def test_strict_validation_refuses_unknown_fields_by_path(kube: Kube) -> None:
    body = deployment("web")
    body["spec"]["replica"] = 2
    body["spec"]["template"]["spec"]["containers"][0]["imagee"] = "x"
    path = kube.path("deployments", api="apps/v1")
    answer = await kube.call("POST", path, body, fieldValidation="Strict")
    assert (answer.status, answer.body["reason"]) == (400, "BadRequest")
    assert "strict decoding error: unknown field" in answer.body["message"]
    assert 'unknown field "spec.replica"' in answer.body["message"]
    assert 'unknown field "spec.template.spec.containers[0].imagee"' in answer.body["message"]


async def test_unknown_fields_are_dropped_with_a_warning_by_default(kube: Kube) -> None:
    body = config("one", {"a": "1"}) | {"extra": 1}
    answer = await kube.call("POST", kube.path("configmaps"), body)
    assert answer.status == 201
    assert "extra" not in answer.body
    assert answer.headers["Warning"] == '299 - "unknown field \\"extra\\""'
    silent = await kube.call(
        "POST", kube.path("configmaps"), body | {"metadata": {"name": "two"}}, fieldValidation="Ignore"
    )
    assert silent.status == 201
    assert "Warning" not in silent.headers


async def test_a_wrong_json_type_is_a_bad_request(kube: Kube) -> None:
    answer = await kube.call(
        "POST", kube.path("deployments", api="apps/v1"), deployment("web", replicas="two")
    )
    assert (answer.status, answer.body["reason"]) == (400, "BadRequest")
    assert "cannot unmarshal string into Go struct field" in answer.body["message"]
    assert "spec.replicas of type int32" in answer.body["message"]
    number = await kube.call("POST", kube.path("configmaps"), config("one") | {"data": {"a": 1}})
    assert number.status == 400
    assert "cannot unmarshal number into Go struct field" in number.body["message"]


async def test_a_body_that_is_no_json_is_a_bad_request(kube: Kube) -> None:
    answer = await kube.call("POST", kube.path("configmaps"), b'{"kind": ')
    assert (answer.status, answer.body["kind"]) == (400, "Status")


async def test_a_kind_that_is_not_the_paths_is_a_bad_request(kube: Kube) -> None:
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}}
    answer = await kube.call("POST", kube.path("configmaps"), body)
    assert answer.status == 400
    other = await kube.call(
        "POST", kube.path("deployments", api="apps/v1"), deployment("x") | {"apiVersion": "apps/v2"}
    )
    assert other.status == 400


@pytest.mark.parametrize("media", ["text/plain", "application/xml"])
async def test_an_unknown_media_type_is_a_415(kube: Kube, media: str) -> None:
    made = await kube.call("POST", kube.path("configmaps"), config("one", {}), media=media)
    assert (made.status, made.body["reason"]) == (415, "UnsupportedMediaType")
    await kube.config("one")
    patched = await kube.call("PATCH", kube.path("configmaps", "one"), {}, media=media)
    assert (patched.status, patched.body["reason"]) == (415, "UnsupportedMediaType")


async def test_an_answer_nobody_can_give_is_a_406(kube: Kube) -> None:
    answer = await kube.call("GET", kube.path("configmaps"), headers={"Accept": "text/csv"})
    assert answer.status == 406


async def test_a_verb_without_meaning_is_a_405(kube: Kube) -> None:
    await kube.config("one")
    answer = await kube.call("POST", kube.path("configmaps", "one"), config("one", {}))
    assert (answer.status, answer.body["reason"]) == (405, "MethodNotAllowed")


async def test_protected_namespaces_stay(kube: Kube) -> None:
    answer = await kube.call("DELETE", "/api/v1/namespaces/kube-system")
    assert (answer.status, answer.body["reason"]) == (403, "Forbidden")


async def test_a_service_needs_ports_with_names_when_there_are_several(kube: Kube) -> None:
    none = await kube.call("POST", kube.path("services"), service("web", ports=[]))
    assert none.status == 422
    assert none.causes["spec.ports"] == "Required value"
    two = await kube.call("POST", kube.path("services"), service("web", ports=[{"port": 80}, {"port": 81}]))
    assert two.status == 422
    assert two.causes["spec.ports[0].name"] == "Required value"
