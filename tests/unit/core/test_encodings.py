"""PAE, durations, counts and join tokens: small encodings that must not be ambiguous."""

from __future__ import annotations

import base64
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from muster_core.durations import format_duration, parse_duration, parse_seconds, resolve_count
from muster_core.errors import JoinError, ValidationError
from muster_core.pae import pae, u64, unpae
from muster_core.times import format_time, parse_time
from muster_core.token import JoinToken, Repository

PARTS = st.lists(st.binary(max_size=20), max_size=6)


@given(PARTS, PARTS)
def test_different_lists_never_share_an_encoding(one: list[bytes], other: list[bytes]) -> None:
    assert unpae(pae(*one)) == tuple(one)
    assert (pae(*one) == pae(*other)) is (one == other)


@given(st.binary(max_size=64))
def test_bytes_that_are_no_encoding_are_refused_and_never_crash(data: bytes) -> None:
    with contextlib.suppress(ValidationError):
        assert pae(*unpae(data)) == data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"1234567",
        u64(1),
        u64(2**63),
        u64(1) + u64(5) + b"abc",
        pae(b"a") + b"x",
        u64(1) + u64(2**64 - 1),
    ],
)
def test_cut_and_padded_encodings_are_refused(data: bytes) -> None:
    with pytest.raises(ValidationError, match="not an encoded list"):
        unpae(data)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("10m", 600), ("1h30m", 5400), ("90d", 7776000), ("250ms", 0.25), ("0s", 0)],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "m",
        "-1s",
        "1.5h",
        "1h 30m",
        "1y",
        "s1",
        "5m\n",
        "٣s",
        "9" * 400 + "d",
        "9" * 5000 + "s",
        "100000d",
    ],
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="is not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(("text", "seconds"), [("5m", 300.0), ("60", 60.0), ("0.2", 0.2)])
def test_a_flag_may_say_seconds_without_a_unit(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["0", "0s", "0.0", "-1", "1.2.3", ".", "", "²", "soon"])
def test_a_flag_that_says_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="V031"):
        parse_seconds(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (9, "9s"),
        (60, "1m"),
        (75, "1m15s"),
        (3600, "1h"),
        (3605, "1h"),
        (5400, "1h30m"),
        (183600, "2d3h"),
        (-5, "0s"),
    ],
)
def test_durations_are_shown_with_two_units(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_percentages_become_integers_in_the_safe_direction() -> None:
    assert resolve_count("25%", 3, rounding="down-at-least-one") == 1
    assert resolve_count("25%", 10, rounding="down-at-least-one") == 2
    assert resolve_count("5%", 10, rounding="down") == 0
    assert resolve_count("50%", 3, rounding="up") == 2
    assert resolve_count("80%", 5, rounding="up") == 4
    assert resolve_count(4, 1, rounding="down") == 4
    assert resolve_count("100%", 7, rounding="down") == 7


@given(st.integers(0, 100), st.integers(0, 100_000))
def test_rounding_stays_within_one(percent: int, total: int) -> None:
    down = resolve_count(f"{percent}%", total, rounding="down")
    assert 0 <= down <= resolve_count(f"{percent}%", total, rounding="up") <= down + 1
    assert down * 100 <= percent * total


TOKEN = JoinToken(
    edge_address="hub.example.com:8444",
    link_address="hub.example.com:8443",
    ca_pem=b"-----BEGIN CERTIFICATE-----\n",
    secret="s3cret",
    cluster="berlin-04",
    mode="open",
    trust_digest="",
    fleet_id="0123456789abcdef",
    repositories=(
        Repository("fleet", "https://git.example.com/fleet.git", "main", "3f" * 20),
        Repository("apps", "https://git.example.com/apps.git", "main", "ab" * 20),
    ),
)


def test_a_token_comes_back_as_it_was_and_hides_its_secret() -> None:
    text = TOKEN.encode()
    assert JoinToken.decode(text) == TOKEN
    assert JoinToken.decode(f"  {text}\n") == TOKEN
    assert "s3cret" not in repr(TOKEN)
    assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


def test_cut_changed_and_foreign_tokens_get_one_clear_refusal() -> None:
    text = TOKEN.encode()
    version = base64.urlsafe_b64encode(pae(b"muster.token.v2", b"", pae(), pae())).decode()
    for bad in (
        "",
        "x",
        "!!!!",
        text[:-1],
        text[:40],
        text + "AAAA",
        "A" * 40_000,
        version,
        text.replace("A", "ü", 1),
    ):
        with pytest.raises(JoinError, match="this is not a join token") as caught:
            JoinToken.decode(bad)
        assert caught.value.code == "J001"
        assert "s3cret" not in str(caught.value)


@given(st.text(max_size=80))
def test_no_text_crashes_the_decoder(text: str) -> None:
    with pytest.raises(JoinError):
        JoinToken.decode(text)


@pytest.mark.parametrize(
    "text", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-00:01", "1969-12-31T23:59:59Z"]
)
def test_a_time_that_no_calendar_here_has_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="is no time"):
        parse_time(text)


def test_a_moment_outside_of_the_calendar_is_shown_as_its_end() -> None:
    assert format_time(parse_time("9999-12-31T23:59:59Z") + 1e12) == "9999-12-31T23:59:59Z"
    assert format_time(-1e12) == "1970-01-01T00:00:00Z"
