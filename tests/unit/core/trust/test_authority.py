"""Who may change what: globs of roles, keys and their times, and what a registrar may do to the registry."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from muster_core.errors import TrustError
from muster_core.kinds.base import Requirement, Selector
from muster_core.kinds.model import Cluster
from muster_core.sealing.keys import encode_identity
from muster_core.trust.authority import (
    FORGE_KEYS,
    TRUST_PATH,
    Change,
    counts,
    covers,
    judge_content,
    judge_registry,
    roles_of,
    signer_of,
)
from muster_core.trust.documents import Role, TrustDocument, TrustKey
from muster_core.trust.gitobject import SignedObject
from unit.core.trust.keys import NOW, Person, Spoke, code_of, document, role

ROOT, RELEASE, POLICY, OPERATOR, ADDER, MANAGER, STRANGER = (
    Person(name) for name in ("root", "release", "policy", "operator", "adder", "manager", "stranger")
)
STORES = Selector(match_labels={"tier": "store"})
DOCUMENT = document(
    ROOT,
    roles=[
        role("release", RELEASE, paths=["bundles/**", "!bundles/core/**", "plans/*.yaml"], repositories=["fleet", "apps"]),
        role("policy", POLICY, paths=["policies/**", "fleet.yaml"]),
        role("operator", OPERATOR, paths=["**"]),
        role("registrar", ADDER, clusters=STORES, paths=["**"]),
        role("registrar", MANAGER, scope="manage"),
    ],
)  # fmt: skip


def may(
    *paths: str,
    by: Person | tuple[Person, ...] = RELEASE,
    of: TrustDocument = DOCUMENT,
    how: Any = "changed",
    now: float = NOW,
    **more: Any,
) -> bool:
    people = (by,) if isinstance(by, Person) else by
    changes = [Change(path, how) for path in paths]
    try:
        judge_content(changes, of, {person.fingerprint for person in people}, now=now, **more)
    except TrustError as error:
        if error.code == "T042" and error.object in paths:
            return False
        raise
    return True


# --- Globs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("globs", "yes", "no"),
    [
        (["bundles/**"], ["bundles/a", "bundles/a/b.yaml"], ["bundles", "bundle/a", "xbundles/a", "a/bundles/a"]),
        (["plans/*.yaml"], ["plans/a.yaml", "plans/.yaml"], ["plans/a/b.yaml", "plans/a.yml", "plans/a.yaml.bak"]),
        (["*"], ["a", "a b", "ü"], ["a/b"]),
        (["**"], ["a", "a/b/c", "new\nline", "ü/ß"], []),
        (["**/x.yaml"], ["x.yaml", "a/x.yaml", "a/b/x.yaml"], ["ax.yaml", "a/x.yaml/b"]),
        (["a/**/b"], ["a/b", "a/x/b", "a/x/y/b"], ["a/xb", "ab", "a/b/c"]),
        (["a/**b"], ["a/b", "a/x/yb"], ["a/bc"]),
        (["a?c"], ["abc", "aéc", "a c"], ["ac", "a/c", "abbc"]),
        (["a.b"], ["a.b"], ["axb"]),
        (["[ab]", "(x)", "a+", "^a$", "\\d", "{a,b}"], ["[ab]", "(x)", "a+", "^a$", "\\d", "{a,b}"], ["a", "x", "aa", "1"]),
        (["a"], ["a"], ["A", "a ", "a\n", "\na", "a\x00"]),
        ([], [], ["a", "a/b"]),
        (["!a"], [], ["a", "b", "!a"]),
        (["**", "!a/**"], ["b", "a"], ["a/b"]),
        (["!a/**", "**"], ["a/b"], []),
        (["a/**", "!a/b/**", "a/b/c"], ["a/x", "a/b/c"], ["a/b/d"]),
        (["***/x"], ["a/x", "a/b/x"], ["a/y"]),
    ],
)  # fmt: skip
def test_globs(globs: list[str], yes: list[str], no: list[str]) -> None:
    assert [path for path in yes if not covers(globs, path)] == []
    assert [path for path in no if covers(globs, path)] == []


@pytest.mark.parametrize(
    "path",
    ["", "/", "/a", "a/", "a//b", ".", "..", "a/..", "bundles/../trust/x", "./a", "a/./b", "../a", "a/\udcff", "\ud800"],
)  # fmt: skip
def test_a_path_that_no_tree_should_have_is_covered_by_nothing(path: str) -> None:
    everything = document(ROOT, roles=[role("release", RELEASE, paths=["**", "*", path or "*"])])
    assert not covers(["**", path], path)
    assert not may(path, of=everything)


@pytest.mark.parametrize(
    "path", ["bundles/a\nb", "bundles/…", "bundles/...", "bundles/..a", "bundles/\x00", "bundles/ "]
)
def test_a_strange_name_is_still_below_its_folder_and_nowhere_else(path: str) -> None:
    assert may(path)
    assert not may(path, by=POLICY)
    assert not may(path.removeprefix("bundles/"))


HOSTILE = [
    ("**/a/**/b/**/c/**/d", "/".join(["a/b/c"] * 600)),
    ("*a*a*a*a*a*a*a*a*b", "a" * 4_000),
    ("**a**a**a**a**a**b", "a/" * 2_000 + "a"),
    ("**/" * 170, "a/" * 2_000 + "a"),
    ("?" * 512, "é" * 511),
    ("*?" * 256, "/" + "a" * 4_000),
    ("**" * 256 + "", "x/" * 2_000 + "\n/../y"),
]


@pytest.mark.parametrize(("glob", "path"), HOSTILE, ids=range(len(HOSTILE)))
def test_no_name_makes_matching_run_away(glob: str, path: str) -> None:
    """A search that goes back and forth would not end in this test's lifetime; CPU time, far from the real one."""
    begun = time.process_time()
    assert not covers([glob], path)
    assert time.process_time() - begun < 5


