"""Custom kinds: defined, served, judged, and gone."""

from __future__ import annotations

import uuid
from typing import Any

from contract.kube.client import MERGE, STRATEGIC, Kube, until
from contract.kube.test_watches import watching

SPEC = {
    "type": "object",
    "properties": {
        "size": {"type": "integer", "minimum": 1, "default": 3},
        "mode": {"type": "string", "enum": ["fast", "safe"]},
        "ports": {
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {"name": {"type": "string"}, "number": {"type": "integer"}},
            },
        },
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
    },
}


def definition(plural: str, kind: str) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {"spec": SPEC, "status": {"type": "object", "properties": {"ok": {"type": "boolean"}}}},
    }
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.lab.example.com"},
        "spec": {
            "group": "lab.example.com",
            "scope": "Namespaced",
            "names": {"plural": plural, "kind": kind},
            "versions": [version],
        },
    }


class Custom:
    """A kind of this case's own."""

    def __init__(self, kube: Kube) -> None:
        tag = uuid.uuid4().hex[:8]
        self.kube, self.plural, self.kind = kube, f"widget{tag}s", f"Widget{tag}"
        self.crd = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{self.plural}.lab.example.com"

    async def define(self) -> None:
        root = self.crd.rpartition("/")[0]
        made = await self.kube.call("POST", root, definition(self.plural, self.kind))
        assert made.status == 201, made.body
        await until(self.served, 20)

    async def served(self) -> bool:
        live = await self.kube.call("GET", self.crd)
        conditions = {c["type"]: c["status"] for c in live.body.get("status", {}).get("conditions") or []}
        return conditions.get("Established") == "True" and await self.kube.status(self.path()) == 200

    async def remove(self) -> None:
        await self.kube.call("DELETE", self.crd)

    def path(self, name: str = "", sub: str = "") -> str:
        return self.kube.path(self.plural, name, sub, api="lab.example.com/v1")

    def body(self, name: str, **spec: Any) -> dict[str, Any]:
        return {
            "apiVersion": "lab.example.com/v1",
            "kind": self.kind,
            "metadata": {"name": name},
            "spec": spec,
        }


async def test_a_definition_is_established_and_served(kube: Kube) -> None:
    custom = Custom(kube)
    await custom.define()
    made = await kube.call("POST", custom.path(), custom.body("one", mode="fast"))
    assert made.status == 201, made.body
    assert made.body["spec"] == {"mode": "fast", "size": 3}
    assert made.body["metadata"]["generation"] == 1
    listed = await kube.call("GET", custom.path())
    assert listed.body["kind"] == custom.kind + "List"
    assert listed.body["items"][0]["kind"] == custom.kind
    found = await kube.call("GET", "/apis/lab.example.com/v1")
    assert {custom.plural, f"{custom.plural}/status"} <= {item["name"] for item in found.body["resources"]}
    await custom.remove()


async def test_deleting_a_definition_ends_the_kind_and_its_objects(kube: Kube) -> None:
    custom = Custom(kube)
    await custom.define()
    await kube.call("POST", custom.path(), custom.body("one"))
    await custom.remove()
    await kube.gone(custom.path())
    await kube.gone(custom.crd)


async def test_a_custom_object_is_judged_by_its_schema(kube: Kube) -> None:
    custom = Custom(kube)
    await custom.define()
    wrong = await kube.call("POST", custom.path(), custom.body("one", mode="slow", size=0))
    assert (wrong.status, wrong.body["reason"]) == (422, "Invalid")
    assert 'Unsupported value: "slow"' in wrong.causes["spec.mode"]
    assert "spec.size in body should be greater than or equal to 1" in wrong.causes["spec.size"]
    missing = await kube.call("POST", custom.path(), custom.body("one", ports=[{"number": 1}]))
    assert missing.status == 422
    await custom.remove()


async def test_unknown_fields_of_a_custom_object_are_pruned(kube: Kube) -> None:
    custom = Custom(kube)
    await custom.define()
    made = await kube.call("POST", custom.path(), custom.body("one", extra=1, free={"kept": 1}))
    assert made.body["spec"] == {"free": {"kept": 1}, "size": 3}
    strict = await kube.call("POST", custom.path(), custom.body("two", extra=1), fieldValidation="Strict")
    assert strict.status == 400
    assert 'strict decoding error: unknown field "spec.extra"' in strict.body["message"]
    await custom.remove()


