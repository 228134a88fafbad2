"""One object: made, read, changed, removed."""

from __future__ import annotations

import copy

from contract.kube.client import MERGE, Kube, config, deployment, service


async def test_create_fills_in_identity_and_gives_no_generation_to_config(kube: Kube) -> None:
    made = await kube.config("one")
    assert made.status == 201
    metadata = made.body["metadata"]
    assert len(metadata["uid"]) == 36
    assert metadata["creationTimestamp"].endswith("Z")
    assert int(metadata["resourceVersion"]) > 0
    assert "generation" not in metadata
    assert metadata["namespace"] == kube.ns
    assert (await kube.get_config("one")).body == made.body


async def test_a_second_create_is_already_exists(kube: Kube) -> None:
    await kube.config("one")
    again = await kube.config("one")
    assert (again.status, again.body["reason"]) == (409, "AlreadyExists")
    assert again.body["message"] == 'configmaps "one" already exists'
    assert again.body["details"] == {"name": "one", "kind": "configmaps"}


async def test_a_missing_object_is_not_found_by_group_and_name(kube: Kube) -> None:
    answer = await kube.call("GET", kube.path("deployments", "none", api="apps/v1"))
    assert (answer.status, answer.body["reason"], answer.body["code"]) == (404, "NotFound", 404)
    assert answer.body["message"] == 'deployments.apps "none" not found'
    assert answer.body["details"] == {"name": "none", "group": "apps", "kind": "deployments"}


async def test_create_in_a_missing_namespace_is_a_404_that_names_it(kube: Kube) -> None:
    answer = await kube.call("POST", kube.path("configmaps", ns="nowhere"), config("one", {}))
    assert answer.status == 404
    assert answer.body["message"] == 'namespaces "nowhere" not found'
    assert answer.body["details"] == {"name": "nowhere", "kind": "namespaces"}


async def test_the_body_must_agree_with_the_path(kube: Kube) -> None:
    made = await kube.config("one")
    renamed = await kube.call("PUT", kube.path("configmaps", "two"), made.body)
    assert (renamed.status, renamed.body["reason"]) == (400, "BadRequest")
    moved = await kube.call("POST", kube.path("configmaps"), config("x", {}, namespace="default"))
    assert moved.status == 400
    assert "does not match the namespace" in moved.body["message"]


async def test_a_stale_version_is_a_conflict(kube: Kube) -> None:
    made = await kube.config("one")
    newer = copy.deepcopy(made.body) | {"data": {"a": "2"}}
    assert (await kube.call("PUT", kube.path("configmaps", "one"), newer)).status == 200
    stale = copy.deepcopy(made.body) | {"data": {"a": "3"}}
    answer = await kube.call("PUT", kube.path("configmaps", "one"), stale)
    assert (answer.status, answer.body["reason"]) == (409, "Conflict")
    assert "the object has been modified" in answer.body["message"]


async def test_an_update_that_changes_nothing_keeps_the_version(kube: Kube) -> None:
    made = await kube.config("one")
    same = await kube.call("PUT", kube.path("configmaps", "one"), made.body)
    assert same.status == 200
    assert same.version == made.version


async def test_an_update_without_a_version_is_unconditional(kube: Kube) -> None:
    made = await kube.config("one")
    answer = await kube.call("PUT", kube.path("configmaps", "one"), config("one", {"b": "2"}))
    assert answer.status == 200
    assert answer.body["data"] == {"b": "2"}
    assert answer.body["metadata"]["uid"] == made.body["metadata"]["uid"]


async def test_a_deployment_gets_the_defaults_that_users_see(kube: Kube) -> None:
    made = await kube.call("POST", kube.path("deployments", api="apps/v1"), deployment("web"))
    spec = made.body["spec"]
    assert made.body["metadata"]["generation"] == 1
    assert (spec["replicas"], spec["revisionHistoryLimit"], spec["progressDeadlineSeconds"]) == (1, 10, 600)
    assert spec["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"},
    }
    pod = spec["template"]["spec"]
    container = pod.pop("containers")[0]
    assert pod == {
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 30,
        "dnsPolicy": "ClusterFirst",
        "securityContext": {},
        "schedulerName": "default-scheduler",
    }
    assert container == {
        "name": "main",
        "image": "registry.example/shop:1.0",
        "resources": {},
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "imagePullPolicy": "IfNotPresent",
    }


