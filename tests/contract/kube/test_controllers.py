"""What happens a moment after a write: garbage, namespaces. On the real server kube-controller-manager does
it.
"""

from __future__ import annotations

import uuid
from typing import Any

from contract.kube.client import MERGE, Kube, config


def owned(name: str, owner: Any, **reference: Any) -> dict[str, Any]:
    reference = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        **reference,
    }
    return config(name, {}, ownerReferences=[reference])


async def test_a_dependent_goes_after_its_owner(kube: Kube) -> None:
    owner = await kube.config("owner")
    await kube.call("POST", kube.path("configmaps"), owned("child", owner.body))
    await kube.call("DELETE", kube.path("configmaps", "owner"), {"propagationPolicy": "Background"})
    assert (await kube.get_config("owner")).status == 404
    await kube.gone(kube.path("configmaps", "child"))


async def test_a_dependent_with_a_second_owner_stays(kube: Kube) -> None:
    first, second = await kube.config("first"), await kube.config("second")
    body = owned("child", first.body)
    body["metadata"]["ownerReferences"] += owned("child", second.body)["metadata"]["ownerReferences"]
    await kube.call("POST", kube.path("configmaps"), body)
    await kube.call("POST", kube.path("configmaps"), owned("witness", first.body))
    await kube.call("DELETE", kube.path("configmaps", "first"), propagationPolicy="Background")
    await kube.gone(kube.path("configmaps", "witness"))
    assert (await kube.get_config("child")).status == 200


async def test_foreground_deletion_waits_for_dependents(kube: Kube) -> None:
    owner = await kube.config("owner")
    child = owned("child", owner.body, blockOwnerDeletion=True)
    child["metadata"]["finalizers"] = ["example.com/hold"]
    await kube.call("POST", kube.path("configmaps"), child)
    answer = await kube.call("DELETE", kube.path("configmaps", "owner"), {"propagationPolicy": "Foreground"})
    assert answer.body["metadata"]["finalizers"] == ["foregroundDeletion"]
    path = kube.path("configmaps", "child")
    await kube.terminating(path)
    assert (await kube.get_config("owner")).status == 200
    await kube.call("PATCH", path, {"metadata": {"finalizers": None}}, media=MERGE)
    await kube.gone(path)
    await kube.gone(kube.path("configmaps", "owner"))


async def test_orphans_lose_their_owner_and_stay(kube: Kube) -> None:
    owner = await kube.config("owner")
    await kube.call("POST", kube.path("configmaps"), owned("child", owner.body))
    await kube.call("DELETE", kube.path("configmaps", "owner"), {"propagationPolicy": "Orphan"})
    await kube.gone(kube.path("configmaps", "owner"))
    child = await kube.get_config("child")
    assert child.status == 200
    assert "ownerReferences" not in child.body["metadata"]


async def test_a_namespace_goes_with_everything_in_it(kube: Kube) -> None:
    name = f"doomed-{uuid.uuid4().hex[:8]}"
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    await kube.call("POST", "/api/v1/namespaces", space)
    held = config("held", {}, finalizers=["example.com/hold"])
    await kube.call("POST", kube.path("configmaps", ns=name), held)
    answer = await kube.call("DELETE", f"/api/v1/namespaces/{name}")
    assert answer.status == 200
    assert answer.body["status"]["phase"] == "Terminating"
    late = await kube.call("POST", kube.path("configmaps", ns=name), config("late", {}))
    assert late.status == 403
    assert "because it is being terminated" in late.body["message"]
    assert late.body["details"]["causes"][0]["reason"] == "NamespaceTerminating"
    path = kube.path("configmaps", "held", ns=name)
    await kube.terminating(path)
    await kube.call("PATCH", path, {"metadata": {"finalizers": None}}, media=MERGE)
    await kube.gone(f"/api/v1/namespaces/{name}")


async def test_a_namespace_is_furnished(kube: Kube) -> None:
    await kube.there(kube.path("serviceaccounts", "default"))
    await kube.there(kube.path("configmaps", "kube-root-ca.crt"))
    assert "BEGIN CERTIFICATE" in (await kube.get_config("kube-root-ca.crt")).body["data"]["ca.crt"]
