"""The trust documents of a checkout, as files and as a chain.

Owns reading and writing ``trust/<N>.json`` and what the chain comes to: the newest document that holds, and one
that still waits for signatures. It never signs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
from muster_core.errors import TrustError
from muster_core.tree import Tree
from muster_core.trust.authority import TRUST_PATH
from muster_core.trust.documents import (
    Roots,
    SignedDocument,
    TrustDocument,
    accept_first,
    accept_next,
    decode,
    encode,
    signers,
)


@dataclass(frozen=True, slots=True)
class Chain:
    """``holding`` is the newest document that all signatures are there for; ``pending`` the next one, if there is
    one."""

    holding: TrustDocument | None
    pending: SignedDocument | None

    def require(self) -> TrustDocument:
        """``MUSTER-T057`` where no document holds."""
        if self.holding is None:
            raise TrustError(
                "T057",
                "the checkout has no trust document that holds",
                hint="Make one: muster trust init; or sign what waits: muster trust sign.",
            )
        return self.holding

    @property
    def newest(self) -> SignedDocument | None:
        if self.pending is not None:
            return self.pending
        return SignedDocument(document=self.holding) if self.holding else None


def read_chain(tree: Tree) -> Chain:
    """The chain from version 1. ``T060``–``T063`` for a document that is broken, not only unsigned."""
    files = {file.path for file in tree.files() if TRUST_PATH.match(file.path)}
    holding: TrustDocument | None = None
    for version in range(1, len(files) + 1):
        path = f"trust/{version}.json"
        if path not in files:
            raise TrustError("T062", "a version is missing", object=path, hint="All versions must be kept.")
        signed = decode(tree.read(path), path)
        try:
            document = signed.document
            holding = (
                accept_next(holding, signed)
                if holding
                else accept_first(signed, fleet=document.fleet, digest=document.digest)
            )
        except TrustError as error:
            if error.code != "T061" or version != len(files):
                raise
            return Chain(holding, signed)
    return Chain(holding, None)


def file_of(root: Path, version: int) -> Path:
    return root / "trust" / f"{version}.json"


def write(root: Path, signed: SignedDocument) -> Path:
    path = file_of(root, signed.document.version)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(signed))
    return path


def missing(signed: SignedDocument, before: TrustDocument | None) -> list[tuple[str, int, list[str]]]:
    """(whose roots, how many more, of whom) for every threshold that is not reached."""
    made, rows = signers(signed), []
    whose: list[tuple[str, Roots]] = [("its own", signed.document.roots)]
    if before:
        whose.insert(0, (f"version {before.version}'s", before.roots))
    for name, roots in whose:
        known = roots.fingerprints()
        left = roots.threshold - len(made & known)
        if left > 0:
            rows.append((name, left, sorted(known - made)))
    return rows


def amended(chain: Chain, change: TrustDocument, issued: str) -> SignedDocument:
    """The next version with this content, unsigned; a pending one is replaced."""
    version = (chain.holding.version if chain.holding else 0) + 1
    return SignedDocument(document=msgspec.structs.replace(change, version=version, issued=issued))
