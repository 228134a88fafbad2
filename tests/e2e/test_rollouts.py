"""People move rollouts on: one fleet of installed programs, a certificate for each person, a bundle for each story.

The commands are those of ``docs/rollouts.md``, word for word: ``tests/unit/docs`` compares the page with this file.
"""

from __future__ import annotations

import io
import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from typing import Any
from unittest.mock import patch

import pytest
from e2e.programs import Kube, Stage, stage, until
from e2e.test_operators import Answer
from muster_cli import program
from muster_core.sealing.keys import IdentityKey, encode_identity

pytestmark = [pytest.mark.timeout(120), pytest.mark.xdist_group("rollouts")]

HEAD = "apiVersion: muster.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n"
# A cluster that never comes: it is registered, and nobody answers there.
AWAY = """apiVersion: muster.dev/v1alpha1
kind: Cluster
metadata: {name: edge-1, labels: {away: "yes"}}
spec: {uid: uid-of-edge-1, identityKey: '%s'}
"""
PLANS = {
    "shop": """
  deadline: 60s
  waves:
  - {name: canary, names: [berlin-04], soak: 1s, gates: {after: [{approval: {count: 1}}]}}
  - {name: stores, names: [munich-01], soak: 1h}
  - {name: edge, rest: true, offline: {after: 1s}}""",
    "till": """
  deadline: 60s
  onFailure: {action: pause, scope: target}
  waves:
  - {name: canary, names: [berlin-04]}
  - {name: others, rest: true, maxInFlight: 2, quorum: 100%}""",
    "menu": "{deadline: 60s, waves: [{name: all, rest: true}]}",
}
ROLES = {"ada": "approver", "ben": "approver"}
EVERYWHERE, WHO_IS_THERE = "{}", "{matchExpressions: [{key: away, operator: DoesNotExist}]}"


def bundle(name: str, version: str, selector: str = EVERYWHERE) -> dict[str, str]:
    """One version of a bundle with its plan: a namespace and a map."""
    folder = f"bundles/{name}"
    spec = (
        f"{{source: {{path: m}}, targets: [{{selector: {selector}}}], plan: {name}, namespace: {name}, "
        "health: {deadline: 3s}}"
    )
    return {
        f"plans/{name}.yaml": HEAD.format(kind="RolloutPlan", name=name, spec=PLANS[name]),
        f"{folder}/bundle.yaml": HEAD.format(kind="Bundle", name=name, spec=spec),
        f"{folder}/m/namespace.yaml": f"apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n",
        f"{folder}/m/map.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web}\n"
        f"data: {{version: '{version}'}}\n",
    }


class People:
    """The fleet with two clusters that are there and one that is not, and whoever looks after it."""

    def __init__(self, at: Stage) -> None:
        self.at = at
        at.register("edge-1", AWAY % encode_identity(IdentityKey.generate().public))
        names = ("berlin-04", "munich-01")
        self.berlin, self.munich = (at.kube(name) for name in names)
        for name, kube in zip(names, (self.berlin, self.munich), strict=True):
            at.agent(name, kube, at.token(name)).start()
        self._contexts = {"admin": at.data / "context.json"}
        for name in ("viewer", "operator", "ada", "ben"):
            path, role = at.folder / "people" / f"{name}.json", ROLES.get(name, name)
            self.done("admin", f"muster operator certificate {name} --role {role} --days 1 --out {path}")
            self._contexts[name] = path
        for name in names:
            at.approve(name)
        for name in names:
            until(lambda: at.cluster(name).state == "Online", 40, why=at.logs)  # noqa: B023

    def does(self, who: str, line: str, **words: str) -> Answer:
        """A line as it is typed; ``$NAME`` in it stands for one of ``words``."""
        return _answer(["muster", "--context", str(self._contexts[who]), *_words(line, words)])

    def done(self, who: str, line: str, **words: str) -> str:
        answer = self.does(who, line, **words)
        assert answer.code == 0, (line, answer.out, answer.err, self.at.logs())
        return answer.out

    def value(self, who: str, line: str) -> Any:
        return json.loads(self.done(who, f"{line} -o json"))

    def refused(self, who: str, line: str, **words: str) -> tuple[int, str, str]:
        """Its exit code, its error code and what it says."""
        answer = self.does(who, line, **words)
        return answer.code, answer.err.split()[0].removeprefix("MUSTER-"), answer.err

    def begun(self, who: str, line: str) -> subprocess.Popen[str]:
        """A command that stays, in a pipe."""
        command = [
            sys.executable, "-m", "muster_cli.main", "--context", str(self._contexts[who]), *_words(line, {}),
        ]  # fmt: skip
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def reaches(self, name: str, *states: str) -> None:
        def state() -> bool:
            view = self.at.rollout(name)
            return view is not None and view.state in states

        until(state, 40, why=self.at.logs)

    def target_reaches(self, name: str, cluster: str, state: str) -> None:
        def reached() -> bool:
            view = self.at.rollout(name)
            return view is not None and any((t.cluster, t.state) == (cluster, state) for t in view.targets)

        until(reached, 40, why=self.at.logs)


