"""Trust over arbitrary inputs: statements have one form, globs one meaning, a tree of clusters no strangers."""

from __future__ import annotations

import functools
import json
import re
import string
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from muster_core.errors import TrustError, ValidationError
from muster_core.kinds.base import Requirement, Selector
from muster_core.release import Release
from muster_core.times import format_time, parse_time
from muster_core.trust.authority import covers
from muster_core.trust.directive import MAX_TIME, Directive, LateJoiners, decode, statement
from muster_core.trust.documents import Role, SignedDocument, TrustDocument, TrustKey, encode
from muster_core.trust.documents import decode as decode_document
from muster_core.trust.documents import statement as document_statement
from muster_core.trust.merkle import ClusterTree, Proof, is_member
from unit.core.trust.keys import EXPIRES, ISSUED, Person, document

PEOPLE = [Person(name) for name in ("anna", "ben", "carl")]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
times = st.integers(0, MAX_TIME)
labels = st.dictionaries(texts, texts, max_size=3)
requirements = st.builds(
    Requirement,
    key=texts,
    operator=st.sampled_from(["In", "NotIn", "Exists", "DoesNotExist"]),
    values=st.lists(texts, max_size=3),
)
selectors = st.builds(Selector, match_labels=labels, match_expressions=st.lists(requirements, max_size=2))
releases = st.builds(Release, texts, texts, texts)
directives = st.builds(
    Directive,
    fleet=texts,
    release=releases,
    plan_digest=texts,
    clusters_root=st.binary(min_size=32, max_size=32),
    clusters_count=st.integers(0, 2**64 - 1),
    sequence=st.integers(0, 2**64 - 1),
    previous=texts,
    issued=times,
    not_after=times,
    catch_up_until=times,
    not_before=times,
    late_joiners=st.none() | st.builds(LateJoiners, selectors, times, st.text(max_size=40)),
    return_to=st.none() | releases,
    goes_back=st.booleans(),
    reason=texts,
)


@given(directives)
def test_a_directive_survives_its_statement(directive: Directive) -> None:
    assert decode(statement(directive)) == directive


@given(directives, directives)
def test_two_directives_never_have_one_statement(one: Directive, other: Directive) -> None:
    assert (one == other) == (statement(one) == statement(other))


@given(directives, st.data())
def test_any_change_of_a_byte_is_refused_or_is_another_directive(
    directive: Directive, data: st.DataObject
) -> None:
    said = bytearray(statement(directive))
    at = data.draw(st.integers(0, len(said) - 1))
    said[at] ^= data.draw(st.integers(1, 255))
    try:
        other = decode(bytes(said))
    except TrustError as error:
        if error.code != "T070":
            raise
    else:
        assert other != directive
        assert other.digest != directive.digest
        assert statement(other) == bytes(said)


@given(directives, st.data())
def test_bytes_put_in_or_taken_out_are_refused(directive: Directive, data: st.DataObject) -> None:
    said = statement(directive)
    at = data.draw(st.integers(0, len(said)))
    cut = data.draw(st.integers(at, len(said)))
    put = data.draw(st.binary(max_size=24))
    changed = said[:at] + put + said[cut:]
    assume(changed != said)
    try:
        other = decode(changed)
    except TrustError as error:
        if error.code != "T070":
            raise
    else:
        assert other.digest != directive.digest


@given(st.binary(max_size=400))
def test_garbage_is_refused_with_one_code(data: bytes) -> None:
    with pytest.raises(TrustError) as caught:
        decode(data)
    assert caught.value.code == "T070"


# --- Trust documents ---------------------------------------------------------------------------------------------

globs = st.lists(st.text(string.ascii_lowercase + "*/!?", min_size=1, max_size=8), max_size=3)
keys = st.builds(
    TrustKey,
    key=st.sampled_from([person.public for person in PEOPLE]),
    valid_after=st.sampled_from(["", ISSUED, EXPIRES]),
    valid_before=st.sampled_from(["", ISSUED, EXPIRES]),
    forge=st.booleans(),
)
roles = st.builds(
    Role,
    role=st.sampled_from(["release", "policy", "registrar", "operator"]),
    keys=st.lists(keys, max_size=2),
    paths=globs,
    repositories=st.lists(texts, max_size=2),
    scope=st.sampled_from(["add", "manage"]),
    bundles=globs,
    clusters=selectors,
)
documents = st.builds(
    lambda found, version, fleet: document(*PEOPLE, threshold=2, version=version, fleet=fleet, roles=found),
    st.lists(roles, max_size=3),
    st.integers(1, 999_999_999),
    texts,
)


@given(documents)
def test_a_document_survives_its_file(found: TrustDocument) -> None:
    again = decode_document(encode(SignedDocument(document=found))).document
    assert again == found
    assert again.digest == found.digest


@given(documents, documents)
def test_two_documents_never_have_one_statement(one: TrustDocument, other: TrustDocument) -> None:
    assert (one == other) == (document_statement(one) == document_statement(other))


@given(documents, st.data())
def test_a_change_inside_a_role_changes_the_statement(found: TrustDocument, data: st.DataObject) -> None:
    assume(found.roles)
    at = data.draw(st.integers(0, len(found.roles) - 1))
    field = data.draw(st.sampled_from(Role.__struct_fields__))
    other = msgspec.structs.replace(found.roles[at], **{field: getattr(data.draw(roles), field)})
    changed = msgspec.structs.replace(found, roles=[*found.roles[:at], other, *found.roles[at + 1 :]])
    assert (changed == found) == (document_statement(changed) == document_statement(found))


