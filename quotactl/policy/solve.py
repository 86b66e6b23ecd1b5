"""The largest caps under which recorded demand fits into a capacity: exact, and pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

from quotactl.frozen import frozen

Histogram = Mapping[int, int]
"""Units that one user would take in a window → how many users would."""


@frozen
class Solution:
    """`caps` by group: the most for each of its users in a window; None needs none.

    `served` units at most in any window. Where `fits` is False even the least that
    everybody must have is `short_by` units too much, and `caps` are that least.
    """

    fits: bool
    served: int
    caps: Mapping[str, int | None]
    short_by: int


def solve(
    windows: Sequence[Mapping[str, Histogram]],
    capacity: int,
    *,
    protected: frozenset[str] = frozenset(),
    least: Mapping[str, int] | None = None,
) -> Solution:
    """Find the largest caps, by group of users, under which every window fits.

    One cap for all groups that are not protected, but no group's below its `least`. The
    protected ones come first: theirs is the largest that leaves the others their least,
    and only then the others'. With demands of 5, 5 and 2 and a capacity of 9 it is 3:
    3 + 3 + 2 units are served, and with 4 it would be 10.
    """
    least = least or {}
    groups = sorted({group for window in windows for group in window} | set(least))
    first = [group for group in groups if group in protected]
    others = [group for group in groups if group not in protected]
    most = max((d for w in windows for demands in w.values() for d in demands), default=0)

    tables = [{g: _Cumulated(demands) for g, demands in w.items()} for w in windows]

    def served(cap_first: int, cap_others: int) -> int:
        caps = {g: max(cap_first, least.get(g, 0)) for g in first}
        caps |= {g: max(cap_others, least.get(g, 0)) for g in others}
        return max((sum(t.under(caps[g]) for g, t in table.items()) for table in tables), default=0)

    short_by = served(0, 0) - capacity
    if short_by > 0:
        return Solution(False, served(0, 0), {g: least.get(g, 0) for g in groups}, short_by)
    cap_first = _largest(most, lambda cap: served(cap, 0) <= capacity)
    cap_others = _largest(most, lambda cap: served(cap_first, cap) <= capacity)
    found = {
        group: None if cap >= most else max(cap, least.get(group, 0))
        for names, cap in ((first, cap_first), (others, cap_others))
        for group in names
    }
    return Solution(True, served(cap_first, cap_others), found, 0)


class _Cumulated:
    """A histogram that tells quickly what a cap leaves of it."""

    def __init__(self, demands: Histogram) -> None:
        self._demands = sorted(demands)
        self._users = [0, *accumulate(demands[d] for d in self._demands)]
        self._units = [0, *accumulate(d * demands[d] for d in self._demands)]

    def under(self, cap: int) -> int:
        """The sum over users of the smaller of their demand and the cap."""
        whole = bisect_right(self._demands, cap)
        return self._units[whole] + cap * (self._users[-1] - self._users[whole])


def _largest(most: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to `most` that fits; 0 does, and what is lower than one that does."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low
