"""What operators read: a sentence for every state."""

from __future__ import annotations

import pytest
from muster_core.errors import RolloutError
from muster_core.rollout import events as ev
from muster_core.rollout.explain import explain, why
from unit.core.rollout.scenario import DIGEST, Story, wave


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
