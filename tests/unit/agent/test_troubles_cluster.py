"""The agent against an API server in trouble: what it reports, what it asks, and that it is Ready again afterwards."""

# ruff: noqa: F811 - a fixture has the name that tests ask for
from __future__ import annotations

import json
import random
from typing import Any

import anyio
import pytest
from muster_agent.cluster.kube import KubeCluster
from muster_proto.v1 import link_pb2 as wire
from unit.agent.stage import config_map
from unit.agent.test_pipeline import MAPS, Stage, anyio_backend, stage  # noqa: F401 - fixtures
from unit.agent.troubles import Wire, last, offer, phase, reports

CRD = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "widgets.example.com"},
    "spec": {
        "group": "example.com",
        "scope": "Namespaced",
        "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
                },
            }
        ],
    },
}
WIDGET = "apiVersion: example.com/v1\nkind: Widget\nmetadata: {name: %s}\nspec: {size: 1}\n"
IMMUTABLE = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web}\nimmutable: true\ndata: {a: %s}\n"


async def faults(stage: Stage, **wanted: Any) -> None:
    status, body = await stage("PUT", "/lab/faults", wanted)
    assert status == 200, body


async def requests(stage: Stage) -> dict[str, int]:
    _, body = await stage("GET", "/lab/requests")
    counted: dict[str, int] = body["byUserAgent"].get("muster-agent", {}).get("byVerb", {})
    return counted


def edit(stage: Stage, value: str) -> None:
    """A change by hand that no fault stands in the way of."""
    resource = stage.server.catalog.find("", "v1", "configmaps")
    assert resource is not None
    found = stage.server.objects.get(resource, "shop", "web").load()
    stage.server.objects.store.put(resource.key, {**found, "data": {"a": value}})


async def define(stage: Stage) -> None:
    path = stage.server.url + "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    async with stage.session.post(path, json=CRD) as answer:
        assert answer.status == 201, await answer.text()


async def ready(stage: Stage) -> None:
    await offer(stage, stage.commits[-1], "shop-0001")
    await phase(stage, "Ready")


