"""A kubeconfig that is none is an error with a code, whatever is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from muster_agent.cluster.kube import KubeCluster
from muster_core.errors import KubernetesError

CONTEXT = "contexts: [{name: a, context: {cluster: c, user: u}}]\ncurrent-context: a\n"
USER = "users: [{name: u, user: {token: t}}]\n"


@pytest.mark.parametrize(
    "text",
    [
        "a: [",
        "just words",
        "- a\n- b\n",
        "",
        "clusters: 7\n" + CONTEXT,
        "clusters: []\n" + CONTEXT + USER,
        "clusters: [{name: c}]\n" + CONTEXT + USER,
        "clusters: [{name: c, cluster: {server: 'https://x', certificate-authority-data: '%%%'}}]\n"
        + CONTEXT
        + USER,
        "clusters: [{name: c, cluster: {server: 'https://x'}}]\ncurrent-context: nope\n",
        "\x00\x01",
    ],
)
async def test_what_is_no_kubeconfig_is_told_as_such(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(KubernetesError) as caught:
        await KubeCluster.connect(path)
    assert caught.value.code == "K011"
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_a_folder_or_nothing_at_the_path_is_told_as_such(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(KubernetesError, match="there is no such kubeconfig"):
            await KubeCluster.connect(path)
