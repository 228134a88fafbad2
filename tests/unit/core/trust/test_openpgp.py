"""OpenPGP signatures: real gpg and git are the oracle, keys are made at run time."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from muster_core.errors import TrustError
from muster_core.trust.gitobject import parse_object
from muster_core.trust.openpgp import verify_openpgp
from unit.core.trust.signers import GitRepo, run

pytest.importorskip("pysequoia", reason="the extra openpgp is not installed")
PAYLOAD = b"tree 0\n\nwhat was approved\n"
KINDS = ("ed25519", "nistp256", "nistp384", "rsa2048", "rsa3072")
LONG_AGO = "20240101T000000"


class Gpg:
    """A keyring of its own; the agent that gpg starts for it ends with it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.env = {"PATH": os.environ["PATH"], "GNUPGHOME": str(home)}

    def __call__(self, *arguments: str, stdin: bytes = b"") -> bytes:
        quiet = (
            "gpg",
            "--quiet",
            "--batch",
            "--no-tty",
            "--yes",
            "--passphrase",
            "",
            "--pinentry-mode",
            "loopback",
        )
        return run(*quiet, *arguments, stdin=stdin, env=self.env)

    def make(self, user: str, kind: str, *options: str, expires: str = "never", usage: str = "sign") -> str:
        """The fingerprint of a new key."""
        self(*options, "--quick-generate-key", user, kind, usage, expires)
        return self.fingerprints(user)[0]

    def fingerprints(self, user: str) -> list[str]:
        """Of the primary key, then of each subkey."""
        listing = self("--with-colons", "--list-keys", user).decode().splitlines()
        return [line.split(":")[9] for line in listing if line.startswith("fpr:")]

    def export(self, user: str) -> bytes:
        return self("--export", user)

    def sign(self, user: str, payload: bytes = PAYLOAD, *options: str) -> bytes:
        return self(*options, "--local-user", user, "--armor", "--detach-sign", stdin=payload)

    def says(self, signature: bytes, payload: bytes = PAYLOAD) -> set[str]:
        """The words of gpg's status about a signature: GOODSIG, BADSIG, EXPKEYSIG, REVKEYSIG…"""
        file = self.home / "signature"
        file.write_bytes(signature)
        argv = ["gpg", "--batch", "--status-fd", "1", "--verify", str(file), "-"]
        done = subprocess.run(argv, input=payload, capture_output=True, env=self.env, check=False, timeout=50)
        return {
            line.split()[1]
            for line in done.stdout.decode(errors="replace").splitlines()[:]
            if "[GNUPG:]" in line
        }


@pytest.fixture(scope="module")
def gpg() -> Iterator[Gpg]:
    with tempfile.TemporaryDirectory(prefix="gpg", dir="/tmp") as home:  # sockets want short paths
        Path(home).chmod(0o700)
        made = Gpg(Path(home))
        for kind in KINDS:
            made.make(f"{kind}@example.com", kind)
        try:
            yield made
        finally:
            run("gpgconf", "--kill", "all", env=made.env)


def refused(signature: bytes, payload: bytes, certificates: list[bytes]) -> str:
    with pytest.raises(TrustError) as caught:
        verify_openpgp(signature, payload, certificates)
    assert caught.value.code == "T054"
    assert "backtrace" not in str(caught.value).lower()
    assert "\n" not in str(caught.value)
    return caught.value.message


def dearmour(text: bytes) -> bytes:
    body = text.partition(b"\n\n")[2].partition(b"\n-----END")[0]
    return base64.b64decode(b"".join(line for line in body.split(b"\n") if not line.startswith(b"=")))


def armour(data: bytes) -> bytes:
    encoded = base64.b64encode(data)
    lines = b"".join(encoded[at : at + 64] + b"\n" for at in range(0, len(encoded), 64))
    return b"-----BEGIN PGP SIGNATURE-----\n\n" + lines + b"-----END PGP SIGNATURE-----\n"