# --- Content -----------------------------------------------------------------------------------------------------


def test_every_changed_path_must_be_covered() -> None:
    assert may("bundles/shop/a.yaml", "plans/rings.yaml")
    assert may()
    for foreign in (
        "policies/a.yaml",
        "fleet.yaml",
        "bundles/core/a.yaml",
        "secrets/a.yaml",
        "plans/x/y.yaml",
    ):
        assert not may("bundles/shop/a.yaml", foreign), foreign
        assert not may(foreign, "bundles/shop/a.yaml"), foreign


@pytest.mark.parametrize("how", ["added", "changed", "removed"])
def test_however_a_path_changed(how: str) -> None:
    assert may("bundles/a", how=how)
    assert not may("policies/a", how=how)


def test_two_signers_together_may_what_each_may() -> None:
    assert may("bundles/a", "policies/a", by=(RELEASE, POLICY))
    assert not may("bundles/a", "secrets/a", by=(RELEASE, POLICY))


def test_strangers_and_nobody_may_nothing() -> None:
    assert not may("bundles/a", by=STRANGER)
    assert not may("bundles/a", by=())
    assert not may("bundles/a", by=ROOT)


@pytest.mark.parametrize("person", [OPERATOR, ADDER, MANAGER], ids=lambda person: person.name)
def test_operators_and_registrars_approve_no_content_whatever_their_paths_say(person: Person) -> None:
    for path in ("bundles/a", "policies/a", "fleet.yaml", "clusters/a.yaml"):
        assert not may(path, by=person)


def test_a_taken_away_path_is_given_back_by_another_role_only() -> None:
    other = document(ROOT, roles=[*DOCUMENT.roles, role("release", RELEASE, paths=["bundles/core/**"])])
    assert not may("bundles/core/a")
    assert may("bundles/core/a", of=other)


