"""What operators read: a sentence for every state."""

from __future__ import annotations

import pytest
from muster_core.errors import RolloutError
from muster_core.rollout import events as ev
from muster_core.rollout.explain import explain, why
from muster_core.rollout.plan import ResolvedGate, ResolvedWindow
from unit.core.rollout.scenario import DIGEST, START, Story, wave


def say(story: Story, cluster: str) -> str:
    return explain(story.machine, cluster, story.now)


def test_waiting_behind_a_soak_names_it_and_its_end() -> None:
    story = Story(wave("stores", "munich-01", "berlin-04", "ulm-02", soak=300))
    story.healthy("munich-01")
    assert say(story, "berlin-04") == (
        "berlin-04 is waiting (wave stores). It is next when one in-flight target finishes: "
        "munich-01 soaks until 14:05 UTC."
    )
    assert say(story, "ulm-02").startswith(
        "ulm-02 is waiting (wave stores). 1 before it. The next is offered when one in-flight target finishes"
    )
    assert (
        say(story, "munich-01")
        == "munich-01 is soaking (wave stores). It is healthy and soaks until 14:05 UTC."
    )
    assert why(story.machine) == "soaking until 14:05 UTC"
    assert explain(story.machine, "munich-01", story.now, lambda at: f"t={at:.0f}").endswith("until t=50700.")


def test_every_state_has_its_sentence() -> None:
    story = Story(
        wave("one", "a", "b", "c", "d", "e", "f", flying=6, failed=6, soak=60), wave("two", "z"), away=("b",)
    )
    story.acknowledge("c")
    story.healthy("d")
    story.failed("e", "image never ready")
    story.give(ev.Reported("f", 1, DIGEST, "returned", "MUSTER-K010", "image never ready."))
    texts = {name: say(story, name) for name in "abcdefz"}
    assert texts["a"] == (
        "a is offered (wave one). It is in contact and has until 14:15 UTC to acknowledge; "
        "after that it is owed and its slot is free."
    )
    assert "out of contact" in texts["b"]
    assert texts["c"] == "c is acknowledged (wave one). It has until 14:10 UTC to become healthy."
    assert texts["e"] == "e is failed (wave one). MUSTER-K010: image never ready."
    assert texts["f"].endswith("MUSTER-K010: image never ready. It is back on its last healthy release.")
    assert texts["z"].startswith("z is waiting (wave two). Its wave opens when wave one has passed")
    story.online("d", False)
    assert "stands still" in say(story, "d")
    story.wait(900)
    assert (
        say(story, "b")
        == "b is owed (wave one). It never acknowledged its offer. It gets the release when it returns."
    )
    assert "fell silent" in say(story, "d")


def test_a_cluster_outside_is_an_error_by_name() -> None:
    story = Story(wave("one", "a"))
    with pytest.raises(RolloutError, match="R004") as caught:
        say(story, "nobody")
    assert "Membership is frozen" in str(caught.value)


def test_paused_stopped_and_ended_say_so() -> None:
    story = Story(wave("one", "a", "b"))
    story.give(ev.Pause("ann", "lunch"))
    assert say(story, "b") == "b is waiting (wave one). Nothing is offered: by ann: lunch."
    story.give(ev.Abort("ann", "enough"))
    assert (
        say(story, "b")
        == "b is waiting (wave one). The rollout has ended (Aborted) and offers nothing any more."
    )


def test_what_is_in_flight_is_named_as_the_reason() -> None:
    story = Story(wave("canary", "c1"), wave("stores", "s1", "s2", "s3", flying=2, failed=1, soak=60))
    story.healthy("c1")
    story.acknowledge("s1")
    story.failed("s2")
    assert why(story.machine) == "s1 acknowledged, s3 offered"


# --- one sentence for every rule that holds a target ----------------------------------------------------


def last(story: Story, cluster: str) -> str:
    """The sentence without its head."""
    return say(story, cluster).split("). ", 1)[1]


def test_a_held_target_is_explained_by_what_holds_it() -> None:
    story = Story(wave("all", "a", "b"), held={"a": "ingress is not Ready there"})
    assert last(story, "a") == "It is held: ingress is not Ready there."


def test_a_closed_window_says_until_when_and_whose_clock_it_is() -> None:
    window = ResolvedWindow("0 1 * * *", 14_400.0, "site")
    story = Story(wave("edge", "a", window=window, zones={"a": "Asia/Tokyo"}))
    assert last(story, "a") == "The window of its wave is closed; it opens at 16:00 UTC (Asia/Tokyo)."
    assert why(story.machine) == "window: wave edge opens at 16:00 UTC"


def test_gates_are_explained_with_what_was_seen_last() -> None:
    gates = (
        ResolvedGate(kind="approval", count=2, by=("bob", "dora")),
        ResolvedGate(
            kind="prometheus", server="metrics", query="errors", below=0.01, consecutive=3, fail_after=600.0
        ),
        ResolvedGate(kind="time", after=START + 3600),
    )
    story = Story(wave("all", "a", gates_before=gates))
    story.give(ev.Approve("bob", ""))
    story.give(ev.GateMeasured(0, "before", 1, True, "0.004"))
    assert last(story, "a") == (
        "Gates before its wave: approval by 2 of bob, dora, 1 of 2 given; prometheus metrics: errors 1 of 3 in a row,"
        " last seen 0.004, until 14:10 UTC; its start time 15:00 UTC."
    )
    assert why(story.machine).startswith(
        "gate: wave all waits for approval by 2 of bob, dora, 1 of 2 given; "
    )


def test_the_fleets_limit_and_the_rollouts_own_are_named() -> None:
    story = Story(wave("all", "a"), limited=True)
    assert "limits.maxDisrupted is used up" in last(story, "a")
    story = Story(wave("one", "a", "b", flying=2), max_in_flight=1)
    assert last(story, "b").startswith("The rollout's own maxInFlight of 1 is used up: a is offered")


def test_a_deferred_target_says_when_it_is_offered_again() -> None:
    story = Story(wave("all", "a"))
    story.give(ev.Deferred("a", 1, story.now + 3600, "the window of its site opens at 15:00"))
    assert last(story, "a") == (
        "Its site takes nothing yet (the window of its site opens at 15:00). It is offered again at 15:00 UTC."
    )
    assert why(story.machine).endswith("the next at 15:00 UTC")


def test_a_carried_target_says_what_it_is_busy_with() -> None:
    story = Story(wave("all", "a", "b", flying=1), carried=("a",))
    assert "still busy with the rollout that this one superseded" in last(story, "a")
    assert "still busy with the rollout that this one superseded" in last(story, "b")


def test_the_absent_that_hold_a_wave_and_those_of_an_expired_rollout_say_so() -> None:
    story = Story(wave("all", "a", "b", flying=1, offline_policy="wait"), away=("a",))
    story.wait(900)
    assert last(story, "a").endswith("The plan says offline: wait, so its wave is held for it.")
    story = Story(wave("all", "a", "b", flying=1), expire=60.0)
    story.wait(60)
    assert last(story, "b").startswith("The rollout expired before its turn.")


def test_the_lost_are_told_what_can_be_done() -> None:
    story = Story(wave("all", "a", failed=1))
    story.acknowledge("a")
    story.online("a", False)
    story.wait(600)
    assert last(story, "a").endswith("or a new attempt: muster rollout retry shop-0007.")
