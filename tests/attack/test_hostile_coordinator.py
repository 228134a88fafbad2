"""A coordinator in the attacker's hands, with the fleet's own CA: what it says, and what it does not get.

Every test looks at the cluster and at the agent's floors, not only at the code that was reported.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from attack.stage import FLEET_ID, SITE, Captured, Fleet, HostileHub, bundle, captured
from e2e.programs import code_in, shop, until
from muster_core.release import Release
from muster_core.sealing.keys import SealingKey
from muster_core.trust.directive import SIGNATURE_NAMESPACE, Directive, decode, statement
from muster_core.trust.merkle import ClusterTree
from muster_proto.v1 import link_pb2 as wire
from muster_proto.v1 import operator_pb2 as op
from unit.core.trust.keys import Spoke

NUMBERS = itertools.count(2)
POLICY = """apiVersion: kyverno.io/v1
kind: ClusterPolicy
metadata: {name: team}
spec:
  validationFailureAction: Enforce
  rules:
  - name: team
    match: {any: [{resources: {kinds: [ConfigMap]}}]}
    validate: {message: say whose, pattern: {metadata: {labels: {team: "?*"}}}}
"""


def hurried(offer: wire.Offer, seconds: int) -> wire.Offer:
    """With a deadline and a soak at the numbers that the wire had for them once; below 128 seconds."""
    return wire.Offer.FromString(offer.SerializeToString() + bytes((0x38, seconds, 0x40, seconds)))


def rollout() -> str:
    return f"shop-{next(NUMBERS):04d}"


@pytest.fixture(scope="module")
def attack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Captured]:
    """One site for all attacks that are refused: it stays at version one."""
    with captured(tmp_path_factory.mktemp("attack")) as found:
        found.takes(found.fleet.offer(found.fleet.anchor, "shop-0001"))
        yield found


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Captured]:
    """A site of its own, for attacks after which it is not the same."""
    with captured(tmp_path, "signed-commits", "--poll", "1s") as found:
        found.takes(found.fleet.offer(found.fleet.anchor, "shop-0001"))
        yield found


@pytest.fixture(scope="module", params=["directives", "both"])
def directed(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Captured]:
    """The same where an operator's directive is asked for; number one was taken."""
    with captured(tmp_path_factory.mktemp("attack"), request.param) as found:
        fleet, now = found.fleet, time.time()
        offer = fleet.offer(fleet.anchor, "shop-0001")
        found.takes(fleet.directed(offer, fleet.directive(fleet.anchor, 1, now), found.uid))
        yield found


# --- content that nobody approved ----------------------------------------------------------------------------------


def test_swapping_the_commit_for_a_draft_gains_nothing(attack: Captured) -> None:
    fleet = attack.fleet
    draft = fleet.commit(shop("draft"), by="")
    fleet.commit(shop("final"))
    assert attack.refused(fleet.offer(draft, rollout())) == "T040"
    attack.site.heals("one")


def test_swapping_the_commit_and_not_its_digest_gains_nothing(attack: Captured) -> None:
    fleet = attack.fleet
    first = fleet.offer(fleet.anchor, rollout())
    first.release.commit = fleet.commit(shop("swapped"))
    assert attack.refused(first) == "T030"


def test_swapping_the_tree_digest_gains_nothing(attack: Captured) -> None:
    fleet = attack.fleet
    offer = fleet.offer(fleet.commit(shop("digest")), rollout())
    offer.release.tree_digest = "0" * 64
    assert attack.refused(offer) == "T030"


@pytest.mark.parametrize("name", ["main", "refs/muster/remote/main", "HEAD", "--help", "@{0}", ""])
def test_a_name_in_the_place_of_a_commit_gains_nothing(attack: Captured, name: str) -> None:
    """A name would be read again each time that it is used."""
    fleet = attack.fleet
    offer = fleet.offer(newest := fleet.commit(shop(f"named-{next(NUMBERS)}")), rollout())
    attack.sees(newest)
    offer.release.commit = name or offer.release.commit[:12]
    attack.hub.offer(offer)
    # What comes after it on the same stream was answered: so this was judged, or thrown away as no offer at all.
    assert attack.refused(fleet.offer(fleet.commit(shop(f"after-{rollout()}"), by=""), rollout())) == "T040"
    assert not [r for r in attack.hub.reports(offer.rollout) if r.outcome == wire.OUTCOME_HEALTHY]
    assert attack.site.floors()["bundles"] == {"shop": fleet.anchor}
    assert attack.site.kube.version() == "one"


