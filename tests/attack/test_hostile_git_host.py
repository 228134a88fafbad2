"""A Git host in the attacker's hands: what it serves, and what the agent does not take.

One site for all attacks here, whose agent fetches over HTTPS from a host that lies. After every attack the host is
honest again, and the agent must take an honest release: no attack leaves a mark.
"""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from attack.hostile_git import HostileGit, hostile_git
from attack.stage import Captured, Fleet, HostileHub, site
from e2e.programs import shop as shop_of
from e2e.programs import until
from muster_proto.v1 import link_pb2 as wire

MAIN, REGISTRY = "refs/heads/main", "refs/heads/muster/registry"
ORIGIN = "origin.git"
MAP = "bundles/shop/manifests/map.yaml"


class HostedFleet(Fleet):
    """The signed fleet, whose repository everybody else reaches through a host."""

    hosted = ""

    @property
    def url(self) -> str:
        return self.hosted


@dataclass
class Attack(Captured):
    """``host`` serves the fleet's repository; ``work`` is the honest operators' clone, of which it knows the objects."""

    host: HostileGit
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(2))

    # --- the attacker's hands --------------------------------------------------------------------------------------

    def git(self, *args: str, data: bytes | None = None, **environment: str) -> str:
        """In the operators' clone, where commits can be made that no branch has."""
        command = [
            "git",
            "-c",
            "user.name=t",
            "-c",
            "user.email=t@example.com",
            "-c",
            "gpg.format=ssh",
            *args,
        ]
        clean = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
        done = subprocess.run(
            command, cwd=self.fleet.folder / "work", env={**clean, **environment}, input=data,
            check=True, capture_output=True,
        )  # fmt: skip
        return done.stdout.decode().strip()

    def crafted(self, parent: str, files: Mapping[str, str | bytes], by: str = "") -> str:
        """A commit on top of another (or of nothing) that no branch has; signed, if by somebody."""
        index = str(self.fleet.folder / "attack-index")
        Path(index).unlink(missing_ok=True)
        if parent:
            self.git("read-tree", parent, GIT_INDEX_FILE=index)
        for path, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            blob = self.git("hash-object", "-w", "--stdin", data=data)
            self.git("update-index", "--add", "--cacheinfo", f"100644,{blob},{path}", GIT_INDEX_FILE=index)
        return self.commit_of(self.git("write-tree", GIT_INDEX_FILE=index), parent, by)

    def commit_of(self, tree: str, parent: str, by: str = "") -> str:
        signing = [f"-S{self.fleet.key(by)}"] if by else []
        parents = ["-p", parent] if parent else []
        return self.git("commit-tree", *signing, tree, *parents, "-m", "change")

    def push(self, commit: str, ref: str = MAIN, to: str = ORIGIN) -> None:
        self.git("push", "-q", "--force", str(self.fleet.folder / to), f"{commit}:{ref}")

    # --- what the agent makes of it ------------------------------------------------------------------------------------

    @property
    def floors(self) -> dict[str, str]:
        found: dict[str, str] = self.site.state("floors")["record"]["branches"]
        return found

    def rollout(self) -> str:
        return f"shop-{next(self.numbers):04}"

    def honest(self, version: str = "") -> str:
        """The operators push a new release, and the agent takes it."""
        rollout = self.rollout()
        commit = self.fleet.commit(shop_of(version or rollout))
        self.takes(self.fleet.offer(commit, rollout))
        return commit

    def refuses(self, commit: str, code: str) -> None:
        """The agent, offered this commit, says this code; its floors stay, and the last good state is kept up."""
        floors = self.floors
        assert self.refused(self.fleet.offer(commit, self.rollout())) == code, self.why()
        assert self.floors == floors

    def complains(self, code: str, commit: str = "e" * 40, seconds: float = 20.0) -> str:
        """Told of news, the agent fetches and logs this code; its floors stay."""
        floors, before = self.floors, len(self.log())
        self.hub.send(wire.HubFrame(head=wire.Head(commit=commit)))
        until(lambda: code in self.log()[before:], seconds, self.why)
        assert self.floors == floors
        return self.log()[before:]

    def log(self) -> str:
        return self.site.agent.log.read_text()

    def stays(self) -> None:
        """Nothing of what runs was changed, and it is still healed."""
        self.site.heals(self.site.kube.version())

    def mends(self) -> None:
        """The host is honest again, and the agent works on as if nothing had been."""
        self.host.lies()
        self.push("main")
        self.push("muster/registry", REGISTRY)
        tags = self.git("ls-remote", "--tags", "--refs", str(self.fleet.folder / ORIGIN)).split()[1::2]
        for tag in tags:
            self.push("", tag)
        self.honest()


@contextmanager
def attacked(folder: Path) -> Iterator[Attack]:
    with hostile_git(folder) as host:
        HostedFleet.hosted = host.url(ORIGIN)
        fleet = HostedFleet(folder)
        hub = HostileHub(folder, folder / "ca")
        place = site(fleet, folder)
        attack = Attack(fleet, hub, place, host)
        try:
            attack.join("--git-ca-file", str(host.ca_file))
            attack.takes(fleet.offer(fleet.anchor, "shop-0001"))
            yield attack
        finally:
            place.close()
            hub.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attack]:
    with attacked(tmp_path_factory.mktemp("git")) as attack:
        yield attack


@pytest.fixture
def attack(running: Attack) -> Iterator[Attack]:
    yield running
    running.mends()


# --- history -------------------------------------------------------------------------------------------------------


def test_a_rewound_branch_takes_nothing_back(attack: Attack) -> None:
    old, new = attack.honest(), attack.honest()
    attack.push(old)
    attack.complains("MUSTER-T012")
    assert attack.floors["fleet"] == new
    attack.refuses(old, "T012")
    attack.stays()


def test_a_rewritten_history_is_refused_even_when_a_releaser_signed_it(attack: Attack) -> None:
    before, _ = attack.honest(), attack.honest()
    beside = attack.crafted(before, shop_of("evil"), "releaser")
    attack.push(beside)
    attack.complains("MUSTER-T012")
    attack.refuses(beside, "T012")
    attack.stays()


def test_another_repository_signed_by_the_same_key_is_refused(attack: Attack) -> None:
    other = attack.crafted("", attack_files(attack, "evil"), "releaser")
    attack.push(other)
    attack.refuses(other, "T011")
    attack.stays()


def attack_files(attack: Attack, version: str) -> dict[str, str]:
    """All of the fleet's repository, with another version of the bundle."""
    paths = attack.git("ls-tree", "-r", "--name-only", "main").splitlines()
    return {**{path: attack.git("show", f"main:{path}") + "\n" for path in paths}, **shop_of(version)}
