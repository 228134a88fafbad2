"""Tokens, folders, databases and keys in the wrong hands: what they open, and who hears of it.

The coordinator here is honest; the attacker has a stolen token, a copied folder, an old backup or a key that was taken
out of the trust document.
"""

from __future__ import annotations

import datetime as dt
import shutil
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from attack.stage import SITE, Served, Site, captured, served
from e2e.programs import code_in, shop, until
from muster_core.sealing.keys import fingerprint
from muster_core.token import JoinToken
from muster_core.trust.directive import SIGNATURE_NAMESPACE, statement
from muster_core.trust.merkle import ClusterTree
from muster_proto.v1 import operator_pb2 as op


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as found:
        yield found


def identity_of(place: Site) -> str:
    """The fingerprint that this agent logs."""
    lines = until(
        lambda: [x for x in place.agent.log.read_text().splitlines() if '"joining"' in x],
        why=place.agent.said,
    )
    return lines[-1].split('"identity": "')[1].split('"')[0]


# --- tokens --------------------------------------------------------------------------------------------------------


def test_a_stolen_token_used_first_shows_other_fingerprints_and_gives_nothing(hub: Served) -> None:
    token = hub.token()
    thief, rightful = hub.site(), hub.site()
    thief.agent_of(token).start()
    join = hub.asked()
    rightful.agent_of(token).start()
    assert rightful.agent.ended() == 1
    assert "MUSTER-J004" in rightful.agent.said()
    assert "muster token create" in rightful.agent.said()
    assert fingerprint(join.identity_key) == identity_of(thief) != identity_of(rightful)
    shown = hub.muster("cluster", "approve", SITE, "--key", str(hub.fleet.key("registrar")), answer="n\n")
    assert identity_of(thief) in shown.stderr
    assert shown.returncode != 0
    assert thief.state("enrolment")["record"]["certificate"] == ""
    assert thief.kube.version() == ""
    rightful.agent_of(hub.token(), state="anew").start()
    until(lambda: fingerprint(hub.asked().identity_key) == identity_of(rightful), why=hub.why)


def test_a_token_for_one_cluster_makes_no_other(hub: Served) -> None:
    secret = JoinToken.decode(hub.token()).secret
    thief = hub.site("prize")
    thief.agent_of(hub.token_of(secret, "prize")).start()
    assert thief.agent.ended() == 1
    assert "MUSTER-J006" in thief.agent.said()


def test_a_token_that_was_used_gives_another_cluster_nothing(hub: Served) -> None:
    token = hub.token()
    first = hub.site()
    first.agent_of(token, "--poll", "1s").start()
    join = hub.asked()
    hub.fleet.register(SITE, join.uid, join.identity_key)
    hub.programs.refresh()
    until(lambda: hub.programs.cluster(SITE).state == "Online", why=hub.why)
    second = hub.site()
    second.agent_of(token).start()
    assert second.agent.ended() == 1
    assert "MUSTER-J004" in second.agent.said()
    assert hub.programs.cluster(SITE).identity_fingerprint == fingerprint(join.identity_key)
    assert hub.programs.cluster(SITE).state == "Online"


def test_another_identity_under_a_registered_name_gets_no_certificate(hub: Served) -> None:
    """Even with a good token for that name."""
    hub.joined()
    thief = hub.site()
    thief.agent_of(hub.token()).start()
    assert thief.agent.ended() == 1
    assert code_in(thief.agent.said()) == "MUSTER-J031"
    assert thief.state("enrolment")["record"]["certificate"] == ""
    assert hub.programs.cluster(SITE).state == "Online"


# --- copies and backups --------------------------------------------------------------------------------------------


def test_a_cloned_agent_is_found_out_by_its_counter(tmp_path: Path) -> None:
    with served(tmp_path, "--certificate-life=12s") as hub:
        place = hub.joined()
        until(lambda: (place.folder / "state" / "enrolment.json").exists())
        copied = place.folder / "copy"
        assert place.agent.process is not None
        place.agent.process.send_signal(signal.SIGSTOP)  # it writes: a volume is copied as of one moment
        shutil.copytree(place.folder / "state", copied)
        place.agent.process.send_signal(signal.SIGCONT)
        before = place.state("enrolment")["record"]["renewals"]
        until(lambda: place.state("enrolment")["record"]["renewals"] > before, 30, hub.why)
        until(lambda: "certificate renewed" in place.agent.log.read_text(), why=hub.why)
        place.agent.kill()
        place.agent_of("", state="copy").start()
        until(lambda: "MUSTER-J032" in hub.programs.cluster(SITE).message, 40, hub.why)
        assert "J032" in place.agent.log.read_text()
        described = hub.muster("describe", "cluster", SITE)
        assert "MUSTER-J032" in described.stdout + described.stderr


