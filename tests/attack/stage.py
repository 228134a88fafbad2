"""A signed fleet, a site with a real agent process, and a coordinator: an honest one, or one in the attacker's hands.

Owns people with keys, the repository that they push to, and the programs' starting and asking. It never patches a
program: an attacker here has what an attacker has (keys, the wire, files), and nothing else.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from e2e.programs import (
    BUNDLE,
    Kube,
    Program,
    free_port,
    shop,
    until,
)
from e2e.programs import Stage as Programs
from muster_cli.checkout import open_checkout
from muster_core.fleet import read_fleet, read_registry
from muster_core.kinds.model import Cluster
from muster_core.manifest.dump import dump_yaml
from muster_core.manifest.objects import digest
from muster_core.release import Release
from muster_core.sealing.keys import encode_identity
from muster_core.token import JoinToken, Repository
from muster_core.trust.directive import SIGNATURE_NAMESPACE, Directive, statement
from muster_core.trust.documents import TrustDocument, encode
from muster_core.trust.merkle import ClusterTree
from muster_proto.v1 import link_pb2 as wire
from muster_proto.v1 import operator_pb2 as op
from unit.agent.stage import Origin
from unit.core.trust.keys import Person, document, role, signed

FLEET_ID = "0123456789abcdef0123456789abcdef"
FLEET = """apiVersion: muster.dev/v1alpha1
kind: Fleet
metadata: {name: acme}
spec: {id: %s, mode: %s, defaults: {plan: rings}, policies: {paths: [policies]}}
"""
PLAN = """apiVersion: muster.dev/v1alpha1
kind: RolloutPlan
metadata: {name: rings}
spec:
  deadline: 60s
  onFailure: {action: rollback, scope: target}
  waves: [{name: all, rest: true, soak: 1s}]
