"""What `verify` compares, in SQL: what stands in the ledger against sums of its entries.

Each check yields (what, where, expected, found). Entries up to the checkpoint
may be gone, so counters are compared from the checkpoint's time on.
"""

from __future__ import annotations

import sqlite3
import time
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

from quotactl.engines.schema import GUARDS
from quotactl.engines.sqlite.oddities import Finding, odd_texts, odd_values
from quotactl.policy.model import AMOUNT_MAX
from quotactl.policy.window import DAY_LONGEST_MS

# How long a failure may wait to be explained, and for how long the answer holds: a gateway
# that has met a damaged row meets it again.
LOOK_S = 1.0
AGAIN_S = 60.0


_COUNTERS = """
WITH
  head AS (SELECT checkpoint_entry_id AS id, checkpoint_at_ms AS at_ms FROM ledger),
  live AS (SELECT * FROM entry WHERE id > (SELECT id FROM head)),
  charged AS (
    SELECT resource_id, 1440 AS period, day_ms AS starts_at_ms, user_id,
           amount - granted AS used, granted, iif(kind = 7, id, 0) AS reset_id
    FROM live WHERE day_ms IS NOT NULL
    UNION ALL
    SELECT e.resource_id, p.value,
           ifnull(o.at_ms, e.at_ms) - ifnull(o.at_ms, e.at_ms) % (p.value * 60000),
           e.user_id, e.amount, 0, iif(e.kind = 7, e.id, 0)
    FROM live AS e LEFT JOIN entry AS o ON o.id = e.of_id,
         json_each('[' || e.periods || ']') AS p
    -- Where what it corrects is pruned, its shorter windows are over and gone too.
    WHERE e.periods <> '' AND (e.of_id IS NULL OR o.id IS NOT NULL)
  )
SELECT resource_id, period, starts_at_ms, user_id,
       sum(used), sum(granted), max(reset_id), sum(has_used), sum(has_granted), max(has_reset)
FROM (
  SELECT resource_id, period, starts_at_ms, user_id, used, granted, reset_id,
         0 AS has_used, 0 AS has_granted, 0 AS has_reset
  FROM charged
  UNION ALL
  SELECT resource_id, period, starts_at_ms, user_id, 0, 0, 0, used, granted, ifnull(reset_id, 0)
  FROM counter
)
WHERE starts_at_ms >= (SELECT at_ms FROM head)
GROUP BY resource_id, period, starts_at_ms, user_id
HAVING sum(used) <> sum(has_used) OR sum(granted) <> sum(has_granted)
    OR max(reset_id) <> max(has_reset)
"""

# A window of which there is any row is kept whole; the others have no rows at all.
# What a reset (kind 7) took off a user still counts here. Day windows go by the day that
# was charged, shorter ones by the time at which the units were taken.
_TOTALS = """
WITH
  head AS (SELECT checkpoint_entry_id AS id, checkpoint_at_ms AS at_ms FROM ledger),
  kept AS (
    SELECT total.* FROM total JOIN resource ON resource.id = resource_id
    WHERE retired_at_ms IS NULL AND starts_at_ms >= (SELECT at_ms FROM head)
  ),
  taken AS (
    SELECT e.resource_id, ifnull(e.tier_id, 0) AS tier_id, e.amount, e.day_ms,
           ifnull(o.at_ms, e.at_ms) AS at_ms
    FROM entry AS e LEFT JOIN entry AS o ON o.id = e.of_id
    WHERE e.id > (SELECT id FROM head) AND e.kind BETWEEN 1 AND 6 AND e.day_ms IS NOT NULL
      -- Where what it corrects is pruned, its windows are from before the checkpoint.
      AND (e.of_id IS NULL OR o.id IS NOT NULL)
  ),
  summed AS (
    SELECT resource_id, period, tier_id, sum(amount) AS used,
           iif(period = 1440, day_ms, at_ms - at_ms % (period * 60000)) AS starts_at_ms
    FROM (SELECT DISTINCT resource_id, period FROM kept) JOIN taken USING (resource_id)
    GROUP BY 1, 2, 3, 5
  )
SELECT resource_id, period, starts_at_ms, tier_id, sum(used), sum(has_used)
FROM (
  SELECT resource_id, period, starts_at_ms, tier_id, used, 0 AS has_used
  FROM summed JOIN (SELECT DISTINCT resource_id, period, starts_at_ms FROM kept)
    USING (resource_id, period, starts_at_ms)
  UNION ALL
  SELECT resource_id, period, starts_at_ms, tier_id, 0, used FROM kept
)
GROUP BY resource_id, period, starts_at_ms, tier_id HAVING sum(used) <> sum(has_used)
"""

