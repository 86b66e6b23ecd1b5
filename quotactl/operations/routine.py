"""What most requests have in common, worked out once for a tier and an hour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quotactl.frozen import made
from quotactl.ledger.loaded import Asked, Counting, Known, Tally
from quotactl.ledger.values import Decision, Request
from quotactl.policy.decide import Routine
from quotactl.policy.model import AMOUNT_MAX, Resource, Tier
from quotactl.policy.notation import plainly_an_id
from quotactl.policy.window import HOUR_MS, from_ms

if TYPE_CHECKING:
    from quotactl.ledger.engine import Engine

BOOKED_KINDS = ("tier", "throttle", "enforcement")
"""The kinds of rules that demand names by id: those of single users would make as many rows
as users."""

_new = object.__new__
_set = object.__setattr__
_NONE_YET = (0, 0)


class TierRoutine:
    """A `Routine` with the answers that it gives, and what it books, until the hour is over."""

    __slots__ = (
        "_allowed",
        "_limit",
        "_refused",
        "_routine",
        "allowed_key",
        "allows",
        "by_tier",
        "day_ms",
        "from_ms",
        "most",
        "refusal",
        "refused_key",
        "resource_id",
        "tier_id",
        "until_ms",
    )

    def __init__(
        self, routine: Routine, tier: Tier | None, resource: Resource, hour_ms: int
    ) -> None:
        ceiling = routine.ceiling
        rule = ceiling.rule
        self._routine = routine
        self.allows = routine.allows
        self.most = AMOUNT_MAX if ceiling.amount_max is None else ceiling.amount_max
        # Beyond all numbers there is nothing to refuse.
        self.refusal = None if ceiling.amount_max is None else routine.refusal
        self.day_ms = routine.day.starts_at_ms
        self.from_ms = max(routine.from_ms, hour_ms)
        self.until_ms = min(routine.until_ms, hour_ms + HOUR_MS)
        self.resource_id = resource.id
        self.tier_id = None if tier is None else tier.id
        rule_id = (rule.id if rule.kind in BOOKED_KINDS else None) or 0
        where = (hour_ms, resource.id, self.tier_id or 0)
        # Of demand; what refuses is the tier then, as no throttle is there to do it.
        self.allowed_key = (*where, "ok", rule.kind, rule_id)
        self.refused_key = (*where, str(routine.refusal), rule.kind, rule_id)
        # What an entry tells by itself: the view `demand_tail`.
        self.by_tier = (rule.kind, rule_id) == ("tier", self.tier_id or 0)
        self._limit = ceiling.amount_max
        # All of its fields: to copy it and change some is quicker than to put it together.
        self._allowed: dict[str, Any] = {
            "allowed": True,
            "reason": "ok",
            "user": None,
            "resource": None,
            "amount": 0,
            "tier": None if tier is None else tier.name,
            "period": ceiling.period.name,
            "limit": ceiling.amount_max,
            "used": 0,
            "remaining": None,
            "granted": 0,
            "reset_at": from_ms(routine.day.reset_at_ms),
            "retry_after_s": None,
            "rule": rule,
            "entry_id": None,
            "reservation_id": None,
            "replayed": False,
            "would_be": None,
            "message": None,
        }
        self._refused = {**self._allowed, "allowed": False, "reason": routine.refusal}

    def allowed(
        self,
        user: str,
        resource: str,
        amount: int,
        used: int,
        entry_id: int | None = None,
        replayed: bool = False,
    ) -> Decision:
        """The answer to a request that it allows, or once allowed; `used` as it is shown."""
        fields = self._allowed.copy()
        fields["user"] = user
        fields["resource"] = resource
        fields["amount"] = amount
        fields["used"] = used
        limit = self._limit
        if limit is not None:
            fields["remaining"] = limit - used if used < limit else 0
        fields["entry_id"] = entry_id
        fields["replayed"] = replayed
        # As `made` makes it.
        decision = _new(Decision)
        _set(decision, "__dict__", fields)
        return decision

    def refused(self, user: str, resource: str, amount: int, used: int, now_ms: int) -> Decision:
        """The answer to a request that it refuses."""
        assert self._limit is not None
        retry_ms = self._routine.retry_after_ms(amount, now_ms)
        return made(
            Decision,
            {
                **self._refused,
                "user": user,
                "resource": resource,
                "amount": amount,
                "used": used,
                "remaining": max(0, self._limit - used),
                "retry_after_s": None if retry_ms is None else -(-retry_ms // 1000),
            },
        )


def asked_by(request: object, now_ms: int) -> Asked | None:
    """What to look up for a request; None where it may be what can't be stored.

    What is wrong with it is said when it is decided.
    """
    if not isinstance(request, Request):
        return None
    user: object = request.user
    resource: object = request.resource
    if not (isinstance(user, str) and user.isprintable() and isinstance(resource, str)):
        return None
    key = request.idempotency_key
    return Asked(user, resource, key if plainly_an_id(key) else None, now_ms)


# What follows is the whole of nearly every request, so it is written out: where anything
# is not as it nearly always is, it says None, and `Batch` decides.


def check_at_once(
    engine: Engine, user: str, resource: str, amount: int, now_ms: int
) -> Decision | None:
    """What `consume` would answer, by what is known."""
    counting = engine.stands(user, resource, amount, now_ms, _plan)
    if counting is None:
        return None
    tally, count, refused = counting
    if count is None:
        return None
    routine: TierRoutine = tally.rule
    if refused is not None:
        return routine.refused(user, resource, amount, count[0], now_ms)
    return routine.allowed(user, resource, amount, count[0])


def consume_at_once(
    engine: Engine, user: str, resource: str, amount: int, key: str | None, now_ms: int
) -> Decision | None:
    """Decide a request by what is known, and count it."""
    if key is not None and not plainly_an_id(key):
        return None
    counted = engine.count(user, resource, amount, key, now_ms, _plan)
    if counted is None:
        return None
    tally, entry_id, count, before = counted
    routine: TierRoutine = tally.rule
    if entry_id is None:
        return routine.refused(user, resource, amount, count[0], now_ms)
    return routine.allowed(user, resource, amount, count[0], entry_id, before)


def _plan(
    known: Known, user: str, resource: str, amount: int, key: str | None, now_ms: int
) -> Counting | None:
    """Decide a request by what is known, if that is enough."""
    try:
        tally = known.tallies.get((user, resource))
    except TypeError:
        return None  # what can't be a name
    routine: TierRoutine
    if tally is None or not (routine := tally.rule).from_ms <= now_ms < routine.until_ms:
        tally = _tally(known, user, resource, now_ms)
        if tally is None:
            return None
        routine = tally.rule
    if type(amount) is not int or amount <= 0 or now_ms < known.open_from_ms:
        return None
    try:
        count = known.counts[tally.place] or _NONE_YET
    except KeyError:
        # It is left to whoever counts.
        return (tally, None, None) if amount <= tally.most and routine.by_tier else None
    if count[0] + amount <= tally.most:
        return (tally, count, None) if routine.by_tier else None
    if amount > AMOUNT_MAX or routine.refusal is None or key is not None:
        return None
    return tally, count, routine.refused_key


def _tally(known: Known, name: str, resource_name: str, now_ms: int) -> Tally | None:
    """Where requests of somebody are counted now, if they are a matter of routine."""
    policy, user = known.policy, known.users.get(name)
    if policy is None or user is None or user.has_own:
        return None
    resource = policy.resources_by_name.get(resource_name)
    if resource is None:
        return None
    routine: TierRoutine | None
    routine = policy.resolved.get(("routine", resource.id, user.tier_id, user.protected))
    if routine is None or not routine.from_ms <= now_ms < routine.until_ms:
        return None
    place = (resource.id, routine.day_ms, user.id)
    tally = Tally(place, routine.tier_id, routine.most, routine)
    known.tallies[name, resource_name] = tally
    return tally
