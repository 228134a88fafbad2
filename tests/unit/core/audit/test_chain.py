"""Audit chains: whatever is done to one afterwards is found, as long as somebody keeps a head."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from muster_core.audit.actions import ACTIONS, MAX_DETAIL_BYTES, clip
from muster_core.audit.chain import (
    NOTHING,
    START,
    Entry,
    Head,
    append,
    decode,
    digest,
    encode,
    verify,
    verify_lines,
)
from muster_core.errors import ValidationError

WRITER = "cluster/5f0c"
TEXT = st.text(max_size=40).filter(lambda text: text.isprintable())


def chain(count: int, writer: str = WRITER, head: Head = START) -> list[Entry]:
    entries: list[Entry] = []
    for number in range(count):
        entry = append(
            head,
            at=1_000 + number,
            writer=writer,
            actor="hub",
            action="apply",
            object=f"bundle-{number}",
            detail={"bundle": "shop", "commit": "a" * 40, "applied": str(number)},
        )
        entries.append(entry)
        head = entry.head
    return entries


def rehashed(entry: Entry, **changed: object) -> Entry:
    entry = msgspec.structs.replace(entry, **changed)
    return msgspec.structs.replace(entry, hash=digest(entry))


# --- what may be written -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "result", "detail"),
    [
        ("erase", "ok", {}),
        ("apply", "great", {}),
        ("apply", "ok", {"password": "hunter2"}),
        ("secret-opened", "ok", {"value": "hunter2"}),
        ("secret-opened", "ok", {"digest": "a" * 64}),
        ("refusal", "refused", {"message": "free text"}),
        ("apply", "ok", {"bundle": "x" * (MAX_DETAIL_BYTES + 1)}),
        ("apply", "ok", {"bundle": "\ud800"}),
    ],
)
def test_what_the_table_does_not_name_cannot_be_written(
    action: str, result: str, detail: dict[str, str]
) -> None:
    with pytest.raises(ValidationError) as caught:
        append(START, at=1, writer="w", actor="a", action=action, object="o", result=result, detail=detail)
    assert caught.value.code == "V060"
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("field", ["writer", "actor", "object"])
def test_a_name_is_bounded(field: str) -> None:
    names = {"writer": "w", "actor": "a", "object": "o"} | {field: "ä" * 129}
    with pytest.raises(ValidationError, match="too long"):
        append(START, at=1, action="apply", **names)


def test_no_action_has_a_place_for_a_secret_or_a_free_message() -> None:
    names = {name for allowed in ACTIONS.values() for name in allowed}
    assert not names & {
        "value",
        "password",
        "secret",
        "token",
        "key",
        "data",
        "digest",
        "message",
        "error",
        "text",
    }


@given(st.text(), st.integers(3, 2000))
def test_a_clipped_text_is_within_its_bound_and_valid(text: str, limit: int) -> None:
    clipped = clip(text, limit)
    assert len(clipped.encode()) <= limit
    if "\ufffd" not in clipped and len(text.encode(errors="replace")) <= limit:
        assert clipped == text.encode(errors="replace").decode()


# --- lines -------------------------------------------------------------------------------------------------------------


@given(
    TEXT,
    TEXT,
    st.dictionaries(st.sampled_from(sorted(ACTIONS["call"])), st.text(max_size=60)),
    st.integers(0, 2**60),
)
def test_a_line_comes_back_as_it_was(actor: str, name: str, detail: dict[str, str], at: int) -> None:
    detail = {key: clip(value) for key, value in detail.items()}
    entry = append(START, at=at, writer=WRITER, actor=actor, action="call", object=name, detail=detail)
    line = encode(entry)
    assert line.count(b"\n") == 1
    assert decode(line) == entry
    assert verify([entry], expected_head=entry.head).holds


def test_a_line_that_was_not_written_here_is_refused() -> None:
    line = encode(chain(1)[0])
    for bad in (
        line[:-1],
        line.replace(b'{"seq":1', b'{"more":1,"seq":1'),
        line.replace(b'{"seq":1', b'{"seq":1,"seq":1'),
        line.replace(b'{"seq":1', b'{"seq": 1'),
        line.replace(b'"seq":1', b'"seq":-1'),
        line.replace(b'"seq":1', b'"seq":true'),
        line.replace(b',"hash"', b',"Hash"'),
        line.replace(b'"shop"', b"1"),
        b"\n",
        b"[]\n",
        b"\xff\n",
        line + line,
        line[:-1] + b" " * 70_000 + b"\n",
    ):
        assert bad != line
        with pytest.raises(ValidationError) as caught:
            decode(bad)
        assert caught.value.code == "V061"


@given(st.binary(max_size=200))
def test_no_bytes_make_the_decoder_fail_in_another_way(data: bytes) -> None:
    try:
        entry = decode(data)
    except ValidationError:
        return
    assert encode(entry) == data


HASH_OF_THE_FIRST = "eb351aae6dd3f02e185b92d228c594596b03b21f72f728183b790b5fa98c81d7"


def test_the_hash_is_fixed_for_ever() -> None:
    assert chain(1)[0].hash == HASH_OF_THE_FIRST


# --- verdicts ----------------------------------------------------------------------------------------------------------


def test_an_untouched_chain_holds() -> None:
    entries = chain(5)
    verdict = verify(entries, expected_head=entries[-1].head, known_heads=[entry.head for entry in entries])
    assert verdict.holds
    assert (verdict.head, verdict.count) == (entries[-1].head, 5)
    assert verify([]).holds
    assert verify([], expected_head=START).holds


FIELDS = ("seq", "at", "writer", "actor", "action", "object", "result", "detail", "prev", "hash")


@given(
    st.integers(2, 8),
    st.data(),
    st.sampled_from(FIELDS),
)
def test_any_edit_is_found_at_its_number(count: int, data: st.DataObject, field: str) -> None:
    entries = chain(count)
    at = data.draw(st.integers(0, count - 1))
    old = getattr(entries[at], field)
    new = (
        old + 1
        if isinstance(old, int)
        else {**old, "applied": "99"}
        if isinstance(old, dict)
        else old[:-1] + "~"
    )
    entries[at] = msgspec.structs.replace(entries[at], **{field: new})
    verdict = verify(entries)
    assert verdict.broken_seq in ({at + 1, at + 2} if field in ("seq", "writer") else {at + 1})


@given(st.integers(2, 8), st.data())
def test_an_edit_with_a_new_hash_is_found_by_what_follows_or_by_a_known_head(
    count: int, data: st.DataObject
) -> None:
    entries = chain(count)
    head = entries[-1].head
    at = data.draw(st.integers(0, count - 1))
    entries[at] = rehashed(entries[at], object="something else")
    if at < count - 1:
        assert (verify(entries).broken_seq, verify(entries).code) == (at + 2, "link")
    assert not verify(entries, known_heads=[head]).holds
    assert not verify(entries, expected_head=head).holds


@given(st.integers(2, 8), st.data())
def test_a_history_that_is_written_anew_from_some_point_is_found_by_any_head_after_it(
    count: int, data: st.DataObject
) -> None:
    entries = chain(count)
    at = data.draw(st.integers(0, count - 1))
    known = data.draw(st.integers(at, count - 1))
    forged = entries[:at]
    before = forged[-1].head if forged else START
    for entry in entries[at:]:
        forged.append(rehashed(entry, prev=before.hash, actor="nobody"))
        before = forged[-1].head
    assert verify(forged).holds
    verdict = verify(forged, known_heads=[entries[known].head])
    assert (verdict.broken_seq, verdict.code) == (known + 1, "forked")


@given(st.integers(2, 8), st.data())
def test_any_deletion_in_the_middle_is_a_gap(count: int, data: st.DataObject) -> None:
    entries = chain(count)
    at = data.draw(st.integers(0, count - 2))
    del entries[at]
    verdict = verify(entries)
    assert (verdict.broken_seq, verdict.code) == ((2, "beginning") if at == 0 else (at + 2, "gap"))


@given(st.integers(2, 8), st.data())
def test_any_truncation_below_a_known_head_is_found(count: int, data: st.DataObject) -> None:
    entries = chain(count)
    keep = data.draw(st.integers(0, count - 1))
    known = entries[data.draw(st.integers(keep, count - 1))].head
    for verdict in (verify(entries[:keep], known_heads=[known]), verify(entries[:keep], expected_head=known)):
        assert (verdict.broken_seq, verdict.code) == (keep + 1, "truncated")


@given(st.permutations(range(6)))
def test_any_other_order_is_found(order: list[int]) -> None:
    entries = chain(6)
    assert verify([entries[index] for index in order], expected_head=entries[-1].head).holds == (
        order == list(range(6))
    )


def test_a_doubled_entry_is_found() -> None:
    entries = chain(3)
    verdict = verify([*entries[:2], entries[1], entries[2]])
    assert (verdict.broken_seq, verdict.code) == (2, "reordered")


def test_an_entry_of_another_writer_is_found() -> None:
    entries = chain(2)
    verdict = verify([*entries, *chain(1, "cluster/other", entries[-1].head)])
    assert (verdict.broken_seq, verdict.code) == (3, "writer")


def test_an_entry_that_says_what_must_not_be_written_is_found() -> None:
    entries = chain(2)
    entries.append(rehashed(entries[1], seq=3, prev=entries[1].hash, detail={"password": "hunter2"}))
    verdict = verify(entries)
    assert (verdict.broken_seq, verdict.code) == (3, "forbidden")
    assert "hunter2" not in verdict.reason


def test_entries_beyond_an_expected_head_are_found() -> None:
    entries = chain(3)
    verdict = verify(entries, expected_head=entries[1].head)
    assert (verdict.broken_seq, verdict.code) == (3, "forked")


def test_two_known_heads_of_one_number_are_two_histories() -> None:
    verdict = verify(chain(3), known_heads=[Head(2, "a" * 64), Head(2, "b" * 64)])
    assert (verdict.broken_seq, verdict.code) == (2, "forked")


def test_an_excerpt_holds_behind_its_head_and_nowhere_else() -> None:
    entries = chain(5)
    assert verify(entries[2:], after=entries[1].head).holds
    assert verify(entries[2:], after=Head(2, NOTHING)).code == "link"
    assert verify(entries[3:], after=entries[1].head).code == "gap"
    assert verify(entries[2:], after=entries[1].head, known_heads=[entries[0].head]).holds
    assert verify(entries[2:], after=entries[1].head, known_heads=[Head(2, NOTHING)]).code == "forked"


def test_a_missing_beginning_holds_only_if_the_chain_says_what_was_dropped() -> None:
    entries = chain(5)
    assert verify(entries[2:]).code == "beginning"
    for last, hashed, code in (
        ("2", entries[1].hash, ""),
        ("2", "a" * 64, "beginning"),
        ("1", entries[1].hash, "beginning"),
    ):
        dropped = append(
            entries[-1].head,
            at=9,
            writer=WRITER,
            actor=WRITER,
            action="log-dropped",
            object="audit",
            detail={"first": "1", "last": last, "head": hashed},
        )
        assert verify([*entries[2:], dropped]).code == code


def test_a_line_that_cannot_be_read_is_named_by_its_number() -> None:
    entries = chain(4)
    lines = [encode(entry) for entry in entries]
    assert verify_lines(lines, expected_head=entries[-1].head).count == 4
    for bad in (b"", b"{}\n", lines[2][:-1], lines[2].replace(b'"ok"', b'"ok" ')):
        verdict = verify_lines([*lines[:2], bad, lines[3]], expected_head=entries[-1].head)
        assert (verdict.broken_seq, verdict.code) == (3, "unreadable")
    edited = lines[1].replace(b"bundle-1", b"bundle-9")
    assert verify_lines([lines[0], edited, b"?"]).broken_seq == 2
