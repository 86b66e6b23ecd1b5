"""What the same demand would have met: user by user, and under a ceiling over all."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotactl.policy.foresight import (
    NO_LIMIT,
    day_ceiling,
    limits_text,
    longest_run,
    served_in_shorter,
    served_of_user,
    under_total,
)
from quotactl.policy.model import Rule
from quotactl.policy.resolve import Ceiling
from quotactl.policy.window import DAY, MONTH, WEEK, Period, calendar_of, period_of_length

RULE = Rule("tier", 1, "free")
UTC = calendar_of("UTC")
DAY_MS = 86_400_000
# A Monday.
MONDAY = 1_742_774_400_000


def ceiling(period: Period, most: int | None) -> Ceiling:
    return Ceiling(period, most, RULE, most, RULE)


HOUR = period_of_length(60)


@pytest.mark.parametrize(
    ("limits", "text", "of_the_day", "on_one_day"),
    [
        ([(HOUR, 2), (DAY, 9), (WEEK, 4)], "4/week,9/day,2/hour", 9, 4),
        ([(DAY, 3), (WEEK, 8), (MONTH, 5)], "5/month,8/week,3/day", 3, 3),
        ([(HOUR, 2)], "2/hour", NO_LIMIT, NO_LIMIT),
        ([(HOUR, 2), (DAY, None)], "2/hour", NO_LIMIT, NO_LIMIT),
        ([(DAY, None)], "unlimited", NO_LIMIT, NO_LIMIT),
        ([(HOUR, None), (DAY, None)], "unlimited/hour", NO_LIMIT, NO_LIMIT),
        ([(DAY, None), (WEEK, 4)], "4/week", NO_LIMIT, 4),
        ([(DAY, 0)], "0/day", 0, 0),
    ],
)
def test_what_one_user_may_have_of_several_limits(
    limits: list[tuple[Period, int | None]], text: str, of_the_day: int, on_one_day: int
) -> None:
    ceilings = [ceiling(period, most) for period, most in limits]
    # One over everybody is nobody's own.
    ceilings.append(replace(ceiling(DAY, 1), shared=True))
    assert limits_text(ceilings) == text
    assert (day_ceiling(ceilings), longest_run(ceilings)) == (of_the_day, on_one_day)


@given(
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 50), min_size=1),
    st.dictionaries(st.sampled_from("xy"), st.integers(0, 50)),
    st.integers(0, 120),
)
def test_a_ceiling_over_all_is_met_to_the_unit_and_shared_in_proportion(
    served: dict[str, int], spared: dict[str, int], most: int
) -> None:
    left = under_total(served, spared, most)
    room = max(0, most - sum(spared.values()))
    assert sum(left.values()) == min(sum(served.values()), room)
    assert all(0 <= left[group] <= served[group] for group in served)
    total = sum(served.values())
    if total > room:
        assert all(abs(left[g] - served[g] * room / total) < 1 for g in served)


def test_a_day_serves_the_smaller_of_demand_and_ceiling() -> None:
    days = {MONDAY: (3, 8), MONDAY + DAY_MS: (1, 1)}
    assert served_of_user([ceiling(DAY, 3)], UTC, days, {}, list(days)) == (4, True)
    assert served_of_user([ceiling(DAY, 9)], UTC, days, {}, list(days)) == (9, False)
    assert served_of_user([ceiling(DAY, None)], UTC, days, {}, list(days)) == (9, False)


def test_what_was_used_earlier_in_a_week_or_month_counts() -> None:
    days = {MONDAY: (6, 6), MONDAY + DAY_MS: (2, 9)}
    tuesday = [MONDAY + DAY_MS]
    assert served_of_user([ceiling(WEEK, 10)], UTC, days, {}, tuesday) == (4, False)
    assert served_of_user([ceiling(WEEK, 8)], UTC, days, {}, tuesday) == (2, True)
    assert served_of_user([ceiling(WEEK, 5)], UTC, days, {}, tuesday) == (0, True)
    both = [ceiling(DAY, 3), ceiling(MONTH, 8)]
    assert served_of_user(both, UTC, days, {}, tuesday) == (2, True)


def test_shorter_windows_take_their_part_off_the_day() -> None:
    hour = period_of_length(60)
    days = {MONDAY: (7, 12)}
    shorter = {60: {MONDAY: (5, 8), MONDAY + 3_600_000: (2, 2)}}
    # 8 - 3 and 2 served, and 2 of which no hour is known.
    assert served_of_user([ceiling(hour, 5)], UTC, days, shorter, [MONDAY]) == (9, True)
    both = [ceiling(hour, 5), ceiling(DAY, 8)]
    assert served_of_user(both, UTC, days, shorter, [MONDAY]) == (8, True)


def test_what_a_minute_refuses_does_not_reach_its_hour() -> None:
    minute, hour = period_of_length(1), period_of_length(60)
    days = {MONDAY: (9, 20)}
    shorter = {
        1: {MONDAY: (5, 9), MONDAY + 60_000: (4, 6), MONDAY + 3_600_000: (0, 5)},
        60: {MONDAY: (9, 15), MONDAY + 3_600_000: (0, 5)},
    }
    # 5 + 5 of 15 in the first hour of which 8 pass, and 5 in the second.
    both = [ceiling(minute, 5), ceiling(hour, 8)]
    assert served_of_user(both, UTC, days, shorter, [MONDAY])[0] == 13
    assert served_in_shorter(both, shorter, 60) == {MONDAY: 8, MONDAY + 3_600_000: 5}
    assert served_in_shorter([ceiling(minute, 5), ceiling(DAY, 4)], shorter, 60) == {
        MONDAY: 4,
        MONDAY + 3_600_000: 4,
    }


def test_no_demand_is_nothing_served() -> None:
    assert served_of_user([ceiling(DAY, 3)], UTC, {}, {}, [MONDAY]) == (0, False)
