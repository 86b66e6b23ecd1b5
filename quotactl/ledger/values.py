"""Requests and answers: frozen values whose `to_dict()` is the JSON that the CLI prints."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from quotactl.frozen import frozen
from quotactl.policy.model import Reason, Rule


def rfc3339(at: datetime | None) -> str | None:
    """`2025-03-28T00:00:00Z`; milliseconds only where there are any."""
    if at is None:
        return None
    text = at.strftime("%Y-%m-%dT%H:%M:%S")
    if at.microsecond:
        text += f".{at.microsecond // 1000:03d}"
    return text + "Z"


class View:
    """A frozen value whose fields, in order, are its JSON."""

    def to_dict(self) -> dict[str, Any]:
        names: tuple[str, ...] = self.__match_args__  # type: ignore[attr-defined]
        return {name: _plain(getattr(self, name)) for name in names}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return rfc3339(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "to_dict"):
        return value.to_dict()
    return value


@frozen
class Request:
    """One request for `amount` units, 1 to 2^53 - 1.

    `idempotency_key` is the caller's name for it: a retry with the same key and
    the same user, resource and amount takes nothing more.
    """

    user: str
    resource: str
    amount: int = 1
    idempotency_key: str | None = None

    def __init__(
        self, user: str, resource: str, amount: int = 1, idempotency_key: str | None = None
    ) -> None:
        # Made for each decision: written out it costs a quarter.
        fields = self.__dict__
        fields["user"] = user
        fields["resource"] = resource
        fields["amount"] = amount
        fields["idempotency_key"] = idempotency_key


@frozen
class Decision:
    """The answer to one request.

    `reason` is one of ok, granted, limit_reached, throttled, blocked,
    not_in_tier. The figures belong to the window and rule that denied, or, when
    allowed, to the window with the least remaining; `used` includes what this
    request took, and leaves out what was only checked. `limit` and `remaining`
    are None for unlimited. `granted` is the part that grants paid. `would_be`
    is the reason of the denial that shadow enforcement, or a drill, did not make.
    `message` is what the throttle that denied wants end users to be told.
    """

    allowed: bool
    reason: Reason
    user: str
    resource: str
    amount: int
    tier: str | None
    period: str | None
    limit: int | None
    used: int
    remaining: int | None
    granted: int
    reset_at: datetime | None
    retry_after_s: int | None
    rule: Rule
    entry_id: int | None = None
    reservation_id: int | None = None
    replayed: bool = False
    would_be: Reason | None = None
    message: str | None = None

    @property
    def exit_code(self) -> int:
        """0 allowed, 3 limit reached or not in tier, 4 throttled, 5 blocked."""
        if self.allowed:
            return 0
        return {"throttled": 4, "blocked": 5}.get(self.reason, 3)

    def to_dict(self) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "allowed": self.allowed,
            "reason": self.reason,
            "user": self.user,
            "resource": self.resource,
            "amount": self.amount,
            "tier": self.tier,
            "period": self.period,
            "limit": self.limit,
            "used": self.used,
            "remaining": self.remaining,
            "granted": self.granted,
            "reset_at": rfc3339(self.reset_at),
            "retry_after_s": self.retry_after_s,
            "rule": self.rule.to_dict(),
            "entry_id": self.entry_id,
            "reservation_id": self.reservation_id,
            "replayed": self.replayed,
        }
        if self.would_be is not None:
            fields["would_be"] = self.would_be
        if self.message is not None:
            fields["message"] = self.message
        return fields


@frozen
class Refund(View):
    """What a refund gave back: `amount` units, of which `granted` went to grants."""

    entry_id: int | None
    of_entry_id: int
    user: str
    resource: str
    amount: int
    granted: int
    replayed: bool = False


@frozen
class Settlement(View):
    """How a reservation ended: `state` posted or voided, with the units kept and freed.

    `already` says that it had ended so before, and this call changed nothing.
    """

    reservation_id: int
    entry_id: int | None
    state: str
    user: str
    resource: str
    posted: int
    freed: int
    already: bool = False
