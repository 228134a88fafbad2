"""The coordinator's database is lost: the fleet itself says what was, and nothing moves because of it."""

from __future__ import annotations

import pytest
from e2e.programs import Stage, shop, until
from muster_core.rollout import events as ev
from muster_proto.v1 import operator_pb2 as op

pytestmark = pytest.mark.timeout(180)


def states(fleet: Stage) -> dict[str, str]:
    """Every rollout of the bundle that the database has, by its log."""
    found = {}
    for (stream,) in fleet.rows("select distinct stream from events where stream like 'shop-%'"):
        view = fleet.rollout(stream)
        found[stream] = view.state if view else "?"
    return found


def lose_database(fleet: Stage) -> None:
    fleet.hub.kill()
    for path in fleet.data.glob("muster.db*"):
        path.unlink()


def online(fleet: Stage, *names: str) -> bool:
    views = fleet.call("ListClusters", op.ListClustersRequest()).clusters
    return {view.name for view in views if view.state == "Online"} >= set(names)


def succeeded(fleet: Stage, rollout: str) -> bool:
    view = fleet.rollout(rollout)
    return bool(view and view.state == "Succeeded")


def test_a_lost_database_is_learned_again_from_git_and_the_agents(fleet: Stage) -> None:
    """rancher/rancher#33954, #40819, #40080: a hub that was restored or moved orphaned every agent."""
    kubes = {name: fleet.joined(name)[0] for name in ("berlin-04", "munich-01")}
    fleet.commit(shop("1"))
    until(lambda: succeeded(fleet, "shop-0001"), 40, fleet.logs)
    commit = fleet.commit(shop("2"))
    until(lambda: succeeded(fleet, "shop-0002"), 40, fleet.logs)
    until(lambda: all(kube.version() == "2" for kube in kubes.values()), why=fleet.logs)
    written = {name: kube.writes() for name, kube in kubes.items()}

    lose_database(fleet)
    fleet.start_hub()
    # Clusters come from the registry, their certificates count, and they say everything again.
    until(lambda: online(fleet, *kubes), 60, fleet.logs)
    until(lambda: states(fleet), 60, fleet.logs)
    assert states(fleet) == {"shop-0002": "Succeeded"}, fleet.logs()
    events = [ev.decode(data) for data in fleet.events("shop-0002")]
    assert isinstance(events[0], ev.Started)
    assert events[0].commit == commit
    assert {e.cluster for e in events if isinstance(e, ev.TargetDone)} == set(kubes)
    assert not [e for e in events if isinstance(e, ev.OfferMade)]
    for name in kubes:
        (report,) = [report for report in fleet.cluster(name).bundles if report.bundle == "shop"]
        assert (report.release.commit, report.phase) == (commit, "Ready")
    # Nothing was applied because of it: at most the agents' own notes.
    assert all(kube.writes() - written[name] <= 1 for name, kube in kubes.items())
    assert [kube.version() for kube in kubes.values()] == ["2", "2"]

    # A late joiner gets what the others have, and the next release is an ordinary one.
    late, _ = fleet.joined("paris-01")
    until(lambda: late.version() == "2", 40, fleet.logs)
    fleet.commit(shop("3"))
    until(lambda: succeeded(fleet, "shop-0103"), 60, fleet.logs)
    until(lambda: all(kube.version() == "3" for kube in (*kubes.values(), late)), why=fleet.logs)


def test_a_commit_that_came_while_the_database_was_lost_is_the_only_thing_started(fleet: Stage) -> None:
    kube, _ = fleet.joined("berlin-04")
    fleet.commit(shop("1"))
    until(lambda: succeeded(fleet, "shop-0001"), 40, fleet.logs)
    lose_database(fleet)
    newest = fleet.commit(shop("2"), tell=False)
    fleet.start_hub()
    until(lambda: succeeded(fleet, "shop-0102"), 60, fleet.logs)
    assert states(fleet) == {"shop-0001": "Succeeded", "shop-0102": "Succeeded"}
    started = [ev.decode(fleet.events(name)[0]) for name in ("shop-0001", "shop-0102")]
    assert isinstance(started[1], ev.Started)
    assert started[1].commit == newest
    assert kube.version() == "2"
