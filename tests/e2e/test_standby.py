"""Two coordinators, one database: the standby goes on where the leader ended, and two never lead."""

from __future__ import annotations

import datetime as dt
import json
import os
import random
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from bench.programs import FLEET_ID, StubFleet
from e2e.programs import code_in
from e2e.standby import Hub, Pair, eventually, pair
from muster_coordinator.enrol.x509 import Authority
from muster_core.rollout import events as ev
from muster_proto.v1 import operator_pb2 as op
from postgres import Postgres, open_postgres

LONG = os.environ.get("MUSTER_LONG") == "1"
STUBS = 12
STEPS = 50  # a rollout of them has some more events
KILLS, FREEZES = (20, 5) if LONG else (2, 1)
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
pytestmark = [pytest.mark.timeout(900 if LONG else 180), pytest.mark.xdist_group("standby")]
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


def act(two: Pair, action: op.ActOnRolloutRequest.Action.ValueType, edge: str = "") -> None:
    two.call(
        "ActOnRollout", op.ActOnRolloutRequest(rollout="shop-0001", action=action, reason="a test"), edge
    )


def expected() -> tuple[str, dict[str, str]]:
    """How a rollout of the stubs ends when nobody is killed."""
    names = [f"stub-{number:05}" for number in range(STUBS)]
    return "Succeeded", {name: "failed" if name in FAILING else "done" for name in names}


@pytest.fixture
def dice() -> random.Random:
    seed = int(os.environ.get("MUSTER_SEED", time.time_ns() % 100_000))
    print(f"seed {seed} (MUSTER_SEED)")
    return random.Random(seed)


@contextmanager
def stubs_of(two: Pair) -> Iterator[StubFleet]:
    """Joined to who leads at the shared address; two of them fail."""
    stubs = StubFleet.join(two, two.repository, STUBS, 0.05, "--dial", "0.3")  # type: ignore[arg-type]
    try:
        stubs.order("obey", clusters=FAILING, outcome="failed")
        yield stubs
    finally:
        stubs.end()


def made_once(events: list[ev.AnyEvent]) -> bool:
    """Each attempt was offered once, but for offers that were taken back."""
    made = Counter((e.cluster, e.attempt) for e in events if isinstance(e, ev.OfferMade))
    taken = Counter((e.cluster, e.attempt) for e in events if isinstance(e, ev.OfferWithdrawn))
    return {key: number - taken[key] for key, number in made.items()} == dict.fromkeys(made, 1)


def test_a_rollout_ends_as_without_when_the_leader_is_killed_at_any_point(
    two: Pair, dice: random.Random
) -> None:
    """Points are events of the log, and a moment after one: in a transaction, before an offer, in the middle of a start."""
    leader, standby = two.both()
    with stubs_of(two):
        release(two, 1)
        kills = sorted(dice.sample(range(1, STEPS), KILLS))
        took = []
        for at in kills:
            eventually(lambda at=at: count(two, "shop-0001") >= at, two, 60)
            time.sleep(dice.uniform(0.0, 0.2))  # where it is then is left to chance
            leader.signal()
            assert leader.ended() == -signal.SIGKILL
            before = two.rows(EVENTS, "shop-0001")
            took.append(two.takes_over(standby))
            assert two.rows(EVENTS, "shop-0001")[: len(before)] == before
            leader, standby = standby, leader
            standby.start()
            two.waits(standby)
        eventually(lambda: outcome(two, "shop-0001"), two, 90)
    print(f"killed at {kills}; led again after {[f'{seconds:.2f}' for seconds in took]} s")
    assert outcome(two, "shop-0001") == expected(), f"killed at {kills}"
    events = log_of(two, "shop-0001")
    assert sum(isinstance(event, ev.Started) for event in events) == 1
    assert made_once(events)


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
    eventually(lambda: standby.readiness() == (200, "ok\n"), two)  # it leads before it has read Git
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


TABLES = ("events", "reports", "sessions", "joins", "tokens", "audit_heads", "operators", "meta")