def test_a_role_holds_for_its_repositories_only() -> None:
    assert may("bundles/a", repository="apps")
    assert not may("policies/a", by=POLICY, repository="apps")
    assert not may("bundles/a", repository="other")
    assert not may("bundles/a", repository="")


def test_the_kinds_of_roles_that_count_can_be_narrowed() -> None:
    assert may("bundles/a", names=["release"])
    assert not may("bundles/a", names=["policy"])


def test_trust_documents_need_no_role_to_come_but_one_to_go() -> None:
    for how in ("added", "changed"):
        assert may("trust/2.json", by=STRANGER, how=how)
        assert may("trust/999999999.json", by=(), how=how)
    assert not may("trust/2.json", how="removed")
    owner = document(ROOT, roles=[role("release", RELEASE, paths=["trust/*"])])
    assert may("trust/2.json", how="removed", of=owner)


@pytest.mark.parametrize(
    "path",
    ["trust/2.json\n", "trust/0.json", "trust/02.json", "trust/2.json/a", "trust/a.json", "trust/-1.json", "x/trust/2.json",
     "trust/1234567890.json", "trust/2.yaml", "trust/٢.json", "Trust/2.json", "trust/2.json.bak"],
)  # fmt: skip
def test_what_only_looks_like_a_trust_document_needs_a_role(path: str) -> None:
    assert not may(path, how="added")
    assert not TRUST_PATH.match(path)


def test_trust_documents_are_the_fleet_repositorys_alone() -> None:
    assert not may("trust/2.json", repository="apps", how="added")


# --- Keys --------------------------------------------------------------------------------------------------------


def with_key(key: TrustKey) -> TrustDocument:
    return document(ROOT, roles=[Role(role="release", keys=[key], paths=["**"])])


def test_a_key_counts_between_its_dates_by_the_time_of_judging() -> None:
    dated = with_key(
        TrustKey(key=RELEASE.public, valid_after="2027-05-01T00:00:00Z", valid_before="2027-07-01T00:00:00Z")
    )
    month = 40 * 86400
    assert may("a", of=dated)
    assert not may("a", of=dated, now=NOW - month)
    assert not may("a", of=dated, now=NOW + month)


def test_who_lapsed_is_told_so() -> None:
    lapsed = with_key(TrustKey(key=RELEASE.public, valid_before="2027-05-01T00:00:00Z"))
    with pytest.raises(TrustError, match="out of its time") as caught:
        judge_content([Change("a", "added")], lapsed, {RELEASE.fingerprint}, now=NOW)
    assert RELEASE.fingerprint in caught.value.message
    with pytest.raises(TrustError, match="no role of it covers"):
        judge_content([Change("policies/a", "added")], DOCUMENT, {RELEASE.fingerprint}, now=NOW)


@pytest.mark.parametrize("fingerprint", sorted(FORGE_KEYS))
def test_a_forges_key_counts_only_with_its_flag(fingerprint: str) -> None:
    key = TrustKey(key=f"openpgp:{fingerprint}:AAAA")
    flagged = msgspec.structs.replace(key, forge=True)
    assert not counts(key, fingerprint, NOW)
    assert counts(flagged, fingerprint, NOW)
    assert not counts(flagged, RELEASE.fingerprint, NOW)
    for known, expected in ((key, []), (flagged, with_key(flagged).roles)):
        assert roles_of(with_key(known), {fingerprint}, ["release"], "fleet", NOW) == expected


def commit(signature: bytes | None, payload: bytes = b"tree", scheme: Any = "ssh") -> SignedObject:
    return SignedObject("commit", "0" * 40, (), "", "", "", payload, signature, scheme)


def test_the_signer_is_a_key_that_the_document_names_in_any_role() -> None:
    for person in (RELEASE, POLICY, OPERATOR, ADDER):
        signed = commit(person.sign(b"tree", "git"))
        assert signer_of(signed, DOCUMENT) == person.fingerprint


