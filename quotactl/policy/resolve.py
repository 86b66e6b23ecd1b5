"""Which ceilings apply to one user and resource at one moment.

tier limits → overrides → throttles in force → ceilings
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from quotactl.frozen import frozen
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
from quotactl.policy.window import DAY, DAY_LENGTH_MIN, Period


@frozen
class Ceiling:
    """The most that may be used in a window of `period`; None is unlimited.

    `base_max` is what tier and override say, `amount_max` what is left of it
    under the throttles; `rule` is what set `amount_max`. A `shared` one is not this
    user's alone: it is on what all users on `tier_ids` take together (None: all
    tiers), and grants do not pay it.
    """

    period: Period
    base_max: int | None
    base_rule: Rule
    amount_max: int | None
    rule: Rule
    shared: bool = False
    tier_ids: frozenset[int] | None = None


@frozen
class Standing:
    """All that decides for one user and resource at one moment, counters apart.

    `ceilings` go from the shortest period to the longest. `freezers` are the
    throttles that keep grants from paying, by id. `listed` is False where neither tier
    nor override names the resource: its base is then 0 a day. `drilled` is how it would
    be if the drills that are on, `drills`, were real.
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
    drilled: Standing | None = None
    drills: tuple[Rule, ...] = ()


def resolve(policy: Policy, account: Account, now_ms: int) -> Standing:
    """The standing of `account` at `now_ms`.

    Users without overrides of their own share their tier's: one for each span between the
    starts and ends of switches, kept as long as the policy is.
    """
    overrides = tuple(o for o in account.overrides if _in_force(o, now_ms))
    if overrides:
        return _resolve(policy, account, overrides, now_ms)
    tier = account.tier
    key = (None if tier is None else tier.id, account.resource.id, account.protected)
    spans: list[Standing] | None = policy.resolved.get(key)
    if spans is None:
        spans = policy.resolved[key] = []
    for standing in spans:
        if standing.from_ms <= now_ms < standing.until_ms:
            return standing
    standing = _resolve(policy, account, (), now_ms)
    spans.append(standing)
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