@pytest.mark.parametrize("kind", KINDS)
def test_what_git_signs_with_gpg_is_the_keys_that_signed_it(kind: str, gpg: Gpg, tmp_path: Path) -> None:
    user = f"{kind}@example.com"
    repo = GitRepo(tmp_path / "repo", GNUPGHOME=str(gpg.home))
    repo.git("config", "user.signingKey", user)
    commit = repo.commit("A change\n", "-S")
    repo.git("tag", "-s", "v1", "-m", "A release")
    tag = repo.read("tag", "v1")
    everybody = [gpg.export(f"{one}@example.com") for one in KINDS]
    others = [certificate for one, certificate in zip(KINDS, everybody, strict=True) if one != kind]

    for sort, data in (("commit", commit), ("tag", tag)):
        assert repo.accepts(sort, data)
        found = parse_object(sort, data)
        assert found.scheme == "openpgp"
        assert found.signature is not None
        for certificates in (everybody, [gpg.export(user)], [gpg("--armor", "--export", user)]):
            assert verify_openpgp(found.signature, found.payload, certificates) == gpg.fingerprints(user)[0]
        refused(found.signature, found.payload, others)
        refused(found.signature, found.payload, [])

        changed = data.replace(b"A change", b"a change").replace(b"A release", b"a release")
        assert not repo.accepts(sort, changed)
        refused(found.signature, parse_object(sort, changed).payload, everybody)


@pytest.mark.parametrize("algorithm", ["SHA256", "SHA384", "SHA512"])
def test_strong_hashes_are_taken(algorithm: str, gpg: Gpg) -> None:
    user = "rsa2048@example.com"
    signature = gpg.sign(user, PAYLOAD, "--digest-algo", algorithm)
    assert verify_openpgp(signature, PAYLOAD, [gpg.export(user)]) == gpg.fingerprints(user)[0]


@pytest.mark.parametrize("algorithm", ["SHA1", "RIPEMD160", "SHA224"])
def test_weak_hashes_are_refused_though_gpg_takes_them(algorithm: str, gpg: Gpg) -> None:
    user = "rsa2048@example.com"
    signature = gpg.sign(user, PAYLOAD, "--digest-algo", algorithm)
    assert "VALIDSIG" in gpg.says(signature)
    assert "hash" in refused(signature, PAYLOAD, [gpg.export(user)])


def test_a_certificate_that_sha1_holds_together_is_refused(gpg: Gpg) -> None:
    gpg.make("weak@example.com", "rsa2048", "--cert-digest-algo", "SHA1")
    signature = gpg.sign("weak@example.com")
    assert "VALIDSIG" in gpg.says(signature)
    assert "weak" in refused(signature, PAYLOAD, [gpg.export("weak@example.com")])


@pytest.mark.parametrize("kind", ["dsa2048", "rsa1024"])
def test_weak_keys_are_refused_though_gpg_takes_them(kind: str, gpg: Gpg) -> None:
    gpg.make(f"{kind}@example.com", kind)
    signature = gpg.sign(f"{kind}@example.com", PAYLOAD, "--digest-algo", "SHA256")
    assert "VALIDSIG" in gpg.says(signature)
    refused(signature, PAYLOAD, [gpg.export(f"{kind}@example.com")])


PAST = ("--faked-system-time", LONG_AGO)
THEN = 1704067200.0 + 86400  # a day after LONG_AGO


def test_a_key_that_expired_after_it_signed_is_refused_as_by_git(gpg: Gpg) -> None:
    user = "old@example.com"
    fingerprint = gpg.make(user, "ed25519", *PAST, expires="30d")
    signature, before = gpg.sign(user, PAYLOAD, *PAST), gpg.export(user)
    assert "EXPKEYSIG" in gpg.says(signature)
    assert "expired" in refused(signature, PAYLOAD, [before])
    assert verify_openpgp(signature, PAYLOAD, [before], now=THEN) == fingerprint

    gpg("--quick-set-expire", fingerprint, "0")
    assert "GOODSIG" in gpg.says(signature)
    after = gpg.export(user)
    assert verify_openpgp(gpg.sign(user), PAYLOAD, [after]) == fingerprint
    refused(signature, PAYLOAD, [after])  # says nothing of the time before
    for both in ([before, after], [after, before]):
        assert verify_openpgp(signature, PAYLOAD, both) == fingerprint


