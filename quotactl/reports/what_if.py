"""The demand of some days under ceilings before and after: summed by tier.

In SQL where a day's ceilings are all there is; user by user where shorter or longer
windows, or overrides, have a say. What is for everybody together comes last.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

from quotactl.ledger.loaded import tier_or_default
from quotactl.policy.foresight import (
    Demand,
    ceilings_of,
    day_ceiling,
    own,
    served_of_user,
    under_total,
)
from quotactl.policy.model import Override, Policy, Resource, Rule, Throttle, Tier
from quotactl.policy.notation import instant_text
from quotactl.policy.resolve import Ceiling, spares
from quotactl.policy.window import DAY_LENGTH_MIN, HOUR_MS, MINUTE_MS, period_of_length

if TYPE_CHECKING:
    from quotactl.ledger.engine import Reading


@dataclass
class Sums:
    """Of one tier's users, or of those among them who are protected one by one.

    Units `before` and `after` would have been served.
    """

    users: int = 0
    cut_off: int = 0
    asked: int = 0
    before: int = 0
    after: int = 0

    def add(self, users: int, cut_off: int, asked: int, before: int, after: int) -> None:
        self.users += users
        self.cut_off += cut_off
        self.asked += asked
        self.before += before
        self.after += after


@dataclass
class Ground:
    """One resource on the days looked at, under the policy before and after.

    `warnings` collects what is to be said of the sums.
    """

    book: Reading
    resource: Resource
    before: Policy
    after: Policy
    throttles: Sequence[Throttle]
    starts: list[int]
    now_ms: int
    at_ms: int
    warnings: list[str] = field(default_factory=list)
    overrides: dict[int, list[Override]] = field(default_factory=dict)

    def ceilings(
        self, tier: Tier | None, *, protected: bool, overrides: Sequence[Override] = ()
    ) -> Both:
        before, after = (
            ceilings_of(
                policy,
                tier,
                self.resource,
                self.at_ms,
                protected=protected,
                overrides=tuple(overrides),
            )
            for policy in (self.before, self.after)
        )
        return before, after

    def loaded(self) -> Ground:
        """The same with the overrides that hold, by user."""
        for user_id, id_, period, most, expires in self.book.overrides_of_resource(
            self.resource.id, self.now_ms
        ):
            override = Override(
                id_, None if period is None else period_of_length(period), most, expires
            )
            self.overrides.setdefault(user_id, []).append(override)
        return self

    @property
    def span(self) -> tuple[int, int]:
        calendar = self.before.calendar
        return self.starts[0], calendar.day(self.starts[-1]).reset_at_ms


# (tier id, whether its users are protected one by one)
Group = tuple[int | None, int]

# The ceilings before and after.
Both = tuple[tuple[Ceiling, ...], tuple[Ceiling, ...]]


def sums_of(ground: Ground) -> dict[Group, Sums]:
    """Demand of the days by group: users of a tier in scope, and those who are protected."""
    policy = ground.before
    known: list[tuple[Group, Tier | None]] = []
    default = policy.default_tier
    for tier in [None, *policy.tiers.values()]:
        tier_id = None if tier is None else tier.id
        if any(t.scope.covers(ground.resource.id, tier_id) for t in ground.throttles):
            known += [((tier_id, protected), tier) for protected in (0, 1)]
    fast: list[tuple[int | None, int, int, int]] = []
    slow: dict[Group, Group] = {}
    for group, tier in known:
        before, after = ground.ceilings(tier, protected=bool(group[1]))
        # Users on no tier of their own are on the default one.
        stored = [group] if tier is not None else []
        if tier is default:
            stored.append((None, group[1]))
        windows = _periods((*before, *after))
        for place in stored:
            if windows:
                slow[place] = group
            else:
                fast.append((*place, day_ceiling(before), day_ceiling(after)))
    ground.loaded()

    def add_up(starts: list[int]) -> dict[Group, Sums]:
        found: dict[Group, Sums] = {group: Sums() for group, _ in known}
        _add_fast(ground, starts, fast, found)
        _add_slow(ground, starts, slow, found, overridden=False)
        if ground.overrides:
            _add_slow(ground, starts, {g: g for g, _ in known}, found, overridden=True)
        return found

    sums = add_up(ground.starts)
    if any(c.shared for _, tier in known for c in ground.ceilings(tier, protected=False)[1]):
        daily = {start: add_up([start]) for start in ground.starts}
        _share_out(ground, daily, sums)
    return sums


def _group_of(ground: Ground, tier_id: int | None, protected: int) -> Group:
    tier = tier_or_default(ground.before, tier_id)
    return (None if tier is None else tier.id, protected)


def _add_fast(
    ground: Ground,
    starts: list[int],
    ceilings: list[tuple[int | None, int, int, int]],
    sums: dict[Group, Sums],
) -> None:
    if not ceilings:
        return
    for tier_id, protected, *values in ground.book.outlook_of_users(
        ground.resource.id, starts, ceilings, ground.now_ms
    ):
        sums[_group_of(ground, tier_id, protected)].add(*values)


def _add_slow(
    ground: Ground,
    starts: list[int],
    places: dict[Group, Group],
    sums: dict[Group, Sums],
    *,
    overridden: bool,
) -> None:
    """User by user: those of groups with other ceilings than a day's, or with overrides."""
    if not places:
        return
    scope = set(places.values())
    for group, (before, after), days, shorter in users_of(
        ground, starts, places, overridden=overridden
    ):
        if group not in scope:
            continue
        asked = sum(days[start][1] for start in starts if start in days)
        if not asked:
            continue
        calendar = ground.before.calendar
        old, _ = served_of_user(before, calendar, days, shorter, starts)
        new, cut_off = served_of_user(after, calendar, days, shorter, starts)
        sums[group].add(1, int(cut_off and before != after), asked, old, new)


