"""Kyverno's own tests, for the part of the format that is built; the rest is counted by the feature it needs.

A policy is compiled alone, so that one that is not built hides no other. A resource that is not found counts as wrong.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from muster_core.manifest.load import Limits, load_documents
from muster_core.policy import PolicyError, PolicySet, compile_policies

WHERE = os.environ.get("MUSTER_CONFORMANCE_DIR")
FOLDER = Path(WHERE or "") / "kyverno"
pytestmark = pytest.mark.skipif(
    WHERE is None or not FOLDER.is_dir(),
    reason="set MUSTER_CONFORMANCE_DIR to the folder that holds kyverno/",
)
LIMITS = Limits(bytes=16 << 20)
AUTOGEN = re.compile("^autogen-(cronjob-)?")
LISTS = {"List", "PodList", "DeploymentList", "ServiceList"}


def documents(path: Path) -> list[dict[str, Any]]:
    found = [
        d.value for d in load_documents(path.read_bytes(), path.name, LIMITS) if isinstance(d.value, dict)
    ]
    return [item for d in found for item in (d["items"] if d.get("kind") in LISTS else [d])]


def named(obj: dict[str, Any], wanted: str, kind: str | None) -> bool:
    """Rows name ``name``, ``namespace/name`` or ``version/kind/namespace/name``."""
    metadata = obj.get("metadata") or {}
    *_, namespace, name = ["", *wanted.split("/")]
    return (
        metadata.get("name") == name
        and kind in (None, obj.get("kind"))
        and (namespace in ("", "*") or metadata.get("namespace", "default") == namespace)
    )


class Run:
    def __init__(self) -> None:
        self.right, self.rows, self.wrong = 0, 0, list[str]()
        self.unbuilt: Counter[str] = Counter()
        self.policies: set[str] = set()

    def compiled(self, file: Path, test: dict[str, Any]) -> dict[str, PolicySet | str]:
        """Policies by name, or the reason for which one is refused."""
        sets: dict[str, PolicySet | str] = {}
        for path in test.get("policies") or []:
            for document in documents(file.parent / path):
                name = str((document.get("metadata") or {}).get("name"))
                try:
                    sets[name] = compile_policies([(path, 1, document)], None)
                except PolicyError as error:
                    sets[name] = re.sub(r"^.*?:\d+: |\[\d+\]", "", error.message)[:80]
        return sets

    def file(self, file: Path) -> None:
        test = documents(file)[0]
        sets = self.compiled(file, test)
        resources = [d for r in test.get("resources") or [] for d in documents(file.parent / r)]
        values = documents(file.parent / test["variables"])[0] if test.get("variables") else {}
        values = values.get("spec", values)
        labels = {n["name"]: n["labels"] for n in values.get("namespaceSelector") or []}
        for row in test.get("results") or []:
            policy = str(row["policy"]).rpartition("/")[2]
            compiled = sets.get(policy, "no such policy in the file")
            if test.get("exceptions"):
                compiled = "exceptions"
            if isinstance(compiled, str):
                self.unbuilt[compiled] += 1
                continue
            self.rows += 1
            self.policies.add(f"{file.parent}/{policy}")
            for wanted in row.get("resources") or [row.get("resource")]:
                self.check(f"{file.parent.name}: {policy}", compiled, row, str(wanted), resources, labels)

    def check(
        self,
        where: str,
        policies: PolicySet,
        row: dict[str, Any],
        wanted: str,
        resources: list[Any],
        labels: Any,
    ) -> None:
        found = [obj for obj in resources if named(obj, wanted, row.get("kind"))]
        got = "no such resource"
        if found:
            rule = AUTOGEN.sub("", str(row["rule"]))
            verdicts = [
                v
                for v in policies.evaluate(found[:1], namespace_labels=labels)
                if AUTOGEN.sub("", v.rule) == rule
            ]
            got = verdicts[0].status if verdicts else "skip"
        if got == row.get("result", row.get("status")):
            self.right += 1
        else:
            self.wrong.append(f"{where}/{row['rule']} {wanted}: {got}, wanted {row.get('result')}")


def test_rows_of_pattern_policies_get_their_result() -> None:
    run = Run()
    for file in sorted(FOLDER.rglob("kyverno-test.yaml")):
        run.file(file)
    print(
        f"kyverno: {len(run.policies)} policies, {run.rows} rows; {run.right} checks right, {len(run.wrong)} wrong; "
        f"rows not built, {run.unbuilt.total()}: {dict(run.unbuilt.most_common())}"
    )
    assert run.right > 0
    assert run.wrong == []