_BALANCES = """
SELECT g.id, g.user_id, g.resource_id, ifnull(m.balance, 0), g.balance
FROM grant_pool AS g LEFT JOIN (
  -- Summed up first: movements are found by entry, so that to look for those of each
  -- grant would be to read them all as often as there are grants.
  SELECT grant_id, sum(amount) AS balance FROM grant_movement
  WHERE entry_id > (SELECT checkpoint_entry_id FROM ledger) GROUP BY grant_id
) AS m ON m.grant_id = g.id
WHERE ifnull(m.balance, 0) <> g.balance
ORDER BY g.id
"""

_POOLS = """
SELECT g.id, g.user_id, g.resource_id, m.amount, g.amount
FROM entry AS e JOIN grant_movement AS m ON m.entry_id = e.id
  JOIN grant_pool AS g ON g.id = m.grant_id
WHERE e.id > (SELECT checkpoint_entry_id FROM ledger) AND e.kind = 8 AND m.amount <> g.amount
"""

_BURNS = """
SELECT e.id, e.granted, ifnull(-sum(m.amount), 0)
FROM entry AS e LEFT JOIN grant_movement AS m ON m.entry_id = e.id
WHERE e.id > (SELECT checkpoint_entry_id FROM ledger) AND e.kind BETWEEN 1 AND 6
GROUP BY e.id HAVING e.granted <> ifnull(-sum(m.amount), 0)
"""

_RETURNS = """
SELECT o.id, o.amount, -sum(e.amount)
FROM entry AS e JOIN entry AS o ON o.id = e.of_id
WHERE e.of_id > (SELECT checkpoint_entry_id FROM ledger)
GROUP BY o.id HAVING -sum(e.amount) > o.amount
"""

# A hold's state, as the entry that settled it says (4 is VOID, 5 EXPIRE, 3 POST).
_RESERVATIONS = """
SELECT e.id,
       CASE max(iif(s.kind IN (3, 4, 5), s.kind, 0))
         WHEN 3 THEN 'posted' WHEN 4 THEN 'voided' WHEN 5 THEN 'expired' ELSE 'pending' END
         AS expected,
       ifnull(r.state, 'missing') AS found
FROM entry AS e
LEFT JOIN entry AS s ON s.of_id = e.id
LEFT JOIN reservation AS r ON r.id = e.id
WHERE e.kind = 2 AND e.id > (SELECT checkpoint_entry_id FROM ledger)
GROUP BY e.id HAVING expected <> found
"""

# A hold is its entry's, and over at most 31 days after it was made.
_HOLDS = """
SELECT r.id, e.user_id, e.resource_id, e.at_ms, r.user_id, r.resource_id, r.expires_at_ms
FROM reservation AS r JOIN entry AS e ON e.id = r.id
WHERE r.user_id <> e.user_id OR r.resource_id <> e.resource_id
   OR r.expires_at_ms - e.at_ms NOT BETWEEN 1 AND 31 * 86400000
"""

_KEYS = """
SELECT key, entry_id FROM idempotency_key
WHERE entry_id > (SELECT checkpoint_entry_id FROM ledger)
  AND NOT EXISTS (SELECT 1 FROM entry WHERE entry.id = entry_id)
"""

# What a request took is remembered with its key, at the same moment.
_KEY_TIMES = """
SELECT e.id, e.at_ms, k.at_ms
FROM idempotency_key AS k JOIN entry AS e ON e.id = k.entry_id
WHERE k.at_ms <> e.at_ms
"""

