"""Directives: one form of the statement, and every reason for which a cluster does not take a release by one."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from muster_core.errors import TrustError
from muster_core.kinds.base import Requirement, Selector
from muster_core.kinds.model import Cluster
from muster_core.pae import pae, u64, unpae
from muster_core.release import Release
from muster_core.trust.directive import (
    MAX_BYTES,
    MAX_TIME,
    SIGNATURE_NAMESPACE,
    Allowed,
    Directive,
    LateJoiners,
    SequencePlace,
    decode,
    judge,
    statement,
)
from muster_core.trust.documents import Role, TrustDocument, TrustKey
from muster_core.trust.merkle import ClusterTree, Proof
from unit.core.trust.keys import FLEET, NOW, Person, Spoke, code_of, document, role

ROOT, OPERATOR, STORES_OPERATOR, RELEASE, REGISTRAR, STRANGER = (
    Person(name) for name in ("root", "operator", "stores", "release", "registrar", "stranger")
)
STORE = Selector(match_labels={"tier": "store"})
DOCUMENT = document(
    ROOT,
    roles=[
        role("operator", OPERATOR),
        role("operator", STORES_OPERATOR, bundles=["shop*", "!shop-admin"], clusters=STORE),
        role("release", RELEASE, paths=["**"]),
        role("registrar", REGISTRAR, scope="manage"),
    ],
)
HOUR, DAY = 3_600, 86_400
NOON = int(NOW)
BERLIN, MUNICH, PARIS = Spoke("berlin-04"), Spoke("munich-01"), Spoke("paris-09")
ENTRY = BERLIN.entry(protected_labels={"tier": "store"})
TREE = ClusterTree([BERLIN.uid, MUNICH.uid])
PLAN, OTHER_PLAN = "b" * 64, "c" * 64
SHOP = Release("shop", "3" * 40, "a" * 64)
PLAIN = Directive(
    fleet=FLEET,
    release=SHOP,
    plan_digest=PLAN,
    clusters_root=TREE.root,
    clusters_count=TREE.count,
    sequence=1,
    previous="",
    issued=NOON - HOUR,
    not_after=NOON + DAY,
    catch_up_until=NOON + 7 * DAY,
)
REGISTRY = "9" * 40
SELECTOR = Selector(
    match_labels={"tier": "store", "ring": "one"},
    match_expressions=[Requirement(key="region", operator="In", values=["eu", "us"])],
)
FULL = msgspec.structs.replace(
    PLAIN,
    not_before=NOON - 1,
    late_joiners=LateJoiners(SELECTOR, NOON + DAY, REGISTRY),
    return_to=Release("shop", "2" * 40, "d" * 64),
    goes_back=True,
    sequence=9,
    previous="e" * 64,
    reason="the shop's till is broken",
)


def changed(directive: Directive = PLAIN, **changes: Any) -> Directive:
    return msgspec.structs.replace(directive, **changes)


def asked(
    directive: Directive = PLAIN,
    *,
    by: Person = OPERATOR,
    signature: bytes | None = None,
    namespace: str = SIGNATURE_NAMESPACE,
    proof: Proof | None = TREE.proof(BERLIN.uid),
    of: TrustDocument = DOCUMENT,
    entry: Cluster = ENTRY,
    plans: dict[str, str] | None = None,
    last: SequencePlace = SequencePlace(),
    now: float = NOW,
    catching_up: bool = False,
    is_late: bool = False,
) -> Allowed:
    return judge(
        directive,
        signature if signature is not None else by.sign(statement(directive), namespace),
        proof,
        document=of,
        entry=entry,
        plans={"rings": PLAN} if plans is None else plans,
        last=last,
        now=now,
        catching_up=catching_up,
        is_late=is_late,
    )


# --- The statement -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("directive", [PLAIN, FULL], ids=["plain", "full"])
def test_a_directive_survives_its_statement(directive: Directive) -> None:
    said = statement(directive)
    assert decode(said) == directive
    assert statement(decode(said)) == said
    assert decode(said).digest == directive.digest


OTHERS: dict[str, Any] = {
    "fleet": "another", "plan_digest": OTHER_PLAN, "clusters_root": bytes(32), "clusters_count": 3, "sequence": 10,
    "previous": "f" * 64, "issued": 1, "not_after": 2, "catch_up_until": 3, "not_before": 4, "late_joiners": None,
    "return_to": None, "goes_back": False, "reason": "", "release": FULL.release._replace(bundle="shop2"),
}  # fmt: skip


def test_the_table_of_fields_is_whole() -> None:
    assert set(OTHERS) == set(Directive.__struct_fields__)


@pytest.mark.parametrize("field", OTHERS)
def test_every_field_is_signed(field: str) -> None:
    other = changed(FULL, **{field: OTHERS[field]})
    assert other != FULL
    assert other.digest != FULL.digest
    assert decode(statement(other)) == other
    assert code_of(lambda: asked(other, signature=OPERATOR.sign(statement(FULL), SIGNATURE_NAMESPACE))) in (
        {"T071"} if field != "fleet" else {"T073"}
    )


@pytest.mark.parametrize("name", ["release", "return_to"])
@pytest.mark.parametrize("part", ["bundle", "commit", "tree_digest"])
def test_every_part_of_a_release_is_signed(name: str, part: str) -> None:
    other = changed(FULL, **{name: getattr(FULL, name)._replace(**{part: "x"})})
    assert other.digest != FULL.digest
    assert decode(statement(other)) == other


@pytest.mark.parametrize(
    "late",
    [
        LateJoiners(SELECTOR, NOON + DAY, "0" * 40),
        LateJoiners(SELECTOR, NOON + DAY + 1, REGISTRY),
        LateJoiners(Selector(), NOON + DAY, REGISTRY),
        LateJoiners(msgspec.structs.replace(SELECTOR, match_labels={"tier": "store"}), NOON + DAY, REGISTRY),
        LateJoiners(
            msgspec.structs.replace(SELECTOR, match_labels={"tier": "one", "ring": "store"}),
            NOON + DAY,
            REGISTRY,
        ),
        LateJoiners(msgspec.structs.replace(SELECTOR, match_expressions=[]), NOON + DAY, REGISTRY),
        *(
            LateJoiners(
                msgspec.structs.replace(
                    SELECTOR,
                    match_expressions=[msgspec.structs.replace(SELECTOR.match_expressions[0], **one)],
                ),
                NOON + DAY,
                REGISTRY,
            )
            for one in ({"key": "zone"}, {"operator": "NotIn"}, {"values": ["eu"]}, {"values": ["euus"]})
        ),
    ],
)
def test_every_part_of_the_late_joiners_is_signed(late: LateJoiners) -> None:
    other = changed(FULL, late_joiners=late)
    assert other.digest != FULL.digest
    assert decode(statement(other)) == other


def with_part(at: int, value: bytes, of: Directive = FULL) -> bytes:
    parts = list(unpae(statement(of)))
    assert parts[at] != value
    parts[at] = value
    return pae(*parts)


PARTS = list(unpae(statement(FULL)))
DOMAIN, FLEET_PART, RELEASE_PART, PLAN_PART, ROOT_PART, COUNT, SEQUENCE, PREVIOUS, ISSUED, NOT_AFTER = range(
    10
)
CATCH_UP, NOT_BEFORE, LATE, RETURN_TO, BACK, REASON = range(10, 16)
NO_TERMS, NO_LABELS = pae(), pae()


def late(labels: bytes = NO_LABELS, terms: bytes = NO_TERMS, until: bytes = u64(5)) -> bytes:
    return with_part(LATE, pae(pae(labels, terms), until))


BAD: dict[str, bytes] = {
    "nothing": b"",
    "no list": b"x" * 40,
    "an empty list": pae(),
    "a part too few": pae(*PARTS[:-1]),
    "a part too many": pae(*PARTS, b""),
    "bytes after it": statement(FULL) + b"\0",
    "too large": statement(changed(reason="x" * MAX_BYTES)),
    "another domain": with_part(DOMAIN, b"muster.trust.v1"),
    "a trust document's domain in place of ours": with_part(DOMAIN, b""),
    "no release": with_part(RELEASE_PART, pae()),
    "a release of two parts": with_part(RELEASE_PART, pae(b"shop", b"3")),
    "a release of four parts": with_part(RELEASE_PART, pae(b"shop", b"3", b"a", b"")),
    "a release that is no list": with_part(RELEASE_PART, b"shop"),
    "a return of two parts": with_part(RETURN_TO, pae(b"shop", b"3")),
    "a return of nothing": with_part(RETURN_TO, b""),
    "a short root": with_part(ROOT_PART, bytes(31)),
    "a long root": with_part(ROOT_PART, bytes(33)),
    "a short number": with_part(SEQUENCE, b"\1"),
    "a long number": with_part(COUNT, u64(1) + b"\0"),
    "no number": with_part(ISSUED, b""),
    "no UTF-8 as fleet": with_part(FLEET_PART, b"\xff"),
    "no UTF-8 as plan": with_part(PLAN_PART, b"\xff"),
    "no UTF-8 as previous": with_part(PREVIOUS, b"\xff"),
    "no UTF-8 as reason": with_part(REASON, b"\xff"),
    "half a surrogate as reason": with_part(REASON, b"\xed\xa0\x80"),
    "another flag": with_part(BACK, b"yes"),
    "a flag of zero": with_part(BACK, b"\0"),
    "issued beyond the years": with_part(ISSUED, u64(MAX_TIME + 1)),
    "not after beyond the years": with_part(NOT_AFTER, u64(2**64 - 1)),
    "not before beyond the years": with_part(NOT_BEFORE, u64(2**63)),
    "catch-up beyond the years": with_part(CATCH_UP, u64(2**40)),
    "late joiners beyond the years": late(until=u64(MAX_TIME + 1)),
    "late joiners that are no list": with_part(LATE, b""),
    "late joiners without an end": with_part(LATE, pae(pae(pae(), pae()))),
    "late joiners with half a label": late(labels=pae(b"tier")),
    "late joiners with a label twice": late(labels=pae(b"tier", b"a", b"tier", b"a")),
    "late joiners with unsorted labels": late(labels=pae(b"tier", b"a", b"ring", b"b")),
    "late joiners with an unknown operator": late(terms=pae(pae(b"tier", b"Near", pae()))),
    "late joiners with half a term": late(terms=pae(pae(b"tier", b"In"))),
    "late joiners with labels that are no list": late(labels=b"x"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_exactly_one_directive_is_refused_with_one_code(name: str) -> None:
    assert code_of(lambda: decode(BAD[name])) == "T070"


def test_a_statement_is_refused_at_every_length_but_its_own() -> None:
    said = statement(FULL)
    for length in range(len(said)):
        assert code_of(lambda end=length: decode(said[:end])) == "T070"


# --- Judging -----------------------------------------------------------------------------------------------------


def test_an_operators_directive_allows_and_says_who_and_where_the_sequence_stands() -> None:
    assert asked() == Allowed(OPERATOR.fingerprint, SequencePlace(1, PLAIN.digest))


@pytest.mark.parametrize(
    "person", [ROOT, RELEASE, REGISTRAR, STRANGER], ids=["root", "release", "registrar", "stranger"]
)
def test_only_an_operator_directs(person: Person) -> None:
    assert code_of(lambda: asked(by=person)) == "T071"


@pytest.mark.parametrize("namespace", ["git", "muster-trust", "muster-directive2"])
def test_an_operators_signature_for_another_purpose_directs_nothing(namespace: str) -> None:
    assert code_of(lambda: asked(namespace=namespace)) == "T071"


@pytest.mark.parametrize("signature", [b"", b"x", OPERATOR.sign(statement(FULL), SIGNATURE_NAMESPACE)])
def test_a_signature_that_does_not_hold_directs_nothing(signature: bytes) -> None:
    assert code_of(lambda: asked(signature=signature)) == "T071"


def test_an_operator_that_was_taken_out_or_lapsed_directs_nothing() -> None:
    gone = document(ROOT, version=2, roles=[role("operator", STORES_OPERATOR)])
    key = TrustKey(key=OPERATOR.public, valid_before="2027-06-01T00:00:00Z")
    lapsed = document(ROOT, roles=[Role(role="operator", keys=[key])])
    assert code_of(lambda: asked(of=gone)) == "T071"
    assert code_of(lambda: asked(of=lapsed)) == "T071"
    assert asked(of=lapsed, now=NOW - 1).key == OPERATOR.fingerprint


def test_an_operator_directs_within_its_bundles_only() -> None:
    assert asked(by=STORES_OPERATOR).key == STORES_OPERATOR.fingerprint
    for bundle, allowed in (
        ("shop-eu", True),
        ("dns", False),
        ("shop-admin", False),
        ("a/shop", False),
        ("", False),
    ):
        other = changed(release=SHOP._replace(bundle=bundle))
        if allowed:
            assert asked(other, by=STORES_OPERATOR).key == STORES_OPERATOR.fingerprint
        else:
            assert code_of(lambda it=other: asked(it, by=STORES_OPERATOR)) == "T072", bundle


def test_an_operator_directs_on_its_clusters_only_by_the_registry_entry() -> None:
    bank = BERLIN.entry(protected_labels={"tier": "bank"}, labels={"tier": "store"})
    assert code_of(lambda: asked(by=STORES_OPERATOR, entry=bank)) == "T072"
    assert asked(entry=bank).key == OPERATOR.fingerprint


def test_bundles_and_clusters_must_be_of_one_role() -> None:
    split = document(
        ROOT,
        roles=[
            role("operator", OPERATOR, bundles=["shop"], clusters=Selector(match_labels={"tier": "bank"})),
            role("operator", OPERATOR, bundles=["dns"], clusters=STORE),
        ],
    )
    assert code_of(lambda: asked(of=split)) == "T072"


def test_a_directive_returns_its_own_bundle_and_no_other() -> None:
    for by in (OPERATOR, STORES_OPERATOR):
        assert asked(changed(return_to=SHOP), by=by).key == by.fingerprint
        other = changed(return_to=SHOP._replace(bundle="shop-eu"))
        assert code_of(lambda who=by, it=other: asked(it, by=who)) == "T072"


def test_another_fleets_directive_is_refused_whoever_signed() -> None:
    assert code_of(lambda: asked(changed(fleet="another"))) == "T073"


# --- Which clusters ----------------------------------------------------------------------------------------------


def test_without_its_own_proof_a_cluster_is_not_meant() -> None:
    theirs = TREE.proof(MUNICH.uid)
    assert theirs is not None
    assert code_of(lambda: asked(proof=None)) == "T074"
    assert code_of(lambda: asked(proof=theirs)) == "T074"
    assert code_of(lambda: asked(proof=Proof(0, ()))) == "T074"
    paris = PARIS.entry(protected_labels={"tier": "store"})
    for proof in (None, theirs, TREE.proof(BERLIN.uid)):
        assert code_of(lambda it=proof: asked(entry=paris, proof=it)) == "T074"


def test_a_proof_in_another_list_is_none() -> None:
    other = ClusterTree([BERLIN.uid, PARIS.uid])
    assert code_of(lambda: asked(proof=other.proof(BERLIN.uid))) == "T074"
    assert code_of(lambda: asked(changed(clusters_count=0))) == "T074"


def test_late_joiners_are_meant_by_their_labels_until_the_end() -> None:
    paris = PARIS.entry(protected_labels={"tier": "store"})
    directive = changed(late_joiners=LateJoiners(STORE, NOON + HOUR, REGISTRY))
    assert asked(directive, entry=paris, proof=None, is_late=True).key == OPERATOR.fingerprint
    assert (
        asked(directive, entry=paris, proof=None, is_late=True, now=NOON + HOUR - 1).key
        == OPERATOR.fingerprint
    )
    assert code_of(lambda: asked(directive, entry=paris, proof=None, is_late=True, now=NOON + HOUR)) == "T074"
    bank = PARIS.entry(protected_labels={"tier": "bank"}, labels={"tier": "store"})
    assert code_of(lambda: asked(directive, entry=bank, proof=None, is_late=True)) == "T074"


def test_who_was_registered_when_it_was_signed_is_no_late_joiner() -> None:
    paris = PARIS.entry(protected_labels={"tier": "store"})
    directive = changed(late_joiners=LateJoiners(STORE, NOON + HOUR, REGISTRY))
    assert code_of(lambda: asked(directive, entry=paris, proof=None, is_late=False)) == "T074"


def test_one_signer_cannot_use_up_the_numbers_of_all_others() -> None:
    assert code_of(lambda: asked(changed(sequence=2**64 - 1))) == "T076"
    assert asked(changed(sequence=10_000)).place.sequence == 10_000


def test_a_directive_that_ends_before_it_was_issued_is_none() -> None:
    assert code_of(lambda: asked(changed(issued=NOON + 2 * DAY))) == "T075"


def test_who_is_named_stays_named_when_the_time_of_late_joiners_is_over() -> None:
    directive = changed(late_joiners=LateJoiners(STORE, NOON - 1, REGISTRY))
    assert asked(directive).key == OPERATOR.fingerprint


def test_late_joiners_are_bound_by_the_directives_own_times_and_by_the_signers_clusters() -> None:
    everyone = changed(late_joiners=LateJoiners(Selector(), NOON + 30 * DAY, REGISTRY))
    bank = PARIS.entry(protected_labels={"tier": "bank"})
    assert (
        code_of(lambda: asked(everyone, entry=bank, proof=None, is_late=True, by=STORES_OPERATOR)) == "T072"
    )
    assert (
        code_of(lambda: asked(everyone, entry=bank, proof=None, is_late=True, now=NOON + 2 * DAY)) == "T075"
    )


# --- Plan and time -----------------------------------------------------------------------------------------------


def test_the_plan_is_one_that_the_commit_has() -> None:
    assert asked(plans={"a": OTHER_PLAN, "b": PLAN}).key == OPERATOR.fingerprint
    for plans in ({}, {"rings": OTHER_PLAN}, {PLAN: OTHER_PLAN}):
        assert code_of(lambda it=plans: asked(plans=it)) == "T077"
    assert code_of(lambda: asked(changed(plan_digest=""))) == "T077"


@pytest.mark.parametrize(
    ("at", "catching_up", "allowed"),
    [
        (NOON + DAY - 1, False, True),
        (NOON + DAY, False, False),
        (NOON + DAY, True, True),
        (NOON + 7 * DAY - 1, True, True),
        (NOON + 7 * DAY, True, False),
        (NOON + 7 * DAY, False, False),
    ],
)
def test_first_offers_end_at_not_after_and_catching_up_later(
    at: int, catching_up: bool, allowed: bool
) -> None:
    if allowed:
        assert asked(now=at, catching_up=catching_up).key == OPERATOR.fingerprint
    else:
        assert code_of(lambda: asked(now=at, catching_up=catching_up)) == "T075"


def test_before_its_time_a_directive_is_judged_in_full_and_says_from_when_it_may_be_applied() -> None:
    early = changed(not_before=NOON + 1)
    for catching_up in (False, True):
        assert asked(early, catching_up=catching_up).not_before == NOON + 1
    assert asked(early, now=NOON + 1).not_before == NOON + 1
    assert code_of(lambda: asked(early, now=NOON + DAY)) == "T075"


def test_an_expired_directive_says_when_and_is_not_worth_another_try() -> None:
    with pytest.raises(TrustError, match="2027-06-02T00:00:00Z") as caught:
        asked(now=NOON + DAY)
    assert not caught.value.retryable
    assert "directive renew" in str(caught.value)


def test_the_furthest_time_that_decodes_can_be_told() -> None:
    far = decode(statement(changed(not_before=MAX_TIME, not_after=MAX_TIME, catch_up_until=MAX_TIME)))
    assert asked(far).not_before == MAX_TIME
    assert code_of(lambda: asked(far, now=float(MAX_TIME))) == "T075"


# --- Sequence ----------------------------------------------------------------------------------------------------

FIFTH = changed(sequence=5, previous="4" * 64)
TAKEN = SequencePlace(5, FIFTH.digest)


def test_the_one_that_was_taken_is_taken_again() -> None:
    assert asked(FIFTH, last=TAKEN).place == TAKEN


@pytest.mark.parametrize("sequence", [0, 1, 4])
def test_an_older_one_is_a_replay(sequence: int) -> None:
    assert code_of(lambda: asked(changed(sequence=sequence), last=TAKEN)) == "T076"


def test_another_one_of_the_same_number_is_refused() -> None:
    assert code_of(lambda: asked(changed(FIFTH, reason="another"), last=TAKEN)) == "T076"


def test_the_next_one_must_name_the_one_that_was_taken() -> None:
    sixth = changed(FIFTH, sequence=6, previous=FIFTH.digest)
    assert asked(sixth, last=TAKEN).place == SequencePlace(6, sixth.digest)
    for previous in ("", "4" * 64, FIFTH.digest.upper()):
        assert code_of(lambda it=previous: asked(changed(sixth, previous=it), last=TAKEN)) == "T076"


def test_who_missed_some_takes_a_later_one() -> None:
    ninth = changed(FIFTH, sequence=9, previous="8" * 64)
    assert asked(ninth, last=TAKEN).place == SequencePlace(9, ninth.digest)


def test_who_joined_starts_anywhere_but_at_nothing() -> None:
    assert asked(FIFTH).place == TAKEN
    assert code_of(lambda: asked(changed(sequence=0))) == "T076"
