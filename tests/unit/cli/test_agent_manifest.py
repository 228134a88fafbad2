"""What is rendered for an agent: what differs between clusters, its rights, its pod."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

from muster_cli.install import manifest
from muster_cli.install.manifest import Installation, base_objects, deployment_of, render
from muster_core.manifest.load import load_documents
from muster_core.policy import PodSecuritySettings, PolicySet, blocked, compile_policies
from muster_core.token import JoinToken
from unit.cli.stage import Hub, Muster, Repositories, git

ROOT = Path(__file__).parents[3]
INSTALLATION = Installation("berlin-04", "the-token", "registry.example.com/agent:1", "other-system", "PEM")


def test_rendering_changes_only_what_differs_between_clusters() -> None:
    before = base_objects()
    rendered = render(before, INSTALLATION)
    assert before == base_objects()
    assert {obj["metadata"].get("namespace", "other-system") for obj in rendered} == {"other-system"}
    bound = [subject["namespace"] for obj in rendered for subject in obj.get("subjects") or ()]
    assert bound == ["other-system"] * 3
    pod = deployment_of(rendered)["spec"]["template"]
    container = pod["spec"]["containers"][0]
    assert container["image"] == "registry.example.com/agent:1"
    assert {"--namespace=other-system", "--cluster=berlin-04"} <= set(container["args"])
    assert "--namespace=muster-system" not in container["args"]
    assert "--git-ca-file=/var/run/muster/git-ca/ca.crt" in container["args"]
    (secret,) = (obj for obj in rendered if obj["kind"] == "Secret")
    assert base64.b64decode(secret["data"]["token"]) == b"the-token"
    assert "stringData" not in secret
    texts = [json.dumps(obj) for obj in rendered if obj["kind"] != "Secret"]
    assert not any("the-token" in text for text in texts)


def test_a_new_token_starts_the_agent_anew_and_the_same_one_does_not() -> None:
    def notes(token: str) -> dict[str, str]:
        pod = deployment_of(render(base_objects(), Installation("a", token, "i")))["spec"]["template"]
        found: dict[str, str] = pod["metadata"]["annotations"]
        return found

    assert notes("one") == notes("one")
    assert notes("one") != notes("two")


def test_the_pod_meets_the_restricted_level_that_its_namespace_enforces() -> None:
    objects = render(base_objects(), INSTALLATION)
    (namespace,) = (obj for obj in objects if obj["kind"] == "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    deployment = deployment_of(objects)
    policies = compile_policies([], PodSecuritySettings(enforce="restricted", warn=None, version="latest"))
    assert denied(policies, deployment) == []
    weak = json.loads(json.dumps(deployment))
    del weak["spec"]["template"]["spec"]["containers"][0]["securityContext"]["capabilities"]
    assert denied(policies, weak) != []
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["resources"]["limits"]["memory"]


def rules() -> list[dict[str, Any]]:
    return [
        rule
        for obj in base_objects()
        if obj["kind"] in ("ClusterRole", "Role")
        for rule in obj.get("rules") or ()
    ]


def test_the_agent_is_never_cluster_admin() -> None:
    assert len(rules()) > 5
    for rule in rules():
        said = {*rule["verbs"], *rule.get("resources", ()), *rule.get("apiGroups", ())}
        assert not said & {"*", "bind", "escalate", "impersonate", "roles", "clusterroles", "rolebindings"}, (
            rule
        )
        assert not said & {"clusterrolebindings", "pods", "pods/exec", "nodes", "serviceaccounts/token"}, rule
    bound = {obj["roleRef"]["name"] for obj in base_objects() if "roleRef" in obj}
    assert bound == {"muster-agent", "muster-agent-granted"}


def test_the_documented_rights_are_the_manifests() -> None:
    text = (ROOT / "docs" / "security.md").read_text().split("## The agent's rights")[1].split("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| ")
    ]
    documented = {
        (group, frozenset(re.split(r", ", resources.replace("`", ""))), frozenset(verbs.split(", ")))
        for group, resources, verbs, why in rows[1:]
        if why
    }
    (role,) = (
        o for o in base_objects() if o["kind"] == "ClusterRole" and o["metadata"]["name"] == "muster-agent"
    )
    real = {
        (
            "(no group)" if "nonResourceURLs" in rule else rule["apiGroups"][0] or "core",
            frozenset(rule.get("nonResourceURLs") or rule["resources"]),
            frozenset(rule["verbs"]),
        )
        for rule in role["rules"]
    }
    assert documented == real


def denied(policies: PolicySet, obj: dict[str, Any]) -> list[str]:
    return [str(verdict.message) for verdict in blocked(policies.evaluate([obj]))]


def test_agent_manifest_prints_objects_that_apply_with_a_token_inside(
    muster: Muster, hub: Hub, repositories: Repositories
) -> None:
    answer = muster(
        "agent", "manifest", "--cluster", "berlin-04", "--checkout", repositories.clone, "--image", "i:2"
    )
    assert answer.code == 0, answer.err
    objects = [document.value for document in load_documents(answer.out.encode(), "out")]
    (secret,) = (obj for obj in objects if obj["kind"] == "Secret")
    token = JoinToken.decode(base64.b64decode(secret["data"]["token"]).decode())
    assert (token.cluster, token.secret) == ("berlin-04", "the-secret-part")
    assert token.repositories[0].anchor == git(repositories.clone, "rev-parse", "HEAD")
    assert deployment_of(objects)["spec"]["template"]["spec"]["containers"][0]["image"] == "i:2"


def test_the_packaged_manifest_is_the_one_of_deploy() -> None:
    assert (manifest.base_folder() / "kustomization.yaml").read_bytes() == (
        ROOT / "deploy" / "agent" / "kustomization.yaml"
    ).read_bytes()
    names = load_documents((ROOT / "deploy" / "agent" / "kustomization.yaml").read_bytes(), "k")[0].value[
        "resources"
    ]
    assert {*names, "kustomization.yaml"} == {path.name for path in (ROOT / "deploy" / "agent").iterdir()}