def everything(two: Pair) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table."""
    return {table: sorted(two.rows(f"SELECT * FROM {table}"), key=repr) for table in TABLES}  # noqa: S608


@pytest.mark.parametrize("time_of", range(FREEZES))
def test_a_leader_that_was_frozen_changes_nothing_when_it_wakes(
    two: Pair, dice: random.Random, time_of: int
) -> None:
    """It is stopped in the middle of a rollout, and wakes with agents' answers in its buffers while another leads."""
    old = two.hubs[0]
    old.start()
    two.leads(old)
    new = two.alone("new")
    two.hand_over_keys(old, new)
    new.start()
    with stubs_of(two) as stubs:
        two.waits(new)
        release(two, 1)
        at = dice.randrange(3, STEPS)
        eventually(lambda: count(two, "shop-0001") >= at, two, 60)
        old.signal(signal.SIGSTOP)
        # Nobody says goodbye for it: the server ends its session, and the other leads at addresses of its own.
        took = two.takes_over(new)
        edge = new.events[-1]["edge"]
        act(two, op.ActOnRolloutRequest.PAUSE, edge)
        held = everything(two)
        woken = time.time()
        old.signal(signal.SIGCONT)
        assert old.ended() == 1
        assert everything(two) == held, f"frozen at {at}"
        assert code_in(old.said()) in {"MUSTER-L052", "MUSTER-L054"}
        assert "exception" not in old.said()
        seen = two.folder / "seen"
        stubs.order("record", file=str(seen))
        told = [line for line in map(json.loads, seen.read_text().splitlines()) if line["at"] > woken]
        assert {line["what"] for line in told} <= {"lost", "taken"}, told  # no offer, and no receipt

        # It may come back as a standby, and lead again when the other ends; then agents reach it again.
        old.start()
        new.signal(signal.SIGTERM)
        assert new.ended() == 0
        two.leads(old)
        act(two, op.ActOnRolloutRequest.RESUME)
        eventually(lambda: outcome(two, "shop-0001"), two, 60)
    print(f"frozen at {at}; led again after {took:.2f} s")
    assert outcome(two, "shop-0001") == expected(), f"frozen at {at}"
    assert made_once(log_of(two, "shop-0001"))


def test_a_standby_says_so_opens_no_listener_and_stops_when_told(two: Pair) -> None:
    leader, standby = two.hubs[0], two.alone("standby")
    leader.start()
    two.leads(leader)
    two.hand_over_keys(leader, standby)
    standby.start()
    try:
        two.waits(standby)
        assert standby.readiness() == (503, "standby: another coordinator leads\n")
        assert leader.readiness()[0] == 200
        # Whoever dials reaches the leader: the standby's own addresses are not open.
        port = int(next(part for part in standby.argv if part.startswith("--link=")).rpartition(":")[2])
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0
        standby.signal(signal.SIGTERM)
        assert standby.ended() == 0
    finally:
        standby.kill()
    password = two.url.partition("muster:")[2].partition("@")[0]
    for hub in (leader, standby):
        assert password not in " ".join(hub.argv)
        assert password not in hub.log.read_text()


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
    without = two.alone("without")
    said = refusal(without)
    assert code_in(said) == "MUSTER-L055"
    assert "it has no ca.crt, ca.key, admin-token" in said
    assert not (without.data / "ca.crt").exists()  # it made none

    other = two.alone("other")
    two.hand_over_keys(leader, other)
    for name in ("ca.crt", "ca.key"):
        (other.data / name).unlink()
    Authority.load_or_make(other.data, dt.datetime.now(dt.UTC))
    assert code_in(refusal(other)) == "MUSTER-L055"

    twin = two.alone("twin", name="one")
    two.hand_over_keys(leader, twin)
    assert code_in(refusal(twin)) == "MUSTER-L065"

    same = Hub("same", leader.folder, leader.argv)
    assert code_in(refusal(same)) == "MUSTER-L056"
    assert leader.readiness()[0] == 200
