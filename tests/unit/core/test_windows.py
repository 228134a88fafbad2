"""Windows: when they open and close, where clocks are put forward and back."""

from __future__ import annotations

import datetime as dt
import zoneinfo
from functools import lru_cache
from itertools import takewhile

import pytest
from cronsim import CronSim
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from muster_core.errors import ValidationError
from muster_core.windows import LOOK_AHEAD, Window, parse_window

# Days on which clocks are changed, and by how much where that is odd.
CHANGES = {
    "UTC": ("2028-02-29",),
    "Asia/Kolkata": ("2027-10-31",),
    "Europe/Berlin": ("2027-03-28", "2027-10-31"),
    "America/New_York": ("2027-03-14", "2027-11-07"),
    "Australia/Lord_Howe": ("2027-04-04", "2027-10-03"),  # half an hour
    "Antarctica/Troll": ("2027-03-28", "2027-10-31"),  # two hours
    "Africa/Casablanca": ("2026-02-15", "2026-03-22"),  # winter is what is saved
    "America/Sao_Paulo": ("2018-02-17", "2018-11-04"),  # at midnight
    "America/Havana": ("2027-03-14", "2027-11-07"),  # from midnight, back to midnight
    "America/Asuncion": ("2024-03-23", "2024-10-06"),
    "Africa/Cairo": ("2027-04-30", "2027-10-28"),
    "Asia/Beirut": ("2027-03-28", "2027-10-30"),
    "America/Scoresbysund": ("2027-03-27",),  # an hour before midnight
    "Pacific/Apia": ("2011-12-30", "2011-04-02"),  # a whole day
    "Pacific/Chatham": ("2027-04-04", "2027-09-26"),  # at a quarter to three
    "Asia/Pyongyang": ("2015-08-14", "2018-05-04"),  # half an hour at midnight, for good
    "America/Caracas": ("2007-12-09", "2016-05-01"),
}
HOUR, DAY = 3_600.0, 86_400.0


def at(zone: str, text: str, fold: int = 0) -> float:
    """``2027-03-28 01:30`` on a wall of the zone."""
    wall = dt.datetime.strptime(text, "%Y-%m-%d %H:%M").replace(tzinfo=zoneinfo.ZoneInfo(zone), fold=fold)
    return wall.timestamp()


def wall(zone: str, seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, zoneinfo.ZoneInfo(zone)).strftime("%Y-%m-%d %H:%M")


def test_a_window_is_open_from_its_cron_for_its_duration() -> None:
    window = parse_window("0 1 * * *", "4h", "Europe/Berlin")
    opens = at("Europe/Berlin", "2027-06-01 01:00")
    assert not window.is_open(opens - 1)
    assert window.opens_at(opens - 1) == opens
    assert window.is_open(opens)
    assert window.is_open(opens + 4 * HOUR - 1)
    assert not window.is_open(opens + 4 * HOUR)
    assert window.closes_at(opens) == window.closes_at(opens - 1) == opens + 4 * HOUR
    assert window.opens_at(opens + 4 * HOUR) == at("Europe/Berlin", "2027-06-02 01:00")


def test_a_window_over_midnight_is_open_on_the_next_day() -> None:
    window = parse_window("0 22 * * FRI", "6h", "America/New_York")
    saturday = at("America/New_York", "2027-06-05 03:59")
    assert window.is_open(saturday)
    assert not window.is_open(saturday + 60)
    assert wall("America/New_York", window.opens_at(saturday + 60)) == "2027-06-11 22:00"


@pytest.mark.parametrize(
    ("zone", "cron", "before", "opens"),
    [
        # 02:30 is skipped: the opening is at the jump.
        ("Europe/Berlin", "30 2 * * *", "2027-03-28 00:00", "2027-03-28 03:00"),
        ("America/New_York", "30 2 * * *", "2027-03-14 00:00", "2027-03-14 03:00"),
        # Half an hour is skipped there.
        ("Australia/Lord_Howe", "15 2 * * *", "2027-10-03 00:00", "2027-10-03 02:30"),
        # Midnight itself is skipped.
        ("America/Sao_Paulo", "0 0 * * *", "2018-11-03 12:00", "2018-11-04 01:00"),
        # A whole day is.
        ("Pacific/Apia", "0 12 * * *", "2011-12-29 13:00", "2011-12-31 00:00"),
    ],
)
def test_an_opening_that_the_clock_skips_is_at_the_jump(
    zone: str, cron: str, before: str, opens: str
) -> None:
    window = parse_window(cron, "1h", zone)
    assert wall(zone, window.opens_at(at(zone, before))) == opens
    assert window.closes_at(at(zone, before)) - window.opens_at(at(zone, before)) == HOUR


