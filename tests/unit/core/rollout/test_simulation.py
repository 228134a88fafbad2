"""The machine on virtual time: each world ends as worlds of that kind must, and the same seed ends the same."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from muster_core.errors import ValidationError
from muster_core.kinds.base import API_VERSION, Metadata, Selector
from muster_core.kinds.plans import RolloutPlan, RolloutPlanSpec, Wave
from muster_core.rollout import events as ev
from muster_core.rollout.forecast import Shares, forecast
from muster_core.rollout.membership import limited, made_up, scaled, turns
from muster_core.rollout.plan import Member, ResolvedGate, ResolvedPlan, ResolvedWave, ResolvedWindow, resolve
from muster_core.rollout.simulation import Likely, Run, World, parse_likely, simulate
from muster_core.windows import Window
from unit.core.rollout.scenario import Story, wave


def names(count: int, prefix: str = "c") -> list[str]:
    return [f"{prefix}{number:04}" for number in range(count)]


def plan(*waves: ResolvedWave, action: str = "pause") -> ResolvedPlan:
    return ResolvedPlan(name="rings", waves=waves, deadline=600.0, action=action, catch_up_in_flight="10%")


def one(of: ResolvedPlan, **world: Any) -> Run:
    (run,) = simulate(of, World(**world), 1, seed=7)
    return run


def test_a_good_release_takes_as_long_as_arithmetic_says() -> None:
    """Two rounds of two clusters with soak, then one round of three without: 2 × (60 + 30) + 60."""
    of = plan(wave("canary", "a", "b", "c", "d", flying=2, soak=30), wave("rest", "e", "f", "g", flying=3))
    run = one(of, apply_time=Likely(60.0, 60.0))
    assert (run.state, run.seconds, run.done, run.harmed) == ("Succeeded", 240.0, 7, 0)
    assert [(found.opened, found.passed) for found in run.waves] == [(0.0, 180.0), (180.0, 240.0)]


def test_a_release_that_is_bad_everywhere_stops_at_the_first_wave_within_its_limits() -> None:
    of = plan(wave("canary", *names(20), flying=4, failed=2), wave("rest", *names(500, "r"), flying=100))
    run = one(of, bad_release=1.0)
    assert run.state == "Paused"
    assert 3 <= run.harmed <= 2 + 4
    assert run.waves[1].opened is None
    assert run.seconds == 300.0, "until the plan paused it, which is the first verdict beyond the budget"


def test_a_release_that_cuts_clusters_off_stops_at_the_first_wave_too() -> None:
    of = plan(wave("canary", *names(20), flying=4), wave("rest", *names(500, "r"), flying=100))
    run = one(of, bad_release=1.0, bad_shows="silent", apply_time=Likely(60.0, 60.0))
    assert (run.state, run.harmed, run.waves[1].opened) == ("Paused", 4, None)
    assert run.seconds == 600.0, "silence is seen at the deadline, not before"


@pytest.mark.parametrize(("action", "state"), [("abort", "Failed"), ("rollback", "RolledBack")])
def test_what_a_spent_budget_does_is_the_plans(action: str, state: str) -> None:
    assert one(plan(wave("all", *names(10), flying=5), action=action), bad_release=1.0).state == state


def test_those_that_are_away_are_owed_and_the_rollout_goes_on() -> None:
    run = one(plan(wave("all", "a", "b", "c", "d", flying=2)), away=frozenset({"b"}))
    assert (run.state, run.done, run.owed) == ("Succeeded", 3, 1)
    assert run.seconds == 900.0, "the offer to b stood that long"


def test_those_that_return_in_time_are_done() -> None:
    back_before = one(
        plan(wave("all", "a", "b", flying=1)), away=frozenset({"b"}), return_after=Likely(100.0, 100.0)
    )
    assert (back_before.state, back_before.done, back_before.owed) == ("Succeeded", 2, 0)
    owed_first = one(
        plan(wave("all", "a", "b", "c", "d", flying=4, soak=2_000)), away=frozenset({"b"}),
        return_after=Likely(1_000.0, 1_000.0),
    )  # fmt: skip
    assert (owed_first.state, owed_first.done, owed_first.owed) == ("Succeeded", 4, 0)
    assert owed_first.seconds == 1_000.0 + 60.0 + 2_000.0


def test_a_wave_below_quorum_stays_held() -> None:
    run = one(plan(wave("all", "a", "b", "c", "d", flying=4, quorum=80)), away=frozenset({"a", "b"}))
    assert run.state == "Held"
    assert "2 of 4 done" in run.why
    returned = one(
        plan(wave("all", "a", "b", "c", "d", flying=4, quorum=80)), away=frozenset({"a", "b"}),
        return_after=Likely(86_400.0, 86_400.0),
    )  # fmt: skip
    assert (returned.state, returned.done) == ("Succeeded", 4)


def test_the_same_seed_is_the_same_run_and_another_is_another() -> None:
    of = plan(wave("all", *names(200), flying=20, failed=50))
    world = World(
        apply_time=Likely(60.0, 300.0),
        failure_rate=0.05,
        offline_rate=0.1,
        return_after=Likely(600.0, 6_000.0),
    )
    assert list(simulate(of, world, 3, seed=1)) == list(simulate(of, world, 3, seed=1))
    assert list(simulate(of, world, 3, seed=1)) != list(simulate(of, world, 3, seed=2))


def test_luck_is_the_clusters_own_whatever_the_plan() -> None:
    """Two plans over one fleet meet the same failures, so that they can be compared."""
    world = World(failure_rate=0.1)
    narrow = plan(wave("all", *names(300), flying=10, failed=300))
    wide = plan(
        wave("a", *names(300)[150:], flying=90, failed=300),
        wave("b", *names(300)[:150], flying=90, failed=300),
    )
    for one_way, other_way in zip(simulate(narrow, world, 5, 3), simulate(wide, world, 5, 3), strict=True):
        assert one_way.harmed == other_way.harmed > 0


def test_no_run_harms_more_than_the_limits_allow() -> None:
    of = plan(wave("a", *names(40), flying=5, failed=3), wave("b", *names(100, "b"), flying=20, failed=5))
    world = World(apply_time=Likely(60.0, 900.0), failure_rate=0.02, bad_release=0.2, offline_rate=0.1)
    runs = list(simulate(of, world, 60, seed=11))
    found = forecast(of, runs, 11)
    assert [each.at_most for each in found.waves] == [8, 25]
    assert all(each.harmed.most <= each.at_most for each in found.waves)
    assert found.harmed.most == max(run.harmed for run in runs) > 3
    assert sum(found.outcomes.values()) == 60


def test_people_come_when_they_come_and_without_them_the_wave_is_held() -> None:
    gate = ResolvedGate(kind="approval", count=2)
    of = plan(wave("a", "a", "b", flying=2, gates_after=(gate,)), wave("b", "c"))
    run = one(of, approval_after=Likely(3_600.0, 3_600.0))
    assert (run.state, run.seconds) == ("Succeeded", 60.0 + 3_600.0 + 60.0)
    nobody = one(of)
    assert (nobody.state, nobody.done, nobody.seconds) == ("Held", 2, 60.0)
    assert "approval by 2" in nobody.why


def test_measured_gates_take_their_looks_in_a_row() -> None:
    gate = ResolvedGate(kind="http", url="https://check.example.com", consecutive=3, interval=30.0)
    run = one(plan(wave("a", "a", gates_before=(gate,))))
    assert (run.state, run.seconds) == ("Succeeded", 2 * 30.0 + 60.0)


def test_windows_of_waves_and_of_sites_are_waited_for() -> None:
    """01:00 UTC is an hour after the start; the site's own opens at 03:00."""
    window = ResolvedWindow("0 1 * * *", 3_600.0, "UTC")
    by_wave = one(plan(wave("a", "a", window=window)))
    assert (by_wave.state, by_wave.seconds) == ("Succeeded", 3_600.0 + 60.0)
    site = Window("0 3 * * *", 3_600.0, "UTC")
    by_site = one(plan(wave("a", "a", "b", flying=2)), sites={"b": site})
    assert (by_site.state, by_site.done, by_site.seconds) == ("Succeeded", 2, 3 * 3_600.0 + 60.0)
    later = one(plan(wave("a", "a", window=window)), starts_at=3_600.0 + 600.0)
    assert later.seconds == 60.0, "it is open when it starts"


