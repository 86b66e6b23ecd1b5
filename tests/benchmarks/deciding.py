"""Point 2: one process deciding, against a bare script that does the same work.

The yardstick is `Bare`, below: for each request the counter's upsert with its guard, an
entry and the unique key, in one transaction, with the product's own page size, checkpoints
and tables without rowids. It knows no policy, no names, no tiers, no calendar, and writes no
demand: what it takes is what SQLite takes. Product and yardstick work in turn, in slices, in
one process, each on a ledger of its own.
"""

from __future__ import annotations

import random
import sqlite3
import statistics
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import (
    Figure,
    Options,
    Subject,
    Taken,
    by_processor,
    in_turn,
    milliseconds,
    p99,
    ratios,
    steps,
    thousands,
)

import quotactl

POINT = "2 one process"
USERS = 1000
BATCH = 1000
LIMIT = 1_000_000_000

PAGE_SIZE = 2048
WAL_PAGES = 4000
TABLES = """
CREATE TABLE counter (
  resource_id INTEGER NOT NULL,
  period INTEGER NOT NULL,
  starts_at_ms INTEGER NOT NULL,
  user_id INTEGER NOT NULL,
  used INTEGER NOT NULL CHECK (used >= 0),
  PRIMARY KEY (resource_id, period, starts_at_ms, user_id)
) STRICT, WITHOUT ROWID;
CREATE TABLE entry (
  id INTEGER PRIMARY KEY,
  at_ms INTEGER NOT NULL,
  user_id INTEGER NOT NULL,
  resource_id INTEGER NOT NULL,
  amount INTEGER NOT NULL,
  day_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE idempotency_key (
  key TEXT PRIMARY KEY,
  entry_id INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
"""
TAKE = """
INSERT INTO counter (resource_id, period, starts_at_ms, user_id, used) VALUES (1, 1440, ?, ?, ?)
ON CONFLICT DO UPDATE SET used = used + excluded.used WHERE used + excluded.used <= ?
"""
ENTER = "INSERT INTO entry (at_ms, user_id, resource_id, amount, day_ms) VALUES (?, ?, 1, ?, ?)"
ENTER_AS = """
INSERT INTO entry (id, at_ms, user_id, resource_id, amount, day_ms) VALUES (?, ?, ?, 1, ?, ?)
"""
REMEMBER = "INSERT INTO idempotency_key (key, entry_id) VALUES (?, ?)"
DAY_MS = 86_400_000


class Bare:
    """The least that could serve. Statements are prepared once: the module keeps them."""

    def __init__(self, path: Path | str, durability: str) -> None:
        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.execute(f"PRAGMA page_size = {PAGE_SIZE}")
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")
        self.db.execute(f"PRAGMA synchronous = {'FULL' if durability == 'full' else 'NORMAL'}")
        if not self.db.execute("SELECT 1 FROM sqlite_master").fetchone():
            self.db.executescript(TABLES)

    def consume(self, user_id: int, amount: int, key: str | None) -> bool:
        execute = self.db.execute
        now_ms = time.time_ns() // 1_000_000
        day_ms = now_ms - now_ms % DAY_MS
        execute("BEGIN IMMEDIATE")
        try:
            if amount > LIMIT or not execute(TAKE, (day_ms, user_id, amount, LIMIT)).rowcount:
                execute("ROLLBACK")
                return False
            entry = execute(ENTER, (now_ms, user_id, amount, day_ms))
            if key is not None:
                execute(REMEMBER, (key, entry.lastrowid))
            execute("COMMIT")
        except BaseException:
            execute("ROLLBACK")
            raise
        return True

    def consume_many(self, requests: Sequence[tuple[int, int, str | None]]) -> list[bool]:
        """Decide each, then enter at once what was allowed: measured to be the fastest way."""
        execute = self.db.execute
        now_ms = time.time_ns() // 1_000_000
        day_ms = now_ms - now_ms % DAY_MS
        answers, entries, keys = [], [], []
        execute("BEGIN IMMEDIATE")
        try:
            (entry_id,) = execute("SELECT ifnull(max(id), 0) FROM entry").fetchone()
            for user_id, amount, key in requests:
                if amount > LIMIT or not execute(TAKE, (day_ms, user_id, amount, LIMIT)).rowcount:
                    answers.append(False)
                    continue
                entry_id += 1
                entries.append((entry_id, now_ms, user_id, amount, day_ms))
                if key is not None:
                    keys.append((key, entry_id))
                answers.append(True)
            self.db.executemany(ENTER_AS, entries)
            self.db.executemany(REMEMBER, keys)
            execute("COMMIT")
        except BaseException:
            execute("ROLLBACK")
            raise
        return answers

    def close(self) -> None:
        self.db.close()


