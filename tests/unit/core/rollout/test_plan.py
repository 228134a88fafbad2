"""From a plan and a fleet to frozen waves with whole numbers."""

from __future__ import annotations

import msgspec
import pytest
import yaml
from muster_core.errors import RolloutError
from muster_core.kinds.plans import RolloutPlan
from muster_core.rollout.plan import Member, quorum_count, resolve


def plan(**spec: object) -> RolloutPlan:
    return msgspec.convert(
        {
            "apiVersion": "muster.dev/v1alpha1",
            "kind": "RolloutPlan",
            "metadata": {"name": "rings"},
            "spec": spec,
        },
        RolloutPlan,
    )


CANARY = {"name": "canary", "selector": {"matchLabels": {"ring": "canary"}}, "maxInFlight": 1}
FLEET = [
    Member("c1", {"ring": "canary"}, 60.0),
    *(Member(f"s{number:02}", {"ring": "stores"}, 60.0) for number in range(10)),
    Member("e1", {"ring": "edge"}, 600.0),
]


def test_first_wave_that_selects_wins_and_rest_takes_the_others() -> None:
    resolved = resolve(plan(waves=[CANARY, {"name": "rest", "rest": True}]), list(reversed(FLEET)))
    assert [(wave.name, len(wave.members)) for wave in resolved.waves] == [("canary", 1), ("rest", 11)]
    assert list(resolved.waves[1].members) == sorted(resolved.waves[1].members)


def test_limits_become_whole_numbers_that_are_never_more_than_asked() -> None:
    stores = {
        "name": "all",
        "rest": True,
        "maxInFlight": "25%",
        "maxFailed": "20%",
        "quorum": "80%",
        "soak": "10m",
    }
    wave = resolve(plan(waves=[stores]), FLEET).waves[0]
    assert (wave.max_in_flight, wave.max_failed, wave.quorum_percent, wave.soak) == (3, 2, 80, 600.0)
    small = resolve(plan(waves=[stores]), FLEET[:2]).waves[0]
    assert (small.max_in_flight, small.max_failed) == (1, 0)


def test_away_is_the_larger_of_the_deadline_and_three_contact_intervals() -> None:
    wave = resolve(plan(waves=[{"name": "all", "rest": True}], deadline="10m"), FLEET).waves[0]
    assert (wave.offline_after["c1"], wave.offline_after["e1"]) == (600.0, 1800.0)
    asked = {"name": "all", "rest": True, "offline": {"after": "1h"}}
    assert set(resolve(plan(waves=[asked]), FLEET).waves[0].offline_after.values()) == {3600.0}


def test_nobody_and_nowhere_are_refused_by_name() -> None:
    with pytest.raises(RolloutError, match="R001"):
        resolve(plan(waves=[CANARY]), [])
    with pytest.raises(RolloutError, match="R002") as caught:
        resolve(plan(waves=[CANARY]), FLEET)
    assert "11 clusters match no wave of plan rings: e1, s00, s01, s02, s03 …" in str(caught.value)


@pytest.mark.parametrize(
    ("percent", "members", "expected"),
    [(50, 3, 2), (50, 4, 2), (0, 4, 1), (80, 6, 5), (100, 7, 7), (50, 0, 0)],
)
def test_quorum_is_never_less_than_its_share_and_never_nobody(
    percent: int, members: int, expected: int
) -> None:
    assert quorum_count(percent, members) == expected


def of(waves: str, **spec: object) -> RolloutPlan:
    return plan(waves=yaml.safe_load(waves), **spec)


def named(name: str, **labels: str) -> Member:
    return Member(name, labels, 60.0)


def test_a_share_of_all_members_goes_first_and_never_nobody() -> None:
    members = [named(f"c{number:02}") for number in range(20)]
    waves = "[{name: tenth, percent: 10%}, {name: more, percent: 50%}, {name: rest, rest: true}]"
    assert [len(w.members) for w in resolve(of(waves), members).waves] == [2, 10, 8]
    one = of("[{name: one, percent: 1%}, {name: rest, rest: true}]")
    assert [len(w.members) for w in resolve(one, members[:3]).waves] == [1, 2]


def test_the_order_is_that_of_the_label_and_then_of_names() -> None:
    members = [named("a"), named("b", **{"muster.dev/order": "2"}), named("c", **{"muster.dev/order": "10"})]
    members.append(named("d", **{"muster.dev/order": "first"}))
    (wave,) = resolve(of("[{name: all, rest: true}]"), members).waves
    assert wave.members == ("b", "c", "a", "d")


def test_a_wave_of_names_takes_exactly_them() -> None:
    members = [named("a"), named("b"), named("c")]
    first, rest = resolve(of("[{name: two, names: [c, a]}, {name: rest, rest: true}]"), members).waves
    assert (first.members, rest.members) == (("a", "c"), ("b",))
    with pytest.raises(RolloutError, match=r"R030.*zurich"):
        resolve(of("[{name: two, names: [zurich]}, {name: rest, rest: true}]"), members)


def test_who_is_in_no_wave_is_refused_or_goes_last_or_is_left_out() -> None:
    members, waves = (
        [named("a", ring="canary"), named("b")],
        "[{name: c, selector: {matchLabels: {ring: canary}}}]",
    )
    with pytest.raises(RolloutError, match="R002"):
        resolve(of(waves), members)
    assert resolve(of(waves, unmatched="last"), members).waves[0].members == ("a", "b")
    excluded = resolve(of(waves, unmatched="exclude"), members)
    assert (excluded.waves[0].members, excluded.excluded) == (("a",), ("b",))
    with pytest.raises(RolloutError, match="R031"):
        resolve(of(waves, unmatched="exclude"), members[1:])
