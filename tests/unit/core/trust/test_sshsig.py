"""SSH signatures: what git and ssh-keygen make is accepted, what they refuse is refused, and some things more."""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import given
from hypothesis import strategies as st
from muster_core.errors import TrustError
from muster_core.trust.gitobject import parse_object
from muster_core.trust.sshsig import SshKey, sign_ssh, verify_ssh
from unit.core.trust.keys import code_of
from unit.core.trust.signers import (
    SSH_KINDS,
    GitRepo,
    armour,
    dearmour,
    public,
    run,
    ssh_accepts,
    ssh_key,
    ssh_sign,
)

PAYLOAD = b"tree 0\n\nwhat was approved\n"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys")


def signer_of(kind: str, data: bytes) -> SshKey:
    """The whole way of an agent: read the object, verify its signature."""
    found = parse_object(kind, data)
    if found.signature is None:
        raise TrustError("T052", "unsigned")
    return verify_ssh(found.signature, found.payload)


def we_accept(kind: str, data: bytes, allowed: str) -> bool:
    try:
        return signer_of(kind, data) == SshKey.parse(allowed)
    except TrustError:
        return False


def string(*parts: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


def mpint(number: int) -> bytes:
    return string(number.to_bytes(number.bit_length() // 8 + 1, "big"))


def assembled(
    blob: bytes,
    sign: Callable[[bytes], bytes],
    *,
    namespace: bytes = b"git",
    reserved: bytes = b"",
    signed_reserved: bytes = b"",
    algorithm: bytes = b"sha512",
    version: int = 1,
    payload: bytes = PAYLOAD,
) -> bytes:
    """A signature put together by hand, so that one field can be wrong while the arithmetic is right."""
    digest = hashlib.new(algorithm.decode(), payload).digest()
    inner = sign(b"SSHSIG" + string(namespace, signed_reserved, algorithm, digest))
    return armour(
        b"SSHSIG" + struct.pack(">I", version) + string(blob, namespace, reserved, algorithm, inner)
    )


def wire(key: Any) -> bytes:
    text = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return SshKey.parse(text.decode()).blob


# --- both ways with git and ssh-keygen --------------------------------------------------------------------


@pytest.mark.parametrize("kind", SSH_KINDS)
def test_what_git_signs_is_the_keys_that_signed_it(kind: str, keys: Path, tmp_path: Path) -> None:
    repo, key = GitRepo(tmp_path / "repo"), ssh_key(keys, kind)
    repo.sign_with_ssh(key)
    commit = repo.commit("A change\n", "-S")
    repo.git("tag", "-s", "v1", "-m", "A release")
    tag = repo.read("tag", "v1")

    for sort, data in (("commit", commit), ("tag", tag)):
        assert repo.accepts(sort, data)
        assert signer_of(sort, data) == SshKey.parse(public(key))
        changed = data.replace(b"A change", b"a change").replace(b"A release", b"a release")
        assert changed != data
        assert not repo.accepts(sort, changed)
        assert code_of(lambda sort=sort, changed=changed: signer_of(sort, changed)) == "T052"


@pytest.mark.parametrize("kind", SSH_KINDS)
def test_a_key_has_the_fingerprint_that_ssh_keygen_prints(kind: str, keys: Path) -> None:
    key = ssh_key(keys, kind)
    parsed = SshKey.parse(public(key) + "\n")
    assert parsed.fingerprint == run("ssh-keygen", "-lf", key).decode().split()[1]
    assert parsed.text() == " ".join(public(key).split()[:2])
    assert SshKey.parse(parsed.text()) == parsed


@pytest.mark.parametrize("kind", SSH_KINDS)
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_ssh_keygen_signs_with_either_hash(kind: str, algorithm: str, keys: Path) -> None:
    key = ssh_key(keys, kind)
    signature = ssh_sign(key, PAYLOAD, "git", "-O", f"hashalg={algorithm}")
    assert algorithm.encode() in dearmour(signature)
    assert verify_ssh(signature, PAYLOAD) == SshKey.parse(public(key))


@pytest.mark.parametrize("kind", SSH_KINDS)
def test_ssh_keygen_verifies_what_is_signed_here(kind: str, keys: Path, tmp_path: Path) -> None:
    key = ssh_key(keys, kind)
    signature = sign_ssh(key.read_bytes(), PAYLOAD, namespace="muster-trust")
    assert ssh_accepts(tmp_path, public(key), signature, PAYLOAD, "muster-trust")
    assert not ssh_accepts(tmp_path, public(key), signature, PAYLOAD + b"x", "muster-trust")
    assert verify_ssh(signature, PAYLOAD, namespace="muster-trust") == SshKey.parse(public(key))
    if not kind.startswith("ecdsa"):  # ECDSA draws a number
        assert signature == ssh_sign(key, PAYLOAD, "muster-trust")


def moved(data: bytes, repo: GitRepo) -> bytes:
    other = repo.commit("Another change\n", "-S")
    ours, theirs = parse_object("commit", data), parse_object("commit", other)
    assert ours.signature
    assert theirs.signature
    return data.replace(folded(ours.signature), folded(theirs.signature))


def folded(signature: bytes) -> bytes:
    return b"gpgsig " + signature[:-1].replace(b"\n", b"\n ") + b"\n"


def in_other_namespace(data: bytes, repo: GitRepo) -> bytes:
    ours = parse_object("commit", data)
    key = Path(repo.git("config", "user.signingKey").decode().strip())
    assert ours.signature
    assert len(ssh_sign(key, ours.payload, "git")) == len(ours.signature)
    return data.replace(folded(ours.signature), folded(ssh_sign(key, ours.payload, "file")))


def with_other_key(data: bytes, repo: GitRepo) -> bytes:
    ours = parse_object("commit", data)
    other = ssh_key(repo.folder, "ed25519")
    assert ours.signature
    return data.replace(folded(ours.signature), folded(ssh_sign(other, ours.payload)))


def signature_changed(data: bytes, repo: GitRepo) -> bytes:
    ours = parse_object("commit", data)
    assert ours.signature
    raw = bytearray(dearmour(ours.signature))
    raw[-1] ^= 1
    return data.replace(folded(ours.signature), folded(armour(bytes(raw))))


def signature_twice(data: bytes, repo: GitRepo) -> bytes:
    header = folded(parse_object("commit", data).signature or b"")
    return data.replace(header, header + header)


def signature_in_message(data: bytes, repo: GitRepo) -> bytes:
    header = folded(parse_object("commit", data).signature or b"")
    return data.replace(header, b"") + b"\n" + header


END = b" -----END SSH SIGNATURE-----\n"
# (what was done to a signed commit, whether git still accepts it)
TAMPERED: dict[str, tuple[Callable[[bytes, GitRepo], bytes], bool]] = {
    "nothing is tampered with": (lambda data, _: data, True),
    "a byte of the message": (lambda data, _: data.replace(b"A change", b"A chance"), False),
    "another parent": (lambda data, _: data.replace(b"author", b"parent " + b"1" * 40 + b"\nauthor", 1), False),
    "another tree": (lambda data, _: b"tree " + b"1" * 40 + data[45:], False),
    "a byte of the signature": (signature_changed, False),
    "a line of the signature is missing": (lambda data, _: b"\n".join(
        line for at, line in enumerate(data.split(b"\n")) if at != data.split(b"\n").index(END[:-1]) - 1), False),
    "no end of the armour": (lambda data, _: data.replace(END, b""), False),
    "the signature of another commit": (moved, False),
    "a signature for another namespace": (in_other_namespace, False),
    "a signature by another key": (with_other_key, False),
    "a signature inside the message": (signature_in_message, False),
    "an unsigned header beside the signature": (
        lambda data, _: data.replace(b"gpgsig ", b"gpgsig-sha256 unsigned\ngpgsig ", 1), True),
    "an unsigned header that only looks like one": (
        lambda data, _: data.replace(b"gpgsig ", b"gpgsigother unsigned\n too\ngpgsig ", 1), True),
    "the signature twice": (signature_twice, True),
    "text after the armour": (lambda data, _: data.replace(END, END + b" and more\n"), True),
    "text before the armour": (lambda data, _: data.replace(b"gpgsig ", b"gpgsig more\n "), False),
    "spaces in the base64": (lambda data, _: data.replace(b"gpgsig -----BEGIN SSH SIGNATURE-----\n ",
        b"gpgsig -----BEGIN SSH SIGNATURE-----\n  "), True),
}  # fmt: skip


@pytest.mark.parametrize("case", TAMPERED)
def test_a_signed_commit_that_was_tampered_with_is_refused(case: str, keys: Path, tmp_path: Path) -> None:
    repo, key = GitRepo(tmp_path / "repo"), ssh_key(keys, "ed25519")
    repo.sign_with_ssh(key)
    repo.commit("The first\n", "-S")
    data = repo.commit("A change\n", "-S")
    tamper, git_accepts = TAMPERED[case]
    changed = tamper(data, repo)
    assert (changed == data) == (case == "nothing is tampered with")
    assert repo.accepts("commit", changed) == git_accepts
    assert we_accept("commit", changed, public(key)) == (changed == data)


def test_a_tag_with_another_end_is_refused(keys: Path, tmp_path: Path) -> None:
    repo, key = GitRepo(tmp_path / "repo"), ssh_key(keys, "ed25519")
    repo.sign_with_ssh(key)
    repo.commit()
    repo.git("tag", "-s", "v1", "-m", "A release")
    data = repo.read("tag", "v1")
    assert we_accept("tag", data, public(key))
    for changed in (
        data + b"more\n",
        data + data[data.index(b"-----BEGIN") :],
        data + b"-----BEGIN PGP SIGNATURE-----\n",
        data.replace(b"tag v1", b"tag v2"),
        data.replace(b"type commit", b"type tree"),
    ):
        assert not we_accept("tag", changed, public(key))
        assert code_of(lambda changed=changed: signer_of("tag", changed)) in ("T050", "T052")


# --- weak, foreign, forged --------------------------------------------------------------------------------


def test_an_rsa_signature_with_sha1_is_refused_as_by_ssh_keygen(tmp_path: Path) -> None:
    key = rsa.generate_private_key(65537, 2048)
    text = SshKey("ssh-rsa", wire(key)).text()

    def signature(algorithm: bytes, digest: hashes.HashAlgorithm) -> bytes:
        return assembled(
            wire(key), lambda data: string(algorithm, key.sign(data, padding.PKCS1v15(), digest))
        )

    good = signature(b"rsa-sha2-256", hashes.SHA256())
    assert verify_ssh(good, PAYLOAD).text() == text
    assert ssh_accepts(tmp_path, text, good, PAYLOAD)
    for weak in (
        signature(b"ssh-rsa", hashes.SHA1()),  # noqa: S303 - that it is weak is the point
        signature(b"rsa-sha2-256", hashes.SHA1()),  # noqa: S303
        signature(b"rsa-sha2-512", hashes.SHA256()),
    ):
        assert not ssh_accepts(tmp_path, text, weak, PAYLOAD)
        assert code_of(lambda weak=weak: verify_ssh(weak, PAYLOAD)) == "T052"


def test_a_short_rsa_key_is_refused_though_ssh_keygen_takes_it(keys: Path, tmp_path: Path) -> None:
    key = ssh_key(keys, "rsa-1024")
    signature = ssh_sign(key, PAYLOAD)
    assert ssh_accepts(tmp_path, public(key), signature, PAYLOAD)
    assert code_of(lambda: verify_ssh(signature, PAYLOAD)) == "T052"
    assert code_of(lambda: SshKey.parse(public(key))) == "T051"
    assert code_of(lambda: sign_ssh(key.read_bytes(), PAYLOAD, namespace="git")) == "T053"


def test_an_rsa_signature_without_its_leading_zeros_is_the_same_signature(tmp_path: Path) -> None:
    key = rsa.generate_private_key(65537, 2048)
    for number in range(5000):
        payload = b"%d" % number
        digest = hashlib.sha512(payload).digest()
        made = key.sign(
            b"SSHSIG" + string(b"git", b"", b"sha512", digest), padding.PKCS1v15(), hashes.SHA512()
        )
        if made[0] == 0:
            break
    assert made[0] == 0
    short = assembled(wire(key), lambda _: string(b"rsa-sha2-512", made.lstrip(b"\0")), payload=payload)
    assert ssh_accepts(tmp_path, SshKey("ssh-rsa", wire(key)).text(), short, payload)
    assert verify_ssh(short, payload).blob == wire(key)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("reserved", b"x"),
        ("version", 2),
        ("algorithm", b"sha384"),
        ("namespace", b"file"),
        ("namespace", b""),
    ],
)
def test_a_field_that_is_not_as_git_makes_it_is_refused(field: str, value: Any) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    sign = lambda data: string(b"ssh-ed25519", key.sign(data))  # noqa: E731
    assert verify_ssh(assembled(wire(key), sign), PAYLOAD).blob == wire(key)
    wrong = assembled(wire(key), sign, **{field: value})
    assert code_of(lambda: verify_ssh(wrong, PAYLOAD)) == "T052"
    if field == "reserved":
        wrong = assembled(wire(key), sign, reserved=value, signed_reserved=value)
        assert code_of(lambda: verify_ssh(wrong, PAYLOAD)) == "T052"
    if value == b"":
        assert code_of(lambda: verify_ssh(wrong, PAYLOAD, namespace="")) == "T052"


def test_bytes_left_over_anywhere_are_refused() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    sign = lambda data: string(b"ssh-ed25519", key.sign(data))  # noqa: E731
    good = dearmour(assembled(wire(key), sign))
    assert verify_ssh(armour(good), PAYLOAD)
    for bad in (
        armour(good + b"\0"),
        assembled(wire(key) + b"\0", sign),
        assembled(wire(key), lambda data: sign(data) + b"\0"),
        assembled(wire(key), lambda data: string(b"ssh-ed25519", key.sign(data) + b"\0")),
        b" " + armour(good),
        armour(good) + b" ",
        armour(good) + armour(good),
        armour(good).replace(b"\n", b"\r\n"),
        armour(good).replace(b"-----BEGIN SSH SIGNATURE-----\n", b"-----BEGIN SSH SIGNATURE-----\n\n"),
        armour(good).replace(b"SSH SIGNATURE", b"SSH2 SIGNATURE"),
        armour(good).replace(b"BEGIN SSH", b"BEGIN PGP"),
    ):
        assert code_of(lambda bad=bad: verify_ssh(bad, PAYLOAD)) == "T052"
    for length in range(len(good)):
        assert code_of(lambda length=length: verify_ssh(armour(good[:length]), PAYLOAD)) == "T052"


def test_a_second_spelling_of_an_ecdsa_number_is_refused() -> None:
    key = ec.generate_private_key(ec.SECP256R1())

    def sign(data: bytes, first: bytes = b"", negative: bool = False, last: bytes = b"") -> bytes:
        r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
        odd = string(first + mpint(r)[4:]) if not negative else string(b"\xff" * 33)
        return string(b"ecdsa-sha2-nistp256", odd + mpint(s) + last)

    assert verify_ssh(assembled(wire(key), sign), PAYLOAD).blob == wire(key)
    for bad in (
        assembled(wire(key), lambda data: sign(data, b"\0")),
        assembled(wire(key), lambda data: sign(data, negative=True)),
        assembled(wire(key), lambda data: string(b"ecdsa-sha2-nistp384") + sign(data)[23:]),
        assembled(wire(key), lambda data: sign(data, last=b"\0")),
    ):
        assert code_of(lambda bad=bad: verify_ssh(bad, PAYLOAD)) == "T052"


def test_a_certificate_is_no_key(keys: Path, tmp_path: Path) -> None:
    authority = ssh_key(keys, "ed25519")
    key = ssh_key(tmp_path, "ed25519")
    run("ssh-keygen", "-q", "-s", authority, "-I", "me", "-n", "me@example.com", key.with_name("ed25519.pub"))
    certificate = (tmp_path / "ed25519-cert.pub").read_text()
    assert code_of(lambda: SshKey.parse(certificate)) == "T051"
    signature = ssh_sign(tmp_path / "ed25519-cert.pub", PAYLOAD)
    assert b"ssh-ed25519-cert-v01@openssh.com" in dearmour(signature)
    assert code_of(lambda: verify_ssh(signature, PAYLOAD)) == "T052"


@pytest.mark.parametrize("kind", ["sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com"])
def test_a_security_key_counts_when_it_was_touched(kind: str, tmp_path: Path) -> None:
    application = b"ssh:"
    if kind.startswith("sk-ssh"):
        ed = ed25519.Ed25519PrivateKey.generate()
        blob = string(kind.encode(), ed.public_key().public_bytes_raw(), application)
        raw = lambda data: string(ed.sign(data))  # noqa: E731
    else:
        curve = ec.generate_private_key(ec.SECP256R1())
        point = curve.public_key().public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        )
        blob = string(kind.encode(), b"nistp256", point, application)

        def raw(data: bytes) -> bytes:
            r, s = decode_dss_signature(curve.sign(data, ec.ECDSA(hashes.SHA256())))
            return string(mpint(r) + mpint(s))

    def signature(flags: int, said: int | None = None) -> bytes:
        tail = struct.pack(">I", 7)

        def sign(data: bytes) -> bytes:
            what = (
                hashlib.sha256(application).digest() + bytes([flags]) + tail + hashlib.sha256(data).digest()
            )
            return string(kind.encode()) + raw(what) + bytes([flags if said is None else said]) + tail

        return assembled(blob, sign)

    key = SshKey(kind, blob)
    assert SshKey.parse(key.text()) == key
    assert ssh_accepts(tmp_path, key.text(), signature(1), PAYLOAD)
    assert verify_ssh(signature(1), PAYLOAD) == key
    assert verify_ssh(signature(5), PAYLOAD) == key
    assert code_of(lambda: verify_ssh(signature(0), PAYLOAD)) == "T052"
    assert code_of(lambda: verify_ssh(signature(0, said=1), PAYLOAD)) == "T052"
    assert not ssh_accepts(tmp_path, key.text(), signature(0, said=1), PAYLOAD)


