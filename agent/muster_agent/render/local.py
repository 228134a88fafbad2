"""Nothing of a kustomization leads out of its tree or onto the network: said before the tool runs.

Owns which fields of a kustomization, and of the configuration of its generators and transformers, name files; and what such a
name may be: something that is in the tree. It never reads a disk and starts nothing.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence
from typing import Any

from muster_core.errors import ValidationError
from muster_core.manifest.load import Document, load_documents
from muster_core.tree import Tree, join

KUSTOMIZATION = ("kustomization.yaml", "kustomization.yml", "Kustomization")
REMOTE = re.compile(r"://|^git::|^[\w.-]+@[\w.-]+:|^[\w.-]+\.[a-z]{2,}/|\?ref=|^//", re.IGNORECASE)
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
PLUGIN_FIELDS = ("generators", "transformers", "validators")
FILE_KEYS = frozenset(
    {"path", "files", "envs", "env", "patchesStrategicMerge", "kubeVersion"} - {"kubeVersion"}
)
REFUSED_FIELDS = ("helmCharts", "helmChartInflationGenerator", "helmGlobals", "openapi")
REFUSED_PLUGINS = frozenset({"HelmChartInflationGenerator"})


def refuse_remote(source: Tree) -> None:
    """With file and line: ``MUSTER-V044`` unsupported, ``V045`` remote, ``V047`` not there, ``V022`` out of the tree."""
    paths = {file.path for file in source.files()}
    folders = {folder for path in paths for folder in _above(path)}
    for path in sorted(paths):
        if posixpath.basename(path) not in KUSTOMIZATION:
            continue
        for document in load_documents(source.read(path), path):
            if not isinstance(document.value, dict):
                continue
            for field in REFUSED_FIELDS:
                if field in document.value:
                    raise _at(document, (field,), "V044", f"{field} is not supported")
            for field in PATH_FIELDS:
                for index, entry in enumerate(_list(document.value.get(field))):
                    if not isinstance(entry, str):
                        continue
                    if "\n" in entry:
                        _judge_plugins(load_documents(entry.encode(), path))
                        continue
                    where = (field, index)
                    named = _inside(document, where, field, entry)
                    if named not in paths and named not in folders:
                        raise _at(
                            document,
                            where,
                            "V047",
                            f"{field} names what is not there ({entry})",
                            "Put it into the source, or name its folder in source.include.",
                        )
                    if field in PLUGIN_FIELDS and named in paths:
                        _judge_plugins(load_documents(source.read(named), named))
            _judge_files(document)


def _above(path: str) -> Iterator[str]:
    while path:
        path = posixpath.dirname(path)
        yield path


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else [value] if isinstance(value, str) else ()


def _judge_plugins(documents: Sequence[Document]) -> None:
    for document in documents:
        if isinstance(document.value, dict) and document.value.get("kind") in REFUSED_PLUGINS:
            raise _at(document, ("kind",), "V044", f"{document.value['kind']} is not supported")
        _judge_files(document)


def _judge_files(document: Document) -> None:
    """Every ``path``, ``files``, ``envs``… wherever it stands: the tool would load a URL there as readily as a file."""
    todo: list[tuple[tuple[str | int, ...], Any]] = [((), document.value)]
    while todo:
        where, value = todo.pop()
        inner = value.items() if isinstance(value, dict) else enumerate(_list(value))
        for key, item in inner:
            at = (*where, key)
            if isinstance(item, (dict, list)):
                todo.append((at, item))
            elif isinstance(item, str) and "://" in item and "\n" not in item:
                named = [part for part in at[-2:] if part in FILE_KEYS]
                if named:
                    raise _remote(document, at, str(named[-1]), item)


def _inside(document: Document, where: tuple[str | int, ...], field: str, entry: str) -> str:
    """The entry's path from the root of the tree. What looks like a repository is one to the tool, even beside a folder."""
    if REMOTE.search(entry):
        raise _remote(document, where, field, entry)
    return join(posixpath.dirname(document.file), entry)


def _remote(document: Document, where: tuple[str | int, ...], field: str, entry: str) -> ValidationError:
    return _at(
        document, where, "V045", f"{field} names something remote ({entry})", "Vendor it into the repository."
    )


def _at(
    document: Document, where: tuple[str | int, ...], code: str, what: str, hint: str = ""
) -> ValidationError:
    text = f"{document.file}:{document.line_of(where)}: {what}"
    return ValidationError(code, text, object=document.file, hint=hint)