@pytest.mark.parametrize(
    ("zone", "cron", "before", "opens"),
    [
        ("America/Sao_Paulo", "* */3 * * SUN", "2018-11-03 12:00", "2018-11-04 03:00"),
        ("America/Sao_Paulo", "0 */3 * * *", "2018-11-03 21:30", "2018-11-04 03:00"),
        # The hour after the jump is not lost where the day begins with it.
        ("America/Sao_Paulo", "* 1 * * SUN", "2018-11-03 12:00", "2018-11-04 01:00"),
        ("Europe/Berlin", "30 */2 * * *", "2027-03-28 00:45", "2027-03-28 04:30"),
        ("Europe/Berlin", "*/20 * * * *", "2027-03-28 01:45", "2027-03-28 03:00"),
        ("Australia/Lord_Howe", "*/20 2 * * *", "2027-10-03 00:00", "2027-10-03 02:40"),
        ("Australia/Lord_Howe", "*/20 3 * * *", "2027-10-03 00:00", "2027-10-03 03:00"),
        ("Pacific/Apia", "*/20 12 30 * *", "2011-12-29 13:00", "2012-01-30 12:00"),
    ],
)
def test_with_a_star_a_time_that_the_clock_skips_is_none(
    zone: str, cron: str, before: str, opens: str
) -> None:
    assert wall(zone, parse_window(cron, "1m", zone).opens_at(at(zone, before))) == opens


@pytest.mark.parametrize(
    ("zone", "cron", "day", "shown"),
    [
        ("Europe/Berlin", "*/30 2 * * *", "2027-10-31", ["02:00", "02:30", "02:00", "02:30"]),
        ("Australia/Lord_Howe", "*/20 1 * * *", "2027-04-04", ["01:00", "01:20", "01:40", "01:40"]),
    ],
)
def test_with_a_star_an_hour_that_comes_twice_opens_twice(
    zone: str, cron: str, day: str, shown: list[str]
) -> None:
    window, now = parse_window(cron, "1m", zone), at(zone, f"{day} 00:00")
    seen = []
    for _ in shown:
        now = window.opens_at(now)
        seen.append(wall(zone, now))
        now += 60
    assert seen == [f"{day} {time}" for time in shown]
    assert wall(zone, window.opens_at(now)).split()[0] > day


@pytest.mark.parametrize(
    ("zone", "cron", "day", "wall_time", "shift"),
    [
        ("Europe/Berlin", "30 2 * * *", "2027-10-31", "02:30", HOUR),
        ("America/New_York", "30 1 * * *", "2027-11-07", "01:30", HOUR),
        ("Australia/Lord_Howe", "45 1 * * *", "2027-04-04", "01:45", HOUR / 2),
    ],
)
def test_an_hour_that_comes_twice_opens_once(
    zone: str, cron: str, day: str, wall_time: str, shift: float
) -> None:
    window = parse_window(cron, "20m", zone)
    first = at(zone, f"{day} {wall_time}")
    again = at(zone, f"{day} {wall_time}", fold=1)
    assert again - first == shift
    assert window.opens_at(first - 1) == first
    assert not window.is_open(again)
    assert window.opens_at(again) > first + DAY


def test_a_window_over_a_jump_lasts_as_long_in_real_time() -> None:
    for day in ("2027-03-28", "2027-10-31", "2027-06-01"):
        window = parse_window("0 1 * * *", "4h", "Europe/Berlin")
        opens = at("Europe/Berlin", f"{day} 01:00")
        assert window.closes_at(opens) - opens == 4 * HOUR
        assert window.is_open(opens + 4 * HOUR - 1)
        assert not window.is_open(opens + 4 * HOUR)


def test_openings_that_overlap_are_one() -> None:
    window = parse_window("*/5 8-9 * * *", "10m", "UTC")
    eight = at("UTC", "2027-06-01 08:00")
    assert window.opens_at(eight - 1) == eight
    assert window.closes_at(eight) == at("UTC", "2027-06-01 10:05")
    assert window.is_open(at("UTC", "2027-06-01 10:04"))
    assert window.opens_at(at("UTC", "2027-06-01 10:05")) == eight + DAY


