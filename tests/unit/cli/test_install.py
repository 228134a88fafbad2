"""Joining without anybody at the spoke: what is approved and what is not, and where new clusters appear."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from muster_cli.checkout import open_checkout
from muster_cli.client import OperatorClient
from muster_cli.context import load
from muster_cli.install.desk import Desk, Labels
from muster_cli.install.installer import Installer
from muster_cli.install.joining import Patience, Wanted, join_cluster
from muster_cli.install.kubeconfig import Access, parse
from muster_cli.install.minting import Reached
from muster_cli.install.sources import ClusterApiHub, Folder, Source, look_everywhere
from muster_core.errors import KubernetesError, MusterError
from muster_core.fleet import read_settings
from muster_core.manifest.objects import ObjectRef
from muster_core.sealing.keys import IdentityKey, encode_identity, encode_sealing
from muster_lab.kube.server import LabKube, Settings
from muster_proto.v1 import operator_pb2 as op
from unit.cli.stage import Hub, Member, Repositories, git
from unit.cli.test_kubeconfig import kubeconfig

# --- joining, against a real API server of the lab's and an operator API ----------------------------------------------


class Stage:
    """A spoke without an agent, a hub, a desk. The test plays the agent."""

    def __init__(self, kube: LabKube, hub: Hub, repositories: Repositories) -> None:
        self.kube, self.hub, self.repositories = kube, hub, repositories
        self.said: list[str] = []
        self.member = Member("berlin-04", "")

    async def publish(self, identity: IdentityKey | None = None) -> None:
        async with self.access().connect() as api:
            self.member.uid = await api.uid()
            public = (identity or self.member.identity).public
            data = {
                "identityKey": encode_identity(public),
                "sealingKey": encode_sealing(self.member.sealing.public),
                "sealingGeneration": "1",
            }
            metadata = {"name": "muster-agent-identity", "namespace": "muster-system"}
            if await api.get(ObjectRef("v1", "Namespace", "", "muster-system")) is None:
                await api.apply(
                    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "muster-system"}}
                )
            await api.apply(
                {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}, force=True
            )

    def asks(self) -> None:
        self.hub.joins = [self.member.join(self.repositories.fleet_id)]

    def online(self) -> None:
        self.hub.clusters = [op.ClusterView(name="berlin-04", uid=self.member.uid, state="Online")]

    def access(self) -> Access:
        return next(iter(parse(self.kube.kubeconfig.read_bytes(), "lab", "mine")[1].values()))

    async def join(self, **patience: float) -> Any:
        with (
            open_checkout(self.repositories.clone) as clone,
            OperatorClient(load(None), 10.0) as operator,
        ):
            desk = Desk(clone, operator, Reached(), 60, Labels(protected={"tier": "store"}))
            async with self.access().connect() as api:
                return await join_cluster(
                    api,
                    desk,
                    Wanted("berlin-04", "muster-agent:1", "muster-system"),
                    lambda _name, text: self.said.append(text),
                    Patience(**patience),
                )

    @property
    def tokens(self) -> int:
        return sum(isinstance(request, op.CreateTokenRequest) for request in self.hub.requests)

    def registry(self) -> str:
        return git(self.repositories.origin, "branch", "--list", "muster/registry")


@pytest.fixture
async def stage(tmp_path: Path, hub: Hub, repositories: Repositories) -> AsyncIterator[Stage]:
    hub.issues_on_refresh = False
    async with LabKube.serve(Settings(tmp_path / "kube")) as kube:
        yield Stage(kube, hub, repositories)


async def fails_with(code: str, run: Callable[[], Any]) -> MusterError:
    with pytest.raises(MusterError) as caught:
        await run()
    assert caught.value.code == code, caught.value
    return caught.value


async def test_a_join_that_equals_the_spoke_is_approved_with_the_installers_labels(stage: Stage) -> None:
    await stage.publish()
    stage.asks()
    stage.online()
    joined = await stage.join(whole=20)
    assert (joined.approved, joined.uid) == (True, stage.member.uid)
    entry = stage.repositories.registry("clusters/berlin-04.yaml")
    assert encode_identity(stage.member.identity.public) in entry
    assert "tier: store" in entry


async def test_other_keys_at_the_hub_than_in_the_spoke_are_refused_and_nothing_is_written(
    stage: Stage,
) -> None:
    await stage.publish(IdentityKey.generate())
    stage.asks()
    stage.online()
    error = await fails_with("J051", lambda: stage.join(whole=20, other_keys=0.5))
    assert "identity key" in error.message
    assert "sealing key" not in error.message
    assert stage.registry() == ""


async def test_another_cluster_with_the_right_keys_is_refused_too(stage: Stage) -> None:
    await stage.publish()
    stage.asks()
    stage.hub.joins[0].uid = "5f0c0000-0000-4000-8000-000000000009"
    await fails_with("J051", lambda: stage.join(whole=20, other_keys=0.5))
    assert stage.registry() == ""


async def test_keys_that_differ_for_a_moment_are_waited_for(stage: Stage) -> None:
    """An agent that lost its state publishes new keys a moment before the hub hears of them."""
    await stage.publish()
    stage.hub.joins = [Member("berlin-04", stage.member.uid).join(stage.repositories.fleet_id)]
    stage.online()
    async with anyio.create_task_group() as group:

        async def asks_later() -> None:
            while not any("applied" in text for text in stage.said):
                await anyio.sleep(0.05)
            await anyio.sleep(1.0)
            stage.asks()

        group.start_soon(asks_later)
        assert (await stage.join(whole=30, other_keys=15)).approved


async def test_nobody_asking_ends_with_what_was_waited_for(stage: Stage) -> None:
    error = await fails_with("J050", lambda: stage.join(whole=2.0))
    assert error.retryable
    assert "the agent's keys in its own cluster" in error.message


async def test_a_second_run_mints_no_token_and_writes_nothing(stage: Stage) -> None:
    """rancher/fleet#1656, PR #1675: each registration left things behind, and cleaning up removed a live one."""
    await stage.publish()
    stage.asks()
    stage.online()
    await stage.join(whole=20)
    tokens, head = stage.tokens, git(stage.repositories.origin, "rev-parse", "muster/registry")
    again = await stage.join(whole=20)
    assert (again.approved, again.applied.created, again.applied.configured) == (False, 0, 0)
    assert stage.tokens == tokens
    assert git(stage.repositories.origin, "rev-parse", "muster/registry") == head


