"""A site whose line cuts every connection off after two seconds: it takes part in rollouts all the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.programs import FLEET, Stage, shop, stage, until
from unit.agent.lines import cutting_line

CLASSES = "mode: open, siteClasses: {connected: {contactInterval: 2s}}"


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Stage]:
    with stage(tmp_path) as found:
        yield found


def test_a_release_goes_out_and_is_reported_healthy_by_round_trips_alone(fleet: Stage) -> None:
    fleet.commit({"fleet.yaml": FLEET.replace("mode: open", CLASSES)})
    with cutting_line(fleet.link) as line:
        straight, fleet.link = fleet.link, line.address
        kube, agent = fleet.joined("berlin-04", "--ready-delay", "8")
        fleet.link = straight

        def by_trips() -> bool:
            return "no stream stands on this line" in agent.log.read_text()

        until(by_trips, 40, why=fleet.logs)
        assert line.cut >= 3
        opened = line.opened
        commit = fleet.commit(shop("1"))
        view = until(
            lambda: (found := fleet.rollout("shop-0001")) and found.state == "Succeeded" and found,
            40,
            why=fleet.logs,
        )
        assert [(target.cluster, target.state) for target in view.targets] == [("berlin-04", "done")]
        (told,) = (bundle for bundle in fleet.cluster("berlin-04").bundles if bundle.bundle == "shop")
        assert (told.release.commit, told.phase) == (commit, "Ready")
        assert fleet.cluster("berlin-04").state == "Online"
        assert kube.version() == "1"
        # An offer that stands is told in each answer and is answered once: no trip sets off the next.
        assert line.opened - opened < 16
        told_events = [json.loads(row) for row in agent.log.read_text().splitlines() if row.startswith("{")]
        assert sum("no stream stands" in str(event.get("event")) for event in told_events) == 1
