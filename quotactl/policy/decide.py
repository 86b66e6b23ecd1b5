"""The one place where a request is allowed or denied: `decide`."""

from __future__ import annotations

import heapq

from quotactl.policy.burndown import Burn, burn, usable
from quotactl.policy.model import Account, Block, Policy, Reason, Rule
from quotactl.policy.resolve import Ceiling, Standing, base_limits, block_on, edges_of, resolve
from quotactl.policy.window import DAY, DAY_LENGTH_MIN, Calendar, Period, Window


class Verdict:
    """What was decided about one request, and what it charges.

    The figures (`period` … `reset_at_ms`) belong to the window and rule that
    decided, as they were before the request. `granted` units are paid by
    `burns`; `day_ms` and `periods` name the windows that the request counts in,
    as used or as denied. `would_be` is the reason that enforcement, or a throttle that
    is only a drill, kept from holding.
    """

    __slots__ = (
        "allowed",
        "burns",
        "day_ms",
        "drill",
        "granted",
        "limit",
        "period",
        "periods",
        "reason",
        "reset_at_ms",
        "retry_after_ms",
        "rule",
        "shared",
        "used",
        "would_be",
    )

    def __init__(
        self,
        *,
        allowed: bool,
        reason: Reason,
        rule: Rule,
        period: Period | None,
        limit: int | None,
        used: int,
        reset_at_ms: int | None,
        retry_after_ms: int | None,
        granted: int,
        burns: tuple[Burn, ...],
        day_ms: int,
        periods: tuple[int, ...],
        shared: bool = False,
    ) -> None:
        self.allowed = allowed
        self.reason = reason
        self.rule = rule
        self.period = period
        self.limit = limit
        self.used = used
        self.reset_at_ms = reset_at_ms
        self.retry_after_ms = retry_after_ms
        self.granted = granted
        self.burns = burns
        self.day_ms = day_ms
        self.periods = periods
        self.would_be: Reason | None = None
        # The drill that would have refused it.
        self.drill: Rule | None = None
        # Whether the figures are those of a ceiling over everybody.
        self.shared = shared

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Verdict) and all(
            getattr(self, name) == getattr(other, name) for name in self.__slots__
        )

    __hash__ = None  # type: ignore[assignment]


# One ceiling with the window it holds in now and the units used in that.
Level = tuple[Ceiling, Window, int]


def decide(policy: Policy, account: Account, amount: int, now_ms: int) -> Verdict:
    """Allow or deny `amount` units, whole, to `account` at `now_ms`.

    Order: block, then ceilings per window, then grants. The reason of a denial
    compares this request with and without throttles: refused anyway is
    `limit_reached` (or `not_in_tier`), else `throttled`. A boundary: with
    3/day, 2 used and an amount of 1 it is allowed; with an amount of 2 denied.
    """
    calendar = policy.calendar
    standing = resolve(policy, account, now_ms)
    day_ms = calendar.day(now_ms).starts_at_ms
    periods = standing.periods
    block = block_on(account, now_ms)
    if block is not None:
        return _blocked(policy, account, block, amount, now_ms, day_ms, periods)

    levels = levels_of(standing, account, calendar, now_ms)
    if standing.mode == "off":
        assert standing.mode_rule is not None
        return _allowed(levels, standing.mode_rule, "ok", 0, (), day_ms, periods)

    pool = usable(account.grants, account.balances, now_ms) if account.grants else 0
    shortage, failing = _shortage(levels, amount, 0 if standing.freezers else pool)
    if not failing:
        if shortage:
            burns = burn(account.grants, account.balances, shortage, now_ms)
            rule = Rule("grant", burns[0][0], None)
            verdict = _allowed(levels, rule, "granted", shortage, burns, day_ms, periods)
        else:
            verdict = _allowed(levels, None, "ok", 0, (), day_ms, periods)
        if standing.drilled is not None:
            _drill(verdict, standing.drilled, account, calendar, amount, pool, now_ms)
        return verdict

    reason, rule, limit, (ceiling, window, used) = _refusal(standing, levels, failing, amount, pool)
    if standing.mode == "shadow":
        assert standing.mode_rule is not None
        verdict = _allowed(levels, standing.mode_rule, "ok", 0, (), day_ms, periods)
        verdict.would_be = reason
        return verdict
    return Verdict(
        allowed=False,
        reason=reason,
        rule=rule,
        period=ceiling.period,
        limit=limit,
        used=used,
        reset_at_ms=window.reset_at_ms,
        retry_after_ms=_retry_after(policy, account, amount, now_ms),
        granted=0,
        burns=(),
        day_ms=day_ms,
        periods=periods,
        shared=ceiling.shared,
    )