async def test_a_run_that_ended_after_applying_is_finished_with_the_same_token(stage: Stage) -> None:
    await fails_with("J050", lambda: stage.join(whole=2.0))
    assert stage.tokens == 1
    await stage.publish()
    stage.asks()
    stage.online()
    joined = await stage.join(whole=20)
    assert joined.approved
    assert (stage.tokens, joined.applied.configured) == (1, 0)


async def test_a_token_that_nobody_used_is_made_anew(stage: Stage) -> None:
    await fails_with("J050", lambda: stage.join(whole=2.0))
    await fails_with("J050", lambda: stage.join(whole=2.0))
    assert stage.tokens == 2


async def test_an_agent_with_another_identity_than_the_registrys_is_not_taken_for_it(stage: Stage) -> None:
    await stage.publish()
    stage.asks()
    stage.online()
    await stage.join(whole=20)
    await stage.publish(IdentityKey.generate())
    error = await fails_with("J052", lambda: stage.join(whole=20, other_keys=0.5))
    assert "clusters/berlin-04.yaml" in error.hint


async def test_a_name_that_another_cluster_has_is_refused_before_anything_is_applied(stage: Stage) -> None:
    await stage.publish()
    other = Member("berlin-04", "5f0c0000-0000-4000-8000-000000000009")
    stage.hub.joins = [other.join(stage.repositories.fleet_id)]
    with open_checkout(stage.repositories.clone) as clone, OperatorClient(load(None), 10.0) as operator:
        desk = Desk(clone, operator, Reached(), 60, Labels())
        await desk.approve("berlin-04", stage.hub.joins[0])
    await fails_with("J013", lambda: stage.join(whole=20))
    assert not any("applied" in text for text in stage.said)


