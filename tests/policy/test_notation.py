"""What people write comes back as they wrote it, and what could mean two things is refused."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotactl.errors import InvalidInput
from quotactl.policy.model import AMOUNT_MAX, Limit
from quotactl.policy.notation import (
    check_amount,
    check_id,
    check_name,
    check_text,
    check_unit,
    could_be_an_id,
    duration_text,
    instant_text,
    limit_text,
    parse_amount,
    parse_assignment,
    parse_date,
    parse_duration,
    parse_instant,
    parse_limit,
    parse_number,
    parse_percent,
    parse_period,
    parse_rfc3339,
    shown,
)
from quotactl.policy.window import DAY, MONTH, WEEK, calendar_of, from_ms, period_of_length, to_ms

numbers = st.integers(0, AMOUNT_MAX)
periods = st.one_of(st.sampled_from((DAY, WEEK, MONTH)), st.integers(1, 1439).map(period_of_length))
limits = st.dictionaries(periods, st.none() | numbers, min_size=1, max_size=5).map(
    lambda found: tuple(
        Limit(period, found[period]) for period in sorted(found, key=lambda p: p.length_min)
    )
)


@given(limits)
def test_limits_come_back_as_they_were_written(wanted: tuple[Limit, ...]) -> None:
    assert parse_limit(limit_text(wanted)) == wanted


@given(periods)
def test_a_period_is_read_by_its_name(period: object) -> None:
    assert parse_period(str(period)) == period


@given(numbers)
def test_numbers_come_back(number: int) -> None:
    assert parse_number(str(number)) == number


@given(st.integers(1, 10**9).map(lambda s: s * 1000))
def test_durations_come_back(duration_ms: int) -> None:
    assert parse_duration(duration_text(duration_ms)) == duration_ms


@given(st.integers(0, 100))
def test_percentages_come_back(percent: int) -> None:
    assert parse_percent(f"{percent}%") == percent


@given(st.text(max_size=30))
def test_any_text_is_a_limit_or_refused_in_one_line(text: str) -> None:
    message = ""
    try:
        found = parse_limit(text)
    except InvalidInput as error:
        message = error.message
    else:
        assert parse_limit(limit_text(found)) == found
    assert message.isprintable()


# That of 9000-01-01, counted from 1970 on.
LAST_DAY = 2_567_655

READINGS: list[tuple[Callable[[str], object], str, object]] = [
    (parse_number, "40k", 40_000),
    (parse_number, "2M", 2_000_000),
    (parse_number, "0", 0),
    (parse_number, str(AMOUNT_MAX), AMOUNT_MAX),
    (parse_period, "5m", period_of_length(5)),
    (parse_period, "60m", period_of_length(60)),
    (parse_period, "3h", period_of_length(180)),
    (parse_period, "23h", period_of_length(1380)),
    (parse_limit, "0/day", (Limit(DAY, 0),)),
    (parse_limit, "unlimited", (Limit(DAY, None),)),
    (parse_limit, "40k/day", (Limit(DAY, 40_000),)),
    (parse_limit, "50/day,5/minute", (Limit(period_of_length(1), 5), Limit(DAY, 50))),
    (parse_limit, "50/day, 5/minute", (Limit(period_of_length(1), 5), Limit(DAY, 50))),
    (parse_limit, "9/month,3/week", (Limit(WEEK, 3), Limit(MONTH, 9))),
    (parse_duration, "1h30m", 5_400_000),
    (parse_duration, "7d", 604_800_000),
    (parse_duration, "90s", 90_000),
    (parse_assignment, "image=3/day", ("image", "3/day")),
    # the first and the last that are taken
    (parse_period, "1m", period_of_length(1)),
    (parse_period, "1439m", period_of_length(1439)),
    (parse_percent, "0%", 0),
    (parse_percent, "100%", 100),
    (parse_amount, "1", 1),
    (parse_duration, "1s", 1_000),
    (parse_duration, f"{LAST_DAY}d", LAST_DAY * 86_400_000),
    (parse_date, "1970-01-01", date(1970, 1, 1)),
    (parse_date, "8999-12-31", date(8999, 12, 31)),
    (parse_rfc3339, "1970-01-01T00:00:00Z", 0),
    (parse_rfc3339, "8999-12-31T23:59:59.999Z", LAST_DAY * 86_400_000 - 1),
]


@pytest.mark.parametrize(("read", "text", "value"), READINGS)
def test_it_means(read: Callable[[str], object], text: str, value: object) -> None:
    assert read(text) == value


REFUSALS: list[tuple[Callable[[str], object], str, str]] = [
    # what is written, and a word of the message or the hint
    (parse_limit, "3/fortnight", "minute, hour, day, week, month"),
    (parse_limit, "2/2d", "day, week or month"),
    (parse_limit, "5/1d", "day, week or month"),
    (parse_limit, "3/24h", "write day, week or month"),
    (parse_limit, "3/1440m", "write day, week or month"),
    (parse_limit, "3/0m", "empty"),
    (parse_limit, "3", "has no period"),
    (parse_limit, "", "has no period"),
    (parse_limit, "3/", "not known"),
    (parse_limit, "/day", "not a whole number"),
    (parse_limit, "3/day,", "has no period"),
    (parse_limit, "3/day,4/day", "twice"),
    (parse_limit, "60/60m,1/hour", "twice"),
    (parse_limit, "unlimited,3/day", "twice"),
    (parse_limit, "-1/day", "not a whole number"),
    (parse_limit, "-1", "has no period"),
    (parse_limit, "+3/day", "not a whole number"),
    (parse_limit, "1_000/day", "not a whole number"),
    (parse_limit, "1,000/day", "has no period"),
    (parse_limit, "1.5/day", "not a whole number"),
    (parse_limit, "1e3/day", "not a whole number"),
    (parse_limit, "0x10/day", "not a whole number"),
    (parse_limit, "٣/day", "not a whole number"),
    (parse_limit, "3/DAY", "not known"),
    (parse_limit, "3/da\ny", "not known"),
    (parse_limit, f"{2**53}/day", "2^53 - 1"),
    (parse_limit, "9007199254741k/day", "2^53 - 1"),
    (parse_number, "３", "not a whole number"),  # noqa: RUF001
    (parse_number, "1_000", "not a whole number"),
    (parse_number, "-1", "not a whole number"),
    (parse_number, " 1", "not a whole number"),
    (parse_number, "1\n", "not a whole number"),
    (parse_number, "5K", "not a whole number"),
    (parse_number, str(2**53), "2^53 - 1"),
    (parse_number, "9" * 17, "2^53 - 1"),
    (parse_number, "9" * 400, "out of range"),
    (parse_amount, "0", "1 to 2^53 - 1"),
    (parse_period, "24h", "day"),
    (parse_period, "2d", "day"),
    (parse_period, "٣h", "minute"),
    (parse_duration, "30", "write the unit"),
    (parse_duration, "", "write the unit"),
    (parse_duration, "0m", "empty"),
    (parse_duration, "30m1h", "write the unit"),
    (parse_duration, "-1h", "write the unit"),
    (parse_duration, "1.5h", "write the unit"),
    (parse_duration, "٣h", "write the unit"),
    (parse_duration, "999999999d", "out of range"),
    (parse_percent, "25", "percent sign"),
    (parse_percent, "101%", "0% to 100%"),
    (parse_percent, "-1%", "not a whole number"),
    (parse_percent, "2.5%", "not a whole number"),
    (parse_assignment, "image", "value 'image' is not of the form RESOURCE=VALUE"),
    (parse_assignment, "image", "such as image=3/day"),
    (parse_assignment, "=3/day", "RESOURCE=VALUE"),
    (parse_assignment, "image=", "RESOURCE=VALUE"),
    (parse_date, "2025-02-29", "2025-03-28"),
    (parse_date, "20250228", "2025-03-28"),
    (parse_rfc3339, "2025-03-28T09:00:00", "not understood"),
    (parse_rfc3339, "2025-13-28T09:00:00Z", "not understood"),
    (parse_rfc3339, "1969-12-31T23:59:59Z", "out of range"),
    (parse_rfc3339, "9000-01-01T00:00:00Z", "out of range"),
    (parse_duration, f"{LAST_DAY}d1s", "out of range"),
    (parse_date, "1969-12-31", "out of range"),
    (parse_date, "9000-01-01", "out of range"),
]


@pytest.mark.parametrize(("read", "text", "why"), REFUSALS)
def test_it_is_refused(read: Callable[[str], object], text: str, why: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        read(text)
    assert why in f"{refused.value.message} {refused.value.hint}"
    assert "\n" not in refused.value.message


@pytest.mark.parametrize(
    "text", ["18", "1743152400", "", "18:60", "25:00", "yesterday 09:00", "٣:00"]
)
def test_a_moment_that_could_mean_anything_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_instant(text, now_ms=0, calendar=calendar_of("Europe/Rome"))


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("18:00", "2025-03-29T17:00:00Z"),
        ("12:00", "2025-03-30T10:00:00Z"),  # it is 12:00 now, so the next one
        ("02:30", "2025-03-30T01:30:00Z"),  # skipped that night: 03:30
        ("tomorrow 09:00", "2025-03-30T07:00:00Z"),
        ("today 09:00", "2025-03-29T08:00:00Z"),
        ("2025-10-26 02:30", "2025-10-26T00:30:00Z"),  # comes twice: the first
        ("2025-03-28T09:00:00+05:30", "2025-03-28T03:30:00Z"),
        ("2025-03-28t09:00:00.25z", "2025-03-28T09:00:00.25+00:00"),
    ],
)
def test_moments_are_read_in_the_ledgers_zone(text: str, moment: str) -> None:
    noon = int(datetime(2025, 3, 29, 11, tzinfo=UTC).timestamp()) * 1000
    found = parse_instant(text, now_ms=noon, calendar=calendar_of("Europe/Rome"))
    assert from_ms(found) == datetime.fromisoformat(moment)


@pytest.mark.parametrize(
    ("zone", "now", "text", "moment"),
    [
        ("Europe/Rome", "2025-10-26T00:10:00Z", "02:30", "2025-10-26T00:30:00Z"),
        ("Europe/Rome", "2025-10-26T00:30:00Z", "02:30", "2025-10-26T01:30:00Z"),
        ("Europe/Rome", "2025-10-26T01:10:00Z", "02:30", "2025-10-26T01:30:00Z"),
        ("Europe/Rome", "2025-10-26T01:30:00Z", "02:30", "2025-10-27T01:30:00Z"),
        ("Europe/Rome", "2025-10-26T01:10:00Z", "today 02:30", "2025-10-26T00:30:00Z"),
        # Where clocks go back over midnight the evening before comes again.
        ("America/Sao_Paulo", "2018-02-18T02:10:00Z", "23:30", "2018-02-18T02:30:00Z"),
        # Skipped: once, behind the jump.
        ("Europe/Rome", "2025-03-30T00:10:00Z", "02:30", "2025-03-30T01:30:00Z"),
        ("Europe/Rome", "2025-03-30T01:30:00Z", "02:30", "2025-03-31T00:30:00Z"),
    ],
)
def test_the_next_time_of_day_is_the_next_one_where_clocks_change(
    zone: str, now: str, text: str, moment: str
) -> None:
    now_ms = to_ms(datetime.fromisoformat(now))
    found = parse_instant(text, now_ms=now_ms, calendar=calendar_of(zone))
    assert from_ms(found) == datetime.fromisoformat(moment)


@pytest.mark.parametrize(
    ("at_ms", "text"),
    [
        (None, "never"),
        (0, "1970-01-01 01:00 CET"),
        (1_743_152_401_000, "2025-03-28 10:00:01 CET"),
        (1_751_320_800_000, "2025-07-01 00:00 CEST"),
    ],
)
def test_a_moment_is_written_in_the_ledgers_zone(at_ms: int | None, text: str) -> None:
    assert instant_text(at_ms, calendar_of("Europe/Rome")) == text


@pytest.mark.parametrize("amount", [0, -1, 2**53, True, 1.0, "1", None])
def test_an_amount_is_a_whole_number_from_1_on(amount: object) -> None:
    with pytest.raises(InvalidInput):
        check_amount(amount)


def test_the_largest_amount_is_taken() -> None:
    assert check_amount(2**53 - 1) == 2**53 - 1


@pytest.mark.parametrize(
    "text", ["", "a\x00b", "a\nb", "\x1b[31m", "a\u2028b", "\ud800", "x" * 257, 7]
)
def test_an_id_with_control_characters_is_refused(text: object) -> None:
    with pytest.raises(InvalidInput):
        check_id(text, "user")


@pytest.mark.parametrize("text", ["x" * 256, "[red]x[/red]", "a b", "Zoë", "=1+1", "用户"])
def test_other_ids_are_taken_as_they_come(text: str) -> None:
    assert check_id(text, "user") == text


@pytest.mark.parametrize("text", ["", "a=b", "a b", "-a", "é", "x" * 65, "a\n"])
def test_a_name_fits_into_an_assignment(text: str) -> None:
    with pytest.raises(InvalidInput):
        check_name(text, "tier")


@pytest.mark.parametrize("text", ["x" * 64, "0", "A9_.:-"])
def test_other_names_are_taken_as_they_come(text: str) -> None:
    assert check_name(text, "tier") == text


@pytest.mark.parametrize("text", ["x" * 2000, "two\n\tlines", "[red]", "é\u2028"])
def test_a_reason_may_have_lines(text: str) -> None:
    check_text(text, "reason")


@pytest.mark.parametrize("text", ["", " \n", "x" * 2001, "\x1b[31m", "a\r", "\ud800", 7])
def test_a_reason_is_neither_empty_nor_long_nor_an_escape(text: object) -> None:
    with pytest.raises(InvalidInput, match="reason"):
        check_text(text, "reason")


def test_a_unit_is_short() -> None:
    check_unit("x" * 64)
    with pytest.raises(InvalidInput, match="unit has 65 characters"):
        check_unit("x" * 65)


def test_ids_of_rows_are_whole_numbers_that_a_row_can_have() -> None:
    numbers = (1, 2**63 - 1, 0, -1, 2**63, True, 1.0, "1", None)
    assert [could_be_an_id(number) for number in numbers] == [True, True, *[False] * 7]


def test_what_was_written_is_shown_on_one_line_and_shortened_where_it_is_long() -> None:
    assert shown("a\n\x1bé") == r"'a\n\x1b\xe9'"
    assert shown("x" * 78) == f"'{'x' * 78}'"
    assert shown("x" * 79) == f"'{'x' * 76}..."
    assert shown(16**5000) == "a number of thousands of digits"


@pytest.mark.parametrize(
    ("duration_ms", "text"),
    [(0, "0s"), (999, "0s"), (61_500, "1m1s"), (90_061_000, "1d1h1m1s"), (86_400_000, "1d")],
)
def test_a_duration_is_written_without_what_is_none(duration_ms: int, text: str) -> None:
    assert duration_text(duration_ms) == text