def test_unsigned_unknown_foreign_and_changed_are_different_refusals() -> None:
    assert code_of(lambda: signer_of(commit(None), DOCUMENT)) == "T040"
    assert code_of(lambda: signer_of(commit(STRANGER.sign(b"tree", "git")), DOCUMENT)) == "T041"
    assert code_of(lambda: signer_of(commit(ROOT.sign(b"tree", "git")), DOCUMENT)) == "T041"
    assert code_of(lambda: signer_of(commit(RELEASE.sign(b"tree", "muster-trust")), DOCUMENT)) == "T052"
    assert code_of(lambda: signer_of(commit(RELEASE.sign(b"tree", "git"), b"other"), DOCUMENT)) == "T052"


# --- Registry ----------------------------------------------------------------------------------------------------

BERLIN, MUNICH = Spoke("berlin-04"), Spoke("munich-01")
STORE = {"tier": "store"}


def registry(*entries: Cluster) -> dict[str, Cluster]:
    return {entry.metadata.name: entry for entry in entries}


def differences(before: Mapping[str, Cluster], after: Mapping[str, Cluster]) -> list[Change]:
    out = []
    for name in sorted({*before, *after}):
        path = f"clusters/{name}.yaml"
        if name not in before:
            out.append(Change(path, "added"))
        elif name not in after:
            out.append(Change(path, "removed"))
        elif msgspec.json.encode(before[name]) != msgspec.json.encode(after[name]):
            out.append(Change(path, "changed"))
    return out


def may_register(
    before: dict[str, Cluster],
    after: dict[str, Cluster],
    by: Person = ADDER,
    *,
    changes: list[Change] | None = None,
    of: TrustDocument = DOCUMENT,
) -> bool:
    found = differences(before, after) if changes is None else changes
    assert found, "nothing to judge"
    try:
        judge_registry(found, before, after, of, {by.fingerprint}, now=NOW)
    except TrustError as error:
        if error.code == "T043":
            return False
        raise
    return True


def edited(entry: Cluster, **spec: Any) -> Cluster:
    return msgspec.structs.replace(entry, spec=msgspec.structs.replace(entry.spec, **spec))


OLD = BERLIN.entry(protected_labels=STORE, values={"replicas": 1}, labels={"region": "eu"})


def test_a_registrar_adds_what_its_selector_matches() -> None:
    assert may_register({}, registry(OLD))
    assert may_register(registry(OLD), registry(OLD, MUNICH.entry(protected_labels=STORE)))
    assert may_register({}, registry(OLD, MUNICH.entry(protected_labels=STORE, sealing_keys=[])))
    assert not may_register({}, registry(BERLIN.entry(protected_labels={"tier": "bank"})))
    assert not may_register({}, registry(BERLIN.entry()))
    assert not may_register({}, registry(BERLIN.entry(labels=STORE, protected_labels={"tier": "bank"})))
    assert not may_register({}, registry(OLD, MUNICH.entry())), "one bad entry refuses the head"


def test_a_selector_of_expressions_bounds_a_registrar_too() -> None:
    term = Requirement(key="tier", operator="NotIn", values=["bank"])
    bounded = document(ROOT, roles=[role("registrar", ADDER, clusters=Selector(match_expressions=[term]))])
    assert may_register({}, registry(OLD), of=bounded)
    assert not may_register({}, registry(BERLIN.entry(protected_labels={"tier": "bank"})), of=bounded)


@pytest.mark.parametrize(
    "person", [RELEASE, POLICY, OPERATOR, ROOT, STRANGER], ids=lambda person: person.name
)
def test_nobody_else_touches_the_registry(person: Person) -> None:
    assert not may_register({}, registry(OLD), person)
    assert not may_register(registry(OLD), {}, person)
    assert not may_register(registry(OLD), registry(edited(OLD, site_class="edge")), person)


