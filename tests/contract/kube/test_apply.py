"""Server-side apply: who owns what, and what happens when two want the same field."""

from __future__ import annotations

import copy

from contract.kube.client import APPLY, MERGE, Kube, config, deployment, service


async def test_apply_creates_and_owns_exactly_what_was_applied(kube: Kube) -> None:
    path = kube.path("configmaps", "one")
    body = config("one", {"a": "1"}, labels={"l": "x"})
    made = await kube.apply(path, body)
    assert made.status == 201
    entry = made.body["metadata"]["managedFields"][0]
    assert (entry["manager"], entry["operation"], entry["apiVersion"]) == ("one", "Apply", "v1")
    assert entry["fieldsType"] == "FieldsV1"
    assert entry["fieldsV1"] == {"f:data": {"f:a": {}}, "f:metadata": {"f:labels": {"f:l": {}}}}


async def test_defaults_are_nobodys(kube: Kube) -> None:
    made = await kube.apply(kube.path("deployments", "web", api="apps/v1"), deployment("web"))
    assert made.status == 201
    assert made.managers()[("one", "Apply")] == {
        "f:spec": {
            "f:selector": {},
            "f:template": {
                "f:metadata": {"f:labels": {"f:app": {}}},
                "f:spec": {"f:containers": {'k:{"name":"main"}': {".": {}, "f:image": {}, "f:name": {}}}},
            },
        }
    }


async def test_applying_the_same_again_keeps_the_version(kube: Kube) -> None:
    path = kube.path("services", "web")
    made = await kube.apply(path, service("web"))
    again = await kube.apply(path, service("web"))
    assert again.status == 200
    assert again.body == made.body


async def test_another_managers_value_is_a_conflict_that_names_manager_and_field(kube: Kube) -> None:
    path = kube.path("deployments", "web", api="apps/v1")
    await kube.apply(path, deployment("web", replicas=1))
    await kube.call("PATCH", path, {"spec": {"replicas": 3}}, media=MERGE, fieldManager="kubectl-edit")
    answer = await kube.apply(path, deployment("web", replicas=2))
    assert (answer.status, answer.body["reason"]) == (409, "Conflict")
    assert answer.body["message"] == (
        'Apply failed with 1 conflict: conflict with "kubectl-edit" using apps/v1: .spec.replicas'
    )
    assert answer.body["details"]["causes"] == [
        {
            "reason": "FieldManagerConflict",
            "message": 'conflict with "kubectl-edit" using apps/v1',
            "field": ".spec.replicas",
        }
    ]


async def test_several_conflicts_are_listed(kube: Kube) -> None:
    path = kube.path("configmaps", "one")
    await kube.apply(path, config("one", {"a": "1", "b": "1"}), "first")
    answer = await kube.apply(path, config("one", {"a": "2", "b": "2"}), "second")
    assert answer.status == 409
    assert (
        answer.body["message"]
        == 'Apply failed with 2 conflicts: conflicts with "first":\n- .data.a\n- .data.b'
    )
    assert {item["field"] for item in answer.body["details"]["causes"]} == {".data.a", ".data.b"}


async def test_a_list_item_is_named_by_its_key_in_a_conflict(kube: Kube) -> None:
    path = kube.path("deployments", "web", api="apps/v1")
    await kube.apply(path, deployment("web"), "first")
    other = deployment("web")
    other["spec"]["template"]["spec"]["containers"][0]["image"] = "registry.example/shop:2.0"
    answer = await kube.apply(path, other, "second")
    assert answer.status == 409
    field = answer.body["details"]["causes"][0]["field"]
    assert field == '.spec.template.spec.containers[name="main"].image'


async def test_force_takes_the_field_over(kube: Kube) -> None:
    path = kube.path("configmaps", "one")
    await kube.apply(path, config("one", {"a": "1", "b": "1"}), "first")
    taken = await kube.apply(path, config("one", {"a": "2"}), "second", force="true")
    assert taken.status == 200
    assert taken.body["data"] == {"a": "2", "b": "1"}
    assert taken.managers() == {
        ("first", "Apply"): {"f:data": {"f:b": {}}},
        ("second", "Apply"): {"f:data": {"f:a": {}}},
    }


async def test_the_same_value_is_shared(kube: Kube) -> None:
    path = kube.path("configmaps", "one")
    await kube.apply(path, config("one", {"a": "1"}), "first")
    shared = await kube.apply(path, config("one", {"a": "1"}), "second")
    assert shared.status == 200
    assert shared.managers()[("first", "Apply")] == shared.managers()[("second", "Apply")]
    left = await kube.apply(path, config("one", {"b": "1"}), "first")
    assert left.body["data"] == {"a": "1", "b": "1"}


