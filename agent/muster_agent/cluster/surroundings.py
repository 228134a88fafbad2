"""What policies need to know of the cluster before they judge a bundle.

Owns asking for it: labels of the namespaces that the objects go into, and which of the objects are there already. It is
asked once an admission, so that judging itself is pure. It never judges.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from muster_core.manifest.objects import Manifest, ObjectRef, ref_of

from muster_agent.cluster.port import ClusterApi


class Surroundings(NamedTuple):
    """``exists`` holds objects as :class:`ObjectRef` prints them; labels are by namespace."""

    exists: frozenset[str] = frozenset()
    namespace_labels: Mapping[str, Mapping[str, str]] = {}


async def look_around(
    api: ClusterApi, objects: Sequence[Manifest], ours: Iterable[ObjectRef]
) -> Surroundings:
    """One GET a namespace; raises :class:`muster_core.errors.KubernetesError`, for what is not known is not judged.

    ``ours`` are the bundle's objects that were applied before. An object that is there and is not ours is refused when it
    is applied, so whether it exists is not asked. A Namespace of the bundle counts with the labels it will have.
    """
    exists = {str(ref) for ref in ours}
    labels: dict[str, dict[str, str]] = {}
    brought = {ref.name: obj for obj in objects if (ref := ref_of(obj)).kind == "Namespace"}
    for name in sorted({ref.namespace for obj in objects if (ref := ref_of(obj)).namespace} | brought.keys()):
        ref = ObjectRef("v1", "Namespace", "", name)
        live = await api.get(ref)
        if live is not None:
            exists.add(str(ref))
        labels[name] = {**_labels(live), **_labels(brought.get(name))}
    return Surroundings(frozenset(exists), labels)


def _labels(obj: Manifest | None) -> dict[str, str]:
    found = ((obj or {}).get("metadata") or {}).get("labels")
    return dict(found) if isinstance(found, Mapping) else {}
