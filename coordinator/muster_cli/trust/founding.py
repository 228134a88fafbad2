"""The first trust document of a fleet, and the key that signs it.

Owns the quick start: a key of its own where the operator has none, one root of one, and git set up in the clone so
that commits are signed with it. It never overwrites a key or a document."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from muster_core.errors import TrustError
from muster_core.times import format_time
from muster_core.trust.documents import (
    SIGNATURE_NAMESPACE,
    Roots,
    Signature,
    SignedDocument,
    TrustDocument,
    TrustKey,
    statement,
)
from muster_core.trust.sshsig import new_ssh_key

from muster_cli.trust.chain import file_of, write
from muster_cli.trust.roles import ROLES, default_role
from muster_cli.trust.signing import SigningKey, find_key


def key_folder() -> Path:
    """Where keys that Muster made live: ``$XDG_CONFIG_HOME/muster/keys``."""
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "muster" / "keys"


def key_for(fleet: str, given: Path | None, git_setting: Callable[[str], str]) -> tuple[SigningKey, bool]:
    """The operator's key, and whether it was made just now (at ``<key folder>/<fleet>``, readable by its owner
    only)."""
    found = find_key(given, git_setting)
    if found is not None:
        return found, False
    path = key_folder() / fleet
    if path.exists():
        raise TrustError(
            "T058", "there is a key of this fleet already", object=str(path), hint=f"Use it: --key {path}"
        )
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    private, public = new_ssh_key(f"muster {fleet}")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(private)
    path.with_name(path.name + ".pub").write_text(public + "\n")
    made = find_key(path, git_setting)
    if made is None:
        raise TrustError("T056", "the key that was made cannot be read", object=str(path))
    return made, True


def found(root: Path, fleet_id: str, key: SigningKey, lifetime: float) -> Path:
    """Writes ``trust/1.json``: one root of one, every role in its hand. ``T058`` where there is one. Seconds."""
    if file_of(root, 1).exists():
        raise TrustError("T058", "there is a trust document already", object=str(file_of(root, 1)))
    now, public = time.time(), TrustKey(key=key.public.text())
    document = TrustDocument(
        fleet=fleet_id,
        version=1,
        issued=format_time(now),
        expires=format_time(now + lifetime),
        roots=Roots(threshold=1, keys=[key.public.text()]),
        roles=[default_role(name, [public]) for name in ROLES],
    )
    return write(root, sign_document(SignedDocument(document=document), key))


def sign_document(document: SignedDocument, key: SigningKey) -> SignedDocument:
    """With this key's signature in it, instead of an older one of the same key."""
    made = key.sign(statement(document.document), SIGNATURE_NAMESPACE).decode()
    others = [known for known in document.signatures if known.key != key.fingerprint]
    return msgspec.structs.replace(
        document, signatures=[*others, Signature(key=key.fingerprint, signature=made)]
    )
