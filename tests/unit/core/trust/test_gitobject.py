"""Commits and tags as real git writes them, and shapes that are refused because they can be read in two ways."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from muster_core.errors import TrustError
from muster_core.trust.gitobject import SignedObject, parse_object
from muster_core.trust.sshsig import SshKey, verify_ssh
from unit.core.trust.signers import GitRepo, public, ssh_accepts, ssh_key

TREE, PARENT = "4b825dc642cb6eb9a060e54bf8d69288fbee4904", "1" * 40
WHO = b"A <me@example.com> 1795521788 +0000"
SIGNATURE = b"-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----\n"
HEADER = b"gpgsig " + SIGNATURE[:-1].replace(b"\n", b"\n ") + b"\n"
HEAD = b"tree %s\nparent %s\nauthor %s\ncommitter %s\n" % (TREE.encode(), PARENT.encode(), WHO, WHO)
COMMIT = HEAD + HEADER + b"\nA change\n"
TAG = b"object %s\ntype commit\ntag v1\ntagger %s\n\nA release\n" % (PARENT.encode(), WHO)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ssh_key(tmp_path_factory.mktemp("keys"), "ed25519")


@pytest.fixture
def repo(tmp_path: Path, key: Path) -> GitRepo:
    made = GitRepo(tmp_path / "repo")
    made.sign_with_ssh(key)
    return made


def malformed(kind: str, data: bytes) -> str:
    with pytest.raises(TrustError) as caught:
        parse_object(kind, data)
    assert caught.value.code == "T050"
    return caught.value.message


def holds(found: SignedObject, key: Path) -> bool:
    assert found.signature is not None
    return verify_ssh(found.signature, found.payload) == SshKey.parse(public(key))


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("A change\n", ()),
        ("", ("--allow-empty-message",)),
        ("\n", ("--allow-empty-message",)),
        ("no newline at the end", ()),
        ("first\r\n\r\nsecond\r\n", ()),
        ("Änderung ✓\n\n\n\n", ()),
        ("gpgsig -----BEGIN SSH SIGNATURE-----\n x\n -----END SSH SIGNATURE-----\n\ntree 1\n", ()),
        ("-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----\n", ()),
        (" begins with a space\n", ()),
        ("x" * 200_000, ()),
    ],
)
def test_a_commit_of_git_is_taken_apart_into_what_was_signed(
    message: str, options: tuple[str, ...], repo: GitRepo, key: Path, tmp_path: Path
) -> None:
    unsigned = repo.commit("A start\n")
    data = repo.commit(message, "-S", *options)
    assert repo.accepts("commit", data)
    found = parse_object("commit", data)
    assert (found.kind, found.scheme, found.target, found.target_kind, found.name) == (
        "commit",
        "ssh",
        "",
        "",
        "",
    )
    assert found.tree == repo.git("rev-parse", "HEAD^{tree}").decode().strip()
    assert found.parents == (repo.git("rev-parse", "HEAD^").decode().strip(),)
    assert found.signature is not None
    assert ssh_accepts(tmp_path, public(key), found.signature, found.payload)
    assert holds(found, key)
    assert found.payload.endswith(b"\n\n" + message.encode())

    start = parse_object("commit", unsigned)
    assert (start.signature, start.scheme, start.parents, start.payload) == (None, "", (), unsigned)


def test_a_merge_of_signed_tags_with_an_encoding_keeps_its_headers(repo: GitRepo, key: Path) -> None:
    repo.commit("A start\n")
    for name in ("one", "two"):
        repo.git("checkout", "-q", "-b", name, "main")
        repo.commit(f"Work of {name}\n")
        repo.git("tag", "-s", f"v-{name}", "-m", f"Release {name}")
        repo.git("checkout", "-q", "main")
    repo.git("config", "i18n.commitEncoding", "ISO-8859-1")
    repo.git("merge", "-q", "--no-ff", "-S", "-m", "Both\n", "v-one", "v-two")
    data = repo.read("commit", "HEAD")
    assert data.count(b"\nmergetag object ") == 2
    assert b"\nencoding ISO-8859-1\n" in data
    assert data.count(b"BEGIN SSH SIGNATURE") == 3
    found = parse_object("commit", data)
    assert len(found.parents) >= 2
    assert found.parents == tuple(repo.git("log", "-1", "--format=%P").decode().split())
    assert found.payload.count(b"\nmergetag object ") == 2
    assert holds(found, key)
    assert repo.accepts("commit", data)
    # A signature inside a mergetag approves the tag, not this commit.
    assert parse_object("commit", re.sub(rb"gpgsig (.+\n )+.+\n", b"", data)).signature is None


def test_a_tag_of_git_is_taken_apart_into_what_was_signed(repo: GitRepo, key: Path) -> None:
    repo.commit("A start\n")
    head = repo.git("rev-parse", "HEAD").decode().strip()
    for name, message in (
        ("v1", "A release\n"),
        ("release/2.0-ä", "\r\nA\r\n\r\n"),
        ("v3", SIGNATURE.decode() + "and after it\n"),
    ):
        repo.git("tag", "-s", "--cleanup=verbatim", "-F", "-", name, stdin=message.encode())
        data = repo.read("tag", name)
        assert repo.accepts("tag", data)
        found = parse_object("tag", data)
        assert (found.kind, found.tree, found.parents, found.scheme) == ("tag", "", (), "ssh")
        assert (found.target, found.target_kind, found.name) == (head, "commit", name)
        assert found.payload + (found.signature or b"") == data
        assert found.payload.endswith(b"\n\n" + message.encode())
        assert holds(found, key)
    repo.git("tag", "-s", "nested", "v1", "-m", "A tag of a tag")
    assert parse_object("tag", repo.read("tag", "nested")).target_kind == "tag"
    repo.git("tag", "-a", "plain", "-m", "Nobody signed")
    plain = parse_object("tag", repo.read("tag", "plain"))
    assert (plain.signature, plain.scheme, plain.payload) == (None, "", repo.read("tag", "plain"))


def test_a_repository_with_sha256_ids_signs_in_its_own_header(tmp_path: Path, key: Path) -> None:
    repo = GitRepo(tmp_path / "long", object_format="sha256")
    repo.sign_with_ssh(key)
    repo.commit("A start\n")
    data = repo.commit("A change\n", "-S")
    assert b"\ngpgsig-sha256 " in data
    assert repo.accepts("commit", data)
    found = parse_object("commit", data)
    assert len(found.tree) == len(found.parents[0]) == 64
    assert holds(found, key)
    malformed("commit", data.replace(b"gpgsig-sha256 ", b"gpgsig "))
    repo.git("tag", "-s", "v1", "-m", "A release")
    assert holds(parse_object("tag", repo.read("tag", "v1")), key)


@pytest.mark.parametrize(
    ("beginning", "scheme"),
    [
        ("SSH SIGNATURE", "ssh"),
        ("PGP SIGNATURE", "openpgp"),
        ("PGP MESSAGE", "openpgp"),
        ("SIGNED MESSAGE", "x509"),
    ],
)
def test_a_scheme_is_told_by_the_first_line(beginning: str, scheme: str) -> None:
    commit = COMMIT.replace(b"SSH SIGNATURE", beginning.encode())
    assert parse_object("commit", commit).scheme == scheme
    signature = SIGNATURE.replace(b"SSH SIGNATURE", beginning.encode())
    found = parse_object("tag", TAG + signature)
    assert (found.scheme, found.signature, found.payload) == (scheme, signature, TAG)


def test_the_last_signature_of_a_tag_is_the_one_as_for_git() -> None:
    found = parse_object("tag", TAG + SIGNATURE + SIGNATURE)
    assert (found.payload, found.signature) == (TAG + SIGNATURE, SIGNATURE)
    assert (
        parse_object("tag", TAG + b" " + SIGNATURE[:29]).signature is None
    )  # not at the beginning of a line


BAD_COMMITS: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda _: b"",
    "no headers": lambda _: b"\n\nA change\n",
    "no end of the headers": lambda data: data.partition(b"\n\n")[0] + b"\n",
    "a NUL in the message": lambda data: data + b"\0",
    "a NUL in a header": lambda data: data.replace(b"author A", b"author A\0"),
    "two signatures": lambda data: data.replace(HEADER, HEADER + HEADER),
    "two signatures apart": lambda data: HEAD + HEADER + b"x y\n" + HEADER + b"\nA change\n",
    "the other header for signatures": lambda data: data.replace(b"gpgsig ", b"gpgsig-sha256 "),
    "both headers for signatures": lambda data: data.replace(b"gpgsig ", b"gpgsig-sha256 x\ngpgsig "),
    "a header that git would drop": lambda data: data.replace(b"gpgsig ", b"gpgsigs x\ngpgsig "),
    "a header that git would drop alone": lambda data: data.replace(HEADER, b"gpgsig2 x\n"),
    "a signature of no kind": lambda data: data.replace(b"BEGIN SSH", b"BEGIN XSH"),
    "an empty signature": lambda data: data.replace(HEADER, b"gpgsig \n"),
    "no tree": lambda data: data.partition(b"\n")[2],
    "two trees": lambda data: data.replace(b"parent", b"tree " + TREE.encode() + b"\nparent", 1),
    "a late parent": lambda data: data.replace(HEADER, b"parent " + PARENT.encode() + b"\n" + HEADER),
    "a late tree": lambda data: data.replace(HEADER, b"tree " + TREE.encode() + b"\n" + HEADER),
    "a parent before the tree": lambda data: b"parent " + PARENT.encode() + b"\n" + data,
    "a second author": lambda data: data.replace(HEADER, b"author " + WHO + b"\n" + HEADER),
    "no committer": lambda data: data.replace(b"committer " + WHO + b"\n", b""),
    "the signature first": lambda data: HEADER + data.replace(HEADER, b""),
    "two encodings": lambda data: data.replace(HEADER, b"encoding a\nencoding b\n" + HEADER),
    "an upper-case id": lambda data: data.replace(TREE.encode(), TREE.upper().encode()),
    "a short id": lambda data: data.replace(TREE.encode(), TREE.encode()[:-1]),
    "ids of two lengths": lambda data: data.replace(PARENT.encode(), b"1" * 64),
    "an id with a tail": lambda data: data.replace(TREE.encode(), TREE.encode() + b" "),
    "an id that goes on": lambda data: data.replace(TREE.encode(), TREE.encode() + b"\n "),
    "an author that goes on": lambda data: data.replace(b"\ncommitter", b"\n tree 1\ncommitter"),
    "a first line that continues": lambda data: b" x\n" + data,
    "a line without a value": lambda data: data.replace(HEADER, b"word\n" + HEADER),
    "a name with a tab": lambda data: data.replace(HEADER, b"a\tb c\n" + HEADER),
    "line ends of another system": lambda data: data.replace(b"\n", b"\r\n"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_COMMITS)
def test_a_commit_that_can_be_read_in_two_ways_is_refused(case: str) -> None:
    good = parse_object("commit", COMMIT)
    assert (good.signature, good.payload) == (SIGNATURE, HEAD + b"\nA change\n")
    assert BAD_COMMITS[case](COMMIT) != COMMIT
    malformed("commit", BAD_COMMITS[case](COMMIT))


BAD_TAGS: dict[str, Callable[[bytes], bytes]] = {
    "a commit": lambda _: COMMIT,
    "no end of the headers": lambda data: data.partition(b"\n\n")[0] + b"\n",
    "a NUL": lambda data: data + b"\0",
    "another header": lambda data: data.replace(b"\n\n", b"\nencoding x\n\n", 1),
    "a signature in a header": lambda data: data.replace(b"\n\n", b"\n" + HEADER + b"\n", 1),
    "the other signature in a header": lambda data: data.replace(b"\n\n", b"\ngpgsig-sha256 x\n\n", 1),
    "two names": lambda data: data.replace(b"tag v1\n", b"tag v1\ntag v2\n"),
    "a name that goes on": lambda data: data.replace(b"tag v1\n", b"tag v1\n 2\n"),
    "no name": lambda data: data.replace(b"tag v1\n", b"tag \n"),
    "a name with a space": lambda data: data.replace(b"tag v1\n", b"tag v1 v2\n"),
    "a name with a control character": lambda data: data.replace(b"tag v1\n", b"tag v1\x1b[2K\n"),
    "a name that is not UTF-8": lambda data: data.replace(b"tag v1\n", b"tag v\xff\n"),
    "no tagger": lambda data: data.replace(b"tagger " + WHO + b"\n", b""),
    "an unknown kind": lambda data: data.replace(b"type commit", b"type note"),
    "a short id": lambda data: data.replace(PARENT.encode(), b"1" * 39),
    "another order": lambda data: data.replace(b"type commit\ntag v1\n", b"tag v1\ntype commit\n"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_TAGS)
def test_a_tag_that_can_be_read_in_two_ways_is_refused(case: str) -> None:
    assert parse_object("tag", TAG + SIGNATURE).payload == TAG
    assert BAD_TAGS[case](TAG + SIGNATURE) != TAG + SIGNATURE
    malformed("tag", BAD_TAGS[case](TAG + SIGNATURE))


def test_only_commits_and_tags_are_read() -> None:
    for kind in ("tree", "blob", "", "Commit"):
        malformed(kind, COMMIT)


def test_an_object_and_its_signature_are_bounded() -> None:
    fits = COMMIT + b"x" * ((1 << 20) - len(COMMIT))
    assert parse_object("commit", fits).signature == SIGNATURE
    assert "bytes" in malformed("commit", fits + b"x")
    line = b" " + b"A" * 76 + b"\n"
    assert parse_object("commit", COMMIT.replace(b" AAAA\n", line * 800)).signature
    assert "bytes" in malformed("commit", COMMIT.replace(b" AAAA\n", line * 900))
    assert "bytes" in malformed("tag", TAG + SIGNATURE + b"A" * (64 << 10))


@given(
    st.lists(
        st.sampled_from(
            [
                b"tree " + TREE.encode(), b"parent " + PARENT.encode(), b"author " + WHO, b"committer " + WHO,
                HEADER[:-1], b"gpgsig x", b"gpgsig-sha256 x", b"encoding x", b"mergetag x\n y", b" z", b"", b"text",
            ]
        ),
        max_size=9,
    )
)  # fmt: skip
def test_whatever_is_accepted_can_be_put_together_again(lines: list[bytes]) -> None:
    data = HEAD + b"\n".join(lines) + b"\n"
    try:
        found = parse_object("commit", data)
    except TrustError as error:
        if error.code != "T050":
            raise
        return
    if found.signature is None:
        assert found.payload == data
        return
    header = b"gpgsig " + found.signature[:-1].replace(b"\n", b"\n ") + b"\n"
    head, _, message = data.partition(b"\n\n")
    assert (head + b"\n").count(header) == 1
    assert found.payload == (head + b"\n").replace(header, b"") + b"\n" + message
    assert parse_object("commit", found.payload).signature is None
