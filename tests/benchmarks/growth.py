"""Point 5: what grows with the ledger, and what does not.

Three ledgers, made by the generator: one with a thousand users, called empty, one with a tenth
of them and one with all, with a counter of today each and five times as many entries. What is
done to each is done in turn. Yardsticks are the empty ledger, or one plain SQL statement that
does the same sum on a connection of its own. The heavy work of a night, closing a day and
pruning, runs in a process of its own, on a copy, while another one consumes without pause.

The commands' peak memory is that of a process of their own.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import select
import shutil
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from bench import (
    Figure,
    Options,
    Subject,
    Taken,
    in_turn,
    milliseconds,
    peak_mb,
    progress,
    ratios,
    run_process,
    script,
    steps,
    thousands,
)
from generator import DAY_MS, generate

import quotactl
from quotactl.engines.schema import SCHEMA_VERSION
from quotactl.engines.sqlite.door import CACHE_KIB, WAL_PAGES
from quotactl.reports import listing, usage
from quotactl.reports.explain import SWITCHES_LOOKED_AT

POINT = "5 growth"
MEMORY_MB = 200
# Who consumes from a ledger that was made without users.
STRANGERS = 1000
# Looked at everywhere.
KNOWN = "user-0000007"
# Closed and pruned in copies of the large ledger.
COUNTERS_KEPT_DAYS = 450

PREVIEWED = """
SELECT ifnull(u.tier_id, 1) AS tier, count(*), sum(c.used >= 3),
       sum(c.used + c.granted + c.denied), sum(min(c.used + c.granted + c.denied, 3))