BLOB = string(b"ssh-ed25519", bytes(range(32)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ssh-ed25519",
        "ssh-ed25519 not base64",
        "ssh-ed25519 ключ",
        "ssh-ed25519 \udcff",
        SshKey("ssh-rsa", BLOB).text(),
        SshKey("ssh-ed25519", BLOB.replace(b"ssh-ed25519", b"ssh-xd25519")).text(),
        SshKey("ssh-ed25519", BLOB + b"\0").text(),
        SshKey("ssh-ed25519", BLOB[:-1]).text(),
        SshKey("ssh-dss", string(b"ssh-dss", b"\1", b"\1", b"\1", b"\1")).text(),
        SshKey("ecdsa-sha2-nistp256", string(b"ecdsa-sha2-nistp256", b"nistp384", b"\4" * 65)).text(),
        SshKey("ecdsa-sha2-nistp256", string(b"ecdsa-sha2-nistp256", b"nistp256", b"\4" * 65)).text(),
        SshKey("ssh-rsa", string(b"ssh-rsa") + mpint(1) + mpint((1 << 2048) - 1)).text(),
        SshKey("ssh-rsa", string(b"ssh-rsa") + mpint(65537) + mpint((1 << 2048) - 2)).text(),
        SshKey("ssh-rsa", string(b"ssh-rsa") + mpint(65537) + mpint((1 << 20000) - 1)).text(),
        SshKey("ssh-rsa", string(b"ssh-rsa") + mpint((1 << 64) + 1) + mpint((1 << 2048) - 1)).text(),
        "\udcff " + SshKey("ssh-ed25519", BLOB).text(),
        SshKey("ssh-ed25519", BLOB).text() + "\n" + SshKey("ssh-ed25519", BLOB).text(),
        'command="x" ' + SshKey("ssh-ed25519", BLOB).text(),
        SshKey("ssh-ed25519", BLOB).text() + " " + "x" * (16 << 10),
    ],
)
def test_a_text_that_is_not_one_strong_key_is_refused(text: str) -> None:
    assert SshKey.parse(SshKey("ssh-ed25519", BLOB).text() + " a comment\n").blob == BLOB
    assert code_of(lambda: SshKey.parse(text)) == "T051"


