"""validate says what the fleet's policies would say of its bundles."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from unit.cli.stage import Muster, Repositories, git

POD = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: first}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: %s}
    spec:
      containers: [{name: web, image: 'web%s'}]
"""
FILE = "bundles/hello/manifests/web.yaml"


@pytest.fixture
def web(repositories: Repositories) -> Path:
    return repositories.clone / FILE


def test_an_object_that_the_fleets_policy_forbids_is_a_problem_where_it_stands(
    muster: Muster, repositories: Repositories, web: Path
) -> None:
    web.write_text(POD % ("{app: web}", ""))
    answer = muster("validate", repositories.clone)
    assert answer.code == 1
    (line,) = answer.out.splitlines()
    assert line.startswith(f"{FILE}:5: policy require-team-label, rule ")
    assert "forbids apps/v1/Deployment hello/web at spec.template.metadata.labels.team" in line
    assert answer.err.endswith("1 bundle, 1 plan, 0 secrets, 1 policy: 1 problem\n")
    (problem,) = json.loads(muster("validate", repositories.clone, "-o", "json").out)
    assert (problem["file"], problem["line"], problem["bundle"]) == (FILE, 5, "hello")


def test_a_policy_that_only_warns_is_told_and_is_no_problem(
    muster: Muster, repositories: Repositories, web: Path
) -> None:
    web.write_text(POD % ("{app: web, team: x}", ""))
    answer = muster("validate", repositories.clone)
    assert (answer.code, answer.out) == (0, "")
    assert f"warning: {FILE}:5: policy " in answer.err, "the skeleton warns of what is not restricted"
    assert "no problems" in answer.err


def test_objects_are_judged_with_the_values_of_each_cluster(
    muster: Muster, repositories: Repositories, web: Path
) -> None:
    policy = repositories.clone / "policies/no-latest.yaml"
    policy.write_text(
        "apiVersion: kyverno.io/v1\nkind: ClusterPolicy\nmetadata: {name: no-latest}\nspec:\n"
        "  validationFailureAction: Enforce\n  rules:\n  - name: tag\n"
        "    match: {any: [{resources: {kinds: [Pod]}}]}\n"
        "    validate: {message: name a tag, pattern: {spec: {containers: [{image: '!*:latest'}]}}}\n"
    )
    web.write_text(POD % ("{app: web, team: x}", ":${TAG}"))
    unknown = muster("validate", repositories.clone)
    assert unknown.code == 0
    assert "1 object not judged by the policies" in unknown.err
    entry = (
        "apiVersion: muster.dev/v1alpha1\nkind: Cluster\nmetadata: {name: %s}\n"
        "spec: {uid: u-%s, identityKey: 'ed25519:%s', values: {TAG: '%s'}}\n"
    )
    git(repositories.clone, "add", ".")
    git(repositories.clone, "commit", "-qm", "web")
    git(repositories.clone, "checkout", "-q", "--orphan", "muster/registry")
    git(repositories.clone, "rm", "-rqf", ".")
    repositories.commit(
        {
            "clusters/a.yaml": entry % ("a", "a", "a" * 64, "1.0"),
            "clusters/b.yaml": entry % ("b", "b", "b" * 64, "latest"),
        }
    )
    git(repositories.clone, "checkout", "-q", "main")
    answer = muster("validate", repositories.clone)
    assert answer.code == 1
    (line,) = answer.out.splitlines()
    assert "policy no-latest" in line
    assert line.startswith(f"{FILE}:5:")


@pytest.mark.skipif(shutil.which("kustomize") is not None, reason="kustomize is installed here")
def test_what_cannot_be_rendered_here_is_said(muster: Muster, repositories: Repositories) -> None:
    bundle = repositories.clone / "bundles/hello/bundle.yaml"
    bundle.write_text(bundle.read_text().replace("    manifests: {}\n", "    kustomize: {}\n"))
    folder = repositories.clone / "bundles/hello/manifests"
    (folder / "kustomization.yaml").write_text("resources: [hello.yaml]\n")
    answer = muster("validate", repositories.clone)
    assert "not judged by the policies: the bundle needs kustomize" in answer.err