def _answer(argv: list[str]) -> Answer:
    """The program, within this process: half a second less for each of so many calls."""
    out, err, before = io.StringIO(), io.StringIO(), signal.getsignal(signal.SIGINT)
    try:
        with (
            patch.object(sys, "argv", argv),
            redirect_stdout(out),
            redirect_stderr(err),
            pytest.raises(SystemExit) as end,
        ):
            program.run()
    finally:
        signal.signal(signal.SIGINT, before)
    return Answer(int(end.value.code or 0), out.getvalue(), err.getvalue())


def _words(line: str, words: dict[str, str]) -> list[str]:
    program, *rest = shlex.split(line)
    assert program == "muster"
    return [words[word[1:]] if word.startswith("$") else word for word in rest]


def version(kube: Kube, name: str) -> str:
    found = kube.ask("GET", f"/api/v1/namespaces/{name}/configmaps/web")
    return str(found["data"]["version"]) if found else ""


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[People]:
    with stage(tmp_path_factory.mktemp("rollouts")) as at:
        yield People(at)


def test_one_starts_another_approves_it_soaks_and_is_promoted(people: People) -> None:
    at, name = people.at, "shop-0002"
    at.commit(bundle("shop", "1"))
    people.reaches("shop-0001", "Held")
    people.done("operator", "muster rollout abort shop-0001 --reason 'the wrong branch' --yes")
    assert version(people.berlin, "shop") == "1", "who has it keeps it"
    started = people.done("ada", "muster rollout start shop --again --reason 'for the second time'")
    assert name in started
    people.reaches(name, "Held")

    watch = people.begun("viewer", "muster rollout watch shop-0002 --timeout 2h")
    assert watch.stdout is not None
    assert watch.stdout.readline().startswith("shop-0002 Held wave 1/3 canary")
    log = people.begun("viewer", "muster rollout events shop-0002 --watch --output json")
    shown = people.done("viewer", "muster describe rollout shop-0002")
    assert "gate after: approval by 1 of the approvers: 0 of 1" in shown
    assert "muster rollout approve shop-0002 (who may: any approver, but not ada or t" in shown
    approve = "muster rollout approve shop-0002 --reason 'dashboards are green'"
    code, error, said = people.refused("ada", approve)
    assert (code, error) == (4, "R046")
    assert "Who may: any approver" in said
    code, error, said = people.refused("operator", approve)
    assert (code, error) == (4, "L062")
    assert "Who may: approver or admin" in said
    pause = "muster rollout pause shop-0002 --reason 'till trouble in Berlin'"
    assert people.refused("viewer", pause)[:2] == (4, "L062")
    people.done("operator", pause)
    assert at.rollout(name).state == "Paused"  # type: ignore[union-attr]
    people.done("operator", "muster rollout resume shop-0002")
    people.reaches(name, "Held")
    people.done("ben", approve)

    people.target_reaches(name, "munich-01", "soaking")
    explained = people.done("viewer", "muster rollout explain shop-0002 munich-01")
    assert "munich-01 is soaking" in explained
    assert "edge-1 is waiting (wave edge)" in people.done("viewer", "muster rollout explain shop-0002 edge-1")
    assert people.refused("ben", "muster rollout promote shop-0002 --yes")[:2] == (1, "R043")
    promote = "muster rollout promote shop-0002 --reason 'hotfix, seen to work' --yes"
    assert people.refused("operator", promote)[:2] == (4, "L062")
    people.done("ben", promote)
    people.target_reaches(name, "edge-1", "owed")
    people.reaches(name, "Held")
    held = people.done("viewer", "muster describe rollout shop-0002")
    assert "quorum: wave edge has 0 of 1 done" in held
    assert held.startswith("edge-1: owed"), held
    people.done("ben", promote)
    people.reaches(name, "Succeeded")

    out, err = watch.communicate(timeout=20)
    assert watch.returncode == 0, (out, err)
    assert "is approved after wave canary by ben: dashboards are green" in out
    assert "is promoted by ben: hotfix, seen to work" in out
    out, err = log.communicate(timeout=20)
    assert log.returncode == 0, (out, err)
    by = [(e["event"], e["by"]) for e in map(json.loads, out.splitlines()) if "by" in e]
    assert by == [
        ("started", "ada"), ("paused", "operator"), ("resumed", "operator"), ("gate-approved", "ben"),
        ("promoted", "ben"), ("promoted", "ben"),
    ]  # fmt: skip
    history = [line.split() for line in people.done("viewer", "muster rollout history shop").splitlines()[1:]]
    assert [(line[0], line[2]) for line in history] == [("shop-0002", "Succeeded"), ("shop-0001", "Aborted")]
    (row,) = people.done("viewer", "muster rollout owed shop").splitlines()[1:]
    assert row.split()[:4] == ["edge-1", "shop", at.rollout(name).release.commit[:7], name]  # type: ignore[union-attr]
    bundles = people.done("viewer", "muster get bundles")
    assert "×2, none ×1 (owed 1)" in bundles
    assert "none: edge-1" in people.done("viewer", "muster get bundles -o wide")
    assert name in people.done("viewer", "muster get rollouts")

    assert people.value("viewer", "muster rollout explain shop-0002 edge-1")["target"]["state"] == "owed"
    assert people.value("viewer", "muster rollout owed")[0]["rollout"] == name
    assert people.value("viewer", "muster rollout history shop")[0]["name"] == name
    assert people.value("viewer", "muster get bundles")[0]["places"]
    assert people.value("viewer", "muster describe rollout shop-0002")["state"] == "Succeeded"
    assert people.value("viewer", "muster rollout watch shop-0002")["state"] == "Succeeded"


