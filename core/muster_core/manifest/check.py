"""What can be said of a bundle's manifests without rendering them.

Owns the checks that ``validate`` adds to those of the fleet: files that are no YAML, objects without a
name, two objects with one name, and names without a value. It never judges what kustomize would make of its
files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from muster_core.errors import MusterError, ValidationError
from muster_core.fleet import FleetContents, Problem
from muster_core.kinds.model import Bundle, Cluster
from muster_core.manifest.load import Document, DocumentError, load_documents
from muster_core.manifest.objects import ObjectRef, items_of, ref_of, unsound
from muster_core.release import BundleAt, bundle_tree
from muster_core.select import values_for
from muster_core.substitute import substitute
from muster_core.tree import Tree, join, within

KUSTOMIZATIONS = ("kustomization.yaml", "kustomization.yml", "Kustomization")


def manifest_problems(tree: Tree, contents: FleetContents, clusters: Mapping[str, Cluster]) -> list[Problem]:
    """Problems of every bundle that is otherwise whole; with a registry also names that a cluster lacks."""
    found: list[Problem] = []
    for name in contents.digests:
        at = contents.bundles[name]
        try:
            documents = _documents(tree, at)
        except DocumentError as error:
            found.append(Problem(error.file, error.line, error.what, name))
            continue
        except MusterError as error:
            found.append(Problem(error.object or at.file, 1, error.message, name))
            continue
        if not _kustomized(tree, at):
            render = at.bundle.spec.render
            folder = join(at.source, render.manifests.path if render.manifests else ".")
            documents = [document for document in documents if within(document.file, (folder,))]
            found += _objects(documents, name, substituted=bool(render.substitute))
            found += _values(documents, at.bundle, clusters)
    return found


def _documents(tree: Tree, at: BundleAt) -> list[Document]:
    return [
        document
        for file in bundle_tree(tree, at).files()
        if file.path.endswith((".yaml", ".yml")) and file.path != at.file
        for document in load_documents(tree.read(file.path), file.path)
    ]


def _kustomized(tree: Tree, at: BundleAt) -> bool:
    render = at.bundle.spec.render
    if render.kustomize or render.manifests:
        return render.kustomize is not None
    paths = {file.path for file in tree.files()}
    return any(join(at.source, name) in paths for name in KUSTOMIZATIONS)


def _objects(documents: list[Document], bundle: str, *, substituted: bool) -> Iterator[Problem]:
    seen: dict[ObjectRef, tuple[Document, int]] = {}
    for document, path, value in ((d, *item) for d in documents for item in items_of(d.value)):
        line = document.line_of(path)
        wrong = unsound(value) if isinstance(value, dict) else "a Kubernetes object is expected"
        if wrong and not (substituted and "${" in wrong):
            yield Problem(document.file, line, wrong, bundle)
            continue
        ref = ref_of(value)
        first = seen.setdefault(ref, (document, line))
        if first != (document, line):
            yield Problem(document.file, line, f"{ref} is in {first[0].file}:{first[1]} too", bundle)


def _values(documents: list[Document], bundle: Bundle, clusters: Mapping[str, Cluster]) -> Iterator[Problem]:
    """One problem a document and complaint, named with the first cluster that it concerns."""
    if not bundle.spec.render.substitute:
        return
    said: set[tuple[str, int, str]] = set()
    for name, cluster in clusters.items():
        for document in documents:
            try:
                values = values_for(bundle, cluster)
                if values is not None:
                    substitute(document.value, values)
            except ValidationError as error:
                key = (document.file, document.line, error.message)
                if key not in said:
                    said.add(key)
                    text = f"{error.message} on cluster {name}"
                    yield Problem(document.file, document.line, text, bundle.metadata.name)
