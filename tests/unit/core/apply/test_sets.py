"""ApplySet ids, labels and parents; and which part of an object is ours."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
from typing import Any

import pytest
from muster_core.apply import applyset
from muster_core.apply.owned import owned_digest
from muster_core.manifest.objects import ObjectRef


def test_the_id_is_that_of_the_convention() -> None:
    raw = hashlib.sha256(b"muster-bundle-shop.muster-system.ConfigMap.").digest()
    text = base64.urlsafe_b64encode(raw).decode().rstrip("=")
    assert applyset.set_id("shop", "muster-system") == f"applyset-{text}-v1"
    assert len(applyset.set_id("shop", "muster-system")) <= 63


def test_the_parent_names_kinds_and_other_namespaces() -> None:
    refs = [ObjectRef("apps/v1", "Deployment", "shop", "a"), ObjectRef("v1", "Secret", "muster-system", "b"),
            ObjectRef("v1", "Namespace", "", "shop")]  # fmt: skip
    made = applyset.parent("shop", "muster-system", refs, {"release": "r"})
    notes = made["metadata"]["annotations"]
    assert notes[applyset.GROUP_KINDS] == "Deployment.apps,Namespace,Secret"
    assert notes[applyset.NAMESPACES] == "shop"
    assert made["metadata"]["labels"] == {applyset.SET_ID: applyset.set_id("shop", "muster-system")}
    assert applyset.recorded_kinds(made) == {("apps/v1", "Deployment"), ("v1", "Secret"), ("v1", "Namespace")}


@pytest.mark.parametrize(
    "odd", [None, {}, {"metadata": None}, {"metadata": {"annotations": {applyset.KINDS: ""}}}]
)
def test_a_parent_without_kinds_records_none(odd: dict[str, Any] | None) -> None:
    assert applyset.recorded_kinds(odd) == set()


def test_a_member_is_a_copy_with_the_label() -> None:
    plain = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a", "labels": {"x": "y"}}}
    before = copy.deepcopy(plain)
    made = applyset.member(plain, "s")
    assert made["metadata"]["labels"] == {"x": "y", applyset.PART_OF: "s"}
    assert (plain, applyset.part_of(made), applyset.part_of(plain)) == (before, "s", "")


FIELDS = {
    "f:data": {"f:a": {}},
    "f:spec": {
        "f:ports": {'k:{"port":80,"protocol":"TCP"}': {".": {}, "f:port": {}}},
        "f:finalizers": {'v:"one"': {}},
        "f:args": {"i:0": {}},
    },
}


def live(**entry: Any) -> dict[str, Any]:
    fields = {"manager": "muster", "operation": "Apply", "fieldsV1": FIELDS, **entry}
    return {
        "metadata": {"managedFields": [{"manager": "kubelet", "operation": "Update"}, fields]},
        "data": {"a": "1", "b": "2"},
        "spec": {"ports": [{"port": 443}, {"port": 80, "nodePort": 3}], "finalizers": ["zero", "one"], "args": ["x", "y"]},
        "status": {"ready": 1},
    }  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        "data.b=3",
        "status.ready=2",
        "spec.ports.1.nodePort=4",
        "spec.ports.0.port=444",
        "spec.args.1=z",
        "spec.finalizers.0=q",
    ],
)
def test_what_others_own_is_no_part_of_the_digest(change: str) -> None:
    assert owned_digest(changed(change), "muster") == owned_digest(live(), "muster")


@pytest.mark.parametrize(
    "change", ["data.a=9", "spec.ports.1.port=81", "spec.args.0=z", "spec.finalizers.1=q", "data.a="]
)
def test_what_we_own_is(change: str) -> None:
    assert owned_digest(changed(change), "muster") != owned_digest(live(), "muster")


def test_a_field_that_was_given_up_changes_the_digest() -> None:
    assert owned_digest(live(fieldsV1={"f:data": {}}), "muster") != owned_digest(live(), "muster")


@pytest.mark.parametrize("entry", [{"manager": "helm"}, {"operation": "Update"}, {"subresource": "status"}])
def test_an_object_without_our_entry_has_no_digest(entry: dict[str, str]) -> None:
    assert owned_digest(live(**entry), "muster") == ""
    assert owned_digest({"metadata": {}}, "muster") == ""


def changed(path: str) -> dict[str, Any]:
    """``a.b.0=v`` sets, ``a.b=`` removes."""
    keys, _, text = path.partition("=")
    obj = json.loads(json.dumps(live()))
    *way, last = keys.split(".")
    place = obj
    for key in way:
        place = place[int(key) if isinstance(place, list) else key]
    if not text:
        del place[last]
    else:
        place[int(last) if isinstance(place, list) else last] = (
            int(text) if text.isdigit() and last != "a" else text
        )
    return obj
