"""Whom a throttle cost something, in SQL: a million counters are never loaded one by one.

The users are put into a temporary table, one row for each of their days, and asked about
there. Nothing of it is in the ledger, nor left on the connection.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from quotactl.ledger.loaded import Sought, SoughtDay
from quotactl.policy.window import DAY_LENGTH_MIN, MINUTE_MS, MONTH, WEEK, Period

# More than any limit, and room to add to it within SQLite's integers.
_NEVER = 2**62

_TABLES = {
    "affected": """
      resource_id INTEGER, user_id INTEGER, starts_at_ms INTEGER, tier_id INTEGER,
      cost INTEGER, asked INTEGER, used INTEGER, granted INTEGER,
      PRIMARY KEY (resource_id, user_id, starts_at_ms)
    """,
    # What users may have: those of a tier under the user 0, single ones under their own id.
    "allowed": """
      resource_id INTEGER, tier_id INTEGER, user_id INTEGER, length_min INTEGER, most INTEGER,
      PRIMARY KEY (resource_id, tier_id, user_id, length_min)
    """,
    "own": "resource_id INTEGER, user_id INTEGER, PRIMARY KEY (resource_id, user_id)",
    # The most that a day can have cost by the user's windows that are shorter.
    "shorter": "user_id INTEGER, cost INTEGER, PRIMARY KEY (user_id)",
}

# A user's limits: their own, or else those of their tier.
_PLACED = """
CROSS JOIN user AS u ON u.id = c.user_id
LEFT JOIN temp.own AS o ON o.resource_id = c.resource_id AND o.user_id = c.user_id
JOIN temp.allowed AS d ON d.resource_id = c.resource_id
  AND d.tier_id = ifnull(u.tier_id, :default_tier) AND d.user_id = ifnull(o.user_id, 0)