@given(documents, st.integers(0, 3), st.booleans())
def test_spaces_and_order_of_fields_are_not_signed(found: TrustDocument, indent: int, turned: bool) -> None:
    tree = json.loads(encode(SignedDocument(document=found)))
    if turned:
        tree = {name: tree[name] for name in reversed(tree)}
        tree["document"] = {name: tree["document"][name] for name in reversed(tree["document"])}
    text = json.dumps(tree, indent=indent, ensure_ascii=turned).encode()
    assert decode_document(text).document.digest == found.digest


@given(documents, st.data())
def test_a_changed_byte_of_a_file_is_refused_with_one_code_or_read_by_its_meaning(
    found: TrustDocument, data: st.DataObject
) -> None:
    file = bytearray(encode(SignedDocument(document=found)))
    at = data.draw(st.integers(0, len(file) - 1))
    file[at] = data.draw(st.integers(0, 255))
    try:
        other = decode_document(bytes(file)).document
    except TrustError as error:
        if error.code != "T060":
            raise
    else:
        # All but the comments of keys is signed.
        assert without_comments(other) == without_comments(found) or other.digest != found.digest


def without_comments(of: TrustDocument) -> TrustDocument:
    text = re.sub(rb'"(ssh-ed25519 [A-Za-z0-9+/=]+) [^"]*"', rb'"\1"', msgspec.json.encode(of))
    return msgspec.json.decode(text, type=TrustDocument)


# --- Globs -------------------------------------------------------------------------------------------------------


def means(glob: str, path: str) -> bool:
    """One glob, by recursion on characters: slow, and nothing else than what is written down."""

    @functools.cache
    def rest(g: int, p: int) -> bool:
        if g == len(glob):
            return p == len(path)
        if glob.startswith("**/", g):
            folders = [
                at + 1
                for at in range(p, len(path))
                if path[at] == "/" and not re.search("^/|//", path[p : at + 1])
            ]
            return rest(g + 3, p) or any(rest(g + 3, at) for at in folders)
        if glob.startswith("**", g):
            return any(rest(g + 2, at) for at in range(p, len(path) + 1))
        if glob[g] == "*":
            end = path.find("/", p)
            return any(rest(g + 1, at) for at in range(p, (len(path) if end < 0 else end) + 1))
        return (
            p < len(path)
            and path[p] != "/" * (glob[g] == "?")
            and glob[g] in {"?", path[p]}
            and rest(g + 1, p + 1)
        )

    return rest(0, 0)


def means_all(patterns: Sequence[str], path: str) -> bool:
    hits = [glob for glob in patterns if means(glob.removeprefix("!"), path)]
    return bool(hits) and not hits[-1].startswith("!")


names = st.text("ab.\n*é", min_size=1, max_size=3).filter(lambda name: name not in {".", ".."})
paths = st.lists(names, min_size=1, max_size=4).map("/".join)
patterns = st.text("ab./*?!é\n", min_size=1, max_size=9)


@given(st.lists(patterns, max_size=3), paths)
@example(["**/a"], "a")
@example(["a/**/a"], "a/a")
@example(["a***/b"], "aa/a/b")
@example(["!a", "**"], "a")
def test_globs_mean_what_a_plain_reading_of_them_says(found: list[str], path: str) -> None:
    assert covers(found, path) == means_all(found, path)


@given(st.lists(patterns, max_size=3), st.text(st.characters(), max_size=12))
def test_no_name_is_an_error_and_none_that_climbs_is_covered(found: list[str], path: str) -> None:
    covered = covers([*found, "**"], path)
    assert covered == (not {"", ".", ".."} & set(path.split("/")) and not re.search("[\ud800-\udfff]", path))


# --- Clusters ----------------------------------------------------------------------------------------------------


@given(st.sets(texts, min_size=1, max_size=40), st.data())
def test_a_proof_shows_one_cluster_and_no_other(uids: set[str], data: st.DataObject) -> None:
    tree = ClusterTree(sorted(uids))
    uid = data.draw(st.sampled_from(sorted(uids)))
    proof = tree.proof(uid)
    assert proof is not None
    assert is_member(uid, proof, tree.root, tree.count)
    other = data.draw(texts)
    assert is_member(other, proof, tree.root, tree.count) == (other == uid)


@given(
    st.sets(texts, min_size=1, max_size=20),
    texts,
    st.integers(-2, 2**64),
    st.lists(st.binary(min_size=32, max_size=32), max_size=8),
    st.integers(0, 2**64 - 1),
)
def test_a_made_up_proof_shows_nothing(
    uids: set[str], uid: str, index: int, path: list[bytes], count: int
) -> None:
    assume(uid not in uids)
    tree = ClusterTree(sorted(uids))
    for claimed in (count, tree.count):
        assert not is_member(uid, Proof(index % (claimed + 2), tuple(path)), tree.root, claimed)


# --- Times -------------------------------------------------------------------------------------------------------


@given(times)
def test_a_time_survives_its_text(seconds: int) -> None:
    assert parse_time(format_time(seconds)) == seconds


@given(st.text(string.digits + "-:TZ+.", max_size=30) | st.text(max_size=30))
def test_a_text_is_a_time_or_refused(text: str) -> None:
    try:
        seconds = parse_time(text)
    except ValidationError as error:
        if error.code != "V032":
            raise
    else:
        assert re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T.*(Z|[+-][0-9]{2}:[0-9]{2})", text)
        assert isinstance(seconds, float)
