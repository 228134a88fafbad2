"""A snapshot has every field of the state or says that it is made anew; what is not exactly of this log is refused."""

from __future__ import annotations

import dataclasses

import pytest
from muster_core.rollout import events as ev
from muster_core.rollout import snapshot
from muster_core.rollout.board import Board, Target, WaveBoard
from muster_core.rollout.gates import GateState, PhaseGates
from muster_core.rollout.machine import RolloutMachine
from muster_core.rollout.run import Run
from unit.core.rollout.scenario import DIGEST, Story, wave

PLACE = snapshot.Place("1.0", b"start", 7, b"last")


def story() -> Story:
    """Two fly of whom one soaks, one has failed, one waits."""
    found = Story(wave("all", "a", "b", "c", "d", flying=2, failed=2, soak=60.0))
    found.give(ev.Acknowledged("a", 1))
    found.give(ev.Reported("a", 1, DIGEST, "failed", "K1", "broken"))
    found.give(ev.Reported("b", 1, DIGEST, "healthy"))
    return found


@pytest.mark.parametrize(("kind", "kept"), [
    (Target, snapshot.TARGET), (WaveBoard, snapshot.WAVE), (GateState, snapshot.GATE),
])  # fmt: skip
def test_every_field_is_kept_or_named_as_made_anew(
    kind: type, kept: dict[str, str] | tuple[str, ...]
) -> None:
    fields = [field.name for field in dataclasses.fields(kind)]
    assert sorted(fields) == sorted([*kept, *snapshot.DERIVED[kind]])


def test_each_field_of_a_target_is_read_by_its_own_name() -> None:
    target = Target("a", 3)
    for number, name in enumerate(snapshot.TARGET):
        setattr(target, name, number)
    assert {name: read([target]) for name, read in snapshot.READ.items()} == {
        name: [number] for number, name in enumerate(snapshot.TARGET)
    }


@pytest.mark.parametrize(("kind", "kept"), [
    (Run, snapshot.RUN), (Board, snapshot.BOARD), (PhaseGates, snapshot.PHASE),
])  # fmt: skip
def test_every_attribute_is_kept_or_named_as_made_anew(kind: type, kept: tuple[str, ...]) -> None:
    run = story().machine.run
    found = {Run: run, Board: run.board, PhaseGates: run.waves[0].gates.before}[kind]
    assert sorted(vars(found)) == sorted([*kept, *snapshot.DERIVED[kind]])


def test_the_order_of_a_line_has_every_attribute_of_it() -> None:
    """Who waits follows from states; lanes from who waits; who is held is told again."""
    line = story().machine.waves[0].line
    carried = {"_first", "_last", "_moved"}
    assert set(vars(line)) == carried | {
        "numbers", "_zones", "_spread", "_waiting", "_lanes", "_values", "held", "_held_waiting",
    }  # fmt: skip


def test_knowledge_of_the_moment_is_not_in_it() -> None:
    at = story()
    at.machine.hold("d", "frozen")
    at.machine.allow(3)
    restored = snapshot.restore(at.machine.started, snapshot.take(at.machine, PLACE))
    assert restored.is_online("a") is False
    assert (restored.run.allowance, restored.waves[0].line.held, restored.waves[0].line.ready) == (
        None,
        {},
        1,
    )
    assert repr(restored.targets) == repr(RolloutMachine.replay(at.log).targets)
    assert snapshot.take(restored, PLACE) == snapshot.take(RolloutMachine.replay(at.log), PLACE)


def test_the_order_in_which_targets_fly_and_what_their_clocks_have_left_are_kept() -> None:
    at = Story(wave("all", "a", "b", "c", flying=2, failed=1, soak=60.0))
    at.give(ev.Acknowledged("a", 1))
    at.give(ev.Reported("a", 1, DIGEST, "failed", "K1", "broken"))  # and c is offered
    at.give(ev.Reported("b", 1, DIGEST, "healthy"))
    at.give(ev.Reported("c", 1, DIGEST, "healthy"))
    at.give(ev.Contact("c", False))  # its soak stands still
    at.give(ev.Retry("ann", "", ("a",)))
    at.now += 61
    at.give(ev.Tick())  # b is done, and a is offered again, behind c
    restored = snapshot.restore(at.machine.started, snapshot.take(at.machine, PLACE))
    assert list(restored.waves[0].flying) == ["c", "a"]
    assert (restored.targets["c"].soak_left, restored.targets["a"].attempt) == (60.0, 2)
    assert repr(restored.targets) == repr(at.machine.targets)


def test_its_place_in_the_log_is_read_without_the_start() -> None:
    assert snapshot.place_of(snapshot.take(story().machine, PLACE)) == PLACE


def test_any_byte_that_was_changed_or_cut_is_noticed() -> None:
    data = snapshot.take(story().machine, PLACE)
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1
        with pytest.raises(snapshot.UnusableError):
            snapshot.place_of(bytes(changed))
        with pytest.raises(snapshot.UnusableError):
            snapshot.place_of(data[:place])


def test_one_of_other_fields_is_of_another_form(monkeypatch: pytest.MonkeyPatch) -> None:
    data = snapshot.take(story().machine, PLACE)
    monkeypatch.setattr(snapshot, "SHAPE", snapshot.digest(b"with a field more"))
    with pytest.raises(snapshot.UnusableError, match="another form"):
        snapshot.place_of(data)


def test_one_of_another_plan_is_not_laid_over_this_one() -> None:
    data = snapshot.take(story().machine, PLACE)
    for other in (
        Story(wave("all", "a", "b", "c", "d", "e")),
        Story(wave("one", "a"), wave("two", "b", "c", "d")),
    ):
        with pytest.raises(snapshot.UnusableError, match="another number"):
            snapshot.restore(other.machine.started, data)


def test_none_is_taken_while_the_machine_is_ahead_of_its_log() -> None:
    """A refused order leaves what time brought before it applied and unsaid."""
    at = story()
    at.now += 700
    with pytest.raises(Exception, match="not paused"):
        at.give(ev.Resume("ann", ""))
    assert at.machine.has_unsaid
    with pytest.raises(ValueError, match="not said"):
        snapshot.take(at.machine, PLACE)
    at.give(ev.Tick())
    assert snapshot.place_of(snapshot.take(at.machine, PLACE)) == PLACE


def test_a_target_takes_few_bytes() -> None:
    """Nothing but packed columns grows with the members: no name of theirs is in it."""
    names = tuple(f"cluster-{number:05}" for number in range(2_000))
    few = snapshot.take(Story(wave("all", *names[:1_000], flying=500)).machine, PLACE)
    many = snapshot.take(Story(wave("all", *names, flying=1_000)).machine, PLACE)
    assert (len(many) - len(few)) / 1_000 < 25
    assert b"cluster-" not in many
