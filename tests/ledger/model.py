"""A naive ledger to hold the real one against, written from DESIGN §3 alone.

It shares no code with quotactl, keeps nothing but a list of facts, and sums them
up anew for every question. Times are milliseconds since the epoch. Periods are
lengths in minutes, or the words `day`, `week` and `month`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import cache
from itertools import pairwise
from zoneinfo import ZoneInfo

Period = int | str
Span = tuple[int, int]

MINUTE_MS = 60_000
DAY_MS = 86_400_000
LONG = ("day", "week", "month")
THROTTLES = ("deny", "cap", "total", "scale")


class Refused(Exception):
    """An error the ledger should raise too; `code` is that of the error's class."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


# ---- the calendar, by looking at every minute


@cache
def first_instant(zone: str, year: int, month: int, day: int) -> int:
    """The first minute whose local date is that day, or a later one where it does not exist."""
    wanted = date(year, month, day)
    noon = datetime(year, month, day, 12, tzinfo=UTC)
    where = ZoneInfo(zone)
    at = noon - timedelta(hours=28)
    while at.astimezone(where).date() < wanted:
        at += timedelta(hours=1)
    # Within the hour before, the date may have begun, been left again and begun anew.
    at -= timedelta(hours=2)
    while at.astimezone(where).date() < wanted:
        at += timedelta(minutes=1)
    return int(at.timestamp()) * 1000


def start_of(zone: str, day: date) -> int:
    return first_instant(zone, day.year, day.month, day.day)