def test_a_window_that_lasts_longer_than_its_period_is_always_open() -> None:
    window = parse_window("0 0 * * *", "2d", "Europe/Berlin")
    start = at("Europe/Berlin", "2027-01-01 00:00")
    assert all(window.is_open(start + hour * HOUR) for hour in range(0, 366 * 24, 7))
    assert window.closes_at(start) > start + (LOOK_AHEAD - 1) * DAY
    # One that lasts a day is closed only for the hour that a day of 25 has more.
    daily = parse_window("0 0 * * *", "24h", "Europe/Berlin")
    assert not daily.is_open(at("Europe/Berlin", "2027-10-31 23:30"))
    assert daily.closes_at(at("Europe/Berlin", "2027-10-31 12:00")) == at("Europe/Berlin", "2027-10-31 23:00")
    assert daily.is_open(at("Europe/Berlin", "2027-03-28 23:30"))


@pytest.mark.parametrize("cron", ["0 0 31 2 *", "0 0 30 2 *", "5 4 31 4,6,9,11 *", "0 0 31 SEP *"])
def test_a_window_that_never_opens_is_refused(cron: str) -> None:
    with pytest.raises(ValidationError) as refused:
        parse_window(cron, "1h", "UTC")
    assert refused.value.code == "V072"


def test_a_day_of_leap_years_opens() -> None:
    window = parse_window("0 0 29 2 *", "1d", "UTC")
    assert wall("UTC", window.opens_at(at("UTC", "2028-03-01 00:00"))) == "2032-02-29 00:00"


@pytest.mark.parametrize(
    "cron",
    ["", "* * * *", "0 0 1 * * *", "61 0 * * *", "0 24 * * *", "@daily", "0 0 * * FUNDAY", "0 0 31 2", "a" * 200,
     "0 0 32 2 *", "1-0 * * * *", "*/0 * * * *", "L * * * *", "0 0 * * 1#9", "0 0 40 2 *", "0 0 31 13 *"],
)  # fmt: skip
def test_a_bad_expression_is_refused(cron: str) -> None:
    with pytest.raises(ValidationError) as refused:
        parse_window(cron, "1h", "UTC")
    assert refused.value.code == "V070"


@pytest.mark.parametrize(
    "zone",
    ["", "Mars/Phobos", "localtime", "posixrules", "right/Europe/Berlin", "../etc/passwd", "Europe", "/etc/localtime",
     "Europe/Berlin\n", "A" * 500, "Europe//Berlin", "site"],
)  # fmt: skip
def test_an_unknown_zone_is_refused(zone: str) -> None:
    with pytest.raises(ValidationError) as refused:
        parse_window("0 1 * * *", "1h", zone)
    assert refused.value.code == "V071"


@pytest.mark.parametrize(
    ("duration", "code"), [("59s", "V073"), ("0s", "V073"), ("367d", "V073"), ("an hour", "V031")]
)
def test_a_duration_that_is_none_is_refused(duration: str, code: str) -> None:
    with pytest.raises(ValidationError) as refused:
        parse_window("0 1 * * *", duration, "UTC")
    assert refused.value.code == code


numbers = st.integers
minutes = st.one_of(st.just("*"), st.sampled_from(["*/5", "*/17", "0,30", "10-20"]), numbers(0, 59).map(str))
hours = st.one_of(st.just("*"), st.sampled_from(["*/3", "1,2,3", "0-4", "22,23"]), numbers(0, 23).map(str))
days = st.sampled_from(["*", "*", "*", "1", "31", "L", "1-7", "*/2", "LW"])
months = st.sampled_from(["*", "*", "*", "3,10", "11", "MAR-APR"])
weekdays = st.sampled_from(["*", "*", "*", "SUN", "1-5", "0#1", "6L", "7"])
crons = (
    st.tuples(minutes, hours, days, months, weekdays)
    .map(" ".join)
    .filter(lambda cron: not (cron.split()[2] == "31" and cron.split()[3] == "11"))
)
durations = st.sampled_from([60.0, 90.0, 600.0, HOUR, 4 * HOUR, 25 * HOUR, 9 * DAY])


@st.composite
def moments(draw: st.DrawFn) -> tuple[str, float]:
    """A zone and a time, most often within two days of a change of its clocks."""
    zone = draw(st.sampled_from(sorted(CHANGES)))
    day = draw(st.sampled_from(CHANGES[zone]))
    return zone, at(zone, f"{day} 12:00") + draw(st.integers(-2 * 86_400, 2 * 86_400))


