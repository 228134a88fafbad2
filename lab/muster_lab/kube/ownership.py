"""Who owns which field: ``managedFields`` for applies and for everything else.

Owns the rules of server-side apply: conflicts, forcing, giving up fields, pruning what nobody holds any
more. It never stores and never validates.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

from .errors import apply_conflict
from .fieldsets import (
    EMPTY,
    Path,
    Paths,
    compare,
    display,
    fields_of,
    from_fields_v1,
    merge,
    remove,
    to_fields_v1,
    with_parents,
)
from .schemas import Struct

_META = (
    "name",
    "namespace",
    "creationTimestamp",
    "selfLink",
    "uid",
    "generation",
    "managedFields",
    "resourceVersion",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
)
STRIPPED: frozenset[Path] = frozenset(
    [("f:apiVersion",), ("f:kind",), ("f:metadata",), *(("f:metadata", "f:" + name) for name in _META)]
)


@dataclass(frozen=True, slots=True)
class Holder:
    """One entry of ``managedFields``."""

    manager: str
    operation: str
    api_version: str
    subresource: str
    time: str
    paths: Paths

    @property
    def identity(self) -> tuple[str, str, str, str]:
        version = "" if self.operation == "Apply" else self.api_version
        return (self.manager, self.operation, version, self.subresource)

    def named(self) -> str:
        text = f'"{self.manager}"'
        if self.subresource:
            text += f' with subresource "{self.subresource}"'
        if self.operation == "Update":
            text += f" using {self.api_version}"
        return text

    def entry(self) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "manager": self.manager,
            "operation": self.operation,
            "apiVersion": self.api_version,
            "time": self.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": to_fields_v1(self.paths),
        }
        if self.subresource:
            entry["subresource"] = self.subresource
        return entry


def holders(obj: dict[str, Any]) -> list[Holder]:
    return [
        Holder(
            entry.get("manager", ""),
            entry.get("operation", ""),
            entry.get("apiVersion", ""),
            entry.get("subresource", ""),
            entry.get("time", ""),
            from_fields_v1(entry.get("fieldsV1") or {}),
        )
        for entry in obj["metadata"].get("managedFields", ())
    ]


def write(obj: dict[str, Any], entries: list[Holder]) -> None:
    kept = [entry for entry in entries if entry.paths]
    kept.sort(key=lambda h: (h.operation, h.subresource != "", h.time, h.manager))
    if kept:
        obj["metadata"]["managedFields"] = [entry.entry() for entry in kept]
    else:
        obj["metadata"].pop("managedFields", None)


def bare(obj: dict[str, Any] | None) -> dict[str, Any]:
    """The part of an object that fields are owned in."""
    if not obj:
        return {}
    kept = {key: value for key, value in obj.items() if key not in ("apiVersion", "kind")}
    metadata = {key: value for key, value in obj.get("metadata", {}).items() if key not in _META}
    if metadata:
        kept["metadata"] = metadata
    else:
        kept.pop("metadata", None)
    return kept


def _counts(path: Path, subresource: str, status: bool) -> bool:
    """The status is owned through its subresource only, and nothing else is."""
    if not status or not path:
        return path not in STRIPPED
    in_status = path[0] == "f:status"
    if subresource == "status":
        return in_status or (path[0] == "f:metadata" and path not in STRIPPED)
    return not in_status and path not in STRIPPED


def track_update(
    old: dict[str, Any] | None,
    new: dict[str, Any],
    shape: Struct,
    *,
    manager: str,
    now: str,
    subresource: str = "",
    status: bool = False,
) -> None:
    """Rewrites ``managedFields`` of ``new`` after any write that is not an apply."""
    current = holders(old) if old else []
    if new["metadata"].get("managedFields") == [] or (
        new["metadata"].get("managedFields") is not None and not new["metadata"]["managedFields"]
    ):
        current = []
    difference = compare(bare(old), bare(new), shape)
    mine = Holder(manager, "Update", new["apiVersion"], subresource, now, EMPTY)
    changed = {p for p in difference.added | difference.modified if _counts(p, subresource, status)}
    entries: list[Holder] = []
    found = False
    for entry in current:
        paths = entry.paths - difference.removed
        if entry.identity == mine.identity:
            found = True
            gained = frozenset(paths | changed)
            entries.append(replace(entry, paths=gained, time=now if gained != entry.paths else entry.time))
        else:
            lost = paths - difference.modified
            entries.append(entry if lost == entry.paths else replace(entry, paths=frozenset(lost)))
    if not found and changed:
        entries.append(replace(mine, paths=frozenset(changed)))
    write(new, entries)


def apply(
    live: dict[str, Any] | None,
    config: dict[str, Any],
    shape: Struct,
    *,
    manager: str,
    now: str,
    force: bool,
    subresource: str = "",
    status: bool = False,
) -> dict[str, Any]:
    """The object that results from applying ``config``; raises a 409 that names every conflicting holder."""
    current = holders(live) if live else []
    claimed = frozenset(p for p in fields_of(bare(config), shape) if _counts(p, subresource, status))
    mine = Holder(manager, "Apply", config["apiVersion"], subresource, now, claimed)
    previous = next((entry for entry in current if entry.identity == mine.identity), None)
    others = [entry for entry in current if entry is not previous]

    before = bare(live)
    overlay = bare(config)
    if status and subresource != "status":
        overlay.pop("status", None)
    elif subresource == "status":
        overlay = {key: value for key, value in overlay.items() if key in ("status", "metadata")}
    merged = merge(before, copy.deepcopy(overlay), shape)
    if previous is not None:
        held = with_parents(claimed)
        for entry in others:
            held |= with_parents(entry.paths)
        given_up = with_parents(previous.paths) - held
        if given_up:
            merged = remove(merged, given_up, shape)

    difference = compare(before, merged, shape)
    touched = difference.added | difference.modified
    if live is not None and not force:
        _raise_conflicts([(entry, sorted(entry.paths & touched)) for entry in others])
    entries = []
    for entry in others:
        paths = frozenset(entry.paths - touched - difference.removed) if live is not None else entry.paths
        entries.append(entry if paths == entry.paths else replace(entry, paths=paths))
    if previous is not None and previous.paths == claimed and previous.api_version == mine.api_version:
        mine = replace(mine, time=previous.time)
    entries.append(mine)

    result = copy.deepcopy(live) if live is not None else {"metadata": {}}
    for key in [key for key in result if key not in ("apiVersion", "kind", "metadata")]:
        del result[key]
    metadata = {key: value for key, value in result["metadata"].items() if key in _META}
    metadata.update(merged.pop("metadata", {}))
    result.update(merged)
    result["metadata"] = metadata
    result["apiVersion"], result["kind"] = config["apiVersion"], config["kind"]
    for key in ("name", "namespace"):
        if key in config["metadata"]:
            metadata.setdefault(key, config["metadata"][key])
    write(result, entries)
    return result


def _raise_conflicts(found: list[tuple[Holder, list[Path]]]) -> None:
    found = [(entry, paths) for entry, paths in found if paths]
    total = sum(len(paths) for _, paths in found)
    if not total:
        return
    causes = [
        {
            "reason": "FieldManagerConflict",
            "message": f"conflict with {entry.named()}",
            "field": display(path),
        }
        for entry, paths in found
        for path in paths
    ]
    if total == 1:
        entry, paths = found[0]
        text = f"conflict with {entry.named()}: {display(paths[0])}"
        raise apply_conflict(f"Apply failed with 1 conflict: {text}", causes)
    lines = []
    for entry, paths in sorted(found, key=lambda pair: pair[0].named()):
        lines.append(f"conflicts with {entry.named()}:")
        lines += [f"- {display(path)}" for path in paths]
    raise apply_conflict(f"Apply failed with {total} conflicts: " + "\n".join(lines), causes)
