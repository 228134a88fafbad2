"""What the fleet's policies would say of its bundles, before anybody pushes them.

Owns the rendering of each bundle by the agent's own stage and the judgement of every object by the fleet's own policies,
once for each set of values that a cluster of the registry has. It opens no secret and asks no cluster: what rules
would look up there is unknown here.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field

import anyio
import msgspec
from muster_agent.render.renderer import Renderer, find_kustomize
from muster_core.errors import MusterError, ValidationError
from muster_core.fleet import FleetContents, Problem
from muster_core.kinds.base import Metadata
from muster_core.kinds.model import Bundle, Cluster, ClusterSpec, Target
from muster_core.manifest.load import load_documents
from muster_core.manifest.objects import Manifest, ref_of
from muster_core.policy import PolicySet, Verdict, blocked
from muster_core.release import BundleAt, bundle_tree
from muster_core.select import Value, values_for
from muster_core.substitute import substitute
from muster_core.tree import Tree

from muster_cli.output import counted

MAX_VALUES = 50


@dataclass(slots=True)
class Judgement:
    """``denied`` stops a rollout, ``warned`` does not; ``unjudged`` says of what nothing is known, and why."""

    denied: list[Problem] = field(default_factory=list)
    warned: list[Problem] = field(default_factory=list)
    unjudged: list[str] = field(default_factory=list)


def judge(
    tree: Tree,
    contents: FleetContents,
    policies: PolicySet,
    clusters: Mapping[str, Cluster],
    unsound: Container[str] = (),
) -> Judgement:
    """Every bundle that is whole and not ``unsound``; each complaint once, with the place of its object if it has one."""
    found = Judgement()
    if not policies.rules:
        return found
    renderer = Renderer(find_kustomize(None))
    for name in contents.digests:
        if name in unsound:
            continue
        at = contents.bundles[name]
        try:
            objects = anyio.run(renderer.render, tree, _unsubstituted(at), {})
        except MusterError as error:
            found.unjudged.append(f"{at.file}: not judged by the policies: {error.message}")
            continue
        _judge_bundle(found, tree, at, objects, policies, clusters)
    return found


def _judge_bundle(
    found: Judgement,
    tree: Tree,
    at: BundleAt,
    objects: Sequence[Manifest],
    policies: PolicySet,
    clusters: Mapping[str, Cluster],
) -> None:
    places, said = _places(tree, at), set[tuple[str, ...]]()
    sets = _value_sets(at.bundle, clusters)
    if len(sets) > MAX_VALUES:
        found.unjudged.append(f"{at.file}: judged for {MAX_VALUES} of {len(sets)} sets of clusters' values")
    for values in sets[:MAX_VALUES]:
        shown, unknown = _shown(at.bundle, objects, values)
        note = f"{at.file}: {counted(unknown, 'object')} not judged by the policies: their values are a cluster's own"
        if unknown and not clusters and note not in found.unjudged:
            found.unjudged.append(note)
        verdicts = policies.evaluate(shown)
        forbidden = blocked(verdicts)
        for verdict in verdicts:
            key = (verdict.policy, verdict.rule, verdict.object, verdict.path, verdict.message)
            if key in said or (verdict not in forbidden and verdict.status not in {"fail", "warn"}):
                continue
            said.add(key)
            file, line = places.get(_bare(verdict.object), (at.file, 1))
            problem = Problem(
                file, line, _text(verdict, denied=verdict in forbidden), at.bundle.metadata.name
            )
            (found.denied if verdict in forbidden else found.warned).append(problem)


def _text(verdict: Verdict, *, denied: bool) -> str:
    where = f" at {verdict.path}" if verdict.path else ""
    does = "forbids" if denied else "warns of"
    return f"policy {verdict.policy}, rule {verdict.rule} {does} {verdict.object}{where}: {verdict.message}"


def _unsubstituted(at: BundleAt) -> BundleAt:
    spec = at.bundle.spec
    render = msgspec.structs.replace(spec.render, substitute={})
    bundle = msgspec.structs.replace(at.bundle, spec=msgspec.structs.replace(spec, render=render))
    return at._replace(bundle=bundle)


def _value_sets(bundle: Bundle, clusters: Mapping[str, Cluster]) -> list[dict[str, Value]]:
    """The different values that clusters of the registry have; without one, those of a made-up cluster a target."""
    found: list[dict[str, Value]] = []
    made_up = [] if clusters else [(_made_up(target), target.values) for target in bundle.spec.targets]
    for cluster, otherwise in [*((known, None) for known in clusters.values()), *made_up]:
        try:
            values = values_for(bundle, cluster)
        except ValidationError:  # in a registry it is a problem of its own
            values = None
        if values is None and otherwise is not None:
            values = dict(otherwise)
        if values is not None and values not in found:
            found.append(values)
    return found


def _made_up(target: Target) -> Cluster:
    return Cluster(
        api_version="muster.dev/v1alpha1",
        kind="Cluster",
        metadata=Metadata(name="any", labels=dict(target.selector.match_labels)),
        spec=ClusterSpec(uid="any", identity_key=""),
    )


def _shown(
    bundle: Bundle, objects: Sequence[Manifest], values: Mapping[str, Value]
) -> tuple[list[Manifest], int]:
    """Objects as policies in a cluster see them, and how many are not known without its values."""
    shown, unknown, namespace = [], 0, bundle.spec.namespace
    for obj in objects:
        if bundle.spec.render.substitute:
            try:
                obj = substitute(obj, values)
            except ValidationError:
                unknown += 1
                continue
        metadata = obj.get("metadata") or {}
        if namespace and not metadata.get("namespace") and obj.get("kind") != "Namespace":
            obj = {**obj, "metadata": {**metadata, "namespace": namespace}}
        shown.append(obj)
    return shown, unknown


def _places(tree: Tree, at: BundleAt) -> dict[str, tuple[str, int]]:
    """Where each plain object is written; what kustomize makes has no place."""
    places: dict[str, tuple[str, int]] = {}
    for file in bundle_tree(tree, at).files():
        if not file.path.endswith((".yaml", ".yml")) or file.path == at.file:
            continue
        try:
            for document in load_documents(tree.read(file.path), file.path):
                if isinstance(document.value, dict):
                    places.setdefault(_bare(str(ref_of(document.value))), (document.file, document.line))
        except ValidationError:
            continue  # a problem of its own, or no object
    return places


def _bare(name: str) -> str:
    """``apps/v1/Deployment web`` for ``apps/v1/Deployment shop/web``: the namespace may come from the bundle."""
    kind, _, rest = name.partition(" ")
    return f"{kind} {rest.rpartition('/')[2]}"