async def test_a_server_that_is_down_is_asked_little_and_the_bundle_is_ready_afterwards(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("muster_agent.cluster.observe.BLIND_AFTER", 1.0)
    stage.commit({f"bundles/shop/m{number}.yaml": config_map(f"m{number}", "1") for number in range(50)})
    async with Wire.before(stage) as line, stage.agent():
        stage.reconciler.observer._uniform = random.Random(4).uniform
        await ready(stage)
        await line.cut()
        asked, started = line.opened, anyio.current_time()
        report = await phase(stage, "Degraded", code="K001")  # though nobody wanted anything of it
        assert "does not answer" in report.message
        told = len(reports(stage))
        new = stage.commit({"bundles/shop/map.yaml": config_map("web", "two")})
        await offer(stage, new, "shop-0002")
        await stage.until(lambda: last(stage).rollout == "shop-0002" and last(stage).code == "K001")
        await stage.until(lambda: anyio.current_time() - started > 8)
        assert last(stage).outcome == wire.OUTCOME_APPLYING
        # Two watches and one bundle, each with a back-off that grows; its 52 objects play no part.
        assert line.opened - asked <= 50
        assert len(reports(stage)) - told <= 4
        line.refusing = False
        await phase(stage, "Ready", rollout="shop-0002", seconds=40)
        assert await stage.value() == "two"


async def test_retry_after_is_honoured_by_everything_that_is_sent(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stage.agent():
        await ready(stage)
        times: list[float] = []
        once = KubeCluster._once

        async def timed(self: KubeCluster, *args: Any) -> Any:
            times.append(anyio.current_time())
            return await once(self, *args)

        monkeypatch.setattr(KubeCluster, "_once", timed)
        await faults(stage, statusOverride={"code": 429, "retryAfter": 3, "count": 1})
        edit(stage, "edited")
        await stage.until(lambda: last(stage).healed_count)
        assert await stage.value() == "one"
    assert len(times) > 1
    assert times[1] - times[0] >= 2.9


async def test_a_server_that_names_a_long_time_gets_it_and_the_bundle_says_so(stage: Stage) -> None:
    async with stage.agent():
        await ready(stage)
        await stage("DELETE", "/lab/requests")
        await faults(stage, statusOverride={"code": 429, "retryAfter": 14, "count": 0})
        edit(stage, "edited")
        started = anyio.current_time()
        report = await phase(stage, "Degraded", code="K002")
        assert "slow down" in report.message
        await faults(stage)
        report = await phase(stage, "Ready", seconds=60)
        assert anyio.current_time() - started >= 13.9
        assert report.healed_count == 1
        assert await stage.value() == "one"
        counted = (await requests(stage))["apply"]
    assert counted == 2  # the one that was refused, and the one after the time was over


async def test_a_failing_and_slow_server_is_waited_out(stage: Stage) -> None:
    async with stage.agent():
        await ready(stage)
        await faults(stage, errorRate=1.0, errorCode=503)
        await offer(stage, stage.commit({"bundles/shop/map.yaml": config_map("web", "two")}), "shop-0002")
        await stage.until(lambda: last(stage).code == "K001")
        assert "503" in last(stage).message or "fail" in last(stage).message
        await faults(stage, latencyMs=200)
        await phase(stage, "Ready", rollout="shop-0002")
        assert await stage.value() == "two"


async def test_no_drift_is_missed_while_watches_are_dropped_and_the_line_is_cut(stage: Stage) -> None:
    async with stage.agent():
        await ready(stage)
        for number in range(3):
            await faults(stage, partition=number == 1, dropWatches=True)
            edit(stage, f"edited {number}")
            await faults(stage)
            await stage.until(lambda wanted=number: last(stage).healed_count > wanted)
            assert await stage.value() == "one"
    assert last(stage).healed_count == 3


async def test_a_watch_that_fell_silent_is_noticed_and_its_drift_is_healed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("muster_agent.cluster.kube.WATCH_SILENCE", 2.0)
    async with Wire.before(stage) as line, stage.agent():
        await ready(stage)
        line.silent = True
        await stage("PATCH", f"{MAPS}/web", {"data": {"a": "edited"}})
        await stage.until(lambda: last(stage).healed_count)
        assert await stage.value() == "one"


async def test_another_manager_of_a_field_is_named_until_it_lets_go(stage: Stage) -> None:
    namespace = {"metadata": {"name": "shop", "labels": {"team": "theirs"}}}
    body = {"apiVersion": "v1", "kind": "Namespace", **namespace}
    path = "/api/v1/namespaces/shop"

    async def as_other(labels: dict[str, str]) -> None:
        query = "?fieldManager=the-other-team&force=true"
        wanted = {**body, "metadata": {"name": "shop", "labels": labels}}
        headers = {"Content-Type": "application/apply-patch+yaml"}
        async with stage.session.request(
            "PATCH", stage.server.url + path + query, data=json.dumps(wanted), headers=headers
        ) as answer:
            assert answer.status < 300

    await as_other({"team": "theirs"})
    ours = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {team: ours}}\n"
    stage.commit({"bundles/shop/namespace.yaml": ours})
    async with stage.agent():
        await offer(stage, stage.commits[-1], "shop-0001")
        await stage.until(lambda: last(stage).code == "K005")
        assert "the-other-team" in last(stage).message
        assert ".metadata.labels.team" in last(stage).message
        _, live = await stage("GET", path)
        assert live["metadata"]["labels"]["team"] == "theirs"
        await as_other({})
        await phase(stage, "Ready")
        _, live = await stage("GET", path)
        assert live["metadata"]["labels"]["team"] == "ours"


async def test_an_immutable_field_is_told_and_git_going_back_makes_it_ready(stage: Stage) -> None:
    stage.commit({"bundles/shop/map.yaml": IMMUTABLE % "one"})
    async with stage.agent():
        await ready(stage)
        await offer(stage, stage.commit({"bundles/shop/map.yaml": IMMUTABLE % "two"}), "shop-0002")
        await stage.until(lambda: last(stage).code == "K006")
        assert "immutable" in last(stage).message
        assert "shop/web" in last(stage).message
        assert await stage.value() == "one"
        await offer(stage, stage.commit({"bundles/shop/map.yaml": IMMUTABLE % "one"}), "shop-0003")
        await phase(stage, "Ready", rollout="shop-0003")


async def test_objects_of_a_missing_kind_become_ready_once_their_definition_is_there(stage: Stage) -> None:
    stage.commit({f"bundles/shop/w{number}.yaml": WIDGET % f"w{number}" for number in range(40)})
    async with stage.agent():
        await stage("DELETE", "/lab/requests")
        await offer(stage, stage.commits[-1], "shop-0001")
        await stage.until(lambda: last(stage).code == "K004")
        assert "Widget" in last(stage).message
        await stage.until(lambda: stage.server.requests.verbs["apply"])
        assert await stage.value() == "one"  # the others are there
        assert (await requests(stage)).get("discovery", 0) < 12  # not one for each of the forty
        await define(stage)
        started = anyio.current_time()
        await phase(stage, "Ready")
        assert anyio.current_time() - started < 15
        # And gone again, with everything of it, and back.
        await stage("DELETE", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.example.com")
        await stage.until(lambda: last(stage).phase == "Degraded")
        await define(stage)
        await phase(stage, "Ready", seconds=40)
    assert len(reports(stage)) < 40
