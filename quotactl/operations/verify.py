"""Rebuild from entries and compare: counters, balances, holds, demand, the audit's chain."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from quotactl.frozen import frozen
from quotactl.ledger.values import View, rfc3339
from quotactl.operations import audit
from quotactl.operations.days import strays_of
from quotactl.policy.notation import INSTANT_MAX_MS
from quotactl.policy.window import DAY_LONGEST_MS, from_ms, period_of_length

if TYPE_CHECKING:
    from quotactl.ledger.engine import Engine, Reading

DIFFERENCES_MAX = 1000
# More than can be kept: where there seem to be, a counter is of no day at all.
DAYS_MAX = 4000


@frozen
class Difference(View):
    """Something that does not add up: `what` (such as counter.used), where, and both values."""

    what: str
    where: str
    expected: Any
    found: Any


@frozen
class Verification:
    """`ok` if nothing differs; `differences` are the first thousand; `audit_hash` the newest."""

    differences: tuple[Difference, ...]
    entries: int
    counters: int
    audit_rows: int
    audit_hash: str

    @property
    def ok(self) -> bool:
        return not self.differences

    def to_dict(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "differences": [difference.to_dict() for difference in self.differences],
            "entries": self.entries,
            "counters": self.counters,
            "audit_rows": self.audit_rows,
            "audit_hash": self.audit_hash,
        }


def verify(engine: Engine, now_ms: int) -> Verification:
    """Compare everything that can be rebuilt; changes nothing."""
    with engine.reading() as book:
        differences = [
            Difference(what, _where(book, where), expected, found)
            for what, where, expected, found in book.findings(_spans(book, now_ms))
        ]
        differences += [Difference("audit", text, None, None) for text in audit.broken_links(book)]
        differences += _closed_days(book)
        counts = book.table_counts()
        last = book.last_audit()
        return Verification(
            tuple(differences[:DIFFERENCES_MAX]),
            entries=counts["entry"],
            counters=counts["counter"],
            audit_rows=counts["audit"],
            audit_hash=audit.GENESIS if last is None else last[1],
        )


def _spans(book: Reading, now_ms: int) -> list[tuple[int, int]]:
    """The spans whose demand can still be compared: from the checkpoint on, each one day.

    Several days are one span where entries were charged to a day over the edge between
    them, as the zone's rules were when they were made.
    """
    calendar = book.policy.calendar
    first_ms, last_ms = book.counter_span()
    if first_ms is None or last_ms is None or not 0 <= last_ms < INSTANT_MAX_MS:
        return []
    checkpoint_ms = book.head.checkpoint_at_ms
    strays = {s for row in book.rows("resource") for s in strays_of(book, row["id"], 0)}

    def crossed(edge_ms: int) -> bool:
        return any(s < edge_ms < s + DAY_LONGEST_MS for s in strays)

    day = calendar.day(max(first_ms, checkpoint_ms, book.head.opened_at_ms))
    while crossed(day.starts_at_ms) and day.starts_at_ms >= checkpoint_ms:
        day = calendar.day(day.starts_at_ms - 1)
    spans: list[tuple[int, int]] = []
    while day.starts_at_ms <= max(last_ms, now_ms) and len(spans) < DAYS_MAX:
        if spans and crossed(day.starts_at_ms):
            spans[-1] = (spans[-1][0], day.reset_at_ms)
        else:
            spans.append(day)
        day = calendar.day(day.reset_at_ms)
    # Of one that begins before the checkpoint a part may be gone.
    return [span for span in spans if span[0] >= checkpoint_ms]


def _closed_days(book: Reading) -> list[Difference]:
    """Closed days against the audit rows of their closes, which say the same."""
    recorded = {}
    for row in book.audit_rows(where={"action = ?": "day.close"}):
        with suppress(ValueError, TypeError):  # edited: the chain tells
            after = json.loads(row["after"])
            if isinstance(after, dict):
                recorded[row["subject"]] = after
    differences = []
    for row in book.rows("closed_day", order="starts_at_ms"):
        expected = recorded.pop(row["day"], None)
        if expected is None:
            differences.append(Difference("closed_day", row["day"], "an audit row", None))
            continue
        differences += [
            Difference(f"closed_day.{field}", row["day"], value, row.get(field))
            for field, value in expected.items()
            if row.get(field) != value
        ]
    differences += [Difference("closed_day", day, "a closed day", None) for day in recorded]
    return differences


def _where(book: Reading, where: Mapping[str, Any]) -> str:
    """A place in words: `ada image day 2025-03-27T00:00:00Z`; what can't be one as it is."""
    words: list[str] = []
    for key, value in where.items():
        if key == "user_id":
            words.insert(0, book.user_name(value))
        elif key == "resource_id":
            words.append(book.resource_name(value))
        elif key == "period":
            words.append(_said(lambda v: period_of_length(v).name, value))
        elif key == "starts_at_ms":
            words.append(_said(lambda v: rfc3339(from_ms(v)) or "", value))
        else:
            words.append(f"{key.removesuffix('_id')} {value}".strip())
    return " ".join(words)


def _said(read: Callable[[Any], str], value: Any) -> str:
    try:
        return read(value)
    except (ValueError, TypeError, OverflowError):
        return str(value)