# Units are taken (1) and held (2) in the day in which it was.
_TIMES = f"""
SELECT id, day_ms, at_ms FROM entry
WHERE id > (SELECT checkpoint_entry_id FROM ledger) AND kind IN (1, 2)
  AND at_ms - day_ms NOT BETWEEN 0 AND {DAY_LONGEST_MS}
"""


class Look:
    """A look at a ledger after a failure, at most now and then."""

    def __init__(self) -> None:
        self._until = 0.0
        self._found: str | None = None

    def __call__(self, connection: sqlite3.Connection) -> str | None:
        """What is odd in the ledger, in words; None if nothing is, or was found in time."""
        now = time.monotonic()
        if now < self._until:
            return self._found
        self._until = now + AGAIN_S
        self._found = None
        connection.set_progress_handler(lambda: time.monotonic() > now + LOOK_S, 1000)
        try:
            # Out of time, or damaged so that it can't even be looked at.
            with suppress(sqlite3.Error, ValueError):
                self._found = _first(connection)
        finally:
            connection.set_progress_handler(None, 0)
        return self._found


def _first(connection: sqlite3.Connection) -> str | None:
    """The first thing that can't be, in words: in the values, in texts, in the file."""
    for check in (odd_values, odd_texts, _damage):
        for what, where, wanted, found in check(connection):
            place = " ".join(("", *map(str, where.values())))
            return f"{what}{place} is {found!r}, not {wanted}"
    return None


def findings(connection: sqlite3.Connection, spans: list[tuple[int, int]]) -> Iterator[Finding]:
    """Every difference, file damage first. `spans`, in order, are those to compare demand for."""
    for check in (
        _damage,
        odd_values,
        odd_texts,
        _counters,
        _totals,
        _grants,
        _entries,
        _keys,
        partial(_demand, spans),
    ):
        try:
            yield from check(connection)
        except (sqlite3.OperationalError, ValueError, TypeError, LookupError) as error:
            # What SQLite itself has a code for is no matter of values.
            if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) != sqlite3.SQLITE_ERROR:
                raise
            yield "ledger", {}, "values that can be compared", str(error)


def _counters(connection: sqlite3.Connection) -> Iterator[Finding]:
    for row in connection.execute(_COUNTERS):
        resource_id, period, start, user_id, *values = row
        where = {
            "resource_id": resource_id,
            "period": period,
            "starts_at_ms": start,
            "user_id": user_id,
        }
        for field, expected, found in zip(
            ("used", "granted", "reset_id"), values[:3], values[3:], strict=True
        ):
            if expected != found:
                yield f"counter.{field}", where, expected, found


def _totals(connection: sqlite3.Connection) -> Iterator[Finding]:
    for resource_id, period, start, tier_id, expected, found in connection.execute(_TOTALS):
        where = {
            "resource_id": resource_id,
            "period": period,
            "starts_at_ms": start,
            "tier_id": tier_id,
        }
        yield "total.used", where, expected, found


def _grants(connection: sqlite3.Connection) -> Iterator[Finding]:
    for grant_id, user_id, resource_id, expected, found in connection.execute(_BALANCES):
        where = {"grant_id": grant_id, "user_id": user_id, "resource_id": resource_id}
        yield "grant.balance", where, expected, found
    for grant_id, user_id, resource_id, expected, found in connection.execute(_POOLS):
        where = {"grant_id": grant_id, "user_id": user_id, "resource_id": resource_id}
        yield "grant.amount", where, expected, found
    for entry_id, expected, found in connection.execute(_BURNS):
        yield "entry.granted", {"entry_id": entry_id}, expected, found


def _entries(connection: sqlite3.Connection) -> Iterator[Finding]:
    for entry_id, taken, given_back in connection.execute(_RETURNS):
        yield "entry.given_back", {"entry_id": entry_id}, f"at most {taken}", given_back
    for entry_id, expected, found in connection.execute(_RESERVATIONS):
        yield "reservation.state", {"reservation_id": entry_id}, expected, found
    for hold_id, user_id, resource_id, at_ms, *found in connection.execute(_HOLDS):
        expected = f"user {user_id}, resource {resource_id}, soon after {at_ms}"
        yield (
            "reservation",
            {"reservation_id": hold_id},
            expected,
            "user {}, resource {}, {}".format(*found),
        )
    for entry_id, day_ms, at_ms in connection.execute(_TIMES):
        yield "entry.at_ms", {"entry_id": entry_id}, f"in the day from {day_ms}", at_ms