def users_of(
    ground: Ground,
    starts: list[int],
    places: dict[Group, Group],
    *,
    overridden: bool,
    lengths: Sequence[int] = (),
) -> Iterator[tuple[Group, Both, Demand, dict[int, Demand]]]:
    """Each user's group, ceilings and demand: days, from the start of the longest window on,
    and the shorter windows that have a say, those of `lengths` in minutes too."""
    calendar = ground.before.calendar
    end_ms = calendar.day(starts[-1]).reset_at_ms
    periods = set(lengths)
    for tier in [None, *ground.before.tiers.values()]:
        for protected in (False, True):
            for ceilings in ground.ceilings(tier, protected=protected):
                periods |= _periods(ceilings)
    periods |= {o.period.length_min for os in ground.overrides.values() for o in os if o.period}
    long = [period_of_length(p) for p in periods if p > DAY_LENGTH_MIN]
    first_ms = min([starts[0], *(calendar.window(p, starts[0]).starts_at_ms for p in long)])
    groups = list(places)
    sources = {
        length: _ShortWindows(ground, length, (starts[0], end_ms), groups, overridden=overridden)
        for length in sorted(p for p in periods if p < DAY_LENGTH_MIN)
    }
    rows = ground.book.demand_of_users(
        ground.resource.id,
        DAY_LENGTH_MIN,
        (first_ms, end_ms),
        groups=groups,
        overridden=overridden,
        now_ms=ground.now_ms,
    )
    # What all users of a group have who have no overrides.
    plain: dict[Group, Both] = {}
    for user_id, found in groupby(rows, key=lambda row: row[0]):
        of_user = list(found)
        group = _group_of(ground, of_user[0][1], of_user[0][2])
        both = plain.get(group) if user_id not in ground.overrides else None
        if both is None:
            tier = None if group[0] is None else ground.before.tiers[group[0]]
            both = ground.ceilings(
                tier, protected=bool(group[1]), overrides=ground.overrides.get(user_id, ())
            )
            if user_id not in ground.overrides:
                plain[group] = both
        days = {row[3]: (row[4], row[5]) for row in of_user}
        asked = sum(row[5] for row in of_user if row[3] >= starts[0])
        needed = _periods((*both[0], *both[1])).union(lengths)
        shorter = {
            length: source.of(user_id, asked if length in needed else 0)
            for length, source in sources.items()
        }
        yield group, both, days, shorter


