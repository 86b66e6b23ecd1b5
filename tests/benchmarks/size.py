"""Point 6: bytes per user, counter and entry, after a close, against bare tables.

Rows are added by the product itself, and the pages of each table with its indexes counted by
SQLite's own statistics (`dbstat`); where it is built without them, only the whole files are
compared. The yardstick holds the same facts: the user's name with an index, the counter of a
window, the entry of a request, and keys in a table of their own, without a rowid.
"""

from __future__ import annotations

import random
import sqlite3
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bench import Figure, Options

import quotactl

POINT = "6 size"
BATCH = 1000
PAGE_SIZE = 2048
DAY_MS = 86_400_000
START = datetime(2025, 3, 27, 9, 0, tzinfo=UTC)

BARE = """
CREATE TABLE user (id INTEGER PRIMARY KEY, name TEXT UNIQUE, created_at_ms INTEGER) STRICT;
CREATE TABLE counter (
  resource_id INTEGER, period INTEGER, starts_at_ms INTEGER, user_id INTEGER, used INTEGER,
  PRIMARY KEY (resource_id, period, starts_at_ms, user_id)
) STRICT, WITHOUT ROWID;
CREATE TABLE entry (
  id INTEGER PRIMARY KEY, at_ms INTEGER, user_id INTEGER, resource_id INTEGER, amount INTEGER,
  day_ms INTEGER
) STRICT;
CREATE TABLE idempotency_key (key TEXT PRIMARY KEY, entry_id INTEGER) STRICT, WITHOUT ROWID;
"""
TAKE = """
INSERT INTO counter VALUES (1, 1440, ?, ?, 1) ON CONFLICT DO UPDATE SET used = used + 1
"""

Bytes = dict[str, float] | None


def measure(options: Options) -> Iterator[Figure]:
    count = options.few(2000, 200_000)
    names = [f"user-{n:07}" for n in range(count)]
    bits = random.Random(1).getrandbits
    keys = [str(uuid.UUID(int=bits(128))) for _ in range(count)]
    product, whole = of_product(options.folder / "size.db", names, keys)
    bare, bare_whole = of_bare(options.folder / "size-bare.db", names, keys)
    each: list[tuple[str, Callable[[dict[str, float]], float]]] = [
        ("user, with the index of names", lambda b: b["user"] / count),
        ("counter", lambda b: b["counter"] / count),
        ("entry without a key", lambda b: b["entry"] / (2 * count)),
        (
            "entry with a key of 36 characters",
            lambda b: b["entry"] / (2 * count) + b["idempotency_key"] / count,
        ),
    ]
    for what, bytes_of in each:
        if product is None or bare is None:
            yield Figure(POINT, f"bytes per {what}", None, note="skipped: SQLite without dbstat")
            continue
        ours, theirs = bytes_of(product), bytes_of(bare)
        yield Figure(
            POINT,
            f"bytes per {what}, to bare",
            ours / theirs,
            bound=1.5,
            beside=f"{ours:.1f} to {theirs:.1f} bytes",
        )
    yield Figure(
        POINT,
        f"the whole file, {count} users and counters, {2 * count} entries, {count} keys",
        whole / bare_whole,
        bound=1.5,
        beside=f"{whole / 1e6:.1f} to {bare_whole / 1e6:.1f} MB",
    )


def of_product(path: Path, names: Sequence[str], keys: Sequence[str]) -> tuple[Bytes, int]:
    """Two entries a user, one of them with a key, in a day that is closed."""
    now = START
    with quotactl.create(path, zone="UTC", clock=lambda: now, notify=False) as q:
        q.admin.create_resource("image")
        q.admin.create_tier("free")
        q.admin.set_limit(tier="free", resource="image", limit="3/day")
        q.admin.set_default_tier("free")
        for keyed in (True, False):
            for low in range(0, len(names), BATCH):
                numbers = range(low, min(low + BATCH, len(names)))
                q.consume_many(
                    [
                        quotactl.Request(names[n], "image", 1, keys[n] if keyed else None)
                        for n in numbers
                    ]
                )
        now += timedelta(days=1)
        q.close_days()
    return bytes_of_tables(path), path.stat().st_size


def of_bare(path: Path, names: Sequence[str], keys: Sequence[str]) -> tuple[Bytes, int]:
    """The same facts in the same order."""
    at_ms = int(START.timestamp() * 1000)
    day_ms = at_ms - at_ms % DAY_MS
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(f"PRAGMA page_size = {PAGE_SIZE}")
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(BARE)
        for keyed in (True, False):
            for low in range(0, len(names), BATCH):
                some = range(low + 1, min(low + BATCH, len(names)) + 1)
                first = 0 if keyed else len(names)
                db.execute("BEGIN IMMEDIATE")
                if keyed:
                    users = [(n, names[n - 1], at_ms) for n in some]
                    db.executemany("INSERT INTO user VALUES (?, ?, ?)", users)
                db.executemany(TAKE, [(day_ms, n) for n in some])
                entries = [(first + n, at_ms, n, day_ms) for n in some]
                db.executemany("INSERT INTO entry VALUES (?, ?, ?, 1, 1, ?)", entries)
                if keyed:
                    known = [(keys[n - 1], n) for n in some]
                    db.executemany("INSERT INTO idempotency_key VALUES (?, ?)", known)
                db.execute("COMMIT")
    return bytes_of_tables(path), path.stat().st_size


def bytes_of_tables(path: Path) -> Bytes:
    """Bytes of each table with its indexes; None where SQLite does not tell."""
    with closing(sqlite3.connect(path)) as db:
        try:
            found = db.execute(
                "SELECT tbl_name, sum(pgsize) FROM dbstat JOIN sqlite_schema USING (name) "
                "GROUP BY tbl_name"
            ).fetchall()
        except sqlite3.OperationalError:
            return None
    return dict(found)