def test_a_release_of_an_old_commit_is_judged_by_the_newest_policies(alone: Captured) -> None:
    fleet = alone.fleet
    lax = fleet.commit(shop("lax"))
    alone.sees(fleet.commit({"policies/team.yaml": POLICY}, by="policy"))
    assert alone.refused(fleet.offer(lax, rollout())).startswith("P")
    assert alone.site.kube.version() == "one"
    alone.site.heals("one")


# --- back in time --------------------------------------------------------------------------------------------------


def test_asking_to_go_back_below_the_floor_gains_nothing(alone: Captured) -> None:
    fleet = alone.fleet
    second = fleet.commit(shop("two"))
    alone.takes(fleet.offer(second, rollout()))
    assert alone.refused(fleet.offer(fleet.anchor, rollout())) == "T012"
    back = fleet.offer(fleet.anchor, rollout(), attempt=7, catch_up=True)
    assert alone.refused(back) == "T012"
    assert alone.site.floors()["bundles"] == {"shop": second}
    alone.site.heals("two")


def test_acknowledging_a_floor_on_its_own_takes_nobody_back(alone: Captured) -> None:
    """It may end its own alarm, never lower a floor; the alarm it raised itself is the agent's report."""
    fleet = alone.fleet
    second = fleet.commit(shop("two"))
    alone.takes(fleet.offer(second, rollout()))
    for commit in (second, fleet.anchor, "0" * 40, ""):
        alone.hub.send(wire.HubFrame(floor_acknowledged=wire.FloorAcknowledged(commit=commit)))
    assert alone.refused(fleet.offer(fleet.anchor, rollout())) == "T012"
    assert alone.site.floors()["bundles"] == {"shop": second}


def test_an_alarm_that_the_hub_raises_and_ends_itself_gains_only_silence(alone: Captured) -> None:
    """It lies about the floor, so that nothing is taken; it ends that again, and is where it was before."""
    fleet, lie = alone.fleet, "0" * 40
    second = fleet.commit(shop("two"))
    alone.takes(fleet.offer(second, rollout()))
    alone.site.agent.kill()
    alone.hub.greet(floor_commit=lie)
    alone.site.agent.start()
    until(lambda: alone.site.floors().get("regressed") == lie, why=alone.why)
    third = fleet.commit(shop("three"))
    for commit in ("", second, fleet.anchor, "1" * 40):
        alone.hub.send(wire.HubFrame(floor_acknowledged=wire.FloorAcknowledged(commit=commit)))
        assert alone.refused(fleet.offer(third, rollout())) == "T015"
    alone.site.heals("two")
    alone.hub.send(wire.HubFrame(floor_acknowledged=wire.FloorAcknowledged(commit=lie)))
    until(lambda: not alone.site.floors()["regressed"], why=alone.why)
    assert alone.refused(fleet.offer(fleet.anchor, rollout())) == "T012"
    assert alone.site.floors()["bundles"] == {"shop": second}
    alone.takes(fleet.offer(third, rollout()))


def test_flipping_may_return_on_the_wire_returns_nobody(alone: Captured) -> None:
    """The field's number is sent as an old program would; the bundle says ``rollback: none``."""
    fleet = alone.fleet
    bad = fleet.commit({**shop("two-never"), **bundle(health="2s", rollback="none")})
    offer = fleet.offer(bad, rollout())
    alone.hub.offer(wire.Offer.FromString(offer.SerializeToString() + b"\x30\x01"))
    report = alone.verdict(offer.rollout)
    assert report.outcome == wire.OUTCOME_FAILED
    assert report.release.commit == bad
    assert alone.site.kube.version() == "two-never"
    alone.site.heals("two-never")


def test_the_hubs_deadline_is_not_the_agents_verdict(alone: Captured) -> None:
    """Neither earlier nor later than the signed bundle says; an offer has no word for it any more."""
    fleet = alone.fleet
    slow = fleet.commit({**shop("two-never"), **bundle(health="4s", rollback="none")})
    started = time.monotonic()
    alone.hub.offer(hurried(fleet.offer(slow, hasty := rollout()), 1))
    assert alone.verdict(hasty).outcome == wire.OUTCOME_FAILED
    assert time.monotonic() - started >= 4
    quick = fleet.commit({**shop("three-never"), **bundle(health="1s", rollback="none")})
    alone.hub.offer(hurried(fleet.offer(quick, patient := rollout()), 127))
    assert alone.verdict(patient).outcome == wire.OUTCOME_FAILED


