"""What a policy would have done to recorded traffic: each row at its own time,
through the real operations, on a ledger of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from quotactl.errors import QuotaError
from quotactl.frozen import frozen
from quotactl.ledger.values import Request, View
from quotactl.operations.batch import Batch
from quotactl.operations.trace import SkippedRow, TraceRow

if TYPE_CHECKING:
    from quotactl.ledger.engine import Engine

CHUNK = 2000
SKIPPED_SHOWN = 1000


@dataclass(slots=True)
class Units(View):
    """Sums of units; `allowed` is before refunds."""

    asked: int = 0
    allowed: int = 0
    denied: int = 0
    refunded: int = 0


@dataclass(slots=True)
class Tally(View):
    """Requests and units of one day, or of all."""

    requests: int = 0
    allowed: int = 0
    denied: int = 0
    units: Units = field(default_factory=Units)


@frozen
class Replay:
    """What came out. `total.requests` counts every row, those skipped too; these
    have no units. `by_reason` counts requests."""

    total: Tally
    skipped: int
    by_day: dict[str, Tally]
    by_reason: dict[str, int]
    skipped_rows: tuple[SkippedRow, ...]
    ledger: str | None

    def to_dict(self) -> dict[str, Any]:
        return {
            "requests": self.total.requests,
            "allowed": self.total.allowed,
            "denied": self.total.denied,
            "skipped": self.skipped,
            "units": self.total.units.to_dict(),
            "by_day": [{"day": day, **tally.to_dict()} for day, tally in self.by_day.items()],
            "by_reason": self.by_reason,
            "skipped_rows": [row.to_dict() for row in self.skipped_rows],
            "ledger": self.ledger,
        }


def replay(
    engine: Engine,
    rows: Iterable[TraceRow | SkippedRow],
    *,
    ledger: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Replay:
    """Play rows in their order. What a row was allowed that had failed is given
    back at once, before the next row.

    `ledger` is where the ledger is kept, None for a scratch one; `progress` is
    told after each transaction how many rows it had.
    """
    total = Tally()
    days: dict[int, Tally] = {}
    reasons: dict[str, int] = {}
    skipped: list[SkippedRow] = []
    skipped_count = 0
    source = iter(rows)
    calendar = None
    while chunk := list(islice(source, CHUNK)):
        with engine.writing() as book:
            batch = Batch(book)
            calendar = batch.policy.calendar
            for row in chunk:
                total.requests += 1
                played = row if isinstance(row, SkippedRow) else _play(batch, row)
                if isinstance(row, SkippedRow) or isinstance(played, SkippedRow):
                    skipped_count += 1
                    if len(skipped) < SKIPPED_SHOWN and isinstance(played, SkippedRow):
                        skipped.append(played)
                    continue
                reason, refunded = played
                day_ms = calendar.day(row.at_ms).starts_at_ms
                day = days.get(day_ms)
                if day is None:
                    day = days[day_ms] = Tally()
                day.requests += 1
                reasons[reason] = reasons.get(reason, 0) + 1
                allowed = reason in ("ok", "granted")
                for tally in (total, day):
                    tally.units.asked += row.amount
                    if allowed:
                        tally.allowed += 1
                        tally.units.allowed += row.amount
                        tally.units.refunded += refunded
                    else:
                        tally.denied += 1
                        tally.units.denied += row.amount
            batch.store(book)
        if progress is not None:
            progress(len(chunk))
    by_day = {}
    for day_ms in sorted(days):
        assert calendar is not None
        by_day[calendar.date_of(day_ms).isoformat()] = days[day_ms]
    return Replay(
        total, skipped_count, by_day, dict(sorted(reasons.items())), tuple(skipped), ledger
    )


def first_time(rows: Iterator[TraceRow | SkippedRow]) -> tuple[int | None, list[Any]]:
    """The time of the first row that can be read, and the rows read until then."""
    read: list[Any] = []
    for row in rows:
        read.append(row)
        if isinstance(row, TraceRow):
            return row.at_ms, read
    return None, read


def _play(batch: Batch, row: TraceRow) -> tuple[str, int] | SkippedRow:
    """The reason of the decision and the units given back."""
    try:
        decision = batch.consume(Request(row.user, row.resource, row.amount), row.at_ms)
        if decision.allowed and row.failed:
            refund = batch.refund(row.at_ms, entry_id=decision.entry_id)
            return decision.reason, refund.amount
    except QuotaError as error:
        return SkippedRow(row.line, error.message)
    return decision.reason, 0
