"""Operators sign what goes out: the installed programs as processes, in mode ``directives``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.programs import FLEET, Kube, Program, Stage, shop, stage, until

pytestmark = pytest.mark.timeout(120)


class Fleet:
    """The stage, and the ``muster`` command in the operator's clone."""

    def __init__(self, at: Stage) -> None:
        self.at = at
        self.environment = {
            **os.environ,
            "HOME": str(at.folder),
            "XDG_CONFIG_HOME": str(at.folder / "config"),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_AUTHOR_NAME": "t",
            "GIT_AUTHOR_EMAIL": "t@example.com",
            "GIT_COMMITTER_NAME": "t",
            "GIT_COMMITTER_EMAIL": "t@example.com",
        }

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        context = str(self.at.data / "context.json")
        command = [sys.executable, "-m", "muster_cli.main", "--context", context, *arguments]
        return subprocess.run(
            command,
            cwd=self.at.folder / "work",
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def muster(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done.stdout

    def join(self, name: str) -> tuple[Kube, Program]:
        kube = self.at.kube(name)
        token = json.loads(self.muster("token", "create", "--cluster", name, "-o", "json"))["token"]
        agent = self.at.agent(name, kube, token)
        agent.start()

        def approved() -> bool:
            return self.run("cluster", "approve", name, "--yes").returncode == 0

        until(approved, why=self.at.logs)
        until(lambda: self.at.cluster(name).state == "Online", why=self.at.logs)
        return kube, agent

    def ended(self, name: str) -> str:
        def state() -> str:
            view = self.at.rollout(name)
            return view.state if view and view.ended_unix_ms else ""

        return until(state, 40, why=self.at.logs)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with stage(tmp_path) as at:
        found = Fleet(at)
        at.commit({"fleet.yaml": FLEET.replace("mode: open", "mode: directives")}, tell=False)
        found.muster("trust", "init")
        at.commit({})
        yield found


def test_nothing_goes_out_that_no_operator_signed(fleet: Fleet) -> None:
    kube, _ = fleet.join("berlin")
    fleet.at.commit(shop("1"))
    listed = json.loads(fleet.muster("get", "bundles", "-o", "json"))
    assert "waits for a directive" in json.dumps(listed)
    assert fleet.at.rollout("shop-0001") is None
    out = fleet.muster("rollout", "start", "shop", "-o", "name")
    assert "shop-0001" in out
    assert fleet.ended("shop-0001") == "Succeeded"
    assert kube.version() == "1"


def test_an_operator_takes_the_fleet_back_with_a_reason(fleet: Fleet) -> None:
    kube, _ = fleet.join("berlin")
    old = fleet.at.commit(shop("1"))
    fleet.muster("rollout", "start", "shop")
    assert fleet.ended("shop-0001") == "Succeeded"
    fleet.at.commit(shop("2"))
    fleet.muster("rollout", "start", "shop")
    assert fleet.ended("shop-0002") == "Succeeded"
    assert kube.version() == "2"
    without = fleet.run("rollout", "start", "shop", "--go-back", "--commit", old)
    assert without.returncode == 2
    assert "--reason" in without.stderr
    unsigned = fleet.run("rollout", "rollback", "shop", "--yes")
    assert unsigned.returncode == 4, unsigned.stderr
    assert "MUSTER-L083" in unsigned.stderr
    assert f"muster rollout rollback shop --to {old[:12]} --reason WHY --key FILE" in unsigned.stderr
    key = fleet.at.git("config", "user.signingkey").removesuffix(".pub")
    signed = ("--to", old[:12], "--reason", "the till is broken", "--key", key, "--yes")
    assert "shop-0003" in fleet.muster("rollout", "rollback", "shop", *signed)
    assert fleet.ended("shop-0003") == "Succeeded"
    assert kube.version() == "1"
    fleet.at.commit(shop("3"))
    fleet.muster("rollout", "start", "shop")
    assert fleet.ended("shop-0004") == "Succeeded"
    assert kube.version() == "3"


def test_a_signed_way_back_is_taken_by_healthy_clusters_when_a_gate_fails(fleet: Fleet) -> None:
    """Where releases ask for a signature, so does going back: the directive of the release names where to."""
    kube, _ = fleet.join("berlin")
    plan = (
        "apiVersion: muster.dev/v1alpha1\nkind: RolloutPlan\nmetadata: {name: rings}\n"
        "spec: {deadline: 60s, onFailure: {action: rollback, scope: rollout},"
        " waves: [{name: all, rest: true%s}]}\n"
    )
    old = fleet.at.commit({**shop("1"), "plans/rings.yaml": plan % ""})
    fleet.muster("rollout", "start", "shop")
    assert fleet.ended("shop-0001") == "Succeeded"
    fleet.at.commit({**shop("2"), "plans/rings.yaml": plan % ", gates: {after: [{approval: {count: 1}}]}"})
    fleet.muster("rollout", "start", "shop", "--return-to", old)
    until(lambda: fleet.at.rollout("shop-0002").why.startswith("gate:"), 40, why=fleet.at.logs)  # type: ignore[union-attr]
    assert kube.version() == "2"
    fleet.muster("rollout", "reject", "shop-0002", "--reason", "the till is slow", "--yes")
    assert fleet.ended("shop-0002") == "RolledBack"
    assert fleet.ended("shop-0003") == "Succeeded"
    assert kube.version() == "1"


def test_who_was_away_past_the_directives_end_is_renewed_for_all_at_once(fleet: Fleet) -> None:
    near, _ = fleet.join("near")
    far, agent = fleet.join("far")
    agent.kill()
    until(lambda: fleet.at.cluster("far").state == "Offline", why=fleet.at.logs)
    plan = (
        "apiVersion: muster.dev/v1alpha1\nkind: RolloutPlan\nmetadata: {name: rings}\n"
        "spec: {deadline: 60s, waves: [{name: all, rest: true, quorum: 50%, offline: {after: 1s}}]}\n"
    )
    fleet.at.commit({**shop("1"), "plans/rings.yaml": plan})
    fleet.muster("rollout", "start", "shop")
    assert fleet.ended("shop-0001") == "Succeeded"
    assert near.version() == "1"
    owed = json.loads(fleet.muster("rollout", "owed", "-o", "json"))
    assert [row["cluster"] for row in owed] == ["far"]
    renewed = fleet.muster("directive", "renew", "shop", "--yes")
    assert "directive/shop 2 signed for 1 cluster" in renewed
    agent.start()
    until(lambda: far.version() == "1", 40, why=fleet.at.logs)
    until(lambda: not json.loads(fleet.muster("rollout", "owed", "-o", "json")), why=fleet.at.logs)


def test_a_revoked_cluster_is_cut_off_at_once_and_its_secrets_are_named(fleet: Fleet) -> None:
    _, agent = fleet.join("berlin")
    fleet.join("paris")
    fleet.muster("cluster", "label", "berlin", "--protected-label", "tier=store")
    fleet.muster(
        "secret", "seal", "--name", "db", "--namespace", "shop", "-l", "tier=store", "--from-literal", "k=v"
    )
    fleet.at.commit({})
    done = fleet.run("cluster", "revoke", "berlin", "--yes")
    assert done.returncode == 0, done.stderr
    assert "secrets/db.yaml was sealed to it" in done.stderr
    until(lambda: fleet.at.cluster("berlin").state == "Revoked", why=fleet.at.logs)
    until(lambda: "good-bye" in agent.said(), why=fleet.at.logs)
    assert fleet.at.cluster("paris").state == "Online"
    again = fleet.run("cluster", "approve", "berlin", "--yes")
    assert again.returncode != 0


def test_a_join_that_is_turned_down_ends_its_agent_and_frees_the_name(fleet: Fleet) -> None:
    kube = fleet.at.kube("berlin")
    token = json.loads(fleet.muster("token", "create", "--cluster", "berlin", "-o", "json"))["token"]
    agent = fleet.at.agent("berlin", kube, token)
    agent.start()
    until(lambda: fleet.run("cluster", "reject", "berlin", "--yes").returncode == 0, why=fleet.at.logs)
    assert agent.ended() == 1
    assert "MUSTER-J017" in agent.said()
    assert fleet.at.cluster("berlin").state == "Rejected"
    assert fleet.run("cluster", "approve", "berlin", "--yes").returncode == 3
    fresh = json.loads(fleet.muster("token", "create", "--cluster", "berlin", "-o", "json"))["token"]
    again = fleet.at.agent("berlin", kube, fresh, state="anew")
    again.start()
    until(lambda: fleet.run("cluster", "approve", "berlin", "--yes").returncode == 0, why=fleet.at.logs)
    until(lambda: fleet.at.cluster("berlin").state == "Online", why=fleet.at.logs)
