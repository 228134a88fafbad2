"""SSH keys and SSH signatures (OpenSSH ``PROTOCOL.sshsig``), as ``ssh-keygen -Y`` and ``git`` make them.

Why it exists: the agent's image has no ``ssh-keygen``, and a process per commit costs two orders of magnitude more
than the arithmetic. Owns the wire format of keys and signatures, the list of what is strong enough, and the one
use of ``cryptography`` in the core. It is stricter than OpenSSH where bytes could be read in two ways: one
spelling of every number, nothing before or after the armour, nothing in the reserved field, no SHA-1, no
certificates; a security key must have been touched.

It never decides whether a key may sign: :func:`verify_ssh` says whose signature it is, the caller whether that
counts. It never reads a file, an agent socket or a clock.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import struct
from typing import Final

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from muster_core.errors import TrustError

MAX_SIGNATURE = 64 << 10
MAX_KEY_TEXT = 16 << 10
MIN_RSA_BITS, MAX_RSA_BITS = 2048, 16384

_MAGIC = b"SSHSIG"
_BEGIN, _END = b"-----BEGIN SSH SIGNATURE-----\n", b"-----END SSH SIGNATURE-----"
_LINES = re.compile(rb"(?:[A-Za-z0-9+/]+\n)*[A-Za-z0-9+/]+={0,2}\n")
_HASHES: Final = {b"sha256": hashlib.sha256, b"sha512": hashlib.sha512}
_USER_PRESENT = 0x01

_ED25519, _RSA = "ssh-ed25519", "ssh-rsa"
_SK_ED25519, _SK_ECDSA = "sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com"
_RSA_HASHES: Final[dict[str, hashes.HashAlgorithm]] = {
    "rsa-sha2-256": hashes.SHA256(),
    "rsa-sha2-512": hashes.SHA512(),
}
_CURVES: Final[dict[str, tuple[ec.EllipticCurve, hashes.HashAlgorithm]]] = {
    "nistp256": (ec.SECP256R1(), hashes.SHA256()),
    "nistp384": (ec.SECP384R1(), hashes.SHA384()),
    "nistp521": (ec.SECP521R1(), hashes.SHA512()),
}
_ECDSA: Final = {f"ecdsa-sha2-{curve}": curve for curve in _CURVES}
_KINDS = f"{_ED25519}, {', '.join(_ECDSA)}, {_RSA} of {MIN_RSA_BITS} bits or more, {_SK_ED25519}, {_SK_ECDSA}"


class _Refused(Exception):  # noqa: N818 - a reason, never shown by itself
    """Why bytes are not what they should be; becomes T051, T052 or T053 at the door."""


class SshKey(msgspec.Struct, frozen=True):
    """A public key. ``blob`` is its one wire form, so that equal keys are equal values."""

    kind: str
    blob: bytes

    @classmethod
    def parse(cls, text: str) -> SshKey:
        """``ssh-ed25519 AAAA… comment``, one line, as in a ``.pub`` file; :class:`TrustError` T051 otherwise."""
        text = text.strip().encode("utf-8", "replace").decode()
        try:
            if len(text) > MAX_KEY_TEXT or "\n" in text:
                raise _Refused("it is not one line")
            kind, _, rest = text.partition(" ")
            key = cls(kind, _base64(rest.strip().partition(" ")[0].encode()))
            _open(key)
        except _Refused as refused:
            raise TrustError(
                "T051",
                f"this is not a public key that can be used, {refused}",
                object=text[:80],
                hint=f"Give one line of a .pub file: {_KINDS}.",
            ) from None
        return key

    @property
    def fingerprint(self) -> str:
        """``SHA256:…`` as ``ssh-keygen -l`` prints it."""
        digest = hashlib.sha256(self.blob).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")

    def text(self) -> str:
        """``kind base64``: what :meth:`parse` takes, without a comment."""
        return f"{self.kind} {base64.b64encode(self.blob).decode()}"


def verify_ssh(signature: bytes, payload: bytes, *, namespace: str = "git") -> SshKey:
    """The key that made this armoured signature over ``payload`` for ``namespace``.

    Raises :class:`TrustError` T052 when nobody did: wrong bytes, another namespace, a weak or unknown
    algorithm, anything before, after or beside the signature.
    """
    try:
        return _verify(signature, payload, namespace.encode())
    except _Refused as refused:
        raise TrustError(
            "T052",
            f"an SSH signature does not hold, {refused}",
            object=f"namespace {namespace}",
            hint="Sign again with `git commit -S`, `git tag -s` or `ssh-keygen -Y sign` and a current key.",
        ) from None


def sign_ssh(private_openssh_pem: bytes, payload: bytes, *, namespace: str) -> bytes:
    """The armoured signature of ``payload``, as ``ssh-keygen -Y sign`` writes it.

    ``private_openssh_pem`` is an OpenSSH private key file without a passphrase: ed25519, ECDSA or RSA. Anything
    else is :class:`TrustError` T053; the error never carries any of the key.
    """
    if not namespace:
        raise TrustError("T053", "an SSH signature needs a namespace")
    try:
        private = serialization.load_ssh_private_key(private_openssh_pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _unusable("it is not an OpenSSH private key without a passphrase") from None
    digest = hashlib.sha512(payload).digest()
    signed = _MAGIC + b"".join(map(_string, (namespace.encode(), b"", b"sha512", digest)))
    if isinstance(private, ed25519.Ed25519PrivateKey):
        algorithm, made = _ED25519, private.sign(signed)
    elif isinstance(private, ec.EllipticCurvePrivateKey):
        curve = f"nistp{private.curve.key_size}"
        algorithm = f"ecdsa-sha2-{curve}"
        r, s = decode_dss_signature(private.sign(signed, ec.ECDSA(_CURVES[curve][1])))
        made = _mpint(r) + _mpint(s)
    elif isinstance(private, rsa.RSAPrivateKey):
        algorithm = "rsa-sha2-512"
        made = private.sign(signed, padding.PKCS1v15(), _RSA_HASHES[algorithm])
    else:
        raise _unusable("keys of its kind cannot sign here")
    public = private.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    try:
        key = SshKey.parse(public.decode())
    except TrustError as error:
        raise _unusable(error.message) from None
    inner = _string(algorithm.encode()) + _string(made)
    body = _MAGIC + struct.pack(">I", 1)
    body += b"".join(map(_string, (key.blob, namespace.encode(), b"", b"sha512", inner)))
    encoded = base64.b64encode(body)
    lines = b"".join(encoded[at : at + 70] + b"\n" for at in range(0, len(encoded), 70))
    return _BEGIN + lines + _END + b"\n"


def new_ssh_key(comment: str) -> tuple[bytes, str]:
    """A fresh Ed25519 key: (OpenSSH private key without a passphrase, public line)."""
    private = ed25519.Ed25519PrivateKey.generate()
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = private.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    return pem, f"{public.decode()} {comment}"


def _unusable(why: str) -> TrustError:
    return TrustError(
        "T053",
        f"this private key cannot sign, {why}",
        hint="Give an ed25519, ECDSA or RSA key that `ssh-keygen` made with an empty passphrase; for any other, "
        "sign with `ssh-keygen -Y sign` or `git`.",
    )


def _verify(signature: bytes, payload: bytes, namespace: bytes) -> SshKey:
    reader = _Reader(_dearmour(signature))
    if reader.take(len(_MAGIC)) != _MAGIC or reader.u32() != 1:
        raise _Refused("it is not version 1 of the format")
    blob, made_for, reserved, algorithm, inner = (reader.string() for _ in range(5))
    reader.end()
    if not namespace or made_for != namespace:
        raise _Refused("it was made for another namespace")
    if reserved:
        raise _Refused("it uses a reserved field")
    if algorithm not in _HASHES:
        raise _Refused("its hash is neither sha256 nor sha512")
    key = SshKey(_Reader(blob).string().decode("ascii", "replace"), blob)
    digest = _HASHES[algorithm](payload).digest()
    signed = _MAGIC + b"".join(map(_string, (made_for, b"", algorithm, digest)))
    try:
        _check(key, _Reader(inner), signed)
    except InvalidSignature:
        raise _Refused("it was not made over these bytes") from None
    return key


def _dearmour(text: bytes) -> bytes:
    if len(text) > MAX_SIGNATURE:
        raise _Refused(f"it has more than {MAX_SIGNATURE} bytes")
    begin, middle, rest = text[: len(_BEGIN)], text[len(_BEGIN) :], b""
    middle, end, rest = middle.partition(_END)
    if begin != _BEGIN or not end or rest.strip(b"\n") or not _LINES.fullmatch(middle):
        raise _Refused("its armour is not exactly one block")
    return _base64(middle.replace(b"\n", b""))


def _base64(text: bytes) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error:
        raise _Refused("it is not base64") from None
    if base64.b64encode(data) != text:  # unused bits at the end are a second spelling
        raise _Refused("its base64 is not canonical")
    return data


PublicKey = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey


def _open(key: SshKey) -> tuple[PublicKey, bytes]:
    """The key for arithmetic, and the application of a security key (empty for others)."""
    reader = _Reader(key.blob)
    if reader.string() != key.kind.encode():
        raise _Refused("its kind is not the one inside")
    public: PublicKey
    if key.kind in (_ED25519, _SK_ED25519):
        point = reader.string()
        if len(point) != 32:
            raise _Refused("its point does not have 32 bytes")
        public = ed25519.Ed25519PublicKey.from_public_bytes(
            point
        )  # any 32 bytes; a bad point verifies nothing
    elif key.kind in _ECDSA or key.kind == _SK_ECDSA:
        curve = _ECDSA.get(key.kind, "nistp256")
        if reader.string() != curve.encode():
            raise _Refused("its curve is not that of its kind")
        point = reader.string()
        if point[:1] != b"\x04":
            raise _Refused("its point is not uncompressed")
        try:
            public = ec.EllipticCurvePublicKey.from_encoded_point(_CURVES[curve][0], point)
        except ValueError:
            raise _Refused("its point is not on the curve") from None
    elif key.kind == _RSA:
        exponent, modulus = reader.mpint(), reader.mpint()
        if not MIN_RSA_BITS <= modulus.bit_length() <= MAX_RSA_BITS:
            raise _Refused(
                f"it has {modulus.bit_length()} bits and {MIN_RSA_BITS} to {MAX_RSA_BITS} are allowed"
            )
        if not 3 <= exponent < 1 << 32 or not exponent & 1 or not modulus & 1:
            raise _Refused("its numbers are not those of an RSA key")
        try:
            public = rsa.RSAPublicNumbers(exponent, modulus).public_key()
        except ValueError:
            raise _Refused("its numbers are not those of an RSA key") from None
    else:
        raise _Refused("its kind is not supported")
    application = reader.string() if key.kind in (_SK_ED25519, _SK_ECDSA) else b""
    reader.end()
    return public, application


def _check(key: SshKey, inner: _Reader, signed: bytes) -> None:
    """InvalidSignature, or _Refused for a form that no signer makes, unless ``inner`` signs ``signed``."""
    public, application = _open(key)
    algorithm, made = inner.string().decode("ascii", "replace"), inner.string()
    if algorithm not in _RSA_HASHES if key.kind == _RSA else algorithm != key.kind:
        raise _Refused("its algorithm is not one for its key")
    if key.kind in (_SK_ED25519, _SK_ECDSA):
        flags = inner.take(5)  # one byte of flags, four of a counter
        if not flags[0] & _USER_PRESENT:
            raise _Refused("nobody touched the security key")
        signed = hashlib.sha256(application).digest() + flags + hashlib.sha256(signed).digest()
    inner.end()
    if isinstance(public, ed25519.Ed25519PublicKey):
        public.verify(made, signed)
    elif isinstance(public, rsa.RSAPublicKey):
        size = (public.key_size + 7) // 8
        if len(made) > size:
            raise _Refused("it is longer than its key")
        # Some signers drop leading zeros; OpenSSH puts them back.
        public.verify(made.rjust(size, b"\0"), signed, padding.PKCS1v15(), _RSA_HASHES[algorithm])
    else:
        numbers = _Reader(made)
        r, s = numbers.mpint(), numbers.mpint()
        numbers.end()
        digest = _CURVES[_ECDSA.get(key.kind, "nistp256")][1]
        public.verify(encode_dss_signature(r, s), signed, ec.ECDSA(digest))


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _mpint(number: int) -> bytes:
    """A positive number: big-endian, the top bit of the first byte free for the sign."""
    return _string(number.to_bytes(number.bit_length() // 8 + 1, "big"))


class _Reader:
    """Fields of the SSH wire format, front to back."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        if count > len(self._data) - self._at:
            raise _Refused("it ends too early")
        self._at += count
        return self._data[self._at - count : self._at]

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def string(self) -> bytes:
        return self.take(self.u32())

    def mpint(self) -> int:
        data = self.string()
        number = int.from_bytes(data, "big", signed=True)
        if number <= 0 or _mpint(number)[4:] != data:
            raise _Refused("a number in it is not positive or has a second spelling")
        return number

    def end(self) -> None:
        if self._at != len(self._data):
            raise _Refused("bytes are left over")