def test_a_veto_is_a_failure_that_nothing_was_applied_by() -> None:
    run = one(plan(wave("a", "a", "b", flying=2, failed=1)), vetoes=frozenset({"a"}))
    assert (run.state, run.done, run.harmed, run.seconds) == ("Succeeded", 1, 1, 60.0)


def test_healthy_ones_are_counted_where_the_wave_is_taken_back() -> None:
    of = msgspec.structs.replace(
        plan(wave("a", *names(40), flying=4, failed=2), action="rollback"), scope="wave"
    )
    runs = list(simulate(of, World(bad_release=0.3), 20, seed=3))
    assert {run.state for run in runs} == {"RolledBack"}
    assert all(run.taken_back == run.done for run in runs)
    assert forecast(of, runs, 3).taken_back.most > 0
    unsigned = one(of, bad_release=0.3, may_return=False)
    assert (unsigned.state, unsigned.taken_back) == ("Paused", 0)


def test_the_fleets_limit_is_one_of_the_rollouts_own() -> None:
    of = plan(wave("a", *names(8), flying=8))
    assert one(limited(of, 2)).seconds == 4 * 60.0
    assert limited(of, None) is of


def test_progress_is_told_on_the_way() -> None:
    heard: list[tuple[int, int]] = []
    of = plan(wave("all", *names(6_000), flying=500))
    list(
        simulate(
            of, World(apply_time=Likely(60.0, 600.0)), 2, 1, lambda run, settled: heard.append((run, settled))
        )
    )
    assert {run for run, _ in heard} == {0, 1}
    assert all(0 < settled <= 6_000 for _, settled in heard)


