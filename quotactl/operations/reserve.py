"""Holds: reserve, then post or void; what times out is free again without a job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quotactl.errors import InvalidInput
from quotactl.ledger.values import Decision, Request, Settlement
from quotactl.operations.batch import Batch

if TYPE_CHECKING:
    from quotactl.ledger.engine import Engine

TTL_S_MAX = 31 * 86_400


def reserve(engine: Engine, request: Request, now_ms: int, *, ttl_s: float) -> Decision:
    """Hold units for `ttl_s` seconds, at most 31 days; counted as used until freed."""
    if isinstance(ttl_s, bool) or not isinstance(ttl_s, int | float):
        raise InvalidInput(f"time-out {ttl_s!r} is not a number of seconds")
    if not 0.001 <= ttl_s <= TTL_S_MAX:
        raise InvalidInput(f"time-out {ttl_s} s is out of range", hint="up to 31 days")
    with engine.writing() as book:
        batch = Batch(book)
        decision = batch.reserve(request, now_ms, ttl_ms=int(ttl_s * 1000))
        batch.store(book)
    return decision


def post(
    engine: Engine, reservation_id: int, now_ms: int, *, amount: int | None = None
) -> Settlement:
    """Keep `amount` of what was held, None for all, and free the rest."""
    with engine.writing() as book:
        batch = Batch(book)
        settlement = batch.post(reservation_id, now_ms, amount=amount)
        batch.store(book)
    return settlement


def void(engine: Engine, reservation_id: int, now_ms: int) -> Settlement:
    """Free what was held."""
    with engine.writing() as book:
        batch = Batch(book)
        settlement = batch.void(reservation_id, now_ms)
        batch.store(book)
    return settlement