async def test_what_is_no_longer_applied_is_removed_unless_another_owns_it(kube: Kube) -> None:
    path = kube.path("configmaps", "one")
    await kube.apply(path, config("one", {"a": "1", "b": "1"}, labels={"l": "1"}))
    await kube.call("PATCH", path, {"data": {"c": "1"}}, media=MERGE, fieldManager="hand")
    answer = await kube.apply(path, config("one", {"a": "1"}))
    assert answer.body["data"] == {"a": "1", "c": "1"}
    assert "labels" not in answer.body["metadata"]


async def test_a_dropped_field_with_a_default_falls_back_to_it(kube: Kube) -> None:
    path = kube.path("deployments", "web", api="apps/v1")
    await kube.apply(path, deployment("web", replicas=3, revisionHistoryLimit=2))
    answer = await kube.apply(path, deployment("web"))
    assert answer.body["spec"]["replicas"] == 1
    assert answer.body["spec"]["revisionHistoryLimit"] == 10


async def test_a_dropped_container_goes_with_its_defaults(kube: Kube) -> None:
    path = kube.path("deployments", "web", api="apps/v1")
    two = deployment("web")
    two["spec"]["template"]["spec"]["containers"].append(
        {"name": "side", "image": "registry.example/side:1", "ports": [{"containerPort": 9}]}
    )
    await kube.apply(path, two)
    answer = await kube.apply(path, deployment("web"))
    assert [item["name"] for item in answer.body["spec"]["template"]["spec"]["containers"]] == ["main"]