FROM counter AS c JOIN user AS u ON u.id = c.user_id
WHERE c.resource_id = 1 AND c.period = 1440 AND c.starts_at_ms = ? GROUP BY tier
"""
SOLVED = """
SELECT ifnull(u.tier_id, 1) AS tier, c.used + c.granted + c.denied AS asked, count(*)
FROM counter AS c JOIN user AS u ON u.id = c.user_id
WHERE c.resource_id = 1 AND c.period = 1440 AND c.starts_at_ms = ? GROUP BY tier, asked
"""
SCANNED = """
SELECT count(*), sum(used), sum(granted), sum(denied) FROM counter
WHERE resource_id = 1 AND period = 1440 AND starts_at_ms = ?
"""
FOUND = "SELECT id, tier_id FROM user WHERE name = ?"
TAKEN = """
INSERT INTO counter (resource_id, period, starts_at_ms, user_id, used) VALUES (1, 1440, ?, ?, 1)
ON CONFLICT DO UPDATE SET used = used + 1 WHERE used < 5000
"""
ENTERED = """
INSERT INTO entry (id, at_ms, kind, user_id, resource_id, tier_id, amount, granted, day_ms, periods)
VALUES (?, ?, 1, ?, 1, ?, 1, 0, ?, '')
"""
OLD_COUNTERS = """
INSERT INTO counter (resource_id, period, starts_at_ms, user_id, used)
SELECT 1, 1440, ?, id, 1 FROM user WHERE id <= ?
"""


class Size(NamedTuple):
    """A ledger: how many users it has, where it lies, and how it is called."""

    users: int
    path: Path

    @property
    def name(self) -> str:
        for many, letter in ((10**6, "M"), (1000, "k")):
            if self.users >= many:
                return f"{self.users / many:g} {letter}"
        return str(self.users)


def measure(options: Options) -> Iterator[Figure]:
    sizes = []
    for share in (0, 10, 1):
        users = options.users // share if share else 0
        entries = options.entries // share if share else 0
        size, figures = made(options, users, entries)
        sizes.append(size)
        yield from figures
    grown: dict[str, list[float]] = {}
    parts: dict[str, Callable[[], Iterator[Figure]]] = {
        "relaxed": lambda: consuming(options, sizes, "relaxed", grown),
        "full": lambda: consuming(options, sizes, "full", grown),
        "levers": lambda: acting(options, sizes, LEVERS, 5, grown),
        "reports": lambda: acting(options, sizes, REPORTS, 1, grown),
        "commands": lambda: commands(options, sizes, grown),
        "foresight": lambda: foreseeing(options, sizes[-1]),
        "memory": lambda: memory(options, sizes[-1]),
        "night": lambda: at_night(options, sizes[-1]),
    }
    for name, part in parts.items():
        if options.part in ("", name):
            yield from part()
    if grown:
        options.texts.append(plot(sizes, grown))


def made(options: Options, users: int, entries: int) -> tuple[Size, list[Figure]]:
    """A ledger of that size: the one that was kept today, or a new one."""
    # Commands go by the machine's clock, so that yesterday's would be without today's counters.
    name = f"growth-{users}-{entries}-{datetime.now(UTC):%Y-%m-%d}-schema{SCHEMA_VERSION}.db"
    path = options.kept / name
    if path.exists():
        with quotactl.connect(path, notify=False) as q:
            # Where a run was broken off.
            for left in listing.throttles(q.engine, q.now_ms()):
                q.admin.throttle_off(left.id, reason="measured")
            q.admin.set_setting("durability", "full")
            with_past(q, users)
        return Size(users, path), []
    progress(f"growth: making {path}")
    half = path.with_suffix(".half")
    for broken_off in (half, Path(f"{half}-wal"), Path(f"{half}-shm")):
        broken_off.unlink(missing_ok=True)
    it = generate(half, users=users, entries=entries)
    half.rename(path)
    with quotactl.connect(path, notify=False) as q:
        with_past(q, users)
    each = ", ".join(f"{rows} {seconds:g} s" for rows, seconds in it.seconds_each.items())
    figure = Figure(
        POINT,
        f"generator, {users} users, {entries} entries",
        it.seconds,
        "s",
        beside=f"{it.counters} counters, {it.keys} keys, {it.bytes / 1e6:.0f} MB",
        note=f"a million of {each}" if users else "",
    )
    return Size(users, path), [figure]


def with_past(q: quotactl.Ledger, users: int) -> None:
    """As many throttles as `explain` looks back at, and as many users as one always has: a
    ledger that was used before has them."""
    with q.engine.reading() as view:
        missing = SWITCHES_LOOKED_AT - len(view.newest_switches(SWITCHES_LOOKED_AT))
    for _ in range(missing):
        throttle_on(q)
        throttle_off(q)
    if not users:
        names = [f"user-{number:07}" for number in range(1, STRANGERS + 1)]
        q.consume_many([quotactl.Request(name, "image", 1) for name in names])


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def today_ms() -> int:
    now = now_ms()
    return now - now % DAY_MS


# ---- consuming


def consuming(
    options: Options, sizes: Sequence[Size], durability: str, grown: dict[str, list[float]]
) -> Iterator[Figure]:
    """Single consumes with keys, by any of all users; beside them what a bare script makes of
    copies of the smallest and the largest ledger."""
    # Before anybody has them open: a copy would lack what is in the WAL.
    bares = {
        f"bare {size.name}": Bare(size, options.folder / f"bare-{size.name}.db", durability)
        for size in (sizes[0], sizes[-1])
    }
    ledgers = [quotactl.connect(size.path, notify=False) for size in sizes]
    for q in ledgers:
        q.admin.set_setting("durability", durability)
    count = options.few(20, 100)
    subjects = {
        size.name: consumer(q, size.users or STRANGERS, count)
        for size, q in zip(sizes, ledgers, strict=True)
    }
    subjects |= {name: bare.consumer(count) for name, bare in bares.items()}
    taken = in_turn(
        subjects,
        runs=options.runs,
        # Enough for a checkpoint or more in each run: those belong to the price.
        slices=options.few(2, 40),
        warm=options.few(1, 10),
    )
    for q in ledgers:
        q.admin.set_setting("durability", "full")
        q.close()
    for bare in bares.values():
        bare.remove()
    bare_empty, bare_large = (taken[name] for name in bares)
    empty, large = taken[sizes[0].name], taken[sizes[-1].name]
    what = f"consume, {durability}, {sizes[-1].name} users"
    p50 = ratios(large, empty, statistics.median)
    bare_p50 = ratios(bare_large, bare_empty, statistics.median)
    yield Figure(
        POINT,
        f"{what}: p50 to empty",
        statistics.median(p50),
        bound=1.5,
        beside=beside(large, empty),
        note=f"a bare script {statistics.median(bare_p50):.2f} x, {beside(bare_large, bare_empty)}",
        values=p50,
    )
    speed = ratios(empty, large)
    yield Figure(
        POINT,
        f"{what}: throughput to empty",
        statistics.median(speed),
        bound=0.5,
        at_most=False,
        beside=" to ".join(thousands(one.per_second()) for one in (large, empty)),
        note=f"a bare script {statistics.median(ratios(bare_empty, bare_large)):.2f} x",
        values=speed,
    )
    grown[f"consume, {durability}, mean"] = [1 / taken[size.name].per_second() for size in sizes]


class Bare:
    """The least that could serve on the same tables: no rule and no promise, but whoever asks is
    found by name."""

    def __init__(self, size: Size, path: Path, durability: str) -> None:
        progress(f"growth: copying {size.path.name}")
        self._path, self._users = path, size.users or STRANGERS
        shutil.copyfile(size.path, path)
        to_disk(path)
        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")
        self.db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        self.db.execute(f"PRAGMA synchronous = {'FULL' if durability == 'full' else 'NORMAL'}")
        (self._newest,) = self.db.execute("SELECT ifnull(max(id), 0) FROM entry").fetchone()

    def consumer(self, count: int) -> Subject:
        users = self._users
        anybody = random.Random(users + 1).randrange
        bits = random.Random().getrandbits
        execute, day = self.db.execute, today_ms()

        def consume() -> None:
            name, key, at = f"user-{1 + anybody(users):07}", f"{bits(144):036x}", now_ms()
            execute("BEGIN IMMEDIATE")
            user_id, tier_id = execute(FOUND, (name,)).fetchone()
            if execute(TAKEN, (day, user_id)).rowcount:
                self._newest += 1
                execute(ENTERED, (self._newest, at, user_id, tier_id, day))
                execute("INSERT INTO idempotency_key VALUES (?, ?, ?)", (key, self._newest, at))
            execute("COMMIT")

        return lambda: steps(consume, count)

    def remove(self) -> None:
        self.db.close()
        self._path.unlink()


def consumer(q: quotactl.Ledger, users: int, count: int) -> Subject:
    anybody = random.Random(users).randrange
    bits = random.Random().getrandbits

    def consume() -> None:
        user = f"user-{1 + anybody(users):07}"
        q.consume(user=user, resource="image", idempotency_key=f"{bits(144):036x}")

    return lambda: steps(consume, count)


# ---- administering, reading


def throttle_on(q: quotactl.Ledger) -> None:
    q.admin.throttle_on(
        cap="3/day", tiers=["free"], resources=["image"], name="melt", reason="measured"
    )


def throttle_off(q: quotactl.Ledger) -> None:
    q.admin.throttle_off("melt", reason="measured")


def set_limit(q: quotactl.Ledger) -> None:
    limit = f"{5000 + time.time_ns() % 1000}/day"
    q.admin.set_limit(tier="plus", resource="image", limit=limit)


def user_show(q: quotactl.Ledger) -> None:
    listing.user_detail(q.engine, KNOWN, q.now_ms())


def explain(q: quotactl.Ledger) -> None:
    q.explain(user=KNOWN, resource="image")


def top(q: quotactl.Ledger) -> None:
    usage.top(q.engine, q.now_ms(), limit=100)


def by_tier(q: quotactl.Ledger) -> None:
    usage.usage(q.engine, q.now_ms(), by="tier")


Acts = Sequence[tuple[str, Callable[[quotactl.Ledger], None], float | None]]
LEVERS: Acts = (
    # One after the other: what is on must go off before it comes on again.
    ("throttle on", throttle_on, 1.2),
    ("throttle off", throttle_off, 1.2),
    ("limit of a tier", set_limit, 1.2),
    ("user show", user_show, 1.2),
    ("explain of now", explain, 1.2),
)
REPORTS: Acts = (
    ("report top, 100 of today", top, None),
    ("totals by tier of today", by_tier, None),
)


def acting(
    options: Options,
    sizes: Sequence[Size],
    acts: Acts,
    slices: int,
    grown: dict[str, list[float]],
) -> Iterator[Figure]:
    """Levers and look-ups against the same on an empty ledger; reports in milliseconds."""
    ledgers = [quotactl.connect(size.path, notify=False) for size in sizes]
    # Whoever is looked at has been seen on each of them.
    for q in ledgers:
        q.consume(user=KNOWN, resource="image")
    taken = in_turn(
        {
            f"{what} {size.name}": one_step(act, q)
            for what, act, _ in acts
            for size, q in zip(sizes, ledgers, strict=True)
        },
        runs=options.runs,
        slices=slices,
    )
    for q in ledgers:
        q.close()
    for what, _, bound in acts:
        each = [taken[f"{what} {size.name}"] for size in sizes]
        grown[what] = [one.median(statistics.median) for one in each]
        empty, large = each[0], each[-1]
        if bound is None:
            work = tuple(1000 * statistics.median(run) for run in large.walls)
            yield Figure(
                POINT, f"{what}: work", statistics.median(work), "ms", bound=50, values=work
            )
            continue
        ratio = ratios(large, empty, statistics.median)
        yield Figure(
            POINT,
            f"{what}, to empty",
            statistics.median(ratio),
            bound=bound,
            beside=beside(large, empty),
            values=ratio,
        )


def one_step(act: Callable[[quotactl.Ledger], None], q: quotactl.Ledger) -> Subject:
    return lambda: steps(lambda: act(q), 1)


def beside(large: Taken, other: Taken) -> str:
    return " to ".join(milliseconds(one.median(statistics.median)) for one in (large, other))


def commands(
    options: Options, sizes: Sequence[Size], grown: dict[str, list[float]]
) -> Iterator[Figure]:
    """The same as whole processes."""
    quotactl_script = script("quotactl")
    if quotactl_script is None:
        return
    lines = [
        "throttle on --name melt --tier free --resource image --cap 5/day --reason measured --yes",
        "throttle off melt --reason measured",
        "limit set plus image=5000/day",
        "user show user-0000007",
        "explain user-0000007 image",
    ]
    walls: dict[tuple[str, Path], list[float]] = {
        (line, size.path): [] for line in lines for size in sizes
    }
    for _ in range(options.runs):
        for line in lines:
            for size in sizes:
                env = {**os.environ, "QUOTACTL_DB": str(size.path)}
                ran = run_process([quotactl_script, *line.split()], env=env)
                assert ran.code == 0, ran.output.decode()
                walls[line, size.path].append(ran.wall_s)
    for line in lines:
        each = [walls[line, size.path] for size in sizes]
        name = " ".join(line.split()[:2]).removesuffix(" user-0000007")
        grown[f"{name}, whole process"] = [statistics.median(one) for one in each]
        pairs = tuple(a / b for a, b in zip(each[-1], each[0], strict=True))
        yield Figure(
            POINT,
            f"{name}, whole process, to empty",
            statistics.median(pairs),
            bound=1.2,
            beside=" to ".join(milliseconds(statistics.median(one)) for one in (each[-1], each[0])),
            values=pairs,
        )


# ---- foreseeing


def foreseeing(options: Options, size: Size) -> Iterator[Figure]:
    """Preview and solve against a statement that does the same sum."""
    from quotactl.policy.levers import lever
    from quotactl.reports.capacity import find_caps
    from quotactl.reports.preview import preview

    q = quotactl.connect(size.path, notify=False)
    plain = sqlite3.connect(size.path, isolation_level=None)
    day = today_ms()
    (asked,) = plain.execute(
        "SELECT sum(used + granted + denied) FROM counter WHERE resource_id = 1 "
        "AND period = 1440 AND starts_at_ms = ?",
        (day,),
    ).fetchone()
    capacity = f"{asked // 2}/day"
    wanted = lever(cap="3/day", resources=["image"], tiers=["free"])
    taken = in_turn(
        {
            "preview": lambda: steps(lambda: preview(q.engine, q.now_ms(), [wanted]), 1),
            "its sum": lambda: steps(lambda: plain.execute(PREVIEWED, (day,)).fetchall(), 1),
            "solve": lambda: steps(
                lambda: find_caps(q.engine, q.now_ms(), capacity=capacity, resource="image"), 1
            ),
            "solve's sum": lambda: steps(lambda: plain.execute(SOLVED, (day,)).fetchall(), 1),
        },
        runs=options.runs,
        # Each takes so long that what the first run finds cold does not matter.
        warm=options.few(1, 0),
    )
    q.close()
    plain.close()
    for what, yardstick in (("preview", "its sum"), ("solve", "solve's sum")):
        ratio = ratios(taken[what], taken[yardstick])
        seconds = taken[what].median(sum)
        yield Figure(
            POINT,
            f"{what} of {size.name}, to one SQL statement",
            statistics.median(ratio),
            bound=1.5,
            beside=f"{seconds:.2f} s to {taken[yardstick].median(sum):.2f} s",
            instead="3 s",
            instead_met=seconds <= 3,
            values=ratio,
        )


# ---- memory


LINES = (
    "consume user-0000007 image",
    "check user-0000007 image",
    "throttle on --name melt --tier free --resource image --cap 3/day --reason measured --yes",
    "status",
    "throttle off melt --reason measured",
    "throttle report melt",
    "limit set plus image=5000/day",
    "user show user-0000007",
    "user list",
    "explain user-0000007 image",
    "report top --limit 100",
    "report usage",
    "report usage --by user",
    "throttle preview --tier free --resource image --cap 3/day",
    "throttle solve --capacity 1k/day --resource image",
    "doctor",
    "audit verify",
    "policy export",
    "reset daily",
    "db verify",
)


def memory(options: Options, size: Size) -> Iterator[Figure]:
    """The peak of each command on the large ledger, as a process of its own."""
    quotactl_script = script("quotactl")
    if quotactl_script is None:
        return
    env = {**os.environ, "QUOTACTL_DB": str(size.path)}
    for line in LINES:
        peak, ran = peak_mb([quotactl_script, *line.split()], options.folder, env=env)
        lines = ran.output.decode(errors="replace").strip().splitlines()
        said = "" if ran.code == 0 else f"exit {ran.code}: {lines[-1][:60] if lines else ''}"
        yield Figure(
            POINT,
            # The line as far as it says which command it is.
            f"memory: {line.split(' user-')[0].split(' --')[0]}{' by user' * ('--by' in line)}",
            peak,
            "MB",
            bound=MEMORY_MB,
            beside=f"{ran.wall_s:.1f} s",
            note=said,
        )


# ---- at night


def at_night(options: Options, size: Size) -> Iterator[Figure]:
    """A day's close and a great pruning on a copy, with a consumer at work."""
    path = options.folder / "night.db"
    progress("growth: copying")
    shutil.copyfile(size.path, path)
    to_disk(path)
    day = today_ms()
    scans, alone, waits, idle, peaks = [], [], [], [], []
    for number in range(options.runs):
        progress(f"growth: close {number + 1} of {options.runs}")
        with closing(sqlite3.connect(path, isolation_level=None)) as plain:
            scans.append(steps(lambda p=plain: p.execute(SCANNED, (day,)).fetchall(), 1)[0])  # type: ignore[misc]
        alone.append(close(path, day)["seconds"])
        reopen(path, day)
        found = with_consumer(path, size, day, lambda: close(path, day))
        waits.append(found["longest_ms"])
        idle.append(found["longest_before_ms"])
        peaks.append(found["peak_mb"])
        reopen(path, day)
    ratio = tuple(a / b for a, b in zip(alone, scans, strict=True))
    yield Figure(
        POINT,
        f"a day's close, {size.name} counters, to one scan of them",
        statistics.median(ratio),
        bound=3,
        beside=f"{statistics.median(alone):.2f} s to {statistics.median(scans):.2f} s",
        values=ratio,
    )
    yield Figure(
        POINT,
        "a consumer's longest wait while it runs",
        statistics.median(waits),
        "ms",
        bound=100,
        beside=f"most {max(waits):.0f} ms; before it {statistics.median(idle):.0f} ms",
        values=tuple(waits),
    )
    yield Figure(
        POINT, "memory of the close", max(peaks), "MB", bound=MEMORY_MB, values=tuple(peaks)
    )
    yield from pruning(options, size, path, day)
    path.unlink()