class Routine:
    """How nearly every request is decided: one limit a day, and nothing else to be seen.

    Worked out for all users of a tier who have nothing of their own, and good from `from_ms`
    until `until_ms`. Where `allows` says yes, `decide` allows, with the figures of this
    ceiling and day; where it says no and `refusal` is a reason, `decide` refuses for that
    reason with the same figures. A property holds the two together.
    """

    __slots__ = ("_amount_max", "ceiling", "day", "from_ms", "refusal", "until_ms")

    def __init__(self, standing: Standing, day: Window, *, refusal: Reason | None) -> None:
        (self.ceiling,) = standing.ceilings
        most = self.ceiling.amount_max
        self._amount_max: float = float("inf") if most is None else most
        self.day = day
        self.refusal = refusal
        self.from_ms = max(standing.from_ms, day.starts_at_ms)
        self.until_ms = min(standing.until_ms, day.reset_at_ms)

    def allows(self, used: int, amount: int) -> bool:
        return used + amount <= self._amount_max

    def retry_after_ms(self, amount: int, now_ms: int) -> int | None:
        """Where it refuses: to the day's end, or None for more than there is in a day."""
        return self.day.reset_at_ms - now_ms if amount <= self._amount_max else None


def routine_of(policy: Policy, account: Account, now_ms: int) -> Routine | None:
    """The routine of users placed as this one, or None where there is more to look at."""
    standing = resolve(policy, account, now_ms)
    if (
        standing.mode != "on"
        or standing.drilled is not None
        or standing.periods
        or len(standing.ceilings) != 1
        or standing.ceilings[0].period != DAY
        or account.overrides
        or account.blocks
        or account.grants
        or looks_back(policy, account)
    ):
        return None
    refusal: Reason | None = None
    if not (policy.throttles or policy.enforcements):
        # No switch can be to blame, or let the request pass earlier than the day's end.
        refusal = "limit_reached" if standing.listed else "not_in_tier"
    return Routine(standing, policy.calendar.day(now_ms), refusal=refusal)


def _drill(
    verdict: Verdict,
    standing: Standing,
    account: Account,
    calendar: Calendar,
    amount: int,
    pool: int,
    now_ms: int,
) -> None:
    """Mark an allowed request with what it would have been if drills were real."""
    levels = levels_of(standing, account, calendar, now_ms)
    _, failing = _shortage(levels, amount, 0 if standing.freezers else pool)
    if failing:
        verdict.would_be, rule, *_ = _refusal(standing, levels, failing, amount, pool)
        if rule not in standing.drills:
            # Real throttles alone let it pass: a drill is what makes the difference.
            refusing = [level[0].rule for level in failing if level[0].rule in standing.drills]
            rule = (refusing or standing.drills)[0]
        verdict.drill = rule


def levels_of(standing: Standing, account: Account, calendar: Calendar, now_ms: int) -> list[Level]:
    """Every ceiling with its window at `now_ms` and what is used in that."""
    levels = []
    for ceiling in standing.ceilings:
        window = calendar.window(ceiling.period, now_ms)
        if ceiling.shared:
            used = used_by_all(account, ceiling, window)
        else:
            used = used_in(account, ceiling.period, window)
        levels.append((ceiling, window, used))
    return levels


