"""What an attacker's coordinator does not get by the wire itself: foreign numbers, silence, floods, a gigabyte.

The agent stays up in bounded memory, goes on healing, and serves an honest coordinator afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from attack.stage import Captured, Fleet, HostileHub, captured, site
from e2e.programs import shop, until
from muster_core.session.backoff import Backoff
from muster_proto.v1 import link_pb2 as wire

ROOM = 96 << 20  # bytes that an agent may grow by, whatever it is sent


# What the programs do not hold yet; each reason names where.


@pytest.fixture
def attack(tmp_path: Path) -> Iterator[Captured]:
    with captured(tmp_path, "signed-commits", "--poll", "1s") as found:
        found.takes(found.fleet.offer(found.fleet.anchor, "shop-0001"))
        yield found


def back_in_contact(attack: Captured, sessions: int, seconds: float = 30.0) -> None:
    until(lambda: len(attack.hub.said("session")) > sessions, seconds, attack.why)


def goes_on(attack: Captured, version: str, rollout: str) -> None:
    """The same process heals, hears and takes the next release."""
    assert attack.site.alive()
    attack.site.heals("one")
    attack.takes(attack.fleet.offer(attack.fleet.commit(shop(version)), rollout))
    assert attack.site.kube.version() == version


# --- who the coordinator is ----------------------------------------------------------------------------------------


def test_a_coordinator_with_a_ca_of_its_own_is_not_talked_to(tmp_path: Path) -> None:
    """It stands at the address of the operator's token, and approves everybody."""
    fleet = Fleet(tmp_path)
    honest = HostileHub(tmp_path, tmp_path / "ca")
    honest.close()
    hub = HostileHub(tmp_path, tmp_path / "another-ca", honest.link, honest.edge)
    hub.tell("approve")
    place = site(fleet, tmp_path)
    try:
        token = fleet.token("secret", ca=(honest.ca / "ca.crt").read_bytes(), link=hub.link, edge=hub.edge)
        place.agent_of(token.encode()).start()
        until(lambda: place.agent.log.read_text().count("cannot be reached") >= 2, why=place.agent.said)
        assert hub.joins() == []
        assert place.state("enrolment")["record"]["certificate"] == ""
    finally:
        place.close()
        hub.close()


def test_a_token_that_the_coordinator_minted_moves_no_agent_that_has_joined(
    attack: Captured, tmp_path: Path
) -> None:
    """Its own CA, trust digest and repository; somebody even starts the agent with it."""
    evil = Fleet(tmp_path / "evil")
    evil.commit(shop("evil"))
    token = evil.token(
        "secret", ca=(attack.hub.ca / "ca.crt").read_bytes(), link=attack.hub.link, edge=attack.hub.edge
    )
    pinned = attack.site.state("enrolment")["record"]
    attack.site.agent.kill()
    sessions = len(attack.hub.said("session"))
    attack.site.agent_of(token.encode(), "--poll", "1s").start()
    back_in_contact(attack, sessions)
    attack.hub.offer(evil.offer(evil.commit(shop("evil")), "shop-0002"))
    until(lambda: [r for r in attack.hub.reports("shop-0002") if r.code == "T013"], why=attack.why)
    assert attack.site.kube.version() == "one"
    assert attack.site.state("enrolment")["record"] == pinned
    assert attack.site.state("trust")["record"]["document"] == attack.fleet.text(attack.fleet.trust)
    assert attack.site.floors()["bundles"] == {"shop": attack.fleet.anchor}


def test_a_coordinator_that_mints_a_token_for_its_own_trust_gets_no_agent_of_the_operators(
    tmp_path: Path,
) -> None:
    """The operator's token names trust by digest: documents of the attacker's roots are none, wherever they stand."""
    fleet, evil = Fleet(tmp_path), Fleet(tmp_path / "evil")
    hub = HostileHub(tmp_path, tmp_path / "ca")
    place = site(fleet, tmp_path)
    try:
        token = fleet.token(
            "secret",
            ca=(hub.ca / "ca.crt").read_bytes(),
            link=hub.link,
            edge=hub.edge,
            trust_digest=evil.trust.digest,
        )
        found = Captured(fleet, hub, place)
        place.agent_of(token.encode(), "--poll", "1s").start()
        request = until(hub.joins, why=found.why)[0]
        fleet.register(place.name, request.cluster_uid, request.identity_key)
        hub.tell("approve")
        until(lambda: hub.said("session"), why=found.why)
        until(lambda: "T002" in place.agent.log.read_text(), why=found.why)
        hub.offer(fleet.offer(fleet.anchor, "shop-0001"))
        until(lambda: [r for r in hub.reports("shop-0001") if r.code], why=found.why)
        assert place.kube.version() == ""
        assert not place.kube.ask("GET", "/api/v1/namespaces/shop")
        fleet.commit(shop("two"))
        hub.send(wire.HubFrame(head=wire.Head(commit="0" * 40)))
        until(lambda: place.agent.log.read_text().count("T002") >= 2, why=found.why)
        assert set(place.floors()["branches"].values()) <= {fleet.anchor}  # which the operator's token names
        assert not place.floors()["bundles"]
    finally:
        place.close()
        hub.close()


# --- numbers and messages of others --------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1_000_000, 2**62, 2**63, 2**64 - 1])
def test_a_welcome_with_anothers_numbers_silences_no_report(attack: Captured, number: int) -> None:
    attack.hub.greet(last_agent_seq=number)
    sessions = len(attack.hub.said("session"))
    attack.hub.send(wire.HubFrame(bye=wire.Bye(retry_after_seconds=1, why="again")))
    back_in_contact(attack, sessions)
    attack.hub.greet()
    attack.hub.send(wire.HubFrame(bye=wire.Bye(retry_after_seconds=1, why="again")))
    back_in_contact(attack, sessions + 1)
    goes_on(attack, "two", "shop-0002")


