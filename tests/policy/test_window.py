"""Windows cut time into pieces without gap or overlap, whatever the clocks do."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quotactl.policy.window import (
    DAY,
    HOUR_MS,
    MONTH,
    WEEK,
    Calendar,
    Period,
    from_ms,
    period_of_length,
    to_ms,
    window_at,
)

ZONES = (
    "UTC", "Europe/Rome", "America/Havana", "Asia/Kolkata", "Asia/Beirut", "Australia/Lord_Howe",
    "Pacific/Apia", "Africa/Cairo", "America/St_Johns", "America/Toronto", "Asia/Kathmandu",
    "Pacific/Kiritimati", "Pacific/Kwajalein", "America/Sao_Paulo", "Antarctica/Troll",
)  # fmt: skip
MINUTE = timedelta(minutes=1)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


zones = st.sampled_from(ZONES).map(lambda name: Calendar(ZoneInfo(name)))
periods = st.one_of(st.sampled_from((DAY, WEEK, MONTH)), st.integers(1, 1439).map(period_of_length))
# 1985 to 2040: every zone above has changed its clocks in it, some their date.
moments = st.integers(
    to_ms(datetime(1985, 1, 1, tzinfo=UTC)), to_ms(datetime(2040, 1, 1, tzinfo=UTC))
)


def test_the_first_instant_of_all_is_in_a_day() -> None:
    assert Calendar(ZoneInfo("UTC")).day(0) == (0, 86_400_000)


def test_ledgers_keep_periods_by_lengths_that_never_change() -> None:
    assert [period.length_min for period in (DAY, WEEK, MONTH)] == [1440, 10080, 43200]
    for period in (DAY, WEEK, MONTH, period_of_length(1), period_of_length(180)):
        assert period_of_length(period.length_min) == period


@given(calendar=zones, period=periods, at=moments)
@settings(deadline=None)
def test_every_moment_lies_in_exactly_one_window(
    calendar: Calendar, period: Period, at: int
) -> None:
    window = calendar.window(period, at)
    assert window.starts_at_ms <= at < window.reset_at_ms
    for inside in (window.starts_at_ms, (window.starts_at_ms + at) // 2, window.reset_at_ms - 1):
        assert calendar.window(period, inside) == window


@given(calendar=zones, period=periods, at=moments)
@settings(deadline=None)
def test_windows_that_follow_each_other_meet(calendar: Calendar, period: Period, at: int) -> None:
    window = calendar.window(period, at)
    assert calendar.window(period, window.reset_at_ms).starts_at_ms == window.reset_at_ms
    assert calendar.window(period, window.starts_at_ms - 1).reset_at_ms == window.starts_at_ms


@given(calendar=zones, period=st.sampled_from((WEEK, MONTH)), at=moments)
@settings(deadline=None)
def test_weeks_and_months_are_made_of_whole_days(
    calendar: Calendar, period: Period, at: int
) -> None:
    window = calendar.window(period, at)
    edge = window.starts_at_ms
    starts = []
    while edge < window.reset_at_ms:
        starts.append(edge)
        edge = calendar.day(edge).reset_at_ms
    assert edge == window.reset_at_ms
    assert calendar.day_starts(window) == starts


@given(calendar=zones, at=moments)
@settings(deadline=None)
def test_what_is_charged_to_a_day_counts_in_it(calendar: Calendar, at: int) -> None:
    day = calendar.day(at)
    assert calendar.begins_a_day(day.starts_at_ms)
    assert calendar.day_charged(day.starts_at_ms) == day
    for moved_ms in (-11 * HOUR_MS, -1, 1, 3 * HOUR_MS):
        start = day.starts_at_ms + moved_ms
        if day.reset_at_ms - day.starts_at_ms == 24 * HOUR_MS:
            assert calendar.day_charged(start) == day


@given(calendar=zones, at=moments)
@settings(deadline=None)
def test_hours_counted_from_the_days_start_stay_in_their_day(calendar: Calendar, at: int) -> None:
    hour = calendar.hour_of(at)
    assert hour <= at < hour + HOUR_MS
    assert calendar.day(hour) == calendar.day(at)


@given(length_min=st.integers(1, 1439), at=moments, zone=st.sampled_from(ZONES))
def test_shorter_windows_are_the_same_in_every_zone(length_min: int, at: int, zone: str) -> None:
    window = Calendar(ZoneInfo(zone)).window(period_of_length(length_min), at)
    assert window.starts_at_ms == at // (length_min * 60_000) * (length_min * 60_000)
    assert window.reset_at_ms - window.starts_at_ms == length_min * 60_000


@given(at=moments)
def test_milliseconds_come_back_as_they_went(at: int) -> None:
    assert to_ms(from_ms(at)) == at


DAYS = [
    # zone, day, hours, first moment
    ("Europe/Rome", "2025-03-29", 24.0, "2025-03-28T23:00:00Z"),
    ("Europe/Rome", "2025-03-30", 23.0, "2025-03-29T23:00:00Z"),
    ("Europe/Rome", "2025-10-26", 25.0, "2025-10-25T22:00:00Z"),
    ("America/Havana", "2025-03-09", 23.0, "2025-03-09T05:00:00Z"),  # begins at 01:00
    ("America/Havana", "2025-11-02", 25.0, "2025-11-02T04:00:00Z"),  # has two midnights
    ("Asia/Beirut", "2025-03-30", 23.0, "2025-03-29T22:00:00Z"),  # begins at 01:00
    ("Asia/Beirut", "2025-10-25", 25.0, "2025-10-24T21:00:00Z"),  # 23:00 comes twice
    ("Australia/Lord_Howe", "2025-10-05", 23.5, "2025-10-04T13:30:00Z"),
    ("Australia/Lord_Howe", "2025-04-06", 24.5, "2025-04-05T13:00:00Z"),
    ("Pacific/Apia", "2011-12-29", 24.0, "2011-12-29T10:00:00Z"),
    ("Pacific/Apia", "2011-12-30", 0.0, "2011-12-30T10:00:00Z"),
    ("Pacific/Apia", "2011-12-31", 24.0, "2011-12-30T10:00:00Z"),
    ("Africa/Cairo", "2026-04-24", 23.0, "2026-04-23T22:00:00Z"),  # begins at 01:00
    ("America/Toronto", "1987-10-25", 25.0, "1987-10-25T04:00:00Z"),
    # 00:01 back to 23:01: an hour of the evening before shows twice, once in this day.
    ("America/St_Johns", "2009-11-01", 25.0, "2009-11-01T02:30:00Z"),
    ("Asia/Kolkata", "2025-03-30", 24.0, "2025-03-29T18:30:00Z"),
    ("UTC", "2024-02-29", 24.0, "2024-02-29T00:00:00Z"),
    ("UTC", "2025-12-31", 24.0, "2025-12-31T00:00:00Z"),
]


@pytest.mark.parametrize(("zone", "day", "hours", "first"), DAYS)
def test_a_day_lasts_as_long_as_its_clocks_say(
    zone: str, day: str, hours: float, first: str
) -> None:
    calendar = Calendar(ZoneInfo(zone))
    on = date.fromisoformat(day)
    starts, ends = calendar.start_of(on), calendar.start_of(on + timedelta(days=1))
    assert from_ms(starts) == datetime.fromisoformat(first)
    assert (ends - starts) / HOUR_MS == hours
    if hours:
        assert calendar.window(DAY, starts) == (starts, ends)


@pytest.mark.parametrize(("zone", "day"), [(zone, day) for zone, day, *_ in DAYS])
def test_a_day_begins_at_the_first_minute_that_bears_its_date(zone: str, day: str) -> None:
    """Look at every minute from 30 hours before: slow, but nothing to get wrong."""
    on, where = date.fromisoformat(day), ZoneInfo(zone)
    at = datetime(on.year, on.month, on.day, tzinfo=UTC) - timedelta(hours=30)
    while at.astimezone(where).date() < on:
        at += MINUTE
    assert from_ms(Calendar(where).start_of(on)) == at


def test_an_evening_that_shows_again_after_midnight_belongs_to_the_day_that_began() -> None:
    # St. John's put its clocks back at 00:01, to 23:01 of the day before.
    calendar = Calendar(ZoneInfo("America/St_Johns"))
    day = calendar.day(to_ms(utc("2009-11-01 02:30")))
    again = to_ms(utc("2009-11-01 02:45"))
    assert from_ms(again).astimezone(calendar.zone).date() == date(2009, 10, 31)
    fresh = Calendar(calendar.zone)
    assert fresh.date_of(again) == date(2009, 11, 1)
    assert fresh.day(again) == day


def test_a_date_that_was_skipped_has_no_moment() -> None:
    apia = Calendar(ZoneInfo("Pacific/Apia"))
    before = apia.day(to_ms(datetime(2011, 12, 30, 9, 59, tzinfo=UTC)))
    after = apia.day(to_ms(datetime(2011, 12, 30, 10, 0, tzinfo=UTC)))
    assert apia.date_of(before.starts_at_ms) == date(2011, 12, 29)
    assert apia.date_of(after.starts_at_ms) == date(2011, 12, 31)
    assert before.reset_at_ms == after.starts_at_ms


@pytest.mark.parametrize(
    ("zone", "period", "at", "starts", "ends"),
    [
        ("UTC", WEEK, "2025-03-30 23:59:59", "2025-03-24", "2025-03-31"),
        ("UTC", WEEK, "2025-03-31", "2025-03-31", "2025-04-07"),
        ("UTC", WEEK, "2026-01-01 12:00", "2025-12-29", "2026-01-05"),
        ("Europe/Rome", WEEK, "2025-03-30 12:00", "2025-03-23 23:00", "2025-03-30 22:00"),
        ("UTC", MONTH, "2024-02-29 23:59:59", "2024-02-01", "2024-03-01"),
        ("UTC", MONTH, "2025-02-28", "2025-02-01", "2025-03-01"),
        ("UTC", MONTH, "2025-12-31 23:59:59", "2025-12-01", "2026-01-01"),
        ("Europe/Rome", MONTH, "2025-12-31 23:00", "2025-12-31 23:00", "2026-01-31 23:00"),
        ("Pacific/Apia", MONTH, "2011-12-30 10:00", "2011-12-01 10:00", "2011-12-31 10:00"),
    ],
)  # fmt: skip
def test_weeks_start_on_monday_and_months_on_the_first(
    zone: str, period: Period, at: str, starts: str, ends: str
) -> None:
    window = window_at(period, ZoneInfo(zone), utc(at))
    assert window == (utc(starts), utc(ends))


@given(calendar=zones, at=moments)
@settings(deadline=None)
def test_a_week_starts_on_a_monday(calendar: Calendar, at: int) -> None:
    starts = calendar.window(WEEK, at).starts_at_ms
    monday = calendar.date_of(starts)
    assert monday.weekday() == 0 or calendar.start_of(monday - timedelta(days=1)) == starts


def test_a_three_hour_window_is_absolute_time_also_when_clocks_change() -> None:
    rome = ZoneInfo("Europe/Rome")
    at = datetime(2025, 3, 30, 1, 30, tzinfo=UTC)
    assert window_at(period_of_length(180), rome, at) == (
        datetime(2025, 3, 30, 0, tzinfo=UTC),
        datetime(2025, 3, 30, 3, tzinfo=UTC),
    )