async def test_the_status_of_a_custom_object_is_apart(kube: Kube) -> None:
    custom = Custom(kube)
    await custom.define()
    made = await kube.call("POST", custom.path(), custom.body("one") | {"status": {"ok": True}})
    assert "status" not in made.body
    path = custom.path("one", "status")
    answer = await kube.call("PATCH", path, {"status": {"ok": True}, "spec": {"size": 9}}, media=MERGE)
    assert answer.body["status"] == {"ok": True}
    assert answer.body["spec"] == {"size": 3}
    assert answer.body["metadata"]["generation"] == 1
    await custom.remove()


async def test_custom_objects_need_a_version_to_be_replaced_and_know_no_strategic_merge(kube: Kube) -> None:
    custom = Custom(kube)
    await custom.define()
    await kube.call("POST", custom.path(), custom.body("one"))
    blind = await kube.call("PUT", custom.path("one"), custom.body("one", size=4))
    assert blind.status == 422
    assert "metadata.resourceVersion" in blind.causes
    strategic = await kube.call("PATCH", custom.path("one"), {"spec": {"size": 4}}, media=STRATEGIC)
    assert strategic.status == 415
    merged = await kube.call("PATCH", custom.path("one"), {"spec": {"size": 4}}, media=MERGE)
    assert (merged.status, merged.body["metadata"]["generation"]) == (200, 2)
    await custom.remove()


async def test_applies_share_a_custom_list_by_its_keys(kube: Kube) -> None:
    custom = Custom(kube)
    await custom.define()
    path = custom.path("one")
    made = await kube.apply(path, custom.body("one", ports=[{"name": "a", "number": 1}]), "first")
    assert made.status == 201, made.body
    assert 'k:{"name":"a"}' in made.managers()[("first", "Apply")]["f:spec"]["f:ports"]
    both = await kube.apply(path, custom.body("one", ports=[{"name": "b", "number": 2}]), "second")
    assert {item["name"] for item in both.body["spec"]["ports"]} == {"a", "b"}
    clash = await kube.apply(path, custom.body("one", ports=[{"name": "a", "number": 9}]), "second")
    assert clash.status == 409
    assert clash.body["details"]["causes"][0]["field"] == '.spec.ports[name="a"].number'
    await custom.remove()


async def test_a_watch_from_before_a_kind_was_served_is_an_error_event_with_410(kube: Kube) -> None:
    custom = Custom(kube)
    await custom.define()
    await kube.call("POST", custom.path(), custom.body("one"))
    async with watching(kube, custom.path(), resourceVersion="1") as events:
        kind, obj = await events.next()
    assert kind == "ERROR"
    assert (obj["code"], obj["reason"]) == (410, "Expired")
    assert obj["message"].startswith("too old resource version: 1 (")
    await custom.remove()


async def test_an_unknown_kind_is_a_404(kube: Kube) -> None:
    path = kube.path("widgets", "one", api="lab.example.com/v9")
    body = {"apiVersion": "lab.example.com/v9", "kind": "Widget", "metadata": {"name": "one"}}
    assert (await kube.apply(path, body)).status == 404


async def test_a_definition_needs_a_fitting_name_and_a_schema(kube: Kube) -> None:
    custom = Custom(kube)
    body = definition(custom.plural, custom.kind)
    body["metadata"]["name"] = "other.lab.example.com"
    answer = await kube.call("POST", custom.crd.rpartition("/")[0], body)
    assert answer.status == 422
    assert 'must be spec.names.plural+"."+spec.group' in answer.causes["metadata.name"]
    body = definition(custom.plural, custom.kind)
    del body["spec"]["versions"][0]["schema"]
    answer = await kube.call("POST", custom.crd.rpartition("/")[0], body)
    assert answer.status == 422
    assert "spec.versions[0].schema.openAPIV3Schema" in answer.causes
