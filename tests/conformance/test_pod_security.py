"""Pod Security fixtures of the Kubernetes project: every one must get the verdict that its folder says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from muster_core.manifest.load import load_documents
from muster_core.policy import PodSecuritySettings, blocked, compile_policies

WHERE = os.environ.get("MUSTER_CONFORMANCE_DIR")
FOLDER = Path(WHERE or "") / "pod-security"
pytestmark = pytest.mark.skipif(
    WHERE is None or not FOLDER.is_dir(),
    reason="set MUSTER_CONFORMANCE_DIR to the folder that holds pod-security/",
)


@pytest.mark.parametrize("level", ["baseline", "restricted"])
def test_every_fixture_gets_its_verdict(level: str) -> None:
    wrong, count = [], 0
    for file in sorted((FOLDER / level).rglob("*.yaml")):
        version, expected = file.parts[-3], file.parts[-2]
        policies = compile_policies([], PodSecuritySettings(level, None, version))
        pod = load_documents(file.read_bytes(), file.name)[0].value
        denied = bool(blocked(policies.evaluate([pod])))
        count += 1
        if denied != (expected == "fail"):
            wrong.append(f"{version}/{expected}/{file.name}")
    assert count > 0
    assert wrong == []
    print(f"pod security {level}: {count} fixtures")