class _ShortWindows:
    """Windows of one length under a day, handed out user by user in the order of their ids.

    As counted where they were; what is missing is filled up with what was taken, from
    entries, and `ground` is told so.
    """

    def __init__(
        self,
        ground: Ground,
        length_min: int,
        span: tuple[int, int],
        groups: list[Group],
        *,
        overridden: bool,
    ) -> None:
        self._ground = ground
        self._length_min = length_min
        self._span = span
        self._counted = ground.book.demand_of_users(
            ground.resource.id,
            length_min,
            span,
            groups=groups,
            overridden=overridden,
            now_ms=ground.now_ms,
        )
        self._row = next(self._counted, None)
        self._any_counted = self._row is not None
        self._told = False
        self._taken: Iterator[tuple[int, int, int]] | None = None
        self._taken_row: tuple[int, int, int] | None = None

    def of(self, user_id: int, asked: int) -> Demand:
        """(used, asked) of one user's windows by their start, on days on which they asked for
        so many units. Nothing is `used` in a window that is over or was not counted: who
        is in it begins at 0."""
        inside: dict[int, tuple[int, int]] = {}
        while (row := self._row) is not None and row[0] <= user_id:
            if row[0] == user_id:
                inside[row[3]] = (0 if self._is_over(row[3]) else row[4], row[5])
            self._row = next(self._counted, None)
        if sum(units for _, units in inside.values()) < asked:
            for start, units in self._taken_by(user_id):
                inside.setdefault(start, (0, units))
            self._warn()
        return inside

    def _is_over(self, start: int) -> bool:
        """Whether a window of today is over; on a past day it stands for what was."""
        now_ms = self._ground.now_ms
        today = self._ground.before.calendar.day(now_ms)
        return start >= today.starts_at_ms and start + self._length_min * MINUTE_MS <= now_ms

    def _taken_by(self, user_id: int) -> list[tuple[int, int]]:
        if self._taken is None:
            # Not before somebody's windows are missing: it looks at every entry of the days.
            self._taken = self._ground.book.taken_of_users(
                self._ground.resource.id, self._length_min, self._span
            )
            self._taken_row = next(self._taken, None)
        found = []
        while (row := self._taken_row) is not None and row[0] <= user_id:
            if row[0] == user_id:
                found.append((row[1], row[2]))
            self._taken_row = next(self._taken, None)
        return found

    def _warn(self) -> None:
        if self._told:
            return
        self._told = True
        ground = self._ground
        name, what = period_of_length(self._length_min).name, ground.resource.name
        if self._any_counted:
            ground.warnings.append(
                f"Some windows of one {name} of {what} were not counted: what was refused in them "
                "is not known; only what was taken is."
            )
        else:
            ground.warnings.append(
                f"Windows of one {name} are new for {what}: each user's begins at 0, "
                "and what was refused in one is not known; only what was taken is."
            )
        kept_ms = ground.book.head.checkpoint_at_ms
        if self._span[0] < kept_ms:
            ground.warnings.append(
                f"What was taken before {instant_text(kept_ms, ground.before.calendar)} in windows "
                f"of one {name} is pruned: they are taken to have refused nothing then."
            )


def _periods(ceilings: Sequence[Ceiling]) -> set[int]:
    """The windows, other than days, that have a say."""
    return {c.period.length_min for c in own(ceilings) if c.amount_max is not None} - {
        DAY_LENGTH_MIN
    }


def _share_out(
    ground: Ground, daily: dict[int, dict[Group, Sums]], sums: dict[Group, Sums]
) -> None:
    """Take off what ceilings over everybody would refuse, in each of their windows."""
    for which, policy in (("before", ground.before), ("after", ground.after)):
        shared: dict[Rule, Ceiling] = {}
        for tier in [None, *policy.tiers.values()]:
            found = ceilings_of(policy, tier, ground.resource, ground.at_ms)
            shared |= {ceiling.rule: ceiling for ceiling in found if ceiling.shared}
        for ceiling in shared.values():
            lost = _lost_to(ground, ceiling, daily, sums, which)
            for group, units in lost.items():
                setattr(sums[group], which, max(0, getattr(sums[group], which) - units))
            if which == "after" and _is_full(ground, ceiling):
                for group in lost:
                    sums[group].cut_off = sums[group].users


