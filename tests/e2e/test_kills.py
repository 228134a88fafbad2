"""kill -9 at the worst moments: nothing that was acknowledged is lost, and nothing is applied twice without need."""

from __future__ import annotations

import json
from pathlib import Path

from e2e.programs import Program, Stage, shop, stage, until
from muster_core.rollout import events as ev
from muster_core.rollout.machine import RolloutMachine


def target_state(fleet: Stage, rollout: str, cluster: str) -> str:
    view = fleet.rollout(rollout)
    found = [target.state for target in view.targets if target.cluster == cluster] if view else []
    return found[0] if found else ""


def ended(fleet: Stage, rollout: str) -> str:
    view = fleet.rollout(rollout)
    return (
        view.state
        if view and view.state in {"Succeeded", "Failed", "Aborted", "RolledBack", "Paused"}
        else ""
    )


def reported(fleet: Stage, cluster: str) -> tuple[str, str]:
    """(commit, phase) that the coordinator knows of the bundle."""
    found = [(r.release.commit, r.phase) for r in fleet.cluster(cluster).bundles if r.bundle == "shop"]
    return found[0] if found else ("", "")


def in_contact(fleet: Stage, cluster: str) -> bool:
    return fleet.cluster(cluster).state == "Online"


def test_a_coordinator_killed_during_a_rollout_goes_on_with_the_same_log(fleet: Stage) -> None:
    kube, _ = fleet.joined("berlin-04", "--ready-delay", "2")
    fleet.commit(shop("1"))
    until(
        lambda: target_state(fleet, "shop-0001", "berlin-04") in {"acknowledged", "applying"}, why=fleet.logs
    )
    fleet.hub.kill()
    before = fleet.events("shop-0001")
    assert len(before) >= 2
    fleet.start_hub()
    until(lambda: in_contact(fleet, "berlin-04"), why=fleet.logs)
    until(lambda: ended(fleet, "shop-0001"), 40, why=fleet.logs)
    assert ended(fleet, "shop-0001") == "Succeeded"
    after = fleet.events("shop-0001")
    assert after[: len(before)] == before
    events = [ev.decode(data) for data in after]
    assert [type(event) for event in events].count(ev.Started) == 1  # it went on; it did not begin anew
    assert RolloutMachine.replay(events).state == "Succeeded"
    assert kube.version() == "1"


def test_an_agent_killed_between_its_word_and_health_still_tells_the_outcome(fleet: Stage) -> None:
    kube, agent = fleet.joined("berlin-04", "--ready-delay", "3")
    commit = fleet.commit(shop("1"))
    until(lambda: kube.ask("GET", "/apis/apps/v1/namespaces/shop/deployments/web"), why=fleet.logs)
    until(lambda: target_state(fleet, "shop-0001", "berlin-04") == "applying", why=fleet.logs)
    assert target_state(fleet, "shop-0001", "berlin-04") == "applying"
    agent.kill()
    written = kube.writes()
    agent.start()
    until(lambda: ended(fleet, "shop-0001"), 40, why=fleet.logs)
    assert ended(fleet, "shop-0001") == "Succeeded"
    assert reported(fleet, "berlin-04") == (commit, "Ready")
    # The bundle's note says the phase; nothing of the bundle itself is written again.
    assert kube.writes() - written <= 1, kube.ask("GET", "/lab/requests")


def test_reports_that_waited_while_both_were_down_arrive(fleet: Stage) -> None:
    kube, agent = fleet.joined("berlin-04")
    fleet.commit(shop("1"))
    until(lambda: ended(fleet, "shop-0001") == "Succeeded", 30, why=fleet.logs)
    fleet.hub.kill()
    kube.ask(
        "DELETE", "/api/v1/namespaces/shop/configmaps/web"
    )  # somebody's hand: the agent heals it, and says so
    until(lambda: "report/shop" in spool(agent)[1], why=fleet.logs)
    agent.kill()
    epoch, waiting = spool(agent)
    fleet.start_hub()
    assert not in_contact(fleet, "berlin-04")
    agent.start()
    until(lambda: any(r.healed_count == 1 for r in fleet.cluster("berlin-04").bundles), why=fleet.logs)
    # It came as what it was, not as news of an agent that begins anew.
    query = "select epoch, last_seq from sessions where cluster = ?"
    until(lambda: fleet.rows(query, "berlin-04")[0][1] >= waiting["report/shop"], why=fleet.logs)
    assert fleet.rows(query, "berlin-04")[0][0] == epoch
    until(lambda: not spool(agent)[1], why=fleet.logs)


def spool(agent: Program) -> tuple[str, dict[str, int]]:
    """(epoch, number of each message that waits) of an agent's spool on disk."""
    record = json.loads((agent.log.with_name("state") / "outbox.json").read_text())["record"]
    return record["epoch"], {entry["key"]: entry["seq"] for entry in record["entries"]}


def test_certificates_of_ten_seconds_are_renewed_without_a_break(tmp_path: Path) -> None:
    """karmada-io/karmada#4787, #4769: certificates that nothing renewed ended the whole plane."""
    with stage(tmp_path, "--certificate-life", "10s") as fleet:
        fleet.joined("berlin-04")
        query = "select renewals from joins where cluster = ?"
        until(lambda: fleet.rows(query, "berlin-04")[0][0] >= 2, 25, why=fleet.logs)
        assert in_contact(fleet, "berlin-04")
        assert "out of contact" not in fleet.hub.log.read_text()
