"""Desired objects and what is known of the live ones, in; ordered changes, out.

Owns the order (namespaces and CRDs first, then by kind rank, prune backwards) and the decision whether anything is to be
done at all: equal digests mean nothing. It never talks to a cluster.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from muster_core.manifest.objects import ObjectRef

FIRST = ("Namespace", "CustomResourceDefinition")
RANKS = {
    kind: rank
    for rank, kind in enumerate(
        (
            "Namespace",
            "CustomResourceDefinition",
            "ResourceQuota",
            "LimitRange",
            "PriorityClass",
            "StorageClass",
            "ServiceAccount",
            "Secret",
            "ConfigMap",
            "ClusterRole",
            "ClusterRoleBinding",
            "Role",
            "RoleBinding",
            "PersistentVolume",
            "PersistentVolumeClaim",
            "Service",
            "NetworkPolicy",
            "DaemonSet",
            "Deployment",
            "StatefulSet",
            "ReplicaSet",
            "Pod",
            "Job",
            "CronJob",
            "PodDisruptionBudget",
            "HorizontalPodAutoscaler",
            "Ingress",
        )
    )
}
LAST = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration", "APIService")


class Applied(msgspec.Struct, frozen=True):
    """What was last applied: the digest of what was sent, and of what we then owned in the live object."""

    desired: str
    owned: str
    uid: str = ""


class Live(NamedTuple):
    """What a watch last said of an object."""

    uid: str
    part_of: str
    owned: str


class Plan(NamedTuple):
    """``first`` is awaited until established before ``then``; ``prune`` runs only after all of both succeeded."""

    first: tuple[ObjectRef, ...]
    then: tuple[ObjectRef, ...]
    prune: tuple[ObjectRef, ...]
    drifted: tuple[ObjectRef, ...]

    @property
    def empty(self) -> bool:
        return not (self.first or self.then or self.prune)


def rank(ref: ObjectRef) -> tuple[int, str, str, str]:
    base = len(RANKS) + (1 if ref.kind in LAST else 0)
    return (RANKS.get(ref.kind, base), ref.kind, ref.namespace, ref.name)


def plan(
    desired: Mapping[ObjectRef, str],
    applied: Mapping[ObjectRef, Applied],
    live: Mapping[ObjectRef, Live],
    *,
    prune: bool,
) -> Plan:
    """``desired`` maps each object to its digest. An object that is new, changed, gone or drifted is applied."""
    change, drifted = [], []
    for ref, digest in desired.items():
        known, seen = applied.get(ref), live.get(ref)
        if known is None or seen is None or known.desired != digest:
            change.append(ref)
            if known is not None and known.desired == digest:
                drifted.append(ref)
        elif seen.owned != known.owned:
            change.append(ref)
            drifted.append(ref)
    order = sorted(change, key=rank)
    gone = (
        [ref for ref in {**applied, **live} if ref not in desired and ref.kind != "Namespace"]
        if prune
        else []
    )
    return Plan(
        first=tuple(ref for ref in order if ref.kind in FIRST),
        then=tuple(ref for ref in order if ref.kind not in FIRST),
        prune=tuple(sorted((ref for ref in gone if ref in live), key=rank, reverse=True)),
        drifted=tuple(sorted(drifted, key=rank)),
    )


def kinds_of(refs: Iterable[ObjectRef]) -> set[tuple[str, str]]:
    """(apiVersion, kind) of these objects: what is to be watched."""
    return {(ref.api_version, ref.kind) for ref in refs}
