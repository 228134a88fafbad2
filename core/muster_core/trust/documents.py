"""Trust documents: who may sign what, in one fleet.

Owns the shape of ``trust/<N>.json``, the bytes that its signatures cover (a PAE with a domain string, never the
JSON), and the chain: document N+1 counts only with the thresholds of N's roots and of its own. A document proves
itself, so where it came from does not matter. It never reads a clock or a file; expiry is judged by whoever takes
a release.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from muster_core.errors import MusterError, TrustError
from muster_core.kinds.base import Model, Selector
from muster_core.pae import pae, u64
from muster_core.times import parse_time
from muster_core.trust.sshsig import SshKey, verify_ssh

DOMAIN = b"muster.trust.v1"
SIGNATURE_NAMESPACE = "muster-trust"
MAX_BYTES = 256 << 10
MAX_VERSION = 999_999_999  # nine digits, as the names of the files have
OPENPGP = "openpgp:"
_OPENPGP = re.compile(r"openpgp:([0-9A-F]{40}|[0-9A-F]{64}):([A-Za-z0-9+/]+={0,2})")
Glob = Annotated[str, Meta(min_length=1, max_length=512)]
RoleName = Literal["release", "policy", "registrar", "operator"]


class TrustKey(Model, frozen=True, kw_only=True):
    """One public key: an OpenSSH line, or ``openpgp:<fingerprint>:<certificate in base64>``.

    ``forge`` admits a key with which a forge signs for whoever presses its buttons.
    """

    key: Annotated[str, Meta(max_length=32 << 10)]
    valid_after: str = ""
    valid_before: str = ""
    forge: bool = False

    @property
    def fingerprint(self) -> str:
        """``SHA256:…`` of an SSH key, upper hex of an OpenPGP certificate's primary key as it is written here."""
        if self.key.startswith(OPENPGP):
            return self._openpgp()[0]
        return SshKey.parse(self.key).fingerprint

    @property
    def certificate(self) -> bytes:
        """The OpenPGP certificate; empty for an SSH key."""
        return self._openpgp()[1] if self.key.startswith(OPENPGP) else b""

    def _openpgp(self) -> tuple[str, bytes]:
        """Fingerprint and certificate; one spelling of the base64 only, for the text is what roots sign."""
        found = _OPENPGP.fullmatch(self.key)
        try:
            certificate = base64.b64decode(found[2], validate=True) if found else b""
        except binascii.Error:
            certificate = b""
        if not found or base64.b64encode(certificate).decode() != found[2]:
            raise TrustError(
                "T051", "write openpgp:<fingerprint>:<certificate in base64>", object=self.key[:40]
            )
        return found[1], certificate

    def valid_at(self, now: float) -> bool:
        after = parse_time(self.valid_after) if self.valid_after else now
        before = parse_time(self.valid_before) if self.valid_before else None
        return after <= now and (before is None or now < before)


class Role(Model, frozen=True, kw_only=True):
    """What a set of keys may do. ``paths`` are globs, ``!`` takes away; ``scope`` is a registrar's.

    ``bundles`` (globs) and ``clusters`` bound an operator's directives; ``clusters`` also what a registrar may add.
    """

    role: RoleName
    keys: Annotated[list[TrustKey], Meta(max_length=64)]
    paths: list[Glob] = msgspec.field(default_factory=list)
    repositories: list[str] = msgspec.field(default_factory=lambda: ["fleet"])
    scope: Literal["add", "manage"] = "add"
    bundles: list[Glob] = msgspec.field(default_factory=lambda: ["*"])
    clusters: Selector = msgspec.field(default_factory=Selector)


class Roots(Model, frozen=True, kw_only=True):
    threshold: Annotated[int, Meta(ge=1, le=16)]
    keys: Annotated[list[str], Meta(min_length=1, max_length=16)]

    def fingerprints(self) -> set[str]:
        return {SshKey.parse(key).fingerprint for key in self.keys}


class TrustDocument(Model, frozen=True, kw_only=True):
    """``issued`` and ``expires`` are RFC 3339."""

    type: Literal["muster.trust.v1"] = "muster.trust.v1"
    fleet: str
    version: Annotated[int, Meta(ge=1, le=MAX_VERSION)]
    issued: str
    expires: str
    roots: Roots
    roles: Annotated[list[Role], Meta(max_length=64)] = msgspec.field(default_factory=list)

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the signed bytes: what a join token pins."""
        return hashlib.sha256(statement(self)).hexdigest()

    def roles_of(self, name: RoleName) -> list[Role]:
        return [role for role in self.roles if role.role == name]


class Signature(Model, frozen=True, kw_only=True):
    """``key`` is the signer's fingerprint; ``signature`` an armoured SSH signature."""

    key: str
    signature: Annotated[str, Meta(max_length=16 << 10)]


class SignedDocument(Model, frozen=True, kw_only=True):
    """A file ``trust/<N>.json``."""

    document: TrustDocument
    signatures: Annotated[list[Signature], Meta(max_length=64)] = msgspec.field(default_factory=list)


_ENCODER = msgspec.json.Encoder()


