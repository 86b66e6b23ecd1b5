"""The daily job: close what is over, mark what has expired, prune what is old.

A close opens nothing: windows begin by themselves. So a job that never ran
denies nobody, one that ran twice changes nothing, and two at once share the
work, each day in one transaction.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import date
from functools import partial
from typing import TYPE_CHECKING, Any

from quotactl.frozen import frozen
from quotactl.ledger.entries import Kind
from quotactl.ledger.loaded import Row
from quotactl.ledger.values import View, rfc3339
from quotactl.operations import audit
from quotactl.operations.acts import Clock, actor_named
from quotactl.operations.batch import Batch
from quotactl.operations.switches import ENFORCEMENT_KINDS, title
from quotactl.policy.resolve import totals_kept
from quotactl.policy.settings import duration_of
from quotactl.policy.window import MINUTE_MS, MONTH, WEEK, Window, from_ms, to_ms

if TYPE_CHECKING:
    from quotactl.ledger.engine import Engine, Reading, Writing

GRACE_MS = 10 * MINUTE_MS
"""How long after its end a day can be closed: clocks of gateways may run behind."""

CHUNK = 10_000
HOLDS_CHUNK = 500
# Of how many users the counters are looked at in one view.
USERS_CHUNK = 500_000
# How often a day's users are counted again because somebody was counted meanwhile.
COUNTS_MAX = 3
# Between two chunks of pruning, so that consumers get their turn.
PAUSE_S = 0.002


@frozen
class ClosedDay(View):
    """One day's totals at its close, in units; `requests` in requests."""

    day: str
    users: int
    requests: int
    used: int
    granted: int
    denied: int
    shadow_denied: int


@frozen
class Closing(View):
    """What one run of the daily job did. `audit_hash` is the newest of the chain.

    `ended` says in a line each which throttles and enforcement switches were over by
    themselves: of that nobody was told when it came.
    """

    closed: tuple[ClosedDay, ...]
    expired_reservations: int
    pruned_entries: int
    pruned_counters: int
    pruned_keys: int
    audit_hash: str
    ended: tuple[str, ...]


@frozen
class CloseStatus(View):
    """How far the closing of days has come; days as dates in the ledger's zone."""

    last_closed: str | None
    next_day: str
    due: tuple[str, ...]


def close_days(engine: Engine, clock: Clock, *, actor: str | None = None) -> Closing:
    """Close every day that is over for ten minutes, in order; then prune by retention."""
    actor = actor_named(actor)
    now_ms = to_ms(clock())
    freed = _free_timed_out(engine, now_ms)
    closed: list[ClosedDay] = []
    ended: list[str] = []
    while (done := _close_next(engine, now_ms, actor)) is not None:
        closed.append(done[0])
        ended += done[1]
    pruned_keys = _prune_keys(engine, now_ms)
    pruned_entries, pruned_counters = _prune(engine, now_ms)
    with engine.reading() as book:
        last = book.last_audit()
    return Closing(
        tuple(closed),
        freed,
        pruned_entries,
        pruned_counters,
        pruned_keys,
        audit.GENESIS if last is None else last[1],
        tuple(ended),
    )


def close_status(engine: Engine, now_ms: int) -> CloseStatus:
    """Which days are closed, and which could be."""
    with engine.reading() as book:
        calendar = book.policy.calendar
        until_ms = book.head.closed_until_ms
        last = None
        if until_ms is not None:
            last = calendar.date_of(until_ms - 1).isoformat()
        due = tuple(_date(book, day) for day in due_days(book, now_ms))
        return CloseStatus(last, _date(book, _next_day(book)), due)


def due_days(book: Reading, now_ms: int) -> list[Window]:
    """The days that can be closed at `now_ms` and are not, in order."""
    days = []
    day = _next_day(book)
    while day.reset_at_ms + GRACE_MS <= now_ms:
        days.append(day)
        day = book.policy.calendar.day(day.reset_at_ms)
    return days


def _next_day(book: Reading) -> Window:
    calendar = book.policy.calendar
    until_ms = book.head.closed_until_ms
    if until_ms is None:
        return calendar.day(book.head.opened_at_ms)
    day = calendar.day(until_ms)
    while day.starts_at_ms < until_ms and book.rows(
        "closed_day", {"day": _date(book, day)}, order="starts_at_ms"
    ):
        # The zone has other rules now, by which the day that was closed ends later: what is
        # left of it goes to the next, or nothing could ever be closed again.
        day = Window(until_ms, calendar.day(day.reset_at_ms).reset_at_ms)
    return day


