"""What reports show, in SQL."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from quotactl.engines.sqlite.recorded import CLOCKS_APART_MS, Recorded, marks, total
from quotactl.ledger.loaded import ALL_IDS, Row, Sought
from quotactl.policy.window import HALF_DAY_MS

if TYPE_CHECKING:
    from quotactl.engines.sqlite.oddities import Finding

# Those with so much in a day have an index, by each of these: see m0003_growth.
MOST_AT_LEAST = 64
MOST = ("used", "denied")

_DENIED = f"{total('denied')} AS denied, {total('shadow_denied')} AS shadow_denied"

_DAYS_COUNTED = """
WITH RECURSIVE day(starts_at_ms) AS (
  SELECT min(starts_at_ms) FROM counter
  WHERE resource_id = :r AND period = 1440 AND starts_at_ms >= :from
  UNION ALL
  SELECT (SELECT min(starts_at_ms) FROM counter WHERE resource_id = :r AND period = 1440
          AND starts_at_ms > day.starts_at_ms)
  FROM day WHERE day.starts_at_ms IS NOT NULL
)
SELECT starts_at_ms FROM day
"""


class Queries(Recorded):
    """Queries on one transaction that only read, but for `put_users` and what prunes."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__(connection)
        self._dirty = False

    @property
    def dirty(self) -> bool:
        """Whether something was written that must survive a power cut."""
        return self._dirty

    @dirty.setter
    def dirty(self, dirty: bool) -> None:
        self._dirty = dirty

    def sum_up(self) -> None:
        """Add to hourly demand what only entries tell of it so far."""
        raise NotImplementedError

    def _dicts(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[Row]:
        return list(self._each(sql, parameters))

    def _each(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> Iterator[Row]:
        cursor = self._connection.execute(sql, parameters)
        columns = [column[0] for column in cursor.description]
        for row in cursor:
            yield dict(zip(columns, row, strict=True))

    # ---- audit

    def last_audit(self) -> tuple[int, str] | None:
        """The id and hash of the newest audit row."""
        row = self._connection.execute(
            "SELECT id, hash FROM audit ORDER BY id DESC LIMIT 1"
        ).fetchone()
        return None if row is None else (row[0], row[1])

    def audit_rows(
        self, *, where: Mapping[str, Any] | None = None, newest: int | None = None
    ) -> Iterator[Row]:
        """Audit rows, oldest first; `newest` gives the last so many of those that match."""
        where = dict(where or {})
        conditions = ["1"]
        parameters: list[Any] = []
        for column, value in where.items():
            conditions.append(column)
            parameters.append(value)
        sql = f"SELECT * FROM audit WHERE {' AND '.join(conditions)}"
        if newest is not None:
            sql = f"SELECT * FROM ({sql} ORDER BY id DESC LIMIT ?) ORDER BY id"
            parameters.append(newest)
        else:
            sql += " ORDER BY id"
        return self._each(sql, parameters)

    def why(self, audit_id: int | None) -> dict[str, str | None]:
        """Actor, reason and ticket of an act; a text that was removed is None."""
        found: dict[str, str | None] = {"actor": None, "reason": None, "ticket": None}
        for actor, field, text in self._connection.execute(
            "SELECT actor, field, text FROM audit LEFT JOIN audit_text ON audit_id = id "
            "WHERE id = ?",
            (audit_id,),
        ):
            found["actor"] = actor
            if field is not None:
                found[field] = text
        return found

    # ---- users

    def count_users(self, tier_id: int) -> int:
        """Users that were put on a tier."""
        sql = "SELECT count(*) FROM user WHERE tier_id = ?"
        return int(self._connection.execute(sql, (tier_id,)).fetchone()[0])

    def put_users(self, pairs: Iterable[tuple[str, int]], now_ms: int) -> tuple[int, int]:
        """Put users on tiers by (name, tier id); returns how many were new and how many moved."""
        connection = self._connection
        connection.execute("CREATE TEMP TABLE incoming (name TEXT PRIMARY KEY, tier_id INTEGER)")
        try:
            connection.executemany("INSERT INTO incoming VALUES (?, ?)", pairs)
            moved = connection.execute(
                "UPDATE user SET tier_id = i.tier_id FROM incoming AS i "
                "WHERE i.name = user.name AND user.tier_id IS NOT i.tier_id"
            ).rowcount
            added = connection.execute(
                "INSERT INTO user (name, tier_id, created_at_ms) SELECT name, tier_id, ? "
                "FROM incoming AS i WHERE NOT EXISTS (SELECT 1 FROM user WHERE user.name = i.name)",
                (now_ms,),
            ).rowcount
        finally:
            connection.execute("DROP TABLE incoming")
        return added, moved

    def resource_name(self, resource_id: int) -> str:
        """The name of a resource, retired or not."""
        sql = "SELECT name FROM resource WHERE id = ?"
        row = self._connection.execute(sql, (resource_id,)).fetchone()
        return f"#{resource_id}" if row is None else str(row[0])

    def tier_name(self, tier_id: int) -> str:
        """The name of a tier, retired or not."""
        sql = "SELECT name FROM tier WHERE id = ?"
        row = self._connection.execute(sql, (tier_id,)).fetchone()
        return f"#{tier_id}" if row is None else str(row[0])

    def has_history(self) -> bool:
        """Whether anything was ever counted or closed."""
        (found,) = self._connection.execute(
            "SELECT closed_until_ms IS NOT NULL OR checkpoint_entry_id > 0 "
            "OR EXISTS (SELECT 1 FROM entry) OR EXISTS (SELECT 1 FROM counter) FROM ledger"
        ).fetchone()
        return bool(found)

    # ---- closing and pruning

    def day_totals(self, starts_at_ms: int, reset_at_ms: int) -> dict[str, int]:
        """All demand of one day."""
        return self._dicts(
            "SELECT ifnull(sum(requests), 0) AS requests, ifnull(sum(used), 0) AS used, "
            f"ifnull(sum(granted), 0) AS granted, {_DENIED} "
            "FROM demand WHERE hour_ms >= ? AND hour_ms < ?",
            (starts_at_ms, reset_at_ms),
        )[0]

    def days_counted(self, resource_id: int, from_ms: int) -> list[int]:
        # By seeking from one to the next: there are as many rows as users to each.
        found = self._connection.execute(_DAYS_COUNTED, {"r": resource_id, "from": from_ms})
        return [start for (start,) in found if start is not None]

    def next_user_id(self) -> int:
        (newest,) = self._connection.execute("SELECT ifnull(max(id), 0) FROM user").fetchone()
        return int(newest) + 1

    def users_counted(self, starts_at_ms: int, reset_at_ms: int, ids: range = ALL_IDS) -> int:
        """Users with any demand in one day, of those with these ids; looks at each of their
        counters."""
        each = [
            (resource_id, start)
            for (resource_id,) in self._connection.execute("SELECT id FROM resource").fetchall()
            # By noon, as the zone's rules may have been others when it was counted.
            for start in self.days_counted(resource_id, starts_at_ms - HALF_DAY_MS)
            if start < reset_at_ms - HALF_DAY_MS
        ]
        if not each:
            return 0
        one = (
            "SELECT user_id FROM counter "
            "WHERE resource_id = ? AND period = 1440 AND starts_at_ms = ? "
            "AND user_id >= ? AND user_id < ?"
        )
        # Each is in the order of the users already: SQLite merges them, and keeps nothing.
        all_of_them = " UNION ".join([one] * len(each))
        ordered = "" if len(each) == 1 else " ORDER BY user_id"
        (users,) = self._connection.execute(
            f"SELECT count(*) FROM ({all_of_them}{ordered})",
            [x for pair in each for x in (*pair, ids.start, ids.stop)],
        ).fetchone()
        return int(users)

    def mark_expired(self, table: str, end: str, until_ms: int) -> int:
        """Mark rows whose end lies at `until_ms` or before as ended then; returns how many."""
        return self._connection.execute(
            f"UPDATE {table} SET ended_at_ms = {end} WHERE ended_at_ms IS NULL AND {end} <= ?",
            (until_ms,),
        ).rowcount

    def timed_out(self, now_ms: int, count: int) -> list[int]:
        """Reservations that are pending and over, at most `count`."""
        found = self._connection.execute(
            "SELECT id FROM reservation WHERE state = 'pending' AND expires_at_ms <= ? "
            "ORDER BY id LIMIT ?",
            (now_ms, count),
        )
        return [row[0] for row in found]

    def timed_out_of(self, resource_id: int, now_ms: int, count: int) -> list[int]:
        """The same of one resource, in no order: quick where few are pending."""
        found = self._connection.execute(
            "SELECT id FROM reservation WHERE state = 'pending' AND resource_id = ? "
            "AND expires_at_ms <= ? LIMIT ?",
            (resource_id, now_ms, count),
        )
        return [row[0] for row in found]

    def last_entry_before(self, cutoff_ms: int) -> int:
        """The id up to which every entry lies before `cutoff_ms` with all its windows,
        and none is a pending hold."""
        (keep,) = self._connection.execute(
            "SELECT min(id) FROM (SELECT id FROM entry WHERE at_ms >= :cutoff "
            "OR day_ms >= :cutoff ORDER BY id LIMIT 1)",
            {"cutoff": cutoff_ms},
        ).fetchone()
        if keep is None:
            (last,) = self._connection.execute("SELECT ifnull(max(id), 0) FROM entry").fetchone()
            keep = last + 1
        (hold,) = self._connection.execute(
            "SELECT min(id) FROM reservation WHERE state = 'pending'"
        ).fetchone()
        return int(keep if hold is None else min(keep, hold)) - 1

    def movement_sums(self, after_id: int, last_id: int) -> list[tuple[int, int]]:
        """(grant id, sum of its movements) over entries after one id up to another."""
        return self._connection.execute(
            "SELECT grant_id, sum(amount) FROM grant_movement "
            "WHERE entry_id > ? AND entry_id <= ? GROUP BY grant_id HAVING sum(amount) <> 0",
            (after_id, last_id),
        ).fetchall()

    def prune_entries(self, after_id: int, last_id: int, count: int) -> tuple[int, int, bool]:
        """Remove entries from the oldest on up to `last_id`, at most `count`.

        Returns where to go on, how many went and whether there are more.
        """
        row = self._connection.execute(
            "SELECT max(id), count(*) FROM (SELECT id FROM entry WHERE id > ? AND id <= ? "
            "ORDER BY id LIMIT ?)",
            (after_id, last_id, count),
        ).fetchone()
        last, found = row
        if not found:
            return after_id, 0, False
        self.dirty = True
        self.sum_up()
        self._connection.execute("DELETE FROM grant_movement WHERE entry_id <= ?", (last,))
        self._connection.execute("DELETE FROM entry WHERE id <= ?", (last,))
        self._connection.execute(
            "DELETE FROM reservation WHERE id <= ? AND state <> 'pending'", (last,)
        )
        return last, found, found == count

    def old_keys(self, after: str, before_ms: int, count: int) -> tuple[str, int, bool]:
        """Look at `count` keys from one on, in their order: the last of them, how many are from
        before a moment, and whether there may be more."""
        last, looked_at, old = self._connection.execute(
            "SELECT max(key), count(*), ifnull(sum(at_ms < ?), 0) FROM "
            "(SELECT key, at_ms FROM idempotency_key WHERE key > ? ORDER BY key LIMIT ?)",
            (before_ms, after, count),
        ).fetchone()
        return last or after, old, looked_at == count

    def prune_keys(self, after: str, last: str, before_ms: int) -> int:
        """Remove those after one key up to another that are from before a moment; how many."""
        removed = self._connection.execute(
            "DELETE FROM idempotency_key WHERE key > ? AND key <= ? AND at_ms < ?",
            (after, last, before_ms),
        ).rowcount
        self.dirty = self.dirty or removed > 0
        return removed

    def counter_groups(self) -> list[tuple[int, int]]:
        """(resource id, period) of all counters, found by seeking, not by a scan."""
        groups = []
        for (resource_id,) in self._connection.execute("SELECT id FROM resource").fetchall():
            period = 0
            while True:
                (period,) = self._connection.execute(
                    "SELECT min(period) FROM counter WHERE resource_id = ? AND period > ?",
                    (resource_id, period),
                ).fetchone()
                if period is None:
                    break
                groups.append((resource_id, period))
        return groups

    def prune_counters(
        self, resource_id: int, period: int, before_ms: int, count: int
    ) -> tuple[None, int, bool]:
        """Remove counters of windows that began before a moment, at most `count`."""
        removed = self._connection.execute(
            "DELETE FROM counter WHERE (resource_id, period, starts_at_ms, user_id) IN "
            "(SELECT resource_id, period, starts_at_ms, user_id FROM counter "
            "WHERE resource_id = ? AND period = ? AND starts_at_ms < ? LIMIT ?)",
            (resource_id, period, before_ms, count),
        ).rowcount
        self.dirty = self.dirty or removed > 0
        return None, removed, removed == count

    def prune_totals(self, kept: Iterable[tuple[int, int]], before_ms: int) -> None:
        """Forget what everybody took, but for these (resource id, period) from a moment on."""
        keep = set(kept)
        for resource_id, period in self._connection.execute(
            "SELECT DISTINCT resource_id, period FROM total"
        ).fetchall():
            removed = self._connection.execute(
                "DELETE FROM total WHERE resource_id = ? AND period = ? "
                "AND (starts_at_ms < ? OR ?)",
                (resource_id, period, before_ms, (resource_id, period) not in keep),
            ).rowcount
            self.dirty = self.dirty or removed > 0

    def prune_demand(self, before_ms: int) -> int:
        """Remove hourly demand from before a moment."""
        self.sum_up()
        removed = self._connection.execute(
            "DELETE FROM demand_summed WHERE hour_ms < ?", (before_ms,)
        ).rowcount
        self.dirty = self.dirty or removed > 0
        return removed

    # ---- verifying

    def findings(self, spans: list[tuple[int, int]]) -> Iterator[Finding]:
        """Every difference between what stands there and the sums of entries."""
        from quotactl.engines.sqlite.checks import findings

        return findings(self._connection, spans)

    def table_counts(self) -> dict[str, int]:
        """Rows of the large tables."""
        return {
            table: int(self._connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
            for table in ("entry", "counter", "audit")
        }

    def counter_span(self) -> tuple[int | None, int | None]:
        """The starts of the first and last day that have a counter."""
        firsts: list[int] = []
        lasts: list[int] = []
        for resource_id, period in self.counter_groups():
            if period != 1440:
                continue
            first, last = self._connection.execute(
                "SELECT (SELECT min(starts_at_ms) FROM counter WHERE resource_id = :r "
                "AND period = 1440), (SELECT max(starts_at_ms) FROM counter "
                "WHERE resource_id = :r AND period = 1440)",
                {"r": resource_id},
            ).fetchone()
            firsts.append(first)
            lasts.append(last)
        return min(firsts, default=None), max(lasts, default=None)

    # ---- usage

    def usage_of_users(
        self,
        starts: Sequence[int],
        resource_ids: Sequence[int],
        *,
        user_id: int | None,
        by_day: bool,
        order: str,
        limit: int | None,
    ) -> Iterator[Row]:
        """Sums of day counters per user and resource, or per day, the largest first.

        `starts` are the days' starts; `order` is one of the counter's columns.
        """
        if user_id is None and not by_day and limit is not None and len(starts) == 1:
            found = self._most_in(starts[0], resource_ids, order, limit)
            if found is not None:
                return self._named(found)
        days, resources = marks(starts), marks(resource_ids)
        group = "starts_at_ms" if by_day else "user_id"
        first = "starts_at_ms" if by_day else f"total({order}) DESC, user_id"
        one_user = "" if user_id is None else "AND user_id = ?"
        parameters = [*resource_ids, *starts, *([] if user_id is None else [user_id])]
        sums = f"sum(used) AS used, sum(granted) AS granted, {_DENIED}"
        grouped = f"GROUP BY {group}, resource_id"
        if len(starts) == 1 and not by_day:
            # There is one row for each already, and sorting them twice takes twice as long.
            sums, grouped = "used, granted, denied, shadow_denied", ""
            first = f"{order} DESC, user_id"
        return self._named(
            self._each(
                f"SELECT resource_id, user_id, starts_at_ms, {sums} "
                f"FROM counter WHERE resource_id IN ({resources}) AND period = 1440 "
                f"AND starts_at_ms IN ({days}) {one_user} {grouped} "
                f"ORDER BY {first}, resource_id "
                f"LIMIT ?",
                [*parameters, -1 if limit is None else limit],
            )
        )

    def _most_in(
        self, start: int, resource_ids: Sequence[int], order: str, limit: int
    ) -> list[Row] | None:
        """The users with most in a day, by the index of those with much; None if these are
        fewer than were asked for, and others would have to be looked at too."""
        if order not in MOST:
            return None
        found: list[Row] = []
        for resource_id in resource_ids:
            found += self._dicts(
                "SELECT resource_id, user_id, starts_at_ms, used, granted, denied, shadow_denied "
                "FROM counter WHERE period = 1440 AND starts_at_ms = ? AND resource_id = ? "
                f"AND {order} >= {MOST_AT_LEAST} ORDER BY {order} DESC, user_id LIMIT ?",
                (start, resource_id, limit),
            )
        if len(found) < limit:
            return None
        found.sort(key=lambda row: (-row[order], row["user_id"], row["resource_id"]))
        return found[:limit]

    def _named(self, rows: Iterable[Row]) -> Iterator[Row]:
        for row in rows:
            row["name"], row["tier_id"] = self._connection.execute(
                "SELECT name, tier_id FROM user WHERE id = ?", (row["user_id"],)
            ).fetchone()
            yield row

    def usage_of_demand(
        self,
        starts_at_ms: int,
        reset_at_ms: int,
        resource_ids: Sequence[int],
        group: str,
        tier_id: int | None,
    ) -> list[Row]:
        """Sums of hourly demand by `group`, a column, and resource."""
        one_tier = "" if tier_id is None else "AND tier_id = ?"
        return self._dicts(
            f"SELECT {group} AS key, resource_id, sum(requests) AS requests, sum(used) AS used, "
            f"sum(granted) AS granted, {_DENIED} "
            f"FROM demand WHERE hour_ms >= ? AND hour_ms < ? "
            f"AND resource_id IN ({marks(resource_ids)}) {one_tier} "
            f"GROUP BY {group}, resource_id ORDER BY {group}, resource_id",
            [starts_at_ms, reset_at_ms, *resource_ids, *([] if tier_id is None else [tier_id])],
        )

    # ---- what was

    def newest_switches(self, count: int) -> list[Row]:
        """The last so many rows of `switch`, newest first, whatever became of them."""
        return self._dicts("SELECT * FROM switch ORDER BY id DESC LIMIT ?", (count,))

    def tiers_charged(self, user_id: int, from_ms: int, until_ms: int) -> set[int | None]:
        """The tiers that a user was on whenever they took something between two moments."""
        first_id, end_id = self._ids_between(from_ms, until_ms)
        return {
            row[0]
            for row in self._connection.execute(
                "SELECT DISTINCT tier_id FROM entry WHERE id >= ? AND id < ? AND user_id = ? "
                "AND kind IN (1, 2) AND at_ms > ? AND at_ms < ?",
                (first_id, end_id, user_id, from_ms, until_ms),
            )
        }

    def balances_at(self, grant_ids: Sequence[int], at_ms: int) -> dict[int, int]:
        """What was left in grants at a moment after the checkpoint's."""
        # What a carrying entry (10) carries came before the checkpoint, whenever it was written.
        return dict(
            self._connection.execute(
                "SELECT m.grant_id, sum(m.amount) FROM grant_movement AS m "
                "JOIN entry AS e ON e.id = m.entry_id "
                "WHERE m.entry_id > (SELECT checkpoint_entry_id FROM ledger) "
                f"AND m.grant_id IN ({marks(grant_ids)}) AND (e.kind = 10 OR e.at_ms <= ?) "
                "GROUP BY m.grant_id",
                (*grant_ids, at_ms),
            ).fetchall()
        )

    def timed_out_at(
        self, resource_id: int, at_ms: int, *, user_id: int | None = None
    ) -> dict[int, int]:
        """Holds that were over at a moment and not settled by then (id to expiry)."""
        return dict(
            self._connection.execute(
                "SELECT r.id, r.expires_at_ms FROM reservation AS r JOIN entry AS e ON e.id = r.id "
                "WHERE r.resource_id = ? AND r.user_id = ifnull(?, r.user_id) "
                "AND r.expires_at_ms <= ? "
                "AND NOT EXISTS (SELECT 1 FROM entry AS s WHERE s.of_id = r.id "
                "  AND s.kind IN (3, 4, 5) AND s.at_ms <= ?) ORDER BY r.id",
                (resource_id, user_id, at_ms, at_ms),
            ).fetchall()
        )

    # ---- aftermath

    def denied_by(
        self, throttle_id: int, starts_at_ms: int, reset_at_ms: int, *, drill: bool
    ) -> list[tuple[int, int, int, int, int]]:
        """(hour start, resource id, tier id, requests, units) that a throttle denied between
        two hours' starts, or as a drill would have denied."""
        # A throttle is also named by what it let pass, a drill by nothing but this.
        what, units = ("shadow_denied > 0", "shadow_denied") if drill else ("denied > 0", "denied")
        return self._connection.execute(
            f"SELECT hour_ms, resource_id, tier_id, sum(requests), {total(units)} FROM demand "
            f"WHERE hour_ms >= ? AND hour_ms < ? AND rule_kind = 'throttle' AND rule_id = ? "
            f"AND {what} GROUP BY hour_ms, resource_id, tier_id",
            (starts_at_ms, reset_at_ms, throttle_id),
        ).fetchall()

    def pruned_days(self, starts: Sequence[int]) -> list[int]:
        """Those of these days that had counters when they were closed, and have none now."""
        return [
            start
            for (start,) in self._connection.execute(
                f"SELECT starts_at_ms FROM closed_day AS d WHERE starts_at_ms IN ({marks(starts)})"
                " AND users > 0 AND NOT EXISTS (SELECT 1 FROM resource AS r JOIN counter AS c"
                " ON c.resource_id = r.id AND c.period = 1440 AND c.starts_at_ms = d.starts_at_ms)"
                " ORDER BY starts_at_ms",
                list(starts),
            )
        ]

    def overrides_between(
        self, resource_ids: Sequence[int], starts: Sequence[int], from_ms: int, until_ms: int
    ) -> list[Row]:
        """Overrides that held at any time between two moments, with `tier_id` and `protected`
        of their users, but only of users with a counter on one of these days."""
        return self._dicts(
            "SELECT o.*, u.tier_id, u.protected FROM override AS o JOIN user AS u "
            f"ON u.id = o.user_id WHERE o.resource_id IN ({marks(resource_ids)}) "
            "AND o.created_at_ms < ? AND ifnull(o.expires_at_ms > ?, 1) "
            "AND ifnull(o.ended_at_ms > ?, 1) AND EXISTS (SELECT 1 FROM counter AS c "
            "WHERE c.resource_id = o.resource_id AND c.period = 1440 AND c.user_id = o.user_id "
            f"AND c.starts_at_ms IN ({marks(starts)})) ORDER BY o.id",
            [*resource_ids, until_ms, from_ms, from_ms, *starts],
        )

    def affected(self, sought: Sought) -> AbstractContextManager[None]:
        """Work out whom a throttle cost something; inside the block the next four answer."""
        from quotactl.engines.sqlite.affected import affected

        return affected(self._connection, sought)

    def affected_by(self, *columns: str) -> list[tuple[int, ...]]:
        """(these columns, users, units), of `resource_id`, `tier_id` and `starts_at_ms`."""
        names = ", ".join(columns)
        return self._connection.execute(
            f"SELECT {names}, count(DISTINCT user_id), {total('cost')} "
            f"FROM temp.affected GROUP BY {names} ORDER BY {names}"
        ).fetchall()

    def count_affected(self) -> int:
        """Users, each once."""
        sql = "SELECT count(DISTINCT user_id) FROM temp.affected"
        return int(self._connection.execute(sql).fetchone()[0])

    def most_affected(self, count: int) -> list[Row]:
        """Users and resources with the highest cost first; those met first before others."""
        return self._dicts(
            f"SELECT a.*, u.name FROM (SELECT resource_id, user_id, tier_id, "
            f"{total('cost')} AS cost, {total('asked')} AS asked, {total('used')} AS used, "
            f"{total('granted')} AS granted FROM temp.affected GROUP BY resource_id, user_id "
            "ORDER BY cost DESC, user_id, resource_id LIMIT ?) AS a "
            "JOIN user AS u ON u.id = a.user_id ORDER BY a.cost DESC, a.user_id, a.resource_id",
            (count,),
        )

    def _ids_between(self, from_ms: int, until_ms: int) -> tuple[int, int]:
        """The ids, end excluded, that entries from one moment to another can have."""
        return (
            self._first_entry_at(from_ms - CLOCKS_APART_MS),
            self._first_entry_at(until_ms + CLOCKS_APART_MS + 1),
        )

    # ---- listing

    def each_user(self, tier_id: int | None, *, follows_default: bool) -> Iterator[Row]:
        """Users by id, one by one, those on one tier only if it is given.

        With `follows_default` also those that were never put on a tier.
        """
        if tier_id is None:
            return self._each("SELECT * FROM user ORDER BY id")
        or_none = " OR tier_id IS NULL" if follows_default else ""
        return self._each(f"SELECT * FROM user WHERE tier_id = ?{or_none} ORDER BY id", (tier_id,))
