"""A whole fleet repository: references between files, and whose problem a problem is."""

# ruff: noqa: E501 - in a table of cases, a case is a line
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest
from muster_core.errors import ValidationError
from muster_core.fleet import read_fleet, read_registry, read_settings, unmatched
from muster_core.tree import SUBMODULE, SYMLINK, MemoryTree, TreeFile, join

KIND = "apiVersion: muster.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n"
FLEET = KIND.format(kind="Fleet", name="acme", spec="{id: 0123456789abcdef, defaults: {plan: rings}}")
PLAN = KIND.format(kind="RolloutPlan", name="rings", spec="{waves: [{name: all, rest: true}]}")
MAP = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n"

K1, K2, K4 = (f"ed25519:{letter * 64}" for letter in "abd")


def bundle(name: str = "shop", spec: str = "targets: [{selector: {}}]") -> str:
    return KIND.format(kind="Bundle", name=name, spec="{" + spec + "}")


def secret(name: str, file_id: str) -> str:
    spec = (
        f"{{format: 1, fileId: {file_id}, keyGeneration: 1, revision: 1, selector: {{}}, commitment: c, entries: {{}}, "
        "recipients: [], mac: m}"
    )
    return KIND.format(kind="FleetSecret", name=f"{name}, namespace: shop", spec=spec)


def cluster(name: str, spec: str) -> str:
    return KIND.format(kind="Cluster", name=name, spec="{" + spec + "}")


GOOD = {
    "fleet.yaml": FLEET,
    "plans/rings.yaml": PLAN,
    "bundles/shop/bundle.yaml": bundle(),
    "bundles/shop/map.yaml": MAP,
}


def tree(files: Mapping[str, str]) -> MemoryTree:
    return MemoryTree({path: text.encode() for path, text in files.items()})


def problems(files: Mapping[str, str]) -> list[str]:
    return [str(problem) for problem in read_fleet(tree(files)).problems]


def test_a_good_fleet_has_no_problem() -> None:
    contents = read_fleet(tree(GOOD))
    assert contents.problems == []
    assert list(contents.digests) == ["shop"]
    assert contents.plan_of("shop") == "rings"
    assert read_settings(tree(GOOD)).metadata.name == "acme"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fleet.yaml": None}, "fleet.yaml:1: there is no fleet.yaml at the root"),
        ({"fleet.yaml": FLEET.replace("id:", "idd:")}, "fleet.yaml:4: spec.idd: unknown field; did you mean id?"),
        ({"fleet.yaml": "a: 1\na: 2\n"}, "fleet.yaml:2: the key 'a' stands twice"),
        ({"fleet.yaml": FLEET + "---\n" + FLEET}, "fleet.yaml:1: exactly one Fleet is expected here, not 2 documents"),
        ({"plans/rings.yaml": None}, "bundles/shop/bundle.yaml:4: spec.plan: there is no plan rings; known: none"),
        ({"plans/b.yaml": PLAN}, "plans/rings.yaml:1: metadata.name: two plans are named rings"),
        ({"fleet.yaml": FLEET.replace(", defaults: {plan: rings}", "")}, "spec.plan: missing, and fleet.yaml has no defaults.plan"),
        ({"plans/rings.yaml": PLAN + "  zzz: 1\n"},
         "bundles/shop/bundle.yaml:4: spec.plan: plan rings cannot be used: plans/rings.yaml:"),
        ({"bundles/shop/bundle.yaml": bundle(spec="targets: [{selector: {}}], plan: fast")}, "there is no plan fast; known: rings"),
        ({"bundles/shop/bundle.yaml": bundle(spec="targets: [{selector: {}}], secrets: [../../secrets/a.yaml]")},
         "spec.secrets[0]: there is no valid FleetSecret at ../../secrets/a.yaml"),
        ({"bundles/shop/bundle.yaml": bundle(spec="targets: [{selector: {}}], secrets: [../../../a.yaml]")},
         "spec.secrets[0]: the path leads out of the repository: ../../../a.yaml"),
        ({"bundles/shop/bundle.yaml": bundle(spec="targets: [{selector: {}}], source: {path: ../../..}")},
         "spec.source.path: the path leads out of the repository: ../../.."),
        ({"bundles/shop/bundle.yaml": bundle(spec="targets: [{selector: {}}], source: {path: nowhere}")},
         "spec.source.path: nothing is at nowhere"),
        ({"bundles/shop/bundle.yaml": bundle(spec="targets: [{selector: {}}], source: {include: [/etc]}")},
         "spec.source.include[0]: the path leads out of the repository: /etc"),
        ({"bundles/shop/map.yaml": None}, "spec.source.path: nothing is at ."),
        ({"bundles/other/bundle.yaml": bundle()}, "bundles/shop/bundle.yaml:1: metadata.name: bundles/other/bundle.yaml is named shop too"),
        ({"policies/a.yaml": "- 1\n"}, "policies/a.yaml:1: a policy must be a mapping"),
        ({"secrets/a.yaml": secret("a", "f1"), "secrets/b.yaml": secret("b", "f1")}, "secrets/b.yaml:1: spec.fileId: secrets/a.yaml has it too"),
        ({"secrets/a.yaml": secret("a", "f1"), "secrets/b.yaml": secret("a", "f2")}, "secrets/b.yaml:1: metadata.name: shop/a is in secrets/a.yaml too"),
    ],
)  # fmt: skip
def test_every_problem_is_named_with_file_and_line(changes: Mapping[str, str | None], said: str) -> None:
    files = {path: text for path, text in {**GOOD, **changes}.items() if text is not None}
    found = problems(files)
    assert any(said in problem for problem in found), found