def _date(book: Reading, day: Window) -> str:
    on: date = book.policy.calendar.date_of(day.reset_at_ms - 1)
    return on.isoformat()


def _close_next(engine: Engine, now_ms: int, actor: str) -> tuple[ClosedDay, list[str]] | None:
    """Close the first day that is due, and say which switches were over; None if none is due.

    Another process may have been faster. How many users there were is counted before anybody
    has to wait, and once more where somebody was counted meanwhile.
    """
    tries_left = COUNTS_MAX
    while True:
        with engine.reading() as view:
            day = _next_day(view)
            if day.reset_at_ms + GRACE_MS > now_ms:
                return None
            seen = view.day_totals(*day)
            ids = range(1, view.next_user_id())
        users = _users_counted(engine, day, ids)
        with engine.writing() as book:
            if _next_day(book) != day:
                continue
            totals = book.day_totals(*day)
            if totals["requests"] != seen["requests"]:
                tries_left -= 1
                if tries_left:
                    continue
                users = book.users_counted(*day)
            return _close(book, day, users, totals, now_ms, actor)


def _users_counted(engine: Engine, day: Window, ids: range) -> int:
    """How many users had any demand in a day, if nobody was counted in it meanwhile.

    Not in one view: the WAL could not be written back under it, and whoever is next to
    commit would have all of that to do.
    """
    users = 0
    for start in ids[::USERS_CHUNK]:
        with engine.reading() as view:
            users += view.users_counted(*day, range(start, start + USERS_CHUNK))
    return users


def _close(
    book: Writing, day: Window, users: int, totals: dict[str, int], now_ms: int, actor: str
) -> tuple[ClosedDay, list[str]]:
    ended = _mark_expired(book, day.reset_at_ms)
    closed = ClosedDay(day=_date(book, day), users=users, **totals)
    book.insert(
        "closed_day",
        {
            "starts_at_ms": day.starts_at_ms,
            "ends_at_ms": day.reset_at_ms,
            "closed_at_ms": now_ms,
            **closed.to_dict(),
        },
    )
    book.update("ledger", {"id": 1}, {"closed_until_ms": day.reset_at_ms})
    audit.record(
        book,
        now_ms=now_ms,
        actor=actor,
        action="day.close",
        subject=closed.day,
        after=closed.to_dict(),
    )
    return closed, ended


def _mark_expired(book: Writing, until_ms: int) -> list[str]:
    """Mark what ran out before `until_ms` as ended, so that what is live stays few.

    Not what ran out since: no decision is made before `until_ms` any more, so
    the marks change none. Returns a line for each switch, in the order of their ends.
    """
    for table in ("override", "block", "grant_pool"):
        book.mark_expired(table, "expires_at_ms", until_ms)
    over = [
        (switch["ends_at_ms"], switch["id"], _ended(switch))
        for switch in book.rows("switch", {"ended_at_ms": None})
        if switch["ends_at_ms"] is not None and switch["ends_at_ms"] <= until_ms
    ]
    if book.mark_expired("switch", "ends_at_ms", until_ms):
        book.touch_policy()
        book.reread_policy()
    calendar = book.policy.calendar
    oldest_ms = min(calendar.window(p, until_ms).starts_at_ms for p in (WEEK, MONTH))
    book.prune_totals(totals_kept(book.policy), oldest_ms)
    return [line for _, _, line in sorted(over)]


def _ended(switch: Row) -> str:
    kind = switch["kind"]
    what = f"enforcement {kind}" if kind in ENFORCEMENT_KINDS else "throttle"
    return f"{what} {title(switch)} ended {rfc3339(from_ms(switch['ends_at_ms']))}"


def _free_timed_out(engine: Engine, now_ms: int) -> int:
    freed = 0
    while True:
        with engine.writing() as book:
            closed_until_ms = book.head.closed_until_ms
            if closed_until_ms is not None and now_ms < closed_until_ms:
                return freed
            batch = Batch(book)
            holds = book.timed_out(now_ms, HOLDS_CHUNK)
            for hold_id in holds:
                batch.expire(hold_id, now_ms)
            batch.store(book)
        freed += len(holds)
        if len(holds) < HOLDS_CHUNK:
            return freed