@pytest.mark.parametrize("reason", ["1", "3"])  # compromised, no longer used
def test_a_key_that_was_revoked_after_it_signed_is_refused_as_by_git(reason: str, gpg: Gpg) -> None:
    user = f"gone-{reason}@example.com"
    fingerprint = gpg.make(user, "ed25519", *PAST)
    signature, before = gpg.sign(user, PAYLOAD, *PAST), gpg.export(user)
    assert verify_openpgp(signature, PAYLOAD, [before]) == fingerprint
    edited(gpg, fingerprint, "revkey", "y", reason, "a reason", "", "y", "save")
    assert "REVKEYSIG" in gpg.says(signature)
    assert "revoked" in refused(signature, PAYLOAD, [gpg.export(user)])
    assert "revoked" in refused(signature, PAYLOAD, [gpg.export(user), before])


def edited(gpg: Gpg, fingerprint: str, *commands: str) -> None:
    gpg("--command-fd", "0", "--edit-key", fingerprint, stdin="\n".join(commands).encode() + b"\n")


@pytest.mark.parametrize("reason", ["1", "3"])
def test_a_subkey_signs_for_its_primary_key_until_it_is_revoked(reason: str, gpg: Gpg) -> None:
    user = f"team-{reason}@example.com"
    primary = gpg.make(user, "ed25519", *PAST, usage="cert")
    for _ in range(2):
        gpg(*PAST, "--quick-add-key", primary, "ed25519", "sign", "never")
    _, first, second = gpg.fingerprints(user)
    ours, theirs = gpg.sign(f"{first}!", PAYLOAD, *PAST), gpg.sign(f"{second}!", PAYLOAD, *PAST)
    for signature in (ours, theirs):
        assert verify_openpgp(signature, PAYLOAD, [gpg.export(user)]) == primary
    edited(gpg, primary, "key 1", "revkey", "y", reason, "a reason", "", "y", "save")
    assert "REVKEYSIG" in gpg.says(ours)
    assert "subkey is revoked" in refused(ours, PAYLOAD, [gpg.export(user)])
    assert verify_openpgp(theirs, PAYLOAD, [gpg.export(user)]) == primary


def test_a_subkey_that_expired_after_it_signed_is_refused_until_it_is_prolonged(gpg: Gpg) -> None:
    user = "rota@example.com"
    primary = gpg.make(user, "ed25519", *PAST, usage="cert")
    gpg(*PAST, "--quick-add-key", primary, "ed25519", "sign", "30d")
    signature, before = gpg.sign(user, PAYLOAD, *PAST), gpg.export(user)
    assert "EXPKEYSIG" in gpg.says(signature)
    assert "subkey has expired" in refused(signature, PAYLOAD, [before])
    assert verify_openpgp(signature, PAYLOAD, [before], now=THEN) == primary
    gpg("--quick-set-expire", primary, "0", gpg.fingerprints(user)[1])
    assert "GOODSIG" in gpg.says(signature)
    assert verify_openpgp(signature, PAYLOAD, [before, gpg.export(user)]) == primary
    assert verify_openpgp(gpg.sign(user), PAYLOAD, [gpg.export(user)]) == primary


def test_a_key_that_may_only_certify_does_not_sign(gpg: Gpg) -> None:
    user = "ca@example.com"
    primary = gpg.make(user, "ed25519", usage="sign")
    signature = gpg.sign(user)
    assert verify_openpgp(signature, PAYLOAD, [gpg.export(user)]) == primary
    edited(gpg, primary, "change-usage", "s", "q", "save")
    refused(signature, PAYLOAD, [gpg.export(user)])


def test_an_expired_signature_is_refused(gpg: Gpg) -> None:
    user = "ed25519@example.com"
    gpg.make("brief@example.com", "ed25519", "--faked-system-time", LONG_AGO)
    signature = gpg.sign(
        "brief@example.com", PAYLOAD, "--faked-system-time", LONG_AGO, "--default-sig-expire", "1d"
    )
    assert "EXPSIG" in gpg.says(signature)
    refused(signature, PAYLOAD, [gpg.export("brief@example.com")])
    assert verify_openpgp(gpg.sign(user), PAYLOAD, [gpg.export(user)])