def used_by_all(account: Account, ceiling: Ceiling, window: Window) -> int:
    """Units that all users in a shared ceiling's scope took in a window."""
    totals = account.totals
    tier_ids = ceiling.tier_ids
    length_min = min(ceiling.period.length_min, DAY_LENGTH_MIN)
    if length_min == ceiling.period.length_min:
        windows = [totals.get((length_min, window.starts_at_ms), {})]
    else:
        windows = [
            by_tier
            for (length, start), by_tier in totals.items()
            if length == DAY_LENGTH_MIN and window.starts_at_ms <= start < window.reset_at_ms
        ]
    return sum(
        units
        for by_tier in windows
        for tier_id, units in by_tier.items()
        if tier_ids is None or tier_id in tier_ids
    )


def used_in(account: Account, period: Period, window: Window) -> int:
    """Units used in a window; a week or month is the sum of its days."""
    used = account.used
    if period.length_min <= DAY_LENGTH_MIN:
        return used.get((period.length_min, window.starts_at_ms), 0)
    return sum(
        units
        for (length_min, start), units in used.items()
        if length_min == DAY_LENGTH_MIN and window.starts_at_ms <= start < window.reset_at_ms
    )


def looks_back(policy: Policy, account: Account) -> list[Period]:
    """The periods longer than a day that could matter to this account at any time
    under this policy: how far back its day counters are needed.

    All of them, not the longest alone: a week can begin before the month does.
    """
    key = ("looks_back", None if account.tier is None else account.tier.id, account.resource.id)
    found: list[Period] | None = policy.resolved.get(key)
    if found is None:
        base, _ = base_limits(account.tier, account.resource, ())
        caps = {t.period for t in policy.throttles if t.kind == "cap" and t.period is not None}
        found = policy.resolved[key] = [p for p in {*base, *caps} if p.length_min > DAY_LENGTH_MIN]
    if not account.overrides:
        return found
    mine = {o.period for o in account.overrides if o.period is not None}
    return [*found, *(p for p in mine if p.length_min > DAY_LENGTH_MIN)]


def _shortage(
    levels: list[Level], amount: int, pool: int, *, base: bool = False
) -> tuple[int, list[Level]]:
    """What grants would have to pay, and the levels that refuse all the same.

    Grants buy quota, not speed: they pay the largest shortage among windows of
    a day or longer, never one in a shorter window, nor what is over for everybody.
    """
    shortage = 0
    failing = []
    for level in levels:
        ceiling, _, used = level
        limit = ceiling.base_max if base else ceiling.amount_max
        if limit is None or used + amount <= limit:
            continue
        if ceiling.shared or ceiling.period.shorter_than_day:
            failing.append(level)
            continue
        # Used may lie above a limit that was lowered since; nobody pays for that.
        short = min(used + amount - limit, amount)
        shortage = max(shortage, short)
        if short > pool:
            failing.append(level)
    return shortage, failing


def _refusal(
    standing: Standing, levels: list[Level], failing: list[Level], amount: int, pool: int
) -> tuple[Reason, Rule, int, Level]:
    """Why a request is refused: reason, rule, limit and the level that refused it.

    Of several levels the one with the latest reset, of those the longest, of throttles
    for the same window the lowest id.
    """
    anyway = failing
    if standing.throttled:
        _, anyway = _shortage(levels, amount, pool, base=True)
    if anyway:
        # Not to have the resource at all goes before there being none left for anybody.
        own = [] if standing.listed else [level for level in anyway if not level[0].shared]
        level = max(own or anyway, key=_reset_then_length)
        ceiling = level[0]
        assert ceiling.base_max is not None
        reason: Reason = "not_in_tier" if own else "limit_reached"
        return reason, ceiling.base_rule, ceiling.base_max, level
    _, too_low = _shortage(levels, amount, pool)
    if too_low:
        # Grants or not, a throttle put these ceilings too low.
        level = max(too_low, key=lambda lv: (*_reset_then_length(lv), -(lv[0].rule.id or 0)))
        rule = level[0].rule
    else:
        # Grants would have paid: what refuses is a throttle that freezes them, if
        # one of those lowered a window, that one.
        freezing = [lv for lv in failing if lv[0].rule in standing.freezers]
        level = max(freezing or failing, key=_reset_then_length)
        rule = level[0].rule if freezing else standing.freezers[0]
    ceiling = level[0]
    assert ceiling.amount_max is not None
    return "throttled", rule, ceiling.amount_max, level


