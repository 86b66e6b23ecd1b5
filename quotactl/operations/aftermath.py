"""Whom a throttle cost something: which days, tiers and limits are to be looked at.

The ledger keeps by user what was used and denied in each window, but not by which rule;
and by rule what was denied in each hour and tier, but not to whom. Of a user a throttle is
blamed for what was denied on a day on which it denied something to their tier, as far
as their limit would have let it pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from quotactl.frozen import changed, frozen
from quotactl.ledger.loaded import Row, Sought, SoughtDay, SoughtLimits, tier_or_default
from quotactl.policy.model import Override, Resource, Rule, Throttle, Tier
from quotactl.policy.resolve import base_limits, spares
from quotactl.policy.window import MONTH, WEEK, Period, Window, period_of_length

if TYPE_CHECKING:
    from quotactl.ledger.engine import Reading


@frozen
class Course:
    """A throttle's time so far: `on` is when it was in force, `days` all that this touches.

    `ended_at_ms` is None while it is not over; it may lie before a start that never came.
    `denied` is what it denied by (day start, resource id, tier id, 0 for none), as
    (requests, units), repeated attempts counted; of a drill, what it would have denied.
    `pruned` are those of its days whose counters are gone.
    """

    switch: Row
    throttle: Throttle
    on: Window
    ended_at_ms: int | None
    days: tuple[Window, ...]
    denied: Mapping[tuple[int, int, int], tuple[int, int]]
    pruned: tuple[Window, ...]

    @property
    def over(self) -> bool:
        """Whether it was lifted or has come to its end."""
        return self.ended_at_ms is not None


def course_of(book: Reading, switch: Row, now_ms: int) -> Course:
    """What became of the throttle in a row of `switch`, up to now."""
    throttle = book.switch_of(switch)
    assert isinstance(throttle, Throttle)
    ends = [end for end in (switch["ended_at_ms"], switch["ends_at_ms"]) if end is not None]
    start = switch["starts_at_ms"]
    # The present moment is part of it while it is on.
    on = Window(start, max(start, min([now_ms + 1, *ends])))
    calendar = book.policy.calendar
    days = []
    at_ms = start
    while at_ms < on.reset_at_ms:
        day = calendar.day(at_ms)
        days.append(day)
        at_ms = day.reset_at_ms
    denied: dict[tuple[int, int, int], tuple[int, int]] = {}
    if days:
        for hour_ms, resource_id, tier_id, *counts in book.denied_by(
            switch["id"], days[0].starts_at_ms, days[-1].reset_at_ms, drill=throttle.drill
        ):
            key = (calendar.day(hour_ms).starts_at_ms, resource_id, tier_id)
            requests, units = denied.get(key, (0, 0))
            denied[key] = (requests + counts[0], units + counts[1])
    gone = set(book.pruned_days([day.starts_at_ms for day in days]))
    return Course(
        switch=switch,
        throttle=throttle,
        on=on,
        ended_at_ms=min((end for end in ends if end <= now_ms), default=None),
        days=tuple(days),
        denied=denied,
        pruned=tuple(day for day in days if day.starts_at_ms in gone),
    )


def sought_of(
    book: Reading,
    course: Course,
    *,
    resources: Sequence[Resource] | None = None,
    refused: bool = True,
) -> Sought:
    """Whom to look for: those whom it refused, or with `refused` False all in its scope who
    asked on its days. `resources` None are all that it is for.

    Tiers, their limits and who is protected are taken as they stand now, since the ledger
    keeps no earlier ones; overrides as they held at any time while it was on. What other
    throttles took at the same time is not taken off.
    """
    policy, throttle = book.policy, course.throttle
    if resources is None:
        resources = [r for r in policy.resources.values() if throttle.scope.covers_resource(r.id)]
    default_tier_id = 0 if policy.default_tier is None else policy.default_tier.id
    limits = []
    for resource in resources:
        for tier in policy.tiers.values():
            if not throttle.scope.covers(resource.id, tier.id):
                continue
            if spares(throttle, tier, protected=False):
                continue
            base, listed = base_limits(tier, resource, ())
            if listed:
                limits.append(SoughtLimits(resource.id, tier.id, 0, _most(base)))
    limits += _overridden(book, course, resources)
    tier_ids = {(one.resource_id, one.tier_id) for one in limits}
    days = []
    for resource in resources:
        for day in course.days:
            tiers = {
                tier_id: course.denied.get((day.starts_at_ms, resource.id, tier_id), (0, 0))[1]
                for of_id, tier_id in tier_ids
                if of_id == resource.id
            }
            hit = {tier_id: units for tier_id, units in tiers.items() if units or not refused}
            if hit:
                days.append(_day(book, course, resource, day, hit))
    units = "shadow_denied" if throttle.drill else "denied"
    return Sought(
        days=days,
        limits=limits,
        default_tier_id=default_tier_id,
        units=units if refused else "asked",  # type: ignore[arg-type]
        include_protected=throttle.include_protected,
    )


def known_only(sought: Sought) -> Sought:
    """The same without people who were forgotten: nobody can find them any more."""
    return changed(sought, include_forgotten=False)


def _day(
    book: Reading, course: Course, resource: Resource, day: Window, tiers: Mapping[int, int]
) -> SoughtDay:
    calendar = book.policy.calendar
    start = day.starts_at_ms
    return SoughtDay(
        resource_id=resource.id,
        window=day,
        on=Window(max(start, course.on.starts_at_ms), min(day.reset_at_ms, course.on.reset_at_ms)),
        week=tuple(calendar.day_starts(calendar.window(WEEK, start))),
        month=tuple(calendar.day_starts(calendar.window(MONTH, start))),
        tiers=tiers,
    )


def _overridden(book: Reading, course: Course, resources: Sequence[Resource]) -> list[SoughtLimits]:
    """The limits of users who had some of their own while it was on."""
    policy, throttle = book.policy, course.throttle
    found: dict[tuple[int, int], list[Row]] = {}
    if course.days:
        for row in book.overrides_between(
            [resource.id for resource in resources],
            [day.starts_at_ms for day in course.days],
            *course.on,
        ):
            found.setdefault((row["resource_id"], row["user_id"]), []).append(row)
    limits = []
    for (resource_id, user_id), rows in found.items():
        tier: Tier | None = tier_or_default(policy, rows[0]["tier_id"])
        tier_id = None if tier is None else tier.id
        if not throttle.scope.covers(resource_id, tier_id):
            continue
        if spares(throttle, tier, protected=bool(rows[0]["protected"])):
            continue
        overrides = [
            Override(
                row["id"],
                None if row["period"] is None else period_of_length(row["period"]),
                row["amount_max"],
                row["expires_at_ms"],
            )
            for row in rows
        ]
        base, _ = base_limits(tier, policy.resources[resource_id], overrides)
        limits.append(SoughtLimits(resource_id, tier_id or 0, user_id, _most(base)))
    return limits


def _most(base: Mapping[Period, tuple[int | None, Rule]]) -> dict[int, int]:
    return {period.length_min: most for period, (most, _) in base.items() if most is not None}
