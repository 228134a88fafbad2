"""Two coordinators, one database: the standby goes on where the leader ended, and two never lead."""

from __future__ import annotations

import datetime as dt
import os
import random
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from bench.programs import FLEET_ID, StubFleet
from e2e.programs import code_in, free_port
from e2e.standby import Hub, Pair, eventually, hub_argv, pair
from muster_coordinator.enrol.x509 import Authority
from muster_core.rollout import events as ev
from muster_proto.v1 import operator_pb2 as op
from postgres import Postgres, open_postgres

pytestmark = [pytest.mark.timeout(180), pytest.mark.xdist_group("standby")]

STUBS = 12
FAILING = ["stub-00004", "stub-00009"]
FLEET = f"""\
apiVersion: muster.dev/v1alpha1
kind: Fleet
metadata: {{name: acme}}
spec: {{id: "{FLEET_ID}", mode: open, defaults: {{plan: rings}}}}
"""
PLAN = """\
apiVersion: muster.dev/v1alpha1
kind: RolloutPlan
metadata: {name: rings}
spec:
  waves:
  - {name: canary, names: [stub-00000, stub-00001], maxInFlight: 1, soak: 1s}
  - {name: all, rest: true, maxInFlight: 3, maxFailed: 2, soak: 1s}
"""
BUNDLE = """\
apiVersion: muster.dev/v1alpha1
kind: Bundle
metadata: {name: shop}
spec: {source: {path: manifests}, targets: [{selector: {}}], namespace: default}
"""
OBJECT = 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: shop}\ndata: {version: "%d"}\n'
ENDED = {"Succeeded", "Failed", "Aborted", "RolledBack", "Superseded"}
EVENTS = "SELECT data FROM events WHERE stream = %s ORDER BY number"


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with open_postgres() as server:
        yield server


@pytest.fixture
def two(tmp_path: Path, postgres: Postgres) -> Iterator[Pair]:
    with pair(tmp_path, postgres.database(), {"fleet.yaml": FLEET, "plans/rings.yaml": PLAN}) as found:
        yield found


def release(two: Pair, version: int) -> None:
    two.repository.commit(
        f"version {version}",
        {"bundles/shop/bundle.yaml": BUNDLE, "bundles/shop/manifests/shop.yaml": OBJECT % version},
    )
    two.refresh()


def view(two: Pair, rollout: str) -> op.RolloutView | None:
    try:
        found: op.RolloutView = two.call("GetRollout", op.GetRequest(name=rollout))
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.NOT_FOUND:
            return None
        raise
    return found


def outcome(two: Pair, rollout: str) -> tuple[str, dict[str, str]] | None:
    """(state, state of each target) of a rollout that has ended."""
    found = view(two, rollout)
    if found is None or found.state not in ENDED:
        return None
    return found.state, {target.cluster: target.state for target in found.targets}


def log_of(two: Pair, rollout: str) -> list[ev.AnyEvent]:
    return [ev.decode(bytes(row[0])) for row in two.rows(EVENTS, rollout)]


def count(two: Pair, rollout: str) -> int:
    return int(two.rows("SELECT count(*) FROM events WHERE stream = %s", rollout)[0][0])


def test_a_rollout_ends_as_without_when_the_leader_is_killed_at_any_point(two: Pair) -> None:
    seed = int(os.environ.get("MUSTER_SEED", time.time_ns() % 100_000))
    print(f"seed {seed} (MUSTER_SEED)")
    dice = random.Random(seed)
    leader, standby = two.both()
    stubs = StubFleet.join(two, two.repository, STUBS, think=0.05)  # type: ignore[arg-type]
    try:
        stubs.order("obey", clusters=FAILING, outcome="failed")
        release(two, 1)
        eventually(lambda: outcome(two, "shop-0001"), two, 60)
        undisturbed, length = outcome(two, "shop-0001"), count(two, "shop-0001")
        assert undisturbed is not None
        assert Counter(undisturbed[1].values()) == {"done": STUBS - len(FAILING), "failed": len(FAILING)}

        release(two, 2)
        kills = sorted(dice.sample(range(2, length - 2), 3))
        for at in kills:
            eventually(lambda at=at: count(two, "shop-0002") >= at, two, 60)
            leader.signal()
            assert leader.ended() == -signal.SIGKILL
            before = two.rows(EVENTS, "shop-0002")
            two.leads(standby)
            assert two.rows(EVENTS, "shop-0002")[: len(before)] == before
            leader, standby = standby, leader
            standby.start()
            two.waits(standby)
        eventually(lambda: outcome(two, "shop-0002"), two, 90)
        assert outcome(two, "shop-0002") == undisturbed, f"seed {seed}: killed at {kills}"
        events = log_of(two, "shop-0002")
        assert sum(isinstance(event, ev.Started) for event in events) == 1
        made = Counter((e.cluster, e.attempt) for e in events if isinstance(e, ev.OfferMade))
        taken = Counter((e.cluster, e.attempt) for e in events if isinstance(e, ev.OfferWithdrawn))
        assert {key: number - taken[key] for key, number in made.items()} == dict.fromkeys(made, 1)
    finally:
        stubs.end()