def test_a_managing_registrar_may_do_everything_to_entries() -> None:
    for before, after in (
        ({}, registry(OLD)),
        (registry(OLD), {}),
        (registry(OLD), registry(edited(OLD, protected_labels={"tier": "bank"}))),
        (registry(OLD), registry(edited(OLD, identity_key=encode_identity(MUNICH.identity.public)))),
    ):
        assert may_register(before, after, MANAGER)


OUTSIDE = [
    "README.md", "clusters", "clusters/a.yml", "clusters/a/b.yaml", "clusters/A.yaml", "clusters/.yaml", "clusters/-a.yaml",
    "clusters/../fleet.yaml", "clusters//a.yaml", "x/clusters/a.yaml", "clusters/a.yaml/b", "clusters/berlin-04.yaml\n",
    "clusters/ä.yaml", "fleet.yaml", "trust/2.json", "audit/heads.json", f"clusters/{'a' * 64}.yaml",
]  # fmt: skip


@pytest.mark.parametrize("path", OUTSIDE)
@pytest.mark.parametrize("person", [ADDER, MANAGER], ids=lambda person: person.name)
def test_a_registrars_key_is_worth_nothing_outside_the_entries(path: str, person: Person) -> None:
    for how in ("added", "changed", "removed"):
        assert not may_register({}, registry(OLD), person, changes=[Change(path, how)])
    good = Change("clusters/berlin-04.yaml", "added")
    assert not may_register({}, registry(OLD), person, changes=[good, Change(path, "added")])


BETTER = BERLIN.sealing(2)
EDITS: dict[str, Cluster] = {
    "identity": edited(OLD, identity_key=encode_identity(MUNICH.identity.public)),
    "identity in another spelling": edited(OLD, identity_key=OLD.spec.identity_key.upper().replace("ED25519", "ed25519")),
    "uid": edited(OLD, uid="another"),
    "protected label changed": edited(OLD, protected_labels={"tier": "bank"}),
    "protected label added": edited(OLD, protected_labels={**STORE, "ring": "canary"}),
    "protected label removed": edited(OLD, protected_labels={}),
    "label": msgspec.structs.replace(OLD, metadata=msgspec.structs.replace(OLD.metadata, labels={})),
    "value": edited(OLD, values={"replicas": 2}),
    "value of another kind, equal in Python": edited(OLD, values={"replicas": True}),
    "value of another spelling, equal in Python": edited(OLD, values={"replicas": 1.0}),
    "site class": edited(OLD, site_class="edge"),
    "sealing key removed": edited(OLD, sealing_keys=[]),
    "sealing key replaced": edited(OLD, sealing_keys=[BETTER]),
    "sealing key of the same generation": edited(OLD, sealing_keys=[*OLD.spec.sealing_keys, BERLIN.sealing(1)]),
    "sealing key of an older generation": edited(OLD, sealing_keys=[*OLD.spec.sealing_keys, BERLIN.sealing(0)]),
    "sealing key before the old ones": edited(OLD, sealing_keys=[BETTER, *OLD.spec.sealing_keys]),
    "sealing key twice": edited(OLD, sealing_keys=[*OLD.spec.sealing_keys, BETTER, BETTER]),
    "sealing key signed by another": edited(OLD, sealing_keys=[*OLD.spec.sealing_keys, BERLIN.sealing(2, by=MUNICH)]),
    "sealing key for another cluster": edited(OLD, sealing_keys=[*OLD.spec.sealing_keys, MUNICH.sealing(2, by=BERLIN)]),
    "sealing key for another fleet": edited(OLD, sealing_keys=[*OLD.spec.sealing_keys, BERLIN.sealing(2, fleet="other")]),
    "sealing key with another generation than signed": edited(
        OLD, sealing_keys=[*OLD.spec.sealing_keys, msgspec.structs.replace(BETTER, generation=3)]),
    "sealing key unsigned": edited(OLD, sealing_keys=[*OLD.spec.sealing_keys, msgspec.structs.replace(BETTER, signature="")]),
    "sealing key with a signature that is no hex": edited(
        OLD, sealing_keys=[*OLD.spec.sealing_keys, msgspec.structs.replace(BETTER, signature="zz")]),
    "sealing key that is none": edited(OLD, sealing_keys=[*OLD.spec.sealing_keys, msgspec.structs.replace(BETTER, key="x")]),
    "generation beyond all numbers": edited(
        OLD, sealing_keys=[*OLD.spec.sealing_keys, msgspec.structs.replace(BETTER, generation=2**64)]),
    "a good sealing key and a label": edited(
        OLD, sealing_keys=[*OLD.spec.sealing_keys, BETTER], protected_labels={"tier": "bank"}),
}  # fmt: skip