def test_a_key_has_one_spelling() -> None:
    key = SshKey("ecdsa-sha2-nistp256", wire(ec.generate_private_key(ec.SECP256R1())))
    text = key.text()
    assert SshKey.parse(text) == key
    assert text.endswith("=")
    last = text[-2]
    again = text[:-2] + chr(ord(last) + 1) + "="  # the bits that base64 does not use
    assert base64.b64decode(again.split()[1]) == key.blob
    other_curve = SshKey(key.kind, key.blob.replace(b"\0\0\0\x08nistp256", b"\0\0\0\x08nistp384"))
    for bad in (again, text.rstrip("="), other_curve.text()):
        assert code_of(lambda bad=bad: SshKey.parse(bad)) == "T051"


def test_a_key_that_cannot_sign_is_refused_without_showing_it(keys: Path, tmp_path: Path) -> None:
    locked = ssh_key(keys, "ed25519", passphrase="correct horse").read_bytes()
    for private in (locked, b"", b"not a key", ssh_key(keys, "ed25519").read_bytes()[:-200]):
        with pytest.raises(TrustError) as caught:
            sign_ssh(private, PAYLOAD, namespace="git")
        assert caught.value.code == "T053"
        assert caught.value.__cause__ is None
        assert len(private) < 100 or private.decode()[60:90] not in str(caught.value)
    assert code_of(lambda: sign_ssh(ssh_key(keys, "ed25519").read_bytes(), PAYLOAD, namespace="")) == "T053"