def _reset_then_length(level: Level) -> tuple[int, int]:
    ceiling, window, _ = level
    return (window.reset_at_ms, ceiling.period.length_min)


def _allowed(
    levels: list[Level],
    rule: Rule | None,
    reason: Reason,
    granted: int,
    burns: tuple[Burn, ...],
    day_ms: int,
    periods: tuple[int, ...],
) -> Verdict:
    ceiling, window, used = tightest(levels, granted)
    return Verdict(
        allowed=True,
        reason=reason,
        rule=rule or ceiling.rule,
        period=ceiling.period,
        limit=ceiling.amount_max,
        used=used,
        reset_at_ms=window.reset_at_ms,
        retry_after_ms=None,
        granted=granted,
        burns=burns,
        day_ms=day_ms,
        periods=periods,
        shared=ceiling.shared,
    )


def tightest(levels: list[Level], granted: int = 0) -> Level:
    """The level with the least left, of equal ones the longest period.

    `granted` units of the request are not charged to windows of a day or
    longer, which leaves these that much more than shorter ones.
    """
    if len(levels) == 1:
        return levels[0]

    def left_then_longest(level: Level) -> tuple[float, int]:
        ceiling, _, used = level
        if ceiling.amount_max is None:
            return float("inf"), -ceiling.period.length_min
        left = max(0, ceiling.amount_max - used)
        if not (ceiling.shared or ceiling.period.shorter_than_day):
            left += granted
        return left, -ceiling.period.length_min

    # Of equals the first, which is the user's own.
    return min(levels, key=left_then_longest)


def _blocked(
    policy: Policy,
    account: Account,
    block: Block,
    amount: int,
    now_ms: int,
    day_ms: int,
    periods: tuple[int, ...],
) -> Verdict:
    # A block has no window of its own: until it ends, nothing of anything.
    return Verdict(
        allowed=False,
        reason="blocked",
        rule=Rule("block", block.id, None),
        period=None,
        limit=0,
        used=account.used.get((1440, day_ms), 0),
        reset_at_ms=block.expires_at_ms,
        retry_after_ms=_retry_after(policy, account, amount, now_ms),
        granted=0,
        burns=(),
        day_ms=day_ms,
        periods=periods,
    )


def _retry_after(policy: Policy, account: Account, amount: int, now_ms: int) -> int | None:
    """Milliseconds to the first moment at which the same request would pass if
    nobody else asked, or None.

    Only at certain moments can a refusal turn: when a switch starts or ends,
    when an override or block ends, and when a window that refuses and has
    something in it resets. They are tried in order of time.
    """
    moments = {edge for switch in policy.throttles for edge in edges_of(switch)}
    moments.update(edge for switch in policy.enforcements for edge in edges_of(switch))
    moments.update(o.expires_at_ms for o in account.overrides if o.expires_at_ms is not None)
    moments.update(b.expires_at_ms for b in account.blocks if b.expires_at_ms is not None)
    ahead = [moment for moment in moments if moment > now_ms]
    heapq.heapify(ahead)
    moment = now_ms
    while True:
        passes, resets = _passes(policy, account, amount, moment)
        if passes:
            return moment - now_ms
        for reset in resets:
            heapq.heappush(ahead, reset)
        while ahead and ahead[0] <= moment:
            heapq.heappop(ahead)
        if not ahead:
            return None
        moment = heapq.heappop(ahead)


def _passes(policy: Policy, account: Account, amount: int, at_ms: int) -> tuple[bool, list[int]]:
    """Whether the request would pass at that moment, and else the resets of the
    windows that refuse it for what is used in them."""
    standing = resolve(policy, account, at_ms)
    levels = levels_of(standing, account, policy.calendar, at_ms)
    blocked = block_on(account, at_ms) is not None
    if standing.mode != "on" and not blocked:
        return True, []
    pool = 0
    if account.grants and not standing.freezers:
        pool = usable(account.grants, account.balances, at_ms)
    _, failing = _shortage(levels, amount, pool)
    resets = [window.reset_at_ms for _, window, used in failing if used > 0]
    return not failing and not blocked, resets