@pytest.mark.parametrize("name", EDITS)
def test_a_registrar_that_adds_changes_nothing_of_an_entry(name: str) -> None:
    assert not may_register(registry(OLD), registry(EDITS[name]))
    assert may_register(registry(OLD), registry(EDITS[name]), MANAGER)


def test_a_registrar_appends_sealing_keys_that_the_identity_signed() -> None:
    first = OLD.spec.sealing_keys
    assert may_register(registry(OLD), registry(edited(OLD, sealing_keys=[*first, BETTER])))
    assert may_register(
        registry(OLD), registry(edited(OLD, sealing_keys=[*first, BETTER, BERLIN.sealing(7)]))
    )
    none = edited(OLD, sealing_keys=[])
    assert may_register(registry(none), registry(edited(OLD, sealing_keys=[BETTER])))


def test_a_sealing_key_that_was_taken_out_does_not_come_back_with_its_old_signature() -> None:
    lost, current = OLD.spec.sealing_keys[0], BETTER
    now = edited(OLD, sealing_keys=[current])
    assert not may_register(registry(now), registry(edited(OLD, sealing_keys=[current, lost])))
    assert not may_register(registry(now), registry(edited(OLD, sealing_keys=[lost, current])))


def test_values_that_have_no_digest_are_refused_and_stop_nothing() -> None:
    endless = edited(OLD, values={"replicas": float("inf")})
    after = edited(endless, sealing_keys=[*OLD.spec.sealing_keys, BETTER])
    assert not may_register(registry(endless), registry(after))


def test_a_registrar_deletes_nothing() -> None:
    assert not may_register(registry(OLD), {})
    moved = msgspec.structs.replace(OLD, metadata=msgspec.structs.replace(OLD.metadata, name="new-name"))
    assert not may_register(registry(OLD), registry(moved)), "a rename is a deletion"


def test_an_entry_under_another_name_than_its_file_is_refused() -> None:
    before: dict[str, Cluster] = {}
    after = {"munich-01": OLD}
    assert not may_register(before, after, changes=[Change("clusters/munich-01.yaml", "added")])
    assert not may_register(before, {}, changes=[Change("clusters/berlin-04.yaml", "added")]), "not readable"


TWINS = {
    "uid": Spoke("twin", uid=BERLIN.uid).entry(protected_labels=STORE),
    "identity": edited(
        MUNICH.entry(protected_labels=STORE, sealing_keys=[]), identity_key=OLD.spec.identity_key
    ),
    "identity in capitals": edited(
        MUNICH.entry(protected_labels=STORE, sealing_keys=[]),
        identity_key="ed25519:" + BERLIN.identity.public.hex().upper(),
    ),
    "identity with spaces": edited(
        MUNICH.entry(protected_labels=STORE, sealing_keys=[]),
        identity_key="ed25519:" + BERLIN.identity.public.hex(" "),
    ),
}


@pytest.mark.parametrize("what", TWINS)
def test_a_registrar_adds_no_twin_of_a_cluster(what: str) -> None:
    twin = TWINS[what]
    assert not may_register(registry(OLD), registry(OLD, twin))
    assert not may_register({}, registry(OLD, twin)), "two of a kind in one head"
    assert may_register(registry(OLD), registry(OLD, twin), MANAGER)


