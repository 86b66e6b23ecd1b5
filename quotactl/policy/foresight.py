"""What the same demand would have met under other throttles: served and refused, pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

from quotactl.frozen import changed
from quotactl.policy.model import Account, Limit, Override, Policy, Resource, Throttle, Tier
from quotactl.policy.resolve import Ceiling, resolve
from quotactl.policy.window import DAY_LENGTH_MIN, MINUTE_MS, Calendar

Group = TypeVar("Group", bound=Hashable)

NO_LIMIT = 2**62
"""Stands for unlimited where numbers are compared; more than any user can ask for."""


def with_throttles(policy: Policy, added: Iterable[Throttle], removed: Iterable[int]) -> Policy:
    """The policy as it would be with throttles added, and others, by id, gone."""
    gone = set(removed)
    kept = tuple(t for t in policy.throttles if t.id not in gone)
    return changed(policy, throttles=(*kept, *added))


def ceilings_of(
    policy: Policy,
    tier: Tier | None,
    resource: Resource,
    at_ms: int,
    *,
    protected: bool = False,
    overrides: tuple[Override, ...] = (),
) -> tuple[Ceiling, ...]:
    """The ceilings of any user who is so placed, those over everybody too."""
    account = Account("", 0, False, tier, protected, resource, overrides=overrides)
    return resolve(policy, account, at_ms).ceilings


def own(ceilings: Iterable[Ceiling]) -> list[Ceiling]:
    """Those of one user alone, the shortest period first."""
    return [c for c in ceilings if not c.shared]


def limits_text(ceilings: Iterable[Ceiling]) -> str:
    """What one user may have: `3/day`; of several the longest period first."""
    limits = [Limit(c.period, c.amount_max) for c in own(ceilings)]
    finite = [limit for limit in limits if limit.amount_max is not None]
    shown = sorted(finite or limits[:1], key=lambda limit: -limit.period.length_min)
    return ",".join(str(limit) for limit in shown)


def day_ceiling(ceilings: Iterable[Ceiling]) -> int:
    """The most that one user may take on a day by the ceiling of the day itself."""
    most = [c.amount_max for c in own(ceilings) if c.period.length_min == DAY_LENGTH_MIN]
    return NO_LIMIT if not most or most[0] is None else most[0]


def longest_run(ceilings: Iterable[Ceiling]) -> int:
    """The most that one user may take on one day by any ceiling of a day or longer."""
    most = [
        c.amount_max
        for c in own(ceilings)
        if c.period.length_min >= DAY_LENGTH_MIN and c.amount_max is not None
    ]
    return min(most, default=NO_LIMIT)


# A window's (used, asked) in units, by its start.
Demand = Mapping[int, tuple[int, int]]


def served_of_user(
    ceilings: Iterable[Ceiling],
    calendar: Calendar,
    days: Demand,
    shorter: Mapping[int, Demand],
    span: Sequence[int],
) -> tuple[int, bool]:
    """What one user's demand on the days of `span` would have been served, and whether
    the user has reached a ceiling there.

    `days` may begin before the span: what was used earlier in a week or month counts.
    `shorter` has the demand of shorter windows, by length in minutes. In each window the
    smaller of demand and ceiling is served; a day's is not more than its windows', a
    week's not more than its days'.
    """
    mine = own(ceilings)
    served = {start: days[start][1] for start in span if start in days}
    cut_off = any(
        used >= ceiling.amount_max
        for ceiling in mine
        if ceiling.amount_max is not None and ceiling.period.shorter_than_day
        for start, (used, _) in shorter.get(ceiling.period.length_min, {}).items()
        if calendar.day(start).starts_at_ms in served
    )
    for start, units in refused_in_shorter(mine, shorter, DAY_LENGTH_MIN).items():
        day_ms = calendar.day(start).starts_at_ms
        if day_ms in served:
            served[day_ms] = max(0, served[day_ms] - units)
    for ceiling in mine:
        most, length_min = ceiling.amount_max, ceiling.period.length_min
        if most is None or ceiling.period.shorter_than_day:
            continue
        if length_min == DAY_LENGTH_MIN:
            cut_off = cut_off or any(days[start][0] >= most for start in served)
            served = {start: min(units, most) for start, units in served.items()}
        else:
            for window in {calendar.window(ceiling.period, start) for start in served}:
                inside = [s for s in days if window.starts_at_ms <= s < window.reset_at_ms]
                cut_off = cut_off or sum(days[s][0] for s in inside) >= most
                room = max(0, most - sum(days[s][0] for s in inside if s < min(span)))
                for start in sorted(set(inside) & set(served)):
                    served[start] = min(served[start], room)
                    room -= served[start]
    return sum(served.values()), cut_off


def served_in_shorter(
    ceilings: Iterable[Ceiling], shorter: Mapping[int, Demand], length_min: int
) -> dict[int, int]:
    """What each of one user's windows of a length under a day would have been served, by
    its start: what windows shorter than it let through, up to the lowest ceiling of that
    length or longer."""
    mine = own(ceilings)
    most = min(
        (
            c.amount_max
            for c in mine
            if c.amount_max is not None and c.period.length_min >= length_min
        ),
        default=NO_LIMIT,
    )
    refused = _by_window(refused_in_shorter(mine, shorter, length_min), length_min)
    return {
        start: min(max(0, asked - refused.get(start, 0)), most)
        for start, (_, asked) in shorter.get(length_min, {}).items()
    }


def refused_in_shorter(
    ceilings: Iterable[Ceiling], shorter: Mapping[int, Demand], below_min: int
) -> dict[int, int]:
    """Units that windows shorter than `below_min` minutes refuse one user, by when they
    begin. What a shorter one refuses does not reach a longer one."""
    refused: dict[int, int] = {}
    for ceiling in own(ceilings):
        most, length_min = ceiling.amount_max, ceiling.period.length_min
        if most is None or length_min >= below_min:
            continue
        before = _by_window(refused, length_min)
        for start, (_, asked) in shorter.get(length_min, {}).items():
            too_much = asked - before.get(start, 0) - most
            if too_much > 0:
                refused[start] = refused.get(start, 0) + too_much
    return refused


def _by_window(units: Mapping[int, int], length_min: int) -> dict[int, int]:
    """Units by when they were, summed by the windows of a length under a day."""
    length_ms = length_min * MINUTE_MS
    summed: dict[int, int] = {}
    for at_ms, count in units.items():
        start = at_ms - at_ms % length_ms
        summed[start] = summed.get(start, 0) + count
    return summed


def under_total(
    served: Mapping[Group, int], spared: Mapping[Group, int], most: int
) -> dict[Group, int]:
    """What is left of each group's units under a ceiling over all of them together.

    `spared` units pass and count. Who comes first can't be known, so what is too much is
    taken from the groups in proportion, to the unit.
    """
    total = sum(served.values())
    room = max(0, most - sum(spared.values()))
    if total <= room:
        return dict(served)
    left = {group: units * room // total for group, units in served.items()}
    rest = room - sum(left.values())
    by_remainder = sorted(served, key=lambda g: -(served[g] * room % total))
    for group in by_remainder[:rest]:
        left[group] += 1
    return left
