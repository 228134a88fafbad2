"""The fleet of the demo: its programs, its Git host, its six sites, and the operator's hands.

Owns starting everything in one folder and the few things that an operator does: commit, approve, seal. It reaches the
coordinator by the ``muster`` command and the operator API only.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import anyio.to_thread
import yaml
from muster_cli.client import OperatorClient
from muster_cli.context import load
from muster_proto.v1 import operator_pb2 as op

from muster_lab.authority import make_server
from muster_lab.demo import shop
from muster_lab.demo.line import Line, open_line
from muster_lab.demo.processes import Child, DemoError, Supervisor, program, run, supervised
from muster_lab.demo.site import Site

READY_DEADLINE = 30.0
CALL_DEADLINE = 20.0
CUT_CLUSTER = "edge-2"


class CloneSetting(NamedTuple):
    """A setting of the checkout and the variable of the demo's environment that says the same."""

    name: str
    variable: str


_CLONE_SETTINGS = (
    CloneSetting("http.sslCAInfo", "GIT_SSL_CAINFO"),
    CloneSetting("gpg.ssh.program", "GIT_CONFIG_VALUE_0"),
    CloneSetting("user.name", "GIT_AUTHOR_NAME"),
    CloneSetting("user.email", "GIT_AUTHOR_EMAIL"),
)


class Operator:
    """The operator API from async code: each call in a worker thread, one at a time."""

    def __init__(self, client: OperatorClient) -> None:
        self._client = client
        self._limiter = anyio.CapacityLimiter(1)

    def events(self) -> Iterator[op.Event]:
        """What the coordinator tells, for a thread of the caller's."""
        return self._client.watch(op.WatchRequest(rollouts=True))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return partial(self._call, getattr(self._client, name))

    async def _call(self, method: Callable[..., Any], *arguments: Any) -> Any:
        return await anyio.to_thread.run_sync(partial(method, *arguments), limiter=self._limiter)


@dataclass(slots=True)
class Fleet:
    """A running fleet. ``line`` is what edge-2 is reached over."""

    folder: Path
    environment: Mapping[str, str]
    supervisor: Supervisor
    operator: Operator
    line: Line
    git_ca: Path
    checkout: Path
    context: Path
    agents: dict[str, Child] = field(default_factory=dict)
    sites: dict[str, Site] = field(default_factory=dict)
    secret_base64: str = ""

    async def _muster(self, *arguments: str) -> str:
        return await run([program("muster"), "--context", str(self.context), *arguments], self.environment)

    async def _git(self, *arguments: str) -> str:
        return (await run(["git", "-C", str(self.checkout), *arguments], self.environment)).strip()

    async def join(
        self, name: str, ring: str, kubeconfig: Path | None = None, agent_flags: Sequence[str] = ()
    ) -> None:
        """A Kubernetes API (in memory, where no kubeconfig is given), a token, an agent, and the approval."""
        folder = self.folder / name
        await anyio.Path(folder).mkdir(exist_ok=True)
        if kubeconfig is None:
            kubeconfig = await self._kubernetes(name, folder)
        self.sites[name] = Site.read(name, kubeconfig)
        address = ["--edge-address", self.line.address] if name == CUT_CLUSTER else []
        link = ["--link-address", self.line.extra_address] if name == CUT_CLUSTER else []
        token = await self._muster(
            "token",
            "create",
            "--cluster",
            name,
            "--checkout",
            str(self.checkout),
            "-o",
            "json",
            *address,
            *link,
        )
        token_file = folder / "token"
        token_file.touch(mode=0o600)
        token_file.write_text(json.loads(token)["token"])
        self.agents[name] = self.supervisor.start(
            f"agent-{name}",
            [
                program("muster-agent"),
                "run",
                "--cluster",
                name,
                "--token-file",
                str(token_file),
                "--kubeconfig",
                str(kubeconfig),
                "--state-dir",
                str(folder / "state"),
                "--git-ca-file",
                str(self.git_ca),
                *agent_flags,
            ],
        )
        await self._asked(name)
        await self._muster(
            "cluster",
            "approve",
            name,
            "--checkout",
            str(self.checkout),
            "--protected-label",
            f"ring={ring}",
            "--site-class",
            "edge" if ring == "edge" else "connected",
            "--yes",
        )

    async def _kubernetes(self, name: str, folder: Path) -> Path:
        kube = self.supervisor.start(
            f"kube-{name}", [sys.executable, "-m", "muster_lab.kube", "--dir", str(folder / "kube")]
        )
        return Path(json.loads(await kube.first_line(READY_DEADLINE))["kubeconfig"])

    async def _asked(self, name: str) -> None:
        with anyio.move_on_after(READY_DEADLINE):
            while not any(join.cluster == name for join in (await self.operator.list_joins()).joins):
                self.supervisor.check()
                await anyio.sleep(0.1)
            return
        raise DemoError(f"{name} did not ask to join within {READY_DEADLINE:.0f} s")

    async def restart_agent(self, name: str) -> None:
        """Ends an agent as a node's reboot would, and starts it again."""
        child = self.agents[name]
        await self.supervisor.end(child)
        self.agents[name] = self.supervisor.start(child.name, child.argv)

    async def seal_secret(self, namespace: str = "shop") -> None:
        """A random password, sealed to every cluster that has a ring."""
        password = secrets.token_urlsafe(12)
        self.secret_base64 = base64.b64encode(password.encode()).decode()
        source = self.folder / "password"
        source.touch(mode=0o600)
        source.write_text(password)
        await self._muster(
            "secret",
            "seal",
            "--name",
            "shop-db",
            "--namespace",
            namespace,
            "--from-file",
            f"password={source}",
            "--selector",
            "ring in (canary,stores,edge)",
            "--checkout",
            str(self.checkout),
        )
        source.unlink()

    async def commit(self, message: str, files: Mapping[str, str]) -> str:
        """Writes, commits, pushes, tells the coordinator to look; returns the commit."""
        for path, text in files.items():
            target = self.checkout / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        await self._git("add", "--all")
        await self._git("commit", "--quiet", "-m", message)
        await self._git("push", "--quiet", "origin", "HEAD:main")
        await self.operator.refresh()
        return await self._git("rev-parse", "HEAD")


