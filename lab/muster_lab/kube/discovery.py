"""What the server says it serves: /api, /apis, /version and the aggregated form.

Owns the discovery documents, built from the live catalog. It never serves OpenAPI, which answers 404.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from .catalog import VERBS, Catalog, Resource

GIT_VERSION = "v1.35.4"
AGGREGATED = "APIGroupDiscoveryList"


def version() -> dict[str, Any]:
    major, minor, _ = GIT_VERSION.removeprefix("v").split(".")
    return {
        "major": major,
        "minor": minor,
        "gitVersion": GIT_VERSION + "+muster-lab",
        "gitCommit": "in-memory lab server: no RBAC",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none",
        "compiler": "none",
        "platform": "lab/memory",
    }


def core_versions() -> dict[str, Any]:
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}


def groups(catalog: Catalog) -> dict[str, Any]:
    listed = []
    for name, versions in catalog.versions().items():
        if not name:
            continue
        known = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
        listed.append({"name": name, "versions": known, "preferredVersion": known[0]})
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}


def group(catalog: Catalog, name: str) -> dict[str, Any] | None:
    for item in groups(catalog)["groups"]:
        if item["name"] == name:
            return {"kind": "APIGroup", "apiVersion": "v1", **item}
    return None


def resources(catalog: Catalog, group_name: str, version_name: str) -> dict[str, Any] | None:
    found = catalog.versions().get(group_name, {}).get(version_name)
    if not found:
        return None
    listed = []
    for resource in found:
        entry: dict[str, Any] = {
            "name": resource.plural,
            "singularName": resource.singular,
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": list(VERBS),
            "storageVersionHash": hashlib.sha256(resource.qualified.encode()).hexdigest()[:12],
        }
        if resource.short:
            entry["shortNames"] = list(resource.short)
        if resource.categories:
            entry["categories"] = list(resource.categories)
        listed.append(entry)
        for sub, kind in _subresources(resource):
            listed.append(
                {
                    "name": f"{resource.plural}/{sub}",
                    "singularName": "",
                    "namespaced": resource.namespaced,
                    "kind": kind,
                    "verbs": ["create"] if sub == "binding" else ["get", "patch", "update"],
                }
            )
    group_version = f"{group_name}/{version_name}" if group_name else version_name
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": listed}


def _subresources(resource: Resource) -> list[tuple[str, str]]:
    found = []
    if resource.status:
        found.append(("status", resource.kind))
    if resource.scale:
        found.append(("scale", "Scale"))
    if resource.kind == "Pod" and resource.builtin:
        found.append(("binding", "Binding"))
    return found


def aggregated(catalog: Catalog, *, core: bool) -> dict[str, Any]:
    items = []
    for name, versions in catalog.versions().items():
        if (not name) != core:
            continue
        items.append(
            {
                "metadata": {"name": name, "creationTimestamp": None}
                if name
                else {"creationTimestamp": None},
                "versions": [
                    {"version": version, "freshness": "Current", "resources": [_entry(r) for r in listed]}
                    for version, listed in versions.items()
                ],
            }
        )
    return {"kind": AGGREGATED, "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items}


def _entry(resource: Resource) -> dict[str, Any]:
    kind = {"group": resource.group, "version": resource.version, "kind": resource.kind}
    entry: dict[str, Any] = {
        "resource": resource.plural,
        "responseKind": kind,
        "scope": "Namespaced" if resource.namespaced else "Cluster",
        "singularResource": resource.singular,
        "verbs": list(VERBS),
    }
    if resource.short:
        entry["shortNames"] = list(resource.short)
    if resource.categories:
        entry["categories"] = list(resource.categories)
    subs = [
        {"subresource": sub, "responseKind": {**kind, "kind": of}, "verbs": ["get", "patch", "update"]}
        for sub, of in _subresources(resource)
    ]
    if subs:
        entry["subresources"] = subs
    return entry


def aggregate_asked(accept: str) -> bool:
    return AGGREGATED in accept and "v=v2" in accept


def digest(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest().upper()
