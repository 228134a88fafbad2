"""Policies that cannot be read are not fewer policies: the commit's set is refused, with file and line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from muster_core.fleet import FleetContents, compile_fleet_policies, read_fleet
from muster_core.policy import PolicyError
from muster_core.tree import SYMLINK, MemoryTree, TreeFile

FLEET = (
    "apiVersion: muster.dev/v1alpha1\nkind: Fleet\nmetadata: {name: a}\n"
    "spec: {id: 0123456789abcdef, policies: {paths: [%s]}}\n"
)
POLICY = """apiVersion: kyverno.io/v1
kind: ClusterPolicy
metadata: {name: team}
spec:
  validationFailureAction: Enforce
  rules:
  - name: team
    match: {any: [{resources: {kinds: [Pod]}}]}
    validate: {message: team, pattern: {metadata: {labels: {team: "?*"}}}}
"""


def contents(paths: str = "policies", **policies: bytes) -> FleetContents:
    files = {f"policies/{name}.yaml": data for name, data in policies.items()}
    return read_fleet(MemoryTree({"fleet.yaml": (FLEET % paths).encode(), **files}))


def test_whole_policies_compile() -> None:
    assert len(compile_fleet_policies(contents(a=POLICY.encode())).rules) > 0
    assert compile_fleet_policies(contents()).rules == compile_fleet_policies(contents(a=b"# none\n")).rules


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (POLICY.encode().replace(b"rules:", b"rules: ["), 12),
        (POLICY.encode() + b"\xff", 10),
        (b"# " + b"x" * (9 << 20), 1),
        (b"- a list\n", 1),
        (b"a: 1\na: 2\n", 2),
    ],
)
def test_one_broken_file_refuses_the_set(data: bytes, line: int) -> None:
    found = contents(good=POLICY.encode(), bad=data)
    assert found.policy_problems
    with pytest.raises(PolicyError, match=r"policies/bad\.yaml") as error:
        compile_fleet_policies(found)
    assert error.value.code == "P010"
    assert error.value.message.startswith("policies/bad.yaml:")


@pytest.mark.parametrize("path", ["polices", "../policies", "/policies"])
def test_a_folder_that_is_not_there_refuses_the_set(path: str) -> None:
    with pytest.raises(PolicyError, match=r"fleet\.yaml:1: spec\.policies\.paths"):
        compile_fleet_policies(contents(path, good=POLICY.encode()))


@dataclass(frozen=True)
class Linked:
    """A tree with one symbolic link to a folder."""

    tree: MemoryTree
    link: str

    def files(self) -> Sequence[TreeFile]:
        return sorted([*self.tree.files(), TreeFile(SYMLINK, self.link)], key=lambda file: file.path)

    def read(self, path: str) -> bytes:
        return self.tree.read(path)


@pytest.mark.parametrize(
    ("paths", "link"), [("policies", "policies"), ("policies", "policies/more"), ("a/b", "a")]
)
def test_a_linked_folder_refuses_the_set(paths: str, link: str) -> None:
    found = read_fleet(Linked(MemoryTree({"fleet.yaml": (FLEET % paths).encode()}), link))
    with pytest.raises(PolicyError, match=f"{link}:1: symbolic links"):
        compile_fleet_policies(found)


def test_a_folder_may_be_written_in_any_way() -> None:
    for path in ("./policies", "policies/", "a/../policies", '"."'):
        files = contents(path, good=POLICY.encode())
        assert [where for where, _, _ in files.policy_documents if "good" in where], path


def test_a_broken_bundle_is_not_the_policies_problem() -> None:
    tree = MemoryTree({"fleet.yaml": (FLEET % "policies").encode(), "bundles/b/bundle.yaml": b"{"})
    found = read_fleet(tree)
    assert found.problems
    assert len(compile_fleet_policies(found).rules) == 0


def test_a_line_break_in_a_name_makes_no_line_of_its_own() -> None:
    bundle = (
        "apiVersion: muster.dev/v1alpha1\nkind: Bundle\nmetadata: {name: b}\n"
        'spec: {targets: [{selector: {}}], secrets: ["a\\nfleet.yaml:1: fine"]}\n'
    )
    tree = MemoryTree({"fleet.yaml": (FLEET % "policies").encode(), "bundles/b/bundle.yaml": bundle.encode()})
    assert [str(problem) for problem in read_fleet(tree).problems if "\n" in str(problem)] == []