def test_a_signature_of_a_text_is_refused(gpg: Gpg) -> None:
    user = "ed25519@example.com"
    signature = gpg.sign(user, PAYLOAD, "--textmode")
    assert "GOODSIG" in gpg.says(signature, PAYLOAD.replace(b"\n", b"\r\n"))  # that is why
    assert "binary" in refused(signature, PAYLOAD, [gpg.export(user)])


def crc_line(text: bytes) -> bytes:
    return next(line for line in text.split(b"\n") if line.startswith(b"=") and len(line) == 5)


ARMOURS: dict[str, Callable[[bytes], bytes]] = {
    "text before": lambda text: b"hello\n" + text,
    "text after": lambda text: text + b"hello\n",
    "twice": lambda text: text + text,
    "two packets": lambda text: armour(dearmour(text) * 2),
    "bytes left over": lambda text: armour(dearmour(text) + b"\0"),
    "no end": lambda text: text.replace(b"-----END PGP SIGNATURE-----\n", b""),
    "a message": lambda text: text.replace(b"PGP SIGNATURE", b"PGP MESSAGE"),
    "no blank line": lambda text: text.replace(b"\n\n", b"\n", 1),
    "line ends of another system": lambda text: text.replace(b"\n", b"\r\n"),
    "spaces": lambda text: text.replace(b"\n\n", b"\n\n ", 1),
    "a wrong checksum": lambda text: text.replace(crc_line(text), b"=AAAA"),
    "a control character in a comment": lambda text: text.replace(b"\n\n", b"\nComment: \x1b[2K\n\n", 1),
    "too long": lambda text: text + b"\n" * (64 << 10),
    "nothing": lambda _: b"",
}


@pytest.mark.parametrize("case", ARMOURS)
def test_an_armour_that_is_not_exactly_one_block_is_refused(case: str, gpg: Gpg) -> None:
    user = "ed25519@example.com"
    signature, certificates = gpg.sign(user), [gpg.export(user)]
    with_comment = signature.replace(b"\n\n", b"\nVersion: 1\nComment: a test\n\n", 1)
    for good in (signature, with_comment, armour(dearmour(signature)), signature + b"\n\n"):
        assert verify_openpgp(good, PAYLOAD, certificates)
    refused(ARMOURS[case](signature), PAYLOAD, certificates)


def test_truncated_signatures_are_refused(gpg: Gpg) -> None:
    user = "ed25519@example.com"
    raw, certificates = dearmour(gpg.sign(user)), [gpg.export(user)]
    for length in range(len(raw)):
        refused(armour(raw[:length]), PAYLOAD, certificates)
        if length > 2:
            refused(armour(b"\x88" + bytes([length - 2]) + raw[2:length]), PAYLOAD, certificates)


def packet(body: bytes) -> bytes:
    return b"\x88" + bytes([len(body)]) + body


