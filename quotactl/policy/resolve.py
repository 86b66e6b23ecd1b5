"""Which ceilings apply to one user and resource at one moment.

tier limits → overrides → throttles in force → ceilings
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from quotactl.policy.model import (
    Account,
    Block,
    Enforcement,
    Limit,
    Mode,
    Override,
    Policy,
    Resource,
    Rule,
    Throttle,
    Tier,
)
from quotactl.policy.window import DAY, Period


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The most that may be used in a window of `period`; None is unlimited.

    `base_max` is what tier and override say, `amount_max` what is left of it
    under the throttles; `rule` is what set `amount_max`.
    """

    period: Period
    base_max: int | None
    base_rule: Rule
    amount_max: int | None
    rule: Rule


@dataclass(frozen=True, slots=True)
class Standing:
    """All that decides for one user and resource at one moment, counters apart.

    `ceilings` go from the shortest period to the longest. `freezers` are the
    throttles that keep grants from paying, by id. `listed` is False where neither tier
    nor override names the resource: its base is then 0 a day.
    """

    ceilings: tuple[Ceiling, ...]
    # The periods shorter than a day, by length in minutes: those that an entry is
    # charged to beside its day.
    periods: tuple[int, ...]
    listed: bool
    throttled: bool
    freezers: tuple[Rule, ...]
    mode: Mode
    mode_rule: Rule | None
    # How long this standing lasts with the policy as it is: [from, until).
    from_ms: float
    until_ms: float


def resolve(policy: Policy, account: Account, now_ms: int) -> Standing:
    """The standing of `account` at `now_ms`.

    Users without overrides of their own share their tier's, kept until the next
    start or end of a switch.
    """
    overrides = tuple(o for o in account.overrides if _in_force(o, now_ms))
    if overrides:
        return _resolve(policy, account, overrides, now_ms)
    tier = account.tier
    key = (None if tier is None else tier.id, account.resource.id, account.protected)
    standing: Standing | None = policy.resolved.get(key)
    if standing is None or not standing.from_ms <= now_ms < standing.until_ms:
        standing = policy.resolved[key] = _resolve(policy, account, (), now_ms)
    return standing


def block_on(account: Account, now_ms: int) -> Block | None:
    """The block that holds at `now_ms`: of several the one that lasts longest."""
    holding = [b for b in account.blocks if b.expires_at_ms is None or now_ms < b.expires_at_ms]
    if not holding:
        return None
    return max(holding, key=lambda b: (_or_never(b.expires_at_ms), -b.id))


def base_limits(
    tier: Tier | None, resource: Resource, overrides: Iterable[Override]
) -> tuple[dict[Period, tuple[int | None, Rule]], bool]:
    """Limits by period before throttles, with the rule each comes from, and
    whether the resource is listed at all.

    An override for a period replaces that period's limit or adds it; one for
    every period replaces them all, but for those with an override of their own.
    """
    limits: tuple[Limit, ...] = () if tier is None else tier.limits.get(resource.id, ())
    base: dict[Period, tuple[int | None, Rule]] = {}
    if tier is not None:
        rule = Rule("tier", tier.id, tier.name)
        base = {limit.period: (limit.amount_max, rule) for limit in limits}
    mine = sorted(overrides, key=lambda o: o.period is not None)
    for override in mine:
        if override.period is None:
            base.clear()
        base[override.period or DAY] = (override.amount_max, Rule("override", override.id, None))
    if base:
        return base, True
    nothing = Rule("tier", None, None) if tier is None else Rule("tier", tier.id, tier.name)
    return {DAY: (0, nothing)}, False


def spares(throttle: Throttle, tier: Tier | None, *, protected: bool) -> bool:
    """Whether a throttle leaves a protected user, or one on a protected tier, alone."""
    if throttle.include_protected:
        return False
    return protected or (tier is not None and tier.protected)