def _environment(folder: Path, git_ca: Path) -> dict[str, str]:
    """What the programs see: nothing of the user's git or Muster settings."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TERM", "NO_COLOR") if name in os.environ}
    return {
        **kept,
        "HOME": str(folder),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_SSL_CAINFO": str(git_ca),
        "GIT_AUTHOR_NAME": "Demo",
        "GIT_AUTHOR_EMAIL": "demo@example.com",
        "GIT_COMMITTER_NAME": "Demo",
        "GIT_COMMITTER_EMAIL": "demo@example.com",
        # Commits are signed by this, since a machine may have no ssh-keygen.
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "gpg.ssh.program",
        "GIT_CONFIG_VALUE_0": str(_signing_program(folder)),
        "PYTHONDONTWRITEBYTECODE": "1",
        "GRPC_VERBOSITY": "NONE",
    }


def _signing_program(folder: Path) -> Path:
    """git takes one path without arguments, so there is a small script around the module."""
    script = folder / "sshsign"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m muster_lab.demo.sshsign "$@"\n')
    script.chmod(0o700)
    return script


async def _make_repository(folder: Path, environment: Mapping[str, str]) -> None:
    await run(
        ["git", "init", "--quiet", "--bare", "--initial-branch=main", str(folder / "git" / "fleet.git")],
        environment,
    )
    await run(
        ["git", "-C", str(folder / "git" / "fleet.git"), "config", "http.receivepack", "true"], environment
    )


async def _first_commit(folder: Path, environment: Mapping[str, str], url: str) -> Path:
    """The skeleton of ``muster init``, with the demo's plan and policy instead of the example bundle."""
    checkout = folder / "checkout"
    await run([program("muster"), "init", str(checkout), "--name", "demo"], environment)
    shutil.rmtree(checkout / "bundles")
    (checkout / "policies" / "require-team-label.yaml").unlink()
    for path, text in {
        "fleet.yaml": shop.FLEET % {"fleet_id": _fleet_id(checkout)},
        "plans/rings.yaml": shop.PLAN,
        "policies/require-labels.yaml": shop.POLICY,
    }.items():
        (checkout / path).write_text(text)
    git = ["git", "-C", str(checkout)]
    await run([program("muster"), "validate", str(checkout)], environment)
    await run([*git, "add", "--all"], environment)
    await run([*git, "commit", "--quiet", "-m", "A fleet"], environment)
    await run([*git, "remote", "add", "origin", url], environment)
    for setting in _CLONE_SETTINGS:  # so that a person's own git works there, without the demo's environment
        value = environment[setting.variable]
        await run([*git, "config", setting.name, value], environment)
    await run([*git, "push", "--quiet", "-u", "origin", "main"], environment)
    return checkout


def _fleet_id(checkout: Path) -> str:
    """The id that ``muster init`` chose: the trust document is signed for it."""
    fleet = yaml.safe_load((checkout / "fleet.yaml").read_text())
    return str(fleet["spec"]["id"])


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


@asynccontextmanager
async def open_fleet(folder: Path, say: Callable[[str], None]) -> AsyncIterator[Fleet]:
    """Git host and coordinator; agents come by :meth:`Fleet.join`. Everything is gone when the block is left."""
    tls = make_server(folder / "git-tls", "git")
    environment = _environment(folder, tls.ca)
    await anyio.Path(folder / "logs").mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        supervisor = await stack.enter_async_context(supervised(folder / "logs", environment))
        await _make_repository(folder, environment)
        host = supervisor.start(
            "git",
            [
                sys.executable,
                "-m",
                "muster_lab.demo.githost",
                "--root",
                str(folder / "git"),
                "--certificate",
                str(tls.certificate),
                "--key",
                str(tls.key),
            ],
        )
        port = json.loads(await host.first_line(READY_DEADLINE))["port"]
        url = f"https://127.0.0.1:{port}/fleet.git"
        say(f"   Git host at {url}")
        checkout = await _first_commit(folder, environment, url)
        hub = supervisor.start(
            "coordinator",
            [
                program("muster"),
                "serve",
                "--data-dir",
                str(folder / "hub"),
                "--repository",
                url,
                "--git-ca-file",
                str(tls.ca),
                "--link",
                "127.0.0.1:0",
                "--edge",
                "127.0.0.1:0",
                "--metrics",
                "127.0.0.1:0",
                "--poll",
                "5",
                "--name",
                "demo",
            ],
        )
        ready = json.loads(await hub.first_line(READY_DEADLINE))
        say(f"   coordinator at {ready['edge']}")
        edge = await stack.enter_async_context(open_line(*_split(ready["edge"])))
        link = await stack.enter_async_context(open_line(*_split(ready["link"])))
        edge.beside = link
        client = OperatorClient(load(ready["context"]), CALL_DEADLINE)
        stack.callback(client.__exit__, None, None, None)
        operator = Operator(client)
        yield Fleet(folder, environment, supervisor, operator, edge, tls.ca, checkout, Path(ready["context"]))
