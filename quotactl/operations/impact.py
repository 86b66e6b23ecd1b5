"""How many people a throttle would hit, estimated quickly, before it comes on.

Up to `ALL_UP_TO` users all of them are looked at. Of more it is 500 counters for each
resource, whatever their number: a share p of the active users then has a standard error of
sqrt(p (1 - p) / 500), 2.2 percentage points at most and 1.3 at a tenth; more where
neighbours, who came at the same time, are alike. `throttle preview` counts everybody.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from quotactl.frozen import frozen
from quotactl.ledger.loaded import tier_or_default
from quotactl.ledger.values import View
from quotactl.policy.foresight import ceilings_of, longest_run, own, with_throttles
from quotactl.policy.model import Policy, Resource, Scope, Throttle, Tier
from quotactl.policy.resolve import Ceiling
from quotactl.policy.window import HOUR_MS

if TYPE_CHECKING:
    from quotactl.ledger.engine import Reading

# So many runs of neighbours are looked at, of so many counters each.
RUNS, RUN_LENGTH = 20, 25
ALL_UP_TO = 2000


@frozen
class Impact(View):
    """What a throttle would do to the users with demand so far today.

    `active` users, of which `cut_off` have reached what they would be left with;
    `refused_per_hour` are units. Where `sampled` is fewer than `active`, the figures are
    scaled up from that many counters. `protected_hit`: users of a protected tier, or
    protected themselves, would get less.
    """

    active: int
    cut_off: int
    sampled: int
    refused_per_hour: int
    protected_hit: bool
    all_resources: bool

    @property
    def share_percent(self) -> int:
        """The share of the active users who would be cut off, rounded up."""
        return -(-100 * self.cut_off // self.active) if self.active else 0

    @property
    def estimated(self) -> bool:
        """Whether only a part of the counters was looked at."""
        return self.sampled < self.active


def impact_of(
    book: Reading, throttles: Sequence[Throttle], removed: Sequence[int], now_ms: int
) -> Impact:
    """Estimate what throttles would do if they came on, in place of those removed."""
    before = book.policy
    after = with_throttles(before, throttles, removed)
    calendar = before.calendar
    day = calendar.day(now_ms)
    hours = max(1.0, (now_ms - day.starts_at_ms) / HOUR_MS)
    active = cut_off = refused = 0.0
    sampled = 0
    protected_hit = False
    at_ms = max([now_ms, *(t.starts_at_ms for t in throttles)])
    # On a day to come everybody starts afresh: nobody is cut off at once.
    fresh = calendar.day(at_ms) != day
    length = RUN_LENGTH if book.count_all_users() > ALL_UP_TO else ALL_UP_TO // RUNS
    for resource in before.resources.values():
        scopes = [t.scope for t in throttles if t.scope.covers_resource(resource.id)]
        if not scopes:
            continue
        protected_hit = protected_hit or _hits_protected_tier(book, after, resource, at_ms)
        rows = book.sample_demand(resource.id, day.starts_at_ms, RUNS, length)
        full = _over_for_all(book, after, resource, throttles, now_ms)
        sampled += len(rows)
        groups: dict[tuple[int | None, int], tuple[int, int, bool, bool] | None] = {}
        for tier_id, protected, used, asked, weight in rows:
            key = (tier_id, protected)
            if key not in groups:
                tier = tier_or_default(before, tier_id)
                groups[key] = None
                if any(_covers(scope, tier) for scope in scopes):
                    groups[key] = (
                        *_both(before, after, tier, resource, at_ms, protected=bool(protected)),
                        bool(protected) or (tier is not None and tier.protected),
                    )
            group = groups[key]
            if group is None:
                continue
            old, new, lowered, spared = group
            active += weight
            if not fresh and (used >= new < old or (full and not spared)):
                cut_off += weight
            if spared and lowered:
                protected_hit = True
            refused += weight * max(0, min(asked, old) - min(asked, new))
    return Impact(
        active=round(active),
        cut_off=round(cut_off),
        sampled=min(sampled, round(active)),
        refused_per_hour=round(refused / hours),
        protected_hit=protected_hit,
        all_resources=any(t.scope.resource_ids is None for t in throttles),
    )


def _covers(scope: Scope, tier: Tier | None) -> bool:
    return scope.tier_ids is None or (tier is not None and tier.id in scope.tier_ids)


def _both(
    before: Policy,
    after: Policy,
    tier: Tier | None,
    resource: Resource,
    at_ms: int,
    *,
    protected: bool,
) -> tuple[int, int, bool]:
    """The most on a day before and after, and whether anything is lower after."""
    old = ceilings_of(before, tier, resource, at_ms, protected=protected)
    new = ceilings_of(after, tier, resource, at_ms, protected=protected)
    return longest_run(old), longest_run(new), _lower(new) and new != old


def _lower(ceilings: Sequence[Ceiling]) -> bool:
    return any(c.amount_max != c.base_max for c in own(ceilings)) or any(
        c.shared and c.rule.kind == "throttle" for c in ceilings
    )


def _hits_protected_tier(book: Reading, after: Policy, resource: Resource, at_ms: int) -> bool:
    """Whether a protected tier that has users gets less."""
    return any(
        tier.protected
        and (tier is after.default_tier or book.count_users(tier.id) > 0)
        and _both(book.policy, after, tier, resource, at_ms, protected=False)[2]
        for tier in after.tiers.values()
    )


def _over_for_all(
    book: Reading, after: Policy, resource: Resource, throttles: Sequence[Throttle], now_ms: int
) -> bool:
    """Whether a total among the throttles is used up already."""
    for throttle in throttles:
        if throttle.kind != "total" or not throttle.scope.covers_resource(resource.id):
            continue
        assert throttle.period is not None and throttle.amount_max is not None
        window = after.calendar.window(throttle.period, now_ms)
        taken = book.demand_by_tier(
            resource.id, after.calendar.hour_of(window.starts_at_ms), window.reset_at_ms
        )
        tier_ids = throttle.scope.tier_ids
        used = sum(n for tier_id, n in taken.items() if tier_ids is None or tier_id in tier_ids)
        whole_hours = after.calendar.hour_of(window.starts_at_ms) == window.starts_at_ms
        if whole_hours and used >= throttle.amount_max * throttle.part_at(now_ms) // 100:
            return True
    return False
