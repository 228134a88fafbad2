"""Joining that needs nobody at the spoke, with the installed programs: real API servers with RBAC, and the lab's."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest
from muster_core.sealing.keys import IdentityKey, SealingKey, encode_identity, encode_sealing
from muster_lab.demo.fleet import Fleet, open_fleet
from muster_lab.demo.processes import Child, program
from muster_lab.demo.site import Site
from muster_lab.podplayer.agents import may_confine
from realcluster import Etcd, RealCluster, require_real

pytestmark = [
    pytest.mark.timeout(280),
    pytest.mark.xdist_group("demo"),
    pytest.mark.skipif(bool(may_confine()), reason=f"the agent's pod cannot be played: {may_confine()}"),
]

NAMESPACE = "/api/v1/namespaces/muster-system"
IDENTITY = f"{NAMESPACE}/configmaps/muster-agent-identity"
OBJECTS = [
    "/api/v1/namespaces/muster-system",
    f"{NAMESPACE}/serviceaccounts/muster-agent",
    f"{NAMESPACE}/secrets/muster-agent-token",
    f"{NAMESPACE}/persistentvolumeclaims/muster-agent-state",
    f"{NAMESPACE}/configmaps/muster-agent-git-ca",
    IDENTITY,
    "/apis/rbac.authorization.k8s.io/v1/clusterroles/muster-agent",
    "/apis/rbac.authorization.k8s.io/v1/clusterroles/muster-agent-granted",
    "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/muster-agent",
    "/apis/apps/v1/namespaces/muster-system/deployments/muster-agent",
]


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with open_fleet(tmp_path / "fleet", print) as fleet:
        yield fleet


@pytest.fixture
async def clusters(tmp_path: Path, fleet: Fleet) -> AsyncIterator[list[RealCluster]]:
    """Two API servers with controllers and a pod player each; one etcd."""
    require_real("kube-controller-manager")
    async with AsyncExitStack() as stack:
        etcd = await stack.enter_async_context(Etcd())
        found = []
        for index in (1, 2):
            cluster = RealCluster(controller_manager=True, etcd=etcd, etcd_prefix=f"/{index}")
            found.append(await stack.enter_async_context(cluster))
            play(fleet, f"player-{index}", cluster.kubeconfig, tmp_path / f"pods-{index}")
        yield found
        await fleet.supervisor.stop()


def play(fleet: Fleet, name: str, kubeconfig: Path, folder: Path, *more: str) -> Child:
    argv = [sys.executable, "-m", "muster_lab.podplayer", "--kubeconfig", str(kubeconfig), "--agents"]
    return fleet.supervisor.start(name, [*argv, str(folder), *more])


def command(fleet: Fleet, *arguments: object) -> list[str]:
    return [program("muster"), "--context", str(fleet.context), *(str(part) for part in arguments)]


async def muster(fleet: Fleet, *arguments: object, code: int = 0) -> tuple[str, str]:
    """Standard output and error of a run that must end with ``code``."""
    done = await anyio.run_process(command(fleet, *arguments), env=dict(fleet.environment), check=False)
    out, err = done.stdout.decode(), done.stderr.decode()
    assert done.returncode == code, f"{arguments}: {done.returncode}\n{out}\n{err}{logs(fleet)}"
    return out, err


def logs(fleet: Fleet) -> str:
    found = sorted(fleet.folder.parent.glob("pods-*/logs/*.log"))
    return "\n".join(f"--- {path.name}\n{path.read_text()[-1500:]}" for path in found)


def install(fleet: Fleet, kubeconfig: Path, name: str, *more: object) -> list[object]:
    own = ["--kubeconfig", kubeconfig, "--cluster", name, "--checkout", fleet.checkout]
    return ["cluster", "install", *own, "--git-ca-file", fleet.git_ca, "-o", "json", "--wait", "100s", *more]


async def until(what: str, fact: Callable[[], Awaitable[object]], deadline: float = 60) -> Any:
    with anyio.move_on_after(deadline):
        while True:
            found = await fact()
            if found:
                return found
            await anyio.sleep(0.2)
    pytest.fail(f"not so after {deadline:.0f} s: {what}")


def contents(cluster: RealCluster) -> dict[str, Any]:
    """What was asked for, without status and bookkeeping. (The server counts up a claim's version once when the same is
    applied again, though nothing in it differs.)"""
    found = {}
    for path in OBJECTS:
        status, answer = cluster.call("GET", path)
        assert status == 200, (path, answer)
        for key in ("resourceVersion", "managedFields"):
            answer["metadata"].pop(key)
        answer.pop("status", None)
        found[path] = answer
    return found


async def registry(fleet: Fleet) -> str:
    git = ["git", "-C", str(fleet.folder / "git" / "fleet.git")]
    done = await anyio.run_process([*git, "rev-parse", "--verify", "-q", "muster/registry"], check=False)
    return done.stdout.decode().strip()


async def test_two_clusters_join_with_nobody_at_them_and_a_second_run_changes_nothing(
    fleet: Fleet, clusters: list[RealCluster], tmp_path: Path
) -> None:
    both = tmp_path / "both.kubeconfig"
    both.write_text(json.dumps(merged({"Berlin_04": clusters[0], "munich-01": clusters[1]})))
    options = [
        "--all-contexts",
        "--git-ca-file",
        fleet.git_ca,
        "--checkout",
        fleet.checkout,
        "-o",
        "json",
        "--wait",
        "100s",
    ]
    arguments = ["cluster", "install", "--kubeconfig", both, *options, "--protected-label", "ring=canary"]
    out, err = await muster(fleet, *arguments)
    first = {item["cluster"]: item for item in json.loads(out)}
    assert {name: (item["state"], item["approved"]) for name, item in first.items()} == {
        "berlin-04": ("Online", True),
        "munich-01": ("Online", True),
    }, err
    for name, cluster in zip(("berlin-04", "munich-01"), clusters, strict=True):
        assert f"{name}: applied" in err
        assert f"{name}: online" in err
        view = await fleet.operator.get_cluster(name)
        assert (view.state, view.labels["ring"]) == ("Online", "canary")
        kube_system = cluster.call("GET", "/api/v1/namespaces/kube-system")[1]
        assert first[name]["uid"] == view.uid == kube_system["metadata"]["uid"]
    print("joined in", {name: item["seconds"] for name, item in first.items()})

    # The Deployment is available: the agent's own readiness probe says so.
    async def available() -> object:
        path = "/apis/apps/v1/namespaces/muster-system/deployments/muster-agent"
        return all(
            cluster.call("GET", path)[1]["status"].get("availableReplicas") == 1 for cluster in clusters
        )

    await until("both agents are ready", available, 40)
    before, commit = [contents(cluster) for cluster in clusters], await registry(fleet)
    tokens = len((await fleet.operator.list_tokens()).tokens)
    out, _ = await muster(fleet, *arguments)
    second = json.loads(out)
    assert [
        (item["approved"], item["objects"]["created"], item["objects"]["configured"]) for item in second
    ] == [
        (False, 0, 0),
        (False, 0, 0),
    ]
    for cluster, known in zip(clusters, before, strict=True):
        assert contents(cluster) == known
    assert await registry(fleet) == commit
    assert len((await fleet.operator.list_tokens()).tokens) == tokens

    forbidden_to_the_agent(clusters[0])


def merged(clusters: dict[str, RealCluster]) -> dict[str, Any]:
    """One kubeconfig with everything inline, as people have it."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": name,
                "cluster": {
                    "server": cluster.url,
                    "certificate-authority-data": base64.b64encode(cluster.ca_file.read_bytes()).decode(),
                },
            }
            for name, cluster in clusters.items()
        ],
        "users": [{"name": name, "user": {"token": cluster.token}} for name, cluster in clusters.items()],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}} for name in clusters],
        "current-context": next(iter(clusters)),
    }


