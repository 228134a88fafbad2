"""A fleet in which things are signed: people with keys, trust documents, and an agent that holds to them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
from muster_core.fleet import read_fleet, read_registry
from muster_core.manifest.objects import digest
from muster_core.release import Release
from muster_core.trust.directive import SIGNATURE_NAMESPACE, Directive, statement
from muster_core.trust.documents import SignedDocument, TrustDocument, encode
from muster_core.trust.merkle import ClusterTree
from muster_proto.v1 import link_pb2 as wire
from unit.agent.stage import FLEET_ID, KIND, fleet
from unit.agent.test_pipeline import Stage
from unit.core.trust.keys import Person, document, role, signed

FLEET = KIND.format(
    kind="Fleet",
    name="acme",
    spec="{id: "
    + FLEET_ID
    + ", mode: signed-commits, defaults: {plan: rings}, policies: {paths: [policies]}}",
)
CONTENT = ["**", "!policies/**", "!fleet.yaml", "!trust/**"]
POLICY = ["policies/**", "fleet.yaml"]


class Fleet:
    """The stage of one cluster whose fleet has a root, a releaser, a policy maker, a registrar and an operator."""

    def __init__(self, stage: Stage, mode: str = "signed-commits", **more: Any) -> None:
        self.stage = stage
        names = ("root", "releaser", "policy", "registrar", "operator", "stranger")
        self.people = {name: Person(name) for name in names}
        for person in self.people.values():
            path = self.key(person)
            path.write_bytes(person.pem)
            path.chmod(0o600)
            path.with_name(path.name + ".pub").write_text(person.public + "\n")
        self.more = {"issued": "2026-01-01T00:00:00Z", "expires": "2036-01-01T00:00:00Z", **more}
        self.first = self.document(1)
        stage.mode, stage.trust_digest = mode, self.first.digest
        stage.commits.clear()
        self.unsigned = stage.origin
        self.by("policy")
        files: dict[str, str | None] = {**fleet(), "fleet.yaml": FLEET}
        self.commit({**files, "trust/1.json": self.text(self.first)})
        stage.origin = self.unsigned.signed_by(self.key(self.people["registrar"]))
        stage.register()
        self.by("releaser")

    def key(self, person: Person) -> Path:
        return self.stage.folder / f"key-{person.name}"

    def document(self, version: int, **more: Any) -> TrustDocument:
        who = self.people
        roles = [
            role("release", who["releaser"], paths=CONTENT),
            role("policy", who["policy"], paths=POLICY),
            role("registrar", who["registrar"], paths=["clusters/**"], scope="manage"),
            role("operator", who["operator"]),
        ]
        fields = {"roles": roles, **self.more, **more}
        return document(who["root"], version=version, fleet=FLEET_ID, **fields)

    def text(self, of: TrustDocument, *signers: Person) -> str:
        made: SignedDocument = signed(of, *(signers or (self.people["root"],)))
        return encode(made).decode()

    def by(self, name: str) -> None:
        """Who signs commits from here on; nobody for an empty name."""
        self.stage.origin = self.unsigned.signed_by(self.key(self.people[name]) if name else None)

    def commit(self, files: dict[str, str | None], **more: Any) -> str:
        return self.stage.commit(files, **more)

    async def directed(self, commit: str, sequence: int = 1, by: str = "operator", **more: Any) -> wire.Offer:
        """An offer's credentials: a directive for this cluster, signed."""
        source = self.stage.reconciler._source
        contents = read_fleet(await source.tree(commit))
        registry, _ = read_registry(await source.tree(self.stage.reconciler.head.registry))
        tree = ClusterTree([entry.spec.uid for entry in registry.values()] + ["uid-of-another"])
        fields: dict[str, Any] = {
            "fleet": FLEET_ID,
            "release": Release("shop", commit, contents.digests["shop"]),
            "plan_digest": digest(msgspec.to_builtins(contents.plans["rings"])),
            "clusters_root": tree.root,
            "clusters_count": tree.count,
            "sequence": sequence,
            "previous": "",
            "issued": int(self.stage.clock()) - 10,
            "not_after": int(self.stage.clock()) + 600,
            "catch_up_until": int(self.stage.clock()) + 6_000,
            **more,
        }
        said = statement(Directive(**fields))
        proof = tree.proof(self.stage.uid)
        return wire.Offer(
            directive=said,
            directive_signature=self.people[by].sign(said, SIGNATURE_NAMESPACE),
            proof=wire.MerkleProof(index=proof.leaf_index, path=proof.path) if proof else None,
        )

    def trust(self) -> dict[str, Any]:
        """What the agent keeps of trust."""
        path = self.stage.folder / "state" / "trust.json"
        value: dict[str, Any] = json.loads(path.read_text())
        return value
