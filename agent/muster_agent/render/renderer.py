"""Renders one bundle for one cluster.

Owns the choice between plain manifests and kustomize, the refusal of anything that would reach out of the tree or onto the
network, parsing once per blob, and substitution. It sees only the bundle's source and includes.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from muster_core.errors import ValidationError
from muster_core.manifest.load import Document, load_documents
from muster_core.manifest.objects import Manifest, ref_of
from muster_core.release import BundleAt, bundle_tree
from muster_core.select import Value
from muster_core.substitute import substitute
from muster_core.tree import SUBMODULE, SYMLINK, Tree, join, within

from muster_agent.render import sandbox

KUSTOMIZATION = ("kustomization.yaml", "kustomization.yml", "Kustomization")
REMOTE = re.compile(r"^[a-z][a-z0-9+.-]*://|^git@|^[\w.-]+\.[a-z]{2,}/|\?ref=|^//", re.IGNORECASE)
PATH_FIELDS = (
    "resources",
    "bases",
    "components",
    "configurations",
    "crds",
    "generators",
    "transformers",
    "validators",
)
REFUSED_FIELDS = ("helmCharts", "helmChartInflationGenerator", "helmGlobals", "openapi")
MAX_CACHED = 2_000


class Renderer:
    """``kustomize`` is the path of the binary, or None where it is not installed."""

    def __init__(self, kustomize: str | None) -> None:
        self._kustomize = kustomize
        self._parsed: OrderedDict[str, tuple[Manifest, ...]] = OrderedDict()

    async def render(self, tree: Tree, at: BundleAt, values: Mapping[str, Value]) -> list[Manifest]:
        """The bundle's objects in file order; ``V042``… name the file that stands in the way."""
        source = bundle_tree(tree, at)
        folder, kustomized = self._kind(source, at)
        objects = await self._build(source, folder, at) if kustomized else self._plain(source, folder, at)
        if at.bundle.spec.render.substitute:
            objects = [substitute(obj, values) for obj in objects]
        for obj in objects:
            ref_of(obj)
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
        key = f"{path}\0{hash(data)}"
        if key not in self._parsed:
            self._parsed[key] = tuple(
                item for document in load_documents(data, path) for item in _objects(document)
            )
            if len(self._parsed) > MAX_CACHED:
                self._parsed.popitem(last=False)
        self._parsed.move_to_end(key)
        return self._parsed[key]

    async def _build(self, source: Tree, folder: str, at: BundleAt) -> list[Manifest]:
        if self._kustomize is None:
            raise ValidationError(
                "V043",
                "the bundle needs kustomize, which this agent does not have",
                object=folder or ".",
                hint="Install the kustomize binary on PATH, or pass --kustomize PATH.",
            )
        self._refuse_remote(source)
        with tempfile.TemporaryDirectory(prefix="muster-render-") as work:
            root = Path(work) / "tree"
            for file in source.files():
                if file.mode in (SYMLINK, SUBMODULE):
                    raise ValidationError(
                        "V025", "symbolic links and submodules are not followed", object=file.path
                    )
                target = root / file.path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(source.read(file.path))
            # Files come only from the folder of the kustomization that names them; bases are folders.
            argv = [
                self._kustomize,
                "build",
                str(root / folder),
                "--load-restrictor",
                "LoadRestrictionsRootOnly",
            ]
            out = await sandbox.run(argv, Path(work), "kustomize")
        return [
            item
            for document in load_documents(out, f"kustomize build {folder or '.'}")
            for item in _objects(document)
        ]

    def _refuse_remote(self, source: Tree) -> None:
        """Nothing is fetched while rendering, and no path leaves the tree: said before the tool runs."""
        for file in source.files():
            if posixpath.basename(file.path) not in KUSTOMIZATION:
                continue
            for document in load_documents(source.read(file.path), file.path):
                value: dict[str, Any] = document.value if isinstance(document.value, dict) else {}
                for field in REFUSED_FIELDS:
                    if field in value:
                        raise ValidationError(
                            "V044",
                            f"{file.path}:{document.line_of((field,))}: {field} is not supported",
                            object=file.path,
                        )
                for field in PATH_FIELDS:
                    for index, entry in enumerate(value.get(field) or []):
                        if isinstance(entry, str) and REMOTE.search(entry):
                            raise ValidationError(
                                "V045",
                                f"{file.path}:{document.line_of((field, index))}: {field} names something remote ({entry})",
                                object=file.path,
                                hint="Vendor it into the repository.",
                            )
                        if isinstance(entry, str) and "\n" not in entry:
                            join(posixpath.dirname(file.path), entry)


def find_kustomize(wanted: str | None) -> str | None:
    return shutil.which(wanted or "kustomize")


def _objects(document: Document) -> list[Manifest]:
    """A List is its items."""
    value = document.value
    if not isinstance(value, dict):
        raise ValidationError(
            "V046", f"{document.file}:{document.line}: a Kubernetes object is expected", object=document.file
        )
    if value.get("kind") == "List" or (
        str(value.get("kind", "")).endswith("List") and isinstance(value.get("items"), list)
    ):
        return [item for item in value.get("items") or [] if isinstance(item, dict)]
    return [value]
