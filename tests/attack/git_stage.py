"""A site whose agent fetches over HTTPS from a host in the attacker's hands, and the attacker's tools for commits.

Owns crafted commits, what the host is made to serve, and the questions that follow: what did the agent say, where are
its floors, does it still take honest releases. The coordinator's process here says only what the honest one would.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from attack.hostile_git import HostileGit, hostile_git
from attack.stage import Captured, Fleet, HostileHub, site
from e2e.programs import shop, until
from muster_proto.v1 import link_pb2 as wire

MAIN, REGISTRY = "refs/heads/main", "refs/heads/muster/registry"
ORIGIN = "origin.git"
MAP = "bundles/shop/manifests/map.yaml"
DEPLOYMENT = "bundles/shop/manifests/deployment.yaml"


def shop_of(version: str) -> dict[str, str]:
    """A version of the bundle, with nothing to wait for."""
    return {path: text for path, text in shop(version).items() if path != DEPLOYMENT}


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

    def blob(self, data: str | bytes) -> str:
        return self.git("hash-object", "-w", "--stdin", data=data.encode() if isinstance(data, str) else data)

    def crafted(
        self, parent: str, files: Mapping[str, str | bytes | None], by: str = "", mode: str = "100644"
    ) -> str:
        """A commit on top of another (or of nothing) that no branch has; signed, if by somebody; None removes."""
        index = str(self.fleet.folder / "attack-index")
        Path(index).unlink(missing_ok=True)
        if parent:
            self.git("read-tree", parent, GIT_INDEX_FILE=index)
        for path, content in files.items():
            if content is None:
                self.git("update-index", "--force-remove", path, GIT_INDEX_FILE=index)
                continue
            oid = content if mode == "160000" else self.blob(content)
            self.git("update-index", "--add", "--cacheinfo", f"{mode},{oid!s},{path}", GIT_INDEX_FILE=index)
        return self.commit_of(self.git("write-tree", GIT_INDEX_FILE=index), parent, by)

    def tree(self, *entries: tuple[str, bytes, str]) -> str:
        """A tree of (mode, name, id), as no git would write it."""
        raw = b"".join(
            mode.encode() + b" " + name + b"\0" + bytes.fromhex(oid) for mode, name, oid in entries
        )
        return self.git("hash-object", "-t", "tree", "-w", "--literally", "--stdin", data=raw)

    def commit_of(self, tree: str, parent: str, by: str = "") -> str:
        signing = [f"-S{self.fleet.key(by)}"] if by else []
        parents = ["-p", parent] if parent else []
        return self.git("commit-tree", *signing, tree, *parents, "-m", "change")

    def push(self, commit: str, ref: str = MAIN, to: str = ORIGIN) -> None:
        self.git("push", "-q", "--force", str(self.fleet.folder / to), f"{commit}:{ref}")

    # --- what the agent makes of it ------------------------------------------------------------------------------------

    @property
    def floors(self) -> dict[str, str]:
        """The newest accepted commits by branch."""
        return self.kept("branches")

    def kept(self, what: str) -> dict[str, str]:
        """A part of the floors on disk; empty before there are any."""
        try:
            found: dict[str, str] = self.site.state("floors")["record"][what]
        except FileNotFoundError:
            return {}
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

    def offers(self, commit: str) -> None:
        self.hub.offer(self.fleet.offer(commit, self.rollout()))

    def hears(self, event: str, seconds: float = 20.0) -> str:
        """The agent logs this from now on; what it logged."""
        before = getattr(self, "_heard", 0)
        until(lambda: event in self.log()[before:], seconds, self.why)
        return self.log()[before:]

    def looks(self) -> None:
        """Told of news, the agent asks the host for its refs."""
        before = len(self.host.requests())
        self.hub.send(wire.HubFrame(head=wire.Head(commit=f"{next(self.numbers):040}")))
        until(lambda: len(self.host.requests()) >= before + 2, why=self.why)

    def loses_state(self, *, and_secret: bool = False) -> None:
        """The agent starts again with its identity alone; floors, trust, admissions and the clone are gone."""
        self.site.agent.kill()
        state = self.site.folder / "state"
        for record in state.glob("*.json"):
            if record.stem not in ("enrolment", "identity"):
                record.unlink()
        shutil.rmtree(state / "fleet.git")
        if and_secret:
            self.site.kube.ask("DELETE", "/api/v1/namespaces/muster-system/secrets/muster-floors")
        self._heard = len(self.log())
        sessions = len(self.hub.said("session"))
        self.site.agent.start()
        until(lambda: len(self.hub.said("session")) > sessions, why=self.why)

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
            fleet.commit({DEPLOYMENT: None})
            attack.honest()
            yield attack
        finally:
            place.close()
            hub.close()
