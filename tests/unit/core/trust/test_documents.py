"""Trust documents: thresholds and chain, what is signed, and how strictly they are read."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest
from muster_core.errors import ValidationError
from muster_core.kinds.base import Requirement, Selector
from muster_core.times import format_time, parse_time
from muster_core.trust.documents import (
    MAX_BYTES,
    Role,
    Signature,
    SignedDocument,
    TrustDocument,
    TrustKey,
    accept_first,
    accept_next,
    decode,
    encode,
    require_threshold,
    signers,
    statement,
)
from unit.core.trust.keys import EXPIRES, FLEET, NOW, Person, code_of, document, role, signed

ANNA, BEN, CARL, DORA, EVE = (Person(name) for name in ("anna", "ben", "carl", "dora", "eve"))
TWO_OF_THREE = document(ANNA, BEN, CARL, threshold=2, roles=[role("release", DORA, paths=["bundles/**"])])


def following(of: TrustDocument, **changes: Any) -> TrustDocument:
    return msgspec.structs.replace(of, version=of.version + 1, **changes)


# --- The chain ---------------------------------------------------------------------------------------------------


def test_the_next_document_needs_the_threshold_and_gets_it_from_any_two() -> None:
    after = following(TWO_OF_THREE)
    for pair in ((ANNA, BEN), (BEN, CARL), (CARL, ANNA), (ANNA, BEN, CARL)):
        assert accept_next(TWO_OF_THREE, signed(after, *pair)) == after


@pytest.mark.parametrize(
    "people",
    [(), (ANNA,), (ANNA, ANNA), (ANNA, EVE), (EVE, DORA), (DORA, ANNA)],
    ids=["nobody", "too few", "one twice", "with a stranger", "strangers", "a release key"],
)
def test_too_few_or_the_wrong_keys_are_refused(people: tuple[Person, ...]) -> None:
    after = following(TWO_OF_THREE)
    assert code_of(lambda: accept_next(TWO_OF_THREE, signed(after, *people))) == "T061"
    assert code_of(lambda: accept_first(signed(after, *people), fleet=FLEET, digest=after.digest)) == "T061"


def test_one_key_counts_once_however_often_it_signs_and_whatever_name_stands_beside() -> None:
    after = following(TWO_OF_THREE)
    one = ANNA.signature(after)
    named = msgspec.structs.replace(one, key=BEN.fingerprint)
    twice = SignedDocument(document=after, signatures=[one, named, one])
    assert signers(twice) == {ANNA.fingerprint}
    assert code_of(lambda: accept_next(TWO_OF_THREE, twice)) == "T061"


def test_a_root_key_that_stands_twice_in_the_document_counts_once() -> None:
    twice = document(ANNA, ANNA, threshold=2)
    assert code_of(lambda: require_threshold(signed(twice, ANNA), twice.roots, "its own")) == "T061"
    assert code_of(lambda: decode(encode(signed(twice, ANNA)))) == "T060"


def test_signatures_of_another_document_are_worth_nothing() -> None:
    after, other = following(TWO_OF_THREE), following(TWO_OF_THREE, expires="2029-01-01T00:00:00Z")
    moved = SignedDocument(document=other, signatures=signed(after, ANNA, BEN).signatures)
    assert signers(moved) == set()
    assert code_of(lambda: accept_next(TWO_OF_THREE, moved)) == "T061"


@pytest.mark.parametrize("namespace", ["git", "muster-directive", "file", "muster-trust2"])
def test_signatures_for_another_purpose_are_worth_nothing(namespace: str) -> None:
    after = following(TWO_OF_THREE)
    made = SignedDocument(document=after, signatures=[p.signature(after, namespace) for p in (ANNA, BEN)])
    assert code_of(lambda: accept_next(TWO_OF_THREE, made)) == "T061"


def test_a_broken_signature_beside_enough_good_ones_does_no_harm() -> None:
    after = following(TWO_OF_THREE)
    good = signed(after, ANNA, BEN).signatures
    broken = [Signature(key=CARL.fingerprint, signature=text) for text in ("", "x", good[0].signature[:-40])]
    made = SignedDocument(document=after, signatures=[*broken, *good])
    assert accept_next(TWO_OF_THREE, made) == after


@pytest.mark.parametrize("version", [1, 3, 100])
def test_versions_neither_stand_still_nor_skip(version: int) -> None:
    after = msgspec.structs.replace(TWO_OF_THREE, version=version)
    assert code_of(lambda: accept_next(TWO_OF_THREE, signed(after, ANNA, BEN, CARL))) == "T062"


def test_going_back_a_version_is_refused() -> None:
    second = following(TWO_OF_THREE)
    assert code_of(lambda: accept_next(second, signed(TWO_OF_THREE, ANNA, BEN))) == "T062"


def test_another_fleets_document_is_refused_although_the_same_roots_signed() -> None:
    theirs = following(TWO_OF_THREE, fleet="another-fleet-0000")
    assert code_of(lambda: accept_next(TWO_OF_THREE, signed(theirs, ANNA, BEN))) == "T063"
    pinned = signed(theirs, ANNA, BEN)
    assert code_of(lambda: accept_first(pinned, fleet=FLEET, digest=theirs.digest)) == "T063"


def test_roots_change_only_with_old_and_new_thresholds() -> None:
    new = following(TWO_OF_THREE, roots=document(DORA, EVE, threshold=2).roots)
    for missing in ((ANNA, BEN), (DORA, EVE), (ANNA, DORA, EVE), (ANNA, BEN, DORA)):
        assert code_of(lambda people=missing: accept_next(TWO_OF_THREE, signed(new, *people))) == "T061"
    assert accept_next(TWO_OF_THREE, signed(new, ANNA, BEN, DORA, EVE)) == new
    third = following(new)
    assert code_of(lambda: accept_next(new, signed(third, ANNA, BEN, CARL))) == "T061"
    assert accept_next(new, signed(third, DORA, EVE)) == third


def test_a_lower_threshold_needs_the_old_one_once_more() -> None:
    lower = following(TWO_OF_THREE, roots=document(ANNA, BEN, CARL, threshold=1).roots)
    assert code_of(lambda: accept_next(TWO_OF_THREE, signed(lower, ANNA))) == "T061"
    assert accept_next(TWO_OF_THREE, signed(lower, ANNA, CARL)) == lower
    assert accept_next(lower, signed(following(lower), ANNA)) == following(lower)


def test_a_higher_threshold_holds_for_the_document_that_brings_it() -> None:
    higher = following(TWO_OF_THREE, roots=document(ANNA, BEN, CARL, threshold=3).roots)
    assert code_of(lambda: accept_next(TWO_OF_THREE, signed(higher, ANNA, BEN))) == "T061"
    assert accept_next(TWO_OF_THREE, signed(higher, ANNA, BEN, CARL)) == higher


def test_the_first_document_is_the_pinned_one_or_none() -> None:
    good = signed(TWO_OF_THREE, ANNA, BEN)
    assert accept_first(good, fleet=FLEET, digest=TWO_OF_THREE.digest) == TWO_OF_THREE
    for other in ("", "0" * 64, TWO_OF_THREE.digest.upper(), following(TWO_OF_THREE).digest):
        assert code_of(lambda digest=other: accept_first(good, fleet=FLEET, digest=digest)) == "T064"


def test_a_later_document_can_be_the_pinned_one() -> None:
    fifth = msgspec.structs.replace(TWO_OF_THREE, version=5)
    assert accept_first(signed(fifth, ANNA, BEN), fleet=FLEET, digest=fifth.digest) == fifth


# --- What is signed ----------------------------------------------------------------------------------------------


def test_layout_of_the_file_and_comments_of_keys_are_not_signed() -> None:
    made = signed(TWO_OF_THREE, ANNA, BEN)
    text = encode(made)
    loose = json.dumps(json.loads(text), separators=(" ,\n", " :\t")).encode()
    assert decode(loose) == decode(text) == made
    renamed = json.loads(text)
    renamed["document"]["roots"]["keys"][0] = f"{ANNA.public} from the safe"
    renamed["document"]["roles"][0]["keys"][0]["key"] = DORA.public.rsplit(" ", 1)[0]
    again = decode(json.dumps(renamed).encode())
    assert again.document != TWO_OF_THREE
    assert again.document.digest == TWO_OF_THREE.digest
    assert accept_first(again, fleet=FLEET, digest=TWO_OF_THREE.digest) == again.document


FULL = document(
    ANNA,
    BEN,
    threshold=2,
    roles=[
        role("release", DORA, paths=["bundles/**"]),
        Role(
            role="operator",
            keys=[
                TrustKey(key=EVE.public, valid_after="2027-01-01T00:00:00Z", valid_before=EXPIRES, forge=True)
            ],
            paths=["a", "b"],
            repositories=["fleet", "apps"],
            scope="manage",
            bundles=["shop", "dns-*"],
            clusters=Selector(
                match_labels={"tier": "store", "ring": "one"},
                match_expressions=[Requirement(key="region", operator="In", values=["eu", "us"])],
            ),
        ),
    ],
)


def changed_everywhere(value: Any, path: str = "") -> list[tuple[str, Any]]:
    """Each value with one leaf changed, one item doubled or dropped, or its items in another order."""
    out: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        for key, inner in value.items():
            out += [(at, {**value, key: new}) for at, new in changed_everywhere(inner, f"{path}.{key}")]
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            where = f"{path}[{at}]"
            out += [(p, [*value[:at], new, *value[at + 1 :]]) for p, new in changed_everywhere(inner, where)]
            out += [
                (f"{where} dropped", [*value[:at], *value[at + 1 :]]),
                (f"{where} twice", [*value, inner]),
            ]
        if value[::-1] != value:
            out.append((f"{path} reversed", value[::-1]))
    elif isinstance(value, bool):
        out.append((path, not value))
    elif isinstance(value, int):
        out.append((path, value + 1))
    elif isinstance(value, str):
        swapped = {"ssh": CARL.public, "In": "NotIn", "manage": "add", "add": "manage", "release": "policy"}
        known = swapped.get(
            value.split("-")[0], swapped.get(value, "registrar" if value == "operator" else "")
        )
        out.append((path, known or f"{value}x"))
    return out


FIELDS = changed_everywhere({k: v for k, v in msgspec.to_builtins(FULL).items() if k != "type"})


@pytest.mark.parametrize(("path", "content"), FIELDS, ids=[path for path, _ in FIELDS])
def test_every_field_is_signed(path: str, content: dict[str, Any]) -> None:
    other = msgspec.convert(content, TrustDocument)
    assert other != FULL, path
    assert statement(other) != statement(FULL), path


def selecting(labels: dict[str, str]) -> TrustDocument:
    return document(ANNA, roles=[role("operator", DORA, clusters=Selector(match_labels=labels))])


def test_fields_that_run_together_are_told_apart() -> None:
    def with_paths(*paths: str, repositories: tuple[str, ...] = ("fleet",)) -> bytes:
        return statement(
            document(ANNA, roles=[role("release", DORA, paths=list(paths), repositories=list(repositories))])
        )

    assert (
        len({with_paths("ab", "c"), with_paths("a", "bc"), with_paths("abc"), with_paths("a", "b", "c")}) == 4
    )
    assert with_paths("a", repositories=("b", "fleet")) != with_paths("a", "b", repositories=("fleet",))
    swapped = {"a": "b", "c": "d"}, {"a": "d", "c": "b"}
    one, two = (selecting(labels) for labels in swapped)
    assert statement(one) != statement(two)


def test_the_order_of_labels_in_a_file_means_nothing() -> None:
    orders: tuple[dict[str, str], ...] = ({"a": "1", "b": "2"}, {"b": "2", "a": "1"})
    one, two = (selecting(labels) for labels in orders)
    assert statement(one) == statement(two)


# --- Strictness --------------------------------------------------------------------------------------------------


def variant(**changes: Any) -> bytes:
    """A good file in which fields of the document are replaced; ``...`` takes one out."""
    file = json.loads(encode(signed(TWO_OF_THREE, ANNA)))
    for path, value in changes.items():
        where, names = file["document"], path.split("__")
        for name in names[:-1]:
            where = where[int(name)] if name.isdigit() else where[name]
        if value is ...:
            del where[names[-1]]
        else:
            where[names[-1]] = value
    return json.dumps(file).encode()


def role_with(**fields: Any) -> bytes:
    return variant(roles=[{"role": "release", "keys": [{"key": DORA.public}], **fields}])


def key_with(key: str = DORA.public, **fields: Any) -> bytes:
    return role_with(keys=[{"key": key, **fields}])


BAD: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"{",
    "no UTF-8": encode(signed(TWO_OF_THREE)).replace(FLEET.encode(), b"\xff\xfe"),
    "half a surrogate": encode(signed(TWO_OF_THREE)).replace(FLEET.encode(), b"\\ud800\\u0041bcdefg"),
    "a list": b"[]",
    "two documents": encode(signed(TWO_OF_THREE)) * 2,
    "a byte order mark": b"\xef\xbb\xbf" + encode(signed(TWO_OF_THREE)),
    "too large": encode(signed(TWO_OF_THREE)) + b" " * MAX_BYTES,
    "nested without end": b'{"document":' + b"[" * 100_000,
    "an unknown field": variant(comment="hello"),
    "an unknown field of a role": role_with(scopes="add"),
    "an unknown field of a key": key_with(comment="hello"),
    "an unknown field of roots": variant(roots__note="x"),
    "another type": variant(type="muster.trust.v2"),
    "no fleet": variant(fleet=...),
    "no roots": variant(roots=...),
    "no expiry": variant(expires=...),
    "version 0": variant(version=0),
    "a negative version": variant(version=-1),
    "a version without a file": variant(version=10**9),
    "a version of many digits": variant(version=2**64),
    "a version as text": variant(version="1"),
    "a version as a fraction": variant(version=1.0),
    "threshold 0": variant(roots__threshold=0),
    "threshold above the keys": variant(roots__threshold=4),
    "no root keys": variant(roots__keys=[]),
    "a root key twice": variant(roots__keys=[ANNA.public, ANNA.public.rsplit(" ", 1)[0], BEN.public]),
    "a root key that is none": variant(roots__keys=[ANNA.public, BEN.public, "ssh-ed25519 AAAA"]),
    "an OpenPGP root": variant(roots__keys=[ANNA.public, BEN.public, f"openpgp:{'A' * 40}:AAAA"]),
    "17 roots": variant(roots__keys=[ANNA.public] * 17),
    "an unknown role": role_with(role="admin"),
    "an unknown scope": role_with(scope="everything"),
    "an empty glob": role_with(paths=[""]),
    "a glob without end": role_with(paths=["*" * 513]),
    "a bundle glob without end": role_with(bundles=["*" * 513]),
    "a role's key that is none": key_with(key="nonsense"),
    "an OpenPGP key without certificate": key_with(key=f"openpgp:{'A' * 40}:"),
    "an OpenPGP key with broken base64": key_with(key=f"openpgp:{'A' * 40}:AAAAA"),
    "an OpenPGP key in a second spelling": key_with(key=f"openpgp:{'A' * 40}:AB=="),
    "an OpenPGP key with a newline": key_with(key=f"openpgp:{'A' * 40}:AAAA\n"),
    "an OpenPGP key with a short fingerprint": key_with(key=f"openpgp:{'A' * 41}:AAAA"),
    "an OpenPGP key with a lower-case fingerprint": key_with(key=f"openpgp:{'a' * 40}:AAAA"),
    "a key's beginning that is no time": key_with(validAfter="yesterday"),
    "a key's end that is no time": key_with(validBefore="tomorrow"),
    "a key's end that is no time after a good beginning": key_with(
        validAfter="2027-01-01T00:00:00Z", validBefore="tomorrow"
    ),
    "a flag as text": key_with(forge="yes"),
    "signatures without end": json.dumps(
        {"document": json.loads(variant())["document"], "signatures": [{"key": "a", "signature": "b"}] * 65}
    ).encode(),
    "a signature without its key": json.dumps(
        {"document": json.loads(variant())["document"], "signatures": [{"signature": "b"}]}
    ).encode(),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_strict_document_is_refused_with_one_code(name: str) -> None:
    assert code_of(lambda: decode(BAD[name], "trust/1.json")) == "T060"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"version": 1', '"version": 2, "version": 1'),
        ('"threshold": 2', '"threshold": 1, "threshold": 2'),
        ('"role": "release"', '"role": "operator", "role": "release"'),
        ('"signatures": [', '"signatures": [], "signatures": ['),
        ('"fleet":', '"fl\\u0065et": "x", "fleet":'),
    ],
)
def test_a_field_that_stands_twice_is_refused(old: str, new: str) -> None:
    text = encode(signed(TWO_OF_THREE, ANNA, BEN)).decode()
    assert decode(text.encode()).document == TWO_OF_THREE
    assert old in text
    assert code_of(lambda: decode(text.replace(old, new, 1).encode())) == "T060"


@pytest.mark.parametrize("field", ["issued", "expires"])
@pytest.mark.parametrize(
    "text",
    [
        "", "2027-01-01", "2027-01-01 00:00:00Z", "2027-01-01T00:00:00", "2027-01-01T00:00Z", "20270101T000000Z",
        "2027-02-30T00:00:00Z", "2027-01-01T24:00:00Z", "2027-01-01T23:59:60Z", "2027-01-01T00:00:00+24:00",
        "2027-01-01T00:00:00+01:60", "2027-01-01T00:00:00Z\n", " 2027-01-01T00:00:00Z", "2027-01-01t00:00:00z",
        "٢٠٢٧-01-01T00:00:00Z", "2027-W01-1T00:00:00Z", "1798761600", "+2027-01-01T00:00:00Z", "0000-01-01T00:00:00Z",
        "2027-01-01T00:00:00,5Z", "2027-01-01T00:00:00.1234567Z", "2027-01-01T00:00:00+01:00:30",
    ],
)  # fmt: skip
def test_only_rfc_3339_is_a_time(field: str, text: str) -> None:
    with pytest.raises(ValidationError) as caught:
        parse_time(text)
    assert caught.value.code == "V032"
    assert code_of(lambda: decode(variant(**{field: text}))) == "T060"


def test_times_with_offset_and_fraction_are_points_in_time() -> None:
    assert parse_time("1970-01-01T00:00:00Z") == 0.0
    assert parse_time("1970-01-01T01:00:00.5+01:00") == 0.5
    assert parse_time("1969-12-31T23:00:00-01:00") == 0.0
    assert format_time(parse_time("2027-01-31T12:00:00+01:30")) == "2027-01-31T10:30:00Z"
    assert format_time(NOW + 0.9) == "2027-06-01T00:00:00Z"


def test_a_document_and_its_signatures_survive_the_file() -> None:
    for made in (signed(FULL, ANNA, BEN), signed(TWO_OF_THREE), signed(document(ANNA))):
        again = decode(encode(made))
        assert again == made
        assert statement(again.document) == statement(made.document)
        assert encode(again) == encode(made)
        assert json.loads(encode(made))["document"]["type"] == "muster.trust.v1"


def test_an_openpgp_key_is_its_fingerprint_and_its_certificate() -> None:
    certificate = b"\x99\x01certificate"
    key = TrustKey(key=f"openpgp:{'AB' * 20}:{base64.b64encode(certificate).decode()}")
    assert (key.fingerprint, key.certificate) == ("AB" * 20, certificate)
    assert TrustKey(key=ANNA.public).certificate == b""
    assert TrustKey(key=ANNA.public).fingerprint == ANNA.fingerprint


@pytest.mark.parametrize(
    ("after", "before", "valid"),
    [
        ("", "", True),
        ("2027-06-01T00:00:00Z", "", True),
        ("2027-06-01T00:00:01Z", "", False),
        ("", "2027-06-01T00:00:00Z", False),
        ("", "2027-06-01T00:00:01Z", True),
        ("2027-06-01T02:00:00+02:00", "2027-06-01T00:00:00.5Z", True),
        ("2027-07-01T00:00:00Z", "2027-05-01T00:00:00Z", False),
    ],
)
def test_a_key_is_valid_from_its_beginning_up_to_its_end(after: str, before: str, valid: bool) -> None:
    assert TrustKey(key=ANNA.public, valid_after=after, valid_before=before).valid_at(NOW) is valid