def test_an_old_volume_of_an_agent_takes_nothing_new_until_an_operator_knows(hub: Served) -> None:
    place = hub.joined()
    until(lambda: place.kube.version() == "one", 40, hub.why)
    place.agent.kill()
    backup = place.folder / "backup"
    shutil.copytree(place.folder / "state", backup)
    place.agent.start()
    second = hub.rolls_out("two", place)
    until(lambda: hub.programs.cluster(SITE).bundles[0].head_commit == second, why=hub.why)
    place.agent.kill()
    shutil.rmtree(place.folder / "state")
    shutil.copytree(backup, place.folder / "state")
    # The cluster's own copies are as old as the volume: everything comes from one backup.
    place.kube.ask("DELETE", "/api/v1/namespaces/muster-system/secrets/muster-floors")
    place.kube.ask("DELETE", "/api/v1/namespaces/muster-system/configmaps/muster-shop")
    place.agent.start()
    until(lambda: hub.programs.cluster(SITE).regressed, 30, hub.why)
    third = hub.fleet.commit(shop("three"))
    hub.programs.refresh()
    until(lambda: "MUSTER-T015" in place.agent.log.read_text(), 30, hub.why)
    assert place.kube.version() in {"one", "two"}
    place.heals(place.kube.version())
    assert hub.programs.cluster(SITE).regressed == second
    said = hub.muster("cluster", "acknowledge", SITE, "--yes")
    assert said.returncode == 0, said.stderr
    until(lambda: not hub.programs.cluster(SITE).regressed, 30, hub.why)
    hub.programs.call("StartRollout", op.StartRolloutRequest(bundle="shop", commit=third, again=True))
    until(lambda: place.kube.version() == "three", 40, hub.why)


def test_an_old_volume_alone_is_mended_from_the_clusters_own_copy(hub: Served) -> None:
    place = hub.joined()
    until(lambda: place.kube.version() == "one", 40, hub.why)
    place.agent.kill()
    backup = place.folder / "backup"
    shutil.copytree(place.folder / "state", backup)
    place.agent.start()
    second = hub.rolls_out("two", place)
    until(lambda: place.state("floors")["record"]["bundles"] == {"shop": second}, why=hub.why)
    place.agent.kill()
    shutil.rmtree(place.folder / "state")
    shutil.copytree(backup, place.folder / "state")
    hub.programs.hub.kill()  # so that nobody can offer it again
    place.agent.start()
    until(lambda: place.state("floors")["record"]["bundles"] == {"shop": second}, why=hub.why)


def a_week_passes(hub: Served) -> tuple[Site, str]:
    """Since the backup a release went out; then the coordinator's whole folder is what it was. Gives that release."""
    place = hub.joined()
    until(lambda: place.kube.version() == "one", 40, hub.why)
    until(lambda: (v := hub.programs.rollout("shop-0001")) and v.state == "Succeeded", 40, hub.why)
    hub.programs.hub.kill()
    backup = hub.fleet.folder / "last-week"
    shutil.copytree(hub.programs.data, backup)
    hub.programs.start_hub()
    until(lambda: hub.programs.cluster(SITE).state == "Online", 30, hub.why)
    second = hub.rolls_out("two", place)
    until(lambda: (v := hub.programs.rollout("shop-0002")) and v.state == "Succeeded", 40, hub.why)
    hub.programs.hub.kill()
    shutil.rmtree(hub.programs.data)
    shutil.copytree(backup, hub.programs.data)
    return place, second


def audited(hub: Served, action: str) -> list[str]:
    """The coordinator's entries of this action."""
    said = hub.muster("audit", "export")
    assert said.returncode == 0, said.stderr
    return [line for line in said.stdout.splitlines() if f'"{action}"' in line]