def encode(signed: SignedDocument) -> bytes:
    """The file's text: indented, fields in their order."""
    explicit = msgspec.to_builtins(signed)
    explicit["document"] = {"type": signed.document.type, **explicit["document"]}
    return msgspec.json.format(_ENCODER.encode(explicit), indent=2) + b"\n"


def decode(data: bytes, file: str = "trust document") -> SignedDocument:
    """``MUSTER-T060`` for anything but a whole, strict document."""
    if len(data) > MAX_BYTES:
        raise TrustError("T060", "the trust document is too large", object=file)
    try:
        signed = msgspec.json.decode(data, type=SignedDocument)
        json.loads(data, object_pairs_hook=_no_field_twice)
        statement(signed.document)
        document = signed.document
        parse_time(document.issued)
        parse_time(document.expires)
        for role in document.roles:
            for key in role.keys:
                _ = key.fingerprint
                key.valid_at(0.0)
        roots = document.roots
        if len(roots.fingerprints()) != len(roots.keys):
            raise TrustError("T060", "a root key stands twice in the document", object=file)
        if roots.threshold > len(roots.keys):
            raise TrustError("T060", "the threshold is higher than the number of root keys", object=file)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise TrustError("T060", f"this is no trust document ({error})", object=file) from error
    except MusterError as error:
        if error.code == "T060":
            raise
        raise TrustError("T060", f"this is no trust document ({error.message})", object=file) from error
    return signed


def _no_field_twice(pairs: list[tuple[str, object]]) -> None:
    """Readers differ in which of two they take; what people review must be what counts."""
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise TrustError("T060", f"the field {twice} stands twice in one object")


def _texts(texts: Iterable[str]) -> bytes:
    return pae(*(text.encode() for text in texts))


def selector_bytes(selector: Selector) -> bytes:
    """A selector by its meaning, for whatever is signed."""
    labels = _texts(text for pair in sorted(selector.match_labels.items()) for text in pair)
    expressions = (
        pae(e.key.encode(), e.operator.encode(), _texts(e.values)) for e in selector.match_expressions
    )
    return pae(labels, pae(*expressions))


def _key_bytes(key: TrustKey) -> bytes:
    public = key.key if key.key.startswith(OPENPGP) else SshKey.parse(key.key).text()
    flags = "forge" if key.forge else ""
    return _texts((public, key.valid_after, key.valid_before, flags))


def _role_bytes(role: Role) -> bytes:
    return pae(
        role.role.encode(),
        role.scope.encode(),
        pae(*(_key_bytes(key) for key in role.keys)),
        _texts(role.paths),
        _texts(role.repositories),
        _texts(role.bundles),
        selector_bytes(role.clusters),
    )


def statement(document: TrustDocument) -> bytes:
    """What roots sign."""
    roots = document.roots
    return pae(
        DOMAIN,
        document.fleet.encode(),
        u64(document.version),
        document.issued.encode(),
        document.expires.encode(),
        pae(u64(roots.threshold), *(SshKey.parse(key).text().encode() for key in roots.keys)),
        pae(*(_role_bytes(role) for role in document.roles)),
    )


def signers(signed: SignedDocument) -> set[str]:
    """Fingerprints of the keys whose signatures hold; a signature that does not hold counts for nobody."""
    found, said = set[str](), statement(signed.document)
    for signature in signed.signatures:
        try:
            key = verify_ssh(signature.signature.encode(), said, namespace=SIGNATURE_NAMESPACE)
        except TrustError:
            continue  # an unknown or broken signature adds nothing; the threshold decides
        found.add(key.fingerprint)
    return found


def require_threshold(signed: SignedDocument, roots: Roots, whose: str) -> None:
    """``MUSTER-T061`` when fewer than the threshold of ``roots`` signed."""
    count = len(signers(signed) & roots.fingerprints())
    if count < roots.threshold:
        raise TrustError(
            "T061",
            f"{count} of the {roots.threshold} signatures that {whose} roots ask for",
            object=f"trust/{signed.document.version}.json",
            hint="Have the missing root keys sign: muster trust sign.",
        )


def accept_first(signed: SignedDocument, *, fleet: str, digest: str) -> TrustDocument:
    """The document that a join pinned; ``T061``, ``T063`` another fleet's, ``T064`` another digest."""
    document = signed.document
    _require_fleet(document, fleet)
    if document.digest != digest:
        raise TrustError(
            "T064",
            "the trust document is not the one that the join token names",
            object=f"trust/{document.version}.json",
            hint="Make a new token from a checkout that you trust.",
        )
    require_threshold(signed, document.roots, "its own")
    return document


def accept_next(current: TrustDocument, signed: SignedDocument) -> TrustDocument:
    """N+1 after N; ``T061`` below a threshold, ``T062`` not the next one, ``T063`` another fleet's."""
    document = signed.document
    _require_fleet(document, current.fleet)
    if document.version != current.version + 1:
        raise TrustError(
            "T062",
            f"version {document.version} does not follow version {current.version}",
            object=f"trust/{document.version}.json",
        )
    require_threshold(signed, current.roots, f"version {current.version}'s")
    require_threshold(signed, document.roots, "its own")
    return document


def _require_fleet(document: TrustDocument, fleet: str) -> None:
    if document.fleet != fleet:
        raise TrustError(
            "T063", "the trust document is another fleet's", object=f"trust/{document.version}.json"
        )