def pruning(options: Options, size: Size, path: Path, day: int) -> Iterator[Figure]:
    close(path, day)
    old = day - COUNTERS_KEPT_DAYS * DAY_MS
    waits, idle, seconds, pruned = [], [], [], 0
    for number in range(options.runs):
        progress(f"growth: pruning {number + 1} of {options.runs}")
        with closing(sqlite3.connect(path, isolation_level=None)) as plain:
            plain.execute("PRAGMA synchronous = OFF")
            plain.execute("UPDATE ledger SET checkpoint_at_ms = ?", (old + DAY_MS,))
            plain.execute(OLD_COUNTERS, (old, size.users))
        # Or the first checkpoint would wait for these hundreds of megabytes too.
        to_disk(path)
        found = with_consumer(path, size, day, lambda: close(path, day))
        pruned = found["pruned"]
        waits.append(found["longest_ms"])
        idle.append(found["longest_before_ms"])
        seconds.append(found["seconds"])
    yield Figure(
        POINT,
        f"a consumer's longest wait while {pruned} counters are pruned",
        statistics.median(waits),
        "ms",
        bound=150,
        beside=f"most {max(waits):.0f} ms; before it {statistics.median(idle):.0f} ms",
        note=f"pruned in {statistics.median(seconds):.1f} s",
        values=tuple(waits),
    )