def test_a_broken_bundle_is_no_problem_of_the_others() -> None:
    broken = {**GOOD, "bundles/bad/bundle.yaml": bundle("bad", "targets: 3"), "bundles/bad/map.yaml": MAP}
    contents = read_fleet(tree(broken))
    assert [problem.bundle for problem in contents.problems] == ["bad"]
    assert list(contents.bundles) == list(contents.digests) == ["shop"]
    assert contents.problems_of("shop") == []


def test_of_two_bundles_with_one_name_none_is_rolled_out() -> None:
    contents = read_fleet(tree({**GOOD, "bundles/twin/bundle.yaml": bundle(), "bundles/twin/map.yaml": MAP}))
    assert contents.digests == {}
    assert contents.problems_of("shop")


def test_a_selector_that_matches_nobody_is_named() -> None:
    one = bundle(spec="targets: [{selector: {matchLabels: {tier: moon}}}]")
    contents = read_fleet(tree({**GOOD, "bundles/shop/bundle.yaml": one}))
    clusters, _ = read_registry(tree({"clusters/a.yaml": cluster("a", f"uid: u, identityKey: {K1}")}))
    assert [str(problem) for problem in unmatched(contents, clusters)] == [
        "bundles/shop/bundle.yaml:1: spec.targets: no cluster in the registry matches"
    ]
    assert unmatched(contents, {}) == []
    assert unmatched(read_fleet(tree(GOOD)), clusters) == []


@dataclass
class LinkedTree:
    """A tree in which one file is something else."""

    under: MemoryTree
    path: str
    mode: str

    def files(self) -> Sequence[TreeFile]:
        return [
            TreeFile(self.mode if file.path == self.path else file.mode, file.path)
            for file in self.under.files()
        ]

    def read(self, path: str) -> bytes:
        assert path != self.path, "a link was read"
        return self.under.read(path)


@pytest.mark.parametrize("mode", [SYMLINK, SUBMODULE])
@pytest.mark.parametrize("path", ["bundles/shop/map.yaml", "plans/rings.yaml"])
def test_links_are_refused_and_never_read(mode: str, path: str) -> None:
    found = read_fleet(LinkedTree(tree(GOOD), path, mode))
    assert any("symbolic links and submodules are not followed" in str(problem) for problem in found.problems)
    assert found.digests == {}


def test_the_registry_refuses_borrowed_identities_and_wrong_places() -> None:
    files = {
        "clusters/a.yaml": cluster("a", f"uid: u1, identityKey: {K1}"),
        "clusters/b.yaml": cluster("b", f"uid: u1, identityKey: {K2}"),
        "clusters/c.yaml": cluster("c", f"uid: u3, identityKey: {K1.upper().replace('ED25519', 'ed25519')}"),
        "clusters/d.yaml": cluster("other", f"uid: u4, identityKey: {K4}"),
        "clusters/e.yaml": "kind: [",
        "clusters/f.yaml": cluster("f", "uid: u6, identityKey: none"),
    }
    clusters, found = read_registry(tree(files))
    texts = [str(problem) for problem in found]
    assert sorted(clusters) == ["a", "b", "c"]
    assert "clusters/b.yaml:1: spec.uid: the same as that of a" in texts
    assert "clusters/c.yaml:1: spec.identityKey: the same as that of a" in texts
    assert "clusters/d.yaml:1: the entry of other belongs into clusters/other.yaml" in texts
    assert "clusters/f.yaml:1: spec.identityKey: this is no public key" in texts
    assert any(text.startswith("clusters/e.yaml:") for text in texts)


def test_settings_say_what_is_wrong_with_them() -> None:
    with pytest.raises(ValidationError, match=r"fleet.yaml:4: spec.id: expected str of length >= 16"):
        read_settings(tree({"fleet.yaml": KIND.format(kind="Fleet", name="a", spec="{id: short}")}))
    with pytest.raises(ValidationError, match=r"there is no fleet.yaml"):
        read_settings(tree({}))


