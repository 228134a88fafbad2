"""The agent's whole way of a change, against the lab's API server and a real repository; only the link is left out."""

from __future__ import annotations

import contextlib
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from muster_agent.admission import Desired
from muster_agent.cluster.kube import KubeCluster
from muster_agent.obs.metrics import Metrics
from muster_agent.reconcile.runner import Reconciler
from muster_agent.render.renderer import Renderer
from muster_agent.source.repository import REGISTRY_BRANCH, SourceRepository
from muster_agent.state.files import FileState
from muster_agent.state.records import Enrolment, Floors, Repository
from muster_agent.trust.floors import FloorKeeper
from muster_agent.trust.keeper import TrustKeeper
from muster_agent.witness import Witness
from muster_core.errors import MusterError
from muster_core.fleet import read_fleet
from muster_core.sealing.keys import IdentityKey, SealingKey, encode_identity
from muster_host.auditlog import AuditLog
from muster_lab.kube import LabKube, Settings
from muster_proto.v1 import link_pb2 as wire
from unit.agent.stage import FLEET_ID, KIND, Origin, bundle, config_map, fleet

MAPS = "/api/v1/namespaces/shop/configmaps"
RETURNING = KIND.format(
    kind="RolloutPlan", name="rings", spec="{waves: [{name: all, rest: true}], onFailure: {action: rollback}}"
)
DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: "registry.example/web:%s"}]}
"""


class Stage:
    """One cluster, one repository, and an agent that is started again and again on one state folder."""

    def __init__(self, folder: Path, server: LabKube, session: aiohttp.ClientSession, uid: str) -> None:
        self.folder, self.server, self.session, self.uid = folder, server, session, uid
        self.origin = Origin.make(folder / "host")
        self.identity, self.sealing = IdentityKey.generate(), SealingKey.generate()
        self.commits: list[str] = []
        self.frames: list[wire.AgentFrame] = []
        self.reconciler: Reconciler
        self.mode, self.trust_digest = "open", ""
        self.clock: Callable[[], float] = time.time
        self.changed = anyio.Event()

    def commit(self, files: dict[str, str | None], *, force: bool = False) -> str:
        self.commits.append(self.origin.commit(files, force=force))
        return self.commits[-1]

    def register(self, more: str = "") -> str:
        spec = f"{{uid: {self.uid}, identityKey: '{encode_identity(self.identity.public)}'{more}}}"
        entry = KIND.format(kind="Cluster", name="berlin", spec=spec)
        return self.origin.commit({"clusters/berlin.yaml": entry}, REGISTRY_BRANCH)

    def _say(self, key: str, frame: wire.AgentFrame) -> None:
        self.frames.append(frame)
        self.changed.set()
        self.changed = anyio.Event()

    @contextlib.asynccontextmanager
    async def agent(self, poll: float = 3600.0, *, alone: bool = False) -> AsyncIterator[Reconciler]:
        state = FileState(self.folder / "state")
        enrolment = Enrolment(
            cluster="berlin", uid=self.uid, edge_address="", link_address="", ca_pem="", mode=self.mode,
            trust_digest=self.trust_digest, fleet_id=FLEET_ID, token_secret="",
            repositories=(Repository("fleet", self.origin.url, "main", self.commits[0]),),
        )  # fmt: skip
        source = SourceRepository(
            self.folder / "state" / "fleet.git", self.origin.url, "main", None, self.commits[0]
        )
        api = await KubeCluster.connect(self.server.kubeconfig)
        try:
            await api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "muster-system"}})
            keeper = TrustKeeper(state, source, enrolment, self.clock)
            floors = FloorKeeper(state, source, api, "muster-system")
            public = self.identity.public
            audit = await AuditLog.open(self.folder / "state" / "audit", f"cluster/{self.uid}", time.time)
            witness = Witness(audit, f"cluster/{self.uid}")
            metrics = Metrics()
            desired = Desired(
                source,
                keeper,
                floors,
                enrolment,
                public,
                [self.sealing],
                Renderer(None),
                witness,
                metrics.judged,
            )
            self.reconciler = Reconciler(
                api,
                source,
                desired,
                state,
                "muster-system",
                self._say,
                time.time,
                lambda a, b: a,
                metrics,
                witness,
            )
            async with anyio.create_task_group() as group:
                group.start_soon(self.reconciler.run, poll)
                await self.until(lambda: alone or self.reconciler.head.commit)
                yield self.reconciler
                group.cancel_scope.cancel()
        finally:
            await api.aclose()
            source.close()
            state.close()

    async def offer(self, commit: str, rollout: str, **more: Any) -> None:
        tree = await self.reconciler._source.tree(commit)
        digest = read_fleet(tree).digests["shop"]
        release = wire.Release(bundle="shop", commit=commit, tree_digest=digest)
        offer = wire.Offer(rollout=rollout, release=release, attempt=1, **more)
        await self.reconciler.receive(wire.HubFrame(offer=offer))

    async def until(self, what: Callable[[], Any]) -> None:
        with anyio.fail_after(20):
            while not what():
                changed = self.changed
                with anyio.move_on_after(0.05):
                    await changed.wait()

    def last(self) -> wire.Report:
        reports = [frame.report for frame in self.frames if frame.HasField("report")]
        return reports[-1] if reports else wire.Report()

    async def outcome(self, rollout: str, outcome: wire.Outcome) -> wire.Report:
        await self.until(lambda: (self.last().rollout, self.last().outcome) == (rollout, outcome))
        return self.last()

    async def __call__(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        headers = {"Content-Type": "application/merge-patch+json"} if method == "PATCH" else None
        data = json.dumps(body) if body is not None else None
        async with self.session.request(
            method, self.server.url + path, data=data, headers=headers
        ) as response:
            return response.status, json.loads(await response.read())

    async def value(self, name: str = "web") -> str | None:
        status, body = await self("GET", f"{MAPS}/{name}")
        return body["data"]["a"] if status == 200 else None


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with LabKube.serve(Settings(tmp_path / "kube", ready_delay=0.02)) as server:
        context = ssl.create_default_context(cafile=str(server.files.ca))
        headers = {"Authorization": f"Bearer {server.token}"}
        connector = aiohttp.TCPConnector(ssl=context)
        async with aiohttp.ClientSession(headers=headers, connector=connector) as session:
            async with session.get(server.url + "/api/v1/namespaces/kube-system") as response:
                uid = (await response.json())["metadata"]["uid"]
            stage = Stage(tmp_path, server, session, uid)
            stage.commit(fleet())
            stage.register()
            yield stage


async def test_an_offer_becomes_objects_and_a_healthy_report(stage: Stage) -> None:
    async with stage.agent():
        await stage.offer(stage.commits[0], "shop-0001")
        report = await stage.outcome("shop-0001", wire.OUTCOME_HEALTHY)
    assert await stage.value() == "one"
    assert (report.phase, report.object_count, report.ready_count) == ("Ready", 2, 2)
    replies = [frame.offer_reply.answer for frame in stage.frames if frame.HasField("offer_reply")]
    assert replies == [wire.OfferReply.ACKNOWLEDGED]


async def test_a_hand_made_edit_is_healed_without_the_coordinator(stage: Stage) -> None:
    async with stage.agent():
        await stage.offer(stage.commits[0], "shop-0001")
        await stage.outcome("shop-0001", wire.OUTCOME_HEALTHY)
    stage.frames.clear()
    # Started again with Git away and nobody on the line: what was admitted is what is kept.
    (stage.origin.folder / "origin.git").rename(stage.origin.folder / "gone.git")
    async with stage.agent(alone=True):
        await stage("PATCH", f"{MAPS}/web", {"data": {"a": "edited"}})
        await stage.until(lambda: stage.last().healed_count)
        assert await stage.value() == "one"
        await stage("DELETE", f"{MAPS}/web")
        await stage.until(lambda: stage.last().healed_count >= 2)
        assert await stage.value() == "one"


async def test_a_release_that_does_not_get_ready_goes_back(stage: Stage) -> None:
    spec = ", health: {deadline: 1s}"
    files = {"bundles/shop/bundle.yaml": bundle(spec), "bundles/shop/web.yaml": DEPLOYMENT % "1"}
    good = stage.commit({**files, "plans/rings.yaml": RETURNING})
    bad = stage.commit({"bundles/shop/web.yaml": DEPLOYMENT % "2-never"})
    async with stage.agent():
        await stage.offer(good, "shop-0001")
        await stage.outcome("shop-0001", wire.OUTCOME_HEALTHY)
        await stage.offer(bad, "shop-0002")
        report = await stage.outcome("shop-0002", wire.OUTCOME_RETURNED)
    assert report.release.commit == good
    assert "web" in report.message
    _, body = await stage("GET", "/apis/apps/v1/namespaces/shop/deployments/web")
    assert body["spec"]["template"]["spec"]["containers"][0]["image"].endswith(":1")


async def test_a_forced_push_leaves_the_last_good_state(stage: Stage) -> None:
    good = stage.commit({"bundles/shop/map.yaml": config_map("web", "two")})
    async with stage.agent(poll=0.1) as reconciler:
        await stage.offer(good, "shop-0001")
        await stage.outcome("shop-0001", wire.OUTCOME_HEALTHY)
        stage.origin.git("reset", "-q", "--hard", stage.commits[0], inside="work")
        evil = stage.commit({"bundles/shop/map.yaml": config_map("web", "evil")}, force=True)
        await stage.until(lambda: reconciler.head.commit == evil)
        await stage.offer(evil, "shop-0002")
        report = await stage.outcome("shop-0002", wire.OUTCOME_FAILED)
        assert report.code == "T012"
        assert report.release.commit == good
        assert await stage.value() == "two"
        problem = reconciler._desired.problem
        assert problem is not None
        assert problem.code == "T012"


async def test_the_floor_is_on_disk_before_the_first_object(stage: Stage) -> None:
    seen: list[str] = []
    async with stage.agent() as reconciler:
        real = reconciler._api.apply

        async def apply(obj: Any, **options: Any) -> Any:
            floors = json.loads((stage.folder / "state" / "floors.json").read_text())["record"]
            seen.append(floors["bundles"].get("shop", ""))
            return await real(obj, **options)

        reconciler._api.apply = apply  # type: ignore[method-assign]
        await stage.offer(stage.commits[0], "shop-0001")
        await stage.outcome("shop-0001", wire.OUTCOME_HEALTHY)
    assert seen
    assert set(seen) == {stage.commits[0]}
    state = FileState(stage.folder / "state")
    assert state.get("floors", Floors) is not None
    state.close()


async def test_a_tree_other_than_the_one_offered_is_refused(stage: Stage) -> None:
    async with stage.agent() as reconciler:
        release = wire.Release(bundle="shop", commit=stage.commits[0], tree_digest="0" * 64)
        offer = wire.Offer(rollout="shop-0001", release=release, attempt=1)
        await reconciler.receive(wire.HubFrame(offer=offer))
        report = await stage.outcome("shop-0001", wire.OUTCOME_FAILED)
    assert (report.code, report.phase) == ("T030", "Blocked")
    assert await stage.value() is None


async def test_a_denied_object_blocks_its_bundle_and_nothing_is_half_applied(stage: Stage) -> None:
    security = "{id: " + FLEET_ID + ", defaults: {plan: rings}, policies: {podSecurity: {enforce: baseline}}}"
    denied = stage.commit(
        {
            "fleet.yaml": KIND.format(kind="Fleet", name="acme", spec=security),
            "bundles/shop/web.yaml": DEPLOYMENT.replace(
                "{containers:", "{hostNetwork: true, containers:"
            ) % "1",
        }
    )  # fmt: skip
    async with stage.agent():
        await stage.offer(denied, "shop-0001")
        report = await stage.outcome("shop-0001", wire.OUTCOME_FAILED)
    assert (report.code, report.phase) == ("P001", "Blocked")
    assert report.violations[0].object == "apps/v1/Deployment shop/web"
    assert await stage.value() is None


async def test_an_api_server_that_fails_makes_it_degraded_and_comes_back(stage: Stage) -> None:
    async with stage.agent():
        await stage.offer(stage.commits[0], "shop-0001")
        await stage.outcome("shop-0001", wire.OUTCOME_HEALTHY)
        await stage("PUT", "/lab/faults", {"statusOverride": {"code": 503, "count": 3}})
        new = stage.commit({"bundles/shop/map.yaml": config_map("web", "two")})
        await stage.reconciler._fetch()
        await stage.offer(new, "shop-0002")
        await stage.outcome("shop-0002", wire.OUTCOME_HEALTHY)
    assert await stage.value() == "two"


async def test_a_changed_registry_entry_moves_nothing_by_itself(stage: Stage) -> None:
    render = ', render: {substitute: {WHO: "${cluster.name}"}}'
    first = stage.commit(
        {
            "bundles/shop/bundle.yaml": bundle(render),
            "bundles/shop/map.yaml": config_map("web", "${domain}"),
        }
    )
    stage.register(", values: {domain: old.example}")
    async with stage.agent():
        await stage.offer(first, "shop-0001")
        await stage.outcome("shop-0001", wire.OUTCOME_HEALTHY)
    assert await stage.value() == "old.example"
    stage.register(", values: {domain: new.example}")
    async with stage.agent():
        await stage("PATCH", f"{MAPS}/web", {"data": {"a": "edited"}})
        await stage.until(lambda: stage.last().healed_count)
        assert await stage.value() == "old.example"
        await stage.offer(first, "shop-0002")
        await stage.outcome("shop-0002", wire.OUTCOME_HEALTHY)
        assert await stage.value() == "new.example"


async def test_a_bundle_that_targets_the_cluster_again_is_no_longer_deselected(stage: Stage) -> None:
    """It is held meanwhile, and says so; told together with other news of the registry."""
    elsewhere = bundle().replace("selector: {}", "selector: {matchLabels: {tier: other}}")
    async with stage.agent(poll=0.05):
        await stage.offer(stage.commits[-1], "shop-0001")
        await stage.outcome("shop-0001", wire.OUTCOME_HEALTHY)
        stage.commit({"bundles/shop/bundle.yaml": elsewhere})
        await stage.until(lambda: stage.last().phase == "Deselected")
        assert await stage.value() == "one"
        stage.commit({"bundles/shop/bundle.yaml": bundle()})
        await stage.until(lambda: stage.last().phase == "Ready")


async def test_a_policy_that_is_not_built_rejects_its_commit_by_name(stage: Stage) -> None:
    async with stage.agent():
        await stage.offer(stage.commits[0], "shop-0001")
        await stage.outcome("shop-0001", wire.OUTCOME_HEALTHY)
        policy = "apiVersion: kyverno.io/v1\nkind: ClusterPolicy\nmetadata: {name: future}\nspec: {noSuchThing: 1}\n"
        bad = stage.commit(
            {"policies/future.yaml": policy, "bundles/shop/map.yaml": config_map("web", "two")}
        )
        with contextlib.suppress(MusterError):
            await stage.reconciler._fetch()
        await stage.offer(bad, "shop-0002")
        report = await stage.outcome("shop-0002", wire.OUTCOME_FAILED)
    assert report.code.startswith("P")
    assert "noSuchThing" in report.message
    assert await stage.value() == "one"


async def test_a_fault_of_the_agent_in_one_bundle_is_told_and_mended_without_a_restart(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stage.agent() as reconciler:
        real, broken = reconciler._desired.admit, [True]

        async def admit(*args: Any) -> Any:
            if broken:
                broken.clear()
                raise TypeError("nobody thought of this")
            return await real(*args)

        monkeypatch.setattr(reconciler._desired, "admit", admit)
        await stage.offer(stage.commits[0], "shop-0001")
        await stage.until(lambda: stage.last().code == "K099")
        await stage.outcome("shop-0001", wire.OUTCOME_HEALTHY)
    assert await stage.value() == "one"