def _prune_keys(engine: Engine, now_ms: int) -> int:
    """Forget idempotency keys that are older than `key_retention`.

    They are all looked at, as they are in no order of time; nobody has to wait for that.
    """
    removed, after, more = 0, "", True
    while more:
        with engine.reading() as view:
            last, old, more = view.old_keys(after, _keys_kept_ms(view, now_ms), CHUNK)
        if old:
            with engine.writing() as book:
                removed += book.prune_keys(after, last, _keys_kept_ms(book, now_ms))
            time.sleep(PAUSE_S)
        after = last
    return removed


def _keys_kept_ms(book: Reading, now_ms: int) -> int:
    return now_ms - duration_of(book.settings, "key_retention")


def _prune(engine: Engine, now_ms: int) -> tuple[int, int]:
    """Remove entries below a new checkpoint and counters that nobody keeps."""
    with engine.writing() as book:
        checkpoint_id = _move_checkpoint(book, now_ms)
        checkpoint_ms = book.rows("ledger")[0]["checkpoint_at_ms"]
        # Not before the entries that they are sums of.
        keep_days_ms = min(checkpoint_ms, now_ms - duration_of(book.settings, "counter_retention"))
    entries = _in_chunks(
        engine, lambda book, after: book.prune_entries(after, checkpoint_id, CHUNK), 0
    )
    counters = 0
    with engine.reading() as view:
        groups = view.counter_groups()
    for resource_id, length_min in groups:
        before_ms = keep_days_ms if length_min == 1440 else checkpoint_ms
        step = partial(_prune_group, resource_id, length_min, before_ms)
        counters += _in_chunks(engine, step, None)
    with engine.writing() as book:
        book.prune_demand(keep_days_ms)
    return entries, counters


def _prune_group(
    resource_id: int, length_min: int, before_ms: int, book: Writing, _after: None
) -> tuple[None, int, bool]:
    return book.prune_counters(resource_id, length_min, before_ms, CHUNK)


def _in_chunks(
    engine: Engine,
    step: Callable[[Writing, Any], tuple[Any, int, bool]],
    start: Any,
) -> int:
    """Run `step(book, cursor) → (cursor, removed, more)` in short transactions."""
    removed, cursor, more = 0, start, True
    while more:
        with engine.writing() as book:
            cursor, count, more = step(book, cursor)
        removed += count
        if more:
            time.sleep(PAUSE_S)
    return removed


def _move_checkpoint(book: Writing, now_ms: int) -> int:
    """Choose up to which entry the book may go, and carry live balances over it.

    Only entries whose windows, holds and keys are all over: those before the
    first that still matters.
    """
    head = book.head
    calendar = book.policy.calendar
    kept_ms = max(
        duration_of(book.settings, "entry_retention"), duration_of(book.settings, "key_retention")
    )
    cutoff_ms = min(
        calendar.day(now_ms - kept_ms).starts_at_ms,
        calendar.window(MONTH, now_ms).starts_at_ms,
        # A week can have begun before the month did.
        calendar.window(WEEK, now_ms).starts_at_ms,
        _next_day(book).starts_at_ms,
    )
    checkpoint_id = book.last_entry_before(cutoff_ms)
    if checkpoint_id <= head.checkpoint_entry_id:
        return head.checkpoint_entry_id
    balances = book.movement_sums(head.checkpoint_entry_id, checkpoint_id)
    if balances:
        entry_id = book.next_entry_id()
        book.insert(
            "entry",
            {"id": entry_id, "at_ms": now_ms, "kind": int(Kind.CARRY), "amount": 0, "granted": 0},
        )
        for grant_id, amount in balances:
            book.insert(
                "grant_movement", {"entry_id": entry_id, "grant_id": grant_id, "amount": amount}
            )
    book.update(
        "ledger",
        {"id": 1},
        {
            "checkpoint_entry_id": checkpoint_id,
            "checkpoint_at_ms": max(cutoff_ms, head.checkpoint_at_ms),
        },
    )
    return checkpoint_id
