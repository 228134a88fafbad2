"""The real cluster itself: it boots at the pinned version, does what cases rely on, leaves nothing behind."""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from realcluster import Etcd, RealCluster, RealClusterError, open_real_cluster, ports, require_real
from tools import build

pytestmark = [pytest.mark.real, pytest.mark.timeout(180), pytest.mark.xdist_group("real-boot")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[RealCluster]:
    with open_real_cluster(controller_manager=True, users={"reader": ["viewers"]}, deadline=120) as cluster:
        yield cluster


def until(what: Callable[[], Any], seconds: float = 30) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = what()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds:g} s")


def items(cluster: RealCluster, path: str) -> list[dict[str, Any]]:
    status, answer = cluster.call("GET", path)
    assert status == 200, answer
    found: list[dict[str, Any]] = answer["items"]
    return found


def alive(folder: Path) -> list[str]:
    """Command lines of live processes that name the folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line and entry.name != str(os.getpid()):
            found.append(line)
    return found


def answers(cluster: RealCluster, path: str, token: str) -> bool:
    return cluster.call("GET", path, token=token)[0] == 200


def namespace(cluster: RealCluster, name: str) -> None:
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    status, answer = cluster.apply(f"/api/v1/namespaces/{name}", body)
    assert status == 201, answer


def config_map(data: dict[str, str]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": data}


def test_it_is_the_pinned_version(cluster: RealCluster) -> None:
    binary = require_real("kube-apiserver")
    expected = build.VERSIONS["kube-apiserver"]
    if build.assets() is not None:  # somebody else's build: then it says itself what it is
        said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
        expected = said.split()[-1]
    status, answer = cluster.call("GET", "/version")
    assert status == 200
    assert answer["gitVersion"] == expected
    assert [answer["major"], answer["minor"]] == re.findall(r"\d+", expected)[:2]


def test_server_side_apply_makes_owns_and_conflicts(cluster: RealCluster) -> None:
    namespace(cluster, "applied")
    path = "/api/v1/namespaces/applied/configmaps/settings"
    status, answer = cluster.apply(path, config_map({"a": "1"}), manager="one")
    assert status == 201, answer
    assert [(m["manager"], m["operation"]) for m in answer["metadata"]["managedFields"]] == [("one", "Apply")]

    status, answer = cluster.call(
        "PATCH",
        f"{path}?fieldManager=two",
        config_map({"a": "2"}),
        content_type="application/apply-patch+yaml",
    )
    assert (status, answer["reason"]) == (409, "Conflict")
    assert answer["details"]["causes"][0]["reason"] == "FieldManagerConflict"


def test_rbac_decides_for_users_and_service_accounts(cluster: RealCluster) -> None:
    namespace(cluster, "guarded")
    path = "/api/v1/namespaces/guarded/configmaps"
    assert cluster.call("GET", path, token="nonsense")[0] == 401
    assert cluster.call("GET", path, token=cluster.tokens["reader"])[0] == 403

    until(lambda: cluster.call("GET", "/api/v1/namespaces/guarded/serviceaccounts/default")[0] == 200)
    token = cluster.service_account_token("guarded", "default")
    assert cluster.call("GET", path, token=token)[0] == 403
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "view"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [
            {"kind": "ServiceAccount", "name": "default", "namespace": "guarded"},
            {"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": "viewers"},
        ],
    }
    bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/guarded/rolebindings"
    assert cluster.apply(f"{bindings}/view", binding)[0] == 201
    for allowed in (token, cluster.tokens["reader"]):
        until(functools.partial(answers, cluster, path, allowed))
        assert cluster.call("POST", path, config_map({}), token=allowed)[0] == 403


def test_kubeconfigs_name_the_server_the_ca_and_the_token(cluster: RealCluster) -> None:
    for path, token in [
        (cluster.kubeconfig, cluster.token),
        (cluster.kubeconfig_for(cluster.tokens["reader"], "reader"), cluster.tokens["reader"]),
    ]:
        text = path.read_text()
        assert path.stat().st_mode & 0o077 == 0
        assert all(part in text for part in (cluster.url, str(cluster.ca_file), token))


def test_a_deployment_becomes_a_replica_set_and_pods(cluster: RealCluster) -> None:
    namespace(cluster, "work")
    labels = {"app": "web"}
    pod = {"containers": [{"name": "web", "image": "web:1"}]}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }
    apps = "/apis/apps/v1/namespaces/work"
    assert cluster.apply(f"{apps}/deployments/web", deployment)[0] == 201
    [replica_set] = until(lambda: items(cluster, f"{apps}/replicasets"))
    assert replica_set["metadata"]["ownerReferences"][0]["name"] == "web"
    pods = "/api/v1/namespaces/work/pods"
    until(lambda: len(items(cluster, pods)) == 2)
    for made in items(cluster, pods):
        assert made["metadata"]["ownerReferences"][0]["name"] == replica_set["metadata"]["name"]
        assert made["status"]["phase"] == "Pending"  # no scheduler, no kubelet
        [volume] = made["spec"]["volumes"]  # the token that the admission plugin projects
        assert volume["name"].startswith("kube-api-access-")

    assert cluster.call("DELETE", f"{apps}/deployments/web")[0] == 200
    until(lambda: not items(cluster, f"{apps}/replicasets"))  # the garbage collector
    assert cluster.call("DELETE", "/api/v1/namespaces/work")[0] == 200


def test_an_outage_ends_on_the_same_address_with_the_same_state(cluster: RealCluster) -> None:
    namespace(cluster, "kept")
    url = cluster.url
    cluster.stop_apiserver()
    with pytest.raises(OSError, match="refused"):
        cluster.call("GET", "/version")
    cluster.start_apiserver()
    assert cluster.url == url
    assert cluster.call("GET", "/api/v1/namespaces/kept")[0] == 200


def test_two_servers_share_one_etcd_and_see_nothing_of_each_other() -> None:
    require_real("etcd")
    require_real("kube-apiserver")
    with (
        Etcd(deadline=60) as etcd,
        RealCluster(etcd=etcd, etcd_prefix="/a", deadline=120) as one,
        RealCluster(etcd=etcd, etcd_prefix="/b", deadline=120) as two,
    ):
        namespace(one, "only-one")
        assert two.call("GET", "/api/v1/namespaces/only-one")[0] == 404
        assert two.call("GET", "/api/v1/namespaces", token=one.token)[0] == 401


async def test_it_is_an_asynchronous_context_manager_too() -> None:
    require_real("etcd")
    require_real("kube-apiserver")
    async with RealCluster(deadline=120) as cluster:
        folder = cluster.folder
        assert cluster.call("GET", "/readyz") == (200, "ok")
        assert alive(folder)
    assert not alive(folder)
    assert not folder.exists()


def test_a_server_that_cannot_start_shows_its_log_and_leaves_no_process(tmp_path: Path) -> None:
    require_real("etcd")
    require_real("kube-apiserver")
    broken = RealCluster(folder=tmp_path, apiserver_args=["--no-such-flag"], deadline=60)
    with pytest.raises(RealClusterError, match="unknown flag: --no-such-flag"):
        broken.start()
    assert not alive(tmp_path)
    assert (tmp_path / "kube-apiserver.log").exists()
    broken.close()


def test_a_port_that_is_taken_meanwhile_is_given_up_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    require_real("etcd")
    require_real("kube-apiserver")
    with Etcd(deadline=60) as other, socket.create_server(("127.0.0.1", 0)) as taken:
        choices = [other.port, ports.free_port(), taken.getsockname()[1], ports.free_port()]
        monkeypatch.setattr(ports, "free_port", lambda queue=iter(choices): next(queue))
        with RealCluster(deadline=120) as cluster:
            assert (cluster.etcd.port, cluster.port) == (choices[1], choices[3])


HOLDER = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from realcluster import RealCluster
cluster = RealCluster(folder=Path(sys.argv[2]), deadline=120).start()
print(json.dumps({"ready": True}), flush=True)
sys.stdin.read()
"""