def test_a_signature_has_one_spelling(gpg: Gpg) -> None:
    user = "ed25519@example.com"
    raw, certificates = dearmour(gpg.sign(user)), [gpg.export(user)]
    body = raw[2:]
    begin = 6 + int.from_bytes(body[4:6], "big")  # where the area that is not signed begins
    end = begin + 2 + int.from_bytes(body[begin : begin + 2], "big")
    area, rest = body[begin + 2 : end], body[end:]
    assert packet(body) == raw
    assert area == b"\x09\x10" + bytes.fromhex(gpg.fingerprints(user)[0])[-8:]

    def with_area(area: bytes) -> bytes:
        return packet(body[:begin] + len(area).to_bytes(2, "big") + area + rest)

    for good in (raw, b"\xc2" + raw[1:], with_area(area), with_area(b"")):
        assert verify_openpgp(armour(good), PAYLOAD, certificates)
    bits = int.from_bytes(rest[2:4], "big")
    size = (bits + 7) // 8
    longer = (size * 8 + 8).to_bytes(2, "big") + b"\0" + rest[4 : 4 + size]
    for bad in (
        packet(body + b"\0"),
        b"\x89\0" + raw[1:],
        b"\xc2\xff\0\0\0" + raw[1:],
        b"\x8a\0\0\0" + raw[1:],
        with_area(area + area),
        with_area(area[:-1] + bytes([area[-1] ^ 1])),
        with_area(area + b"\x03\x04\0\0"),  # a life time
        with_area(b"\0"),
        packet(body[:end] + rest[:2] + longer + rest[4 + size :]),
        packet(body[:end] + rest[:2] + (size * 8 + 1).to_bytes(2, "big") + rest[4:]),
    ):
        refused(armour(bad), PAYLOAD, certificates)
    for at in range(len(raw)):
        for bits in (0x01, 0x80):
            refused(armour(raw[:at] + bytes([raw[at] ^ bits]) + raw[at + 1 :]), PAYLOAD, certificates)


def test_base64_has_one_spelling(gpg: Gpg) -> None:
    tried = 0
    for kind in KINDS:
        good, certificates = (
            armour(dearmour(gpg.sign(f"{kind}@example.com"))),
            [gpg.export(f"{kind}@example.com")],
        )
        assert verify_openpgp(good, PAYLOAD, certificates)
        at = good.find(b"=")
        if at > 0:
            again = good[: at - 1] + bytes([good[at - 1] + 1]) + good[at:]
            assert dearmour(again) == dearmour(good)
            refused(again, PAYLOAD, certificates)
            tried += 1
    assert tried


def test_a_trusted_certificate_is_exactly_one(gpg: Gpg) -> None:
    signature = gpg.sign("ed25519@example.com")
    good, other = gpg.export("ed25519@example.com"), gpg.export("rsa2048@example.com")
    assert verify_openpgp(signature, PAYLOAD, [good, other])
    for bad in (good + other, b"", b"not a certificate", good[:-20], good + b"\0" * (256 << 10)):
        assert "certificate" in refused(signature, PAYLOAD, [bad]) or bad == good[:-20]
    assert "more than" in refused(signature, PAYLOAD, [good + b"\0" * (256 << 10)])


def test_without_the_library_openpgp_is_refused_by_name(gpg: Gpg, monkeypatch: pytest.MonkeyPatch) -> None:
    user = "ed25519@example.com"
    signature, certificates = gpg.sign(user), [gpg.export(user)]
    monkeypatch.setitem(sys.modules, "pysequoia", None)
    with pytest.raises(TrustError) as caught:
        verify_openpgp(signature, PAYLOAD, certificates)
    assert caught.value.code == "T055"
    assert "muster-fleet[openpgp]" in str(caught.value)


@pytest.fixture(scope="module")
def signed(gpg: Gpg) -> dict[str, tuple[bytes, bytes]]:
    return {
        kind: (dearmour(gpg.sign(f"{kind}@example.com")), gpg.export(f"{kind}@example.com")) for kind in KINDS
    }


@given(st.sampled_from(KINDS), st.integers(0, 1 << 16), st.integers(1, 255), st.booleans())
def test_no_byte_of_payload_or_signature_may_change(
    signed: dict[str, tuple[bytes, bytes]], kind: str, at: int, bits: int, of_signature: bool
) -> None:
    raw, certificate = signed[kind]
    payload, signature = bytearray(PAYLOAD), bytearray(raw)
    changed = signature if of_signature else payload
    changed[at % len(changed)] ^= bits
    if signature[1:] == raw[1:] and {raw[0], signature[0]} == {0x88, 0xC2} and raw[1] < 192:
        return  # the two headers of a packet that have one meaning
    refused(armour(bytes(signature)), bytes(payload), [certificate])


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_by_name(signed: dict[str, tuple[bytes, bytes]], data: bytes) -> None:
    _, certificate = signed["ed25519"]
    for text in (data, armour(data), armour(b"\x88" + bytes([len(data) % 256]) + data)):
        refused(text, PAYLOAD, [certificate])
