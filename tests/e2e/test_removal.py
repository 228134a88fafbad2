"""Taking away with the installed programs: a bundle through its waves, a cluster out of the fleet, with kills meanwhile."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.programs import Kube, Program, Stage, shop, stage, until
from muster_core.rollout import events as ev
from muster_core.rollout.machine import RolloutMachine
from muster_proto.v1 import operator_pb2 as op

pytestmark = pytest.mark.timeout(120)

PLAN = """apiVersion: muster.dev/v1alpha1
kind: RolloutPlan
metadata: {name: rings}
spec: {deadline: 60s, waves: [{name: canary, names: [canary], soak: 1s}, {name: rest, rest: true}]}
"""
CLAIM = """apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
"""
SHOP = "/api/v1/namespaces/shop"
CLAIM_AT = f"{SHOP}/persistentvolumeclaims/data"
DEPLOYMENT_AT = "/apis/apps/v1/namespaces/shop/deployments/web"
PARENT_AT = "/api/v1/namespaces/muster-system/configmaps/muster-bundle-shop"
KEPT = "kept here: v1/Namespace shop, v1/PersistentVolumeClaim shop/data"
HOLD = "example.com/hold"


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Stage]:
    """Two waves of one cluster each, and a bundle that has data."""
    with stage(tmp_path) as found:
        found.commit({"plans/rings.yaml": PLAN}, tell=False)
        yield found


def ships(fleet: Stage, *names: str) -> dict[str, tuple[Kube, Program]]:
    joined = {name: fleet.joined(name) for name in names}
    fleet.commit({**shop("1"), "bundles/shop/manifests/claim.yaml": CLAIM})
    until(lambda: state(fleet, "shop-0001") == "Succeeded", 30, why=fleet.logs)
    return joined


def state(fleet: Stage, rollout: str) -> str:
    view = fleet.rollout(rollout)
    return view.state if view else ""


def command(fleet: Stage, *arguments: str) -> list[str]:
    context = str(fleet.data / "context.json")
    return [sys.executable, "-m", "muster_cli.main", "--context", context, *arguments]


def muster(fleet: Stage, *arguments: str) -> str:
    """Both what it printed and what it told besides."""
    done = subprocess.run(
        command(fleet, *arguments), cwd=fleet.folder / "work", capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, (arguments, done.stdout, done.stderr, fleet.logs())
    return done.stdout + done.stderr


def hold(kube: Kube, *finalizers: str) -> None:
    """What has a finalizer goes only when somebody takes that away: a removal that cannot end yet."""
    kube.ask("PATCH", DEPLOYMENT_AT, {"metadata": {"finalizers": list(finalizers) or None}})


def is_going(kube: Kube) -> bool:
    found = kube.ask("GET", DEPLOYMENT_AT)
    return bool(found and found["metadata"].get("deletionTimestamp"))


def uids(kube: Kube) -> list[str]:
    """Of what is protected."""
    return [kube.ask("GET", path)["metadata"]["uid"] for path in (SHOP, CLAIM_AT)]


def only_what_is_protected(kube: Kube) -> bool:
    gone = [kube.ask("GET", path) for path in (DEPLOYMENT_AT, f"{SHOP}/configmaps/web")]
    return gone == [None, None] and all(kube.ask("GET", path) for path in (SHOP, CLAIM_AT))


def standing(fleet: Stage) -> dict[str, str]:
    """Who has no entry any more is told that its credentials ended."""
    listed = fleet.call("ListClusters", op.ListClustersRequest()).clusters
    return {view.name: view.state for view in listed}


def message(fleet: Stage, name: str) -> str:
    return next((report.message for report in fleet.cluster(name).bundles), "")


def test_a_bundle_goes_wave_by_wave_and_a_kill_of_either_program_in_the_middle_changes_nothing(
    fleet: Stage,
) -> None:
    joined = ships(fleet, "canary", "store")
    (canary, agent), (store, _) = joined["canary"], joined["store"]
    protected = uids(canary) + uids(store)
    hold(canary, HOLD)
    said = muster(fleet, "bundle", "remove", "shop")
    assert "Next: git commit -m 'Remove shop' bundles/shop/bundle.yaml && git push" in said
    fleet.commit({})
    until(lambda: is_going(canary), why=fleet.logs)
    assert state(fleet, "shop-0002") == "Running"

    agent.kill()
    fleet.hub.kill()
    before = fleet.events("shop-0002")
    assert is_going(canary)
    # The map came before the deployment, so it goes after it; and the second wave has heard of nothing.
    assert (canary.version(), store.version()) == ("1", "1")
    agent.start()
    fleet.start_hub()
    until(lambda: fleet.cluster("canary").state == "Online", why=fleet.logs)
    assert state(fleet, "shop-0002") == "Running"
    hold(canary)
    until(lambda: canary.version() == "", why=fleet.logs)
    assert store.version() == "1"
    until(lambda: state(fleet, "shop-0002") == "Succeeded", 30, why=fleet.logs)

    assert only_what_is_protected(canary)
    assert only_what_is_protected(store)
    assert uids(canary) + uids(store) == protected
    for name in joined:
        assert KEPT in message(fleet, name)
    view = fleet.rollout("shop-0002")
    assert view
    assert view.removes
    data = fleet.events("shop-0002")
    assert data[: len(before)] == before
    events = [ev.decode(item) for item in data]
    assert RolloutMachine.replay(events).state == "Succeeded"
    steps = [(type(event).__name__, getattr(event, "cluster", "")) for event in events]
    assert [step for step, _ in steps].count("Started") == 1
    offers = [at for at, (step, _) in enumerate(steps) if step == "OfferMade"]
    assert [steps[at][1] for at in offers] == ["canary", "store"]
    assert steps.index(("WavePassed", "")) < offers[1]


def test_a_cluster_is_uninstalled_across_a_kill_and_another_one_is_left_as_it_is(fleet: Stage) -> None:
    joined = ships(fleet, "canary", "store")
    (canary, agent), (store, other) = joined["canary"], joined["store"]
    protected = uids(canary)
    hold(canary, HOLD)
    leaving = subprocess.Popen(
        command(fleet, "cluster", "remove", "canary", "--uninstall", "--yes"),
        cwd=fleet.folder / "work", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        until(lambda: is_going(canary), why=fleet.logs)
        until(lambda: fleet.cluster("canary").state == "Removing", why=fleet.logs)
        agent.kill()
        agent.start()
        hold(canary)
        said, _ = leaving.communicate(timeout=40)
    finally:
        leaving.kill()
    assert leaving.returncode == 0, said + fleet.logs()
    assert "cluster/canary removed (registry " in said
    assert "kept there: v1/Namespace shop, v1/PersistentVolumeClaim shop/data" in said
    assert "kubectl delete namespace/muster-system" in said
    assert only_what_is_protected(canary)
    assert canary.ask("GET", PARENT_AT) is None
    assert uids(canary) == protected
    assert standing(fleet) == {"canary": "Removed", "store": "Online"}

    written = store.writes()
    assert "cluster/store removed" in muster(fleet, "cluster", "remove", "store", "--orphan", "--yes")
    until(lambda: "is not in the registry" in other.log.read_text(), why=fleet.logs)
    assert standing(fleet) == {"canary": "Removed", "store": "Removed"}
    assert store.version() == "1"
    assert all(store.ask("GET", path) for path in (DEPLOYMENT_AT, CLAIM_AT, PARENT_AT))
    assert store.writes() == written
