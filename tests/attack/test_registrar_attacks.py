"""Keys of the registry in the wrong hands: what a registrar, or an installer's key, does not get.

The rules run as the agent runs them, on real commits with real signatures (``HeadJudge``), and the whole agent
shows what a flipped label or an emptied repository does to a cluster: nothing is pruned.
"""

# ruff: noqa: F811 - a fixture has the name that tests ask for
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import yaml
from muster_agent.source.repository import REGISTRY_BRANCH
from muster_agent.trust.heads import HeadJudge
from muster_core.errors import TrustError
from muster_core.kinds.base import Selector
from muster_core.kinds.model import Cluster
from muster_proto.v1 import link_pb2 as wire
from unit.agent.signed import CONTENT, POLICY, Fleet
from unit.agent.stage import FLEET_ID, bundle
from unit.agent.test_pipeline import MAPS, Stage, anyio_backend, stage  # noqa: F401 - fixtures
from unit.core.trust.keys import Person, Spoke, role

MANY = "bundles/shop/bundle.yaml"


def roles(fleet: Fleet, installer: Person) -> list[Any]:
    who = fleet.people
    return [
        role("release", who["releaser"], paths=CONTENT),
        role("policy", who["policy"], paths=POLICY),
        # Paths as wide as a careless document may have them: what a registrar may do is not a matter of paths.
        role("registrar", who["registrar"], paths=["**"], scope="manage"),
        role(
            "registrar", installer, paths=["**"], scope="add",
            clusters=Selector(match_labels={"tier": "store"}),
        ),
    ]  # fmt: skip


def whole(spoke: Spoke, **spec: Any) -> Cluster:
    """An entry of a store with a sealing key that its identity signed."""
    given = {"protected_labels": {"tier": "store"}, "sealing_keys": [spoke.sealing(fleet=FLEET_ID)], **spec}
    return spoke.entry(**given)


class Registry:
    """A registry with the cluster berlin, a second one and one that was revoked; an installer may add stores."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet, self.stage = fleet, fleet.stage
        fleet.by("registrar")
        self.known = whole(Spoke("known"), values={"a": "1"})
        self.revoked = whole(Spoke("gone"), revoked=True)
        self.write(self.known, by="registrar")
        self.floor = self.write(self.revoked, by="registrar")

    def changed(self, **spec: Any) -> dict[str, str | None]:
        """The known entry, but for this."""
        labels = spec.pop("labels", {})
        entry = msgspec.structs.replace(
            self.known,
            spec=msgspec.structs.replace(self.known.spec, **spec),
            metadata=msgspec.structs.replace(self.known.metadata, labels=labels),
        )
        return {"clusters/known.yaml": self.text(entry)}

    def added(self, name: str = "new", spoke: Spoke | None = None, **spec: Any) -> dict[str, str | None]:
        """An entry as an installer writes it, but for this."""
        return {f"clusters/{name}.yaml": self.text(whole(spoke or Spoke("new"), **spec))}

    def text(self, entry: Cluster) -> str:
        return yaml.safe_dump(msgspec.to_builtins(entry))

    def write(self, entry: Cluster, by: str = "installer", path: str = "") -> str:
        return self.put({path or f"clusters/{entry.metadata.name}.yaml": self.text(entry)}, by)

    def put(self, files: dict[str, str | None], by: str = "installer") -> str:
        origin = self.fleet.unsigned.signed_by(self.stage.folder / f"key-{by}")
        return origin.commit(files, REGISTRY_BRANCH)


@pytest.fixture
def fleet(stage: Stage) -> Fleet:
    installer = Person("installer")
    key = stage.folder / "key-installer"
    key.write_bytes(installer.pem)
    key.chmod(0o600)
    key.with_name("key-installer.pub").write_text(installer.public + "\n")
    made = Fleet.__new__(Fleet)
    Fleet.document, plain = _with(installer), Fleet.document
    try:
        made.__init__(stage)  # type: ignore[misc]
    finally:
        Fleet.document = plain  # type: ignore[method-assign]
    return made


def _with(installer: Person) -> Callable[..., Any]:
    plain = Fleet.document

    def document(self: Fleet, version: int, **more: Any) -> Any:
        return plain(self, version, **{"roles": roles(self, installer), **more})

    return document


@pytest.fixture
def registry(fleet: Fleet) -> Registry:
    return Registry(fleet)


ATTACKS: dict[str, Callable[[Registry], dict[str, str | None]]] = {
    "another identity key": lambda r: r.changed(identity_key=Spoke("thief").entry().spec.identity_key),
    "a protected label": lambda r: r.changed(protected_labels={"tier": "bank"}),
    "a plain label": lambda r: r.changed(labels={"ring": "canary"}),
    "a value": lambda r: r.changed(values={"a": "2"}),
    "a sealing key that the identity did not sign": lambda r: r.changed(
        sealing_keys=[*r.known.spec.sealing_keys, Spoke("thief", r.known.spec.uid).sealing(2, fleet=FLEET_ID)]
    ),
    "a removed entry": lambda r: {"clusters/known.yaml": None},
    "a twin of a UID": lambda r: r.added(spoke=Spoke("new", r.known.spec.uid)),
    "a revoked cluster again": lambda r: {
        "clusters/gone.yaml": r.text(
            msgspec.structs.replace(r.revoked, spec=msgspec.structs.replace(r.revoked.spec, revoked=False))
        )
    },
    "a label that it may not give": lambda r: r.added(protected_labels={"tier": "store", "ring": "canary"}),
    "a label outside its selector": lambda r: r.added(protected_labels={"tier": "bank"}),
    "a file outside clusters/": lambda r: {"fleet.yaml": "kind: Fleet\n"},
    "a trust document": lambda r: {"trust/2.json": "{}"},
    "an entry under another name": lambda r: r.added("other"),
}


async def judge(fleet: Fleet, head: str, floor: str) -> str:
    """As the agent judges a registry's head above this floor: the code of its refusal, empty when it is taken."""
    stage = fleet.stage
    async with stage.agent(alone=True) as reconciler:
        source, keeper = reconciler._source, reconciler._desired._keeper
        await source.fetch()
        keeper.take_documents(await source.tree(stage.commits[0]))
        try:
            await HeadJudge(source, keeper).registry(head, anchor="", floor=floor)
        except TrustError as error:
            return error.code
    return ""


