"""Makes large ledgers, in bulk: as many users with a counter of today each, and their entries.

    python tests/benchmarks/generator.py PATH [--users 1000000] [--entries 5000000]

The ledger is made by `quotactl.create`, its rows by SQL. What stands in it agrees with itself,
so that `quotactl db verify` finds nothing. Of the entries one a user is of today; the others
lie on the 29 days before, ten on each of the users who were there that day. Users are
`user-0000001` and so on, nine tenths of them on the default tier. The newest tenth of the
entries has idempotency keys, random ones of 36 characters. One user in twenty was denied
something today. The past days are closed.
"""

from __future__ import annotations

import argparse
import json
import math
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import quotactl

DAYS = 30
DAY_MS = 86_400_000
HOUR_MS = 3_600_000
# Of the users who come on a past day, so many entries each.
EACH = 10
# One number per row, in the database: nothing passes through Python.
NUMBERS = (
    "WITH RECURSIVE number(n) AS (VALUES (:low) UNION ALL SELECT n + 1 FROM number WHERE n < :high)"
)
# The default tier, free, is 1.
TIER = "CASE WHEN {user} % 100 = 0 THEN 3 WHEN {user} % 10 = 0 THEN 2 ELSE 1 END"
# Mostly one or two units; a few users take up to ninety.
UNITS = "(1 + ({user} % 7 = 0) + ({user} % 1000 = 0) * ({user} / 1000 % 90))"

USERS = f"""
{NUMBERS}
INSERT INTO user (id, name, tier_id, created_at_ms)
SELECT n, printf('user-%07d', n), nullif({TIER.format(user="n")}, 1), :first FROM number
"""
# The n-th of the day is another user's than the one before: their rows lie far apart.
ENTRIES = f"""
{NUMBERS}
INSERT INTO entry (id, at_ms, kind, user_id, resource_id, tier_id, amount, granted, day_ms)
SELECT :before + n + 1, :day + n * :span / (:high + 1), 1, user, 1, {TIER.format(user="user")},
       {{units}}, 0, :day
FROM (SELECT n, 1 + ((n % :present) * :stride + :shift) % :users AS user FROM number)
"""
COUNTERS_TODAY = f"""
{NUMBERS}
INSERT INTO counter (resource_id, period, starts_at_ms, user_id, used, denied)
SELECT 1, 1440, :day, n, {UNITS.format(user="n")}, (n % 20 = 0) * (1 + n % 7) FROM number
"""
COUNTERS_BEFORE = f"""
{NUMBERS}
INSERT INTO counter (resource_id, period, starts_at_ms, user_id, used)
SELECT 1, 1440, :day, 1 + (n * :stride + :shift) % :users AS user,
       :units * (:count / :present + (n < :count % :present))
FROM number ORDER BY user
"""
DEMAND = f"""
INSERT INTO demand_summed
  (hour_ms, resource_id, tier_id, reason, rule_kind, rule_id, requests, used)
SELECT at_ms - (at_ms - :day) % {HOUR_MS}, 1, tier_id, 'ok', 'tier', tier_id, count(*), sum(amount)
FROM entry WHERE id > :before AND id <= :after GROUP BY 1, 3
"""
DENIED = f"""
INSERT INTO demand_summed
  (hour_ms, resource_id, tier_id, reason, rule_kind, rule_id, requests, denied)
SELECT :day + user_id % :hours * {HOUR_MS}, 1, {TIER.format(user="user_id")}, 'limit_reached',
       'tier', {TIER.format(user="user_id")}, count(*), sum(denied)
FROM counter
WHERE resource_id = 1 AND period = 1440 AND starts_at_ms = :day AND denied > 0 GROUP BY 1, 3
"""
KEYS = """
INSERT INTO idempotency_key (key, entry_id, at_ms)
SELECT printf('%s-%s-%s-%s-%s', substr(x, 1, 8), substr(x, 9, 4), substr(x, 13, 4),
              substr(x, 17, 4), substr(x, 21)) AS key, id, at_ms
FROM (SELECT lower(hex(randomblob(16))) AS x, id, at_ms FROM entry WHERE id > :before)
-- In the order of the table, or every key would go to a page of its own.
ORDER BY key
"""


@dataclass(frozen=True)
class Generated:
    """What was made and how long it took; `seconds_each` are for a million rows."""

    users: int
    entries: int
    keys: int
    counters: int
    bytes: int
    seconds: float
    seconds_each: dict[str, float]