"""


@contextmanager
def affected(connection: sqlite3.Connection, sought: Sought) -> Iterator[None]:
    """Fill the tables, and drop them at the end."""
    try:
        for table, columns in _TABLES.items():
            connection.execute(f"CREATE TEMP TABLE {table} ({columns}) WITHOUT ROWID")
        connection.executemany(
            "INSERT INTO temp.allowed VALUES (?, ?, ?, ?, ?)",
            (
                (limits.resource_id, limits.tier_id, limits.user_id, length_min, most)
                for limits in sought.limits
                for length_min, most in {DAY_LENGTH_MIN: _NEVER, **limits.most}.items()
            ),
        )
        connection.execute(
            "INSERT INTO temp.own SELECT DISTINCT resource_id, user_id FROM temp.allowed "
            "WHERE user_id > 0"
        )
        # In order of time: what a day cost leaves less of its week for the next.
        for day in sorted(sought.days, key=lambda day: day.window.starts_at_ms):
            if sought.units == "denied":
                _find_shorter(connection, sought, day)
            _find(connection, sought, day)
        yield
    finally:
        for table in _TABLES:
            connection.execute(f"DROP TABLE IF EXISTS temp.{table}")


def _lengths(connection: sqlite3.Connection, resource_id: int) -> list[int]:
    return [
        length_min
        for (length_min,) in connection.execute(
            "SELECT DISTINCT length_min FROM temp.allowed WHERE resource_id = ?", (resource_id,)
        )
    ]


def _find_shorter(connection: sqlite3.Connection, sought: Sought, day: SoughtDay) -> None:
    """What single minutes, hours and the like can have cost, by user.

    A window that the throttle was not in force in cost nothing. Users without a row had
    no such window counted: it was pruned, or their limit is newer than that.
    """
    connection.execute("DELETE FROM temp.shorter")
    for length_min in _lengths(connection, day.resource_id):
        if length_min >= DAY_LENGTH_MIN:
            continue
        length_ms = length_min * MINUTE_MS
        connection.execute(
            f"""
            INSERT INTO temp.shorter
            SELECT c.user_id, CAST(total(iif(
                c.starts_at_ms < :until AND c.starts_at_ms > :from_ms - {length_ms},
                max(0, min(c.denied, d.most - c.used)), 0)) AS INTEGER)
            FROM counter AS c {_PLACED} AND d.length_min = {length_min}
            WHERE c.resource_id = :resource AND c.period = {length_min}
              AND c.starts_at_ms > :day - {length_ms} AND c.starts_at_ms < :reset
              AND c.denied > 0
            GROUP BY c.user_id
            ON CONFLICT (user_id) DO UPDATE SET cost = min(cost, excluded.cost)
            """,
            _parameters(sought, day),
        )


def _find(connection: sqlite3.Connection, sought: Sought, day: SoughtDay) -> None:
    lengths = _lengths(connection, day.resource_id)
    left = joined = ""
    if sought.units == "denied":
        cost = f"max(0, min(c.denied, d.most - c.used, ifnull(s.cost, {_NEVER}), {_most(day)}))"
        condition = "c.denied > 0"
        for period, starts in ((WEEK, day.week), (MONTH, day.month)):
            if period.length_min in lengths:
                joined += _JOINED.format(name=period.name, length_min=period.length_min)
                left += ", " + _left(connection, day, period, starts)
    elif sought.units == "shadow_denied":
        # It was served after all, so it stands in `used`.
        cost = f"min(c.shadow_denied, c.used, d.most, {_most(day)})"
        condition = "c.shadow_denied > 0"
    else:
        cost, condition = "0", "c.used + c.granted + c.denied > 0"
    tiers = _listed(sorted(day.tiers))
    everybody = int(sought.units == "asked")
    connection.execute(
        f"""
        INSERT INTO temp.affected
        SELECT resource_id, user_id, starts_at_ms, tier_id, capped, asked, used, granted FROM (
          SELECT f.*, max(0, min(cost, {_NEVER}{left})) AS capped FROM (
            SELECT c.resource_id AS resource_id, c.user_id AS user_id,
                   c.starts_at_ms AS starts_at_ms, d.tier_id AS tier_id, d.user_id AS owner_id,
                   {cost} AS cost, c.used + c.granted + c.denied AS asked,
                   c.used AS used, c.granted AS granted
            FROM counter AS c {_PLACED} AND d.length_min = {DAY_LENGTH_MIN}
            LEFT JOIN temp.shorter AS s ON s.user_id = c.user_id
            WHERE c.resource_id = :resource AND c.period = {DAY_LENGTH_MIN}
              AND c.starts_at_ms = :day AND {condition} AND d.tier_id IN ({tiers})
              AND (u.protected = 0 OR :include_protected)
              AND (u.name IS NOT NULL OR :include_forgotten)
              -- Who was blocked all the while was refused by the block.
              AND c.user_id NOT IN (
                SELECT b.user_id FROM block AS b
                WHERE (b.resource_id IS NULL OR b.resource_id = :resource)
                  AND b.created_at_ms <= :from_ms
                  AND ifnull(b.expires_at_ms, {_NEVER}) >= :until
                  AND ifnull(b.ended_at_ms, {_NEVER}) >= :until
              )
          ) AS f {joined}
          WHERE cost > 0 OR {everybody}
        ) WHERE capped > 0 OR {everybody}
        """,
        _parameters(sought, day),
    )


# The limit of a longer window, where the user has one.
_JOINED = """
LEFT JOIN temp.allowed AS {name} ON {name}.resource_id = f.resource_id
  AND {name}.tier_id = f.tier_id AND {name}.user_id = f.owner_id
  AND {name}.length_min = {length_min}
