"""The unit of work: several operations on one view of the ledger, net effect stored once.

    load what is touched → decide each in order, in memory → Changes

Splitting a batch anywhere changes no answer. Reading order: this, then
`corrections` (what gives back), then `workspace` (what is loaded and changed).
"""

from __future__ import annotations

from collections.abc import Sequence

from quotactl.errors import Conflict, InvalidInput
from quotactl.ledger.entries import Entry, Kind, Reservation
from quotactl.ledger.loaded import UserRow, tier_or_default
from quotactl.ledger.values import Decision, Request
from quotactl.operations.corrections import Corrections
from quotactl.operations.routine import BOOKED_KINDS, TierRoutine, asked_by
from quotactl.operations.workspace import start_of
from quotactl.policy.decide import (
    Level,
    Verdict,
    decide,
    levels_of,
    routine_of,
    tightest,
)
from quotactl.policy.model import AMOUNT_MAX, Account, Resource, Rule
from quotactl.policy.notation import check_amount, check_id, plainly_an_id
from quotactl.policy.resolve import Standing, resolve, totalled
from quotactl.policy.window import from_ms


class Batch(Corrections):
    """Decisions, beside the corrections it inherits, on one transaction."""

    def look_ahead(self, requests: Sequence[object], now_ms: int) -> None:
        """Have looked up at once what many requests are about to need, as far as can be told."""
        users: dict[int, list[str]] = {}
        keys: list[str] = []
        resources = self.policy.resources_by_name
        for request in requests:
            asked = asked_by(request, now_ms)
            if asked is None or asked.resource not in resources:
                continue
            users.setdefault(resources[asked.resource].id, []).append(asked.user)
            if asked.key is not None:
                keys.append(asked.key)
        day_ms = self.policy.calendar.day(now_ms).starts_at_ms
        for resource_id, names in users.items():
            self.book.look_ahead(names, keys, resource_id, day_ms)
            keys = []

    def check(self, request: Request, now_ms: int) -> Decision:
        """What `consume` would answer; takes nothing and is not counted as demand."""
        decision = self.check_routinely(request, now_ms)
        if decision is not None:
            return decision
        resource = self._admit(request)
        account, _ = self._account(request.user, resource, now_ms)
        verdict = decide(self.policy, account, request.amount, now_ms)
        return self._decision(request, account, verdict, counted=False)

    def check_routinely(self, request: Request, now_ms: int) -> Decision | None:
        """The same, or None where that is no matter of routine."""
        found = self._routinely(request, self._admit(request), now_ms)
        if found is None:
            return None
        routine, _, used = found
        if routine.allows(used, request.amount):
            return routine.allowed(request.user, request.resource, request.amount, used)
        return routine.refused(request.user, request.resource, request.amount, used, now_ms)

    def consume(self, request: Request, now_ms: int) -> Decision:
        """Decide one request and count it, as used or as denied."""
        resource = self._admit(request)
        key = request.idempotency_key
        if key is not None and self._entry_of_key(key) is not None:
            replayed = self._replayed(request, resource, now_ms, Kind.CONSUME)
            if replayed is not None:
                return replayed
        found = self._routinely(request, resource, now_ms)
        if found is not None:
            return self._count_routinely(request, *found, now_ms)
        account, verdict = self._decide(request, resource, now_ms)
        entry_id = self._count(request, account, verdict, now_ms, Kind.CONSUME)
        return self._decision(request, account, verdict, entry_id=entry_id)

    def reserve(self, request: Request, now_ms: int, *, ttl_ms: int) -> Decision:
        """Hold units until they are posted or voided, or `ttl_ms` have passed."""
        resource = self._admit(request)
        replayed = self._replayed(request, resource, now_ms, Kind.HOLD)
        if replayed is not None:
            return replayed
        account, verdict = self._decide(request, resource, now_ms)
        entry_id = self._count(request, account, verdict, now_ms, Kind.HOLD)
        if entry_id is not None:
            hold = Reservation(entry_id, account.user_id, resource.id, now_ms + ttl_ms, "pending")
            self.changes.reservations.append(hold)
            self._reservations[entry_id] = hold
            self._accounts[request.user, resource.id][1][entry_id] = hold.expires_at_ms
        return self._decision(request, account, verdict, entry_id=entry_id, reservation_id=entry_id)

    def levels(self, user: str, resource: Resource, now_ms: int) -> tuple[Standing, list[Level]]:
        """A user's standing for a resource, and every window in force with what is used in it."""
        account, _ = self._account(user, resource, now_ms)
        standing = resolve(self.policy, account, now_ms)
        return standing, levels_of(standing, account, self.policy.calendar, now_ms)

    # ---- in detail

    def _admit(self, request: Request) -> Resource:
        if not isinstance(request, Request):
            raise InvalidInput(f"{type(request).__name__} is not a Request")
        user, amount, key = request.user, request.amount, request.idempotency_key
        if not plainly_an_id(user):
            check_id(user, "user")
        if not (type(amount) is int and 0 < amount <= AMOUNT_MAX):
            check_amount(amount)
        if not (key is None or plainly_an_id(key)):
            check_id(key, "key")
        return self.resource(request.resource)

    def _routinely(
        self, request: Request, resource: Resource, now_ms: int
    ) -> tuple[TierRoutine, int, int] | None:
        """The routine that decides a request, the user's id and what they used; None where
        it is not a matter of routine. Nearly all are, and cost a fraction then."""
        name = request.user
        head = self.book.head
        closed_until_ms = head.closed_until_ms
        if (
            (name, resource.id) in self._accounts
            or (closed_until_ms is not None and now_ms < closed_until_ms)
            or now_ms < head.opened_at_ms
        ):
            return None
        user = self.book.user_row(name)
        if user is None or user.has_own:
            return None
        # Kept with the policy: it holds for as long as that stands.
        key = ("routine", resource.id, user.tier_id, user.protected)
        routine: TierRoutine | None = self.policy.resolved.get(key)
        if routine is None or not routine.from_ms <= now_ms < routine.until_ms:
            routine = self._routine_of(user, resource, now_ms)
            if routine is None:
                return None
            self.policy.resolved[key] = routine
        day_ms = routine.day_ms
        count = self.book.count_of(user.id, resource.id, day_ms)
        used = 0 if count is None else count[0]
        pending = self.changes.counters.get((resource.id, 1440, day_ms, user.id))
        if pending is not None:
            used += pending[0]
        if routine.refusal is None and not routine.allows(used, request.amount):
            return None
        return routine, user.id, used

    def _routine_of(self, user: UserRow, resource: Resource, now_ms: int) -> TierRoutine | None:
        policy = self.policy
        if totalled(policy, resource) or self._strays(resource, now_ms, wide=False):
            return None
        tier = tier_or_default(policy, user.tier_id)
        anybody = Account("", user.id, True, tier, bool(user.protected), resource)
        routine = routine_of(policy, anybody, now_ms)
        if routine is None:
            return None
        return TierRoutine(routine, tier, resource, policy.calendar.hour_of(now_ms))

    def _count_routinely(
        self, request: Request, routine: TierRoutine, user_id: int, used: int, now_ms: int
    ) -> Decision:
        amount = request.amount
        changes = self.changes
        place = (routine.resource_id, 1440, routine.day_ms, user_id)
        if not routine.allows(used, amount):
            self._add_counter(place, 0, 0, amount)
            self._add_demand(routine.refused_key, [1, 0, 0, amount, 0])
            return routine.refused(request.user, request.resource, request.amount, used, now_ms)
        if used + amount > AMOUNT_MAX:
            raise _past_counting(request)
        entry_id = self._new_entry_id()
        entry = Entry(
            entry_id,
            now_ms,
            Kind.CONSUME,
            user_id,
            routine.resource_id,
            routine.tier_id,
            amount,
            0,
            routine.day_ms,
            (),
            None,
        )
        changes.entries.append(entry)
        self._entries[entry_id] = entry
        key = request.idempotency_key
        if key is not None:
            self._keys[key] = entry_id
            changes.keys.append((key, entry_id, now_ms))
        # As _add_counter and _add_demand do it, without their calls.
        counted = changes.counters.get(place)
        if counted is None:
            changes.counters[place] = [amount, 0, 0, 0]
        else:
            counted[0] += amount
        demand = changes.demand.get(routine.allowed_key)
        if demand is None:
            changes.demand[routine.allowed_key] = [1, amount, 0, 0, 0]
        else:
            demand[0] += 1
            demand[1] += amount
        return routine.allowed(request.user, request.resource, amount, used + amount, entry_id)

    def _decide(self, request: Request, resource: Resource, now_ms: int) -> tuple[Account, Verdict]:
        self._refuse_closed(now_ms)
        account, _ = self._account(request.user, resource, now_ms)
        verdict = decide(self.policy, account, request.amount, now_ms)
        if verdict.allowed and request.amount > self._room(account, verdict, now_ms):
            raise _past_counting(request)
        return account, verdict

    def _room(self, account: Account, verdict: Verdict, now_ms: int) -> int:
        """How many units the counters that an entry is charged to can still count."""
        day = (1440, verdict.day_ms)
        fullest = max(account.used.get(day, 0) - verdict.granted, 0)
        if verdict.granted:
            fullest = max(fullest, account.granted.get(day, 0))
        for length_min in verdict.periods:
            fullest = max(fullest, account.used.get((length_min, start_of(now_ms, length_min)), 0))
        return AMOUNT_MAX - fullest

    def _count(
        self, request: Request, account: Account, verdict: Verdict, now_ms: int, kind: Kind
    ) -> int | None:
        """Book a decision: an entry if it took something, demand in any case."""
        self._intern(account, now_ms)
        amount, granted = request.amount, verdict.granted
        resource_id = account.resource.id
        tier_id = 0 if account.tier is None else account.tier.id
        entry_id = None
        windows = [(1440, verdict.day_ms), *((p, start_of(now_ms, p)) for p in verdict.periods)]
        if verdict.allowed:
            entry_id = self._add_entry(
                Entry(
                    self._new_entry_id(),
                    now_ms,
                    kind,
                    account.user_id,
                    resource_id,
                    tier_id or None,
                    amount,
                    granted,
                    verdict.day_ms,
                    verdict.periods,
                    None,
                )
            )
            for grant_id, units in verdict.burns:
                self.changes.movements.append((entry_id, grant_id, -units))
                account.balances[grant_id] -= units
            if verdict.burns:
                self._burns[entry_id] = verdict.burns
            if request.idempotency_key is not None:
                self._remember(request.idempotency_key, entry_id, now_ms)
            shadow = amount if verdict.would_be is not None else 0
            for window in windows:
                charged = amount - granted if window[0] == 1440 else amount
                part = granted if window[0] == 1440 else 0
                account.used[window] = account.used.get(window, 0) + charged
                if part:
                    account.granted[window] = account.granted.get(window, 0) + part
                self._add_counter((resource_id, *window, account.user_id), charged, part, 0, shadow)
            self._count_total(now_ms, account.resource, tier_id, amount)
            values = [1, amount - granted, granted, 0, shadow]
        else:
            for window in windows:
                self._add_counter((resource_id, *window, account.user_id), 0, 0, amount)
            values = [1, 0, 0, amount, 0]
        rule = verdict.drill or verdict.rule
        rule_id = rule.id if rule.kind in BOOKED_KINDS else None
        hour_ms = self.policy.calendar.hour_of(now_ms)
        self._add_demand(
            (hour_ms, resource_id, tier_id, verdict.reason, rule.kind, rule_id or 0), values
        )
        return entry_id

    def _decision(
        self,
        request: Request,
        account: Account,
        verdict: Verdict,
        *,
        counted: bool = True,
        entry_id: int | None = None,
        reservation_id: int | None = None,
    ) -> Decision:
        used = verdict.used
        period = verdict.period
        if counted and verdict.allowed and period is not None:
            whole = verdict.shared or period.shorter_than_day
            used += request.amount if whole else request.amount - verdict.granted
        limit = verdict.limit
        retry_ms = verdict.retry_after_ms
        tier = account.tier
        return Decision(
            allowed=verdict.allowed,
            reason=verdict.reason,
            user=request.user,
            resource=request.resource,
            amount=request.amount,
            tier=None if tier is None else tier.name,
            period=None if period is None else period.name,
            limit=limit,
            used=used,
            remaining=None if limit is None else max(0, limit - used),
            granted=verdict.granted,
            reset_at=None if verdict.reset_at_ms is None else from_ms(verdict.reset_at_ms),
            retry_after_s=None if retry_ms is None else -(-retry_ms // 1000),
            rule=verdict.rule,
            entry_id=entry_id,
            reservation_id=reservation_id,
            would_be=verdict.would_be,
            message=None if verdict.allowed else self._message(verdict.rule),
        )

    def _message(self, rule: Rule) -> str | None:
        """What the throttle that denied wants end users to be told."""
        if rule.kind != "throttle":
            return None
        return next((t.message for t in self.policy.throttles if t.id == rule.id), None)

    def _replayed(
        self, request: Request, resource: Resource, now_ms: int, kind: Kind
    ) -> Decision | None:
        """The first answer to a key that was seen before; figures are of now."""
        key = request.idempotency_key
        if key is None:
            return None
        entry_id = self._entry_of_key(key)
        if entry_id is None:
            return None
        taken = self._taken_by(entry_id)
        entry = taken.entry
        account, _ = self._account(request.user, resource, now_ms)
        if (entry.kind, entry.user_id, entry.resource_id, entry.amount) != (
            kind,
            account.user_id if account.known else None,
            resource.id,
            request.amount,
        ):
            raise Conflict(
                f"key {key!r} was used for another request",
                hint="a retry repeats user, resource and amount; a new request takes a new key",
            )
        if taken.left == 0:
            raise Conflict(
                f"key {key!r} was given back in full since",
                hint="a new request takes a new key",
            )
        standing = resolve(self.policy, account, now_ms)
        ceiling, window, used = tightest(levels_of(standing, account, self.policy.calendar, now_ms))
        limit = ceiling.amount_max
        rule = ceiling.rule
        if entry.granted:
            rule = Rule("grant", self._outstanding_grants(entry.id)[0], None)
        return Decision(
            allowed=True,
            reason="granted" if entry.granted else "ok",
            user=request.user,
            resource=request.resource,
            amount=entry.amount,
            tier=None if account.tier is None else account.tier.name,
            period=ceiling.period.name,
            limit=limit,
            used=used,
            remaining=None if limit is None else max(0, limit - used),
            granted=entry.granted,
            reset_at=from_ms(window.reset_at_ms),
            retry_after_s=None,
            rule=rule,
            entry_id=entry.id,
            reservation_id=entry.id if kind is Kind.HOLD else None,
            replayed=True,
        )


def _past_counting(request: Request) -> InvalidInput:
    return InvalidInput(
        f"{request.amount} more units of {request.resource} would take the count past 2^53 - 1"
    )
