"""`solve` finds the largest caps that fit: feasible, and one more is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotactl.policy.solve import solve

DEMANDS = st.dictionaries(st.integers(0, 30), st.integers(1, 5), max_size=6)
WINDOWS = st.lists(
    st.fixed_dictionaries({"free": DEMANDS, "plus": DEMANDS, "pro": DEMANDS}),
    min_size=1,
    max_size=3,
)


def served(windows: list[dict[str, dict[int, int]]], caps: dict[str, float]) -> float:
    """The slow way: user by user, in the fullest window."""
    return max(
        sum(
            min(demand, caps[group])
            for group, demands in window.items()
            for demand, users in demands.items()
            for _ in range(users)
        )
        for window in windows
    )


def as_numbers(caps: dict[str, int | None]) -> dict[str, float]:
    return {group: float("inf") if cap is None else cap for group, cap in caps.items()}


@given(WINDOWS, st.integers(0, 300), st.integers(0, 3))
def test_the_caps_fit_and_one_more_does_not(
    windows: list[dict[str, dict[int, int]]], capacity: int, least: int
) -> None:
    found = solve(windows, capacity, least={"free": least})
    caps = as_numbers(dict(found.caps))
    assert found.served == served(windows, caps)
    if not found.fits:
        assert caps == {"free": least, "plus": 0, "pro": 0}
        assert found.short_by == found.served - capacity > 0
        return
    assert found.served <= capacity
    assert found.short_by == 0
    # One number for all, but for a least that is more.
    number = min(caps["plus"], caps["pro"])
    assert caps["plus"] == caps["pro"] and caps["free"] == max(number, least)
    if number != float("inf"):
        more = {"plus": number + 1, "pro": number + 1, "free": max(number + 1, least)}
        assert served(windows, more) > capacity


@given(WINDOWS, st.integers(0, 300), st.integers(0, 3))
def test_protected_groups_come_first(
    windows: list[dict[str, dict[int, int]]], capacity: int, least: int
) -> None:
    found = solve(windows, capacity, protected=frozenset({"pro"}), least={"free": least})
    caps = as_numbers(dict(found.caps))
    if not found.fits:
        assert caps == {"free": least, "plus": 0, "pro": 0}
        assert found.short_by == served(windows, caps) - capacity > 0
        return
    assert served(windows, caps) == found.served <= capacity
    if caps["pro"] != float("inf"):
        # Even with the least for the others, it could not have one more.
        more = {"pro": caps["pro"] + 1, "free": least, "plus": 0}
        assert served(windows, more) > capacity
    if caps["plus"] != float("inf"):
        more = {**caps, "plus": caps["plus"] + 1, "free": max(caps["plus"] + 1, least)}
        assert served(windows, more) > capacity


@pytest.mark.parametrize(
    ("demands", "capacity", "cap", "sum_of_it"),
    [
        ({5: 2, 2: 1}, 9, 3, 8),
        ({5: 2, 2: 1}, 12, None, 12),
        ({5: 2, 2: 1}, 11, 4, 10),
        ({1: 10}, 9, 0, 0),
        ({2**53 - 1: 3}, 2**53, (2**53) // 3, 3 * ((2**53) // 3)),
        ({}, 0, None, 0),
    ],
)
def test_examples(demands: dict[int, int], capacity: int, cap: int | None, sum_of_it: int) -> None:
    found = solve([{"free": demands}], capacity)
    assert (found.fits, found.caps, found.served) == (True, {"free": cap}, sum_of_it)


def test_what_does_not_fit_says_by_how_much() -> None:
    found = solve([{"free": {5: 10}}, {"free": {5: 12}}], 8, least={"free": 1})
    assert (found.fits, found.short_by, found.caps) == (False, 4, {"free": 1})
