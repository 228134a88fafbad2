"""Heads that agents tell: one that goes back or forks is an alarm, until somebody knows why."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st
from muster_coordinator.audit.heads import AgentHeads, HeadRow
from muster_core.audit.actions import ACTIONS
from muster_core.audit.chain import START, Head

ONE = "cluster/one"


def head(seq: int, history: str = "a") -> Head:
    return Head(seq, hashlib.sha256(f"{history}{seq}".encode()).hexdigest())


def test_a_head_that_rises_or_stays_is_kept_without_an_alarm() -> None:
    heads = AgentHeads()
    for seq in (1, 5, 5, 9):
        assert heads.told(ONE, head(seq)) is None
    assert heads.known(ONE) == head(9)
    assert heads.changed() == {ONE: HeadRow(ONE, *head(9))}
    assert heads.changed() == {}
    assert heads.known("cluster/two") is None


def test_an_agent_that_has_written_nothing_is_not_kept() -> None:
    heads = AgentHeads()
    assert heads.told(ONE, START) is None
    assert heads.all == []


def test_a_head_that_goes_back_is_an_alarm_once_and_the_highest_stays_known() -> None:
    heads = AgentHeads([HeadRow(ONE, *head(9))])
    alarm = heads.told(ONE, head(4))
    assert alarm is not None
    assert (alarm.code, alarm.known, alarm.told) == ("MUSTER-T090", head(9), head(4))
    assert "went back to 4" in alarm.message
    assert set(alarm.detail) <= ACTIONS["head-alarm"]
    assert heads.told(ONE, head(4)) is None
    assert heads.told(ONE, head(6)) is None
    assert heads.told(ONE, head(40)) is None
    assert heads.known(ONE) == head(9)
    assert [row.writer for row in heads.alarms] == [ONE]


def test_an_empty_log_after_a_full_one_is_an_alarm() -> None:
    heads = AgentHeads([HeadRow(ONE, *head(9))])
    alarm = heads.told(ONE, START)
    assert alarm is not None
    assert alarm.code == "MUSTER-T090"


def test_another_hash_at_the_same_number_is_an_alarm() -> None:
    heads = AgentHeads([HeadRow(ONE, *head(9))])
    alarm = heads.told(ONE, head(9, "b"))
    assert alarm is not None
    assert alarm.code == "MUSTER-T091"
    assert heads.known(ONE) == head(9)


def test_a_further_step_back_is_a_further_alarm() -> None:
    heads = AgentHeads([HeadRow(ONE, *head(9))])
    assert heads.told(ONE, head(6))
    alarm = heads.told(ONE, head(2))
    assert alarm is not None
    assert (alarm.known, alarm.told) == (head(6), head(2))


def test_an_alarm_outlives_a_restart_and_ends_when_it_is_acknowledged() -> None:
    heads = AgentHeads([HeadRow(ONE, *head(9))])
    heads.told(ONE, head(4, "b"))
    again = AgentHeads(heads.changed().values())
    assert again.told(ONE, head(4, "b")) is None
    assert len(again.alarms) == 1
    row = again.acknowledge(ONE)
    assert row is not None
    assert row.head == head(9)
    assert again.alarms == []
    assert again.known(ONE) == head(4, "b")
    assert again.acknowledge(ONE) is None
    assert again.told(ONE, head(5, "b")) is None


def test_rows_that_could_not_be_committed_are_given_again_and_newer_ones_win() -> None:
    heads = AgentHeads()
    heads.told(ONE, head(1))
    heads.told("cluster/two", head(1))
    lost = heads.changed()
    heads.told(ONE, head(2))
    heads.again(lost)
    assert heads.changed() == {ONE: HeadRow(ONE, *head(2)), "cluster/two": HeadRow("cluster/two", *head(1))}


def test_one_agents_alarm_is_not_anothers() -> None:
    heads = AgentHeads([HeadRow(ONE, *head(9)), HeadRow("cluster/two", *head(3))])
    assert heads.told(ONE, head(4))
    assert heads.told("cluster/two", head(4)) is None
    assert [row.writer for row in heads.all] == [ONE, "cluster/two"]


@given(st.lists(st.integers(0, 6), min_size=1, max_size=12))
def test_without_an_alarm_the_known_head_never_falls_and_with_one_it_never_moves(seqs: list[int]) -> None:
    heads = AgentHeads()
    for seq in seqs:
        before = heads.known(ONE) or START
        was_alarmed = bool(heads.alarms)
        alarm = heads.told(ONE, head(seq) if seq else START)
        after = heads.known(ONE) or START
        if was_alarmed or alarm:
            assert after == before
        else:
            assert after == head(max(before.seq, seq)) or after == START == before
        assert bool(alarm) <= (seq < before.seq or was_alarmed)