def _spared(ground: Ground, ceiling: Ceiling, group: Group) -> bool:
    tier = None if group[0] is None else ground.after.tiers[group[0]]
    if ceiling.tier_ids is not None and group[0] not in ceiling.tier_ids:
        return True
    throttle = next((t for t in ground.after.throttles if t.id == ceiling.rule.id), None)
    if ceiling.rule.kind == "throttle" and throttle is not None:
        return spares(throttle, tier, protected=bool(group[1]))
    return bool(group[1]) or (tier is not None and tier.protected)


def _lost_to(
    ground: Ground,
    ceiling: Ceiling,
    daily: dict[int, dict[Group, Sums]],
    sums: dict[Group, Sums],
    which: str,
) -> dict[Group, int]:
    """Units by group that one ceiling over everybody would have refused to those it is for."""
    most = ceiling.amount_max
    assert most is not None
    calendar = ground.before.calendar
    windows: dict[int, dict[Group, int]] = {}
    if ceiling.period.shorter_than_day:
        length_ms = ceiling.period.length_min * 60_000
        ground.warnings.append(
            f"Demand is kept by hour and tier: what {most}/{ceiling.period} for all refuses is "
            "estimated from that."
        )
        if length_ms % HOUR_MS:
            # As if it came evenly.
            most, length_ms = most * (HOUR_MS // length_ms or 1), HOUR_MS
        for hour_ms, tier_id, asked, _ in ground.book.hourly_demand(
            ground.resource.id, ground.span
        ):
            inside = windows.setdefault(hour_ms - hour_ms % length_ms, {})
            # Hours are not kept by user: the protected ones of a tier are among the others.
            group = (tier_id or None, 0)
            part = sums.get(group, Sums())
            # Of what is asked for in an hour, the part that users' own ceilings leave.
            through = max(0, asked) * getattr(part, which) // part.asked if part.asked else 0
            inside[group] = inside.get(group, 0) + through
    else:
        for start, of_day in daily.items():
            window = calendar.window(ceiling.period, start)
            inside = windows.setdefault(window.starts_at_ms, {})
            for group, part in of_day.items():
                inside[group] = inside.get(group, 0) + getattr(part, which)
    lost: dict[Group, int] = {}
    for start, inside in windows.items():
        carried = 0
        if ceiling.period.length_min > DAY_LENGTH_MIN and start < ground.starts[0]:
            taken = ground.book.demand_by_tier(ground.resource.id, start, ground.starts[0])
            carried = _in_scope(ceiling, taken)
        spared = {g: n for g, n in inside.items() if _spared(ground, ceiling, g)}
        hit = {g: n for g, n in inside.items() if g not in spared and g in sums}
        passing = {
            g: n for g, n in spared.items() if ceiling.tier_ids is None or g[0] in ceiling.tier_ids
        }
        left = under_total(hit, passing, max(0, most - carried))
        for group, units in left.items():
            lost[group] = lost.get(group, 0) + hit[group] - units
    if sum(1 for units in lost.values() if units) > 1:
        ground.warnings.append(
            f"Of {ceiling.amount_max}/{ceiling.period} for all together the first get it, who "
            "can't be known: by tier it is shared out in proportion."
        )
    return lost


def _in_scope(ceiling: Ceiling, by_tier: Mapping[int, int]) -> int:
    return sum(
        units
        for tier_id, units in by_tier.items()
        if ceiling.tier_ids is None or tier_id in ceiling.tier_ids
    )


def _is_full(ground: Ground, ceiling: Ceiling) -> bool:
    """Whether a ceiling over everybody is used up in its present window."""
    calendar = ground.before.calendar
    window = calendar.window(ceiling.period, ground.now_ms)
    if calendar.hour_of(window.starts_at_ms) != window.starts_at_ms:
        return False
    assert ceiling.amount_max is not None
    taken = ground.book.demand_by_tier(ground.resource.id, *window)
    return _in_scope(ceiling, taken) >= ceiling.amount_max