async def test_a_revoked_cluster_is_not_let_in_again(stage: Stage) -> None:
    await stage.publish()
    stage.asks()
    stage.online()
    await stage.join(whole=20)
    with open_checkout(stage.repositories.clone) as clone:
        path = "clusters/berlin-04.yaml"
        clone.sign_as(read_settings(clone.tree(clone.head())).spec.mode, None)
        clone.add_to_registry(
            path, lambda tree: tree.read(path).replace(b"spec:\n", b"spec:\n  revoked: true\n"), "revoke"
        )
    stage.said.clear()
    error = await fails_with("J013", lambda: stage.join(whole=20))
    assert "revoked" in error.message
    assert stage.said == []


async def test_a_connection_leaves_no_credential_on_the_disk(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    files = stage.kube.files
    data = {
        "server": stage.kube.url,
        "certificate-authority-data": base64.b64encode(files.ca.read_bytes()).decode(),
    }
    user = {
        "token": stage.kube.token,
        "client-certificate-data": base64.b64encode(files.certificate.read_bytes()).decode(),
        "client-key-data": base64.b64encode(files.key.read_bytes()).decode(),
    }
    access = parse(kubeconfig(user, data), "x", "inline")[1]["c"]
    async with access.connect() as api:
        assert await api.uid()
        assert list(folder.rglob("*")) == []
    assert list(folder.rglob("*")) == []


# --- where new clusters appear --------------------------------------------------------------------------------------

CLUSTERS = "/apis/cluster.x-k8s.io/v1beta1/namespaces/default/clusters"
DEFINITION = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "clusters.cluster.x-k8s.io"},
    "spec": {
        "group": "cluster.x-k8s.io",
        "scope": "Namespaced",
        "names": {"plural": "clusters", "singular": "cluster", "kind": "Cluster", "listKind": "ClusterList"},
        "versions": [
            {
                "name": "v1beta1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
                },
            }
        ],
    },
}


async def hub_of_clusters(api: Any, names: dict[str, dict[str, Any]]) -> None:
    """Cluster API's definition and these Cluster objects."""
    await api.apply(DEFINITION)
    with anyio.fail_after(10):
        while True:
            try:
                await api.resource("cluster.x-k8s.io/v1beta1", "Cluster")
                break
            except KubernetesError:
                await anyio.sleep(0.1)
    for name, spec in names.items():
        await api.apply(
            {
                "apiVersion": "cluster.x-k8s.io/v1beta1",
                "kind": "Cluster",
                "metadata": {"name": name, "namespace": "default"},
                "spec": spec,
            }
        )


async def credential(api: Any, name: str, data: bytes) -> None:
    await api.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": f"{name}-kubeconfig", "namespace": "default"},
            "data": {"value": base64.b64encode(data).decode()},
        },
        force=True,
    )


async def test_cluster_api_objects_are_candidates_and_their_secrets_are_read_when_they_are_used(
    stage: Stage,
) -> None:
    source = ClusterApiHub(stage.kube.kubeconfig)
    async with stage.access().connect() as api:
        await hub_of_clusters(api, {"shop": {}, "resting": {"paused": True}})
        (shop,) = await source.look()
        assert shop.name == "shop"
        waits = await fails_with("K056", shop.open)
        assert waits.retryable
        await credential(api, "shop", kubeconfig({"exec": {"command": "/bin/evil"}}))
        await fails_with("K052", shop.open)
        await credential(api, "shop", kubeconfig({"token": "t"}))
        assert (await shop.open()).user == {"token": "t"}
    await source.aclose()