def test_offering_a_failed_release_again_and_again_gains_three_tries_a_day(alone: Captured) -> None:
    fleet = alone.fleet
    bad = fleet.commit({**shop("two-never"), **bundle(health="1s")})
    for attempt in (1, 2, 3):
        alone.hub.offer(fleet.offer(bad, name := rollout(), attempt))
        assert alone.verdict(name).outcome == wire.OUTCOME_RETURNED
        until(lambda: alone.site.kube.version() == "one", why=alone.why)
    assert alone.refused(fleet.offer(bad, rollout(), 3)) == "T081"
    assert alone.refused(fleet.offer(bad, rollout(), 4)) == "T082"
    assert alone.refused(fleet.offer(bad, rollout(), 3, catch_up=True)) == "T081"
    assert alone.refused(fleet.offer(bad, rollout(), 4, catch_up=True)) == "T082"
    assert alone.refused(fleet.offer(bad, rollout(), 4_000_000_000)) == "T082"
    alone.site.heals("one")


# --- directives -----------------------------------------------------------------------------------------------------


def test_an_offer_without_a_directive_is_refused_where_one_is_asked_for(directed: Captured) -> None:
    fleet = directed.fleet
    assert directed.refused(fleet.offer(fleet.commit(shop("bare")), rollout())) == "T078"


def test_a_directive_by_a_stranger_is_refused(directed: Captured) -> None:
    fleet = directed.fleet
    commit = fleet.commit(shop("stranger"))
    said = fleet.directive(commit, 5, time.time())
    for who in ("stranger", "releaser", "registrar"):
        assert (
            directed.refused(fleet.directed(fleet.offer(commit, rollout()), said, directed.uid, who))
            == "T071"
        )


def test_a_directive_of_another_fleet_is_refused(directed: Captured) -> None:
    fleet = directed.fleet
    commit = fleet.commit(shop("foreign"))
    said = fleet.directive(commit, 5, time.time(), fleet="f" * 32)
    assert directed.refused(fleet.directed(fleet.offer(commit, rollout()), said, directed.uid)) == "T073"


def test_a_directive_for_another_release_is_refused(directed: Captured) -> None:
    fleet = directed.fleet
    named, other = fleet.commit(shop("named")), fleet.commit(shop("other"))
    said = fleet.directive(named, 5, time.time())
    assert directed.refused(fleet.directed(fleet.offer(other, rollout()), said, directed.uid)) == "T079"


@pytest.mark.parametrize("field", ["plan_digest", "clusters_root", "catch_up_until", "goes_back"])
def test_changing_a_signed_directive_breaks_it(directed: Captured, field: str) -> None:
    fleet = directed.fleet
    commit = fleet.commit(shop(f"changed-{field}"))
    said = fleet.directive(commit, 5, time.time())
    offer = fleet.directed(fleet.offer(commit, rollout()), said, directed.uid)
    changed = {
        "plan_digest": "0" * 64,
        "clusters_root": b"\0" * 32,
        "catch_up_until": said.catch_up_until * 2,
        "goes_back": True,
    }
    offer.directive = statement(msgspec.structs.replace(said, **{field: changed[field]}))
    assert directed.refused(offer) == "T071"


def test_a_directive_for_another_plan_than_the_commits_is_refused(directed: Captured) -> None:
    fleet = directed.fleet
    commit = fleet.commit(shop("plan"))
    said = fleet.directive(commit, 5, time.time(), plan_digest="0" * 64)
    assert directed.refused(fleet.directed(fleet.offer(commit, rollout()), said, directed.uid)) == "T077"


def test_another_clusters_proof_is_refused(directed: Captured) -> None:
    """The offer was made for somebody else, and came here."""
    fleet = directed.fleet
    commit = fleet.commit(shop("proof"))
    said = fleet.directive(commit, 5, time.time())
    offer = fleet.offer(commit, rollout())
    assert directed.refused(fleet.directed(offer, said, "uid-of-another")) == "T074"
    without = fleet.directed(fleet.offer(commit, rollout()), said, directed.uid)
    without.ClearField("proof")
    assert directed.refused(without) == "T074"