def forbidden_to_the_agent(cluster: RealCluster) -> None:
    """What its role does not give is refused by the API server, to the very token that the agent has."""
    token = cluster.service_account_token("muster-system", "muster-agent")
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "everything"},
        "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}],
    }
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "everything"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": "muster-agent", "namespace": "muster-system"}],
    }
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    refused = {
        "make a role": ("POST", f"{rbac}/clusterroles", role),
        "widen its own": ("PATCH", f"{rbac}/clusterroles/muster-agent", {"rules": role["rules"]}),
        "grant itself by label": (
            "POST",
            f"{rbac}/clusterroles",
            {**role, "metadata": {"name": "mine", "labels": {"muster.dev/grant-to-agent": "true"}}},
        ),
        "bind itself": ("POST", f"{rbac}/clusterrolebindings", binding),
        "take another's token": (
            "POST",
            "/api/v1/namespaces/kube-system/serviceaccounts/namespace-controller/token",
            request,
        ),
        "read nodes": ("GET", "/api/v1/nodes", None),
        "read pods": ("GET", "/api/v1/pods", None),
        "run in a pod": ("POST", "/api/v1/namespaces/muster-system/pods/x/exec", None),
        "delete a namespace": ("DELETE", "/api/v1/namespaces/default", None),
        "add a webhook": (
            "GET",
            "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations",
            None,
        ),
    }
    for what, (method, path, body) in refused.items():
        media = "application/merge-patch+json" if method == "PATCH" else "application/json"
        status, answer = cluster.call(method, path, body, token=token, content_type=media)
        assert status == 403, (what, status, answer)
    impersonating = subprocess.run(
        [sys.executable, "-c", IMPERSONATE, cluster.url, str(cluster.ca_file), token],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert impersonating.stdout.strip() == "403"
    allowed = cluster.call("GET", "/api/v1/namespaces/kube-system", token=token)
    assert allowed[0] == 200


IMPERSONATE = """
import ssl, sys, urllib.error, urllib.request
url, ca, token = sys.argv[1:]
headers = {"Authorization": "Bearer " + token, "Impersonate-User": "admin", "Impersonate-Group": "system:masters"}
try:
    urllib.request.urlopen(urllib.request.Request(url + "/api/v1/nodes", headers=headers),
                           context=ssl.create_default_context(cafile=ca))
    print(200)
except urllib.error.HTTPError as error:
    print(error.code)
"""


async def test_an_install_that_was_killed_before_it_approved_is_finished_by_the_next_run(
    fleet: Fleet, clusters: list[RealCluster]
) -> None:
    cluster = clusters[0]
    arguments = command(fleet, *install(fleet, cluster.kubeconfig, "berlin-04"))
    # A registry that nobody can push to: the run cannot come further than the approval.
    hook = fleet.folder / "git" / "fleet.git" / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nsleep 600\n")
    hook.chmod(0o755)
    first = fleet.supervisor.start("first-run", arguments)
    try:

        async def asked() -> object:
            fleet.supervisor.check()
            return any(join.cluster == "berlin-04" for join in (await fleet.operator.list_joins()).joins)

        await until("the agent asks to join", asked, 60)
    finally:
        first.expected_to_run = False
        os.killpg(first.process.pid, signal.SIGKILL)
        first.process.wait()
    hook.unlink()
    assert await registry(fleet) == ""
    identity = cluster.call("GET", IDENTITY)[1]["data"]["identityKey"]

    out, err = await muster(fleet, *install(fleet, cluster.kubeconfig, "berlin-04"))
    (item,) = json.loads(out)
    assert (item["state"], item["approved"]) == ("Online", True), err
    # The agent that had asked is the one that joined: no second token was needed, and nothing was applied anew.
    assert item["objects"]["created"] == item["objects"]["configured"] == 0
    assert cluster.call("GET", IDENTITY)[1]["data"]["identityKey"] == identity
    assert len((await fleet.operator.list_tokens()).tokens) == 1


async def test_a_join_with_other_keys_than_the_spokes_is_refused_and_not_approved(
    fleet: Fleet, tmp_path: Path
) -> None:
    """Somebody used the token first: the hub shows their join under the cluster's name and with the cluster's UID."""
    name, keys = "berlin-04", (IdentityKey.generate(), SealingKey.generate())
    kube = fleet.supervisor.start(
        f"kube-{name}", [sys.executable, "-m", "muster_lab.kube", "--dir", str(tmp_path / "kube")]
    )
    kubeconfig = Path(json.loads(await kube.first_line(30))["kubeconfig"])
    site = Site.read(name, kubeconfig)
    await site.create("/api/v1/namespaces", {"metadata": {"name": "muster-system"}})
    data = {
        "identityKey": encode_identity(keys[0].public),
        "sealingKey": encode_sealing(keys[1].public),
        "sealingGeneration": "1",
    }
    published = {"metadata": {"name": "muster-agent-identity"}, "data": data}
    await site.create(f"{NAMESPACE}/configmaps", published)
    out, _ = await muster(
        fleet, "token", "create", "--cluster", name, "--checkout", fleet.checkout, "-o", "json"
    )
    stolen = tmp_path / "stolen"
    stolen.write_text(json.loads(out)["token"])
    agent = [program("muster-agent"), "run", "--cluster", name, "--token-file", str(stolen)]
    own = [
        "--kubeconfig",
        str(kubeconfig),
        "--state-dir",
        str(tmp_path / "thief"),
        "--namespace",
        "elsewhere",
    ]
    fleet.supervisor.start("thief", [*agent, *own, "--git-ca-file", str(fleet.git_ca)])

    async def asked() -> object:
        return any(join.cluster == name for join in (await fleet.operator.list_joins()).joins)

    await until("the thief asks to join", asked)
    _, err = await muster(fleet, *install(fleet, kubeconfig, name, "--wait", "60s"), code=4)
    assert "MUSTER-J051" in err
    assert "other identity key, sealing key" in err
    assert "cluster UID" not in err
    assert await registry(fleet) == ""
    assert (await fleet.operator.get_cluster(name)).state == "Pending"


PLAN = """\
apiVersion: muster.dev/v1alpha1
kind: RolloutPlan
metadata: {name: rings}
spec:
  deadline: 2m
  waves: [{name: all, rest: true}]
"""
BUNDLE = """\
apiVersion: muster.dev/v1alpha1
kind: Bundle
metadata: {name: odd}
spec:
  source: {path: manifests}
  targets: [{selector: {}}]
  namespace: default
"""
FINE = "{apiVersion: v1, kind: ConfigMap, metadata: {name: fine}, data: {a: b}}\n"
ROLE = """\
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: odd}
rules: [{apiGroups: [""], resources: [pods], verbs: [get]}]
"""


async def test_an_object_beyond_the_agents_rights_is_told_by_name_until_the_cluster_grants_it(
    fleet: Fleet, clusters: list[RealCluster]
) -> None:
    cluster = clusters[0]
    await muster(fleet, *install(fleet, cluster.kubeconfig, "berlin-04"))
    (fleet.checkout / "policies" / "require-labels.yaml").unlink()
    files = {"plans/rings.yaml": PLAN, "bundles/odd/bundle.yaml": BUNDLE}
    await fleet.commit("odd", {**files, "bundles/odd/manifests/all.yaml": f"{FINE}---\n{ROLE}"})

    async def told() -> object:
        view = await fleet.operator.get_cluster("berlin-04")
        said = [f"{report.code} {report.message}" for report in view.bundles]
        return next((text for text in said if "K003" in text), "")

    message = await until("the missing right is reported", told, 100)
    print(message)
    assert "roles" in message
    assert "rbac.authorization.k8s.io" in message
    assert (await fleet.operator.get_cluster("berlin-04")).state == "Online"

    # The cluster's own administrator grants it, by a label; the agent's own role is not touched.
    granted = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "odd", "labels": {"muster.dev/grant-to-agent": "true"}},
        "rules": [
            {
                "apiGroups": ["rbac.authorization.k8s.io"],
                "resources": ["roles"],
                "verbs": ["get", "list", "watch", "create", "patch", "delete"],
            },
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
        ],
    }
    assert cluster.apply("/apis/rbac.authorization.k8s.io/v1/clusterroles/odd", granted)[0] == 201

    async def applied() -> object:
        return (
            cluster.call("GET", "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles/odd")[0] == 200
        )

    await until("the role is applied", applied, 100)