class Product:
    """The same requests put to quotactl, by its public interface."""

    def __init__(self, path: Path, durability: str, users: int = USERS) -> None:
        self.q = make_ledger(path, durability, users)

    def consume(self, user: str, amount: int, key: str | None) -> bool:
        return self.q.consume(
            user=user, resource="image", amount=amount, idempotency_key=key
        ).allowed

    def consume_many(self, requests: Sequence[quotactl.Request]) -> list[bool]:
        return [
            answer.allowed
            for answer in self.q.consume_many(requests)
            if isinstance(answer, quotactl.Decision)
        ]


def make_ledger(path: Path, durability: str, users: int) -> quotactl.Ledger:
    """A ledger with a tier, a limit that is far away, and users who are known."""
    q = quotactl.create(path, name="prod", zone="UTC", notify=False)
    q.admin.create_resource("image")
    q.admin.create_tier("free")
    q.admin.create_tier("none")
    q.admin.set_limit(tier="free", resource="image", limit=f"{LIMIT}/day")
    q.admin.set_limit(tier="none", resource="image", limit="3/day")
    q.admin.set_default_tier("free")
    q.admin.set_setting("durability", durability)
    q.consume_many([quotactl.Request(name_of(n), "image", 1) for n in range(users)])
    return q


def name_of(number: int) -> str:
    return f"user-{number:07}"


def new_key() -> str:
    """36 characters that nobody had before, as clients make them."""
    return str(uuid.uuid4())


def measure(options: Options) -> Iterator[Figure]:
    """Singles, batches, checks, denials and known keys."""
    for durability, bound in (("full", 0.85), ("relaxed", 0.6)):
        yield from singles(options, durability, bound)
    yield from batches(options)
    yield from checks(options)
    yield from cheap_answers(options)


def singles(options: Options, durability: str, bound: float) -> Iterator[Figure]:
    for kind, keyed in (("with a key", True), ("without", False)):
        what = f"{durability}, one at a time, {kind}"
        product = Product(options.folder / f"{what}.db", durability)
        bare = Bare(options.folder / f"{what}, bare.db", durability)
        count = options.few(20, 200)
        taken = in_turn(
            {
                "product": product_singles(product, count, keyed=keyed),
                "bare": bare_singles(bare, count, keyed=keyed),
            },
            runs=options.runs,
            slices=options.few(2, 20 if durability == "relaxed" else 8),
        )
        product.q.close()
        bare.close()
        # The yardstick has the key; without one the two have less in common.
        speed = ratios(taken["bare"], taken["product"])
        yield Figure(
            POINT,
            what,
            statistics.median(speed),
            bound=bound if keyed else None,
            at_most=False,
            beside=rates(taken, "product", "bare"),
            note=by_processor(taken["bare"], taken["product"]),
            values=speed,
        )
        slowest = ratios(taken["product"], taken["bare"], p99)
        yield Figure(
            POINT,
            f"{what}: p99",
            statistics.median(slowest),
            bound=1.5 if keyed else None,
            beside=" to ".join(milliseconds(one.median(p99)) for one in taken.values()),
            values=slowest,
        )


def product_singles(product: Product, count: int, *, keyed: bool) -> Subject:
    """Asks so many times for a unit for anybody."""
    anybody = random.Random(1).randrange
    return lambda: steps(
        lambda: product.consume(name_of(anybody(USERS)), 1, new_key() if keyed else None), count
    )


def bare_singles(bare: Bare, count: int, *, keyed: bool) -> Subject:
    """The same of the yardstick."""
    anybody = random.Random(1).randrange
    return lambda: steps(
        lambda: bare.consume(anybody(USERS), 1, new_key() if keyed else None), count
    )


