"""The records themselves, as values with a version in their envelope.

Owns their fields. Private keys are in ``Identity`` and nowhere else.
"""

from __future__ import annotations

import msgspec
from muster_core.apply.plan import Applied
from muster_core.manifest.objects import ObjectRef
from muster_core.release import Release
from muster_core.trust.directive import SequencePlace


class Identity(msgspec.Struct, frozen=True):
    """Hex of private keys; ``tls_key`` is PEM."""

    seed: str
    sealing: str
    generation: int
    tls_key: str

    def __repr__(self) -> str:
        return "Identity(****)"


class Repository(msgspec.Struct, frozen=True):
    name: str
    url: str
    branch: str
    anchor: str


class Enrolment(msgspec.Struct, frozen=True, kw_only=True):
    """What the join fixed. ``certificate`` is PEM, empty while the join waits; ``renewals`` rises before it is
    sent."""

    cluster: str
    uid: str
    edge_address: str
    link_address: str
    ca_pem: str
    mode: str
    trust_digest: str
    fleet_id: str
    repositories: tuple[Repository, ...]
    token_secret: str
    certificate: str = ""
    renewals: int = 0


class TrustRecord(msgspec.Struct, frozen=True):
    """The text of the trust document that holds, and the newest time that a valid signature has shown (unix
    seconds)."""

    document: str = ""
    latest: float = 0.0


class HeadsRecord(msgspec.Struct, frozen=True):
    """Commits that were accepted as heads of the fleet's branch, the oldest first."""

    commits: tuple[str, ...] = ()


class SecretPlace(msgspec.Struct, frozen=True):
    """The newest version of a secret file that was applied here, and the commit that has it."""

    key_generation: int
    revision: int
    commit: str


class Floors(msgspec.Struct, frozen=True):
    """The newest commit accepted, per branch and per bundle. On disk before anything of it is applied.

    ``directives`` is the newest directive taken per bundle, ``secrets`` the newest version per file id.
    ``regressed`` is a commit that the coordinator had from this cluster and that the floor was behind of: nothing
    new is taken until an operator has acknowledged it.
    """

    branches: dict[str, str] = {}
    bundles: dict[str, str] = {}
    directives: dict[str, SequencePlace] = {}
    regressed: str = ""
    secrets: dict[str, SecretPlace] = {}


class Admission(msgspec.Struct, frozen=True):
    """What fixes a bundle's objects: healing renders exactly this again."""

    release: Release
    registry_commit: str
    policy_commit: str


class OfferRecord(msgspec.Struct, frozen=True):
    """An offer as it came, so that it can be judged again after a restart. ``proof`` is (leaf index, sibling
    hashes); ``not_before`` in unix seconds, 0 where it may be applied at once."""

    rollout: str
    attempt: int
    release: Release
    registry_digest: str = ""
    directive: bytes = b""
    signature: bytes = b""
    proof: tuple[int, tuple[bytes, ...]] | None = None
    catch_up: bool = False
    returns: bool = False
    not_before: int = 0


class ReturnRecord(msgspec.Struct, frozen=True):
    """A release that this cluster went back from, by itself or because it was asked to, and when (unix seconds)."""

    tree_digest: str
    attempt: int
    at: float


class AppliedObject(msgspec.Struct, frozen=True, array_like=True):
    ref: ObjectRef
    applied: Applied


class BundleRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One bundle on this cluster. ``outcome`` is the verdict on ``offer``; ``staged``: it waits for its time.

    ``previous`` was healthy before ``last_healthy`` was; there is none after a return, so that nobody is led back
    step by step. ``leaving``: the registry asks that nothing of it is left here; ``kept`` is what was protected from that.
    ``attempt`` is the offer's by which the admission came, 0 when the bundle went back to it.
    """

    bundle: str
    offer: OfferRecord | None = None
    admission: Admission | None = None
    last_healthy: Admission | None = None
    previous: Admission | None = None
    attempt: int = 0
    outcome: str = ""
    returning: bool = False
    healed: int = 0
    last_healed: str = ""
    returns: tuple[ReturnRecord, ...] = ()
    leaving: bool = False
    kept: tuple[str, ...] = ()


class AppliedRecord(msgspec.Struct, frozen=True):
    objects: tuple[AppliedObject, ...] = ()