"""
ENTRY = """apiVersion: muster.dev/v1alpha1
kind: Cluster
metadata: {{name: {name}}}
spec: {{uid: {uid}, identityKey: '{identity}'{more}}}
"""
CONTENT = ["**", "!policies/**", "!fleet.yaml", "!trust/**"]
POLICY = ["policies/**", "fleet.yaml", "plans/**"]
NAMES = ("root", "releaser", "policy", "registrar", "operator", "stranger")
SITE = "berlin-04"


def bundle(health: str = "30s", rollback: str = "previous") -> dict[str, str]:
    return {
        "bundles/shop/bundle.yaml": BUNDLE.replace("deadline: 30s", f"deadline: {health}").replace(
            "namespace: shop,", f"namespace: shop, rollback: {rollback},"
        )
    }


class Fleet:
    """The repository of a signed fleet, and the people who may sign for it (and one who may not)."""

    def __init__(self, folder: Path, mode: str = "signed-commits", **more: Any) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.mode = folder, mode
        self.people = {name: Person(name) for name in NAMES}
        for person in self.people.values():
            self.key(person.name).touch(mode=0o600)
            self.key(person.name).write_bytes(person.pem)
            self.key(person.name).with_suffix(".pub").write_text(person.public + "\n")
        self.more = {"issued": "2026-01-01T00:00:00Z", "expires": "2036-01-01T00:00:00Z", **more}
        self._origin = Origin.make(folder)
        first = {"fleet.yaml": FLEET % (FLEET_ID, mode), "plans/rings.yaml": PLAN, **shop("one")}
        self.trust = self.document(1)
        self.anchor = self.commit({**first, "trust/1.json": self.text(self.trust)}, by="root")

    def key(self, name: str) -> Path:
        return self.folder / f"key-{name}"

    @property
    def url(self) -> str:
        return self._origin.url

    @property
    def checkout(self) -> Path:
        """A clone of its own, as an operator has one; it knows the origin by its URL."""
        path = self.folder / "operator"
        if not path.exists():
            self._origin.git("clone", "-q", self.url, "operator")
        self._origin.git("pull", "-q", "origin", "main", inside="operator")
        return path

    def document(self, version: int, without: str = "", **more: Any) -> TrustDocument:
        who = self.people
        roles = [
            role("release", who["releaser"], paths=CONTENT),
            role("policy", who["policy"], paths=POLICY),
            role("registrar", who["registrar"], paths=["clusters/**"], scope="manage"),
            role("operator", who["operator"]),
        ]
        kept = [r for r in roles if r.role != without]
        fields = {"roles": kept, **self.more, **more}
        return document(who["root"], version=version, fleet=FLEET_ID, **fields)

    def text(self, of: TrustDocument, *signers: Person) -> str:
        return encode(signed(of, *(signers or (self.people["root"],)))).decode()

    def commit(
        self,
        files: Mapping[str, str | None],
        *,
        by: str = "releaser",
        branch: str = "main",
        force: bool = False,
    ) -> str:
        """Signed by this person (nobody for an empty name) and pushed."""
        origin = self._origin.signed_by(self.key(by) if by else None)
        return origin.commit(files, branch, force=force)

    def register(self, name: str, uid: str, identity: bytes, more: str = "", *, by: str = "registrar") -> str:
        text = ENTRY.format(name=name, uid=uid, identity=encode_identity(identity), more=more)
        return self.commit({f"clusters/{name}.yaml": text}, by=by, branch="muster/registry")

    def put_entry(self, entry: Cluster, *, by: str) -> str:
        """A whole entry, as ``muster cluster approve`` would write it."""
        text = dump_yaml(msgspec.to_builtins(entry))
        return self.commit({f"clusters/{entry.metadata.name}.yaml": text}, by=by, branch="muster/registry")

    def branches(self) -> list[str]:
        """Of the origin, as they are now."""
        return self._origin.git("branch", "--format=%(refname:short)", inside="origin.git").split()

    def release(self, commit: str, name: str = "shop") -> Release:
        with open_checkout(self.folder / "work") as clone:
            return Release(name, commit, read_fleet(clone.tree(commit)).digests[name])

    def offer(self, commit: str, rollout: str, attempt: int = 1, **more: Any) -> wire.Offer:
        """An honest offer of what is at this commit, to be twisted."""
        release = wire.Release(**self.release(commit)._asdict())
        return wire.Offer(**{"rollout": rollout, "release": release, "attempt": attempt, **more})

    def entries(self) -> dict[str, Cluster]:
        with open_checkout(self.folder / "work") as clone:
            return read_registry(clone.tree("muster/registry"))[0]

    def directive(self, commit: str, sequence: int, now: float, **more: Any) -> Directive:
        with open_checkout(self.folder / "work") as clone:
            contents = read_fleet(clone.tree(commit))
        tree = ClusterTree([e.spec.uid for e in self.entries().values()] + ["uid-of-another"])
        fields: dict[str, Any] = {
            "fleet": FLEET_ID,
            "release": Release("shop", commit, contents.digests["shop"]),
            "plan_digest": digest(msgspec.to_builtins(contents.plans["rings"])),
            "clusters_root": tree.root,
            "clusters_count": tree.count,
            "sequence": sequence,
            "previous": "",
            "issued": int(now) - 10,
            "not_after": int(now) + 600,
            "catch_up_until": int(now) + 6_000,
        }
        return Directive(**{**fields, **more})

    def directed(self, offer: wire.Offer, directive: Directive, uid: str, by: str = "operator") -> wire.Offer:
        """The offer with this directive, signed, and the proof for the cluster of this UID."""
        said = statement(directive)
        signature = self.people[by].sign(said, SIGNATURE_NAMESPACE)
        tree = ClusterTree([e.spec.uid for e in self.entries().values()] + ["uid-of-another"])
        proof = tree.proof(uid)
        made = wire.Offer(directive=said, directive_signature=signature)
        if proof:
            made.proof.CopyFrom(wire.MerkleProof(index=proof.leaf_index, path=proof.path))
        made.MergeFrom(offer)
        return made

    def token(
        self, secret: str, *, ca: bytes, link: str, edge: str, name: str = SITE, **more: Any
    ) -> JoinToken:
        """The operator's token: everything but the secret is of their own checkout."""
        fields: dict[str, Any] = {
            "edge_address": edge,
            "link_address": link,
            "ca_pem": ca,
            "secret": secret,
            "cluster": name,
            "mode": self.mode,
            "trust_digest": self.trust.digest,
            "fleet_id": FLEET_ID,
            "repositories": (Repository("fleet", self.url, "main", self.anchor),),
        }
        return JoinToken(**{**fields, **more})


