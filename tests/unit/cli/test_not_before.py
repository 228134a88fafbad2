"""``rollout start --not-before``: what is asked for, what is signed, and what is refused before it is."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from muster_cli.trust.directing import DAY, Ground, Terms, direct, members, release_at
from muster_cli.trust.signing import SigningKey, public_key
from muster_core.errors import RolloutError
from muster_core.fleet import read_fleet
from muster_core.tree import MemoryTree
from muster_core.trust.directive import decode
from muster_proto.v1 import operator_pb2 as op
from unit.cli.stage import Hub, Muster
from unit.coordinator.test_engine import BUNDLE, FLEET, OBJECT, PLAN, cluster
from unit.core.trust.keys import Person

NOW = 1_800_000_000.0


def test_a_time_or_a_duration_goes_with_the_request(muster: Muster, hub: Hub) -> None:
    hub.rollouts = [op.RolloutView(name="shop-0001", not_before_unix=1_798_869_600)]
    before = time.time()
    for text, least, most in (
        ("2027-01-02T06:00:00Z", 1_798_869_600, 1_798_869_600),
        ("8h", before + 8 * 3600, time.time() + 8 * 3600 + 60),
    ):
        answer = muster("rollout", "start", "shop", "--not-before", text)
        assert answer.code == 0, answer.err
        request = next(r for r in reversed(hub.requests) if isinstance(r, op.StartRolloutRequest))
        assert least <= request.not_before_unix <= most
    assert "2027-01-02T06:00:00Z" in muster("describe", "rollout", "shop-0001").out


def test_a_text_that_is_neither_is_no_time(muster: Muster, hub: Hub) -> None:
    answer = muster("rollout", "start", "shop", "--not-before", "soon")
    assert answer.code == 2
    assert "Write 2027-01-02T06:00:00Z or 8h" in answer.err
    assert not [r for r in hub.requests if isinstance(r, op.StartRolloutRequest)]


@pytest.mark.parametrize(
    ("after", "expire", "refused"),
    [
        (3_600, "", False),
        (7 * DAY, "", True),
        (0, "", True),
        (3_600, "expire: 2h", False),
        (7_200, "expire: 2h", True),
    ],
)
def test_the_directive_names_the_time_unless_nothing_could_be_applied_then(
    tmp_path: Path, after: int, expire: str, refused: bool
) -> None:
    person, file = Person("operator"), tmp_path / "key"
    file.write_bytes(person.pem)
    file.chmod(0o600)
    file.with_suffix(".pub").write_text(person.public + "\n")
    plan = PLAN.replace("  deadline: 2m\n", f"  deadline: 2m\n  {expire}\n")
    files = {
        "fleet.yaml": FLEET,
        "plans/all.yaml": plan,
        "bundles/shop/bundle.yaml": BUNDLE % "shop",
        "bundles/shop/manifests/web.yaml": OBJECT % 1,
    }
    contents = read_fleet(MemoryTree({path: text.encode() for path, text in files.items()}))
    ground = Ground("c" * 40, contents, {"berlin": cluster("berlin")}, "r" * 40)

    def signed(not_before: int) -> int:
        made = direct(
            ground,
            release_at(ground, "shop"),
            list(members(ground, "shop").values()),
            Terms(not_before=not_before),
            plan="all",
            place=(0, ""),
            key=SigningKey(file, public_key(file)),
            now=NOW,
        )
        return decode(made.statement).not_before

    assert signed(0) == 0
    if refused:
        with pytest.raises(RolloutError, match="R053"):
            signed(int(NOW) + after)
    else:
        assert signed(int(NOW) + after) == int(NOW) + after
