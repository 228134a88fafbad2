"""``rollout plan`` and ``rollout simulate``: who goes when and how it is likely to go, before anything starts."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
import yaml
from muster_cli.commands.forecast import Progress, histogram
from muster_core.durations import format_duration
from muster_proto.v1 import operator_pb2 as op
from unit.cli.stage import Hub, Member, Muster, Repositories, git

PLAN = """\
apiVersion: muster.dev/v1alpha1
kind: RolloutPlan
metadata: {name: rings}
spec:
  unmatched: %s
  waves:
  - {name: canary, selector: {matchLabels: {ring: canary}}, maxInFlight: 1, soak: 10m}
  - {name: stores, selector: {matchLabels: {tier: store}}, spread: region, maxFailed: 25%%, maxLost: 1, quorum: 80%%}
"""


RULES = """\
apiVersion: muster.dev/v1alpha1
kind: RolloutPlan
metadata: {name: rings}
spec:
  unmatched: last
  maxInFlight: 5
  expire: 9d
  waves:
  - name: canary
    selector: {matchLabels: {ring: canary}}
    gates: {after: [{approval: {count: 2}}]}
  - name: stores
    rest: true
    window: {cron: "0 1 * * *", duration: 4h, timeZone: site}
"""


def entry(name: str, site: dict[str, object] | None = None, **labels: str) -> str:
    keys = Member(name, f"uid-{name}").join("0" * 32)
    spec: dict[str, object] = {"uid": keys.uid, "identityKey": f"ed25519:{keys.identity_key.hex()}"}
    spec |= {"site": site} if site else {}
    return yaml.safe_dump({
        "apiVersion": "muster.dev/v1alpha1", "kind": "Cluster", "metadata": {"name": name, "labels": labels}, "spec": spec,
    })  # fmt: skip


SITE: dict[str, object] = {
    "timeZone": "Asia/Tokyo", "window": {"cron": "0 2 * * *", "duration": "1h"}, "veto": ["hello"],
}  # fmt: skip


@pytest.fixture
def fleet(repositories: Repositories) -> Path:
    """Two canaries, four stores in two regions, one that no wave takes; the registry is pushed, mode open."""
    clone = repositories.clone
    settings = (clone / "fleet.yaml").read_text().replace("signed-commits", "open")
    repositories.commit({"fleet.yaml": settings, "plans/rings.yaml": PLAN % "exclude"})
    git(clone, "push", "-q", "origin", "main")
    entries = {
        **{name: entry(name, ring="canary") for name in ("berlin-01", "berlin-02")},
        **{f"store-{n}": entry(f"store-{n}", tier="store", region="eu" if n % 2 else "us") for n in range(4)},
        "stray": entry("stray", SITE),
    }
    git(clone, "checkout", "-q", "--orphan", "muster/registry")
    git(clone, "rm", "-rqf", ".")
    repositories.commit({f"clusters/{name}.yaml": text for name, text in entries.items()})
    git(clone, "push", "-q", "origin", "muster/registry")
    git(clone, "checkout", "-q", "main")
    return clone


def test_the_plan_says_who_goes_when_with_whole_numbers(muster: Muster, fleet: Path) -> None:
    answer = muster("rollout", "plan", "hello", "--checkout", fleet)
    assert answer.code == 0, answer.err
    title, heads, canary, stores, outside = answer.out.splitlines()
    assert title == "hello by plan rings: 6 clusters in 2 waves"
    columns = [" ".join(line.split()) for line in (heads, canary, stores)]
    assert columns == [
        "WAVE CLUSTERS IN-FLIGHT MAY-FAIL MAY-BE-LOST QUORUM SOAK AWAY ORDER",
        "1 canary 2 1 0 0 1 10m ? berlin-01 berlin-02",
        "2 stores 4 1 1 1 4 - ? store-0(us) store-2(us) store-1(eu) store-3(eu)",
    ]
    assert outside == "in no wave: stray"
    assert "who is away is not known: MUSTER-L010" in answer.err


def test_the_coordinator_says_who_is_away(muster: Muster, fleet: Path, hub: Hub) -> None:
    hub.clusters = [op.ClusterView(name=f"store-{n}", state="Online") for n in range(3)]
    hub.clusters.append(op.ClusterView(name="berlin-01", state="Offline"))
    answer = muster("rollout", "plan", "hello", "--checkout", fleet, "-o", "json")
    value = json.loads(answer.out)
    assert value["away"] == ["berlin-01", "berlin-02", "store-3", "stray"]
    assert [member["name"] for wave in value["waves"] for member in wave["members"] if member["away"]] == [
        "berlin-01", "berlin-02", "store-3",
    ]  # fmt: skip
    hub.info.fleet_id = "another"
    answer = muster("rollout", "plan", "hello", "--checkout", fleet, "-o", "json")
    assert json.loads(answer.out)["away"] is None, "another fleet's clusters may bear the same names"
    assert "another fleet" in answer.err


def test_an_edited_plan_is_seen_before_it_is_committed(muster: Muster, fleet: Path) -> None:
    (fleet / "plans/rings.yaml").write_text((PLAN % "last").replace("maxInFlight: 1", "maxInFlight: 2"))
    value = json.loads(muster("rollout", "plan", "hello", "--checkout", fleet, "-o", "json").out)
    assert value["waves"][0]["maxInFlight"] == 2
    assert (value["inNoWave"], value["waves"][1]["members"][-1]["name"]) == ([], "stray")


def test_a_plan_that_cannot_start_is_shown_with_its_refusal(muster: Muster, fleet: Path) -> None:
    (fleet / "plans/rings.yaml").write_text(PLAN % "refuse")
    answer = muster("rollout", "plan", "hello", "--checkout", fleet)
    assert answer.code == 1
    assert answer.out.splitlines()[-1] == "in no wave: stray"
    assert "MUSTER-R002 1 clusters match no wave of plan rings: stray." in answer.err


def test_what_each_wave_waits_for_is_said(muster: Muster, fleet: Path) -> None:
    (fleet / "plans/rings.yaml").write_text(RULES)
    settings = (fleet / "fleet.yaml").read_text()
    (fleet / "fleet.yaml").write_text(
        settings.replace("spec:\n", "spec:\n  limits: {maxDisrupted: 50%}\n", 1)
    )
    bundle = (fleet / "bundles/hello/bundle.yaml").read_text()
    other = bundle.replace("name: hello", "name: base").replace("path: manifests", "path: ../hello/manifests")
    (fleet / "bundles/base").mkdir()
    (fleet / "bundles/base/bundle.yaml").write_text(other)
    (fleet / "bundles/hello/bundle.yaml").write_text(bundle.rstrip() + "\n  dependsOn: [{name: base}]\n")
    answer = muster("rollout", "plan", "hello", "--checkout", fleet)
    assert answer.code == 0, answer.err
    approval, window, *bounds = answer.out.splitlines()[4:]
    assert approval == "canary: after it approval by 2 of the approvers"
    assert window.startswith("stores: offers go out at 0 1 * * * for 4h (each site's own time); open from 20")
    assert bounds == [
        "over all waves at most 5 in flight, 3 in flight over all rollouts of the fleet",
        "expires 9d after its start",
        "each cluster waits until it is healthy on base",
        "1 site with a window of its own: stray",
        "refused by the veto of stray",
    ]
    value = json.loads(muster("rollout", "plan", "hello", "--checkout", fleet, "-o", "json").out)
    assert (value["limits"]["fleetMaxDisrupted"], value["limits"]["expireSeconds"]) == (3, 9 * 86_400)
    assert value["waves"][0]["gates"]["after"] == ["approval by 2 of the approvers"]
    assert (value["waves"][1]["window"]["timeZone"], value["vetoes"]) == ("site", ["stray"])


def test_windows_approvals_and_vetoes_are_part_of_a_simulation(muster: Muster, fleet: Path) -> None:
    (fleet / "plans/rings.yaml").write_text(RULES)
    arguments = ("rollout", "simulate", "hello", "--checkout", fleet, "--runs", "3", "-o", "json")
    value = json.loads(muster(*arguments, "--approval-after", "9h").out)
    assert value["outcomes"] == {"Paused": 3}, "the veto of one store is a failure, and none is allowed"
    assert value["waves"][0]["passed"] == 3
    assert value["waves"][0]["seconds"]["p50"] > 9 * 3_600
    assert value["harmed"]["p50"] == 1


def test_names_alone_are_for_scripts(muster: Muster, fleet: Path) -> None:
    lines = muster("rollout", "plan", "hello", "--checkout", fleet, "-o", "name").out.splitlines()
    assert lines == ["cluster/berlin-01", "cluster/berlin-02", *(f"cluster/store-{n}" for n in (0, 2, 1, 3))]


def test_the_registry_is_the_last_known_one_while_the_remote_is_away(
    muster: Muster, fleet: Path, repositories: Repositories
) -> None:
    repositories.origin.rename(repositories.origin.with_name("gone"))
    answer = muster("rollout", "plan", "hello", "--checkout", fleet, "-o", "name")
    assert (answer.code, len(answer.out.splitlines())) == (0, 6)
    assert "note: the registry is as of " in answer.err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("plan", "nothing"), 3, "MUSTER-R007 there is no such bundle: nothing."),
        (("plan", "hello", "--plan", "slow"), 1, "MUSTER-R006 there is no plan slow"),
        (("simulate", "hello", "--bad-release", "130%"), 2, "130% is no share"),
        (("simulate", "hello", "--apply-time", "5m..1m"), 2, "is no time that varies"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(
    muster: Muster, fleet: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    answer = muster("rollout", *arguments, "--checkout", fleet)
    assert answer.code == code
    assert said in " ".join(answer.err.split())


def test_a_simulation_says_how_long_and_how_much_harm(muster: Muster, fleet: Path) -> None:
    arguments = (
        "rollout",
        "simulate",
        "hello",
        "--checkout",
        fleet,
        "--runs",
        "30",
        "--apply-time",
        "30s..5m",
    )
    answer = muster(*arguments)
    assert answer.code == 0, answer.err
    lines = answer.out.splitlines()
    assert lines[:2] == ["hello by plan rings: 6 clusters, 30 runs, seed 1", "ended Succeeded 30"]
    assert any(line.startswith("until it succeeded: p50 ") for line in lines)
    assert "█" in answer.out
    assert muster(*arguments).out == answer.out, "the same seed"
    bad = muster(*arguments, "--bad-release", "100%", "-o", "json")
    value = json.loads(bad.out)
    assert value["outcomes"] == {"Paused": 30}
    assert (value["harmed"]["most"], value["waves"][0]["at_most"], value["waves"][1]["reached"]) == (1, 1, 0)


def test_clusters_that_are_away_now_are_away_in_the_simulation(muster: Muster, fleet: Path, hub: Hub) -> None:
    hub.clusters = [
        op.ClusterView(name=name, state="Online") for name in ("berlin-01", "berlin-02", "store-0")
    ]
    arguments = ("rollout", "simulate", "hello", "--checkout", fleet, "--runs", "3", "-o", "json")
    value = json.loads(muster(*arguments, "--return-after", "9d").out)
    assert (
        value["owed"]["p50"] == 3 or value["outcomes"] == {"Held": 3} or value["seconds"]["p50"] > 7 * 86_400
    )


def test_a_fleet_is_made_up_where_there_is_none(muster: Muster, repositories: Repositories) -> None:
    arguments = (
        "rollout",
        "simulate",
        "hello",
        "--checkout",
        repositories.clone,
        "--clusters",
        "220",
        "--runs",
        "2",
    )
    answer = muster(*arguments, "-o", "json")
    assert answer.code == 0, answer.err
    value = json.loads(answer.out)
    assert [(wave["name"], wave["members"]) for wave in value["waves"]] == [("canary", 20), ("rest", 200)]


def test_a_fleet_is_scaled_in_the_proportions_of_the_registry(muster: Muster, fleet: Path) -> None:
    arguments = ("rollout", "simulate", "hello", "--checkout", fleet, "--clusters", "700", "--runs", "1")
    value = json.loads(muster(*arguments, "-o", "json").out)
    assert [wave["members"] for wave in value["waves"]] == [200, 400]


def test_a_histogram_fits_and_counts_everything() -> None:
    values = [float(60 * n) for n in range(1, 200)]
    for columns in (40, 80, 200):
        lines = histogram(values, format_duration, columns)
        assert all(len(line) <= columns for line in lines)
        assert sum(int(line.rsplit(" ", 1)[1]) for line in lines) == len(values)
    assert histogram([5.0, 5.0], format_duration, 80) == []


def test_whoever_waits_longer_than_two_seconds_is_told_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    progress = Progress(4, 100, lambda: now)
    progress.heard(0, 50)
    assert capsys.readouterr().err == "", "nobody is told of what is quick"
    now = 2.5
    progress.heard(1, 50)
    progress.heard(1, 51)
    assert capsys.readouterr().err == "simulating: 38 %, run 2 of 4\n"

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    now = 0.0
    progress = Progress(4, 100, lambda: now)
    now = 3.0
    progress.heard(3, 100)
    progress.end()
    assert screen.getvalue().startswith("\rsimulating: 100 %, run 4 of 4")
    assert screen.getvalue().endswith("\r\x1b[K")