def local_date(zone: str, at: int) -> date:
    """The day that `at` lies in: the last one that has begun."""
    day = datetime.fromtimestamp(at // 1000, UTC).date() + timedelta(days=2)
    while start_of(zone, day) > at:
        day -= timedelta(days=1)
    return day


def span(zone: str, period: Period, at: int) -> Span:
    """The window that `at` lies in."""
    if isinstance(period, int):
        length = period * MINUTE_MS
        start = at // length * length
        return start, start + length
    day = local_date(zone, at)
    if period == "day":
        following = day + timedelta(days=1)
    elif period == "week":
        while day.weekday() != 0:
            day -= timedelta(days=1)
        following = day + timedelta(days=7)
    else:
        day = day.replace(day=1)
        following = (day + timedelta(days=31)).replace(day=1)
    return start_of(zone, day), start_of(zone, following)


def rank(period: Period) -> int:
    """Longer periods rank higher."""
    return period if isinstance(period, int) else 10_000 * (1 + LONG.index(period))


# ---- facts


@dataclass
class Override:
    id: int
    user: str
    resource: str
    period: Period | None
    most: int | None
    ends: int | None
    gone: bool = False


@dataclass
class Block:
    id: int
    user: str
    resource: str | None
    ends: int | None
    gone: bool = False


@dataclass
class Grant:
    id: int
    user: str
    resource: str
    amount: int
    priority: int
    ends: int | None
    gone: bool = False


@dataclass(frozen=True)
class Step:
    """From `at` on `percent` of a throttle's own number, or, lifting, of the limit below it."""

    at: int
    percent: int
    lifting: bool = False


@dataclass
class Switch:
    """A throttle or an enforcement; `kind` is deny, cap, total, scale, shadow or off.

    Of its `steps` those after `held` do not come. A `drill` is only looked at.
    """

    id: int
    kind: str
    resources: frozenset[str] | None
    tiers: frozenset[str] | None
    starts: int
    ends: int | None
    most: int | None = None
    period: Period | None = None
    percent: int | None = None
    floor: int | None = None
    freezes: bool = False
    reaches_protected: bool = False
    name: str | None = None
    gone: bool = False
    steps: list[Step] = field(default_factory=list)
    held: int | None = None
    drill: bool = False
    message: str | None = None

    def over(self, now: int) -> bool:
        return self.gone or (self.ends is not None and now >= self.ends)

    def coming(self) -> list[Step]:
        """The steps that came or will come."""
        return [step for step in self.steps if self.held is None or step.at <= self.held]

    def percentage(self, now: int, *, lifting: bool) -> int:
        """That of the latest step; of the throttle's number all where there is none, of
        the limit below nothing."""
        percent = 0 if lifting else 100
        for step in sorted(self.coming(), key=lambda step: step.at):
            if step.lifting is lifting and step.at <= now:
                percent = step.percent
        return percent


@dataclass
class Taking:
    """Units taken or held, by a user who was then on `tier`.

    What was given back since stands in `returns`; of that, `lost` came after the user's
    day had begun anew.
    """

    id: int
    order: int
    at: int
    user: str
    tier: str | None
    resource: str
    amount: int
    reason: str
    burns: list[tuple[int, int]]
    shorter: frozenset[int]
    key: str | None
    would_be: str | None = None
    held_until: int | None = None
    state: str = "consumed"
    kept: int = 0
    returns: list[int] = field(default_factory=list)
    lost: int = 0


@dataclass
class Fresh:
    """A user's reset: which windows began anew, by their starts."""

    order: int
    at: int
    user: str
    resource: str
    shorter: frozenset[tuple[int, int]]
    days: frozenset[int]


@dataclass
class Tier:
    id: int
    protected: bool
    limits: dict[str, dict[Period, int | None]] = field(default_factory=dict)


@dataclass
class User:
    tier: str | None = None
    protected: bool = False


@dataclass(frozen=True)
class Answer:
    """What is compared with the ledger's decision."""

    allowed: bool
    reason: str
    amount: int
    tier: str | None
    granted: int
    would_be: str | None
    period: Period | None
    limit: int | None
    used: int
    remaining: int | None
    reset_at: int | None
    retry_after_s: int | None
    rule: tuple[str, int | None]
    entry_id: int | None = None
    reservation_id: int | None = None
    replayed: bool = False
    message: str | None = None


Rule = tuple[str, int | None]
Ceilings = dict[Period, tuple[int | None, Rule]]


@dataclass(frozen=True)
class Line:
    """One ceiling: on what a user took, or, shared, on what all took who were on `tiers`."""

    period: Period
    most: int | None
    rule: Rule
    shared: bool = False
    tiers: frozenset[str] | None = None

    @property
    def paid_by_grants(self) -> bool:
        return not self.shared and self.period in LONG


@dataclass
class Verdict:
    """How one request fares at one moment; nothing is taken yet."""

    reason: str
    would_be: str | None
    lines: list[Line]
    refusing: list[Line]
    needed: int
    rule: Rule | None
    """None: that of the window the figures belong to."""
    blocks: list[Block] = field(default_factory=list)

    @property
    def allowed(self) -> bool:
        return self.reason in ("ok", "granted")


class Model:
    """The naive ledger."""

    def __init__(self, zone: str) -> None:
        self.zone = zone
        self.resources: list[str] = []
        self.capacities: dict[str, tuple[Period, int]] = {}
        self.tiers: dict[str, Tier] = {}
        self.default: str | None = None
        self.users: dict[str, User] = {}
        self.overrides: list[Override] = []
        self.blocks: list[Block] = []
        self.grants: list[Grant] = []
        self.switches: list[Switch] = []
        self.takings: list[Taking] = []
        self.fresh: list[Fresh] = []
        self.refund_keys: dict[str, tuple[Taking, int, int]] = {}
        self.order = 0
        self.asked_at = 10**18

    # ---- reading the facts

    def tier_of(self, user: str) -> str | None:
        known = self.users.get(user)
        return self.default if known is None or known.tier is None else known.tier

    def tier_id(self, user: str) -> int | None:
        tier = self.tier_of(user)
        return None if tier is None else self.tiers[tier].id

    def left(self, taking: Taking, now: int) -> int:
        """Units of a taking that are still taken."""
        # Looking ahead, a hold is taken to stay: its time-out is none of the moments
        # that rule 10 names.
        now = min(now, self.asked_at)
        if taking.state == "held" and taking.held_until is not None and now >= taking.held_until:
            return 0
        return taking.amount - sum(taking.returns)

    def burnt(self, taking: Taking, now: int) -> list[tuple[int, int]]:
        """Units of grants that are still spent on a taking: the last burnt came back first."""
        back = taking.amount - self.left(taking, now)
        burnt = []
        for grant, units in reversed(taking.burns):
            returned = min(units, back)
            back -= returned
            burnt.append((grant, units - returned))
        return burnt[::-1]

    def balance(self, grant: Grant, now: int) -> int:
        spent = sum(
            units
            for taking in self.takings
            for id_, units in self.burnt(taking, now)
            if id_ == grant.id
        )
        return grant.amount - spent

    def purse(self, user: str, resource: str, now: int) -> list[Grant]:
        """Grants that can pay, in the order in which they burn."""
        live = [
            g
            for g in self.grants
            if (g.user, g.resource, g.gone) == (user, resource, False)
            and (g.ends is None or now < g.ends)
            and self.balance(g, now) > 0
        ]
        return sorted(live, key=lambda g: (g.priority, g.ends is None, g.ends or 0, g.id))

    def used(self, user: str, resource: str, period: Period, now: int) -> int:
        """Units counted in the window of `period` that is open at `now`."""
        starts, ends = span(self.zone, period, now)
        total = 0
        for taking in self.takings:
            if (taking.user, taking.resource) != (user, resource):
                continue
            if not starts <= taking.at < ends:
                continue
            since = [f for f in self.fresh if (f.user, f.resource) == (user, resource)]
            since = [f for f in since if f.order > taking.order]
            if isinstance(period, int):
                if period not in taking.shorter:
                    continue
                if any((period, starts) in f.shorter for f in since):
                    continue
                total += self.left(taking, now)
            else:
                day = span(self.zone, "day", taking.at)[0]
                if any(day in f.days for f in since):
                    continue
                total += self.left(taking, now) - sum(u for _, u in self.burnt(taking, now))
        return total

    def began_anew(self, taking: Taking, before: int) -> bool:
        """Whether the user's day in which something was taken was reset before a moment."""
        day = span(self.zone, "day", taking.at)[0]
        return any(
            (f.user, f.resource) == (taking.user, taking.resource)
            and f.order > taking.order
            and f.at < before
            and day in f.days
            for f in self.fresh
        )

    def counted(self, taking: Taking, now: int) -> int:
        """Units of a taking that count in the sums of everybody: what is given back goes
        off them as it goes off the user's own day, and a reset goes off them never."""
        now = min(now, self.asked_at)
        ends = taking.held_until
        if taking.state == "held" and ends is not None and now >= ends:
            return taking.amount if self.began_anew(taking, ends) else 0
        return taking.amount - sum(taking.returns) + taking.lost

    def used_by_all(
        self, resource: str, period: Period, now: int, tiers: frozenset[str] | None
    ) -> int:
        """Units that everybody took in a window, on these tiers at the time; grants' too."""
        starts, ends = span(self.zone, period, now)
        return sum(
            self.counted(taking, now)
            for taking in self.takings
            if taking.resource == resource
            and starts <= taking.at < ends
            and (tiers is None or taking.tier in tiers)
        )

    def base(self, user: str, resource: str, now: int) -> tuple[bool, Ceilings]:
        """Whether tier or override list the resource, and the ceilings without throttles."""
        listed = False
        ceilings: Ceilings = {}
        tier = self.tier_of(user)
        if tier is not None and resource in self.tiers[tier].limits:
            listed = True
            for period, most in self.tiers[tier].limits[resource].items():
                ceilings[period] = (most, ("tier", self.tiers[tier].id))
        for one in self.overrides:
            if (one.user, one.resource, one.gone) != (user, resource, False):
                continue
            if one.ends is not None and now >= one.ends:
                continue
            if one.period is None:
                ceilings = {"day": (None, ("override", one.id))}
            else:
                ceilings[one.period] = (one.most, ("override", one.id))
            listed = True
        if not listed:
            ceilings = {"day": (0, ("tier", self.tier_id(user)))}
        return listed, ceilings

    def matching(self, user: str, resource: str, now: int, kinds: Iterable[str]) -> list[Switch]:
        tier = self.tier_of(user)
        return [
            s
            for s in self.switches
            if s.kind in kinds
            and not s.gone
            and s.starts <= now
            and (s.ends is None or now < s.ends)
            and (s.resources is None or resource in s.resources)
            and (s.tiers is None or tier in s.tiers)
        ]

    def spared(self, user: str) -> bool:
        """Whether the user or the tier is protected."""
        tier = self.tier_of(user)
        return (user in self.users and self.users[user].protected) or (
            tier is not None and self.tiers[tier].protected
        )

    def throttles(
        self, user: str, resource: str, now: int, *, drills: bool = False
    ) -> list[Switch]:
        """Those in force for a user, lowest id first; `drills` looks at drills as if real."""
        found = self.matching(user, resource, now, THROTTLES)
        found = [s for s in found if s.reaches_protected or not self.spared(user)]
        return sorted((s for s in found if drills or not s.drill), key=lambda s: s.id)

    def effective(self, user: str, resource: str, now: int, *, drills: bool = False) -> Ceilings:
        """The ceilings under all matching throttles; the lowest wins, of equals the lowest id."""
        base = self.base(user, resource, now)[1]
        ceilings = dict(base)
        for throttle in self.throttles(user, resource, now, drills=drills):
            part = throttle.percentage(now, lifting=False)
            lifted = throttle.percentage(now, lifting=True)
            results: dict[Period, int] = {}
            if throttle.kind == "deny":
                results["day"] = 0
            elif throttle.kind == "cap":
                assert throttle.period is not None and throttle.most is not None
                results[throttle.period] = throttle.most * part // 100
            elif throttle.kind == "scale":
                assert throttle.percent is not None
                for period, (most, _) in base.items():
                    if most is not None:
                        scaled = most * throttle.percent * part // (100 * 100)
                        results[period] = max(scaled, min(throttle.floor or 0, most))
            for period, result in results.items():
                below = base.get(period, (None, ("", None)))[0]
                most = result if below is None else max(result, below * lifted // 100)
                lowest = ceilings.get(period, (None, ("", None)))[0]
                if lowest is None or most < lowest:
                    ceilings[period] = (most, ("throttle", throttle.id))
        return ceilings

    def lines(
        self, user: str, resource: str, now: int, *, base: bool = False, drills: bool = False
    ) -> list[Line]:
        """Every ceiling for a user, their own ones first; `base` is without throttles."""
        if base:
            own = self.base(user, resource, now)[1]
        else:
            own = self.effective(user, resource, now, drills=drills)
        lines = [Line(period, most, rule) for period, (most, rule) in own.items()]
        if resource in self.capacities and not self.spared(user):
            period, most = self.capacities[resource]
            number = 1 + self.resources.index(resource)
            lines.append(Line(period, most, ("resource", number), shared=True))
        for throttle in self.throttles(user, resource, now, drills=drills):
            if throttle.kind == "total" and not base:
                assert throttle.period is not None and throttle.most is not None
                most = throttle.most * throttle.percentage(now, lifting=False) // 100
                rule = ("throttle", throttle.id)
                lines.append(Line(throttle.period, most, rule, True, throttle.tiers))
        return lines

    def used_on(self, user: str, resource: str, line: Line, now: int) -> int:
        if line.shared:
            return self.used_by_all(resource, line.period, now, line.tiers)
        return self.used(user, resource, line.period, now)

    # ---- deciding

    def fits(
        self, user: str, resource: str, amount: int, now: int, lines: list[Line], purse: int
    ) -> tuple[list[Line], int]:
        """The ceilings that refuse, and how much of a grant it takes."""
        refusing: list[Line] = []
        needed = 0
        for line in lines:
            if line.most is None:
                continue
            room = max(0, line.most - self.used_on(user, resource, line, now))
            short = max(0, amount - room)
            if line.paid_by_grants:
                needed = max(needed, short)
                if short > purse:
                    refusing.append(line)
            elif short:
                refusing.append(line)
        return refusing, needed

    def judge(
        self, user: str, resource: str, amount: int, now: int, *, drills: bool = False
    ) -> Verdict:
        lines = self.lines(user, resource, now, drills=drills)
        blocks = [
            b
            for b in self.blocks
            if b.user == user
            and b.resource in (None, resource)
            and not b.gone
            and (b.ends is None or now < b.ends)
        ]
        if blocks:
            longest = min(blocks, key=lambda b: (-(b.ends or 10**18), b.id))
            rule = ("block", longest.id)
            return Verdict("blocked", None, lines, [], 0, rule, blocks=[longest])
        listed, _ = self.base(user, resource, now)
        base = self.lines(user, resource, now, base=True)
        purse = sum(self.balance(g, now) for g in self.purse(user, resource, now))
        throttles = self.throttles(user, resource, now, drills=drills)
        freezing = [s for s in throttles if s.freezes or s.kind == "deny"]
        base_refusing, _ = self.fits(user, resource, amount, now, base, purse)
        refusing, needed = self.fits(user, resource, amount, now, lines, 0 if freezing else purse)
        off = self.matching(user, resource, now, ("off",))
        shadow = self.matching(user, resource, now, ("shadow",))
        if off:
            return Verdict("ok", None, lines, [], 0, ("enforcement", off[0].id))
        if not refusing:
            would_be = None
            if not drills:
                rehearsed = self.judge(user, resource, amount, now, drills=True)
                would_be = rehearsed.would_be
                if not rehearsed.allowed:
                    would_be = rehearsed.reason
            if needed:
                rule = ("grant", self.purse(user, resource, now)[0].id)
                return Verdict("granted", would_be, lines, [], needed, rule)
            return Verdict("ok", would_be, lines, [], 0, None)
        reason = "throttled"
        if base_refusing:
            # Not to have it goes before there being none left for anybody.
            own = [line for line in base_refusing if not line.shared]
            reason = "not_in_tier" if own and not listed else "limit_reached"
            base_refusing = own if reason == "not_in_tier" else base_refusing
        if shadow:
            return Verdict("ok", reason, lines, [], 0, ("enforcement", shadow[0].id))
        if reason != "throttled":
            return Verdict(reason, None, base, base_refusing, 0, None)
        too_low, _ = self.fits(user, resource, amount, now, lines, purse)
        if too_low:
            return Verdict(reason, None, lines, too_low, 0, None)
        # Only frozen grants made the difference.
        rules = {("throttle", s.id) for s in freezing}
        froze = [line for line in refusing if line.rule in rules]
        if froze:
            return Verdict(reason, None, lines, froze, 0, None)
        return Verdict(reason, None, lines, refusing, 0, ("throttle", freezing[0].id))

    def retry_after_s(self, user: str, resource: str, amount: int, now: int) -> int | None:
        """Ask at every moment at which something changes by itself."""
        moments: set[int] = set()
        periods: set[Period] = {"day"}
        for tier in self.tiers.values():
            periods.update(tier.limits.get(resource, {}))
        for one in self.overrides:
            if one.period is not None:
                periods.add(one.period)
            if not one.gone and one.ends is not None:
                moments.add(one.ends)
        if resource in self.capacities:
            periods.add(self.capacities[resource][0])
        for switch in self.switches:
            if switch.period is not None:
                periods.add(switch.period)
            if not switch.gone:
                moments.update(step.at for step in switch.coming())
                moments.add(switch.starts)
                if switch.ends is not None:
                    moments.add(switch.ends)
        for block in self.blocks:
            if not block.gone and block.ends is not None:
                moments.add(block.ends)
        moments.update(span(self.zone, period, now)[1] for period in periods)
        self.asked_at = now
        try:
            for moment in sorted(moments):
                if moment > now and self.judge(user, resource, amount, moment).allowed:
                    return -((now - moment) // 1000)
        finally:
            self.asked_at = 10**18
        return None

    def answer(
        self,
        user: str,
        resource: str,
        amount: int,
        now: int,
        verdict: Verdict,
        granted: int,
        tightest: Line | None = None,
    ) -> Answer:
        """The figures, as the facts stand."""
        day_used = self.used(user, resource, "day", now)
        tier = self.tier_of(user)
        if verdict.reason == "blocked":
            (block,) = verdict.blocks
            return Answer(
                False, "blocked", amount, tier, 0, None, None, 0, day_used, 0, block.ends,
                self.retry_after_s(user, resource, amount, now), ("block", block.id),
            )  # fmt: skip
        if verdict.refusing:
            line = self.latest(verdict.refusing, now)
        else:
            line = tightest or self.tightest(user, resource, now, verdict.lines, granted)
        most, rule = line.most, verdict.rule or line.rule
        used = self.used_on(user, resource, line, now)
        message = None
        if not verdict.allowed and rule[0] == "throttle":
            (message,) = (s.message for s in self.switches if s.id == rule[1])
        return Answer(
            allowed=verdict.allowed,
            reason=verdict.reason,
            amount=amount,
            tier=tier,
            granted=granted,
            would_be=verdict.would_be,
            period=line.period,
            limit=most,
            used=used,
            remaining=None if most is None else max(0, most - used),
            reset_at=span(self.zone, line.period, now)[1],
            retry_after_s=(
                None if verdict.allowed else self.retry_after_s(user, resource, amount, now)
            ),
            rule=rule,
            message=message,
        )

    def latest(self, refusing: list[Line], now: int) -> Line:
        """Of several that refuse the one with the latest reset, of those the longest; then
        the user's own, then a capacity, and of throttles the lowest id."""

        def order(line: Line) -> tuple[int, int, int]:
            rule, id_ = line.rule
            tie = (id_ or 0) if rule == "throttle" else -1 if line.shared else -2
            return -span(self.zone, line.period, now)[1], -rank(line.period), tie

        return min(refusing, key=order)

    def tightest(self, user: str, resource: str, now: int, lines: list[Line], granted: int) -> Line:
        """The ceiling with the least left, the units that grants pay apart; of those the
        longest, then the user's own."""

        def room(line: Line) -> tuple[float, int, bool, bool, int]:
            throttle = line.rule[0] == "throttle"
            last = (-rank(line.period), line.shared, throttle, line.rule[1] or 0)
            if line.most is None:
                return float("inf"), *last
            left = max(0, line.most - self.used_on(user, resource, line, now))
            return left + (granted if line.paid_by_grants else 0), *last

        return min(lines, key=room)

    # ---- consuming

    def check(self, user: str, resource: str, amount: int, now: int) -> Answer:
        if resource not in self.resources:
            raise Refused("not_found")
        verdict = self.judge(user, resource, amount, now)
        return self.answer(user, resource, amount, now, verdict, verdict.needed)

    def take(
        self,
        user: str,
        resource: str,
        amount: int,
        now: int,
        key: str | None = None,
        ttl_ms: int | None = None,
    ) -> tuple[Answer, Taking | None]:
        """Consume, or hold for `ttl_ms`. The taking's id is for the caller to fill in."""
        if resource not in self.resources:
            raise Refused("not_found")
        held = ttl_ms is not None
        first = next((t for t in self.takings if key is not None and t.key == key), None)
        if first is not None:
            same = (first.user, first.resource, first.amount) == (user, resource, amount)
            if not same or held != (first.held_until is not None) or not self.left(first, now):
                raise Refused("conflict")
            return self.replay(first, now), first
        if key in self.refund_keys:
            raise Refused("conflict")
        self.know(user)
        verdict = self.judge(user, resource, amount, now)
        if not verdict.allowed:
            return self.answer(user, resource, amount, now, verdict, 0), None
        burns = []
        left = verdict.needed
        for grant in self.purse(user, resource, now):
            units = min(left, self.balance(grant, now))
            if units:
                burns.append((grant.id, units))
            left -= units
        assert left == 0
        tightest = self.tightest(user, resource, now, verdict.lines, verdict.needed)
        counting = self.effective(user, resource, now, drills=True)
        self.order += 1
        taking = Taking(
            id=0,
            order=self.order,
            at=now,
            user=user,
            tier=self.tier_of(user),
            resource=resource,
            amount=amount,
            reason=verdict.reason,
            burns=burns,
            shorter=frozenset(p for p in counting if isinstance(p, int)),
            key=key,
            would_be=verdict.would_be,
            held_until=None if ttl_ms is None else now + ttl_ms,
            state="held" if held else "consumed",
        )
        self.takings.append(taking)
        answer = self.answer(user, resource, amount, now, verdict, verdict.needed, tightest)
        return answer, taking

    def replay(self, first: Taking, now: int) -> Answer:
        """The first answer, over the figures as they are now."""
        user, resource = first.user, first.resource
        granted = sum(units for _, units in first.burns)
        lines = self.lines(user, resource, now)
        rule = ("grant", first.burns[0][0]) if first.burns else None
        verdict = Verdict(first.reason, None, lines, [], granted, rule)
        tightest = self.tightest(user, resource, now, lines, 0)
        answer = self.answer(user, resource, first.amount, now, verdict, granted, tightest)
        held = None if first.held_until is None else first.id
        return Answer(
            **{**vars(answer), "entry_id": first.id, "reservation_id": held, "replayed": True}
        )

    def refund(
        self, taking: Taking, amount: int | None, now: int, refund_key: str | None = None
    ) -> tuple[int, int, bool]:
        """Units given back, those of grants among them, and whether that was a replay."""
        if taking.state == "held" and now < (taking.held_until or 0):
            raise Refused("conflict")
        if any(t.key == refund_key for t in self.takings if refund_key is not None):
            raise Refused("conflict")
        if refund_key is not None and refund_key in self.refund_keys:
            of, given, granted = self.refund_keys[refund_key]
            if of is not taking or amount not in (None, given):
                raise Refused("conflict")
            return given, granted, True
        left = self.left(taking, now)
        if amount is None and not left:
            return 0, 0, False
        amount = left if amount is None else amount
        if not 1 <= amount <= left:
            raise Refused("conflict")
        granted = self.give_back(taking, amount, now)
        if refund_key is not None:
            self.refund_keys[refund_key] = (taking, amount, granted)
        return amount, granted, False

    def give_back(self, taking: Taking, amount: int, now: int) -> int:
        before = sum(units for _, units in self.burnt(taking, now))
        taking.returns.append(amount)
        if self.began_anew(taking, 10**18):
            taking.lost += amount
        return before - sum(units for _, units in self.burnt(taking, now))

    def settle(
        self, hold: Taking, now: int, keep: int | None, verb: str
    ) -> tuple[str, int, int, bool]:
        """Post (`keep` None is all) or void: state, posted, freed, already."""
        if hold.state == verb:
            posted = 0
            if verb == "posted":
                posted = hold.kept
                if keep not in (None, posted):
                    raise Refused("conflict")
            return verb, posted, hold.amount - posted, True
        if hold.state != "held":
            raise Refused("conflict")
        assert hold.held_until is not None
        if now >= hold.held_until:
            if verb == "posted":
                raise Refused("conflict")
            return "expired", 0, hold.amount, True
        keep = hold.amount if keep is None else keep
        if keep > hold.amount:
            raise Refused("conflict")
        if verb == "voided":
            keep = 0
        if keep < hold.amount:
            self.give_back(hold, hold.amount - keep, now)
        hold.state = verb
        hold.kept = keep
        return verb, keep, hold.amount - keep, False

    # ---- administering

    def know(self, user: str) -> User:
        return self.users.setdefault(user, User())

    def known(self, user: str) -> User:
        if user not in self.users:
            raise Refused("not_found")
        return self.users[user]

    def reset_user(self, user: str, resources: Sequence[str], now: int) -> None:
        self.known(user)
        for resource in resources:
            ceilings = self.effective(user, resource, now)
            counting = self.effective(user, resource, now, drills=True)
            shorter = frozenset(
                (p, span(self.zone, p, now)[0]) for p in counting if isinstance(p, int)
            )
            days = {span(self.zone, "day", now)[0]}
            for period in ("week", "month"):
                if period in ceilings:
                    at = span(self.zone, period, now)[0]
                    while at <= now:
                        starts, at = span(self.zone, "day", at)
                        days.add(starts)
            self.order += 1
            self.fresh.append(Fresh(self.order, now, user, resource, shorter, frozenset(days)))

    def set_override(
        self,
        user: str,
        resource: str,
        limits: dict[Period | None, int | None],
        ends: int | None,
        now: int,
    ) -> None:
        """`limits` by period; {None: None} is bare `unlimited`."""
        self.know(user)
        for period, most in limits.items():
            present = [
                o
                for o in self.overrides
                if (o.user, o.resource, o.gone) == (user, resource, False)
                and (o.ends is None or now < o.ends)
            ]
            for old in present:
                if (old.period is None) != (period is None):
                    old.gone = True
            alike = [o for o in present if not o.gone and o.period == period]
            if alike and (alike[0].most, alike[0].ends) == (most, ends):
                continue
            for old in alike:
                old.gone = True
            made = len(self.overrides) + 1
            self.overrides.append(Override(made, user, resource, period, most, ends))

    def clear_override(self, user: str, resource: str | None) -> None:
        self.known(user)
        for one in self.overrides:
            if one.user == user and resource in (None, one.resource):
                one.gone = True

    def block(self, user: str, resource: str | None, ends: int | None, now: int) -> None:
        self.know(user)
        for old in self.blocks:
            if (old.user, old.resource, old.gone) != (user, resource, False):
                continue
            if old.ends is not None and now >= old.ends:
                continue
            if old.ends == ends:
                return
            old.gone = True
        self.blocks.append(Block(len(self.blocks) + 1, user, resource, ends))

    def unblock(self, user: str, resource: str | None, now: int) -> None:
        self.known(user)
        live = [
            b
            for b in self.blocks
            if b.user == user and not b.gone and (b.ends is None or now < b.ends)
        ]
        found = [b for b in live if resource in (None, b.resource)]
        if not found and any(b.resource is None for b in live):
            raise Refused("conflict")
        for one in found:
            one.gone = True

    def grant(
        self, user: str, resource: str, amount: int, priority: int, ends: int | None
    ) -> Grant:
        self.know(user)
        made = Grant(len(self.grants) + 1, user, resource, amount, priority, ends)
        self.grants.append(made)
        return made

    def throttle_on(self, wanted: Switch, now: int, *, replace: bool) -> Switch | None:
        """None if it is on already, or will be, when it is wanted to begin."""

        def identity(s: Switch) -> tuple[object, ...]:
            return (
                s.kind, s.resources, s.tiers, s.most, s.period, s.percent, s.floor,
                s.freezes or s.kind == "deny", s.reaches_protected, s.drill,
                [(step.at - s.starts, step.percent, step.lifting) for step in s.coming()],
            )  # fmt: skip

        if wanted.steps and wanted.ends is not None and wanted.ends <= wanted.steps[-1].at:
            raise Refused("invalid_input")
        live = [s for s in self.switches if s.kind in THROTTLES and not s.over(now)]
        together = [
            s
            for s in live
            if (s.ends is None or wanted.starts < s.ends)
            and (wanted.ends is None or s.starts < wanted.ends)
        ]
        identical = [s for s in together if identity(s) == identity(wanted)]
        if any(s.starts <= wanted.starts for s in identical):
            return None
        alike = [
            s
            for s in live
            if (s.name is not None and s.name == wanted.name)
            or (s in together and s not in identical and targets_of(s) == targets_of(wanted))
        ]
        if alike and not replace:
            raise Refused("conflict")
        for old in alike:
            old.gone = True
        return self.switch_on(wanted)

    def lift_in_steps(self, throttle: Switch, parts: list[int], every: int, now: int) -> bool:
        """Whether it changed anything: what is over already is no more lifted."""
        if throttle.over(now):
            return False
        if throttle.kind == "total" or now < throttle.starts:
            raise Refused("invalid_input")
        reached = [s.percent for s in throttle.coming() if s.lifting and s.at <= now]
        rising = [*reached[-1:], *parts]
        if any(later <= earlier for earlier, later in pairwise(rising)):
            raise Refused("invalid_input")
        came = [s for s in throttle.coming() if not s.lifting and s.at <= now]
        lifting = [Step(now + n * every, part, lifting=True) for n, part in enumerate(parts)]
        # The whole limit comes last, and with it the end; but a first step lasts as any other.
        if parts[-1] < 100 or len(parts) == 1:
            lifting.append(Step(lifting[-1].at + every, 100, lifting=True))
        throttle.steps = came + lifting
        throttle.held = None
        throttle.ends = lifting[-1].at
        return True

    def hold_ramp(self, throttle: Switch, now: int, ends: int | str | None) -> bool:
        """Stay at the present step. `ends` is the new end, or "same" where none is told."""
        if throttle.over(now) or not throttle.steps or now < throttle.starts:
            raise Refused("conflict")
        ahead = [s for s in throttle.steps if s.at > now]
        if throttle.held is not None or not ahead:
            return False
        throttle.held = now
        if not isinstance(ends, str):
            throttle.ends = ends
        elif any(s.lifting for s in ahead):
            throttle.ends = now + 60 * MINUTE_MS
        return True

    def resume_ramp(self, throttle: Switch, now: int) -> bool:
        """Go on: what was ahead is as far ahead now. The end is for the caller to fill in."""
        if throttle.over(now):
            raise Refused("conflict")
        if throttle.held is None:
            return False
        held, throttle.held = throttle.held, None
        throttle.steps = [
            s if s.at <= held else Step(s.at + now - held, s.percent, s.lifting)
            for s in throttle.steps
        ]
        return True

    def extend(self, throttle: Switch, now: int, duration: int | None) -> None:
        """Move the end; a duration counts from now, or from a start to come."""
        if throttle.over(now):
            raise Refused("conflict")
        throttle.ends = None if duration is None else max(now, throttle.starts) + duration

    def enforce(self, wanted: Switch, now: int) -> Switch | None:
        """None if that is in force already; one that is only to end elsewhere is moved."""
        for old in self.switches:
            if (
                old.kind in ("shadow", "off")
                and not old.gone
                and (old.ends is None or now < old.ends)
                and (old.resources, old.tiers) == (wanted.resources, wanted.tiers)
            ):
                if (old.kind, old.ends) == (wanted.kind, wanted.ends):
                    return None
                if old.kind == wanted.kind:
                    old.ends = wanted.ends
                    return old
                old.gone = True
        return self.switch_on(wanted)

    def enforce_again(self, resources: frozenset[str] | None, tiers: frozenset[str] | None) -> None:
        for old in self.switches:
            if old.kind in ("shadow", "off") and (
                (resources is None and tiers is None)
                or (old.resources, old.tiers) == (resources, tiers)
            ):
                old.gone = True

    def switch_on(self, wanted: Switch) -> Switch:
        wanted.id = len(self.switches) + 1
        self.switches.append(wanted)
        return wanted


def targets_of(switch: Switch) -> tuple[object, ...]:
    return switch.kind, switch.period, switch.resources, switch.tiers, switch.drill
