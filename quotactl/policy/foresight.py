"""What the same demand would have met under other throttles: served and refused, pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from quotactl.policy.model import Account, Limit, Override, Policy, Resource, Throttle, Tier
from quotactl.policy.resolve import Ceiling, resolve
from quotactl.policy.window import DAY_LENGTH_MIN

NO_LIMIT = 2**62
"""Stands for unlimited where numbers are compared; more than any user can ask for."""


def with_throttles(policy: Policy, added: Iterable[Throttle], removed: Iterable[int]) -> Policy:
    """The policy as it would be with throttles added, and others, by id, gone."""
    gone = set(removed)
    kept = tuple(t for t in policy.throttles if t.id not in gone)
    return replace(policy, throttles=(*kept, *added))


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
