"""A cluster's two keys, and what they sign.

Owns Ed25519 identity keys and X25519 sealing keys as values, their text forms, fingerprints, and the
statements that are signed with domain strings. It never stores a key and never makes randomness but through
the library's generator.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field

import nacl.exceptions
import nacl.public
import nacl.signing

from muster_core.errors import SecretError
from muster_core.pae import pae, u64

KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class IdentityKey:
    """The private half of who a cluster is. Never leaves it."""

    _key: nacl.signing.SigningKey = field(repr=False)

    @classmethod
    def generate(cls) -> IdentityKey:
        return cls(nacl.signing.SigningKey.generate())

    @classmethod
    def from_seed(cls, seed: bytes) -> IdentityKey:
        return cls(nacl.signing.SigningKey(seed))

    @property
    def seed(self) -> bytes:
        return bytes(self._key)

    @property
    def public(self) -> bytes:
        return bytes(self._key.verify_key)

    def sign(self, statement: bytes) -> bytes:
        """64 bytes, RFC 8032."""
        return bytes(self._key.sign(statement).signature)


@dataclass(frozen=True, slots=True)
class SealingKey:
    """The private half of what secrets are sealed to."""

    _key: nacl.public.PrivateKey = field(repr=False)
    generation: int = 1

    @classmethod
    def generate(cls, generation: int = 1) -> SealingKey:
        return cls(nacl.public.PrivateKey.generate(), generation)

    @classmethod
    def from_bytes(cls, data: bytes, generation: int = 1) -> SealingKey:
        return cls(nacl.public.PrivateKey(data), generation)

    @property
    def private(self) -> bytes:
        return bytes(self._key)

    @property
    def public(self) -> bytes:
        return bytes(self._key.public_key)

    def unwrap(self, sealed: bytes) -> bytes:
        """Opens a SealedBox; ``MUSTER-S010`` when it is not for this key."""
        try:
            return bytes(nacl.public.SealedBox(self._key).decrypt(sealed))
        except (nacl.exceptions.CryptoError, ValueError, TypeError) as error:
            raise SecretError(
                "S010", "the recipient line does not open with this cluster's sealing key"
            ) from error


def wrap(public: bytes, plain: bytes) -> bytes:
    """A SealedBox for a public sealing key; ``MUSTER-S011`` for a key that is none."""
    try:
        return bytes(nacl.public.SealedBox(nacl.public.PublicKey(public)).encrypt(plain))
    except (RuntimeError, ValueError, TypeError, nacl.exceptions.CryptoError) as error:
        raise SecretError(
            "S011", "this is no usable X25519 public key", object=fingerprint(public)
        ) from error


def verify(public: bytes, statement: bytes, signature: bytes) -> bool:
    """Whether ``signature`` is the identity key's over ``statement``."""
    try:
        nacl.signing.VerifyKey(public).verify(statement, signature)
    except (nacl.exceptions.BadSignatureError, ValueError, TypeError):
        return False
    return True


def sealing_key_statement(fleet_id: str, uid: str, key: bytes, generation: int) -> bytes:
    """What an identity key signs to say: this sealing key is mine."""
    return pae(b"muster.sealing-key.v1", fleet_id.encode(), uid.encode(), key, u64(generation))


def join_statement(secret: str, name: str, uid: str, identity: bytes, sealing: bytes, csr: bytes) -> bytes:
    """What an identity key signs to prove that it asks to join."""
    return pae(b"muster.join.v1", secret.encode(), name.encode(), uid.encode(), identity, sealing, csr)


def fingerprint(public: bytes) -> str:
    """``SHA256:…`` as people compare it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(public).digest()).decode().rstrip("=")


def encode_identity(public: bytes) -> str:
    return f"ed25519:{public.hex()}"


def encode_sealing(public: bytes) -> str:
    return f"x25519:{public.hex()}"


def decode_public(text: str) -> bytes:
    """The 32 bytes of ``ed25519:<hex>`` or ``x25519:<hex>``; ``MUSTER-S012`` otherwise."""
    kind, _, digits = text.partition(":")
    try:
        data = bytes.fromhex(digits)
    except ValueError:
        data = b""
    if kind not in {"ed25519", "x25519"} or len(data) != KEY_BYTES:
        raise SecretError(
            "S012", "this is no public key", object=text[:80], hint="Write ed25519:<hex> or x25519:<hex>."
        )
    return data
