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
from zoneinfo import ZoneInfo

Period = int | str
Span = tuple[int, int]

MINUTE_MS = 60_000
DAY_MS = 86_400_000
LONG = ("day", "week", "month")


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


@dataclass
class Switch:
    """A throttle or an enforcement; `kind` is deny, cap, scale, shadow or off."""

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


@dataclass
class Taking:
    """Units taken or held. What was given back since stands in `returns`."""

    id: int
    order: int
    at: int
    user: str
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


@dataclass
class Fresh:
    """A user's reset: which windows began anew, by their starts."""

    order: int
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


Ceilings = dict[Period, tuple[int | None, tuple[str, int | None]]]


@dataclass
class Verdict:
    """How one request fares at one moment; nothing is taken yet."""

    reason: str
    would_be: str | None
    ceilings: Ceilings
    refusing: list[Period]
    needed: int
    rule: tuple[str, int | None] | None
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

    def throttles(self, user: str, resource: str, now: int) -> list[Switch]:
        tier = self.tier_of(user)
        protected = (user in self.users and self.users[user].protected) or (
            tier is not None and self.tiers[tier].protected
        )
        found = self.matching(user, resource, now, ("deny", "cap", "scale"))
        return [s for s in found if s.reaches_protected or not protected]

    def effective(self, user: str, resource: str, now: int) -> Ceilings:
        """The ceilings under all matching throttles; the lowest wins, of equals the lowest id."""
        base = self.base(user, resource, now)[1]
        ceilings = dict(base)
        for throttle in sorted(self.throttles(user, resource, now), key=lambda s: s.id):
            results: dict[Period, int] = {}
            if throttle.kind == "deny":
                results["day"] = 0
            elif throttle.kind == "cap":
                assert throttle.period is not None and throttle.most is not None
                results[throttle.period] = throttle.most
            else:
                assert throttle.percent is not None
                for period, (most, _) in base.items():
                    if most is not None:
                        scaled = most * throttle.percent // 100
                        results[period] = max(scaled, min(throttle.floor or 0, most))
            for period, result in results.items():
                lowest = ceilings.get(period, (None, ("", None)))[0]
                if lowest is None or result < lowest:
                    ceilings[period] = (result, ("throttle", throttle.id))
        return ceilings

    # ---- deciding

    def fits(
        self, user: str, resource: str, amount: int, now: int, ceilings: Ceilings, purse: int
    ) -> tuple[list[Period], int]:
        """The periods whose windows refuse, and how much of a grant it takes."""
        refusing: list[Period] = []
        needed = 0
        for period, (most, _) in ceilings.items():
            if most is None:
                continue
            room = max(0, most - self.used(user, resource, period, now))
            short = max(0, amount - room)
            if period in LONG:
                needed = max(needed, short)
                if short > purse:
                    refusing.append(period)
            elif short:
                refusing.append(period)
        return refusing, needed

    def judge(self, user: str, resource: str, amount: int, now: int) -> Verdict:
        ceilings = self.effective(user, resource, now)
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
            return Verdict("blocked", None, ceilings, [], 0, rule, blocks=[longest])
        listed, base = self.base(user, resource, now)
        purse = sum(self.balance(g, now) for g in self.purse(user, resource, now))
        freezing = [s for s in self.throttles(user, resource, now) if s.freezes or s.kind == "deny"]
        base_refusing, _ = self.fits(user, resource, amount, now, base, purse)
        refusing, needed = self.fits(
            user, resource, amount, now, ceilings, 0 if freezing else purse
        )
        off = self.matching(user, resource, now, ("off",))
        shadow = self.matching(user, resource, now, ("shadow",))
        if off:
            return Verdict("ok", None, ceilings, [], 0, ("enforcement", off[0].id))
        if not refusing:
            if needed:
                rule = ("grant", self.purse(user, resource, now)[0].id)
                return Verdict("granted", None, ceilings, [], needed, rule)
            return Verdict("ok", None, ceilings, [], 0, None)
        refused = "limit_reached" if listed else "not_in_tier"
        reason = refused if base_refusing else "throttled"
        if shadow:
            return Verdict("ok", reason, ceilings, [], 0, ("enforcement", shadow[0].id))
        if reason != "throttled":
            return Verdict(reason, None, base, base_refusing, 0, None)
        too_low, _ = self.fits(user, resource, amount, now, ceilings, purse)
        if too_low:
            return Verdict(reason, None, ceilings, too_low, 0, None)
        # Only frozen grants made the difference.
        ids = {s.id for s in freezing}
        own = [p for p in refusing if ceilings[p][1][0] == "throttle" and ceilings[p][1][1] in ids]
        if own:
            return Verdict(reason, None, ceilings, own, 0, None)
        return Verdict(reason, None, ceilings, refusing, 0, ("throttle", freezing[0].id))

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
        for switch in self.switches:
            if switch.period is not None:
                periods.add(switch.period)
            if not switch.gone and switch.ends is not None:
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
        tightest: Period | None = None,
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
            period = max(verdict.refusing, key=lambda p: (span(self.zone, p, now)[1], rank(p)))
        else:
            period = tightest or self.tightest(user, resource, now, verdict.ceilings)
        most, rule = verdict.ceilings[period]
        used = self.used(user, resource, period, now)
        return Answer(
            allowed=verdict.allowed,
            reason=verdict.reason,
            amount=amount,
            tier=tier,
            granted=granted,
            would_be=verdict.would_be,
            period=period,
            limit=most,
            used=used,
            remaining=None if most is None else max(0, most - used),
            reset_at=span(self.zone, period, now)[1],
            retry_after_s=(
                None if verdict.allowed else self.retry_after_s(user, resource, amount, now)
            ),
            rule=verdict.rule or rule,
        )

    def tightest(self, user: str, resource: str, now: int, ceilings: Ceilings) -> Period:
        def room(period: Period) -> tuple[float, int]:
            most = ceilings[period][0]
            if most is None:
                return float("inf"), -rank(period)
            return max(0, most - self.used(user, resource, period, now)), -rank(period)

        return min(ceilings, key=room)

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
        tightest = self.tightest(user, resource, now, verdict.ceilings)
        self.order += 1
        taking = Taking(
            id=0,
            order=self.order,
            at=now,
            user=user,
            resource=resource,
            amount=amount,
            reason=verdict.reason,
            burns=burns,
            shorter=frozenset(p for p in verdict.ceilings if isinstance(p, int)),
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
        ceilings = self.effective(user, resource, now)
        rule = ("grant", first.burns[0][0]) if first.burns else None
        verdict = Verdict(first.reason, None, ceilings, [], granted, rule)
        answer = self.answer(user, resource, first.amount, now, verdict, granted)
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
            shorter = frozenset(
                (p, span(self.zone, p, now)[0]) for p in ceilings if isinstance(p, int)
            )
            days = {span(self.zone, "day", now)[0]}
            for period in ("week", "month"):
                if period in ceilings:
                    at = span(self.zone, period, now)[0]
                    while at <= now:
                        starts, at = span(self.zone, "day", at)
                        days.add(starts)
            self.order += 1
            self.fresh.append(Fresh(self.order, user, resource, shorter, frozenset(days)))

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
        """None if it is on already."""

        def identity(s: Switch) -> tuple[object, ...]:
            return (
                s.kind, s.resources, s.tiers, s.most, s.period, s.percent, s.floor,
                s.freezes or s.kind == "deny", s.reaches_protected,
            )  # fmt: skip

        live = [
            s
            for s in self.switches
            if s.kind in ("deny", "cap", "scale")
            and not s.gone
            and (s.ends is None or now < s.ends)
        ]
        if any(identity(s) == identity(wanted) for s in live):
            return None
        targets = (wanted.kind, wanted.period, wanted.resources, wanted.tiers)
        alike = [
            s
            for s in live
            if (s.kind, s.period, s.resources, s.tiers) == targets
            or (s.name is not None and s.name == wanted.name)
        ]
        if alike and not replace:
            raise Refused("conflict")
        for old in alike:
            old.gone = True
        return self.switch_on(wanted)

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
