"""A coordinator in the attacker's hands: what it says, and what it does not get."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from attack.stage import Captured, captured
from e2e.programs import shop


@pytest.fixture
def attack(tmp_path: Path) -> Iterator[Captured]:
    with captured(tmp_path) as found:
        found.takes(found.fleet.offer(found.fleet.anchor, "shop-0001"))
        yield found


def test_swapping_the_commit_for_a_draft_gains_nothing(attack: Captured) -> None:
    fleet = attack.fleet
    draft = fleet.commit(shop("draft"), by="")
    fleet.commit(shop("final"))
    assert attack.refused(fleet.offer(draft, "shop-0002")) == "T040"
    attack.site.heals("one")