@pytest.mark.parametrize(
    "changes",
    [
        {"sealing_keys": [BERLIN.sealing(by=MUNICH)]},
        {"sealing_keys": [MUNICH.sealing()]},
        {"sealing_keys": [BERLIN.sealing(1), BERLIN.sealing(1)]},
        {"sealing_keys": [msgspec.structs.replace(BERLIN.sealing(), generation=-1)]},
        {"identity_key": "nonsense"},
        {"identity_key": "ed25519:00"},
        {"uid": "another"},
    ],
    ids=[
        "foreign signature",
        "foreign key",
        "one generation twice",
        "negative generation",
        "no key",
        "short key",
        "uid",
    ],
)
def test_a_new_entry_whose_keys_are_not_its_own_is_refused(changes: dict[str, Any]) -> None:
    assert not may_register({}, registry(edited(OLD, **changes)))


def test_a_registrar_whose_key_lapsed_or_whose_role_is_for_elsewhere_adds_nothing() -> None:
    key = TrustKey(key=ADDER.public, valid_before="2027-05-01T00:00:00Z")
    lapsed = document(ROOT, roles=[Role(role="registrar", keys=[key])])
    elsewhere = document(
        ROOT, roles=[role("registrar", ADDER, MANAGER, scope="manage", repositories=["apps"])]
    )
    assert not may_register({}, registry(OLD), of=lapsed)
    assert not may_register({}, registry(OLD), of=elsewhere)


def test_two_roles_of_one_registrar_add_up_but_move_nobody_between_them() -> None:
    banks = Selector(match_labels={"tier": "bank"})
    both = document(
        ROOT, roles=[role("registrar", ADDER, clusters=STORES), role("registrar", ADDER, clusters=banks)]
    )
    assert may_register({}, registry(OLD, MUNICH.entry(protected_labels={"tier": "bank"})), of=both)
    assert not may_register(registry(OLD), registry(edited(OLD, protected_labels={"tier": "bank"})), of=both)


def test_only_a_policy_role_changes_what_is_allowed_however_wide_anothers_globs_are() -> None:
    wide = document(
        ROOT, roles=[role("release", RELEASE, paths=["**"]), role("policy", POLICY, paths=["policies/**"])]
    )
    assert may("bundles/shop/map.yaml", of=wide)
    for path in ("policies/labels.yaml", "fleet.yaml"):
        assert not may(path, of=wide)
    assert may("policies/labels.yaml", by=POLICY, of=wide)


def test_a_registrar_that_adds_gives_only_protected_labels_that_its_selector_speaks_of() -> None:
    def added(entry: Cluster) -> str:
        changes = [Change("clusters/new.yaml", "added")]
        return code_of(
            lambda: judge_registry(changes, {}, {"new": entry}, DOCUMENT, {ADDER.fingerprint}, now=NOW)
        )

    spoke = Spoke("new")
    assert added(spoke.entry(protected_labels={"tier": "store", "clearance": "secret"})) == "T043"
    assert added(spoke.entry(labels={"tier": "store"})) == "T043", "a plain label is nobody's word"


@pytest.mark.parametrize(("how", "by", "allowed"), [
    ("added", MANAGER, True), ("changed", MANAGER, False), ("removed", MANAGER, False), ("added", ADDER, False),
])  # fmt: skip
def test_a_checkpoint_of_audit_logs_is_added_by_who_manages_and_never_changed_or_taken_out(
    how: Any, by: Person, allowed: bool
) -> None:
    change = Change("audit/20261124T120000Z.json", how)
    assert may_register(registry(OLD), registry(OLD), by, changes=[change]) is allowed


@pytest.mark.parametrize(
    "path", ["audit/x.json", "audit/20261124T120000Z.json/a", "audit/a/20261124T120000Z.json"]
)
def test_no_other_file_beside_checkpoints_is_let_into_the_audit_folder(path: str) -> None:
    assert not may_register(registry(OLD), registry(OLD), MANAGER, changes=[Change(path, "added")])