@pytest.mark.parametrize("attack", ATTACKS)
async def test_an_installers_key_does_not_change(registry: Registry, attack: str) -> None:
    head = registry.put(ATTACKS[attack](registry))
    assert await judge(registry.fleet, head, registry.floor) == "T043"


async def test_an_installers_key_adds_what_it_may(registry: Registry) -> None:
    assert await judge(registry.fleet, registry.put(registry.added()), registry.floor) == ""


async def test_a_registrars_key_on_the_main_branch_is_refused(fleet: Fleet) -> None:
    stage = fleet.stage
    good = fleet.commit({"bundles/shop/map.yaml": stage_map("good")})
    async with stage.agent() as reconciler:
        await stage.offer(good, "shop-0001")
        await stage.outcome("shop-0001", wire.OUTCOME_HEALTHY)
        fleet.by("registrar")
        evil = fleet.commit({"bundles/shop/map.yaml": stage_map("evil")})
        await reconciler.receive(wire.HubFrame(head=wire.Head(commit=evil)))
        await stage.until(lambda: reconciler.head.commit == evil)
        await stage.offer(evil, "shop-0002")
        assert (await stage.outcome("shop-0002", wire.OUTCOME_FAILED)).code == "T042"
        assert reconciler._desired.branches["fleet"] == good
    assert await stage.value() == "good"


def stage_map(value: str) -> str:
    return f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: web}}\ndata: {{a: {value!r}}}\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (", protectedLabels: {tier: store}", ", protectedLabels: {tier: bank}"),
        (", protectedLabels: {tier: store}", ""),
    ],
    ids=["flipped", "removed"],
)
async def test_a_flipped_label_prunes_nothing(fleet: Fleet, before: str, after: str) -> None:
    stage = fleet.stage
    text = bundle().replace(
        "targets: [{selector: {}}]", "targets: [{selector: {matchLabels: {tier: store}}}]"
    )
    commit = fleet.commit({MANY: text})
    fleet.by("registrar")
    stage.register(before)
    async with stage.agent() as reconciler:
        await stage.offer(commit, "shop-0001")
        await stage.outcome("shop-0001", wire.OUTCOME_HEALTHY)
        head = stage.register(after)
        await reconciler.receive(wire.HubFrame(head=wire.Head(commit=commit, registry_commit=head)))
        await stage.until(lambda: stage.last().phase == "Deselected")
        await stage("DELETE", f"{MAPS}/web")
        await stage.until(lambda: stage.last().healed_count)
        await stage.offer(commit, "shop-0002")
        assert (await stage.outcome("shop-0002", wire.OUTCOME_FAILED)).code == "T022"
    assert await stage.value() == "one"


async def test_an_entry_that_is_removed_prunes_nothing(fleet: Fleet) -> None:
    """argoproj-labs/argocd-agent#813, rancher/fleet#3830, #2656: what the hub forgot was deleted at the site."""
    stage, commit = fleet.stage, fleet.stage.commits[0]
    async with stage.agent() as reconciler:
        await stage.offer(commit, "shop-0001")
        await stage.outcome("shop-0001", wire.OUTCOME_HEALTHY)
        fleet.by("registrar")
        head = stage.origin.commit({"clusters/berlin.yaml": None}, REGISTRY_BRANCH)
        await reconciler.receive(wire.HubFrame(head=wire.Head(commit=commit, registry_commit=head)))
        await stage.until(lambda: reconciler._desired.problem)
        problem = reconciler._desired.problem
        assert problem is not None
        assert problem.code == "T020"
        await stage("DELETE", f"{MAPS}/web")
        await stage.until(lambda: stage.last().healed_count)
    assert await stage.value() == "one"


async def test_every_bundle_deleted_prunes_nothing(fleet: Fleet) -> None:
    stage, commit = fleet.stage, fleet.stage.commits[0]
    async with stage.agent() as reconciler:
        await stage.offer(commit, "shop-0001")
        await stage.outcome("shop-0001", wire.OUTCOME_HEALTHY)
        names = ("bundle.yaml", "namespace.yaml", "map.yaml")
        emptied = fleet.commit(dict.fromkeys(f"bundles/shop/{name}" for name in names))
        await reconciler.receive(wire.HubFrame(head=wire.Head(commit=emptied)))
        await stage.until(lambda: reconciler._desired.branches["fleet"] == emptied)
        await stage("DELETE", f"{MAPS}/web")
        await stage.until(lambda: stage.last().healed_count)
    assert await stage.value() == "one"
