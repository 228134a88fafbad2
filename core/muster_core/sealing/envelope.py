"""FleetSecret, format 1: one file for N clusters (DESIGN §7 exactly; vectors in tests/vectors).

Owns sealing and opening. A data key per key generation encrypts each entry; each recipient has one line
that wraps it; recipients stand outside the MAC, so that a cluster that joins adds a line and nothing else.
It never stores plaintext and hands it out only masked.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import nacl.bindings
import nacl.exceptions

from muster_core.errors import SecretError
from muster_core.kinds.base import SecretMetadata, Selector
from muster_core.kinds.model import FleetSecret, FleetSecretSpec, SecretEntry, SecretTemplate
from muster_core.pae import pae, u64, unpae
from muster_core.sealing.keys import SealingKey, fingerprint, wrap
from muster_core.sealing.masked import Masked

SUITE = b"muster.fs.1"
NONCE_BYTES = 24
KEY_BYTES = 32
_ENTRY_NAME = re.compile(r"[-._a-zA-Z0-9]+")


class Recipient(NamedTuple):
    """Who can open: ``kind`` is cluster, operator or recovery."""

    kind: str
    name: str
    uid: str
    public: bytes


class RecipientLine(NamedTuple):
    """One line of ``spec.recipients``: ``kind name uid keyGeneration wrapType base64``."""

    kind: str
    name: str
    uid: str
    key_generation: int
    wrap_type: str
    sealed: bytes

    def __str__(self) -> str:
        data = base64.b64encode(self.sealed).decode()
        return f"{self.kind} {self.name} {self.uid} {self.key_generation} {self.wrap_type} {data}"


@dataclass(frozen=True, slots=True)
class OpenedSecret:
    """Plaintext, masked, with what a Kubernetes Secret needs."""

    name: str
    namespace: str
    type: str
    immutable: bool
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    data: Mapping[str, Masked]


def subkey(dek: bytes, person: bytes) -> bytes:
    """A 32-byte subkey: keyed BLAKE2b over empty input with a person string."""
    return hashlib.blake2b(b"", digest_size=KEY_BYTES, key=dek, person=person).digest()


def commitment(dek: bytes, file_id: str, key_generation: int) -> bytes:
    """Binds the data key to the file, so that one file cannot open differently for different clusters."""
    return hashlib.blake2b(
        pae(file_id.encode(), u64(key_generation)), digest_size=KEY_BYTES, key=subkey(dek, b"commit")
    ).digest()


def _entry_data(
    fleet_id: str,
    metadata: SecretMetadata,
    spec_type: str,
    file_id: str,
    name: str,
    entry_revision: int,
    generation: int,
) -> bytes:
    return pae(
        b"muster.fs.entry.v1",
        fleet_id.encode(),
        file_id.encode(),
        metadata.namespace.encode(),
        metadata.name.encode(),
        spec_type.encode(),
        name.encode(),
        u64(entry_revision),
        u64(generation),
    )


def _template_parts(template: SecretTemplate) -> bytes:
    """Sorted by (kind, key), as text bytes."""
    triples = [("annotation", *pair) for pair in template.annotations.items()]
    triples += [("label", *pair) for pair in template.labels.items()]
    encoded = sorted((kind.encode(), key.encode(), text.encode()) for kind, key, text in triples)
    return pae(*(pae(*triple) for triple in encoded))


def file_mac(mac_key: bytes, fleet_id: str, secret: FleetSecret) -> bytes:
    """Keyed BLAKE2b-256 over everything but the recipients."""
    spec = secret.spec
    entries = sorted(
        ((name.encode(), entry) for name, entry in spec.entries.items()), key=lambda pair: pair[0]
    )
    message = pae(
        b"muster.fs.file.v1",
        SUITE,
        fleet_id.encode(),
        spec.file_id.encode(),
        secret.metadata.namespace.encode(),
        secret.metadata.name.encode(),
        spec.type.encode(),
        u64(spec.key_generation),
        u64(spec.revision),
        u64(int(spec.immutable)),
        _template_parts(spec.template),
        pae(*(_entry_digest(name, entry) for name, entry in entries)),
    )
    return hashlib.blake2b(message, digest_size=KEY_BYTES, key=mac_key).digest()


def _entry_digest(name: bytes, entry: SecretEntry) -> bytes:
    return pae(name, u64(entry.revision), _bytes(entry.nonce), hashlib.sha256(_bytes(entry.data)).digest())


def _wrapped(
    fleet_id: str, file_id: str, uid: str, public: bytes, generation: int, commit: bytes, dek: bytes
) -> bytes:
    return pae(
        b"muster.fs.wrap.v1",
        fleet_id.encode(),
        file_id.encode(),
        uid.encode(),
        public,
        u64(generation),
        commit,
        dek,
    )


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise SecretError("S013", "a value of the secret file is not base64") from error


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def seal(
    *,
    fleet_id: str,
    name: str,
    namespace: str,
    data: Mapping[str, Masked],
    recipients: Sequence[Recipient],
    selector: Selector,
    random: Callable[[int], bytes],
    secret_type: str = "Opaque",  # noqa: S107
    immutable: bool = False,
    template: SecretTemplate | None = None,
    after: FleetSecret | None = None,
) -> FleetSecret:
    """A new file for these recipients. ``random(n)`` gives n bytes from the system's generator.

    ``after`` is the file that it takes the place of: its id stays, its generation and revision rise, its data key goes.

    ``MUSTER-S014`` for a bad entry name, ``MUSTER-S015`` without recipients, ``MUSTER-S011`` for a bad key.
    """
    for entry in data:
        if not _ENTRY_NAME.fullmatch(entry):
            raise SecretError(
                "S014", "an entry's name may have letters, digits, '-', '_' and '.'", object=entry
            )
    if not recipients:
        raise SecretError(
            "S015",
            "nobody could open this secret",
            object=f"{namespace}/{name}",
            hint="The selector matches no cluster's protectedLabels in the registry.",
        )
    metadata, dek, file_id = (
        SecretMetadata(name=name, namespace=namespace),
        random(KEY_BYTES),
        after.spec.file_id if after else random(16).hex(),
    )
    generation = after.spec.key_generation + 1 if after else 1
    revision = after.spec.revision + 1 if after else 1
    template = template or SecretTemplate()
    commit, enc = commitment(dek, file_id, generation), subkey(dek, b"enc")
    entries = {}
    for entry, plain in sorted(data.items()):
        nonce = random(NONCE_BYTES)
        bound = _entry_data(fleet_id, metadata, secret_type, file_id, entry, revision, generation)
        sealed = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(plain.reveal(), bound, nonce, enc)
        entries[entry] = SecretEntry(revision=revision, nonce=_text(nonce), data=_text(sealed))
    lines = sorted(
        str(
            RecipientLine(
                r.kind,
                r.name,
                r.uid,
                generation,
                "sealedbox",
                wrap(r.public, _wrapped(fleet_id, file_id, r.uid, r.public, generation, commit, dek)),
            )
        )
        for r in recipients
    )
    spec = FleetSecretSpec(
        format=1,
        file_id=file_id,
        type=secret_type,
        immutable=immutable,
        template=template,
        key_generation=generation,
        revision=revision,
        selector=selector,
        commitment=_text(commit),
        entries=entries,
        recipients=lines,
        mac="",
    )
    unsigned = FleetSecret(
        api_version="muster.dev/v1alpha1", kind="FleetSecret", metadata=metadata, spec=spec
    )
    mac = file_mac(subkey(dek, b"mac"), fleet_id, unsigned)
    fields = {field: getattr(spec, field) for field in spec.__struct_fields__}
    return FleetSecret(
        api_version=unsigned.api_version,
        kind=unsigned.kind,
        metadata=metadata,
        spec=FleetSecretSpec(**{**fields, "mac": _text(mac)}),
    )


def parse_line(line: str) -> RecipientLine:
    """``MUSTER-S016`` for a line of another shape."""
    parts = line.split(" ")
    if len(parts) != 6 or parts[0] not in {"cluster", "operator", "recovery"} or not parts[3].isdigit():
        raise SecretError(
            "S016", "a recipient line is not `kind name uid keyGeneration wrapType base64`", object=line[:60]
        )
    return RecipientLine(parts[0], parts[1], parts[2], int(parts[3]), parts[4], _bytes(parts[5]))


def open_secret(secret: FleetSecret, *, fleet_id: str, uid: str, keys: Sequence[SealingKey]) -> OpenedSecret:
    """Checks the commitment before anything is decrypted and the file's MAC before anything is handed out.

    ``MUSTER-S001`` not sealed to this cluster; ``MUSTER-S002`` the file was changed or belongs elsewhere.
    """
    spec, name = secret.spec, f"{secret.metadata.namespace}/{secret.metadata.name}"
    mine = [
        line for text in spec.recipients if (line := parse_line(text)).uid == uid and line.kind == "cluster"
    ]
    if not mine:
        raise SecretError(
            "S001",
            "the secret is not sealed to this cluster",
            object=name,
            hint="Seal it anew for the clusters of its selector: muster secret seal.",
        )
    dek = _data_key(secret, fleet_id, uid, mine, keys, name)
    if not hmac.compare_digest(file_mac(subkey(dek, b"mac"), fleet_id, secret), _bytes(spec.mac)):
        raise SecretError("S002", "the secret file was changed after it was sealed", object=name)
    enc, opened = subkey(dek, b"enc"), {}
    for entry, sealed in spec.entries.items():
        bound = _entry_data(
            fleet_id, secret.metadata, spec.type, spec.file_id, entry, sealed.revision, spec.key_generation
        )
        try:
            plain = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(
                _bytes(sealed.data), bound, _bytes(sealed.nonce), enc
            )
        except (nacl.exceptions.CryptoError, ValueError, TypeError) as error:
            raise SecretError(
                "S002", "an entry of the secret file was changed or moved", object=f"{name} {entry}"
            ) from error
        opened[entry] = Masked(bytes(plain))
    return OpenedSecret(
        secret.metadata.name,
        secret.metadata.namespace,
        spec.type,
        spec.immutable,
        spec.template.labels,
        spec.template.annotations,
        opened,
    )


def _data_key(
    secret: FleetSecret,
    fleet_id: str,
    uid: str,
    lines: Sequence[RecipientLine],
    keys: Sequence[SealingKey],
    name: str,
) -> bytes:
    spec = secret.spec
    for line in lines:
        if line.wrap_type != "sealedbox" or line.key_generation != spec.key_generation:
            continue
        for key in keys:
            try:
                parts = unpae(key.unwrap(line.sealed))
            except SecretError:
                continue
            dek = parts[-1]
            expected = _wrapped(
                fleet_id, spec.file_id, uid, key.public, spec.key_generation, _bytes(spec.commitment), dek
            )
            if len(dek) != KEY_BYTES or not hmac.compare_digest(pae(*parts), expected):
                raise SecretError(
                    "S002", "the recipient line belongs to another file, fleet or generation", object=name
                )
            if not hmac.compare_digest(
                commitment(dek, spec.file_id, spec.key_generation), _bytes(spec.commitment)
            ):
                raise SecretError("S002", "the data key is not the one that the file commits to", object=name)
            return dek
    keys_known = ", ".join(fingerprint(key.public) for key in keys)
    raise SecretError(
        "S001",
        "no recipient line opens with a sealing key of this cluster",
        object=name,
        hint=f"This cluster's keys: {keys_known}.",
    )
