"""Whether whoever signed a head may have changed what it changes.

Owns the judgement on trees (DESIGN §6): every path that differs between the last accepted tree and the new one
must be covered by a role of a key that signed the new head. How the change came about (merge, squash, rebase) does
not matter, and commits below the head need no signature. It never reads git: signatures, differences and entries
are given.
"""

from __future__ import annotations

import functools
import re
import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec
import re2

from muster_core.audit.checkpoint import PATH as CHECKPOINT_PATH
from muster_core.errors import SecretError, TrustError
from muster_core.kinds.model import Cluster
from muster_core.release import registry_digest
from muster_core.sealing.keys import decode_public, sealing_key_statement, verify
from muster_core.select import matches
from muster_core.trust.documents import Role, RoleName, TrustDocument, TrustKey
from muster_core.trust.gitobject import SignedObject
from muster_core.trust.openpgp import verify_openpgp
from muster_core.trust.sshsig import verify_ssh

FLEET_FILE = "fleet.yaml"
CONTENT: tuple[RoleName, ...] = ("release", "policy")
REGISTRY: tuple[RoleName, ...] = ("registrar",)
TRUST_PATH = re.compile(r"trust/[1-9][0-9]{0,8}\.json\Z")
ENTRY_PATH = re.compile(r"clusters/([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)\.yaml\Z")
# With these keys GitHub signs what is done on its pages, for everybody (its web-flow keys).
FORGE_KEYS = frozenset(
    {"5DE3E0509C47EA3CF04A42D34AEE18F83AFDEB23", "968479A1AFF927E37D1A566BB5690EEEBB952194"}
)


class Change(NamedTuple):
    """One path that differs between two trees."""

    path: str
    how: Literal["added", "changed", "removed"]


def signer_of(signed: SignedObject, document: TrustDocument, *, now: float | None = None) -> str:
    """The fingerprint of the key that signed; ``T040`` unsigned, ``T041`` a key that the document does not name.

    Raises what the signature's own verifier found otherwise (``T052``, ``T054``). ``now`` (unix seconds) is when
    an OpenPGP key must be alive.
    """
    if signed.signature is None:
        raise TrustError("T040", "it is not signed", hint="Sign it: git commit -S, or muster release sign.")
    keys = [key for role in document.roles for key in role.keys]
    if signed.scheme == "openpgp":
        certificates = list(dict.fromkeys(key.certificate for key in keys if key.certificate))
        fingerprint = verify_openpgp(signed.signature, signed.payload, certificates, now=now)
    elif signed.scheme == "ssh":
        fingerprint = verify_ssh(signed.signature, signed.payload, namespace="git").fingerprint
    else:
        raise TrustError(
            "T045", f"signatures of kind {signed.scheme} are not supported", hint="Sign with SSH or OpenPGP."
        )
    if not any(key.fingerprint == fingerprint for key in keys):
        raise TrustError(
            "T041",
            "it is signed by a key that the trust document does not name",
            object=fingerprint,
            hint="muster trust show lists the keys; muster trust add-key adds one.",
        )
    return fingerprint


def counts(key: TrustKey, fingerprint: str, now: float) -> bool:
    """Whether a key of a document speaks for this fingerprint now; a forge's needs its flag."""
    return (
        key.fingerprint == fingerprint and key.valid_at(now) and (key.forge or fingerprint not in FORGE_KEYS)
    )


def roles_of(
    document: TrustDocument,
    signers: Collection[str],
    names: Collection[RoleName],
    repository: str,
    now: float,
) -> list[Role]:
    """The roles that these signers hold for a repository at this time."""
    return [
        role
        for role in document.roles
        if role.role in names
        and repository in role.repositories
        and any(counts(key, signer, now) for key in role.keys for signer in signers)
    ]


def judge_content(
    changes: Iterable[Change],
    document: TrustDocument,
    signers: Collection[str],
    *,
    now: float,
    repository: str = "fleet",
    names: Sequence[RoleName] = CONTENT,
) -> None:
    """``MUSTER-T042`` with the first path that no role of the signers covers.

    Trust documents prove themselves, so their files need no role here, except to remove one: a cluster that was
    away needs every version of the chain.
    """
    held = roles_of(document, signers, names, repository, now)
    for change in changes:
        if repository == "fleet" and change.how != "removed" and TRUST_PATH.fullmatch(change.path):
            continue
        policy = is_policy(change.path, document)
        if not any(covers(role.paths, change.path) for role in held if role.role == "policy" or not policy):
            raise not_covered(change, signers, document, now)


def is_policy(path: str, document: TrustDocument) -> bool:
    """Whether a path says what is allowed: only a policy role may change it, however wide another role's globs
    are."""
    return path == FLEET_FILE or any(covers(role.paths, path) for role in document.roles_of("policy"))


def not_covered(change: Change, signers: Collection[str], document: TrustDocument, now: float) -> TrustError:
    who = ", ".join(sorted(signers)) or "nobody"
    lapsed = any(
        key.fingerprint in signers and not key.valid_at(now) for role in document.roles for key in role.keys
    )
    why = "a key of it is out of its time" if lapsed else "no role of it covers the path"
    return TrustError(
        "T042",
        f"{change.path} was {change.how} by {who}, and {why}",
        object=change.path,
        hint="Have somebody sign the head whose role covers the path: muster trust show.",
    )


