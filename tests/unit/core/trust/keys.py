"""People, registrars and clusters with keys made at run time, and the documents and entries that name them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from muster_core.errors import TrustError
from muster_core.kinds.base import Metadata
from muster_core.kinds.model import Cluster, ClusterSpec, SealingKey
from muster_core.sealing.keys import (
    IdentityKey,
    encode_identity,
    encode_sealing,
    sealing_key_statement,
)
from muster_core.sealing.keys import SealingKey as PrivateSealingKey
from muster_core.times import parse_time
from muster_core.trust.documents import (
    SIGNATURE_NAMESPACE,
    Role,
    RoleName,
    Roots,
    Signature,
    SignedDocument,
    TrustDocument,
    TrustKey,
    statement,
)
from muster_core.trust.sshsig import SshKey, sign_ssh

FLEET = "7d41aa00bb11cc22"
ISSUED, EXPIRES = "2027-01-01T00:00:00Z", "2028-01-01T00:00:00Z"
NOW = parse_time("2027-06-01T00:00:00Z")


class Person:
    """Somebody with an Ed25519 SSH key."""

    def __init__(self, name: str) -> None:
        private = Ed25519PrivateKey.generate()
        self.name = name
        self.pem = private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        line = private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
        self.public = f"{line} {name}@example.com"
        self.fingerprint = SshKey.parse(self.public).fingerprint

    def sign(self, payload: bytes, namespace: str) -> bytes:
        return sign_ssh(self.pem, payload, namespace=namespace)

    def signature(self, document: TrustDocument, namespace: str = SIGNATURE_NAMESPACE) -> Signature:
        text = self.sign(statement(document), namespace).decode()
        return Signature(key=self.fingerprint, signature=text)


def role(name: RoleName, *people: Person, **fields: Any) -> Role:
    return Role(role=name, keys=[TrustKey(key=person.public) for person in people], **fields)


def document(*roots: Person, threshold: int = 1, version: int = 1, **fields: Any) -> TrustDocument:
    fields = {"fleet": FLEET, "issued": ISSUED, "expires": EXPIRES, **fields}
    return TrustDocument(
        version=version, roots=Roots(threshold=threshold, keys=[root.public for root in roots]), **fields
    )


def signed(of: TrustDocument, *people: Person) -> SignedDocument:
    return SignedDocument(document=of, signatures=[person.signature(of) for person in people])


class Spoke:
    """A cluster with its identity and the sealing keys that it made."""

    def __init__(self, name: str, uid: str = "") -> None:
        self.name, self.uid, self.identity = name, uid or f"uid-of-{name}", IdentityKey.generate()

    def sealing(self, generation: int = 1, *, fleet: str = FLEET, by: Spoke | None = None) -> SealingKey:
        key = PrivateSealingKey.generate().public
        said = sealing_key_statement(fleet, self.uid, key, generation)
        signature = (by or self).identity.sign(said).hex()
        return SealingKey(generation=generation, key=encode_sealing(key), signature=signature)

    def entry(self, **spec: Any) -> Cluster:
        labels = spec.pop("labels", {})
        spec = {
            "uid": self.uid,
            "identity_key": encode_identity(self.identity.public),
            "sealing_keys": [self.sealing()],
            **spec,
        }
        return Cluster(
            api_version="muster.dev/v1alpha1",
            kind="Cluster",
            metadata=Metadata(name=self.name, labels=labels),
            spec=ClusterSpec(**spec),
        )


def code_of(call: Callable[[], object]) -> str:
    """The code with which it is refused."""
    with pytest.raises(TrustError) as caught:
        call()
    return caught.value.code
