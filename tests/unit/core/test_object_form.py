"""The form of objects that bundles deliver: what is wrong is told with file and line, and never becomes a request."""

from __future__ import annotations

from typing import Any

import pytest
from muster_core.fleet import read_fleet
from muster_core.manifest.check import manifest_problems
from muster_core.manifest.objects import items_of, unsound
from muster_core.tree import MemoryTree

FLEET = (
    b"apiVersion: muster.dev/v1alpha1\nkind: Fleet\nmetadata: {name: a}\n"
    b"spec: {id: 0123456789abcdef, defaults: {plan: p}}\n"
)
PLAN = b"apiVersion: muster.dev/v1alpha1\nkind: RolloutPlan\nmetadata: {name: p}\nspec: {waves: [{name: all, rest: true}]}\n"
BUNDLE = (
    b"apiVersion: muster.dev/v1alpha1\nkind: Bundle\nmetadata: {name: b}\n"
    b"spec: {targets: [{selector: {}}]%s}\n"
)


def config(**metadata: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", **metadata}}


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"name": "../../../api/v1/namespaces/kube-system"}, "metadata.name"),
        ({"name": ".."}, "metadata.name"),
        ({"name": "a/status"}, "metadata.name"),
        ({"name": "a%2fb"}, "metadata.name"),
        ({"name": "a\nb"}, "metadata.name"),
        ({"name": "a" * 254}, "metadata.name"),
        ({"namespace": "a/b"}, "metadata.namespace"),
        ({"namespace": False}, "metadata.namespace"),
        ({"labels": ["x"]}, "metadata.labels"),
        ({"labels": "x"}, "metadata.labels"),
        ({"labels": {"a": 1}}, "metadata.labels.a"),
        ({"annotations": {"a": None}}, "metadata.annotations.a"),
    ],
)
def test_what_is_no_name_and_no_label_is_told(metadata: dict[str, Any], said: str) -> None:
    assert unsound(config(**metadata)).startswith(said)


@pytest.mark.parametrize("field", ["apiVersion", "kind"])
@pytest.mark.parametrize("text", ["../v1", "a/b/c", "v1?x=y", "v1 ", "/v1", "Pod/status"])
def test_what_would_lead_elsewhere_is_told(field: str, text: str) -> None:
    assert unsound({**config(), field: text}).startswith(field)


@pytest.mark.parametrize(
    "metadata",
    [
        {"name": "system:node-proxier"},
        {"name": "é" * 253},
        {"namespace": None, "labels": None},
        {"labels": {"a": ""}},
    ],
)
def test_unusual_names_that_kubernetes_takes_are_left_alone(metadata: dict[str, Any]) -> None:
    assert unsound(config(**metadata)) == ""


def test_nothing_of_a_list_is_dropped() -> None:
    found = items_of({"kind": "List", "items": [config(), "x", None]})
    assert [path for path, _ in found] == [("items", 0), ("items", 1), ("items", 2)]
    assert items_of({"kind": "List", "items": 5}) == [((), None)]
    assert items_of({"kind": "Setlist", "spec": {}}) == [((), {"kind": "Setlist", "spec": {}})]


def problems(manifest: str, more: bytes = b"") -> list[str]:
    tree = MemoryTree(
        {
            "fleet.yaml": FLEET,
            "plans/p.yaml": PLAN,
            "bundles/b/bundle.yaml": BUNDLE % more,
            "bundles/b/m.yaml": manifest.encode(),
        }
    )
    contents = read_fleet(tree)
    assert not contents.problems
    return [str(problem) for problem in manifest_problems(tree, contents, {})]


def test_validate_names_file_and_line_of_each() -> None:
    text = (
        "apiVersion: v1\nkind: List\nitems:\n"
        "- {apiVersion: v1, kind: ConfigMap, metadata: {name: a, labels: [x]}}\n"
        "- text\n"
        "- {apiVersion: v1, kind: ConfigMap, metadata: {name: c}}\n"
        "- {apiVersion: v1, kind: ConfigMap, metadata: {name: c}}\n"
    )
    assert problems(text) == [
        "bundles/b/m.yaml:4: metadata.labels must be a mapping of text to text",
        "bundles/b/m.yaml:5: a Kubernetes object is expected",
        "bundles/b/m.yaml:7: v1/ConfigMap c is in bundles/b/m.yaml:6 too",
    ]


def test_a_name_that_waits_for_its_value_is_no_problem() -> None:
    text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: 'a-${X:=b/c}'}\n"
    assert problems(text, b", render: {substitute: {Y: z}}") == []
    assert problems(text) != []
