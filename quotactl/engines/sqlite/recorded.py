"""Demand as it was recorded, in SQL: what foresight and ceilings over everybody stand on."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any


def total(expression: str) -> str:
    """A sum that can't fail: anybody may ask for 2^53 units a thousand times and be denied.

    It adds as REAL, exact up to 2^53.
    """
    return f"CAST(total({expression}) AS INTEGER)"


def marks(values: Sequence[Any]) -> str:
    """A question mark for each value, for `IN (…)`."""
    return ", ".join("?" * len(values)) or "NULL"


# Users on their tier's limits: no override of their own holds for the resource.
_PLAIN = (
    "(u.has_own = 0 OR NOT EXISTS (SELECT 1 FROM override AS o WHERE o.user_id = u.id "
    "AND o.resource_id = ? AND o.ended_at_ms IS NULL "
    "AND (o.expires_at_ms IS NULL OR o.expires_at_ms > ?)))"
)

# One number for a tier and whether its users are protected, so that each row is placed by
# one look.
_PLACE = "2 * ifnull(u.tier_id, 0) + u.protected"

# More than anybody uses.
_NEVER = 2**62

# By how much the clocks of two processes may differ, where order stands for time.
CLOCKS_APART_MS = 600_000


def _places(
    ceilings: Iterable[tuple[int | None, int, int, int]],
) -> dict[int, tuple[int | None, int, int, int]]:
    return {2 * (row[0] or 0) + row[1]: row for row in ceilings}


def _case(values: Mapping[int, int]) -> str:
    """The value of a row's place."""
    return f"CASE place {' '.join(f'WHEN {place} THEN {n}' for place, n in values.items())} END"


def _each_asked(starts: Sequence[int]) -> str:
    """FROM users with demand on these days, who have no override of their own.

    It wants a resource, the days, the resource and the time. LIMIT keeps SQLite from taking
    it for a part of what is around it, where the sorter would get all columns and not three.
    """
    return (
        f"FROM (SELECT c.user_id AS user_id, {_PLACE} AS place, c.used AS used, "
        "c.used + c.granted + c.denied AS asked "
        "FROM counter AS c CROSS JOIN user AS u ON u.id = c.user_id "
        f"WHERE c.resource_id = ? AND c.period = 1440 AND c.starts_at_ms IN ({marks(starts)}) "
        f"AND c.used + c.granted + c.denied > 0 AND {_PLAIN} LIMIT -1)"
    )


