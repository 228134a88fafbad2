"""Makes ``schema.json`` from a Kubernetes release's own swagger file.

Owns the reduction of the published schema to what this server needs: field names, scalar types, list and map
semantics, merge keys, required fields. Run by hand when the Kubernetes version is raised
(``python -m muster_lab.kube.schemagen SWAGGER > schema.json``); it is never imported by the server.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from .catalog import BUILTINS

QUANTITY = "io.k8s.apimachinery.pkg.api.resource.Quantity"
INT_OR_STRING = "io.k8s.apimachinery.pkg.util.intstr.IntOrString"
TIMES = ("io.k8s.apimachinery.pkg.apis.meta.v1.Time", "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime")
SCALARS = {"string": "s", "integer": "i", "number": "n", "boolean": "b"}


class Reducer:
    """Walks definitions from the wanted kinds down, once each."""

    def __init__(self, definitions: dict[str, Any]) -> None:
        self.definitions = definitions
        self.types: dict[str, Any] = {}

    def reference(self, name: str) -> Any:
        if name == QUANTITY:
            return "q"
        if name == INT_OR_STRING:
            return "x"
        if name in TIMES:
            return "t"
        definition = self.definitions[name]
        if "properties" not in definition:
            return SCALARS.get(definition.get("type", ""), "o")
        short = name.removeprefix("io.k8s.api.").removeprefix("io.k8s.apimachinery.pkg.apis.")
        if short not in self.types:
            self.types[short] = {}
            self.types[short] = self.struct(definition)
        return "#" + short

    def struct(self, definition: dict[str, Any]) -> dict[str, Any]:
        reduced: dict[str, Any] = {
            "f": {key: self.field(value) for key, value in definition["properties"].items()},
        }
        if definition.get("required"):
            reduced["r"] = definition["required"]
        if definition.get("x-kubernetes-map-type") == "atomic":
            reduced["a"] = True
        return reduced

    def field(self, schema: dict[str, Any]) -> Any:
        if "$ref" in schema:
            reduced = self.reference(schema["$ref"].removeprefix("#/definitions/"))
            if schema.get("x-kubernetes-map-type") == "atomic":
                return ["A", reduced]
            return reduced
        kind = schema.get("type")
        if kind == "array":
            mode = schema.get("x-kubernetes-list-type", "atomic")[0]
            keys = schema.get("x-kubernetes-list-map-keys", [])
            merge = schema.get("x-kubernetes-patch-merge-key", "")
            strategic = "merge" in schema.get("x-kubernetes-patch-strategy", "")
            return ["l", mode, self.field(schema["items"]), keys, merge, strategic]
        if kind == "object":
            if "additionalProperties" not in schema:
                return "o"
            flavour = "M" if schema.get("x-kubernetes-map-type") == "atomic" else "m"
            return [flavour, self.field(schema["additionalProperties"])]
        return SCALARS.get(str(kind), "o")


def main() -> None:
    swagger = json.loads(Path(sys.argv[1]).read_text())
    reducer = Reducer(swagger["definitions"])
    roots: dict[str, str] = {}
    for name, definition in swagger["definitions"].items():
        for gvk in definition.get("x-kubernetes-group-version-kind", []):
            for resource in BUILTINS:
                if (gvk["group"], gvk["version"], gvk["kind"]) == (
                    resource.group,
                    resource.version,
                    resource.kind,
                ):
                    roots[f"{resource.api_version}/{resource.kind}"] = reducer.reference(name)[1:]
    reducer.reference("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta")
    json.dump(
        {"release": swagger["info"]["version"], "kinds": roots, "types": reducer.types},
        sys.stdout,
        separators=(",", ":"),
        sort_keys=True,
    )
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