def test_nothing_outlives_a_test_process_that_is_killed(tmp_path: Path) -> None:
    require_real("etcd")
    require_real("kube-apiserver")
    tests = str(Path(__file__).resolve().parents[1])
    command = [sys.executable, "-c", HOLDER, tests, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert json.loads(holder.stdout.readline())["ready"]
            assert len(alive(tmp_path)) == 3  # etcd, kube-apiserver and the holder
        finally:
            holder.send_signal(signal.SIGKILL)
    until(lambda: not alive(tmp_path))


def test_what_is_missing_is_skipped_with_a_reason_or_fails_where_it_is_required(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.delenv("MUSTER_REQUIRE_REAL", raising=False)
    with pytest.raises(pytest.skip.Exception, match="make tools"):
        require_real("kube-apiserver")
    monkeypatch.setenv("MUSTER_REQUIRE_REAL", "1")
    with pytest.raises(pytest.fail.Exception, match="make tools"):
        require_real("kube-apiserver")

    for name in ("etcd", "kube-apiserver"):
        tmp_path.joinpath(name).write_text("")
        tmp_path.joinpath(name).chmod(0o755)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    assert require_real("kube-apiserver") == tmp_path / "kube-apiserver"
    with pytest.raises(ValueError, match="not one of"):
        require_real("kubelet")
