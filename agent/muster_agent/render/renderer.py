"""Renders one bundle for one cluster.

Owns the choice between plain manifests and kustomize, parsing once per blob, running the tool once per input, and
substitution. It sees only the bundle's source and includes; ``local`` says what a kustomization may name.
"""

from __future__ import annotations

import hashlib
import posixpath
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

from muster_core.errors import ValidationError
from muster_core.manifest.load import Document, load_documents
from muster_core.manifest.objects import Manifest, items_of, unsound
from muster_core.release import BundleAt, bundle_tree
from muster_core.select import Value
from muster_core.substitute import substitute
from muster_core.tree import SUBMODULE, SYMLINK, Tree, join, within

from muster_agent.render import sandbox
from muster_agent.render.local import KUSTOMIZATION, refuse_remote
from muster_agent.render.outputs import Outputs, input_digest

MAX_PARSED_BYTES = 8 << 20


class Renderer:
    """``kustomize`` is the path of the binary, or None where it is not installed."""

    def __init__(self, kustomize: str | None) -> None:
        self._kustomize = kustomize
        self._parsed: OrderedDict[tuple[str, bytes], tuple[int, tuple[Manifest, ...]]] = OrderedDict()
        self._parsed_bytes = 0
        self._outputs = Outputs()

    async def render(self, tree: Tree, at: BundleAt, values: Mapping[str, Value]) -> list[Manifest]:
        """The bundle's objects in file order; ``V042``… name the file that stands in the way."""
        source = bundle_tree(tree, at)
        folder, kustomized = self._kind(source, at)
        objects = await self._build(source, folder) if kustomized else self._plain(source, folder, at)
        if at.bundle.spec.render.substitute:
            objects = [substitute(obj, values) for obj in objects]
        for obj in objects:
            wrong = unsound(obj)
            if wrong:
                raise ValidationError(
                    "V046", f"{at.file}:1: an object of the bundle: {wrong}", object=at.file
                )
        return objects

    def _kind(self, source: Tree, at: BundleAt) -> tuple[str, bool]:
        render = at.bundle.spec.render
        chosen = render.kustomize or render.manifests
        folder = join(at.source, chosen.path) if chosen else at.source
        if not within(folder, (at.source,)):
            raise ValidationError("V022", "render.path leads out of the source", object=folder)
        paths = {file.path for file in source.files()}
        has = any(posixpath.join(folder, name) in paths for name in KUSTOMIZATION)
        if render.kustomize is not None and not has:
            raise ValidationError("V042", "there is no kustomization file", object=folder or ".")
        return folder, render.kustomize is not None or (render.manifests is None and has)

    def _plain(self, source: Tree, folder: str, at: BundleAt) -> list[Manifest]:
        objects: list[Manifest] = []
        for file in source.files():
            if (
                not within(file.path, (folder,))
                or not file.path.endswith((".yaml", ".yml", ".json"))
                or file.path == at.file
            ):
                continue
            if file.mode in (SYMLINK, SUBMODULE):
                raise ValidationError(
                    "V025", "symbolic links and submodules are not followed", object=file.path
                )
            objects += self._parse(source, file.path)
        return objects

    def _parse(self, source: Tree, path: str) -> tuple[Manifest, ...]:
        data = source.read(path)
        key = (path, hashlib.sha256(data).digest())
        if key not in self._parsed:
            objects = tuple(item for document in load_documents(data, path) for item in _objects(document))
            self._parsed[key] = (len(data), objects)
            self._parsed_bytes += len(data)
            while self._parsed_bytes > MAX_PARSED_BYTES and len(self._parsed) > 1:
                self._parsed_bytes -= self._parsed.popitem(last=False)[1][0]
        self._parsed.move_to_end(key)
        return self._parsed[key][1]

    async def _build(self, source: Tree, folder: str) -> list[Manifest]:
        if self._kustomize is None:
            raise ValidationError(
                "V043",
                "the bundle needs kustomize, which this agent does not have",
                object=folder or ".",
                hint="Install the kustomize binary on PATH, or pass --kustomize PATH.",
            )
        for file in source.files():
            if file.mode in (SYMLINK, SUBMODULE):
                raise ValidationError(
                    "V025", "symbolic links and submodules are not followed", object=file.path
                )
        refuse_remote(source)
        key = input_digest(source, (self._kustomize, folder))
        out = self._outputs.get(key)
        if out is None:
            out = await self._run(self._kustomize, source, folder)
            self._outputs.put(key, out)
        return [
            item
            for document in load_documents(out, f"kustomize build {folder or '.'}")
            for item in _objects(document)
        ]

    async def _run(self, kustomize: str, source: Tree, folder: str) -> bytes:
        with tempfile.TemporaryDirectory(prefix="muster-render-") as work:
            root = Path(work) / "tree"
            for file in source.files():
                target = root / file.path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(source.read(file.path))
            # Files come only from the folder of the kustomization that names them; bases are folders.
            argv = [kustomize, "build", str(root / folder), "--load-restrictor", "LoadRestrictionsRootOnly"]
            return await sandbox.run(argv, Path(work), "kustomize")


def find_kustomize(wanted: str | None) -> str | None:
    return shutil.which(wanted or "kustomize")


def _objects(document: Document) -> list[Manifest]:
    """A document's objects, each with a form that can be delivered; names that wait for a value are looked at later."""
    objects: list[Manifest] = []
    for path, value in items_of(document.value):
        wrong = unsound(value) if isinstance(value, dict) else "a Kubernetes object is expected"
        if wrong and "${" not in wrong:
            where = f"{document.file}:{document.line_of(path)}"
            raise ValidationError("V046", f"{where}: {wrong}", object=document.file)
        objects.append(value)
    return objects