@given(crons, durations, moments())
@example("* */3 * * SUN", 60.0, ("America/Sao_Paulo", 1541257200.0))
def test_the_three_answers_agree(cron: str, duration: float, moment: tuple[str, float]) -> None:
    zone, now = moment
    window = Window(cron, duration, zone)
    opens, closes = window.opens_at(now), window.closes_at(now)
    assert window.is_open(now) == (opens == now)
    assert window.is_open(opens)
    assert now <= opens < closes
    assert window.is_open(closes - 1)
    assert window.closes_at(opens) == closes
    assert opens == now or not any(
        window.is_open(now + (opens - now) * part) for part in (0.0, 0.3, 0.7, 0.99)
    )
    assume(closes - opens < (LOOK_AHEAD - 1) * 60)
    assert not window.is_open(closes)
    assert all(window.is_open(opens + (closes - opens) * part) for part in (0.1, 0.5, 0.9))


@given(crons, moments(), st.lists(st.integers(0, 86_400), max_size=4))
@example("* */3 * * SUN", ("America/Sao_Paulo", 1541257200.0), [43199, 43200])
def test_from_wherever_it_is_asked_the_next_opening_is_the_same(
    cron: str, moment: tuple[str, float], steps: list[int]
) -> None:
    zone, now = moment
    window = Window(cron, 60.0, zone)
    opens = window.opens_at(now)
    for step in sorted(steps):
        if now + step <= opens:
            assert window.opens_at(now + step) == opens


def by_the_minute(cron: str, zone: str, start: int, end: int) -> list[float]:
    """The rules said another way: every minute of real time from ``start``, with all that its clock shows or passes."""
    clock, minute, found = zoneinfo.ZoneInfo(zone), dt.timedelta(minutes=1), []
    starred = any(field.startswith("*") for field in cron.split()[:2])
    shown = {now: dt.datetime.fromtimestamp(now, clock).replace(tzinfo=None) for now in range(start, end, 60)}
    latest = min(shown.values()) - minute
    ticks = set(takewhile(lambda tick: tick <= max(shown.values()), CronSim(cron, latest)))
    for now, face in shown.items():
        passed = [latest + minute * n for n in range(1, (face - latest) // minute + 1)]
        if ticks.intersection([face] if starred else passed):
            found.append(float(now))
        latest = max(latest, face)
    return found


@lru_cache
def changed(zone: str, day: str) -> int:
    """The first minute with another offset, looked for from a day before; noon where there is none."""
    noon, clock = int(at(zone, f"{day} 12:00")), zoneinfo.ZoneInfo(zone)
    offsets = {
        now: dt.datetime.fromtimestamp(now, clock).utcoffset()
        for now in range(noon - 129_600, noon + 86_400, 60)
    }
    return next((now for now, offset in offsets.items() if offset != offsets[noon - 129_600]), noon)


def test_clocks_are_changed_on_the_days_of_these_tests() -> None:
    unchanged = {
        zone
        for zone, days in CHANGES.items()
        for day in days
        if changed(zone, day) == at(zone, f"{day} 12:00")
    }
    assert unchanged == {"UTC", "Asia/Kolkata"}


@settings(deadline=None)
@given(crons, st.sampled_from([(zone, day) for zone, days in CHANGES.items() for day in days]))
@example("* 1 * * SUN", ("America/Sao_Paulo", "2018-11-04"))
@example("*/17 3 * * *", ("Australia/Lord_Howe", "2027-10-03"))
def test_it_opens_when_each_minute_asked_for_itself_says_so(cron: str, change: tuple[str, str]) -> None:
    zone, day = change
    start, end = changed(zone, day) - 4 * 3600, changed(zone, day) + 4 * 3600
    window, now, found = Window(cron, 60.0, zone), float(start), []
    while (now := window.opens_at(now)) < end:
        found.append(now)
        now += 60
    assert found == by_the_minute(cron, zone, start, end)


def made(cron: str, duration: str, zone: str) -> Window | str:
    """The window, or the code of the refusal."""
    try:
        return parse_window(cron, duration, zone)
    except ValidationError as error:
        return error.code


@given(st.text(max_size=30), st.text(max_size=12), st.text(max_size=30))
def test_any_text_is_a_window_or_refused(cron: str, duration: str, zone: str) -> None:
    window = made(cron, duration, zone)
    usable = isinstance(window, Window) and window.is_open(window.opens_at(0.0))
    assert usable or window in {"V031", "V070", "V071", "V072", "V073"}


@given(st.lists(st.text("0123456789*/-,L#WMONFEB", max_size=6), min_size=5, max_size=5).map(" ".join))
def test_any_five_fields_are_a_cron_expression_or_refused(cron: str) -> None:
    window = made(cron, "1h", "Europe/Berlin")
    usable = isinstance(window, Window) and window.is_open(window.opens_at(1.8e9))
    assert usable or window in {"V070", "V072"}
