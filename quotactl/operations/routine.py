"""What most requests have in common, worked out once for a tier and an hour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quotactl.frozen import made
from quotactl.ledger.loaded import Asked, Counting, Known
from quotactl.ledger.values import Decision, Request
from quotactl.policy.decide import Routine
from quotactl.policy.model import AMOUNT_MAX, Resource, Tier
from quotactl.policy.notation import plainly_an_id
from quotactl.policy.window import HOUR_MS, from_ms

if TYPE_CHECKING:
    from quotactl.ledger.engine import Engine
    from quotactl.ledger.entries import DemandKey

BOOKED_KINDS = ("tier", "throttle", "enforcement")
"""The kinds of rules that demand names by id: those of single users would make as many rows
as users."""

# A named tuple's own way to be made costs three times as much.
_tuple = tuple.__new__
_new = object.__new__
_set = object.__setattr__
_NOT_KNOWN = (-1, -1)


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
        self.refusal = routine.refusal
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
        # What an entry tells by itself: see `Writing.take`.
        self.by_tier = (rule.kind, rule_id) == ("tier", self.tier_id or 0)
        self._limit = ceiling.amount_max
        self._allowed: dict[str, Any] = {
            "allowed": True,
            "reason": "ok",
            "tier": None if tier is None else tier.name,
            "period": ceiling.period.name,
            "limit": ceiling.amount_max,
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
        self, request: Request, used: int, entry_id: int | None, *, replayed: bool = False
    ) -> Decision:
        """The answer to a request that it allows, or once allowed; `used` as it is shown."""
        limit = self._limit
        # As `made` makes it.
        decision = _new(Decision)
        _set(
            decision,
            "__dict__",
            {
                **self._allowed,
                "user": request.user,
                "resource": request.resource,
                "amount": request.amount,
                "used": used,
                "remaining": None if limit is None else max(0, limit - used),
                "entry_id": entry_id,
                "replayed": replayed,
            },
        )
        return decision

    def refused(self, request: Request, used: int, now_ms: int) -> Decision:
        """The answer to a request that it refuses."""
        assert self._limit is not None
        retry_ms = self._routine.retry_after_ms(request.amount, now_ms)
        return made(
            Decision,
            {
                **self._refused,
                "user": request.user,
                "resource": request.resource,
                "amount": request.amount,
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
    key: object = request.idempotency_key
    if not (isinstance(user, str) and user.isprintable() and isinstance(resource, str)):
        return None
    if key is not None and not plainly_an_id(key):
        key = None
    return _tuple(Asked, (user, resource, key, now_ms))


# What follows is the whole of nearly every request, so it is written out: where anything
# is not as it nearly always is, it says None, and `Batch` decides.


def check_at_once(engine: Engine, request: Request, now_ms: int) -> Decision | None:
    """What `consume` would answer, by what is known; of a request that `asked_by` let pass."""
    at_once = _AtOnce(request, now_ms)
    if not engine.stands(at_once.plan):
        return None
    if at_once.refused is not None:
        return at_once.routine.refused(request, at_once.used, now_ms)
    return at_once.routine.allowed(request, at_once.used, None)


def consume_at_once(engine: Engine, request: Request, asked: Asked, now_ms: int) -> Decision | None:
    """Decide a request by what is known, and count it."""
    if asked.key is not request.idempotency_key:
        return None  # not plainly one
    at_once = _AtOnce(request, now_ms)
    counted = engine.count(asked, at_once.plan)
    if counted is None:
        return None
    entry_id, before = counted
    routine, used = at_once.routine, at_once.used
    if at_once.refused is not None:
        return routine.refused(request, used, now_ms)
    return routine.allowed(
        request, used if before else used + request.amount, entry_id, replayed=before
    )


class _AtOnce:
    """One request that may be a matter of routine; what was planned last."""

    __slots__ = ("_now_ms", "_request", "refused", "routine", "used")

    routine: TierRoutine
    used: int
    refused: DemandKey | None

    def __init__(self, request: Request, now_ms: int) -> None:
        self._request = request
        self._now_ms = now_ms

    def plan(self, known: Known) -> Counting | None:
        """Decide it by what is known, if that is enough."""
        request, now_ms = self._request, self._now_ms
        policy = known.policy
        if policy is None:
            return None
        user = known.users.get(request.user)
        resource = policy.resources_by_name.get(request.resource)
        if user is None or resource is None:
            return None
        user_id, tier_id, protected, has_own = user
        resource_id = resource.id
        routine = policy.resolved.get(("routine", resource_id, tier_id, protected))
        amount = request.amount
        if (
            has_own
            or routine is None
            or not routine.from_ms <= now_ms < routine.until_ms
            or now_ms < known.open_from_ms
            or type(amount) is not int
            or not 0 < amount <= AMOUNT_MAX
        ):
            return None
        day_ms = routine.day_ms
        count = known.counts.get((resource_id, day_ms, user_id), _NOT_KNOWN)
        used = 0 if count is None else count[0]
        if used < 0 or used + amount > AMOUNT_MAX:
            return None
        refused = None
        if not routine.allows(used, amount):
            if routine.refusal is None or request.idempotency_key is not None:
                return None
            refused = routine.refused_key
        elif not routine.by_tier:
            return None
        self.routine, self.used, self.refused = routine, used, refused
        return _tuple(Counting, (user_id, resource_id, routine.tier_id, amount, day_ms, refused))