async def test_two_managers_share_lists_by_key(kube: Kube) -> None:
    path = kube.path("deployments", "web", api="apps/v1")
    first = deployment("web")
    first["spec"]["template"]["spec"]["containers"][0]["env"] = [{"name": "A", "value": "1"}]
    await kube.apply(path, first, "first")
    side = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "template": {"spec": {"containers": [{"name": "main", "env": [{"name": "B", "value": "2"}]}]}}
        },
    }
    answer = await kube.apply(path, side, "second")
    assert answer.status == 200, answer.body
    env = answer.body["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {item["name"]: item["value"] for item in env} == {"A": "1", "B": "2"}
    gone = await kube.apply(path, deployment("web"), "first")
    env = gone.body["spec"]["template"]["spec"]["containers"][0]["env"]
    assert env == [{"name": "B", "value": "2"}]


async def test_ports_are_keyed_with_the_default_protocol(kube: Kube) -> None:
    path = kube.path("services", "web")
    both = service("web", ports=[{"name": "a", "port": 80}, {"name": "b", "port": 53, "protocol": "UDP"}])
    made = await kube.apply(path, both)
    assert made.status == 201, made.body
    ports = made.managers()[("one", "Apply")]["f:spec"]["f:ports"]
    assert set(ports) == {'k:{"port":80,"protocol":"TCP"}', 'k:{"port":53,"protocol":"UDP"}'}
    assert ports['k:{"port":80,"protocol":"TCP"}'] == {".": {}, "f:name": {}, "f:port": {}}
    moved = await kube.apply(path, service("web", ports=[{"name": "a", "port": 81}]))
    assert [port["port"] for port in moved.body["spec"]["ports"]] == [81]


async def test_an_atomic_value_is_replaced_whole(kube: Kube) -> None:
    path = kube.path("services", "web")
    await kube.apply(path, service("web", selector={"a": "1", "b": "2"}))
    answer = await kube.apply(path, service("web", selector={"a": "1"}))
    assert answer.body["spec"]["selector"] == {"a": "1"}
    assert answer.managers()[("one", "Apply")]["f:spec"]["f:selector"] == {}


async def test_an_update_is_tracked_under_its_manager(kube: Kube) -> None:
    made = await kube.config("one", {"a": "1"})
    assert made.managers() == {("contract", "Update"): {"f:data": {".": {}, "f:a": {}}}}
    body = copy.deepcopy(made.body) | {"data": {"a": "2", "b": "1"}}
    answer = await kube.call("PUT", kube.path("configmaps", "one"), body, fieldManager="hand")
    assert answer.managers() == {
        ("contract", "Update"): {"f:data": {}},
        ("hand", "Update"): {"f:data": {"f:a": {}, "f:b": {}}},
    }


async def test_an_edit_takes_a_field_from_the_applier(kube: Kube) -> None:
    path = kube.path("configmaps", "one")
    await kube.apply(path, config("one", {"a": "1", "b": "1"}))
    answer = await kube.call("PATCH", path, {"data": {"a": "2"}}, media=MERGE, fieldManager="hand")
    assert answer.managers() == {
        ("one", "Apply"): {"f:data": {"f:b": {}}},
        ("hand", "Update"): {"f:data": {"f:a": {}}},
    }


async def test_an_unknown_field_cannot_be_applied(kube: Kube) -> None:
    body = deployment("web")
    body["spec"]["replica"] = 2
    answer = await kube.apply(kube.path("deployments", "web", api="apps/v1"), body)
    assert answer.status == 500
    assert ".spec.replica: field not declared in schema" in answer.body["message"]


async def test_apply_needs_a_manager_and_force_needs_apply(kube: Kube) -> None:
    path = kube.path("configmaps", "one")
    answer = await kube.call("PATCH", path, config("one", {}), media=APPLY)
    assert answer.status == 422
    assert "fieldManager: Required value: is required for apply patch" in answer.body["message"]
    await kube.config("one")
    forced = await kube.call("PATCH", path, {"data": {}}, media=MERGE, force="true")
    assert forced.status == 422
    assert "may not be specified for non-apply patch" in forced.body["message"]


async def test_a_dry_run_apply_answers_and_changes_nothing(kube: Kube) -> None:
    path = kube.path("deployments", "web", api="apps/v1")
    made = await kube.apply(path, deployment("web"), dryRun="All")
    assert made.status == 201
    assert made.body["spec"]["replicas"] == 1
    assert (await kube.call("GET", path)).status == 404


async def test_apply_reads_yaml(kube: Kube) -> None:
    text = b"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: one\ndata:\n  a: '1'\n"
    made = await kube.call("PATCH", kube.path("configmaps", "one"), text, media=APPLY, fieldManager="one")
    assert (made.status, made.body["data"]) == (201, {"a": "1"})


async def test_apply_with_a_uid_never_creates(kube: Kube) -> None:
    body = config("one", {}, uid="00000000-0000-0000-0000-000000000000")
    answer = await kube.apply(kube.path("configmaps", "one"), body)
    assert answer.status == 409


async def test_apply_into_a_missing_namespace_is_a_404(kube: Kube) -> None:
    answer = await kube.apply(kube.path("configmaps", "one", ns="nowhere"), config("one", {}))
    assert answer.status == 404
    assert answer.body["message"] == 'namespaces "nowhere" not found'


async def test_applying_an_immutable_change_is_invalid(kube: Kube) -> None:
    path = kube.path("deployments", "web", api="apps/v1")
    await kube.apply(path, deployment("web"))
    other = deployment("web")
    other["spec"]["selector"]["matchLabels"] = {"app": "web", "x": "y"}
    other["spec"]["template"]["metadata"]["labels"] = {"app": "web", "x": "y"}
    answer = await kube.apply(path, other)
    assert answer.status == 422
    assert answer.causes["spec.selector"].endswith("field is immutable")


async def test_status_has_an_owner_of_its_own(kube: Kube) -> None:
    body = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": "web"},
        "spec": {"defaultBackend": {"service": {"name": "web", "port": {"number": 80}}}},
    }
    path = kube.path("ingresses", "web", api="networking.k8s.io/v1")
    await kube.apply(path, body)
    status = {key: body[key] for key in ("apiVersion", "kind", "metadata")}
    status |= {"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}
    answer = await kube.apply(path + "/status", status, "controller")
    assert answer.status == 200, answer.body
    entry = next(item for item in answer.body["metadata"]["managedFields"] if item["manager"] == "controller")
    assert entry["subresource"] == "status"
    assert "f:spec" not in entry["fieldsV1"]
    assert (await kube.apply(path, body)).body["status"] == answer.body["status"]


async def test_empty_and_set_valued_fields_are_owned(kube: Kube) -> None:
    path = kube.path("configmaps", "one")
    made = await kube.apply(path, config("one", {"a": "1"}, finalizers=["example.com/a"], annotations={}))
    fields = made.managers()[("one", "Apply")]["f:metadata"]
    assert fields["f:finalizers"] == {'v:"example.com/a"': {}}
    more = await kube.apply(path, config("one", finalizers=["example.com/b"]), "two")
    assert set(more.body["metadata"]["finalizers"]) == {"example.com/a", "example.com/b"}
    await kube.apply(path, config("one", {"a": "1"}), "one")
    await kube.apply(path, config("one"), "two")
    assert "finalizers" not in (await kube.get_config("one")).body["metadata"]