def _keys(connection: sqlite3.Connection) -> Iterator[Finding]:
    for _, entry_id in connection.execute(_KEYS):
        yield "idempotency_key.entry", {"entry_id": entry_id}, "an entry", "missing"
    for entry_id, expected, found in connection.execute(_KEY_TIMES):
        yield "idempotency_key.at_ms", {"entry_id": entry_id}, expected, found


def _damage(connection: sqlite3.Connection) -> Iterator[Finding]:
    # Not quick_check, which does not compare indexes with their tables: a user who is not
    # found by name would start the day anew.
    for (line,) in connection.execute("PRAGMA integrity_check(20)"):
        if line != "ok":
            yield "file", {}, "ok", line
    for table, row_id, parent, _ in connection.execute("PRAGMA foreign_key_check"):
        yield "foreign key", {"table": table, "id": row_id}, f"a row of {parent}", "missing"
    present = {
        name
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")
    }
    for guard in sorted(GUARDS - present):
        yield "guard", {"": guard}, "present", "missing"
    (heads,) = connection.execute("SELECT count(*) FROM ledger").fetchone()
    if heads != 1:
        yield "ledger", {}, 1, heads
    closed, until = connection.execute(
        "SELECT (SELECT max(ends_at_ms) FROM closed_day), closed_until_ms FROM ledger"
    ).fetchone()
    if closed != until:
        yield "ledger.closed_until_ms", {}, closed, until


def _demand(spans: list[tuple[int, int]], connection: sqlite3.Connection) -> Iterator[Finding]:
    """Hourly demand of a span, per resource: what was used and granted against the
    entries, what was denied, which has none, against the sum of the counters."""
    taken: dict[tuple[int, int], tuple[int, int]] = {}
    starts = [start for start, _ in spans]
    for resource_id, day_ms, used, granted in connection.execute(
        "SELECT resource_id, day_ms, sum(amount - granted), sum(granted) FROM entry "
        "WHERE id > (SELECT checkpoint_entry_id FROM ledger) AND day_ms IS NOT NULL "
        "GROUP BY resource_id, day_ms"
    ):
        place = bisect_right(starts, day_ms) - 1
        if place >= 0 and day_ms < spans[place][1]:
            before = taken.get((resource_id, starts[place]), (0, 0))
            taken[resource_id, starts[place]] = (before[0] + used, before[1] + granted)
    resources = [row[0] for row in connection.execute("SELECT id FROM resource")]
    for starts_at_ms, reset_at_ms in spans:
        for resource_id in resources:
            denied = connection.execute(
                "SELECT total(denied), total(shadow_denied) FROM counter "
                "WHERE resource_id = ? AND period = 1440 "
                "AND starts_at_ms >= ? AND starts_at_ms < ?",
                (resource_id, starts_at_ms, reset_at_ms),
            ).fetchone()
            booked = connection.execute(
                "SELECT ifnull(sum(used), 0), ifnull(sum(granted), 0), total(denied), "
                "total(shadow_denied) FROM demand "
                "WHERE hour_ms >= ? AND hour_ms < ? AND resource_id = ?",
                (starts_at_ms, reset_at_ms, resource_id),
            ).fetchone()
            where = {"resource_id": resource_id, "period": 1440, "starts_at_ms": starts_at_ms}
            expected = (*taken.get((resource_id, starts_at_ms), (0, 0)), *denied)
            for field, wanted, found in zip(
                ("used", "granted", "denied", "shadow_denied"), expected, booked, strict=True
            ):
                # Of each user, denied units stop counting at 2^53 - 1: their sum is then
                # less than what was booked.
                full = field.endswith("denied") and wanted >= AMOUNT_MAX
                if wanted != found and not full:
                    yield f"demand.{field}", where, int(wanted), int(found)