def batches(options: Options) -> Iterator[Figure]:
    for kind, keyed in (("with keys", True), ("without", False)):
        what = f"full, batches of {BATCH}, {kind}"
        product = Product(options.folder / f"{what}.db", "full")
        bare = Bare(options.folder / f"{what}, bare.db", "full")
        taken = in_turn(
            {
                "product": product_batch(product, keyed=keyed),
                "bare": bare_batch(bare, keyed=keyed),
            },
            runs=options.runs,
            slices=options.few(2, 20),
        )
        product.q.close()
        bare.close()
        speed = ratios(taken["bare"], taken["product"])
        yield Figure(
            POINT,
            what,
            statistics.median(speed),
            bound=0.45 if keyed else None,
            at_most=False,
            beside=rates(taken, "product", "bare", BATCH),
            note=by_processor(taken["bare"], taken["product"]),
            values=speed,
        )


def product_batch(product: Product, *, keyed: bool) -> Subject:
    anybody = random.Random(1).randrange

    def batch() -> list[float]:
        requests = [
            quotactl.Request(name_of(anybody(USERS)), "image", 1, new_key() if keyed else None)
            for _ in range(BATCH)
        ]
        return steps(lambda: product.consume_many(requests), 1)

    return batch


def bare_batch(bare: Bare, *, keyed: bool) -> Subject:
    anybody = random.Random(1).randrange

    def batch() -> list[float]:
        requests = [(anybody(USERS), 1, new_key() if keyed else None) for _ in range(BATCH)]
        return steps(lambda: bare.consume_many(requests), 1)

    return batch


def checks(options: Options) -> Iterator[Figure]:
    product = Product(options.folder / "check.db", "relaxed")
    bare = Bare(options.folder / "check-bare.db", "relaxed")
    anybody = random.Random(1).randrange
    q = product.q
    count = options.few(20, 200)

    def check() -> None:
        assert q.check(user=name_of(anybody(USERS)), resource="image").allowed

    taken = in_turn(
        {
            "check": lambda: steps(check, count),
            "bare": bare_singles(bare, count, keyed=True),
        },
        runs=options.runs,
        slices=options.few(2, 20),
    )
    q.close()
    bare.close()
    speed = ratios(taken["bare"], taken["check"])
    yield Figure(
        POINT,
        "check, to a bare relaxed consume with a key",
        statistics.median(speed),
        bound=1.8,
        at_most=False,
        beside=rates(taken, "check", "bare"),
        note=by_processor(taken["bare"], taken["check"]),
        values=speed,
    )


def cheap_answers(options: Options) -> Iterator[Figure]:
    """What takes nothing must not cost as much as what does: the product beside itself."""
    product = Product(options.folder / "cheap.db", "full")
    q = product.q
    over = 50
    for n in range(over):
        q.admin.set_tier(f"over-{n}", "none")
    q.consume_many([quotactl.Request(f"over-{n}", "image", 3) for n in range(over)])
    keys = [(name_of(n % USERS), new_key()) for n in range(USERS)]
    q.consume_many([quotactl.Request(user, "image", 1, key) for user, key in keys])
    anybody = random.Random(1).randrange
    count = options.few(20, 200)

    def deny() -> None:
        assert not product.consume(f"over-{anybody(over)}", 1, None)

    def replay() -> None:
        user, key = keys[anybody(len(keys))]
        assert product.consume(user, 1, key)

    taken = in_turn(
        {
            "consume": product_singles(product, count, keyed=True),
            "denial": lambda: steps(deny, count),
            "known key": lambda: steps(replay, count),
        },
        runs=options.runs,
        slices=options.few(2, 8),
    )
    q.close()
    for what, bound in (("denial", 4.0), ("known key", 3.0)):
        speed = ratios(taken["consume"], taken[what])
        yield Figure(
            POINT,
            f"{what}, to a full consume",
            statistics.median(speed),
            bound=bound,
            at_most=False,
            beside=rates(taken, what, "consume"),
            note=by_processor(taken["consume"], taken[what]),
            values=speed,
        )


def rates(taken: dict[str, Taken], ours: str, other: str, each: int = 1) -> str:
    """The absolute rates that a ratio is of."""
    return " to ".join(thousands(taken[name].per_second(each)) for name in (ours, other))