async def test_ports_probes_and_volumes_get_their_defaults(kube: Kube) -> None:
    body = deployment("web")
    pod = body["spec"]["template"]["spec"]
    pod["containers"][0] |= {
        "image": "registry.example/shop",
        "ports": [{"containerPort": 80}],
        "readinessProbe": {"httpGet": {"port": 80}},
        "volumeMounts": [{"name": "v", "mountPath": "/v"}, {"name": "e", "mountPath": "/e"}],
        "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
    }
    pod["volumes"] = [{"name": "v", "configMap": {"name": "c"}}, {"name": "e"}]
    made = await kube.call("POST", kube.path("deployments", api="apps/v1"), body)
    pod = made.body["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert container["imagePullPolicy"] == "Always"
    assert container["ports"] == [{"containerPort": 80, "protocol": "TCP"}]
    assert container["readinessProbe"] == {
        "httpGet": {"path": "/", "port": 80, "scheme": "HTTP"},
        "timeoutSeconds": 1,
        "periodSeconds": 10,
        "successThreshold": 1,
        "failureThreshold": 3,
    }
    assert container["env"][0]["valueFrom"]["fieldRef"]["apiVersion"] == "v1"
    assert pod["volumes"] == [
        {"name": "v", "configMap": {"name": "c", "defaultMode": 420}},
        {"name": "e", "emptyDir": {}},
    ]


async def test_stateful_and_daemon_sets_get_their_defaults(kube: Kube) -> None:
    body = deployment("db", serviceName="db") | {"kind": "StatefulSet"}
    made = await kube.call("POST", kube.path("statefulsets", api="apps/v1"), body)
    assert made.status == 201, made.body
    assert made.body["spec"]["podManagementPolicy"] == "OrderedReady"
    assert made.body["spec"]["updateStrategy"] == {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}
    assert made.body["spec"]["persistentVolumeClaimRetentionPolicy"] == {
        "whenDeleted": "Retain",
        "whenScaled": "Retain",
    }
    made = await kube.call(
        "POST", kube.path("daemonsets", api="apps/v1"), deployment("log") | {"kind": "DaemonSet"}
    )
    assert made.status == 201, made.body
    assert made.body["spec"]["updateStrategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0},
    }


async def test_a_job_gets_its_selector_and_defaults(kube: Kube) -> None:
    pod = {"restartPolicy": "Never", "containers": [{"name": "main", "image": "registry.example/job:1"}]}
    body = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "once"},
        "spec": {"template": {"spec": pod}},
    }
    made = await kube.call("POST", kube.path("jobs", api="batch/v1"), body)
    assert made.status == 201, made.body
    spec, uid = made.body["spec"], made.body["metadata"]["uid"]
    assert (spec["backoffLimit"], spec["completions"], spec["parallelism"]) == (6, 1, 1)
    assert (spec["completionMode"], spec["suspend"], spec["manualSelector"]) == ("NonIndexed", False, False)
    assert spec["selector"] == {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}
    assert spec["template"]["metadata"]["labels"]["job-name"] == "once"


async def test_a_service_gets_an_address_and_keeps_it(kube: Kube) -> None:
    made = await kube.call("POST", kube.path("services"), service("web"))
    spec = made.body["spec"]
    address = spec["clusterIP"]
    assert address.count(".") == 3
    assert spec["clusterIPs"] == [address]
    assert spec["ports"] == [{"protocol": "TCP", "port": 80, "targetPort": 80}]
    assert (spec["type"], spec["sessionAffinity"], spec["internalTrafficPolicy"]) == (
        "ClusterIP",
        "None",
        "Cluster",
    )
    assert (spec["ipFamilies"], spec["ipFamilyPolicy"]) == (["IPv4"], "SingleStack")
    assert made.body["status"] == {"loadBalancer": {}}
    assert "generation" not in made.body["metadata"]
    put = await kube.call("PUT", kube.path("services", "web"), service("web", ports=[{"port": 81}]))
    assert put.status == 200, put.body
    assert put.body["spec"]["clusterIP"] == address


async def test_a_secret_turns_text_into_data(kube: Kube) -> None:
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"a": "hello"}}
    made = await kube.call("POST", kube.path("secrets"), body)
    assert made.body["data"] == {"a": "aGVsbG8="}
    assert made.body["type"] == "Opaque"
    assert "stringData" not in made.body


async def test_generation_counts_changes_of_the_spec_only(kube: Kube) -> None:
    path = kube.path("deployments", "web", api="apps/v1")
    await kube.call("POST", kube.path("deployments", api="apps/v1"), deployment("web"))
    labelled = await kube.call("PATCH", path, {"metadata": {"labels": {"x": "y"}}}, media=MERGE)
    assert labelled.body["metadata"]["generation"] == 1
    scaled = await kube.call("PATCH", path, {"spec": {"paused": True}}, media=MERGE)
    assert scaled.body["metadata"]["generation"] == 2