LABS = 10


async def test_ten_clusters_from_a_folder_of_kubeconfigs_join_unattended(
    fleet: Fleet, tmp_path: Path
) -> None:
    """Real agents on the lab's servers; the credentials are nowhere but in that folder."""
    folder, scratch = tmp_path / "kubeconfigs", tmp_path / "scratch"
    folder.mkdir()
    scratch.mkdir()
    names = [f"lab-{index:02}" for index in range(LABS)]
    sites: dict[str, Site] = {}

    async def appears(name: str) -> None:
        """A cluster is made and its kubeconfig put into the folder, as a provisioner would."""
        own = tmp_path / name
        kube = fleet.supervisor.start(
            f"kube-{name}", [sys.executable, "-m", "muster_lab.kube", "--dir", str(own)]
        )
        kubeconfig = Path(json.loads(await kube.first_line(60))["kubeconfig"])
        play(fleet, f"player-{name}", kubeconfig, tmp_path / f"pods-{name}", "--lab")
        sites[name] = Site.read(name, kubeconfig)
        inline = {**merged_text(kubeconfig)}
        partial = tmp_path / f"{name}.partial"
        partial.write_text(json.dumps(inline))
        partial.replace(folder / f"{name}.kubeconfig")

    options = ["--kubeconfig-dir", folder, "--checkout", fleet.checkout, "--git-ca-file", fleet.git_ca]
    installer = fleet.supervisor.start(
        "installer",
        command(fleet, "installer", "run", *options, "--label", "from=installer", "--poll", "1s"),
        {"TMPDIR": str(scratch)},
    )
    for name in names[: LABS // 2]:
        await appears(name)

    def events() -> list[dict[str, Any]]:
        return [json.loads(line) for line in installer.out.read_text().splitlines()]

    def joined() -> set[str]:
        fleet.supervisor.check()
        return {event["cluster"] for event in events() if event["event"] == "joined"}

    async def half() -> object:
        return joined() >= set(names[: LABS // 2])

    await until("the first half joined", half, 100)
    for name in names[LABS // 2 :]:
        await appears(name)

    async def whole() -> object:
        return joined() >= set(names)

    await until("the others joined", whole, 100)
    views = {view.name: view for view in (await fleet.operator.list_clusters()).clusters}
    assert {name: (views[name].state, views[name].labels["from"]) for name in names} == dict.fromkeys(
        names, ("Online", "installer")
    )
    assert [event for event in events() if event["event"] == "failed"] == []
    assert list(scratch.rglob("*")) == []
    tokens = {site.token for site in sites.values()}
    said = installer.out.read_text() + installer.log.read_text()
    assert not any(token in said for token in tokens)

    # Started anew it finds everything done: no token is made, no registry commit, no credential read.
    commit, made = await registry(fleet), len((await fleet.operator.list_tokens()).tokens)
    await fleet.supervisor.end(installer)
    for path in folder.iterdir():
        path.write_text("not a kubeconfig any more")
    again = fleet.supervisor.start("installer-again", installer.argv)

    async def known() -> object:
        lines = [json.loads(line) for line in again.out.read_text().splitlines()]
        assert not any(line["event"] == "failed" for line in lines)
        return {line["cluster"] for line in lines if line["event"] == "joined-before"} >= set(names)

    await until("it knows all of them", known, 40)
    assert await registry(fleet) == commit
    assert len((await fleet.operator.list_tokens()).tokens) == made
    await fleet.supervisor.stop()


def merged_text(kubeconfig: Path) -> dict[str, Any]:
    """A lab's kubeconfig with everything inline."""
    import yaml

    config: dict[str, Any] = yaml.safe_load(kubeconfig.read_text())
    cluster = config["clusters"][0]["cluster"]
    authority = Path(cluster.pop("certificate-authority")).read_bytes()
    cluster["certificate-authority-data"] = base64.b64encode(authority).decode()
    return config
