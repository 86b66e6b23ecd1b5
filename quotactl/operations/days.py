"""Days under other rules: what was counted before the zone's rules changed.

A counter bears the start of its day as the calendar had it when it was written. When an
update of the zone files moves that start, the counter stays where it is and counts in the
day that holds its noon (`Calendar.day_charged`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quotactl.ledger.engine import Reading


def strays_of(book: Reading, resource_id: int, from_ms: int) -> list[int]:
    """The starts that day counters of a resource bear from a moment on and with which no
    day begins by the calendar, in order. Nearly always there are none."""
    begins = book.policy.calendar.begins_a_day
    return [start for start in book.days_counted(resource_id, from_ms) if not begins(start)]