class HostileHub:
    """The attacker's coordinator as a process; ``events`` is what it said so far."""

    def __init__(self, folder: Path, ca: Path, link: str = "", edge: str = "") -> None:
        self.ca, self.log = ca, folder / "hostile.log"
        self.link = link or f"127.0.0.1:{free_port()}"
        self.edge = edge or f"127.0.0.1:{free_port()}"
        self.events: list[dict[str, Any]] = []
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "attack.hostile_hub",
                    "--ca-dir", str(ca), "--link", self.link, "--edge", self.edge,
                ],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                env={**os.environ, "GRPC_VERBOSITY": "NONE", "PYTHONPATH": _path()},
            )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        until(lambda: self.said("ready"), why=self.log.read_text)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.events.append(json.loads(line))

    def said(self, event: str) -> list[dict[str, Any]]:
        return [item for item in list(self.events) if item["event"] == event]

    def tell(self, do: str, **fields: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, **fields}) + "\n")
        self.process.stdin.flush()

    def tell_operators(self, method: str, answer: Any) -> None:
        """What operators hear when they ask for this."""
        self.tell("operator", method=method, answer=base64.b64encode(answer.SerializeToString()).decode())

    def asked(self, method: str) -> list[bytes]:
        """What operators sent with this call."""
        return [base64.b64decode(e["request"]) for e in self.said("asked") if e["method"] == method]

    def send(self, frame: wire.HubFrame) -> None:
        self.tell("send", frame=base64.b64encode(frame.SerializeToString()).decode())

    def offer(self, offer: wire.Offer) -> None:
        self.send(wire.HubFrame(offer=offer))

    def flood(self, offer: wire.Offer, *, vary: str, count: int) -> None:
        """So many offers like this one, each of another ``rollout`` or ``bundle``."""
        self.tell("flood", offer=base64.b64encode(offer.SerializeToString()).decode(), vary=vary, count=count)

    def greet(self, **welcome: Any) -> None:
        """How the next sessions begin."""
        fields = {"capability": 1, "beat_seconds": 1, "backoff_min_seconds": 1, "backoff_max_seconds": 1}
        frame = wire.HubFrame(welcome=wire.Welcome(**{**fields, **welcome}))
        self.tell("welcome", frame=base64.b64encode(frame.SerializeToString()).decode())

    def joins(self) -> list[wire.JoinRequest]:
        return [wire.JoinRequest.FromString(base64.b64decode(e["request"])) for e in self.said("join")]

    def frames(self) -> list[wire.AgentFrame]:
        return [wire.AgentFrame.FromString(base64.b64decode(e["frame"])) for e in self.said("frame")]

    def reports(self, rollout: str = "") -> list[wire.Report]:
        found = [frame.report for frame in self.frames() if frame.HasField("report")]
        return [report for report in found if not rollout or report.rollout == rollout]

    def verdict(self, rollout: str, seconds: float = 20.0, why: Any = str) -> wire.Report:
        """What the agent finally says of this rollout."""
        ends = (wire.OUTCOME_HEALTHY, wire.OUTCOME_FAILED, wire.OUTCOME_RETURNED)
        found = until(lambda: [r for r in self.reports(rollout) if r.outcome in ends], seconds, why)
        return found[0]

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.kill()
        self.process.wait(10)
        self._reader.join(10)
        self.process.stdin.close()
        self.process.stdout.close()


def _path() -> str:
    """Where a process finds these modules: this folder's parent, and what this run was told."""
    return os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]))