async def test_the_unattended_installer_retries_joins_and_forgets(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    """A Cluster object first, its Secret later, then an agent: the test plays the agent."""
    with (
        open_checkout(stage.repositories.clone) as clone,
        OperatorClient(load(None), 10.0) as operator,
    ):
        desk = Desk(clone, operator, Reached(), 60, Labels(plain={"from": "hub"}))
        template = Wanted("", "muster-agent:1", "muster-system")
        sources: list[Source] = [ClusterApiHub(stage.kube.kubeconfig)]
        installer = Installer(desk, sources, template, Patience(20.0), 0.1, 4)
        said: list[dict[str, Any]] = []

        async def until_event(event: str) -> dict[str, Any]:
            with anyio.fail_after(20):
                while True:
                    said.extend(json.loads(line) for line in capsys.readouterr().out.splitlines())
                    found = [line for line in said if line["event"] == event]
                    if found:
                        return found[-1]
                    await anyio.sleep(0.05)

        async with stage.access().connect() as api, anyio.create_task_group() as group:
            await hub_of_clusters(api, {"berlin-04": {}})
            group.start_soon(installer.run)
            assert "K056" in (await until_event("failed"))["error"]
            await stage.publish()
            stage.asks()
            stage.online()
            await credential(api, "berlin-04", inline(stage.kube))
            joined = await until_event("joined")
            assert (joined["cluster"], joined["uid"], joined["approved"]) == (
                "berlin-04",
                stage.member.uid,
                True,
            )
            assert "from: hub" in stage.repositories.registry("clusters/berlin-04.yaml")
            assert stage.kube.token not in json.dumps(said)
            # Done is done: the credential may go bad and nobody looks at it.
            await credential(api, "berlin-04", b"nonsense")
            tokens = stage.tokens
            again = Installer(desk, [ClusterApiHub(stage.kube.kubeconfig)], template, Patience(20.0), 0.1, 4)
            group.start_soon(again.run)
            await until_event("joined-before")
            assert [line for line in said if line["event"] == "failed"][1:] == []
            assert stage.tokens == tokens
            group.cancel_scope.cancel()


async def test_a_new_cluster_is_noticed_at_once_and_nothing_is_asked_while_nothing_changes(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        open_checkout(stage.repositories.clone) as clone,
        OperatorClient(load(None), 10.0) as operator,
    ):
        desk = Desk(clone, operator, Reached(), 60, Labels())
        hub_source = ClusterApiHub(stage.kube.kubeconfig)
        template = Wanted("", "muster-agent:1", "muster-system")
        installer = Installer(desk, [hub_source], template, Patience(20.0), 600.0, 4)
        async with stage.access().connect() as api, anyio.create_task_group() as group:
            await hub_of_clusters(api, {"resting": {"paused": True}})
            group.start_soon(installer.run)
            with anyio.fail_after(10):
                while not stage.kube.requests.verbs["watch"]:
                    await anyio.sleep(0.05)
            asked = dict(stage.kube.requests.verbs)
            for _ in range(3):
                assert await hub_source.look() == []
            assert dict(stage.kube.requests.verbs) == asked
            await hub_of_clusters(api, {"berlin-04": {}})
            with anyio.fail_after(10):
                said = ""
                while "berlin-04" not in said:
                    said += capsys.readouterr().out
                    await anyio.sleep(0.05)
            group.cancel_scope.cancel()


def inline(kube: LabKube) -> bytes:
    authority = base64.b64encode(kube.files.ca.read_bytes()).decode()
    return kubeconfig({"token": kube.token}, {"server": kube.url, "certificate-authority-data": authority})


async def test_a_folder_gives_one_candidate_a_file_and_a_changed_file_another_mark(tmp_path: Path) -> None:
    (tmp_path / "berlin-04.kubeconfig").write_bytes(kubeconfig({"token": "t"}))
    (tmp_path / ".hidden").write_text("x")
    (first,) = await Folder(tmp_path).look()
    assert (first.name, (await first.open()).user) == ("berlin-04", {"token": "t"})
    fresh = tmp_path / "new"
    fresh.write_bytes(kubeconfig({"token": "u"}))
    fresh.replace(tmp_path / "berlin-04.kubeconfig")
    (second,) = await Folder(tmp_path).look()
    assert second.mark != first.mark
    (tmp_path / "berlin-04.kubeconfig").unlink()
    assert (await fails_with("K056", second.open)).retryable


async def test_a_source_that_is_away_does_not_hide_the_others(tmp_path: Path) -> None:
    (tmp_path / "berlin-04").write_bytes(kubeconfig({"token": "t"}))
    config = tmp_path.parent / "away"
    config.write_bytes(kubeconfig({"token": "t"}))
    away = ClusterApiHub(config)
    found, errors = await look_everywhere([away, Folder(tmp_path)])
    await away.aclose()
    assert [candidate.name for candidate in found] == ["berlin-04"]
    assert [error.code for error in errors] == ["K001"]