def to_disk(path: Path) -> None:
    """Wait for what was written to a file that nobody has open."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def reopen(path: Path, day: int) -> None:
    """Take the close back, so that it can be measured again."""
    with closing(sqlite3.connect(path, isolation_level=None)) as plain:
        plain.execute("BEGIN IMMEDIATE")
        plain.execute("DELETE FROM closed_day WHERE starts_at_ms = ?", (day,))
        plain.execute("UPDATE ledger SET closed_until_ms = ?", (day,))
        plain.execute("COMMIT")


def close(path: Path, day: int) -> dict[str, float]:
    """The daily job in a process of its own, on the morning after `day`."""
    done = subprocess.run(
        [sys.executable, __file__, "close", str(path), "--day", str(day)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def with_consumer(
    path: Path, size: Size, day: int, work: Callable[[], Mapping[str, float]]
) -> dict[str, Any]:
    """Do the work while another process consumes; its waits before and during."""
    command = [sys.executable, __file__, "consume", str(path), "--day", str(day)]
    command += ["--users", str(size.users or STRANGERS)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(1)
        began = time.monotonic()
        found = dict(work())
        process.stdin.close()
        waits: list[tuple[float, float]] = json.loads(process.stdout.read())
    before = [wait for at, wait in waits if at + wait < began]
    during = [wait for at, wait in waits if at + wait >= began]
    return {
        **found,
        "longest_ms": 1000 * max(during),
        "longest_before_ms": 1000 * max(before, default=0.0),
    }


def morning(day: int) -> Callable[[], datetime]:
    """The clock of the day after, from half past midnight on."""
    start = datetime.fromtimestamp(day / 1000, UTC) + timedelta(days=1, minutes=30)
    began = time.monotonic()
    return lambda: start + timedelta(seconds=time.monotonic() - began)


def be_consumer(path: Path, day: int, users: int) -> None:
    """Consume until told to stop; tell the longest wait of every tenth of a second."""
    longest: dict[int, tuple[float, float]] = {}
    anybody = random.Random(3).randrange
    bits = random.Random().getrandbits
    with quotactl.connect(path, clock=morning(day), timeout_s=120, notify=False) as q:
        q.consume(user="user-0000001", resource="image")
        print("ready", flush=True)  # noqa: T201
        while not select.select([sys.stdin], [], [], 0)[0]:
            began = time.monotonic()
            user = f"user-{1 + anybody(users):07}"
            q.consume(user=user, resource="image", idempotency_key=f"{bits(144):036x}")
            wait = time.monotonic() - began
            tenth = int(began * 10)
            if wait > longest.get(tenth, (0.0, 0.0))[1]:
                longest[tenth] = (began, wait)
    print(json.dumps(list(longest.values())))  # noqa: T201


def be_closer(path: Path, day: int) -> None:
    with quotactl.connect(path, clock=morning(day), timeout_s=120, notify=False) as q:
        began = time.perf_counter()
        closing_ = q.close_days()
        seconds = time.perf_counter() - began
    # Of this program alone, as it is since its exec.
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = [line.split()[1] for line in lines if line.startswith("VmHWM")]
    print(  # noqa: T201
        json.dumps(
            {
                "seconds": seconds,
                "peak_mb": int(peak) / 1024,
                "closed": len(closing_.closed),
                "pruned": closing_.pruned_counters,
            }
        )
    )


# ---- the plot


def plot(sizes: Sequence[Size], grown: Mapping[str, Sequence[float]]) -> str:
    """How each grows: a bar for each size, on a scale of powers of two."""
    lines = [
        "How it grows with the users (" + ", ".join(size.name for size in sizes) + "): "
        "four more signs are twice the time."
    ]
    width = max(map(len, grown))
    for what, seconds in grown.items():
        for number, (size, value) in enumerate(zip(sizes, seconds, strict=True)):
            name = what if number == 0 else ""
            bar = "#" * max(1, 8 + round(4 * math.log2(value / seconds[0])))
            lines.append(f"{name:{width}}  {size.name:>6}  {bar} {milliseconds(value)}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Parts that are processes of their own.")
    parser.add_argument("part", choices=["consume", "close"])
    parser.add_argument("path", type=Path)
    parser.add_argument("--day", type=int, required=True)
    parser.add_argument("--users", type=int, default=STRANGERS)
    asked = parser.parse_args()
    if asked.part == "consume":
        be_consumer(asked.path, asked.day, asked.users)
    else:
        be_closer(asked.path, asked.day)


if __name__ == "__main__":
    main()