def scaled(base_max: int, percent: int, floor: int | None) -> int:
    """`percent` of a base, rounded down, but not below the floor, which never exceeds the base.

    25 % of 3 is 0; with a floor of 1 it is 1; with a floor of 5 it is 3.
    """
    return max(base_max * percent // 100, min(floor or 0, base_max))


def _resolve(
    policy: Policy, account: Account, overrides: tuple[Override, ...], now_ms: int
) -> Standing:
    tier, resource = account.tier, account.resource
    tier_id = None if tier is None else tier.id
    matching = [
        t
        for t in policy.throttles
        if t.scope.covers(resource.id, tier_id) and not spares(t, tier, protected=account.protected)
    ]
    active = [t for t in matching if _holds(t, now_ms)]
    modes = [e for e in policy.enforcements if e.scope.covers(resource.id, tier_id)]
    mode = _strongest(e for e in modes if _holds(e, now_ms))
    base, listed = base_limits(tier, resource, overrides)
    ceilings = _lowered(base, active)
    freezing = sorted((t for t in active if t.freeze_grants), key=lambda t: t.id)
    switches: list[Throttle | Enforcement] = [*matching, *modes]
    edges = [edge for switch in switches for edge in edges_of(switch)]
    return Standing(
        ceilings=ceilings,
        periods=tuple(c.period.length_min for c in ceilings if c.period.shorter_than_day),
        listed=listed,
        throttled=bool(active),
        freezers=tuple(throttle.rule for throttle in freezing),
        mode="on" if mode is None else mode.mode,
        mode_rule=None if mode is None else Rule("enforcement", mode.id, mode.mode),
        from_ms=max((e for e in edges if e <= now_ms), default=float("-inf")),
        until_ms=min((e for e in edges if e > now_ms), default=float("inf")),
    )


def _lowered(
    base: dict[Period, tuple[int | None, Rule]], active: list[Throttle]
) -> tuple[Ceiling, ...]:
    # Several throttles stack by the lowest result; of equal ones the lowest id
    # is named. Scales look at the base alone, never at each other's results.
    lowest = {period: limit for period, (limit, _) in base.items()}
    rules = {period: rule for period, (_, rule) in base.items()}
    unlimited_rule = next(iter(base.values()))[1]
    for throttle in sorted(active, key=lambda t: t.id):
        for period, result in _results(throttle, base):
            present = lowest.get(period)
            if present is None or result < present:
                lowest[period] = result
                rules[period] = throttle.rule
    ceilings = []
    for period in sorted(lowest, key=lambda p: p.length_min):
        base_max, base_rule = base.get(period, (None, unlimited_rule))
        ceilings.append(Ceiling(period, base_max, base_rule, lowest[period], rules[period]))
    return tuple(ceilings)


def _results(
    throttle: Throttle, base: dict[Period, tuple[int | None, Rule]]
) -> Iterator[tuple[Period, int]]:
    if throttle.kind == "scale":
        assert throttle.percent is not None
        for period, (base_max, _) in base.items():
            if base_max is not None:
                yield period, scaled(base_max, throttle.percent, throttle.floor)
    elif throttle.kind == "cap":
        assert throttle.period is not None and throttle.amount_max is not None
        yield throttle.period, throttle.amount_max
    else:
        yield DAY, 0


def _strongest(modes: Iterable[Enforcement]) -> Enforcement | None:
    # Where scopes overlap, `off` goes further than `shadow`; then the older wins.
    return min(modes, key=lambda e: (e.mode != "off", e.id), default=None)


def edges_of(switch: Throttle | Enforcement) -> list[int]:
    """The moments at which a switch comes into force or ends."""
    return [e for e in (switch.starts_at_ms, switch.ends_at_ms) if e is not None]


def _holds(switch: Throttle | Enforcement, now_ms: int) -> bool:
    return switch.starts_at_ms <= now_ms and (
        switch.ends_at_ms is None or now_ms < switch.ends_at_ms
    )


def _in_force(override: Override, now_ms: int) -> bool:
    return override.expires_at_ms is None or now_ms < override.expires_at_ms


def _or_never(at_ms: int | None) -> float:
    return float("inf") if at_ms is None else at_ms