def judge_registry(
    changes: Iterable[Change],
    before: Mapping[str, Cluster],
    after: Mapping[str, Cluster],
    document: TrustDocument,
    signers: Collection[str],
    *,
    now: float,
) -> None:
    """``MUSTER-T043`` for what no registrar among the signers may do to the registry.

    Who manages may do everything below ``clusters/``, and add checkpoints of audit logs, which nobody may change or
    take out again. Who may only add may add entries that the role's selector
    matches, and sealing keys that the entry's own identity signed; never another identity, label, value or site.
    """
    held = roles_of(document, signers, REGISTRY, "fleet", now)
    managing = any(role.scope == "manage" for role in held)
    for change in changes:
        found = ENTRY_PATH.fullmatch(change.path)
        if managing and (found or (change.how == "added" and CHECKPOINT_PATH.match(change.path))):
            continue
        if not found or not any(
            _may_add(role, change, found[1], before, after, document.fleet) for role in held
        ):
            who = ", ".join(sorted(signers)) or "nobody"
            raise TrustError(
                "T043",
                f"{change.path} was {change.how} by {who}, who may not do that to the registry",
                object=change.path,
                hint="A registrar that manages must sign it: muster trust show.",
            )


def _may_add(
    role: Role,
    change: Change,
    name: str,
    before: Mapping[str, Cluster],
    after: Mapping[str, Cluster],
    fleet: str,
) -> bool:
    old, new = before.get(name), after.get(name)
    if new is None or new.metadata.name != name:
        return False
    if change.how == "added" and old is None:
        others = [*before.values(), *(entry for other, entry in after.items() if other != name)]
        twins = any(_is_twin(new, other) for other in others)
        return not twins and _may_have_labels(role, new) and _sealing_keys_are_its_own(new, fleet)
    if old is None:
        return False
    # Only what is newer may follow: a generation that was taken out must not come back with its old signature.
    known, found = old.spec.sealing_keys, new.spec.sealing_keys
    newest, added = max((key.generation for key in known), default=0), found[len(known) :]
    grows = found[: len(known)] == known and all(key.generation > newest for key in added)
    same = msgspec.structs.replace(
        new, spec=msgspec.structs.replace(new.spec, sealing_keys=old.spec.sealing_keys)
    )
    return grows and _mean_the_same(same, old) and _sealing_keys_are_its_own(new, fleet)


def _may_have_labels(role: Role, new: Cluster) -> bool:
    """Secrets are sealed by protected labels, so a registrar gives only those that its selector speaks of."""
    selector, protected = role.clusters, new.spec.protected_labels
    spoken = {*selector.match_labels, *(term.key for term in selector.match_expressions)}
    return protected.keys() <= spoken and matches(selector, protected)


def _mean_the_same(one: Cluster, other: Cluster) -> bool:
    """By digest: in Python 1, 1.0 and true are equal, in what is rendered they are not."""
    try:
        return registry_digest(one) == registry_digest(other)
    except ValueError:  # infinity and the like have no digest
        return False


def _is_twin(new: Cluster, known: Cluster) -> bool:
    """One key has many spellings in hex, so keys are compared as bytes."""
    return new.spec.uid == known.spec.uid or _key(new.spec.identity_key) == _key(known.spec.identity_key)


def _key(text: str) -> bytes:
    try:
        return decode_public(text)
    except SecretError:
        return text.encode()


def _sealing_keys_are_its_own(entry: Cluster, fleet: str) -> bool:
    uid, generations = entry.spec.uid, [key.generation for key in entry.spec.sealing_keys]
    if len(set(generations)) < len(generations):
        return False
    try:
        identity = decode_public(entry.spec.identity_key)
        return all(
            verify(
                identity,
                sealing_key_statement(fleet, uid, decode_public(key.key), key.generation),
                bytes.fromhex(key.signature),
            )
            for key in entry.spec.sealing_keys
        )
    except (SecretError, ValueError, struct.error):  # no key, no hex, or a generation that is no u64
        return False


def covers(globs: Sequence[str], path: str) -> bool:
    """Whether a path is meant: the last glob that matches decides; ``!`` takes away, ``**`` crosses folders.

    A path that no tree of Git should have (``..``, an empty name, no UTF-8) is never meant.
    """
    if not _is_plain(path):
        return False
    meant = False
    for glob in globs:
        if _pattern(glob.removeprefix("!")).fullmatch(path):
            meant = not glob.startswith("!")
    return meant


def _is_plain(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return not any(part in {"", ".", ".."} for part in path.split("/"))


@functools.lru_cache(maxsize=512)
def _pattern(glob: str) -> Any:
    """Linear in the path: whoever may push chooses paths, and a backtracking search would let them stop the agent."""
    out, rest = "", glob
    while rest:
        if rest.startswith("**/"):
            out, rest = out + "(?:[^/]+/)*", rest[3:]
        elif rest.startswith("**"):
            out, rest = out + ".*", rest[2:]
        elif rest.startswith("*"):
            out, rest = out + "[^/]*", rest[1:]
        elif rest.startswith("?"):
            out, rest = out + "[^/]", rest[1:]
        else:
            out, rest = out + re2.escape(rest[0]), rest[1:]
    options = re2.Options()
    options.dot_nl = True
    return re2.compile(out, options)