def test_a_failure_is_tried_again_and_who_moves_house_is_skipped(people: People) -> None:
    name, foreign = "till-0001", {"metadata": {"name": "web"}, "data": {"version": "theirs"}}
    # Somebody else's object stands where the bundle's will be.
    people.berlin.ask("POST", "/api/v1/namespaces", {"metadata": {"name": "till"}})
    people.berlin.ask("POST", "/api/v1/namespaces/till/configmaps", foreign)
    people.at.commit(bundle("till", "1"))
    people.reaches(name, "Paused")
    shown = people.done("viewer", "muster describe rollout till-0001").splitlines()
    assert shown[0].startswith("berlin-04: failed MUSTER-K"), shown
    assert shown[0].endswith("(wave canary)")
    assert any("muster rollout retry till-0001 --failed" in line for line in shown)
    assert people.refused("operator", "muster rollout resume till-0001")[:2] == (1, "R013")
    retry = "muster rollout retry till-0001 --failed --reason 'their map is gone'"
    assert people.refused("viewer", retry)[:2] == (4, "L062")
    people.berlin.ask("DELETE", "/api/v1/namespaces/till/configmaps/web")
    again = people.value("operator", retry)
    assert [t["attempt"] for t in again["targets"] if t["cluster"] == "berlin-04"] == [2]
    people.target_reaches(name, "munich-01", "done")
    assert version(people.berlin, "till") == "1"
    people.done("operator", "muster rollout skip till-0001 edge-1 --reason 'the shop moves house' --yes")
    held = people.done("viewer", "muster describe rollout till-0001")
    assert "edge-1: skipped by operator: the shop moves house" in held
    assert "quorum: wave others has 1 of 2 done" in held, "leaving somebody out makes no quorum"
    people.done("ben", "muster rollout promote till-0001 --reason 'nobody is left in it' --yes")
    people.reaches(name, "Succeeded")


def test_a_bundle_is_taken_back_to_the_release_before(people: People) -> None:
    at = people.at
    commits = []
    for number in (1, 2):
        commits.append(at.commit(bundle("menu", str(number), WHO_IS_THERE)))
        people.reaches(f"menu-000{number}", "Succeeded")
    assert (version(people.berlin, "menu"), version(people.munich, "menu")) == ("2", "2")
    rollback = "muster rollout rollback menu --reason 'prices are wrong' --yes --watch"
    assert people.refused("viewer", rollback)[:2] == (4, "L062")
    to = "muster rollout rollback menu --to $RELEASE --reason 'prices are wrong' --yes"
    code, error, said = people.refused("operator", to, RELEASE=commits[1][:12])
    assert (code, error) == (4, "L083")
    assert f"only {commits[0][:7]}, the release before, needs no signature" in said
    assert "menu-0003" in people.done("operator", rollback)
    assert (version(people.berlin, "menu"), version(people.munich, "menu")) == ("1", "1")
    at.refresh()
    assert at.rollout("menu-0004") is None, "what was taken back does not come again by itself"
    bundles = people.done("viewer", "muster get bundles").splitlines()
    (row,) = [line for line in bundles if line.startswith("menu")]
    assert f"{commits[0][:7]} ×2" in row
    assert "Takes back:     menu-0002" in people.done("viewer", "muster describe rollout menu-0003")
    code, error, said = people.refused("operator", "muster rollout rollback menu --yes")
    assert (code, error) == (1, "L082")
    assert "menu-0003 takes it back already" in said
    at.commit(bundle("menu", "4", WHO_IS_THERE))
    people.reaches("menu-0004", "Succeeded")
    people.done("operator", to, RELEASE=commits[0][:12])
    people.reaches("menu-0005", "Succeeded")
    assert version(people.berlin, "menu") == "1"


def test_a_plan_is_shown_before_anything_starts(people: People) -> None:
    """In the checkout; the coordinator is asked only who is away."""
    checkout = people.at.folder / "work"
    people.at.git("fetch", "-q", "origin")
    plan = people.done("viewer", "muster rollout plan menu --checkout $CHECKOUT", CHECKOUT=str(checkout))
    assert "berlin-04" in plan
    assert "edge-1" not in plan
