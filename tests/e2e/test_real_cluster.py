"""Other people's manifests, delivered in two waves to a real API server and two of the lab's."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import anyio
import pytest
from muster_lab.demo.fleet import Fleet, open_fleet
from realcluster import RealCluster, require_real
from tools import build

WHERE = os.environ.get("MUSTER_CONFORMANCE_DIR")
PODINFO = Path(WHERE or "") / "real-world" / "podinfo"
pytestmark = [
    pytest.mark.timeout(280),
    pytest.mark.xdist_group("demo"),
    pytest.mark.skipif(
        WHERE is None or not PODINFO.is_dir(),
        reason="set MUSTER_CONFORMANCE_DIR to the folder that holds real-world/",
    ),
]

PLAN = """\
apiVersion: muster.dev/v1alpha1
kind: RolloutPlan
metadata: {name: rings}
spec:
  deadline: 2m
  waves:
  - {name: canary, selector: {matchLabels: {ring: canary}}, maxInFlight: 1, maxFailed: 0}
  - {name: rest, rest: true, maxInFlight: 2, maxFailed: 0}
"""
BUNDLE = """\
apiVersion: muster.dev/v1alpha1
kind: Bundle
metadata: {name: %(name)s}
spec:
  source: {path: %(path)s}
  render: {kustomize: {path: %(kustomize)s}}
  targets: [{selector: {}}]
  namespace: default
  health: {deadline: 90s}
%(more)s"""
CLUSTERS = {"real": "canary", "lab-1": "stores", "lab-2": "stores"}
HPA = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers/podinfo"


async def until(
    fleet: Fleet, what: str, fact: Callable[[], Awaitable[object]], deadline: float = 120
) -> None:
    last: object = None
    with anyio.move_on_after(deadline):
        while True:
            fleet.supervisor.check()
            if (last := await fact()) is True:
                return
            await anyio.sleep(0.3)
    pytest.fail(f"not so after {deadline:.0f} s: {what}; last seen: {last}")


async def succeeded(fleet: Fleet, commit: str, *bundles: str) -> None:
    async def all_of_them() -> object:
        seen = {
            r.bundle: (r.state, r.why)
            for r in (await fleet.operator.list_rollouts()).rollouts
            if r.release.commit == commit
        }
        for state, why in seen.values():
            assert state not in {"Failed", "Aborted", "RolledBack"}, why
        return all(seen.get(bundle, ("",))[0] == "Succeeded" for bundle in bundles) or seen

    await until(fleet, f"{bundles} of {commit[:7]} succeeded", all_of_them)


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    require_real("kustomize")
    require_real("kube-controller-manager")
    kustomize = build.find("kustomize")
    async with (
        RealCluster(controller_manager=True) as cluster,
        open_fleet(tmp_path / "fleet", print) as fleet,
    ):
        player = [sys.executable, "-m", "muster_lab.podplayer", "--kubeconfig", str(cluster.kubeconfig)]
        fleet.supervisor.start("podplayer", player)
        (fleet.checkout / "policies" / "require-labels.yaml").unlink()
        await fleet.commit("only Pod Security", {"plans/rings.yaml": PLAN})
        for name, ring in CLUSTERS.items():
            kubeconfig = cluster.kubeconfig if name == "real" else None
            await fleet.join(name, ring, kubeconfig, ["--kustomize", str(kustomize)])
        yield fleet


async def test_real_manifests_reach_real_and_lab_clusters_and_are_kept_as_they_should_be(
    fleet: Fleet,
) -> None:
    for site in fleet.sites.values():
        await site.create(
            "/api/v1/namespaces/default/configmaps", {"metadata": {"name": "foreign"}, "data": {"a": "b"}}
        )
    foreign = {
        n: await s.get("/api/v1/namespaces/default/configmaps/foreign") for n, s in fleet.sites.items()
    }

    # Two bundles of other people, and a secret sealed to the three clusters.
    await fleet.seal_secret("default")
    source = fleet.checkout / "bundles"
    shutil.copytree(PODINFO / "kustomize", source / "podinfo" / "manifests")
    shutil.copytree(PODINFO / "deploy", source / "webapp" / "deploy")
    for path in source.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)  # the suite may be read-only
    commit = await fleet.commit(
        "podinfo and webapp",
        {
            "bundles/podinfo/bundle.yaml": BUNDLE
            % {
                "name": "podinfo",
                "path": "manifests",
                "kustomize": ".",
                "more": "  secrets: [../../secrets/shop-db.yaml]\n",
            },
            "bundles/webapp/bundle.yaml": BUNDLE
            % {"name": "webapp", "path": "deploy", "kustomize": "overlays/dev", "more": ""},
        },
    )
    await succeeded(fleet, commit, "podinfo", "webapp")
    for name, site in fleet.sites.items():
        deployment = await site.get("/apis/apps/v1/namespaces/default/deployments/podinfo")
        assert deployment is not None, name
        assert deployment["status"]["availableReplicas"] >= 1
        assert await site.get("/api/v1/namespaces/dev") is not None
        secret = await site.get("/api/v1/namespaces/default/secrets/shop-db")
        assert secret is not None, name
        assert secret["data"]["password"] == fleet.secret_base64

    # A field drifts and is healed.
    for site in fleet.sites.values():
        await site.patch(HPA, {"spec": {"maxReplicas": 9}})

    async def healed() -> object:
        seen = {
            n: (await s.get(HPA) or {}).get("spec", {}).get("maxReplicas") for n, s in fleet.sites.items()
        }
        return set(seen.values()) == {4} or seen

    await until(fleet, "the drifted field is healed everywhere", healed, 40)

    # A file that is removed is pruned.
    kustomization = source / "podinfo" / "manifests" / "kustomization.yaml"
    kustomization.write_text(kustomization.read_text().replace("  - hpa.yaml\n", ""))
    (kustomization.parent / "hpa.yaml").unlink()
    commit = await fleet.commit("podinfo without autoscaler", {})
    await succeeded(fleet, commit, "podinfo")
    assert [await site.get(HPA) for site in fleet.sites.values()] == [None, None, None]

    # A second pass writes nothing: a restarted agent finds everything as it left it.
    site = fleet.sites["lab-1"]
    await anyio.sleep(1)  # reports of the last rollout settle
    await site.delete("/lab/requests")
    await fleet.restart_agent("lab-1")

    async def back() -> object:
        view = await fleet.operator.get_cluster("lab-1")
        counted = await site.get("/lab/requests")
        return (view.state == "Online" and bool(counted) and counted["reads"] > 5) or (view.state, counted)

    await until(fleet, "the restarted agent looked at everything", back, 40)
    await anyio.sleep(2)
    counted = await site.get("/lab/requests")
    assert counted is not None
    assert counted["writes"] == 0, counted

    for name, site in fleet.sites.items():
        assert await site.get("/api/v1/namespaces/default/configmaps/foreign") == foreign[name]