def test_a_signature_is_bounded(keys: Path) -> None:
    signature = ssh_sign(ssh_key(keys, "ed25519"), PAYLOAD)
    verify_ssh(signature + b"\n" * 100, PAYLOAD)
    assert code_of(lambda: verify_ssh(signature + b"\n" * (64 << 10), PAYLOAD)) == "T052"


# --- every byte counts ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def signed(keys: Path) -> dict[str, bytes]:
    return {kind: ssh_sign(ssh_key(keys, kind), PAYLOAD) for kind in SSH_KINDS}


@given(st.sampled_from(sorted(SSH_KINDS)), st.integers(0, 1 << 16), st.integers(1, 255), st.booleans())
def test_no_byte_of_payload_or_signature_may_change(
    signed: dict[str, bytes], kind: str, at: int, bits: int, of_signature: bool
) -> None:
    payload, signature = bytearray(PAYLOAD), bytearray(dearmour(signed[kind]))
    changed = signature if of_signature else payload
    changed[at % len(changed)] ^= bits
    with pytest.raises(TrustError) as caught:
        verify_ssh(armour(bytes(signature)), bytes(payload))
    assert caught.value.code == "T052"


@given(st.binary(max_size=400))
def test_any_bytes_are_refused_by_name(data: bytes) -> None:
    for signature in (data, armour(data), armour(b"SSHSIG\0\0\0\1" + data)):
        with pytest.raises(TrustError) as caught:
            verify_ssh(signature, PAYLOAD)
        assert caught.value.code == "T052"