def scaled(base_max: int, percent: int, floor: int | None, *, part: int = 100) -> int:
    """`percent` of a base, rounded down, but not below the floor, which never exceeds the base.

    25 % of 3 is 0; with a floor of 1 it is 1; with a floor of 5 it is 3. Of the percentage
    itself only `part` percent hold in a step of a ramp.
    """
    return max(base_max * percent * part // 10_000, min(floor or 0, base_max))


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
    holding = [t for t in matching if _holds(t, now_ms)]
    active = [t for t in holding if not t.drill]
    modes = [e for e in policy.enforcements if e.scope.covers(resource.id, tier_id)]
    mode = _strongest(e for e in modes if _holds(e, now_ms))
    base, listed = base_limits(tier, resource, overrides)
    switches: list[Throttle | Enforcement] = [*matching, *modes]
    edges = [edge for switch in switches for edge in edges_of(switch)]
    capacity = () if account.protected or (tier and tier.protected) else _capacity(resource)

    def standing(throttles: list[Throttle], drilled: Standing | None) -> Standing:
        lowered = _lowered(base, throttles, now_ms)
        freezing = sorted((t for t in throttles if t.freeze_grants), key=lambda t: t.id)
        # What a drill counts is counted now, so that it is there when it is judged.
        own = {c.period.length_min for c in lowered if c.period.shorter_than_day}
        own.update(() if drilled is None else drilled.periods)
        return Standing(
            ceilings=(*lowered, *capacity, *_totals(throttles, base, now_ms)),
            periods=tuple(sorted(own)),
            listed=listed,
            throttled=bool(throttles),
            freezers=tuple(throttle.rule for throttle in freezing),
            mode="on" if mode is None else mode.mode,
            mode_rule=None if mode is None else Rule("enforcement", mode.id, mode.mode),
            from_ms=max((e for e in edges if e <= now_ms), default=float("-inf")),
            until_ms=min((e for e in edges if e > now_ms), default=float("inf")),
            drilled=drilled,
            drills=tuple(t.rule for t in holding if t.drill),
        )

    return standing(active, standing(holding, None) if len(holding) > len(active) else None)


def totalled(policy: Policy, resource: Resource) -> tuple[Period, ...]:
    """The periods for which what everybody takes of a resource is counted: those of its
    capacity and of every total, in force or to come."""
    key = ("totalled", resource.id)
    found: tuple[Period, ...] | None = policy.resolved.get(key)
    if found is None:
        periods = {
            t.period
            for t in policy.throttles
            if t.kind == "total" and t.period is not None and t.scope.covers_resource(resource.id)
        }
        if resource.capacity is not None:
            periods.add(resource.capacity.period)
        found = policy.resolved[key] = tuple(sorted(periods, key=lambda p: p.length_min))
    return found


def totalled_since(policy: Policy, resource: Resource, length_min: int) -> int | None:
    """Since when every unit has been added to the sum of everybody in windows of a length.

    None for a capacity: since when it stands is not kept.
    """
    capacity = resource.capacity
    if capacity is not None and capacity.period.length_min == length_min:
        return None
    return min(
        t.created_at_ms
        for t in policy.throttles
        if t.kind == "total"
        and t.period is not None
        and t.period.length_min == length_min
        and t.scope.covers_resource(resource.id)
    )


def totals_kept(policy: Policy) -> set[tuple[int, int]]:
    """The (resource id, window length in minutes) whose sums of everybody are kept."""
    return {
        (resource.id, min(period.length_min, DAY_LENGTH_MIN))
        for resource in policy.resources.values()
        for period in totalled(policy, resource)
    }


def _capacity(resource: Resource) -> tuple[Ceiling, ...]:
    capacity = resource.capacity
    if capacity is None:
        return ()
    rule = Rule("resource", resource.id, resource.name)
    return (Ceiling(capacity.period, capacity.amount_max, rule, capacity.amount_max, rule, True),)


def _totals(
    throttles: list[Throttle], base: dict[Period, tuple[int | None, Rule]], now_ms: int
) -> Iterator[Ceiling]:
    # Below a total of everybody there is nothing to name: without it nothing holds.
    nothing = next(iter(base.values()))[1]
    for throttle in sorted(throttles, key=lambda t: t.id):
        if throttle.kind == "total":
            assert throttle.period is not None and throttle.amount_max is not None
            amount_max = throttle.amount_max * throttle.part_at(now_ms) // 100
            yield Ceiling(
                throttle.period,
                None,
                nothing,
                amount_max,
                throttle.rule,
                True,
                throttle.scope.tier_ids,
            )


def _lowered(
    base: dict[Period, tuple[int | None, Rule]], active: list[Throttle], now_ms: int
) -> tuple[Ceiling, ...]:
    # Several throttles stack by the lowest result; of equal ones the lowest id
    # is named. Scales look at the base alone, never at each other's results.
    lowest = {period: limit for period, (limit, _) in base.items()}
    rules = {period: rule for period, (_, rule) in base.items()}
    unlimited_rule = next(iter(base.values()))[1]
    for throttle in sorted(active, key=lambda t: t.id):
        for period, result in _results(throttle, base, now_ms):
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
    throttle: Throttle, base: dict[Period, tuple[int | None, Rule]], now_ms: int
) -> Iterator[tuple[Period, int]]:
    """What a throttle makes of each window's limit; a total lowers nobody's own."""
    part = throttle.part_at(now_ms)
    if throttle.kind == "scale":
        assert throttle.percent is not None
        results = {
            period: scaled(base_max, throttle.percent, throttle.floor, part=part)
            for period, (base_max, _) in base.items()
            if base_max is not None
        }
    elif throttle.kind == "cap":
        assert throttle.period is not None and throttle.amount_max is not None
        results = {throttle.period: throttle.amount_max * part // 100}
    elif throttle.kind == "deny":
        results = {DAY: 0}
    else:
        return
    lifted = throttle.lifted_at(now_ms)
    for period, result in results.items():
        base_max = base[period][0] if period in base else None
        # A part of unlimited is not a number: there it holds until it is over.
        yield period, result if base_max is None else max(result, base_max * lifted // 100)


def _strongest(modes: Iterable[Enforcement]) -> Enforcement | None:
    # Where scopes overlap, `off` goes further than `shadow`; then the older wins.
    return min(modes, key=lambda e: (e.mode != "off", e.id), default=None)


def edges_of(switch: Throttle | Enforcement) -> list[int]:
    """The moments at which a switch comes into force, changes or ends."""
    edges = [e for e in (switch.starts_at_ms, switch.ends_at_ms) if e is not None]
    if isinstance(switch, Throttle):
        edges += [step.at_ms for step in switch.steps]
    return edges


def _holds(switch: Throttle | Enforcement, now_ms: int) -> bool:
    return switch.starts_at_ms <= now_ms and (
        switch.ends_at_ms is None or now_ms < switch.ends_at_ms
    )


def _in_force(override: Override, now_ms: int) -> bool:
    return override.expires_at_ms is None or now_ms < override.expires_at_ms


def _or_never(at_ms: int | None) -> float:
    return float("inf") if at_ms is None else at_ms


def effects(
    throttle: Throttle, base: dict[Period, tuple[int | None, Rule]], now_ms: int
) -> dict[Period, int]:
    """What one throttle makes of each window's limit, were it the only one; a total, of
    that of all users together."""
    if throttle.kind == "total":
        assert throttle.period is not None and throttle.amount_max is not None
        return {throttle.period: throttle.amount_max * throttle.part_at(now_ms) // 100}
    found = {}
    for period, result in _results(throttle, base, now_ms):
        base_max = base[period][0] if period in base else None
        found[period] = result if base_max is None else min(result, base_max)
    return found
