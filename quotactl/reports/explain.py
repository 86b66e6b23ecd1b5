"""Why one request is decided as it is: every rule that could have had a say, in order.

    tier → overrides → blocks → throttles → enforcement → capacity → grants → windows

The decision itself is made where all are made; this names what went into it. For a
moment that is past it is made on the ledger as it stood then (see `history`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from quotactl.errors import InvalidInput
from quotactl.frozen import frozen
from quotactl.ledger.loaded import Row
from quotactl.ledger.values import Decision, Request, View
from quotactl.ledger.views import BlockView, OverrideView, StepView
from quotactl.operations.batch import Batch
from quotactl.operations.people import block_view, override_view
from quotactl.policy.burndown import burn
from quotactl.policy.decide import Level, Verdict, decide, levels_of
from quotactl.policy.model import Account, Enforcement, Grant, Rule, Throttle
from quotactl.policy.notation import (
    INSTANT_MAX_MS,
    check_id,
    instant_text,
    limit_text,
    parse_instant,
)
from quotactl.policy.resolve import Standing, base_limits, effects, resolve, spares
from quotactl.policy.settings import duration_of, value_of
from quotactl.policy.window import Calendar, Period, from_ms, moment_of, to_ms
from quotactl.reports.history import Then

if TYPE_CHECKING:
    from quotactl.ledger.engine import Engine, Reading

_Of = TypeVar("_Of")

SWITCHES_LOOKED_AT = 50
"""Among so many of the newest switches those are looked for that were lifted today."""


@frozen
class TierLink(View):
    """`limit` is what the tier says of the resource, as written; None: it does not list it.

    `name` None is a user on no tier, or, if the explanation has it among `unknown`, one
    whose tier is not known. Of the past it is not always known whether a user followed
    the default or was put on the same tier; it is None then.
    """

    name: str | None
    protected: bool
    follows_default: bool | None
    limit: str | None


@frozen
class LimitLink(View):
    """One limit before throttles, and the rule that it comes from; `limit` None is unlimited."""

    period: str
    limit: int | None
    rule: Rule


@frozen
class Effect(View):
    """What one throttle makes of a window's limit, were it the only one.

    `base` is the limit without throttles, None for unlimited. A `shared` one is on what
    all users in its scope take together.
    """

    period: str
    base: int | None
    limit: int
    shared: bool


@frozen
class ThrottleLink(View):
    """A throttle, whether it `matched` this request (None: not known), and why or why not.

    `value` is as written: `3/day`, `25%`; `step` is the ramp's present one. One that
    matched as a `drill` was only counted.
    """

    id: int
    name: str | None
    kind: str
    value: str | None
    floor: int | None
    matched: bool | None
    why: str
    decides: bool
    effect: tuple[Effect, ...]
    step: StepView | None
    freeze_grants: bool
    include_protected: bool
    drill: bool
    starts_at: datetime
    ends_at: datetime | None
    lifted_at: datetime | None
    actor: str | None
    reason: str | None
    ticket: str | None


@frozen
class EnforcementLink(View):
    """A switch that keeps limits from holding; the same words as for throttles."""

    id: int
    mode: str
    matched: bool | None
    why: str
    decides: bool
    starts_at: datetime
    ends_at: datetime | None
    lifted_at: datetime | None
    actor: str | None
    reason: str | None
    ticket: str | None


@frozen
class CapacityLink(View):
    """The most that all users together may have of the resource."""

    period: str
    limit: int | None
    matched: bool | None
    why: str
    decides: bool


@frozen
class GrantLink(View):
    """One grant; the list is in burn order. `pays` are units of this request.

    `remaining` is what was left before the request, None where that is pruned.
    """

    id: int
    amount: int
    remaining: int | None
    priority: int
    expires_at: datetime | None
    usable: bool | None
    pays: int | None
    why: str
    decides: bool
    actor: str | None
    reason: str | None
    ticket: str | None


@frozen
class WindowLink(View):
    """One window with what was used in it before the request.

    `base` is its limit without throttles, `limit` with them, None for unlimited, and
    `rule` what set that. A `shared` window is that of all users together. `used` and
    `remaining` are None where they are pruned; `rule` is None where it is not known.
    """

    period: str
    starts_at: datetime
    reset_at: datetime
    used: int | None
    base: int | None
    limit: int | None
    remaining: int | None
    rule: Rule | None
    shared: bool


@frozen
class Explanation(View):
    """Why a request is decided as it is at `at`.

    `passes_at` is the first moment at which the same request would pass if nobody else
    asked: `at` itself if it is allowed, None for never. `source` is `now` (the policy
    and counters as they stand, also for a moment to come) or `history`. `decision`, `rule`
    and `passes_at` are None too where what is needed was `pruned` or is `unknown`;
    `kept_from` is then the moment from which on entries are kept, by `kept_by`.
    """

    user: str
    new_user: bool
    resource: str
    amount: int
    at: datetime
    zone: str
    source: str
    decision: Decision | None
    rule: Rule | None
    passes_at: datetime | None
    protected: bool
    tier: TierLink
    limits: tuple[LimitLink, ...]
    overrides: tuple[OverrideView, ...]
    blocks: tuple[BlockView, ...]
    throttles: tuple[ThrottleLink, ...]
    enforcement: tuple[EnforcementLink, ...]
    capacity: CapacityLink | None
    grants: tuple[GrantLink, ...]
    windows: tuple[WindowLink, ...]
    pruned: bool
    kept_from: datetime | None
    kept_by: str | None
    unknown: tuple[str, ...]


def explain(
    engine: Engine,
    now_ms: int,
    *,
    user: str,
    resource: str,
    amount: int = 1,
    at: datetime | str | None = None,
) -> Explanation:
    """Explain one request now, or at a moment that is past or to come; writes nothing.

    `at` is an aware datetime or a text (see `moment_asked`), None for now. Of now it costs
    what a check does and a few rows more. Of the past it looks at the audit from then on,
    and at everybody's entries in the windows that matter (a month limit: up to a month).
    Raises InvalidInput for what can't be asked, NotFound for an unknown resource.
    """
    request = Request(check_id(user, "user"), resource, amount)
    with engine.reading() as book:
        at_ms = moment_asked(at, now_ms, book.policy.calendar)
        if at_ms >= now_ms:
            return _Asked(book, request, at_ms, now_ms).explain(None)
        then = Then(book, at_ms, user)
        return _Asked(then.as_reading(), request, at_ms, at_ms).explain(then)


_CLOCK = re.compile(r"(?:(today|yesterday) +)?([0-9]{1,2}:[0-9]{2})\Z")


def moment_asked(at: datetime | str | None, now_ms: int, calendar: Calendar) -> int:
    """The moment that is asked about, in ms since the epoch.

    A text is RFC 3339, `2025-03-28 09:00`, `yesterday 18:00`, `tomorrow 09:00`, or a bare
    `18:00`: the last one that there was, since most questions are about what happened.
    """
    if at is None:
        return now_ms
    if isinstance(at, datetime):
        at_ms = to_ms(at)
        if not 0 <= at_ms < INSTANT_MAX_MS:
            raise InvalidInput("the time is out of range")
        return at_ms
    if not isinstance(at, str):
        raise InvalidInput(f"{at!r} is not a moment", hint="such as 18:00")
    if (match := _CLOCK.match(at)) is not None:
        today = calendar.date_of(now_ms)
        day = today - timedelta(days=1) if match[1] == "yesterday" else today
        at_ms = parse_instant(f"{day} {match[2]}", now_ms=now_ms, calendar=calendar)
        if match[1] is None and at_ms > now_ms:
            day = today - timedelta(days=1)
            at_ms = parse_instant(f"{day} {match[2]}", now_ms=now_ms, calendar=calendar)
        return at_ms
    return parse_instant(at, now_ms=now_ms, calendar=calendar)


class _Asked(Batch):
    """One request, and all that stands around it at `at_ms`.

    `known_ms` is until when it is known what was done: `at_ms`, or now where that is earlier.
    """

    def __init__(self, book: Reading, request: Request, at_ms: int, known_ms: int) -> None:
        super().__init__(book)
        self.request = request
        self.at_ms = at_ms
        self.known_ms = known_ms

    def explain(self, then: Then | None) -> Explanation:
        request, at_ms, policy = self.request, self.at_ms, self.policy
        resource = self._admit(request)
        account, _ = self._account(request.user, resource, at_ms)
        self._certain = then is None or not then.unknown
        self._then = then
        standing = resolve(policy, account, at_ms)
        levels = levels_of(standing, account, policy.calendar, at_ms)
        windows = self._windows(account, levels)
        pruned = then is not None and (
            then.is_pruned(at_ms) or any(window.used is None for window in windows)
        )
        verdict = decision = passes_at_ms = None
        if self._certain and not pruned:
            verdict = decide(policy, account, request.amount, at_ms)
            decision = self._decision(request, account, verdict, counted=False)
            wait_ms = 0 if verdict.allowed else verdict.retry_after_ms
            passes_at_ms = None if wait_ms is None else at_ms + wait_ms
        rule = None if verdict is None else verdict.rule
        tier = account.tier
        overrides = tuple(o for o in account.overrides if _lasts(o.expires_at_ms, at_ms))
        base, listed = base_limits(tier, resource, overrides)
        both = {"user_id": account.user_id, "resource_id": resource.id, "ended_at_ms": None}
        switches = self._switches(rule, account, base)
        return Explanation(
            user=request.user,
            new_user=not account.known,
            resource=resource.name,
            amount=request.amount,
            at=from_ms(at_ms),
            zone=policy.zone,
            source="now" if then is None else "history",
            decision=decision,
            rule=rule,
            passes_at=moment_of(passes_at_ms),
            protected=account.protected,
            tier=self._tier(account),
            limits=tuple(
                LimitLink(period.name, limit, of)
                for period, (limit, of) in _longest_first(base.items())
                if listed and self._certain
            ),
            overrides=tuple(
                override_view(self.book, row, at_ms)
                for row in (self.book.rows("override", both) if overrides else ())
                if _lasts(row["expires_at_ms"], at_ms)
            ),
            blocks=tuple(
                block_view(self.book, row, at_ms)
                for row in self._block_rows(account)
                if _lasts(row["expires_at_ms"], at_ms)
            ),
            throttles=tuple(s for s in switches if isinstance(s, ThrottleLink)),
            enforcement=tuple(s for s in switches if isinstance(s, EnforcementLink)),
            capacity=self._capacity(account, rule),
            grants=tuple(self._grants(account, standing, levels, verdict)),
            windows=windows,
            pruned=pruned,
            kept_from=from_ms(self.book.head.checkpoint_at_ms) if pruned else None,
            kept_by=_retention(self.book) if pruned else None,
            unknown=() if then is None else tuple(then.unknown),
        )

    # ---- links

    def _tier(self, account: Account) -> TierLink:
        tier = account.tier
        limits = None if tier is None else tier.limits.get(account.resource.id)
        follows: bool | None = True
        if self._then is not None:
            follows = self._then.follows_default
        elif account.known:
            follows = self.book.rows("user", {"name": account.user})[0]["tier_id"] is None
        return TierLink(
            name=None if tier is None else tier.name,
            protected=tier is not None and tier.protected,
            follows_default=follows,
            limit=None if limits is None else limit_text(limits),
        )

    def _block_rows(self, account: Account) -> list[Row]:
        if not account.blocks:
            return []
        rows = self.book.rows("block", {"user_id": account.user_id, "ended_at_ms": None})
        return [row for row in rows if row["resource_id"] in {None, account.resource.id}]

    def _windows(self, account: Account, levels: list[Level]) -> tuple[WindowLink, ...]:
        if not self._certain:
            # Without a tier there is no limit, but what was used is known.
            day = self.policy.calendar.day(self.at_ms)
            used = account.used.get((1440, day.starts_at_ms), 0)
            return (
                WindowLink(
                    period="day",
                    starts_at=from_ms(day.starts_at_ms),
                    reset_at=from_ms(day.reset_at_ms),
                    used=None if self._is_pruned(day.starts_at_ms) else used,
                    base=None,
                    limit=None,
                    remaining=None,
                    rule=None,
                    shared=False,
                ),
            )
        links = []
        for ceiling, window, used in sorted(
            levels, key=lambda level: (level[0].shared, -level[0].period.length_min)
        ):
            limit = ceiling.amount_max
            gone = self._is_pruned(window.starts_at_ms)
            links.append(
                WindowLink(
                    period=ceiling.period.name,
                    starts_at=from_ms(window.starts_at_ms),
                    reset_at=from_ms(window.reset_at_ms),
                    used=None if gone else used,
                    base=ceiling.base_max,
                    limit=limit,
                    remaining=None if gone or limit is None else max(0, limit - used),
                    rule=ceiling.rule,
                    shared=ceiling.shared,
                )
            )
        return tuple(links)

    def _is_pruned(self, from_ms: int) -> bool:
        return self._then is not None and self._then.is_pruned(from_ms)

    def _switches(
        self,
        rule: Rule | None,
        account: Account,
        base: dict[Period, tuple[int | None, Rule]],
    ) -> list[ThrottleLink | EnforcementLink]:
        """Every switch that is on or scheduled, and those that ended earlier the same day."""
        policy = self.policy
        day_ms = policy.calendar.day(self.at_ms).starts_at_ms
        rows = {row["id"]: row for row in self.book.newest_switches(SWITCHES_LOOKED_AT)}
        switches: dict[int, Throttle | Enforcement] = {t.id: t for t in policy.throttles}
        switches.update((e.id, e) for e in policy.enforcements)
        links: list[ThrottleLink | EnforcementLink] = []
        for id_ in sorted({*rows, *switches}):
            row = rows.get(id_) or self.book.rows("switch", {"id": id_})[0]
            ended_ms = _earlier(row["ended_at_ms"], row["ends_at_ms"])
            if ended_ms is not None and ended_ms < min(day_ms, self.known_ms):
                continue
            switch = switches.get(id_) or self.book.switch_of(row)
            matched, why = self._why(switch, row, account)
            shared: Row = {
                "matched": matched,
                "why": why,
                "decides": rule is not None and (rule.kind, rule.id) == (_kind(switch), id_),
                "starts_at": from_ms(switch.starts_at_ms),
                "ends_at": moment_of(switch.ends_at_ms),
                "lifted_at": from_ms(row["ended_at_ms"]) if row["lifted"] else None,
                **self.book.why(row["audit_id"]),
            }
            if isinstance(switch, Enforcement):
                links.append(EnforcementLink(id=id_, mode=switch.mode, **shared))
            else:
                links.append(self._throttle(switch, base, shared))
        return links

    def _throttle(
        self,
        throttle: Throttle,
        base: dict[Period, tuple[int | None, Rule]],
        shared: Row,
    ) -> ThrottleLink:
        value = None
        if throttle.percent is not None:
            value = f"{throttle.percent}%"
        elif throttle.period is not None:
            value = f"{throttle.amount_max}/{throttle.period}"
        effect = {}
        step = None
        if shared["matched"] and self._certain:
            effect = effects(throttle, base, self.at_ms)
        if shared["matched"]:
            step = next((s for s in reversed(throttle.steps) if s.at_ms <= self.at_ms), None)
        return ThrottleLink(
            id=throttle.id,
            name=throttle.name,
            kind=throttle.kind,
            value=value,
            floor=throttle.floor,
            effect=tuple(
                Effect(
                    period.name,
                    base[period][0] if period in base and throttle.kind != "total" else None,
                    limit,
                    throttle.kind == "total",
                )
                for period, limit in _longest_first(effect.items())
            ),
            step=None
            if step is None
            else StepView(from_ms(step.at_ms), step.percent, step.lifting),
            freeze_grants=throttle.freeze_grants,
            include_protected=throttle.include_protected,
            drill=throttle.drill,
            **shared,
        )

    def _why(
        self, switch: Throttle | Enforcement, row: Row, account: Account
    ) -> tuple[bool | None, str]:
        """Whether a switch holds for this request, and why or why not."""
        at_ms, scope, tier = self.at_ms, switch.scope, account.tier
        if row["lifted"]:
            return False, f"lifted {self._instant(row['ended_at_ms'])}"
        if switch.ends_at_ms is not None and switch.ends_at_ms <= at_ms:
            return False, f"over since {self._instant(switch.ends_at_ms)}"
        if not scope.covers_resource(account.resource.id):
            return False, f"not for resource {account.resource.name}"
        may_spare = isinstance(switch, Throttle) and not switch.include_protected
        if may_spare and account.protected:
            return False, "the user is protected"
        if not self._certain and (may_spare or scope.tier_ids is not None):
            return None, "depends on the tier, which is not known"
        if not scope.covers(account.resource.id, None if tier is None else tier.id):
            return (
                False,
                "not for users on no tier" if tier is None else f"not for tier {tier.name}",
            )
        if isinstance(switch, Throttle) and spares(switch, tier, protected=account.protected):
            assert tier is not None
            return False, f"tier {tier.name} is protected"
        if switch.starts_at_ms > at_ms:
            return False, f"starts {self._instant(switch.starts_at_ms)}"
        if isinstance(switch, Throttle) and switch.drill:
            return True, "drill: only counted"
        if switch.ends_at_ms is None:
            return True, "in force, with no end"
        return True, f"in force until {self._instant(switch.ends_at_ms)}"

    def _capacity(self, account: Account, rule: Rule | None) -> CapacityLink | None:
        capacity = account.resource.capacity
        if capacity is None:
            return None
        matched: bool | None = True
        why = "over all users together"
        if account.protected:
            matched, why = False, "the user is protected"
        elif not self._certain:
            matched, why = None, "depends on the tier, which is not known"
        elif account.tier is not None and account.tier.protected:
            matched, why = False, f"tier {account.tier.name} is protected"
        return CapacityLink(
            period=capacity.period.name,
            limit=capacity.amount_max,
            matched=matched,
            why=why,
            decides=rule is not None and rule.kind == "resource",
        )

    def _grants(
        self,
        account: Account,
        standing: Standing,
        levels: list[Level],
        verdict: Verdict | None,
    ) -> Iterable[GrantLink]:
        if not account.grants:
            return
        at_ms = self.at_ms
        both = {"user_id": account.user_id, "resource_id": account.resource.id}
        rows = {r["id"]: r for r in self.book.rows("grant_pool", {**both, "ended_at_ms": None})}
        balances = account.balances
        burns = {}
        if verdict is not None and verdict.granted:
            burns = dict(burn(account.grants, balances, verdict.granted, at_ms))
        day_ms = self.policy.calendar.day(at_ms).starts_at_ms
        for grant in sorted(account.grants, key=lambda g: g.burn_order):
            if grant.expires_at_ms is not None and grant.expires_at_ms < min(day_ms, self.known_ms):
                continue
            row = rows[grant.id]
            pays = burns.get(grant.id, 0)
            gone = self._is_pruned(at_ms)
            usable, why = self._of_use(account, grant, standing, levels, verdict, pays)
            yield GrantLink(
                id=grant.id,
                amount=row["amount"],
                remaining=None if gone else balances[grant.id],
                priority=grant.priority,
                expires_at=moment_of(grant.expires_at_ms),
                usable=usable,
                pays=None if verdict is None else pays,
                why=why,
                decides=verdict is not None
                and (verdict.rule.kind, verdict.rule.id) == ("grant", grant.id),
                **self.book.why(row["audit_id"]),
            )

    def _of_use(
        self,
        account: Account,
        grant: Grant,
        standing: Standing,
        levels: list[Level],
        verdict: Verdict | None,
        pays: int,
    ) -> tuple[bool | None, str]:
        """Whether a grant could pay at all, and what it does for this request."""
        if not grant.usable_at(self.at_ms):
            assert grant.expires_at_ms is not None
            return False, f"expired {self._instant(grant.expires_at_ms)}"
        if self._is_pruned(self.at_ms):
            return None, "what was left is pruned"
        if not account.balances[grant.id]:
            return False, "used up"
        if verdict is None:
            return None, "not known: no decision can be made"
        if standing.freezers:
            freezer = standing.freezers[0]
            return False, f"frozen by throttle {freezer.id}"
        if pays:
            return True, f"pays {pays}"
        if verdict.allowed:
            return True, "not needed"
        if verdict.reason == "blocked":
            return True, "pays nothing for who is blocked"
        failing = [
            ceiling
            for ceiling, _, used in levels
            if ceiling.amount_max is not None and used + self.request.amount > ceiling.amount_max
        ]
        if any(ceiling.shared for ceiling in failing):
            return True, "pays nothing that is over for everybody"
        if any(ceiling.period.shorter_than_day for ceiling in failing):
            return True, "buys quota, not speed"
        return True, "too little for what is short"

    def _instant(self, at_ms: int) -> str:
        return instant_text(at_ms, self.policy.calendar)


def _longest_first(items: Iterable[tuple[Period, _Of]]) -> list[tuple[Period, _Of]]:
    return sorted(items, key=lambda item: -item[0].length_min)


def _kind(switch: Throttle | Enforcement) -> str:
    return "throttle" if isinstance(switch, Throttle) else "enforcement"


def _lasts(expires_at_ms: int | None, at_ms: int) -> bool:
    return expires_at_ms is None or at_ms < expires_at_ms


def _earlier(one_ms: int | None, other_ms: int | None) -> int | None:
    return min((ms for ms in (one_ms, other_ms) if ms is not None), default=None)


def _retention(book: Reading) -> str:
    """The setting by which entries are kept the longest, with its value."""
    key = max(("entry_retention", "key_retention"), key=lambda k: duration_of(book.settings, k))
    return f"{key} {value_of(book.settings, key)}"
