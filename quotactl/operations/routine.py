"""What most requests have in common, worked out once for a tier and an hour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quotactl.frozen import made
from quotactl.ledger.loaded import Asked, Head, Known, UserRow
from quotactl.ledger.values import Decision, Request
from quotactl.policy.decide import Routine
from quotactl.policy.model import AMOUNT_MAX, Policy, Resource, Tier
from quotactl.policy.notation import plainly_an_id
from quotactl.policy.window import HOUR_MS, from_ms

if TYPE_CHECKING:
    from quotactl.ledger.engine import Engine, Reading, Writing

BOOKED_KINDS = ("tier", "throttle", "enforcement")
"""The kinds of rules that demand names by id: those of single users would make as many rows
as users."""

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
        fields = self._allowed.copy()
        fields["user"] = request.user
        fields["resource"] = request.resource
        fields["amount"] = request.amount
        fields["used"] = used
        fields["remaining"] = None if limit is None else max(0, limit - used)
        fields["entry_id"] = entry_id
        fields["replayed"] = replayed
        # As `made` makes it.
        decision = _new(Decision)
        _set(decision, "__dict__", fields)
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
    if not (isinstance(key, str) and key.isprintable()):
        key = None
    return Asked(user, resource, key, now_ms)


# What follows is the whole of nearly every request, so it is written out: where anything
# is not as it nearly always is, it says None, and `Batch` decides.


def check_at_once(engine: Engine, request: Request, now_ms: int) -> Decision | None:
    """What `consume` would answer, by what is known."""
    known = engine.known()
    found = None if known is None else _known(known, request, now_ms)
    if found is None or known is None:
        return None
    routine, _, used = found
    if routine.allows(used, request.amount):
        return routine.allowed(request, used, None) if engine.stands(known) else None
    if routine.refusal is None or not engine.stands(known):
        return None
    return routine.refused(request, used, now_ms)


def consume_at_once(engine: Engine, request: Request, now_ms: int) -> Decision | None:
    """Decide a request by what is known, and count it if that still stands then."""
    known = engine.known()
    found = None if known is None else _known(known, request, now_ms)
    if found is None or known is None:
        return None
    routine, user_id, used = found
    amount, key = request.amount, request.idempotency_key
    taken = used + amount
    refused = None
    if not routine.allows(used, amount):
        if routine.refusal is None or key is not None:
            return None
        refused = routine.refused_key
    elif not routine.by_tier or taken > AMOUNT_MAX or not (key is None or plainly_an_id(key)):
        return None
    counted = engine.count(
        known,
        now_ms,
        user_id,
        routine.resource_id,
        routine.tier_id,
        amount,
        routine.day_ms,
        key,
        refused,
    )
    if counted is None:
        return None
    if refused is not None:
        return routine.refused(request, used, now_ms)
    entry_id, before = counted
    return routine.allowed(request, used if before else taken, entry_id, replayed=before)


def take(book: Writing, request: Request, now_ms: int) -> Decision | None:
    """Allow a request and count it as used; with None nothing is written."""
    found = _looked_up(book, request, now_ms)
    if found is None:
        return None
    routine, user_id, used = found
    amount, key = request.amount, request.idempotency_key
    taken = used + amount
    if not (routine.by_tier and routine.allows(used, amount)) or taken > AMOUNT_MAX:
        return None
    if not (key is None or plainly_an_id(key)):
        return None
    entry_id = book.take(
        now_ms,
        user_id,
        routine.resource_id,
        routine.tier_id,
        amount,
        routine.day_ms,
        key,
    )
    # A key that is known already is answered as it was.
    return None if entry_id is None else routine.allowed(request, taken, entry_id)


def refuse(book: Writing, request: Request, now_ms: int) -> Decision | None:
    """Refuse a request and count it as denied; with None nothing is written."""
    found = _looked_up(book, request, now_ms)
    if found is None:
        return None
    routine, user_id, used = found
    key = request.idempotency_key
    if routine.refusal is None or routine.allows(used, request.amount):
        return None
    if key is not None and not (plainly_an_id(key) and book.entry_of_key(key) is None):
        return None
    book.refuse(user_id, routine.resource_id, request.amount, routine.day_ms, routine.refused_key)
    return routine.refused(request, used, now_ms)


def _known(known: Known, request: Request, now_ms: int) -> tuple[TierRoutine, int, int] | None:
    """The routine that decides a request, the user's id and what they used, if all of that
    is known."""
    policy, head = known.policy, known.head
    if policy is None or head is None or type(request) is not Request:
        return None
    name, resource_name = request.user, request.resource
    if type(name) is not str or type(resource_name) is not str:
        return None
    user, resource = known.users.get(name), policy.resources_by_name.get(resource_name)
    if user is None or resource is None:
        return None
    routine = _routine(policy, head, user, resource, request.amount, now_ms)
    if routine is None:
        return None
    count = known.counts.get((resource.id, routine.day_ms, user.id), _NOT_KNOWN)
    if count is _NOT_KNOWN:
        return None
    return routine, user.id, 0 if count is None else count[0]


def _looked_up(book: Reading, request: Request, now_ms: int) -> tuple[TierRoutine, int, int] | None:
    """The same, looked up; of a request that `asked_by` let pass."""
    policy = book.policy
    resource = policy.resources_by_name.get(request.resource)
    user = None if resource is None else book.user_row(request.user)
    if user is None or resource is None:
        return None
    routine = _routine(policy, book.head, user, resource, request.amount, now_ms)
    if routine is None:
        return None
    count = book.count_of(user.id, resource.id, routine.day_ms)
    return routine, user.id, 0 if count is None else count[0]


def _routine(
    policy: Policy, head: Head, user: UserRow, resource: Resource, amount: object, now_ms: int
) -> TierRoutine | None:
    """The routine for a user and amount, if there is one and it has been worked out."""
    _, tier_id, protected, has_own = user
    routine: TierRoutine | None = policy.resolved.get(("routine", resource.id, tier_id, protected))
    closed_until_ms = head.closed_until_ms
    if (
        has_own
        or routine is None
        or not routine.from_ms <= now_ms < routine.until_ms
        or now_ms < head.opened_at_ms
        or (closed_until_ms is not None and now_ms < closed_until_ms)
        or type(amount) is not int
        or not 0 < amount <= AMOUNT_MAX
    ):
        return None
    return routine
