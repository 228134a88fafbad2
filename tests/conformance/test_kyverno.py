"""Kyverno's own tests, for the part of the format that is built; the rest is counted by the feature it needs."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from muster_core.manifest.load import Limits, load_documents
from muster_core.policy import PolicyError, compile_policies

WHERE = os.environ.get("MUSTER_CONFORMANCE_DIR")
FOLDER = Path(WHERE or "") / "kyverno"
pytestmark = pytest.mark.skipif(
    WHERE is None or not FOLDER.is_dir(),
    reason="set MUSTER_CONFORMANCE_DIR to the folder that holds kyverno/",
)
LIMITS = Limits(bytes=16 << 20)


def documents(path: Path) -> list[dict[str, Any]]:
    return [
        d.value for d in load_documents(path.read_bytes(), path.name, LIMITS) if isinstance(d.value, dict)
    ]


def name_of(obj: dict[str, Any]) -> str:
    return str((obj.get("metadata") or {}).get("name"))


def test_rows_of_pattern_policies_get_their_result() -> None:
    unbuilt: Counter[str] = Counter()
    wrong: list[str] = []
    right = 0
    for file in sorted(FOLDER.rglob("kyverno-test.yaml")):
        test = documents(file)[0]
        if test.get("variables") or test.get("exceptions"):
            unbuilt["mocked variables or exceptions"] += 1
            continue
        policies = [d for p in test.get("policies") or [] for d in documents(file.parent / p)]
        resources = [d for r in test.get("resources") or [] for d in documents(file.parent / r)]
        try:
            compiled = compile_policies([(file.parent.name, i, p) for i, p in enumerate(policies)], None)
        except PolicyError as error:
            unbuilt[re.sub(r"^.*?: |\[\d+\]|:\d+", "", error.message)[:80]] += 1
            continue
        for row in test.get("results") or []:
            for wanted in row.get("resources") or [row.get("resource")]:
                name = str(wanted).rpartition("/")[2]
                candidates = [
                    r for r in resources if name_of(r) == name and row.get("kind") in (None, r.get("kind"))
                ]
                verdicts = [
                    v
                    for v in compiled.evaluate(candidates[:1])
                    if v.policy == str(row["policy"]).rpartition("/")[2]
                    and re.sub("^autogen-(cronjob-)?", "", v.rule)
                    == re.sub("^autogen-(cronjob-)?", "", str(row["rule"]))
                ]
                got = verdicts[0].status if verdicts else "skip"
                if got == row["result"]:
                    right += 1
                else:
                    wrong.append(
                        f"{file.parent.name}: {row['policy']}/{row['rule']} {name}: {got}, wanted {row['result']}"
                    )
    print(f"kyverno: {right} checks right, {len(wrong)} wrong; not built: {dict(unbuilt.most_common(12))}")
    assert right > 0
    assert wrong == []
