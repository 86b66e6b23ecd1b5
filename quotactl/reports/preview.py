"""What throttles would do: the demand that was recorded, under other ceilings.

`preview` adds up in SQL what can be added up there (ceilings of a day), and goes user by
user only where shorter or longer windows, or overrides, make it necessary.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from quotactl.frozen import changed, frozen
from quotactl.ledger.values import View
from quotactl.ledger.views import Outcome
from quotactl.operations.emergency import Timing, in_the_way, when
from quotactl.operations.switches import describe, switch_view
from quotactl.policy.foresight import (
    limits_text,
    own,
    with_throttles,
)
from quotactl.policy.levers import Lever
from quotactl.policy.model import Throttle, Tier
from quotactl.policy.notation import duration_text, instant_text
from quotactl.policy.resolve import Ceiling, spares
from quotactl.policy.window import HOUR_MS, from_ms
from quotactl.reports.usage import span_of, window_of
from quotactl.reports.what_if import Ground, Group, Sums, sums_of

if TYPE_CHECKING:
    from quotactl.ledger.engine import Engine, Reading

REPEATED = "Demand counts repeated attempts: who is refused often tries again."


@frozen
class TierOutlook(View):
    """One tier's users with demand for one resource; units that they asked for, and would
    have been served and refused. `cut_off` users have used all that they would be left."""

    tier: str
    resource: str
    limit: str
    limit_under: str
    users: int
    cut_off: int
    asked: int
    served: int
    refused: int


@frozen
class TotalOutlook(View):
    """The same, summed."""

    users: int
    cut_off: int
    asked: int
    served: int
    refused: int


@frozen
class Outlook(View):
    """What throttles would do. `saved_per_hour` are units that would have been served
    without them; `peak_hour` is the one in which most was asked for."""

    tiers: tuple[TierOutlook, ...]
    total: TotalOutlook
    days: int
    first_day: str
    last_day: str
    saved_per_hour: int
    peak_hour: datetime | None
    peak_asked: int
    warnings: tuple[str, ...]


def preview(
    engine: Engine,
    now_ms: int,
    levers: Sequence[Lever],
    timing: Timing | None = None,
    *,
    day: str | None = None,
    days: int | None = None,
    replace: bool = False,
) -> Outlook:
    """What throttles would have done to the demand of some days: today so far, unless told.

    Demand is what was used, after refunds, plus granted plus denied, per user and window;
    served is the smaller of that and the ceiling. Tiers and limits are those of now, and
    of a ramp it is the first step. Without `replace` it warns of what needs that.
    """
    timing = timing or Timing()
    with engine.reading() as book:
        span = span_of(book, now_ms, day=day, days=days)
        throttles, removed, warnings = _wanted(book, levers, timing, now_ms, replace=replace)
        before, after = book.policy, with_throttles(book.policy, throttles, removed)
        at_ms = max([now_ms, *(t.starts_at_ms for t in throttles)])
        warnings += _not_enforced(book, throttles, at_ms)
        windows = [window_of(book, on) for on in span.dates()]
        starts = [w.starts_at_ms for w in windows if w.reset_at_ms > w.starts_at_ms]
        rows: list[TierOutlook] = []
        saved = 0
        hourly: dict[int, int] = {}
        for resource in before.resources.values():
            if not any(t.scope.covers_resource(resource.id) for t in throttles):
                continue
            ground = Ground(
                book, resource, before, after, throttles, starts, now_ms, at_ms, warnings
            )
            sums = sums_of(ground)
            rows += _rows(ground, sums)
            saved += sum(s.before - s.after for s in sums.values())
            tier_ids = {tier_id for tier_id, _ in sums}
            for hour_ms, tier_id, asked, _ in book.hourly_demand(resource.id, ground.span):
                if (tier_id or None) in tier_ids:
                    hourly[hour_ms] = hourly.get(hour_ms, 0) + asked
        peak_ms = max(hourly, key=lambda hour: (hourly[hour], -hour), default=None)
        hours = sum(max(0, min(w.reset_at_ms, now_ms) - w.starts_at_ms) for w in windows) / HOUR_MS
        totals = [sum(getattr(row, name) for row in rows) for name in _COUNTS]
        return Outlook(
            tiers=tuple(rows),
            total=TotalOutlook(*totals),
            days=len(starts),
            first_day=span.first.isoformat(),
            last_day=span.last.isoformat(),
            saved_per_hour=round(saved / max(1.0, hours)),
            peak_hour=None if peak_ms is None or not hourly[peak_ms] else from_ms(peak_ms),
            peak_asked=0 if peak_ms is None else hourly[peak_ms],
            warnings=tuple(dict.fromkeys([*warnings, REPEATED])),
        )


_COUNTS = ("users", "cut_off", "asked", "served", "refused")


def _wanted(
    book: Reading, levers: Sequence[Lever], timing: Timing, now_ms: int, *, replace: bool
) -> tuple[list[Throttle], list[int], list[str]]:
    """The throttles that there would be, the ids of those that they replace, and what there
    is to say of it."""
    throttles, removed, warnings = [], [], []
    for number, wanted in enumerate(levers):
        starts_at_ms, ends_at_ms = when(book, wanted, timing, now_ms)
        found = in_the_way(book, wanted, starts_at_ms, ends_at_ms, now_ms, replace=True)
        if isinstance(found, Outcome):
            warnings.append(f"{found.message}.")
        elif found:
            ids = ", ".join(str(row["id"]) for row in found)
            removed += [row["id"] for row in found]
            needs = "" if replace else ": `on` needs --replace"
            warnings.append(f"It would be in place of throttle {ids}{needs}.")
        throttle = wanted.throttle(book.policy, starts_at_ms, ends_at_ms)
        # Ids of their own, so that each is told from the others; none of a real one.
        throttles.append(changed(throttle, id=-1 - number))
        if wanted.ramp:
            warnings.append(
                f"This is the ramp's first step, {wanted.ramp[0]}%; each lasts "
                f"{duration_text(wanted.every_ms)}."
            )
        if starts_at_ms > now_ms:
            at = instant_text(starts_at_ms, book.policy.calendar)
            warnings.append(f"It would begin at {at}.")
    return throttles, removed, warnings


def _not_enforced(book: Reading, throttles: Sequence[Throttle], at_ms: int) -> list[str]:
    """That nothing is refused, where enforcement is not on for some of the same."""
    warnings = []
    for mode in book.policy.enforcements:
        if not (
            mode.starts_at_ms <= at_ms and (mode.ends_at_ms is None or at_ms < mode.ends_at_ms)
        ):
            continue
        if any(mode.scope.meets(throttle.scope) for throttle in throttles):
            (row,) = book.rows("switch", {"id": mode.id})
            end = "for good"
            if mode.ends_at_ms is not None:
                end = f"until {instant_text(mode.ends_at_ms, book.policy.calendar)}"
            warnings.append(
                f"Enforcement is {describe(switch_view(book, row, at_ms))}, {end}: "
                "there nothing is refused."
            )
    return warnings


def _rows(ground: Ground, sums: dict[Group, Sums]) -> list[TierOutlook]:
    rows = []
    for tier_id in dict.fromkeys(tier_id for tier_id, _ in sums):
        tier = None if tier_id is None else ground.before.tiers[tier_id]
        parts = [part for (id_, _), part in sums.items() if id_ == tier_id]
        if tier is None and not any(part.users for part in parts):
            continue
        before, after = ground.ceilings(tier, protected=False)
        asked, served = sum(p.asked for p in parts), sum(p.after for p in parts)
        rows.append(
            TierOutlook(
                tier="-" if tier is None else tier.name,
                resource=ground.resource.name,
                limit=_limits(before),
                limit_under=_limits(after),
                users=sum(p.users for p in parts),
                cut_off=sum(p.cut_off for p in parts),
                asked=asked,
                served=served,
                refused=asked - served,
            )
        )
        _warn(ground, tier, before, after, sums.get((tier_id, 1), Sums()).users, parts)
    return rows


def _users(count: int) -> str:
    return f"{count} {'user' if count == 1 else 'users'} {_are(count)}"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _limits(ceilings: Sequence[Ceiling]) -> str:
    totals = [f"{c.amount_max}/{c.period} for all" for c in ceilings if c.shared]
    return ", ".join([limits_text(ceilings), *totals])


def _warn(
    ground: Ground,
    tier: Tier | None,
    before: Sequence[Ceiling],
    after: Sequence[Ceiling],
    protected_users: int,
    parts: Sequence[Sums],
) -> None:
    name, what = ("no tier" if tier is None else f"tier {tier.name}"), ground.resource.name
    for throttle in ground.throttles:
        if not throttle.scope.covers(ground.resource.id, None if tier is None else tier.id):
            continue
        if spares(throttle, tier, protected=False):
            users = sum(part.users for part in parts)
            ground.warnings.append(
                f"{name[:1].upper()}{name[1:]} is protected: its {_users(users)} spared."
            )
            continue
        if protected_users and not throttle.include_protected:
            many = "user" if protected_users == 1 else "users"
            ground.warnings.append(
                f"{protected_users} {many} of {name} {_are(protected_users)} protected and spared."
            )
        for ceiling in own(after):
            if throttle.kind == "scale" and ceiling.base_max is None:
                ground.warnings.append(
                    f"{what} is unlimited for {name}: a part of that is unlimited too; "
                    "--cap caps it."
                )
            elif throttle.kind == "scale" and ceiling.base_max and ceiling.amount_max == 0:
                ground.warnings.append(
                    f"{throttle.percent}% of {ceiling.base_max}/{ceiling.period} {what} rounds "
                    f"down to 0 for {name}; --floor 1 leaves one."
                )
        periods = {c.period for c in own(before)}
        if (
            throttle.kind == "cap"
            and throttle.period is not None
            and throttle.period.shorter_than_day
            and throttle.period not in periods
        ):
            ground.warnings.append(
                f"Windows of one {throttle.period} are new for {name}: everybody begins at 0 "
                "in the first."
            )