def test_an_expired_directive_is_refused_whatever_the_hub_says_of_the_time(directed: Captured) -> None:
    fleet = directed.fleet
    commit, now = fleet.commit(shop("late")), time.time()
    said = fleet.directive(
        commit, 5, now, issued=int(now) - 100, not_after=int(now) - 50, catch_up_until=int(now) - 10
    )
    for catch_up in (False, True):
        offer = fleet.directed(fleet.offer(commit, rollout(), catch_up=catch_up), said, directed.uid)
        assert directed.refused(offer) == "T075"


def test_a_directive_that_does_not_hold_yet_waits_for_this_clusters_own_clock(directed: Captured) -> None:
    fleet = directed.fleet
    commit, now = fleet.commit(shop("early")), time.time()
    said = fleet.directive(commit, 5, now, not_before=int(now) + 300)
    offer = fleet.directed(fleet.offer(commit, early := rollout()), said, directed.uid)
    directed.hub.offer(offer)
    until(
        lambda: [r for r in directed.hub.reports(early) if r.outcome == wire.OUTCOME_STAGED], why=directed.why
    )
    assert directed.site.kube.version() == "one"
    directed.hub.send(wire.HubFrame(withdraw=wire.Withdraw(rollout=early, bundle="shop", attempt=1)))


def test_replaying_an_old_directive_gains_nothing(tmp_path: Path) -> None:
    with captured(tmp_path, "directives") as found:
        fleet, now = found.fleet, time.time()
        old = fleet.directive(fleet.anchor, 1, now)
        found.takes(fleet.directed(fleet.offer(fleet.anchor, rollout()), old, found.uid))
        second = fleet.commit(shop("two"))
        new = fleet.directive(second, 2, now, previous=old.digest)
        found.takes(fleet.directed(fleet.offer(second, rollout()), new, found.uid))
        replayed = fleet.directed(fleet.offer(fleet.anchor, rollout()), old, found.uid)
        assert found.refused(replayed) == "T012"
        # Not even where ancestry would not forbid it: an older number for what runs now.
        again = fleet.directive(second, 1, now)
        assert found.refused(fleet.directed(fleet.offer(second, rollout()), again, found.uid)) == "T076"
        found.site.heals("two")


def test_replaying_a_directive_that_went_back_gains_nothing(tmp_path: Path) -> None:
    """What an operator allowed once is not allowed for ever."""
    with captured(tmp_path, "directives") as found:
        fleet, now = found.fleet, time.time()
        first = fleet.directive(fleet.anchor, 1, now)
        found.takes(fleet.directed(fleet.offer(fleet.anchor, rollout()), first, found.uid))
        second = fleet.commit(shop("two"))
        forward = fleet.directive(second, 2, now, previous=first.digest)
        found.takes(fleet.directed(fleet.offer(second, rollout()), forward, found.uid))
        back = fleet.directive(
            fleet.anchor, 3, now, previous=forward.digest, goes_back=True, reason="two is bad"
        )
        found.takes(fleet.directed(fleet.offer(fleet.anchor, rollout()), back, found.uid))
        third = fleet.commit(shop("three"))
        onward = fleet.directive(third, 4, now, previous=back.digest)
        found.takes(fleet.directed(fleet.offer(third, rollout()), onward, found.uid))
        assert found.refused(fleet.directed(fleet.offer(fleet.anchor, rollout()), back, found.uid)) == "T076"
        found.site.heals("three")


def test_a_directive_for_one_bundle_returns_no_other(directed: Captured) -> None:
    fleet = directed.fleet
    commit = fleet.commit(shop("return"))
    said = fleet.directive(commit, 5, time.time(), return_to=Release("db", commit, "0" * 64))
    assert directed.refused(fleet.directed(fleet.offer(commit, rollout()), said, directed.uid)) == "T072"


# --- what operators are shown --------------------------------------------------------------------------------------


