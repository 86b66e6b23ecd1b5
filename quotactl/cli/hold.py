"""`quotactl reserve`, `post`, `void`: units held for a while."""

from __future__ import annotations

from typing import Annotated

from quotactl.cli.declared import Argument, Option
from quotactl.cli.invocation import invocation
from quotactl.cli.options import Amount, Key, ResourceName, User, parse_id
from quotactl.cli.outcome import note_new_user, opened, show_decision

Reservation = Annotated[
    str, Argument(metavar="ID", help="The reservation_id that `reserve` answered.")
]


def reserve(
    user: User,
    resource: ResourceName,
    amount: Amount = None,
    ttl: Annotated[
        str, Option("--ttl", metavar="DURATION", help="When it is freed by itself.")
    ] = "2m",
    key: Key = None,
) -> int:
    """Hold units until they are posted or voided, or time out. They count as used.

    Exits with 0 if allowed, 3 limit reached, 4 throttled, 5 blocked.

    Examples:
      quotactl reserve ada image 4
      quotactl reserve ada image 4 --ttl 10m --key job-17 --json
    """
    from quotactl.policy.notation import parse_amount, parse_duration

    units = 1 if amount is None else parse_amount(amount)
    ttl_s = parse_duration(ttl) / 1000
    with opened(notice=False) as q:
        note_new_user(q, user)
        decision = q.reserve(
            user=user, resource=resource, amount=units, ttl_s=ttl_s, idempotency_key=key
        )
    show_decision(decision)
    return decision.exit_code


def post(
    reservation: Reservation,
    amount: Annotated[
        str | None, Argument(metavar="[AMOUNT]", help="How many were used; else all.")
    ] = None,
) -> None:
    """Keep what was held, or a part of it, and free the rest.

    Examples:
      quotactl post 4711
      quotactl post 4711 3
    """
    from quotactl.policy.notation import parse_amount

    reservation_id = parse_id(reservation, "reservation")
    units = None if amount is None else parse_amount(amount)
    with opened(notice=False) as q:
        settled = q.post(reservation_id, units)
    if settled.already:
        invocation().say(f"reservation {reservation_id} is posted already")
    invocation().emit(settled)


def void(reservation: Reservation) -> None:
    """Free what was held.

    Examples:
      quotactl void 4711
    """
    reservation_id = parse_id(reservation, "reservation")
    with opened(notice=False) as q:
        settled = q.void(reservation_id)
    if settled.already:
        invocation().say(f"reservation {reservation_id} is {settled.state} already")
    invocation().emit(settled)