"""


def _left(
    connection: sqlite3.Connection, day: SoughtDay, period: Period, starts: Sequence[int]
) -> str:
    """What is left of a week's or month's limit after what was used in it, and lost before."""
    counted = [
        start
        for start in starts
        if connection.execute(
            "SELECT 1 FROM counter WHERE resource_id = ? AND period = ? AND starts_at_ms = ? "
            "LIMIT 1",
            (day.resource_id, DAY_LENGTH_MIN, start),
        ).fetchone()
    ]
    earlier = [start for start in counted if start < day.window.starts_at_ms]
    # A seek for each day: only for those who have such a limit at all.
    return f"""CASE WHEN {period.name}.most IS NULL THEN {_NEVER} ELSE {period.name}.most
      - (SELECT ifnull(sum(w.used), 0) FROM counter AS w WHERE w.resource_id = f.resource_id
           AND w.period = {DAY_LENGTH_MIN} AND w.starts_at_ms IN ({_listed(counted)})
           AND w.user_id = f.user_id)
      - (SELECT ifnull(sum(a.cost), 0) FROM temp.affected AS a
           WHERE a.resource_id = f.resource_id AND a.user_id = f.user_id
           AND a.starts_at_ms IN ({_listed(earlier)})) END"""


def _most(day: SoughtDay) -> str:
    """The most that a user of a tier can have lost on a day."""
    cases = " ".join(f"WHEN {int(tier_id)} THEN {int(n)}" for tier_id, n in day.tiers.items())
    return f"CASE d.tier_id {cases} END"


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(str(int(number)) for number in numbers) or "NULL"


def _parameters(sought: Sought, day: SoughtDay) -> dict[str, int]:
    return {
        "resource": day.resource_id,
        "day": day.window.starts_at_ms,
        "reset": day.window.reset_at_ms,
        "from_ms": day.on.starts_at_ms,
        "until": day.on.reset_at_ms,
        "default_tier": sought.default_tier_id,
        "include_protected": int(sought.include_protected),
        "include_forgotten": int(sought.include_forgotten),
    }


def add_grants(
    connection: sqlite3.Connection,
    *,
    amount: int,
    priority: int,
    now_ms: int,
    expires_at_ms: int | None,
    audit_id: int,
    first_entry_id: int,
) -> int:
    """Give each affected user a grant for each resource; returns how many were made."""
    connection.execute(
        "CREATE TEMP TABLE given (n INTEGER PRIMARY KEY, resource_id INTEGER, user_id INTEGER, "
        "tier_id INTEGER)"
    )
    try:
        made = connection.execute(
            "INSERT INTO temp.given (resource_id, user_id, tier_id) "
            "SELECT DISTINCT resource_id, user_id, tier_id FROM temp.affected "
            "ORDER BY user_id, resource_id"
        ).rowcount
        # Not max(id): the id of a row that is gone must not come back.
        (last,) = connection.execute(
            "SELECT ifnull(max(seq), 0) FROM sqlite_sequence WHERE name = 'grant_pool'"
        ).fetchone()
        values = {
            "grant": last,
            "entry": first_entry_id - 1,
            "amount": amount,
            "priority": priority,
            "now": now_ms,
            "expires": expires_at_ms,
            "audit": audit_id,
        }
        for statement in _GIVE:
            connection.execute(statement, values)
    finally:
        connection.execute("DROP TABLE temp.given")
    return made


_GIVE: Iterable[str] = (
    """
    INSERT INTO grant_pool (id, user_id, resource_id, amount, balance, priority, created_at_ms,
                            expires_at_ms, audit_id)
    SELECT :grant + n, user_id, resource_id, :amount, :amount, :priority, :now, :expires, :audit
    FROM temp.given ORDER BY n
    """,
    """
    INSERT INTO entry (id, at_ms, kind, user_id, resource_id, tier_id, amount, granted)
    SELECT :entry + n, :now, 8, user_id, resource_id, nullif(tier_id, 0), :amount, :amount
    FROM temp.given ORDER BY n
    """,
    """
    INSERT INTO grant_movement (entry_id, grant_id, amount)
    SELECT :entry + n, :grant + n, :amount FROM temp.given ORDER BY n
    """,
)
