"""Resolved plans of every kind, as Hypothesis draws them."""

from __future__ import annotations

from hypothesis import strategies as st
from msgspec import structs
from muster_core.rollout.plan import ResolvedGate, ResolvedPlan, ResolvedWave, ResolvedWindow


@st.composite
def plans(draw: st.DrawFn) -> ResolvedPlan:
    deadline, holds = float(draw(st.sampled_from([60, 300]))), draw(st.booleans())
    waves = []
    for index in range(draw(st.integers(1, 3))):
        members = tuple(f"w{index}-{number}" for number in range(draw(st.integers(1, 5))))
        waves.append(
            ResolvedWave(
                name=f"wave{index}",
                members=members,
                max_in_flight=draw(st.integers(1, 3)),
                max_failed=draw(st.integers(0, 2)),
                quorum_percent=draw(st.sampled_from([0, 50, 80, 100])),
                soak=float(draw(st.sampled_from([0, 30, 120]))),
                offline_after={name: float(draw(st.sampled_from([60, 180, 600]))) for name in members},
                max_lost=draw(st.none() | st.integers(0, 1)),
                offline_policy=draw(st.sampled_from(["owe", "owe", "wait", "fail"])),
                soak_holds_slot=holds,
                spread=draw(st.just({}) | st.fixed_dictionaries({n: st.sampled_from("ab") for n in members})),
            )
        )
    action = draw(st.sampled_from(["pause", "abort", "rollback"]))
    return ResolvedPlan(
        name="rings", waves=tuple(waves), deadline=deadline, action=action, catch_up_in_flight=1
    )


GATES = st.one_of(
    st.builds(
        ResolvedGate,
        kind=st.just("approval"),
        count=st.integers(1, 2),
        by=st.sampled_from([(), ("bob", "dora")]),
        not_author=st.booleans(),
    ),
    st.builds(ResolvedGate, kind=st.just("time"), after=st.sampled_from([900.0, 1060.0, 1600.0])),
    st.builds(
        ResolvedGate,
        kind=st.sampled_from(["http", "prometheus"]),
        consecutive=st.integers(1, 2),
        fail_after=st.sampled_from([None, 120.0]),
    ),
)
ZONES = ("UTC", "Asia/Kolkata")  # half an hour apart


@st.composite
def full_plans(draw: st.DrawFn) -> ResolvedPlan:
    """Everything that a plan can say, on top of the simple ones; each part in about a third of them."""
    plan = draw(plans())
    some = st.integers(0, 2).map(lambda number: number == 0)
    waves = []
    for wave in plan.waves:
        if draw(some):
            zone = draw(st.sampled_from(["UTC", "site"]))
            window = ResolvedWindow(
                *draw(st.sampled_from([("*/10 * * * *", 300.0), ("0 * * * *", 900.0)])), zone
            )
            zones = {name: draw(st.sampled_from(ZONES)) for name in wave.members} if zone == "site" else {}
            wave = structs.replace(wave, window=window, zones=zones)
        if draw(some):
            before, after = (tuple(draw(st.lists(GATES, max_size=2))) for _ in range(2))
            wave = structs.replace(wave, gates_before=before, gates_after=after)
        waves.append(wave)
    return structs.replace(
        plan,
        waves=tuple(waves),
        scope=draw(st.sampled_from(["target", "wave", "rollout"])),
        max_in_flight=draw(st.sampled_from([None, None, 1, 2])),
        max_failed=draw(st.sampled_from([None, None, 0, 2])),
        max_lost=draw(st.sampled_from([None, None, 0, 1])),
        expire=draw(st.sampled_from([None, None, 900.0, 7200.0])),
        limited=draw(some),
    )