@pytest.mark.parametrize("path", ["../../x", "/x", "a/../../../x", "a\\b", "a\x00b", "../.."])
def test_paths_never_leave_the_tree(path: str) -> None:
    with pytest.raises(ValidationError, match="leads out"):
        join("bundles", path)
    assert join("bundles/shop", "../../bases/web") == "bases/web"


# --- plans and dependencies that could never finish --------------------------------------------------


def planned(spec: str) -> dict[str, str]:
    return {**GOOD, "plans/rings.yaml": KIND.format(kind="RolloutPlan", name="rings", spec="{" + spec + "}")}


def test_a_bundle_that_waits_for_itself_over_others_is_refused_with_the_way() -> None:
    files = {**GOOD}
    for name, needs in (("shop", "ingress"), ("ingress", "certs"), ("certs", "shop")):
        files[f"bundles/{name}/bundle.yaml"] = bundle(
            name, f"targets: [{{selector: {{}}}}], dependsOn: [{{name: {needs}}}]"
        )
        files[f"bundles/{name}/map.yaml"] = MAP
    found = problems(files)
    assert len(found) == 3
    assert any(
        "shop needs ingress needs certs needs shop: none of them could ever start" in text for text in found
    )
    files["bundles/certs/bundle.yaml"] = bundle("certs")
    assert problems(files) == []


def test_whoever_needs_bundles_that_wait_for_themselves_is_refused_too_and_the_others_are_not() -> None:
    files = {**GOOD}
    for name, needs in (("shop", "ingress"), ("ingress", "certs"), ("certs", "ingress"), ("web", "shop")):
        files[f"bundles/{name}/bundle.yaml"] = bundle(
            name, f"targets: [{{selector: {{}}}}], dependsOn: [{{name: {needs}}}]"
        )
        files[f"bundles/{name}/map.yaml"] = MAP
    files["bundles/free/bundle.yaml"] = bundle("free")
    files["bundles/free/map.yaml"] = MAP
    found = problems(files)
    assert len(found) == 4
    assert any("web needs shop needs ingress needs certs needs ingress: none" in text for text in found)


def test_a_circle_of_thousands_is_told_shortly() -> None:
    files = {**GOOD}
    for number in range(2000):
        files[f"bundles/b{number}/bundle.yaml"] = bundle(
            f"b{number}", f"targets: [{{selector: {{}}}}], dependsOn: [{{name: b{(number + 1) % 2000}}}]"
        )
        files[f"bundles/b{number}/map.yaml"] = MAP
    found = [text for text in problems(files) if "none of them" in text]
    assert len(found) == 2000
    assert all(len(text) < 200 for text in found)


def test_a_bundle_that_needs_one_that_is_not_there_says_which_are() -> None:
    files = {
        **GOOD,
        "bundles/shop/bundle.yaml": bundle(spec="targets: [{selector: {}}], dependsOn: [{name: ingres}]"),
    }
    assert problems(files) == [
        "bundles/shop/bundle.yaml:4: spec.dependsOn[0]: there is no bundle ingres; known: shop"
    ]
    files = {
        **GOOD,
        "bundles/shop/bundle.yaml": bundle(spec="targets: [{selector: {}}], dependsOn: [{name: shop}]"),
    }
    assert "shop needs shop" in problems(files)[0]


def test_a_gate_asks_only_metric_servers_that_the_fleet_has() -> None:
    gate = "gates: {before: [{prometheus: {server: metrics, query: up, above: 0}}]}"
    files = planned("waves: [{name: all, rest: true, " + gate + "}]")
    (said,) = problems(files)
    assert (
        "asks the metric server metrics, and fleet.yaml has no such one in metricServers; known: none" in said
    )
    files["fleet.yaml"] = FLEET.replace(
        "defaults:", "metricServers: [{name: metrics, url: 'http://m:9090'}], defaults:"
    )
    assert problems(files) == []


def test_a_plan_that_could_not_start_over_this_registry_is_a_problem_of_the_bundle() -> None:
    clusters, _ = read_registry(tree({
        "clusters/a.yaml": cluster("a", f"uid: u1, identityKey: '{K1}', protectedLabels: {{ring: canary, tier: store}}"),
        "clusters/b.yaml": cluster("b", f"uid: u2, identityKey: '{K2}', protectedLabels: {{tier: store}}"),
    }))  # fmt: skip
    narrow, wide = (
        "{name: canary, selector: {matchLabels: {ring: canary}}}",
        "{name: stores, selector: {matchLabels: {tier: store}}}",
    )
    assert unmatched(read_fleet(tree(planned(f"waves: [{narrow}, {wide}]"))), clusters) == []
    (overlap,) = unmatched(read_fleet(tree(planned(f"waves: [{wide}, {narrow}]"))), clusters)
    assert "wave canary of plan rings is empty: waves before it take a and whoever else it wants" in str(
        overlap
    )
    (nowhere,) = unmatched(read_fleet(tree(planned(f"waves: [{narrow}]"))), clusters)
    assert "1 clusters match no wave of plan rings: b" in str(nowhere)
