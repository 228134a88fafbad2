"""init, validate, schema, version, help: what needs no coordinator."""

# ruff: noqa: E501 - a command line reads better as one line
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from unit.cli.stage import Hub, Muster, Repositories, git

HEAVY = (
    "grpc",
    "git",
    "google.protobuf",
    "nacl",
    "yaml",
    "cryptography",
    "muster_lab.command",
    "muster_coordinator.command",
)


def test_help_lists_every_command_and_imports_nothing_heavy() -> None:
    code = (
        "import sys\nsys.argv = ['muster', '--help']\nfrom muster_cli.main import main\n"
        f"try:\n    main()\nexcept SystemExit as end:\n    print('LOADED', [m for m in {HEAVY!r} if m in sys.modules], end.code)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED [] 0"
    listed = done.stdout.split("Commands:")[1]
    for name in (
        "init",
        "validate",
        "schema",
        "version",
        "token",
        "cluster",
        "get",
        "describe",
        "rollout",
        "secret",
        "backup",
        "serve",
    ):
        assert f"\n  {name} " in listed
    for name in ("policy", "doctor", "top"):
        assert f"\n  {name} " not in listed


def test_an_unknown_command_is_a_usage_error(muster: Muster) -> None:
    answer = muster("frobnicate")
    assert answer.code == 2
    assert "No such command 'frobnicate'" in answer.err


def test_init_makes_a_repository_that_validates(tmp_path: Path, muster: Muster) -> None:
    made = muster("init", tmp_path / "My Fleet")
    assert made.code == 0
    assert "muster serve --help" in made.err
    fleet = yaml.safe_load((tmp_path / "My Fleet" / "fleet.yaml").read_text())
    assert fleet["metadata"]["name"] == "my-fleet"
    assert len(fleet["spec"]["id"]) == 32
    assert (tmp_path / "My Fleet" / ".git").is_dir()
    checked = muster("validate", tmp_path / "My Fleet")
    assert (checked.code, checked.out) == (0, ""), checked
    assert "1 bundle, 1 plan," in checked.err
    again = muster("init", tmp_path / "My Fleet")
    assert again.code == 2
    assert "MUSTER-V005" in again.err


def test_init_overwrites_nothing(tmp_path: Path, muster: Muster) -> None:
    (tmp_path / "README.md").write_text("mine")
    assert muster("init", tmp_path, "--name", "acme").code == 0
    assert (tmp_path / "README.md").read_text() == "mine"
    assert muster("init", tmp_path / "other", "--name", "Not A Name").code == 2


def test_validate_names_file_line_and_the_field_that_was_meant(
    repositories: Repositories, muster: Muster
) -> None:
    path = repositories.clone / "bundles/hello/bundle.yaml"
    path.write_text(path.read_text().replace("  - selector: {} ", "  - selector: {matchLabel: {a: b}} "))
    answer = muster("validate", repositories.clone)
    said = "bundles/hello/bundle.yaml:7: spec.targets[0].selector.matchLabel: unknown field; did you mean matchLabels?"
    assert (answer.code, answer.out) == (1, said + "\n")
    (problem,) = json.loads(muster("validate", repositories.clone, "-o", "json").out)
    assert (problem["line"], problem["bundle"]) == (7, "hello")


def test_validate_survives_hostile_files(repositories: Repositories, muster: Muster) -> None:
    plans = repositories.clone / "plans"
    (plans / "big.yaml").write_bytes(b"a" * (50 << 20))
    (plans / "bomb.yaml").write_bytes(b"a: &a\n- *a\n")
    (plans / "deep.yaml").write_bytes(b"- " * 5000 + b"x")
    (plans / "twice.yaml").write_text("kind: A\nkind: B\n")
    (plans / "link.yaml").symlink_to("/etc/hostname")
    answer = muster("validate", repositories.clone)
    assert answer.code == 1
    for start in (
        "big.yaml:1: larger than 8 MiB",
        "bomb.yaml:1: aliases nest",
        "deep.yaml:1: nested more than",
        "twice.yaml:2: the key 'kind' stands twice",
        "link.yaml:1: symbolic links",
    ):
        assert f"plans/{start}" in answer.out


def test_validate_names_bundles_that_match_nobody(repositories: Repositories, muster: Muster) -> None:
    git(repositories.clone, "checkout", "-q", "--orphan", "muster/registry")
    git(repositories.clone, "rm", "-rqf", ".")
    entry = (
        "apiVersion: muster.dev/v1alpha1\nkind: Cluster\nmetadata: {name: a}\nspec: {uid: u, identityKey: '%s'}\n"
        % ("ed25519:" + "a" * 64)
    )
    repositories.commit({"clusters/a.yaml": entry, "clusters/b.yaml": "kind: ["})
    git(repositories.clone, "checkout", "-q", "main")
    path = repositories.clone / "bundles/hello/bundle.yaml"
    path.write_text(path.read_text().replace("  - selector: {} ", "  - selector: {matchLabels: {a: b}} "))
    answer = muster("validate", repositories.clone)
    assert answer.code == 1
    assert "bundles/hello/bundle.yaml:1: spec.targets: no cluster in the registry matches" in answer.out
    assert "muster/registry:clusters/b.yaml:" in answer.out


def test_validate_names_a_policy_that_uses_what_is_not_built(
    repositories: Repositories, muster: Muster
) -> None:
    path = repositories.clone / "policies/require-team-label.yaml"
    path.write_text(path.read_text().replace("    validate:", "    mutate: {}\n    validate:"))
    answer = muster("validate", repositories.clone)
    assert answer.code == 1
    assert "policies/require-team-label.yaml" in answer.out
    assert "mutate" in answer.out


def test_a_folder_that_is_not_there_is_a_usage_error(tmp_path: Path, muster: Muster) -> None:
    assert muster("validate", tmp_path / "nowhere").code == 2


@pytest.mark.parametrize("kind", ["Fleet", "Bundle", "RolloutPlan", "Cluster", "FleetSecret"])
def test_schema_prints_json(muster: Muster, kind: str) -> None:
    assert json.loads(muster("schema", kind).out)["title"] == kind


def test_schema_of_nothing_names_the_kinds(muster: Muster) -> None:
    answer = muster("schema", "Pod")
    assert answer.code == 2
    assert "MUSTER-V003" in answer.err
    assert "Fleet, Bundle" in answer.err


def test_version_works_with_and_without_a_coordinator(muster: Muster) -> None:
    answer = muster("version")
    assert answer.code == 0
    assert answer.out.startswith("client: ")
    assert "MUSTER-L010" in answer.err
    assert muster("version", "--client", "-o", "json").err == ""


def test_version_asks_the_coordinator(muster: Muster, hub: Hub) -> None:
    assert json.loads(muster("version", "-o", "json").out)["coordinator"] == "9.9.9"


def test_git_tells_who_signed_in_a_new_fleet(tmp_path: Path, muster: Muster) -> None:
    fleet = tmp_path / "fleet"
    assert muster("init", fleet).code == 0
    git(fleet, "add", ".")
    git(fleet, "commit", "-qm", "A fleet")
    assert git(fleet, "log", "-1", "--format=%G? %GS") == "G release+policy+registrar"


def test_kinds_are_known_in_any_case(muster: Muster) -> None:
    assert json.loads(muster("schema", "rolloutplan").out)["title"] == "RolloutPlan"
