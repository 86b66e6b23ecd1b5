"""`quotactl check`, `consume`, `refund`: what a gateway does, and a person who tries it."""

from __future__ import annotations

from typing import Annotated

from quotactl.cli.declared import Argument, Option
from quotactl.cli.invocation import invocation
from quotactl.cli.options import Amount, Key, Reason, ResourceName, Ticket, User, parse_id
from quotactl.cli.outcome import note_new_user, opened, show_decision
from quotactl.errors import InvalidInput


def check(user: User, resource: ResourceName, amount: Amount = None) -> int:
    """Ask whether units may be taken; take nothing, write nothing.

    Exits with 0 if allowed, 3 limit reached, 4 throttled, 5 blocked.

    Examples:
      quotactl check ada image
      quotactl check ada image 4 --json
    """
    from quotactl.policy.notation import parse_amount

    units = 1 if amount is None else parse_amount(amount)
    with opened(notice=False) as q:
        note_new_user(q, user)
        decision = q.check(user=user, resource=resource, amount=units)
    show_decision(decision)
    return decision.exit_code


def consume(
    user: Annotated[
        str | None, Argument(metavar="[USER]", help="The user's id; not with --batch.")
    ] = None,
    resource: Annotated[str | None, Argument(metavar="[RESOURCE]", help="What is counted.")] = None,
    amount: Amount = None,
    key: Key = None,
    batch: Annotated[
        str | None,
        Option("--batch", metavar="FILE|-", help="JSON lines in, JSON lines out."),
    ] = None,
) -> int:
    """Take units, all or nothing, and say how it was decided.

    Exits with 0 if allowed, 3 limit reached, 4 throttled, 5 blocked.

    With --batch each line is {"user": …, "resource": …, "amount": …, "key": …}, the last
    two optional, and gets its decision or error as a line of its own, in order; exits with
    0 when all were decided, else 2. What is there is answered at once, so that a gateway
    can keep one running and talk to it.

    Examples:
      quotactl consume ada image
      quotactl consume ada image 4 --key req-17 --json
      quotactl consume --batch requests.jsonl > answers.jsonl
      tail -f requests.jsonl | quotactl consume --batch -
    """
    if batch is not None:
        if user is not None or key is not None:
            raise InvalidInput("--batch takes users and keys from its lines", hint="drop the rest")
        from quotactl.cli.batch import consume_batch

        return consume_batch(batch)
    if user is None or resource is None:
        raise InvalidInput(
            "a user and a resource are needed",
            hint="quotactl consume USER RESOURCE [AMOUNT], or --batch FILE",
        )
    from quotactl.policy.notation import parse_amount

    units = 1 if amount is None else parse_amount(amount)
    with opened(notice=False) as q:
        note_new_user(q, user)
        decision = q.consume(user=user, resource=resource, amount=units, idempotency_key=key)
    show_decision(decision)
    return decision.exit_code


def refund(
    key: Annotated[
        str | None, Option("--key", metavar="KEY", help="The key it was taken under.")
    ] = None,
    entry: Annotated[
        str | None, Option("--entry", metavar="ID", help="Or the entry_id of the answer.")
    ] = None,
    amount: Annotated[
        str | None, Option("--amount", metavar="N", help="How many units; else all.")
    ] = None,
    refund_key: Annotated[
        str | None,
        Option("--refund-key", metavar="KEY", help="Your name for this refund."),
    ] = None,
    reason: Reason = None,
    ticket: Ticket = None,
) -> None:
    """Give units back to where they came from, never more than was taken.

    Examples:
      quotactl refund --key req-17
      quotactl refund --entry 4711 --amount 1 --refund-key req-17-r --reason 'image was blank'
    """
    from quotactl.policy.notation import parse_amount

    units = None if amount is None else parse_amount(amount)
    entry_id = None if entry is None else parse_id(entry, "entry")
    this = invocation()
    with opened(notice=False) as q:
        refunded = q.refund(
            idempotency_key=key,
            entry_id=entry_id,
            amount=units,
            refund_key=refund_key,
            reason=reason,
            ticket=ticket,
        )
    if refunded.replayed or not refunded.amount:
        this.say(f"entry {refunded.of_entry_id}: given back already")
    this.emit(refunded)