def alarms(address: str) -> str:
    """What the coordinator's metrics say of this alarm."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return next(line.split()[-1] for line in lines if line.startswith('muster_alarms{code="MUSTER-L046"}'))


def test_a_coordinators_database_of_last_week_raises_an_alarm_until_somebody_knows(hub: Served) -> None:
    place, second = a_week_passes(hub)
    ready = hub.programs.hub.start(ready=True)
    until(lambda: "MUSTER-L046" in hub.programs.cluster(SITE).message, 30, hub.why)
    assert "the database went back" in hub.programs.hub.log.read_text()
    assert alarms(ready["metrics"]) == "1.0"
    for seen in (("get", "clusters", "-o", "wide"), ("describe", "cluster", SITE)):
        assert "MUSTER-L046" in hub.muster(*seen).stdout
    assert len(found := audited(hub, "database-alarm")) == 1, found
    assert f'"cluster/{place.uid()}"' in found[0]
    # Neither the agent's next words nor another start of the coordinator end it.
    until(lambda: [b for b in hub.programs.cluster(SITE).bundles if b.head_commit == second], 30, hub.why)
    hub.programs.hub.kill()
    ready = hub.programs.hub.start(ready=True)
    until(lambda: hub.programs.cluster(SITE).state == "Online", 30, hub.why)
    assert "MUSTER-L046" in hub.programs.cluster(SITE).message
    said = hub.muster("cluster", "acknowledge", SITE, "--yes")
    assert said.returncode == 0, said.stderr
    assert hub.programs.cluster(SITE).message == ""
    assert alarms(ready["metrics"]) == "0.0"
    assert len(audited(hub, "database-alarm")) == 1


def test_a_coordinator_without_its_database_is_rebuilt_and_calls_nobody_an_attacker(hub: Served) -> None:
    place = hub.joined()
    until(lambda: (v := hub.programs.rollout("shop-0001")) and v.state == "Succeeded", 40, hub.why)
    hub.programs.hub.kill()
    for file in hub.programs.data.glob("muster.db*"):
        file.unlink()
    hub.programs.start_hub()
    until(lambda: audited(hub, "database-rebuilt"), 30, hub.why)
    hub.rolls_out("two", place)
    hub.programs.hub.kill()
    hub.programs.start_hub()
    until(lambda: hub.programs.cluster(SITE).state == "Online", 30, hub.why)
    assert hub.programs.cluster(SITE).message == ""
    assert len(audited(hub, "database-rebuilt")) == 1
    assert audited(hub, "database-alarm") == []


def test_a_coordinators_database_of_last_week_takes_nobody_back(hub: Served) -> None:
    place, second = a_week_passes(hub)
    hub.programs.start_hub()
    until(lambda: hub.programs.cluster(SITE).state == "Online", 30, hub.why)
    until(lambda: [b for b in hub.programs.cluster(SITE).bundles if b.head_commit == second], 30, hub.why)
    assert place.kube.version() == "two"
    assert place.floors()["bundles"] == {"shop": second}
    # Somebody believes the old database, and even asks for what it knows last.
    said = hub.muster("rollout", "start", "shop", "--commit", hub.fleet.anchor, "--again")
    assert code_in(said.stderr) == "MUSTER-R008"
    third = hub.rolls_out("three", place)
    place.heals("three")
    assert place.floors()["bundles"] == {"shop": third}


# --- keys and documents that have had their day --------------------------------------------------------------------


def test_an_operators_key_is_worth_nothing_after_its_removal(tmp_path: Path) -> None:
    with captured(tmp_path, "directives", "--poll", "1s") as found:
        fleet, now = found.fleet, time.time()
        first = fleet.directive(fleet.anchor, 1, now)
        found.takes(fleet.directed(fleet.offer(fleet.anchor, "shop-0001"), first, found.uid))
        second = fleet.commit(shop("two"))
        before = fleet.directive(second, 2, now, previous=first.digest)
        kept = fleet.directed(fleet.offer(second, "shop-0002"), before, found.uid)  # signed while it was good
        head = fleet.commit({"trust/2.json": fleet.text(fleet.document(2, without="operator"))}, by="root")
        found.sees(head)
        assert found.refused(kept) == "T071"
        found.site.heals("one")


def test_an_expired_trust_document_stops_what_is_new_and_not_healing(tmp_path: Path) -> None:
    with captured(tmp_path, "signed-commits", "--poll", "1s") as found:
        fleet = found.fleet
        found.takes(fleet.offer(fleet.anchor, "shop-0001"))
        expired = fleet.document(2, expires=f"{dt.datetime.now(dt.UTC):%Y-%m-%dT%H:%M:%SZ}")
        fleet.commit({"trust/2.json": fleet.text(expired)}, by="root")
        second = fleet.commit(shop("two"))
        assert found.refused(fleet.offer(second, "shop-0002")) == "T065"
        found.site.heals("one")


def test_a_directive_of_a_stranger_goes_nowhere_by_an_honest_coordinator(tmp_path: Path) -> None:
    with served(tmp_path, mode="directives") as hub:
        place = hub.joined()
        uids = [entry.spec.uid for entry in hub.fleet.entries().values()]
        tree = ClusterTree(uids)
        said = hub.fleet.directive(
            hub.fleet.anchor, 1, time.time(), clusters_root=tree.root, clusters_count=tree.count
        )
        signature = hub.fleet.people["stranger"].sign(statement(said), SIGNATURE_NAMESPACE)
        request = op.StartRolloutRequest(
            bundle="shop", commit=hub.fleet.anchor, directive=statement(said), directive_signature=signature,
            cluster_uids=uids,
        )  # fmt: skip
        hub.programs.call("StartRollout", request)
        until(lambda: "T071" in {b.code for b in hub.programs.cluster(SITE).bundles}, 30, hub.why)
        assert place.kube.version() == ""
        assert not place.floors()["bundles"]