def test_shares_are_nearest_ranks() -> None:
    found = Shares.of([float(number) for number in range(1, 101)])
    assert (found.p50, found.p90, found.p99, found.most) == (50.0, 90.0, 99.0, 100.0)
    assert Shares.of([]) == Shares(p50=0.0, p90=0.0, p99=0.0, most=0.0)


def test_times_that_vary_have_the_median_and_percentile_that_were_asked_for() -> None:
    import random

    rng = random.Random(5)
    drawn = Shares.of(Likely(60.0, 600.0).draw(rng) for _ in range(20_000))
    assert drawn.p50 == pytest.approx(60.0, rel=0.05)
    assert drawn.p99 == pytest.approx(600.0, rel=0.15)
    assert Likely(60.0, 60.0).draw(rng) == 60.0


def test_times_are_read_as_people_write_them() -> None:
    assert parse_likely("90s") == (90.0, 90.0)
    assert parse_likely("90s..10m") == (90.0, 600.0)
    for text in ("", "soon", "10m..90s", "1m..2m..3m", "..1m"):
        with pytest.raises(ValidationError, match="R070"):
            parse_likely(text)


# --- members for it ---------------------------------------------------------------------------------------


def rings(**more: Any) -> RolloutPlan:
    waves = [
        Wave(name="canary", selector=Selector(match_labels={"ring": "canary"})),
        Wave(name="stores", selector=Selector(match_labels={"tier": "store"})),
        Wave(name="rest", rest=True),
    ]
    spec = RolloutPlanSpec(waves=waves, **more)
    return RolloutPlan(
        api_version=API_VERSION, kind="RolloutPlan", metadata=Metadata(name="rings"), spec=spec
    )


def test_a_made_up_fleet_fills_every_wave_of_its_plan() -> None:
    resolved = resolve(rings(), made_up(rings(), 1_110))
    assert [len(each.members) for each in resolved.waves] == [10, 100, 1_000]
    assert len({name for each in resolved.waves for name in each.members}) == 1_110


def test_turns_are_the_order_in_which_the_machine_offers() -> None:
    regions = dict(zip(names(9), ["us", "eu", "eu", "as", "us", "us", "as", "eu", "us"], strict=True))
    for spread in ({}, regions):
        spec = wave("all", *names(9), flying=2, spread=spread)
        story = Story(spec)
        for _ in range(9):
            for target in list(story.machine.outstanding()):
                story.acknowledge(target.cluster)
                story.healthy(target.cluster)
        offered = [event.cluster for event in story.log if isinstance(event, ev.OfferMade)]
        assert turns(spec) == offered
        assert story.machine.state == "Succeeded"


def test_a_scaled_fleet_keeps_its_members_and_its_proportions() -> None:
    registry = [
        Member("a", {"ring": "canary"}, 60.0),
        *(Member(f"s{n}", {"tier": "store"}, 60.0) for n in range(4)),
    ]
    resolved = resolve(rings(), scaled(registry, 100))
    assert [len(each.members) for each in resolved.waves] == [20, 80]
    assert resolved.waves[0].members[0] == "a"
    assert [member.name for member in scaled(registry, 2)] == ["a", "s0"]
