"""Deciding and counting: check, consume, refund."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from quotactl.errors import QuotaError
from quotactl.ledger.values import Decision, Refund, Request
from quotactl.operations.batch import Batch
from quotactl.operations.routine import (
    asked_by,
    check_at_once,
    consume_at_once,
)
from quotactl.policy.notation import check_text

if TYPE_CHECKING:
    from quotactl.ledger.engine import Engine


def check(engine: Engine, user: str, resource: str, amount: int, now_ms: int) -> Decision:
    """What `consume` would answer now; writes nothing."""
    at_once = check_at_once(engine, user, resource, amount, now_ms)
    if at_once is not None:
        return at_once
    request = Request(user, resource, amount)
    asked = asked_by(request, now_ms)
    if asked is not None:
        with engine.glancing(asked) as book:
            decision = Batch(book).check_routinely(request, now_ms)
        if decision is not None:
            return decision
    with engine.reading() as book:
        return Batch(book).check(request, now_ms)


def consume(
    engine: Engine, user: str, resource: str, amount: int, key: str | None, now_ms: int
) -> Decision:
    """Decide one request and count it: a batch of one."""
    at_once = consume_at_once(engine, user, resource, amount, key, now_ms)
    if at_once is not None:
        return at_once
    request = Request(user, resource, amount, key)
    asked = asked_by(request, now_ms)
    denied_lately = asked is not None and engine.expects_denial(asked)
    if denied_lately:
        with engine.writing(asked, durable=False) as book:
            batch = Batch(book)
            decision = batch.consume(request, now_ms)
            if not batch.changes.durable:
                batch.store(book)
                return decision
        # It is allowed by now: what it takes has to last, so it is decided anew.
    with engine.writing(asked) as book:
        batch = Batch(book)
        decision = batch.consume(request, now_ms)
        batch.store(book)
    if asked is not None and (denied_lately or not decision.allowed):
        engine.learn(asked, denied=not decision.allowed)
    return decision


def consume_many(
    engine: Engine, requests: Sequence[Request], now_ms: int
) -> list[Decision | QuotaError]:
    """Decide requests in order, in one transaction.

    A bad one has its error in its place; the others proceed.
    """
    answers: list[Decision | QuotaError] = []
    with engine.writing() as book:
        batch = Batch(book)
        batch.look_ahead(requests, now_ms)
        for request in requests:
            try:
                answers.append(batch.consume(request, now_ms))
            except QuotaError as error:
                answers.append(error)
        batch.store(book)
    return answers


def refund(
    engine: Engine,
    now_ms: int,
    *,
    actor: str,
    idempotency_key: str | None = None,
    entry_id: int | None = None,
    amount: int | None = None,
    refund_key: str | None = None,
    reason: str | None = None,
    ticket: str | None = None,
) -> Refund:
    """Give units back to where they came from.

    A gateway's refund is an entry like any other; one with a reason is a
    person's act and has its audit row too.
    """
    if reason is not None:
        check_text(reason, "reason")
    if ticket is not None:
        check_text(ticket, "ticket", length_max=256)
    with engine.writing() as book:
        batch = Batch(book)
        refunded = batch.refund(
            now_ms,
            idempotency_key=idempotency_key,
            entry_id=entry_id,
            amount=amount,
            refund_key=refund_key,
        )
        batch.store(book)
        if refunded.amount and not refunded.replayed and (reason or ticket):
            # Here alone, so that a gateway's consume need not load hashlib.
            from quotactl.operations import audit

            audit.record(
                book,
                now_ms=now_ms,
                actor=actor,
                action="refund",
                user_id=book.rows("user", {"name": refunded.user})[0]["id"],
                subject=f"entry {refunded.of_entry_id}",
                after={"amount": refunded.amount, "granted": refunded.granted},
                reason=reason,
                ticket=ticket,
            )
    return refunded