@dataclass
class Site:
    """One cluster: the lab's API server, an agent over a state folder."""

    fleet: Fleet
    folder: Path
    name: str
    kube: Kube
    agent: Program = field(init=False)
    port: int = field(default_factory=free_port)

    def agent_of(self, token: str, *more: str, state: str = "state") -> Program:
        file = self.folder / f"{state}.token"
        file.write_text(token)
        self.agent = Program(
            [
                sys.executable, "-m", "muster_agent", "run", "--cluster", self.name, "--token-file", str(file),
                "--kubeconfig", str(self.kube.kubeconfig), "--state-dir", str(self.folder / state),
                "--poll", "60s", "--metrics", f"127.0.0.1:{self.port}", *more,
            ],
            self.folder / f"{state}.log",
        )  # fmt: skip
        return self.agent

    def uid(self) -> str:
        return str(self.kube.ask("GET", "/api/v1/namespaces/kube-system")["metadata"]["uid"])

    def state(self, name: str) -> Any:
        """A record of the agent's state folder."""
        return json.loads((self.folder / "state" / f"{name}.json").read_text())

    def floors(self) -> Any:
        """As they are on disk; of an agent that has none yet, empty ones."""
        there = (self.folder / "state" / "floors.json").exists()
        return self.state("floors")["record"] if there else {"branches": {}, "bundles": {}}

    def heals(self, version: str) -> None:
        """Somebody deletes an object by hand: it comes back as it was admitted."""
        self.kube.ask("DELETE", "/api/v1/namespaces/shop/configmaps/web")
        until(lambda: self.kube.version() == version, why=self.agent.said)

    def memory(self) -> int:
        """Resident bytes of the agent."""
        assert self.agent.process is not None
        text = Path(f"/proc/{self.agent.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", text)
        assert found is not None
        return int(found[1]) << 10

    def metric(self, name: str) -> float:
        """One unlabelled sample of the agent's metrics."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
        found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
        assert found is not None, text
        return float(found[1])

    def alive(self) -> bool:
        return self.agent.process is not None and self.agent.process.poll() is None

    def close(self) -> None:
        self.agent.kill()
        self.kube.program.kill()


def site(fleet: Fleet, folder: Path, name: str = SITE) -> Site:
    home = folder / f"site-{name}"
    home.mkdir(exist_ok=True)
    program = Program(
        [sys.executable, "-m", "muster_lab.kube", "--dir", str(home / "kube")], home / "kube.log"
    )
    kubeconfig = Path(program.start(ready=True)["kubeconfig"])
    found = Site(fleet, home, name, Kube(program, kubeconfig))
    found.agent_of("")
    return found


@dataclass
class Captured:
    """A site whose coordinator belongs to the attacker, together with the fleet's own CA."""

    fleet: Fleet
    hub: HostileHub
    site: Site

    @property
    def uid(self) -> str:
        return self.site.uid()

    def why(self) -> str:
        said = "\n".join(json.dumps(event)[:300] for event in self.hub.events[-10:])
        return f"{self.site.agent.said()}\n--- hub\n{said}\n{self.hub.log.read_text()[-2000:]}"

    def verdict(self, rollout: str, seconds: float = 20.0) -> wire.Report:
        return self.hub.verdict(rollout, seconds, self.why)

    def refused(self, offer: wire.Offer, seconds: float = 20.0) -> str:
        """The code that the agent reports for this offer; that it was not taken is checked in the cluster too."""
        before = self.site.kube.version()
        self.hub.offer(offer)
        report = self.verdict(offer.rollout, seconds)
        assert report.outcome == wire.OUTCOME_FAILED, report
        assert self.site.kube.version() == before
        return str(report.code)

    def takes(self, offer: wire.Offer) -> wire.Report:
        self.hub.offer(offer)
        report = self.verdict(offer.rollout)
        assert report.outcome == wire.OUTCOME_HEALTHY, report
        return report

    def sees(self, commit: str) -> None:
        """The agent has accepted this head of the fleet's branch."""
        self.hub.send(wire.HubFrame(head=wire.Head(commit=commit)))
        until(lambda: self.site.state("floors")["record"]["branches"].get("fleet") == commit, why=self.why)

    def join(self, *more: str) -> None:
        """The agent joins by the operator's token, and a registrar approves it."""
        token = self.fleet.token(
            "secret", ca=(self.hub.ca / "ca.crt").read_bytes(), link=self.hub.link, edge=self.hub.edge
        )
        self.site.agent_of(token.encode(), *more).start()
        request = until(self.hub.joins, why=self.why)[0]
        self.fleet.register(SITE, request.cluster_uid, request.identity_key)
        self.hub.tell("approve")
        until(lambda: self.hub.said("session"), why=self.why)