def generate(path: Path, *, users: int, entries: int) -> Generated:
    """Make a ledger at `path`, which must not be there yet; as many entries as users at least."""
    now = datetime.now(UTC)
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    began = time.perf_counter()
    make(path, today - timedelta(days=DAYS - 1))
    each: dict[str, float] = {}
    if users:
        each = fill(path, users, max(entries, users), today, int(now.timestamp() * 1000))
    # By then the day before is over for long enough, or will be closed by whoever is next.
    with quotactl.connect(path, notify=False) as q:
        q.close_days()
    with closing(sqlite3.connect(path)) as db:
        rows = [
            int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
            for table in ("user", "entry", "idempotency_key", "counter")
        ]
    seconds = time.perf_counter() - began
    return Generated(rows[0], rows[1], rows[2], rows[3], path.stat().st_size, seconds, each)


def make(path: Path, first: datetime) -> None:
    """An empty ledger with a policy, founded on the first day."""
    with quotactl.create(path, name="prod", zone="UTC", clock=lambda: first, notify=False) as q:
        q.admin.create_resource("image")
        for tier, limit in (("free", "1000/day"), ("plus", "5000/day"), ("pro", "unlimited")):
            q.admin.create_tier(tier)
            q.admin.set_limit(tier=tier, resource="image", limit=limit)
        q.admin.set_default_tier("free")


def fill(path: Path, users: int, entries: int, today: datetime, now_ms: int) -> dict[str, float]:
    """Write the rows; the seconds for a million of each."""
    day = int(today.timestamp() * 1000)
    first = day - (DAYS - 1) * DAY_MS
    # Coprime to the users, so that no user comes twice before all have come.
    stride = next(p for p in (7919, 104_729, 1_299_709, 1) if math.gcd(p, users) == 1)
    share, rest = divmod(entries - users, DAYS - 1)
    before = 0
    with bulk(path) as db:

        def run(sql: str, what: str, **values: int) -> None:
            began = time.perf_counter()
            db.execute(sql, values)
            spent[what] += time.perf_counter() - began
            # The cursor's own count leaves out what begins with WITH.
            rows[what] += db.execute("SELECT changes()").fetchone()[0]

        spent = dict.fromkeys(("users", "entries", "counters", "keys"), 0.0)
        rows = dict.fromkeys(spent, 0)
        run(USERS, "users", low=1, high=users, first=first)
        for number in range(DAYS - 1):
            count = share + (number < rest)
            if count == 0:
                continue
            present = min(users, -(-count // EACH))
            facts = {
                "day": first + number * DAY_MS,
                "present": present,
                "stride": stride,
                "shift": number * 1009,
                "users": users,
            }
            units = 1 + number % 3
            run(
                ENTRIES.format(units=units),
                "entries",
                low=0,
                high=count - 1,
                before=before,
                span=DAY_MS,
                **facts,
            )
            run(
                COUNTERS_BEFORE,
                "counters",
                low=0,
                high=present - 1,
                units=units,
                count=count,
                **facts,
            )
            after = before + count
            db.execute(DEMAND, {"day": facts["day"], "before": before, "after": after})
            before = after
        facts = {"day": day, "present": users, "stride": stride, "shift": 0, "users": users}
        run(
            ENTRIES.format(units=UNITS.format(user="user")),
            "entries",
            low=0,
            high=users - 1,
            before=before,
            span=max(now_ms - day - 1, 1),
            **facts,
        )
        run(COUNTERS_TODAY, "counters", low=1, high=users, day=day)
        db.execute(DEMAND, {"day": day, "before": before, "after": entries})
        db.execute(DENIED, {"day": day, "hours": max((now_ms - day) // HOUR_MS, 1)})
        db.execute("UPDATE ledger SET summed_entry_id = ?", (entries,))
        run(KEYS, "keys", before=entries - entries // 10)
    return {what: round(1e6 * spent[what] / max(rows[what], 1), 2) for what in spent}


@contextmanager
def bulk(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that writes once and not safely: whoever breaks it off begins again."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = OFF")
        db.execute("PRAGMA synchronous = OFF")
        db.execute("PRAGMA cache_size = -262144")
        db.execute("BEGIN")
        yield db
        db.execute("COMMIT")
        db.execute("PRAGMA journal_mode = WAL")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--entries", type=int, default=5_000_000)
    asked = parser.parse_args()
    made = generate(asked.path, users=asked.users, entries=asked.entries)
    print(json.dumps(asdict(made), indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
