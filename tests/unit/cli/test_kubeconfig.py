"""What a credential may say, and how contexts become names of clusters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from muster_cli.install.kubeconfig import chosen, cluster_name, parse
from muster_core.errors import KubernetesError, ValidationError


def kubeconfig(user: dict[str, Any], cluster: dict[str, Any] | None = None) -> bytes:
    return json.dumps({
        "current-context": "c",
        "clusters": [{"name": "k", "cluster": cluster or {"server": "https://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
    }).encode()  # fmt: skip


@pytest.mark.parametrize(
    ("user", "origin", "allowed"),
    [
        ({"token": "t"}, "inline", True),
        ({"client-certificate-data": "YQ==", "client-key-data": "YQ=="}, "inline", True),
        ({"exec": {"command": "/bin/evil"}}, "inline", False),
        ({"exec": {"command": "/bin/evil"}}, "folder", False),
        ({"auth-provider": {"name": "gcp"}}, "folder", False),
        ({"tokenFile": "/var/run/secrets/kubernetes.io/serviceaccount/token"}, "inline", False),
        ({"client-key": "/etc/passwd"}, "inline", False),
        ({"tokenFile": "token"}, "folder", True),
        ({"exec": {"command": "aws"}}, "mine", True),
    ],
)
def test_a_credential_that_is_used_unattended_runs_no_program_and_a_hubs_names_no_file(
    user: dict[str, Any], origin: Any, allowed: bool
) -> None:
    if allowed:
        assert parse(kubeconfig(user), "x", origin)[1]["c"].user.keys() == user.keys()
        return
    with pytest.raises(KubernetesError) as caught:
        parse(kubeconfig(user), "x", origin)
    assert caught.value.code == "K052"


@pytest.mark.parametrize("data", [b"", b"[]", b"contexts: [{name: a}]", b"contexts: 7"])
def test_what_is_no_kubeconfig_is_told_and_never_a_crash(data: bytes) -> None:
    with pytest.raises(KubernetesError) as caught:
        parse(data, "x", "inline")
    assert caught.value.code == "K051"


def test_a_credential_is_not_shown_when_it_is_printed() -> None:
    access = parse(kubeconfig({"token": "very-secret"}), "x", "inline")[1]["c"]
    assert "very-secret" not in repr(access)


def test_contexts_of_several_files_and_names_that_clash(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(kubeconfig({"token": "1"}).replace(b'"c"', b'"Berlin_04"'))
    second.write_bytes(kubeconfig({"token": "2"}).replace(b'"c"', b'"berlin.04"'))
    assert chosen([first, second], None, None, all_contexts=False).keys() == {"berlin-04"}
    assert chosen([first, second], "berlin.04", "x", all_contexts=False)["x"].user["token"] == "2"
    with pytest.raises(ValidationError) as clash:
        chosen([first, second], None, None, all_contexts=True)
    assert clash.value.code == "V033"
    with pytest.raises(KubernetesError) as missing:
        chosen([first], "nowhere", None, all_contexts=False)
    assert missing.value.code == "K055"
    assert "Berlin_04" in missing.value.hint


def test_cluster_names_come_from_context_names() -> None:
    assert cluster_name("arn:aws:eks:eu-1:123:cluster/Shop_1") == "arn-aws-eks-eu-1-123-cluster-shop-1"
    with pytest.raises(ValidationError):
        cluster_name("///")