def test_a_leader_that_loses_its_session_ends_and_the_standby_leads(two: Pair) -> None:
    leader, standby = two.both()
    seats = two.rows(
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND database ="
        " (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    assert seats == [(True,)]
    assert leader.ended() == 1
    assert "MUSTER-L052" in leader.said()
    assert "Traceback" not in leader.said()
    two.leads(standby)
    assert standby.readiness() == (200, "ok\n")
    two.refresh()  # and the same addresses answer


def test_a_database_that_restarts_ends_the_leader_and_is_waited_for_by_the_standby(
    two: Pair, postgres: Postgres
) -> None:
    leader, standby = two.both()
    postgres.stop()
    try:
        assert leader.ended() == 1
        assert code_in(leader.said()) == "MUSTER-L052"
        eventually(lambda: "the standby waits for the database" in standby.said(), two)
        assert standby.process is not None
        assert standby.process.poll() is None
    finally:
        postgres.start()
    two.leads(standby)


@pytest.mark.long
def test_a_leader_that_is_frozen_loses_the_seat_and_changes_nothing_when_it_wakes(two: Pair) -> None:
    leader, standby = two.both()
    terms = "SELECT value FROM meta WHERE key = 'epoch'"
    (before,) = two.rows(terms)
    leader.signal(signal.SIGSTOP)
    # Its addresses are still its own: a standby on another machine would open its listeners now.
    eventually(lambda: two.rows(terms) != [before], two, 60)
    leader.signal(signal.SIGCONT)
    assert leader.ended() == 1
    assert code_in(leader.said()) in {"MUSTER-L052", "MUSTER-L054"}
    two.leads(standby)


def test_a_standby_says_so_opens_no_listener_and_stops_when_told(two: Pair) -> None:
    leader, standby = two.both()
    assert standby.readiness() == (503, "standby: another coordinator leads\n")
    assert leader.readiness()[0] == 200
    # Whoever dials reaches the leader: the standby's own addresses are not open.
    standby_only = alone(two, "three")
    two.hand_over_keys(leader, standby_only)
    standby_only.start()
    two.waits(standby_only)
    try:
        port = int(next(part for part in standby_only.argv if part.startswith("--link=")).rpartition(":")[2])
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0
        standby_only.signal(signal.SIGTERM)
        assert standby_only.ended() == 0
    finally:
        standby_only.kill()
    password = two.url.partition("muster:")[2].partition("@")[0]
    for hub in (*two.hubs, standby_only):
        assert hub.process is None or password not in " ".join(hub.argv)
        assert password not in hub.log.read_text()


def alone(two: Pair, folder_name: str, name: str = "") -> Hub:
    """Another coordinator of the same database, with addresses of its own; ``name`` when it is not its folder's."""
    folder = two.folder / folder_name
    link, edge = (f"127.0.0.1:{free_port()}" for _ in range(2))
    where = two.folder / "database.url", two.repository.url, link, edge
    return Hub(folder_name, folder, hub_argv(folder, *where, name or folder_name))


def refusal(hub: Hub) -> str:
    """The one line of a coordinator that does not start."""
    done = subprocess.run(hub.argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def test_who_could_not_stand_in_is_refused_by_name(two: Pair) -> None:
    leader = two.hubs[0]
    leader.start()
    two.leads(leader)
    without = alone(two, "without")
    said = refusal(without)
    assert code_in(said) == "MUSTER-L055"
    assert "it has no ca.crt, ca.key, admin-token" in said
    assert not (without.data / "ca.crt").exists()  # it made none

    other = alone(two, "other")
    two.hand_over_keys(leader, other)
    for name in ("ca.crt", "ca.key"):
        (other.data / name).unlink()
    Authority.load_or_make(other.data, dt.datetime.now(dt.UTC))
    assert code_in(refusal(other)) == "MUSTER-L055"

    twin = alone(two, "twin", name="one")
    two.hand_over_keys(leader, twin)
    assert code_in(refusal(twin)) == "MUSTER-L065"

    same = Hub("same", leader.folder, leader.argv)
    assert code_in(refusal(same)) == "MUSTER-L056"
    assert leader.readiness()[0] == 200
