"""What validate says of manifests before anything renders them."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from muster_core.fleet import read_fleet, read_registry
from muster_core.manifest.check import manifest_problems
from muster_core.tree import MemoryTree

KEY = "ed25519:" + "a" * 64
KIND = "apiVersion: muster.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n"
MAP = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {region: '${REGION}'}\n"
FILES = {
    "fleet.yaml": KIND.format(
        kind="Fleet", name="acme", spec="{id: 0123456789abcdef, defaults: {plan: rings}}"
    ),
    "plans/rings.yaml": KIND.format(
        kind="RolloutPlan", name="rings", spec="{waves: [{name: all, rest: true}]}"
    ),
    "bundles/shop/bundle.yaml": KIND.format(kind="Bundle", name="shop", spec="{targets: [{selector: {}}]}"),
    "bundles/shop/map.yaml": MAP,
}
SUBSTITUTE = KIND.format(
    kind="Bundle",
    name="shop",
    spec='{targets: [{selector: {}}], render: {substitute: {REGION: "${cluster.labels.region}"}}}',
)


def problems(changes: Mapping[str, str], labels: str = "region: eu") -> list[str]:
    tree = MemoryTree({path: text.encode() for path, text in {**FILES, **changes}.items()})
    contents = read_fleet(tree)
    assert contents.problems == []
    entry = KIND.format(
        kind="Cluster", name=f"one, labels: {{{labels}}}", spec="{uid: u, identityKey: '" + KEY + "'}"
    )
    clusters, _ = read_registry(MemoryTree({"clusters/one.yaml": entry.encode()}))
    return [str(problem) for problem in manifest_problems(tree, contents, clusters)]


def test_good_manifests_have_no_problem() -> None:
    assert problems({}) == []
    assert problems({"bundles/shop/bundle.yaml": SUBSTITUTE}) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"bundles/shop/b.yaml": "a: 1\na: 2\n"},
            "bundles/shop/b.yaml:2: the key 'a' stands twice in one mapping",
        ),
        ({"bundles/shop/b.yaml": "\n- a\n"}, "bundles/shop/b.yaml:2: a Kubernetes object is expected"),
        ({"bundles/shop/b.yaml": "kind: A\n"}, "bundles/shop/b.yaml:1: an object without apiVersion"),
        (
            {"bundles/shop/z.yaml": MAP},
            "bundles/shop/z.yaml:1: v1/ConfigMap a is in bundles/shop/map.yaml:1 too",
        ),
        (
            {"bundles/shop/bundle.yaml": SUBSTITUTE.replace("REGION:", "ZONE:")},
            "bundles/shop/map.yaml:1: no value for ${REGION} on cluster one",
        ),
        (
            {"bundles/shop/bundle.yaml": SUBSTITUTE.replace("labels.region", "labels.zone")},
            "bundles/shop/map.yaml:1: substitute.REGION names ${cluster.labels.zone}, "
            "which this cluster lacks on cluster one",
        ),
    ],
)
def test_manifest_problems_are_named(changes: Mapping[str, str], said: str) -> None:
    assert problems(changes) == [said]


def test_what_kustomize_makes_is_not_guessed_at() -> None:
    files = {
        "bundles/shop/kustomization.yaml": "resources: [map.yaml]\n",
        "bundles/shop/patch.yaml": "a: 1\n",
    }
    assert problems(files) == []
    assert problems({**files, "bundles/shop/patch.yaml": "a: ["}) != []