class Recorded:
    """Queries on one transaction that only read."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    # ---- foresight

    def sample_demand(
        self, resource_id: int, day_ms: int, runs: int, length: int
    ) -> list[tuple[int | None, int, int, int, float]]:
        """(tier id, protected, used, asked, weight) of users with demand on a day.

        The ids are cut into `runs` equal parts and the first `length` users of each are
        taken, so that it costs the same whatever their number; the weight is how many
        users each stands for, 1 where its part is there as a whole.
        """
        newest = self.count_all_users()
        sample: list[tuple[int | None, int, int, int, float]] = []
        for run in range(runs):
            first, end = newest * run // runs + 1, newest * (run + 1) // runs + 1
            found = self._connection.execute(
                "SELECT tier_id, protected, c.used, c.used + c.granted + c.denied, c.user_id "
                "FROM counter AS c CROSS JOIN user AS u ON u.id = c.user_id "
                "WHERE c.resource_id = ? AND c.period = 1440 AND c.starts_at_ms = ? "
                "AND c.user_id >= ? AND c.user_id < ? AND c.used + c.granted + c.denied > 0 "
                "ORDER BY c.user_id LIMIT ?",
                (resource_id, day_ms, first, end, length),
            ).fetchall()
            weight = 1.0
            if len(found) == length:
                weight = (end - first) / (found[-1][4] + 1 - first)
            sample += [(*row[:4], weight) for row in found]
        return sample

    def outlook_of_users(
        self,
        resource_id: int,
        starts: Sequence[int],
        ceilings: Iterable[tuple[int | None, int, int, int]],
        now_ms: int,
    ) -> list[tuple[int | None, int, int, int, int, int, int]]:
        """What the demand of these days would have been served under two ceilings a day.

        `ceilings` are (tier id, protected, most before, most after); users with an override
        of their own are left out. Gives (tier id, protected, users, cut off, asked, served
        before, served after).
        """
        places = _places(ceilings)
        if not places:
            return []
        old = _case({place: row[2] for place, row in places.items()})
        new = _case({place: row[3] for place, row in places.items()})
        # Nobody is cut off by what takes nothing from them.
        enough = {p: row[3] if row[3] < row[2] else _NEVER for p, row in places.items()}
        cut, before, after = f"used >= {_case(enough)}", f"min(asked, {old})", f"min(asked, {new})"
        rows = f"{_each_asked(starts)} WHERE place IN ({', '.join(map(str, places))})"
        if len(starts) > 1:
            # Of one day there is a row for each user; of several they are added up first.
            rows = (
                f"(SELECT place, max({cut}) AS cut, {total('asked')} AS asked, "
                f"{total(before)} AS before, {total(after)} AS after {rows} GROUP BY user_id)"
            )
            cut, before, after, rows = "cut", "before", "after", f"FROM {rows}"
        found = self._connection.execute(
            f"SELECT place, count(*), sum({cut}), {total('asked')}, {total(before)}, "
            f"{total(after)} {rows} GROUP BY place",
            [resource_id, *starts, resource_id, now_ms],
        )
        return [(*places[place][:2], *values) for place, *values in found]

    def histogram_of_users(
        self,
        resource_id: int,
        starts: Sequence[int],
        ceilings: Iterable[tuple[int | None, int, int, int]],
        now_ms: int,
    ) -> list[tuple[int | None, int, int, int, int]]:
        """What users would take on these days in all.

        `ceilings` are (tier id, protected, most a day, most in all); users with an override
        of their own are left out. Gives (tier id, protected, units, users, units asked for).
        """
        places = _places(ceilings)
        if not places:
            return []
        daily = _case({place: row[2] for place, row in places.items()})
        in_all = _case({place: row[3] for place, row in places.items()})
        rows = f"{_each_asked(starts)} WHERE place IN ({', '.join(map(str, places))})"
        if len(starts) > 1:
            rows = (
                f"SELECT place, {total('asked')} AS asked, {total(f'min(asked, {daily})')} "
                f"AS units, 1 AS users {rows} GROUP BY user_id"
            )
        else:
            # What there is to compare comes after most rows are gone.
            rows = (
                f"SELECT place, asked, min(asked, {daily}) AS units, count(*) AS users {rows} "
                "GROUP BY place, asked"
            )
        found = self._connection.execute(
            f"SELECT place, min(units, {in_all}) AS units, sum(users), "
            f"{total('asked * users')} FROM ({rows}) GROUP BY 1, 2",
            [resource_id, *starts, resource_id, now_ms],
        )
        return [(*places[place][:2], *values) for place, *values in found]

    def demand_of_users(
        self,
        resource_id: int,
        period: int,
        span: tuple[int, int],
        *,
        groups: Iterable[tuple[int | None, int]],
        overridden: bool,
        now_ms: int,
    ) -> Iterator[tuple[int, int | None, int, int, int, int]]:
        """(user id, tier id, protected, window start, used, asked) by user, one by one.

        Of users with an override of their own, or of those without one in `groups`, which
        are (tier id, protected).
        """
        rows = list(groups)
        places = " OR ".join(["(u.tier_id IS ? AND u.protected = ?)"] * len(rows)) or "0"
        which = f"NOT ({_PLAIN})" if overridden else f"{_PLAIN} AND ({places})"
        yield from self._connection.execute(
            "SELECT c.user_id, u.tier_id, u.protected, c.starts_at_ms, c.used, "
            "c.used + c.granted + c.denied "
            "FROM counter AS c CROSS JOIN user AS u ON u.id = c.user_id "
            "WHERE c.resource_id = ? AND c.period = ? AND c.starts_at_ms >= ? "
            "AND c.starts_at_ms < ? AND c.used + c.granted + c.denied > 0 "
            f"AND {which} ORDER BY c.user_id, c.starts_at_ms",
            [
                resource_id,
                period,
                *span,
                resource_id,
                now_ms,
                *(v for row in ([] if overridden else rows) for v in row),
            ],
        )

    def taken_of_users(
        self, resource_id: int, length_min: int, span: tuple[int, int]
    ) -> Iterator[tuple[int, int, int]]:
        """(user id, window start, units taken and not given back) by user, from entries: for
        windows of a length that was not counted."""
        length_ms = length_min * 60_000
        yield from self._connection.execute(
            "SELECT user_id, at_ms - at_ms % ? AS start, sum(amount + ifnull("
            "(SELECT sum(c.amount) FROM entry AS c WHERE c.of_id = e.id AND c.day_ms IS NOT NULL)"
            ", 0)) FROM entry AS e WHERE id >= ? "
            "AND at_ms >= ? AND at_ms < ? AND resource_id = ? AND kind IN (1, 2) "
            "GROUP BY 1, 2 ORDER BY 1, 2",
            (length_ms, self._first_entry_at(span[0] - CLOCKS_APART_MS), *span, resource_id),
        )

    def overrides_of_resource(
        self, resource_id: int, now_ms: int
    ) -> list[tuple[int, int, int | None, int | None, int | None]]:
        """(user id, override id, period, most, expiry) of all that hold."""
        return self._connection.execute(
            "SELECT user_id, id, period, amount_max, expires_at_ms FROM override "
            "WHERE resource_id = ? AND ended_at_ms IS NULL "
            "AND (expires_at_ms IS NULL OR expires_at_ms > ?)",
            (resource_id, now_ms),
        ).fetchall()

    def hourly_demand(
        self, resource_id: int, span: tuple[int, int]
    ) -> list[tuple[int, int, int, int]]:
        """(hour start, tier id or 0, units asked for, units taken)."""
        return self._connection.execute(
            f"SELECT hour_ms, tier_id, {total('used + granted + denied')}, "
            f"{total('used + granted')} FROM demand "
            "WHERE hour_ms >= ? AND hour_ms < ? AND resource_id = ? GROUP BY hour_ms, tier_id",
            (*span, resource_id),
        ).fetchall()

    # ---- what everybody took

    def demand_by_tier(
        self, resource_id: int, starts_at_ms: int, reset_at_ms: int
    ) -> dict[int, int]:
        """Units taken and not given back between two hours' starts, by tier id."""
        return dict(
            self._connection.execute(
                "SELECT tier_id, sum(used + granted) FROM demand "
                "WHERE hour_ms >= ? AND hour_ms < ? AND resource_id = ? AND reason <> 'reset' "
                "GROUP BY tier_id",
                (starts_at_ms, reset_at_ms, resource_id),
            ).fetchall()
        )

    def taken_by_tier(
        self,
        resource_id: int,
        starts_at_ms: int,
        reset_at_ms: int,
        *,
        as_of_ms: int | None = None,
    ) -> dict[int, int]:
        """Units taken and not given back between two moments, by tier id, from entries.

        With `as_of_ms` what was given back later still counts.
        """
        first_id = self._first_entry_at(starts_at_ms - CLOCKS_APART_MS)
        return dict(
            self._connection.execute(
                "SELECT tier_id, sum(units) FROM ("
                "  SELECT ifnull(e.tier_id, 0) AS tier_id, e.amount + ifnull((SELECT sum(c.amount)"
                "    FROM entry AS c WHERE c.of_id = e.id AND c.day_ms IS NOT NULL"
                "    AND c.at_ms <= ifnull(?, c.at_ms)), 0) AS units"
                "  FROM entry AS e WHERE e.id >= ? AND e.at_ms >= ? AND e.at_ms < ?"
                "    AND e.resource_id = ? AND e.kind IN (1, 2)"
                ") GROUP BY tier_id",
                (as_of_ms, first_id, starts_at_ms, reset_at_ms, resource_id),
            ).fetchall()
        )

    def _first_entry_at(self, at_ms: int) -> int:
        """The id of about the first entry from a moment on: ids follow time, as clocks do."""
        low, high = self._connection.execute(
            "SELECT ifnull(min(id), 0), ifnull(max(id), 0) + 1 FROM entry"
        ).fetchone()
        while low < high:
            middle = (low + high) // 2
            found = self._connection.execute(
                "SELECT id, at_ms FROM entry WHERE id >= ? ORDER BY id LIMIT 1", (middle,)
            ).fetchone()
            if found is None or found[1] >= at_ms:
                high = middle
            else:
                low = found[0] + 1
        return int(low)

    def count_all_users(self) -> int:
        """Users there ever were: none is removed, so the newest id is their number."""
        return int(self._connection.execute("SELECT ifnull(max(id), 0) FROM user").fetchone()[0])