@contextmanager
def captured(folder: Path, mode: str = "signed-commits", *more: str, **trust: Any) -> Iterator[Captured]:
    """A joined agent that runs version one, and a hub that will say anything."""
    fleet = Fleet(folder, mode, **trust)
    hub = HostileHub(folder, folder / "ca")
    place = site(fleet, folder)
    found = Captured(fleet, hub, place)
    try:
        found.join(*more)
        yield found
    finally:
        place.close()
        hub.close()


@dataclass
class Served:
    """A fleet with an honest coordinator; sites join it with tokens of the operator."""

    fleet: Fleet
    programs: Programs
    sites: list[Site] = field(default_factory=list)

    def why(self) -> str:
        return self.programs.logs() + "\n".join(f"--- {s.name}\n{s.agent.said()}" for s in self.sites)

    def site(self, name: str = SITE) -> Site:
        """Not joined, and no agent runs yet; several may have one name, as copies of a cluster do."""
        home = self.fleet.folder / f"place-{len(self.sites)}"
        home.mkdir()
        self.sites.append(site(self.fleet, home, name))
        return self.sites[-1]

    def token(self, name: str = SITE) -> str:
        request = op.CreateTokenRequest(cluster=name, ttl_seconds=3600)
        return self.token_of(self.programs.call("CreateToken", request).secret, name)

    def token_of(self, secret: str, name: str) -> str:
        hub = self.programs
        ca = (hub.data / "ca.crt").read_bytes()
        return self.fleet.token(secret, ca=ca, link=hub.link, edge=hub.edge, name=name).encode()

    def asked(self, name: str = SITE) -> Any:
        """The join that the operator is shown."""

        def look() -> Any:
            joins = self.programs.call("ListJoins", op.ListJoinsRequest()).joins
            return next((join for join in joins if join.cluster == name), None)

        return until(look, why=self.why)

    def joined(self, *flags: str, name: str = SITE) -> Site:
        """A site in contact."""
        place = self.site(name)
        place.agent_of(self.token(name), "--poll", "1s", *flags).start()
        join = self.asked(name)
        self.fleet.register(name, join.uid, join.identity_key)
        self.programs.refresh()
        until(lambda: self.programs.cluster(name).state == "Online", why=self.why)
        return place

    def rolls_out(self, version: str, place: Site) -> str:
        commit = self.fleet.commit(shop(version))
        self.programs.refresh()
        until(lambda: place.kube.version() == version, 40, self.why)
        return commit

    def muster(self, *args: str, answer: str = "") -> subprocess.CompletedProcess[str]:
        """The installed command as the operator runs it."""
        return subprocess.run(
            [sys.executable, "-m", "muster_cli.main", "--context", str(self.programs.data / "context.json"), *args],
            check=False, capture_output=True, text=True, timeout=60, input=answer, cwd=self.fleet.checkout,
            env={**os.environ, "GRPC_VERBOSITY": "NONE", "XDG_CONFIG_HOME": str(self.fleet.folder)},
        )  # fmt: skip


@contextmanager
def served(folder: Path, *flags: str, mode: str = "signed-commits", **trust: Any) -> Iterator[Served]:
    fleet = Fleet(folder, mode, **trust)
    data, link, edge = folder / "hub", free_port(), free_port()
    hub = Program(
        [
            sys.executable, "-c", "from muster_coordinator.command import serve; serve()",
            f"--data-dir={data}", f"--repository={fleet.url}", f"--link=127.0.0.1:{link}",
            f"--edge=127.0.0.1:{edge}", "--metrics=127.0.0.1:0", "--poll=60", *flags,
        ],
        folder / "hub.log",
    )  # fmt: skip
    found = Served(fleet, Programs(folder, hub, data, link=f"127.0.0.1:{link}", edge=f"127.0.0.1:{edge}"))
    try:
        found.programs.start_hub()
        yield found
    finally:
        for place in found.sites:
            place.close()
        hub.kill()


__all__ = ["Programs", "captured", "served", "site"]
