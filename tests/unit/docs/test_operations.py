"""The page that somebody reads at night names every metric that there is, and no other; and codes that messages have."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from muster_agent.obs.metrics import Metrics as AgentMetrics
from muster_coordinator.obs.metrics import Metrics as CoordinatorMetrics
from muster_coordinator.rollout.fleetstate import FleetState
from muster_core.codes import CODES
from prometheus_client import CollectorRegistry
from unit.docs.commands import ROOT, documents


def names(registry: CollectorRegistry) -> set[str]:
    return {
        family.name + ("_total" if family.type == "counter" else "")
        for family in registry.collect()
        if family.name.startswith("muster_")
    }


def test_every_metric_is_in_the_table_for_who_is_paged() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    shown = set(re.findall(r"`(muster_[a-z_]+)(?:\{[a-z,]+\})?`", text))
    coordinator = CoordinatorMetrics(FleetState(), lambda: 0, time.time)
    assert shown == names(coordinator.registry) | names(AgentMetrics().registry)


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_document_names_codes_that_there_are(path: Path) -> None:
    assert set(re.findall(r"MUSTER-([A-Z]\d{3})", path.read_text())) <= set(CODES)