@pytest.mark.parametrize("number", [1_000_000, 2**64 - 1])
def test_acknowledgements_of_what_was_never_said_silence_no_report(attack: Captured, number: int) -> None:
    attack.hub.send(wire.HubFrame(ack=number))
    attack.hub.send(wire.HubFrame(beat=wire.Beat(audit_ack=number)))
    goes_on(attack, "two", "shop-0002")


def test_another_clusters_welcome_raises_no_alarm_and_moves_no_floor(attack: Captured) -> None:
    """Floors, bundles and addresses of somebody else's history."""
    floors = attack.site.state("floors")["record"]
    other = attack.fleet.commit({"x": "y"}, branch="other", by="")
    for floor in ("0" * 40, other, "HEAD", "--help"):
        attack.hub.greet(floor_commit=floor, resend_bundles=["theirs", "../../x"] * 500)
        sessions = len(attack.hub.said("session"))
        attack.hub.send(wire.HubFrame(bye=wire.Bye(retry_after_seconds=1)))
        back_in_contact(attack, sessions)
    attack.site.heals("one")
    assert attack.site.state("floors")["record"] == floors
    goes_on(attack, "two", "shop-0002")


def test_bytes_that_are_no_message_end_the_session_and_nothing_more(attack: Captured) -> None:
    sessions = len(attack.hub.said("session"))
    attack.hub.tell("send", frame="/////w==")
    back_in_contact(attack, sessions)
    goes_on(attack, "two", "shop-0002")


@pytest.mark.parametrize("name", ["x" * 300, "../../../etc/passwd", "a\0b", "Shop!", "muster/registry"])
def test_an_offer_of_a_bundle_that_cannot_be_one_ends_no_agent(attack: Captured, name: str) -> None:
    release = wire.Release(bundle=name, commit="0" * 40, tree_digest="0" * 64)
    attack.hub.offer(wire.Offer(rollout="x-0001", release=release, attempt=1))
    goes_on(attack, "two", "shop-0002")
    assert not list((attack.site.folder / "state").glob("*passwd*"))


def test_an_offer_that_nobody_can_take_does_not_stop_healing(attack: Captured) -> None:
    """A commit that is in no repository: the agent looks for it again and again, and heals meanwhile."""
    release = wire.Release(bundle="shop", commit="0" * 40, tree_digest="0" * 64)
    attack.hub.offer(wire.Offer(rollout="shop-0002", release=release, attempt=1))
    until(lambda: [r for r in attack.hub.reports("shop-0002") if r.code == "T013"], why=attack.why)
    attack.site.heals("one")
    attack.site.heals("one")
    assert attack.site.floors()["bundles"] == {"shop": attack.fleet.anchor}


def test_an_offer_without_anything_ends_no_agent(attack: Captured) -> None:
    attack.hub.offer(wire.Offer())
    attack.hub.send(wire.HubFrame(withdraw=wire.Withdraw(bundle="shop")))
    attack.hub.send(wire.HubFrame(head=wire.Head(commit="x" * 1_000_000)))
    attack.hub.send(wire.HubFrame())
    goes_on(attack, "two", "shop-0002")


def test_a_good_bye_until_the_end_of_time_is_a_short_one() -> None:
    """An attacker who holds the coordinator for a minute must not have silenced the fleet for years.

    Nobody waits for years in a test: the longest number that fits on the wire is given to what counts the wait.
    """
    backoff = Backoff(lambda least, most: most)
    backoff.limits(float(2**32 - 1), float(2**32 - 1))
    assert backoff.next_delay() <= 3_600


# --- silence and floods --------------------------------------------------------------------------------------------


def test_withholding_everything_stops_neither_healing_nor_trust(attack: Captured) -> None:
    """No offer, no head, no acknowledgement: what waits is seen in the agent's own metrics."""
    attack.hub.tell("mute")
    attack.site.heals("one")
    newest = attack.fleet.commit({"policies/README.md": "none yet\n"}, by="policy")
    until(lambda: attack.site.state("floors")["record"]["branches"]["fleet"] == newest, why=attack.why)
    attack.site.heals("one")
    until(lambda: attack.site.metric("muster_spool_bytes") > 0, why=attack.why)
    assert attack.site.kube.version() == "one"


def test_a_frame_of_a_gigabyte_costs_neither_memory_nor_healing(attack: Captured) -> None:
    before, sessions = attack.site.memory(), len(attack.hub.said("session"))
    attack.hub.tell("huge", size=1 << 30)
    until(lambda: attack.hub.said("sending"), why=attack.why)
    back_in_contact(attack, sessions)
    assert attack.site.memory() - before < ROOM
    goes_on(attack, "two", "shop-0002")


@pytest.mark.parametrize(("vary", "count"), [("rollout", 5_000), ("bundle", 5_000)])
def test_endless_small_frames_cost_neither_memory_nor_healing(
    attack: Captured, vary: str, count: int
) -> None:
    draft = attack.fleet.commit(shop("draft"), by="")
    before = attack.site.memory()
    attack.hub.flood(attack.fleet.offer(draft, "flood"), vary=vary, count=count)
    attack.site.heals("one")
    until(lambda: attack.hub.said("flooded"), 60, attack.why)
    attack.site.heals("one")
    if vary == "rollout":
        goes_on(attack, "two", "shop-0002")
    assert attack.site.alive()
    assert attack.site.memory() - before < ROOM
    state = attack.site.folder / "state"
    assert sum(file.stat().st_size for file in state.rglob("*") if file.is_file()) < 64 << 20
    assert len(list(state.glob("bundle*.json"))) < 2_000
