"""OpenPGP signatures on commits and tags, for fleets whose people have GnuPG keys.

Why it exists: an optional second kind of signature beside SSH, through Sequoia (``pysequoia``, the extra
``openpgp``), so that no ``gpg`` binary and no keyring are needed. Sequoia does the arithmetic and judges the
certificate as it was when the signature was made, with its own policy on algorithms. Added here is what a
verifier of release approvals needs beyond that: the certificate and the key that signed must be good *now*
(``git verify-commit`` too refuses a key that has expired since), exactly one signature in exactly one spelling,
nothing unsigned inside it that could change, and no SHA-1 whatever a policy allows.

Version 4 binary signatures by RSA, ECDSA and EdDSA keys are known; others are refused. It never reads a keyring
and never asks a key server: the caller gives the certificates that count.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from muster_core.errors import TrustError

if TYPE_CHECKING:
    from pysequoia import Cert

MAX_SIGNATURE = 64 << 10
MAX_CERTIFICATE = 256 << 10

_ARMOUR = re.compile(
    rb"-----BEGIN PGP SIGNATURE-----\n"
    rb"(?:[A-Za-z]+: [ -~]*\n)*"  # Version, Comment: nothing reads them
    rb"\n"
    rb"((?:[A-Za-z0-9+/]+\n)*[A-Za-z0-9+/]+={0,2}\n)"
    rb"(?:=([A-Za-z0-9+/]{4})\n)?"
    rb"-----END PGP SIGNATURE-----\n*"
)
_HASHES: Final = {8: "sha256", 9: "sha384", 10: "sha512"}
_MPIS: Final = {1: 1, 19: 2, 22: 2}  # RSA, ECDSA, EdDSA: how many numbers a signature has
_NATIVE: Final = {27: 64, 28: 114}  # Ed25519, Ed448 of RFC 9580: how many bytes
_ISSUER, _ISSUER_FINGERPRINT = 16, 33


class _Refused(Exception):  # noqa: N818 - a reason, never shown by itself
    """Why a signature does not count; becomes T054 at the door."""


class _Signature(NamedTuple):
    packet: bytes
    hash_name: str
    signed_part: bytes  # version to the end of the hashed subpackets: hashed with the payload
    unhashed: bytes
    prefix: bytes  # the first two bytes of the hash, repeated for quick checks


class _Subkey(NamedTuple):
    created: float
    bound: float  # when the newest binding was made
    ends: float  # when it says that the key expires
    revoked: bool


def verify_openpgp(
    signature: bytes, payload: bytes, certificates: Sequence[bytes], *, now: float | None = None
) -> str:
    """Fingerprint (upper hex) of the primary key of the certificate that made this armoured signature.

    ``certificates``: one OpenPGP certificate each, binary or armoured. GnuPG forgets what a key said before its
    dates were changed, so a certificate that was prolonged holds only what is signed since; give its older copy
    too for what was signed before. ``now``: Unix seconds at which expiry is judged, by default the system clock.

    Raises :class:`TrustError` T054 when none of them made it, or may no longer; T055 when the library for OpenPGP
    is not installed.
    """
    try:
        import pysequoia
    except ImportError:
        raise TrustError(
            "T055",
            "an OpenPGP signature cannot be verified, because `pysequoia` is not installed",
            hint="Install `muster-fleet[openpgp]`, or sign with an SSH key.",
        ) from None
    try:
        made = _parse(_dearmour(signature))
        _check_prefix(made, payload)
        known = _certificates(pysequoia.Cert, certificates)
        signer = _signer(made, payload, known, time.time() if now is None else now)
    except _Refused as refused:
        raise TrustError(
            "T054",
            f"an OpenPGP signature does not hold, {refused}",
            object=f"{len(certificates)} certificates are trusted",
            hint="Sign again with a current key, or bring the certificate in the trust document up to date.",
        ) from None
    return str(signer.fingerprint).upper()


def read_certificate(data: bytes) -> tuple[str, bytes]:
    """(upper hex fingerprint, binary certificate) of a public key in armour or binary; ``T051``, ``T055``."""
    try:
        from pysequoia import Cert
    except ImportError:
        raise TrustError(
            "T055",
            "an OpenPGP certificate cannot be read, because `pysequoia` is not installed",
            hint="Install `muster-fleet[openpgp]`, or give an SSH key.",
        ) from None
    try:
        found = Cert.from_bytes(data)
    except RuntimeError:
        raise TrustError("T051", "this is no OpenPGP certificate") from None
    if found.has_secret_keys:
        raise TrustError("T051", "this is a secret key; export the public one", hint="gpg --export KEY")
    return str(found.fingerprint).upper(), bytes(found)


def _signer(made: _Signature, payload: bytes, known: dict[str, Cert], now: float) -> Cert:
    import pysequoia

    try:
        claim = pysequoia.Sig.from_bytes(made.packet)
    except RuntimeError:
        raise _Refused("it cannot be read") from None
    try:
        result = pysequoia.verify(bytes=payload, store=lambda _ids: list(known.values()), signature=claim)
    except RuntimeError:  # a backtrace, and no reason that a person could use
        for cert in known.values():
            if claim.issuer_fingerprint in _subkeys(cert) or claim.issuer_fingerprint == cert.fingerprint:
                _check_alive(cert, claim.issuer_fingerprint, now)
                raise _Refused(
                    "its key was not good when it was made, is too weak or did not make it"
                ) from None
        raise _Refused("it names none of the trusted keys") from None
    if len(result.valid_sigs) != 1:
        raise _Refused("it is not one valid signature")
    valid = result.valid_sigs[0]
    _check_unhashed(made.unhashed, valid.signing_key)
    signer = known[valid.certificate]
    _check_alive(signer, valid.signing_key, now)
    return signer


def _certificates(kind: type[Cert], certificates: Sequence[bytes]) -> dict[str, Cert]:
    """By fingerprint; what two copies of a certificate say is taken together."""
    known: dict[str, Cert] = {}
    for data in certificates:
        if len(data) > MAX_CERTIFICATE:
            raise _Refused(f"a trusted certificate has more than {MAX_CERTIFICATE} bytes")
        try:
            found = kind.split_bytes(data)
        except RuntimeError:
            raise _Refused("a trusted certificate cannot be read") from None
        if len(found) != 1:
            raise _Refused(f"a trusted certificate is {len(found)} certificates")
        cert = found[0]
        known[cert.fingerprint] = known[cert.fingerprint].merge(cert) if cert.fingerprint in known else cert
    return known


def _dearmour(text: bytes) -> bytes:
    if len(text) > MAX_SIGNATURE:
        raise _Refused(f"it has more than {MAX_SIGNATURE} bytes")
    match = _ARMOUR.fullmatch(text)
    if match is None:
        raise _Refused("its armour is not exactly one block")
    encoded = match[1].replace(b"\n", b"")
    try:
        data = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        raise _Refused("it is not base64") from None
    if base64.b64encode(data) != encoded:
        raise _Refused("its base64 is not canonical")
    if match[2] is not None and base64.b64decode(match[2]) != _crc24(data).to_bytes(3, "big"):
        raise _Refused("its checksum is wrong")
    return data


def _crc24(data: bytes) -> int:
    value = 0xB704CE
    for byte in data:
        value ^= byte << 16
        for _ in range(8):
            value <<= 1
            if value & 0x1000000:
                value ^= 0x1864CFB
    return value


def _parse(packet: bytes) -> _Signature:
    """One signature packet that fills ``packet``, of the forms that people make today."""
    body = _body(packet)
    if len(body) < 6 or body[:2] != b"\x04\x00":
        raise _Refused("it is not a version 4 signature of a binary document")
    algorithm, hash_id = body[2], body[3]
    if hash_id not in _HASHES:
        raise _Refused("its hash is not SHA-256, SHA-384 or SHA-512")
    hashed_end = 6 + int.from_bytes(body[4:6], "big")
    unhashed_end = hashed_end + 2 + int.from_bytes(body[hashed_end : hashed_end + 2], "big")
    numbers = body[unhashed_end + 2 :]
    if not numbers:
        raise _Refused("it ends too early")
    if algorithm in _MPIS:
        for _ in range(_MPIS[algorithm]):
            bits = int.from_bytes(numbers[:2], "big")
            size = 2 + (bits + 7) // 8
            if (
                len(numbers) < size
                or bits == 0
                or int.from_bytes(numbers[2:size], "big").bit_length() != bits
            ):
                raise _Refused("a number in it has a second spelling")
            numbers = numbers[size:]
    elif algorithm in _NATIVE:
        numbers = numbers[_NATIVE[algorithm] :]
    else:
        raise _Refused("its algorithm is not RSA, ECDSA or EdDSA")
    if numbers:
        raise _Refused("bytes are left over")
    return _Signature(
        packet,
        _HASHES[hash_id],
        body[:hashed_end],
        body[hashed_end + 2 : unhashed_end],
        body[unhashed_end : unhashed_end + 2],
    )


def _body(packet: bytes) -> bytes:
    """What the one packet holds; its kind must be signature (2), its length known and in its shortest form."""
    tag, rest = packet[:1], packet[1:]
    if tag == b"\xc2" and rest:  # today's header: one or two bytes of length are enough for any signature
        if rest[0] < 192:
            length, used = rest[0], 1
        else:
            length, used = ((rest[0] - 192) << 8) + int.from_bytes(rest[1:2], "big") + 192, 2
            if rest[0] > 223:
                raise _Refused("its length is not in the usual form")
    elif tag in (b"\x88", b"\x89"):  # the header that GnuPG writes
        used = 1 if tag == b"\x88" else 2
        length = int.from_bytes(rest[:used], "big")
        if used == 2 and length < 256:
            raise _Refused("its length is not in the usual form")
    else:
        raise _Refused("it is not a signature")
    if len(rest) != used + length:
        raise _Refused("it is not exactly one packet")
    return rest[used:]


def _check_prefix(made: _Signature, payload: bytes) -> None:
    digest = hashlib.new(made.hash_name, payload)
    digest.update(made.signed_part)
    digest.update(b"\x04\xff" + len(made.signed_part).to_bytes(4, "big"))
    if digest.digest()[:2] != made.prefix:
        raise _Refused("it was not made over these bytes")


def _check_unhashed(area: bytes, fingerprint: str) -> None:
    """Beside what is signed, a signature may only say who made it, and truly so."""
    key = bytes.fromhex(fingerprint)
    honest = (
        bytes([9, _ISSUER]) + key[-8:],
        bytes([22, _ISSUER_FINGERPRINT, 4]) + key,
    )
    seen = set()
    while area:
        said = area[: 1 + area[0]]
        if said not in honest or said in seen:
            raise _Refused("something in it is not signed")
        seen.add(said)
        area = area[len(said) :]


def _check_alive(cert: Cert, signing_key: str, now: float) -> None:
    """The certificate and the key in it that signed are neither revoked nor expired at ``now``."""
    try:
        revoked, expiration = cert.is_revoked, cert.expiration
    except RuntimeError:  # the policy on algorithms leaves nothing that holds it together
        raise _Refused("its certificate is too weak") from None
    if revoked:
        raise _Refused("its key is revoked")
    if expiration is not None and expiration.timestamp() <= now:
        raise _Refused("its key has expired")
    if signing_key == cert.fingerprint:
        return
    # Sequoia judges a subkey at the time of the signature; a later revocation or a date since passed counts here.
    subkey = _subkeys(cert)[signing_key]
    if subkey.revoked:
        raise _Refused("its subkey is revoked")
    if subkey.ends <= now:
        raise _Refused("its subkey has expired")


def _subkeys(cert: Cert) -> dict[str, _Subkey]:
    """By fingerprint. Of several bindings the newest is what the owner last said about expiry."""
    from pysequoia.packet import PacketPile, SignatureType, Tag

    found: dict[str, _Subkey] = {}
    current = ""
    for packet in PacketPile.from_bytes(bytes(cert)):
        if packet.tag != Tag.Signature:
            current = ""
            if packet.tag == Tag.PublicSubkey and packet.fingerprint and packet.key_created:
                current = packet.fingerprint
                found[current] = _Subkey(packet.key_created.timestamp(), bound=0.0, ends=0.0, revoked=False)
        elif current and packet.signature_type == SignatureType.SubkeyRevocation:
            found[current] = found[current]._replace(revoked=True)
        elif current and packet.signature_type == SignatureType.SubkeyBinding and packet.signature_created:
            subkey, bound = found[current], packet.signature_created.timestamp()
            period = packet.key_validity_period
            ends = subkey.created + period.total_seconds() if period else float("inf")
            if bound > subkey.bound:
                found[current] = subkey._replace(bound=bound, ends=ends)
    return found