def muster(hub: HostileHub, fleet: Fleet, *args: str) -> subprocess.CompletedProcess[str]:
    """The operator's command, whose context leads to the attacker."""
    context = hub.ca / "context.json"
    (hub.ca / "token").write_text("anything")
    context.write_text(json.dumps({"ca_pem_file": "ca.crt", "edge": hub.edge, "token_file": "token"}))
    return subprocess.run(
        [sys.executable, "-m", "muster_cli.main", "--context", str(context), *args],
        check=False, capture_output=True, text=True, timeout=60, cwd=fleet.checkout,
        env={**os.environ, "GRPC_VERBOSITY": "NONE", "XDG_CONFIG_HOME": str(fleet.folder)},
    )  # fmt: skip


def test_another_sealing_key_under_a_clusters_name_is_not_approved(tmp_path: Path) -> None:
    """The attacker shows the cluster's identity, and a sealing key of its own."""
    fleet, victim, thief = Fleet(tmp_path), Spoke(SITE), Spoke("thief")
    hub = HostileHub(tmp_path, tmp_path / "ca")
    try:
        for signature in (
            b"",
            bytes(64),
            bytes.fromhex(victim.sealing(1, fleet=FLEET_ID, by=thief).signature),
        ):
            shown = op.Join(
                cluster=SITE, uid=victim.uid, identity_key=victim.identity.public, state="Pending",
                sealing_key=SealingKey.generate().public, sealing_generation=1, sealing_signature=signature,
            )  # fmt: skip
            hub.tell_operators("ListJoins", op.JoinList(joins=[shown]))
            said = muster(
                hub, fleet, "cluster", "approve", SITE, "--yes", "--key", str(fleet.key("registrar"))
            )
            assert code_in(said.stderr) == "MUSTER-J015", said
            assert said.returncode != 0
            assert fleet.branches() == ["main"]
    finally:
        hub.close()


@pytest.mark.parametrize(
    ("by", "code"), [("", "MUSTER-T040"), ("stranger", "MUSTER-T041"), ("releaser", "MUSTER-T043")]
)
def test_another_sealing_key_in_the_registry_is_not_sealed_to(tmp_path: Path, by: str, code: str) -> None:
    """The attacker can push, and is no registrar; the key is even signed by the identity that it puts there."""
    fleet, victim, thief = Fleet(tmp_path), Spoke(SITE), Spoke(SITE)
    sealed = ("secret", "seal", "--name", "db", "--namespace", "shop", "--from-literal", "a=b", "-l", "tier=store",
              "--out", "-", "--checkout", str(fleet.checkout))  # fmt: skip
    good = victim.entry(sealing_keys=[victim.sealing(1, fleet=FLEET_ID)], protected_labels={"tier": "store"})
    fleet.put_entry(good, by="registrar")
    hub = HostileHub(tmp_path, tmp_path / "ca")
    try:
        said = muster(hub, fleet, *sealed)
        assert said.returncode == 0, said.stderr
        assert good.spec.uid in said.stdout
        evil = thief.entry(
            sealing_keys=[thief.sealing(1, fleet=FLEET_ID)], protected_labels={"tier": "store"}
        )
        fleet.put_entry(evil, by=by)
        said = muster(hub, fleet, *sealed)
        assert code_in(said.stderr) == code, said
        assert "recipients" not in said.stdout
    finally:
        hub.close()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[tuple[Fleet, HostileHub]]:
    """An operator of a fleet that asks for directives, before the attacker's coordinator."""
    fleet = Fleet(tmp_path, "directives")
    fleet.put_entry(Spoke(SITE).entry(), by="registrar")
    hub = HostileHub(tmp_path, tmp_path / "ca")
    try:
        yield fleet, hub
    finally:
        hub.close()


def test_another_identity_under_a_registered_name_is_not_approved(desk: tuple[Fleet, HostileHub]) -> None:
    """The thief's keys are signed as they must be; the name, or the UID, is somebody else's."""
    fleet, hub = desk
    before, victim = fleet.entries(), fleet.entries()[SITE]
    for name, uid, code in (
        (SITE, "uid-of-thief", "J013"),
        (SITE, victim.spec.uid, "J013"),
        ("new", victim.spec.uid, "J014"),
    ):
        thief = Spoke(name, uid)
        sealing = thief.sealing(1, fleet=FLEET_ID)
        shown = op.Join(
            cluster=name, uid=uid, identity_key=thief.identity.public, state="Pending",
            sealing_key=bytes.fromhex(sealing.key.removeprefix("x25519:")), sealing_generation=1,
            sealing_signature=bytes.fromhex(sealing.signature),
        )  # fmt: skip
        hub.tell_operators("ListJoins", op.JoinList(joins=[shown]))
        said = muster(hub, fleet, "cluster", "approve", name, "--yes", "--key", str(fleet.key("registrar")))
        assert code_in(said.stderr) == f"MUSTER-{code}", said
        assert fleet.entries() == before


