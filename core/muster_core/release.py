"""What a release is made of, and the digest that names it.

Owns the tree digest (DESIGN §2: SHA-256 over sorted (mode, path, SHA-256 of blob) of exactly the source
path, its includes, and what the named FleetSecrets say without their recipients). One pure function for the
coordinator, the agent and the CLI. It never renders.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from msgspec import UNSET

from muster_core.errors import ValidationError
from muster_core.kinds.model import Bundle, Cluster, FleetSecret
from muster_core.manifest.load import MAX_BYTES, oversized
from muster_core.manifest.objects import digest
from muster_core.pae import pae, u64
from muster_core.tree import SUBMODULE, SYMLINK, Subtree, Tree, join


class Release(NamedTuple):
    """A bundle at one commit. Immutable; two releases with one tree digest render alike."""

    bundle: str
    commit: str
    tree_digest: str

    def __str__(self) -> str:
        return f"{self.bundle}@{self.commit[:7]}"


class BundleAt(NamedTuple):
    """A bundle and where its file stands."""

    bundle: Bundle
    file: str
    folder: str

    @property
    def source(self) -> str:
        return join(self.folder, self.bundle.spec.source.path)

    @property
    def includes(self) -> tuple[str, ...]:
        return tuple(join(self.folder, path) for path in self.bundle.spec.source.include)

    @property
    def secret_files(self) -> tuple[str, ...]:
        return tuple(join(self.folder, path) for path in self.bundle.spec.secrets)


def bundle_tree(tree: Tree, at: BundleAt) -> Subtree:
    """The only files that render sees."""
    return Subtree(tree, (at.source, *at.includes))


def tree_digest(tree: Tree, at: BundleAt, secrets: Sequence[FleetSecret]) -> str:
    """Hex SHA-256. The bundle's own spec counts by its meaning, not by its text; of one that is being removed, only that.

    ``MUSTER-V025`` for a symlink or submodule inside the source, neither of which is followed; ``V001`` for a file that is
    too large.
    """
    lines: list[tuple[bytes, bytes, bytes]] = []
    for file in bundle_tree(tree, at).files() if at.bundle.spec.remove is None else ():
        if file.mode in (SYMLINK, SUBMODULE):
            raise ValidationError(
                "V025",
                "symbolic links and submodules are not followed",
                object=file.path,
                hint="Put the file itself there, or name its folder in source.include.",
            )
        if file.path != at.file:
            data = tree.read(file.path)
            if len(data) > MAX_BYTES:
                raise oversized(file.path)
            lines.append((file.mode.encode(), file.path.encode(), hashlib.sha256(data).digest()))
    spec = msgspec.to_builtins(at.bundle.spec)
    spec.pop("plan", None)  # how it is rolled out changes no rendered object
    named = sorted(
        (s.spec.file_id.encode(), u64(s.spec.key_generation), u64(s.spec.revision), s.spec.mac.encode())
        for s in secrets
    )
    parts = (pae(*(pae(*line) for line in sorted(lines))), pae(*(pae(*secret) for secret in named)))
    return hashlib.sha256(pae(b"muster.tree.v1", digest(spec).encode(), *parts)).hexdigest()


def registry_digest(cluster: Cluster) -> str:
    """The digest of a whole registry entry: whether two mean the same."""
    return digest(msgspec.to_builtins(cluster))


def entry_digest(cluster: Cluster) -> str:
    """The digest of what in a registry entry may change what the cluster renders.

    When and whether a site takes releases changes none of them, so nothing is offered anew for it.
    """
    spec = msgspec.structs.replace(cluster.spec, site=None, removal=UNSET)
    return registry_digest(msgspec.structs.replace(cluster, spec=spec))