async def test_status_is_written_through_its_subresource_only(kube: Kube) -> None:
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "disk"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    await kube.call("POST", kube.path("persistentvolumeclaims"), claim)
    path = kube.path("persistentvolumeclaims", "disk")
    both = {"metadata": {"labels": {"a": "b"}}, "status": {"phase": "Lost"}}
    main = await kube.call("PATCH", path, both, media=MERGE)
    assert main.body["status"]["phase"] == "Pending"
    assert main.body["metadata"]["labels"] == {"a": "b"}
    status = await kube.call(
        "PATCH", path + "/status", {"spec": {"volumeName": "x"}, "status": {"phase": "Lost"}}, media=MERGE
    )
    assert status.status == 200, status.body
    assert status.body["status"]["phase"] == "Lost"
    assert "volumeName" not in status.body["spec"]


async def test_a_generated_name_begins_as_asked(kube: Kube) -> None:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "run-"}}
    made = await kube.call("POST", kube.path("configmaps"), body)
    assert made.status == 201
    assert made.body["metadata"]["name"].startswith("run-")
    assert len(made.body["metadata"]["name"]) == 9


async def test_delete_answers_with_a_status_that_has_the_uid(kube: Kube) -> None:
    made = await kube.config("one")
    gone = await kube.call("DELETE", kube.path("configmaps", "one"))
    assert (gone.status, gone.body["kind"], gone.body["status"]) == (200, "Status", "Success")
    assert gone.body["details"] == {"name": "one", "kind": "configmaps", "uid": made.body["metadata"]["uid"]}
    assert (await kube.get_config("one")).status == 404
    assert (await kube.call("DELETE", kube.path("configmaps", "one"))).status == 404


async def test_delete_honours_preconditions(kube: Kube) -> None:
    made = await kube.config("one")
    for wrong in ({"uid": "00000000-0000-0000-0000-000000000000"}, {"resourceVersion": "1"}):
        answer = await kube.call("DELETE", kube.path("configmaps", "one"), {"preconditions": wrong})
        assert (answer.status, answer.body["reason"]) == (409, "Conflict")
        assert "in the precondition (" in answer.body["message"]
    right = {"uid": made.body["metadata"]["uid"], "resourceVersion": made.version}
    assert (await kube.call("DELETE", kube.path("configmaps", "one"), {"preconditions": right})).status == 200


async def test_a_finalizer_holds_an_object_until_it_is_removed(kube: Kube) -> None:
    await kube.config("one", finalizers=["example.com/hold"])
    held = await kube.call("DELETE", kube.path("configmaps", "one"))
    assert held.status == 200
    assert held.body["kind"] == "ConfigMap"
    assert held.body["metadata"]["deletionTimestamp"]
    assert (await kube.get_config("one")).body["metadata"]["deletionTimestamp"]
    freed = await kube.call(
        "PATCH", kube.path("configmaps", "one"), {"metadata": {"finalizers": None}}, media=MERGE
    )
    assert freed.status == 200
    assert (await kube.get_config("one")).status == 404


async def test_a_collection_is_deleted_by_label(kube: Kube) -> None:
    await kube.config("one", labels={"drop": "yes"})
    await kube.config("two")
    gone = await kube.call("DELETE", kube.path("configmaps"), labelSelector="drop=yes")
    assert gone.status == 200
    assert (await kube.get_config("one")).status == 404
    assert (await kube.get_config("two")).status == 200


async def test_a_dry_run_changes_nothing(kube: Kube) -> None:
    made = await kube.call("POST", kube.path("configmaps"), config("one", {"a": "1"}), dryRun="All")
    assert made.status == 201
    assert (await kube.get_config("one")).status == 404
    real = await kube.config("one")
    patched = await kube.call(
        "PATCH", kube.path("configmaps", "one"), {"data": {"a": "9"}}, media=MERGE, dryRun="All"
    )
    assert patched.body["data"] == {"a": "9"}
    await kube.call("DELETE", kube.path("configmaps", "one"), dryRun="All")
    assert (await kube.get_config("one")).body == real.body


async def test_scale_reads_and_writes_replicas(kube: Kube) -> None:
    await kube.call("POST", kube.path("deployments", api="apps/v1"), deployment("web"))
    path = kube.path("deployments", "web", "scale", api="apps/v1")
    answer = await kube.call("GET", path)
    assert (answer.body["kind"], answer.body["spec"]["replicas"]) == ("Scale", 1)
    assert answer.body["status"]["selector"] == "app=web"
    assert (await kube.call("PATCH", path, {"spec": {"replicas": 3}}, media=MERGE)).status == 200
    live = await kube.call("GET", kube.path("deployments", "web", api="apps/v1"))
    assert live.body["spec"]["replicas"] == 3