def start(desk: tuple[Fleet, HostileHub], sequence: int) -> subprocess.CompletedProcess[str]:
    """The operator starts what is checked out; the coordinator lies about all that it is asked."""
    fleet, hub = desk
    lie = wire.Release(bundle="shop", commit=fleet.anchor, tree_digest="0" * 64)
    view = op.BundleView(
        name="shop", current=lie, last_succeeded=lie, plan="theirs", directive_sequence=sequence,
        directive_digest="f" * 64,
    )  # fmt: skip
    hub.tell_operators("GetInfo", op.Info(mode="open"))
    hub.tell_operators("GetBundle", view)
    hub.tell_operators("StartRollout", op.RolloutView(name="shop-0001", bundle="shop", state="Running"))
    return muster(hub, fleet, "rollout", "start", "shop", "--key", str(fleet.key("operator")))


def test_what_is_signed_at_a_start_is_what_the_operator_has_checked_out(
    desk: tuple[Fleet, HostileHub],
) -> None:
    fleet, hub = desk
    newest = fleet.commit(shop("two"))
    said = start(desk, 4)
    assert said.returncode == 0, said.stderr
    request = op.StartRolloutRequest.FromString(hub.asked("StartRollout")[0])
    signed = decode(request.directive)
    uids = [entry.spec.uid for entry in fleet.entries().values()]
    tree = ClusterTree(uids)
    assert signed.release == fleet.release(newest)
    assert signed.plan_digest == fleet.directive(newest, 5, time.time()).plan_digest
    assert (signed.clusters_root, signed.clusters_count) == (tree.root, tree.count)
    assert (signed.fleet, signed.sequence, signed.goes_back, signed.return_to) == (FLEET_ID, 5, False, None)
    assert list(request.cluster_uids) == uids


def test_a_number_that_uses_up_all_others_is_not_signed(desk: tuple[Fleet, HostileHub]) -> None:
    fleet, hub = desk
    fleet.commit(shop("two"))
    for number in (2**33, 2**63, 2**64 - 1):
        said = start(desk, number)
        assert code_in(said.stderr) == "MUSTER-T076", said
    assert hub.asked("StartRollout") == []


def test_a_release_that_nobody_directed_is_not_renewed(desk: tuple[Fleet, HostileHub]) -> None:
    """The coordinator says that clusters wait for a draft, so that the operator signs it without a thought."""
    fleet, hub = desk
    now, good = time.time(), fleet.commit(shop("two"))
    draft = fleet.commit(shop("draft"), by="")
    known, other = fleet.directive(good, 1, now), fleet.directive(draft, 1, now, fleet="f" * 32)
    forged = fleet.directive(draft, 1, now)

    def renew(commit: str, said: Directive | None, by: str = "operator") -> subprocess.CompletedProcess[str]:
        row = op.Owed(
            cluster=SITE, state="owed", release=fleet.offer(commit, "x").release, rollout="shop-0001"
        )
        if said:
            row.directive = statement(said)
            row.directive_signature = fleet.people[by].sign(row.directive, SIGNATURE_NAMESPACE)
        hub.tell_operators("ListOwed", op.OwedList(owed=[row]))
        hub.tell_operators("GetBundle", op.BundleView(name="shop", directive_sequence=1))
        hub.tell_operators("RenewDirective", op.BundleView(name="shop"))
        key = str(fleet.key("operator"))
        return muster(hub, fleet, "directive", "renew", "shop", "--yes", "--key", key)

    for said, by, code in (
        (None, "", "T089"),
        (known, "operator", "T079"),
        (other, "operator", "T073"),
        (forged, "stranger", "T071"),
        (forged, "releaser", "T071"),
    ):
        assert code_in(renew(draft, said, by).stderr) == f"MUSTER-{code}"
    assert hub.asked("RenewDirective") == []
    assert renew(good, known).returncode == 0
    request = op.RenewDirectiveRequest.FromString(hub.asked("RenewDirective")[0])
    assert decode(request.directive).release == fleet.release(good)
