"""Point 1: how long a whole process takes, against `python -c 'import sqlite3'`.

The yardstick is what no command line in Python that opens a ledger can do without. Every
command is run as its users run it, by the console script, on a ledger that is there, with its
output in a pipe, or on a terminal where it is to draw a table. Yardstick and command take
turns, and a ratio is taken of each pair.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bench import Figure, Options, Ran, milliseconds, progress, run_process, script

import quotactl

POINT = "1 start-up"
YARDSTICK = [sys.executable, "-c", "import sqlite3"]

# For scale: what a consume costs that does nothing else, each in a process of its own.
BARE_CONSUME = """
import sqlite3, sys
c = sqlite3.connect(sys.argv[1], isolation_level=None)
c.execute("PRAGMA synchronous = FULL")
c.execute("BEGIN IMMEDIATE")
c.execute("INSERT INTO counter VALUES (1, 1) ON CONFLICT DO UPDATE SET used = used + 1")
c.execute("INSERT INTO entry (user_id, amount) VALUES (1, 1)")
c.execute("COMMIT")
"""
BARE_TABLES = """
PRAGMA journal_mode = WAL;
CREATE TABLE counter (user_id INTEGER PRIMARY KEY, used INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE entry (id INTEGER PRIMARY KEY, user_id INTEGER, amount INTEGER) STRICT;
"""


class Command(NamedTuple):
    """What is run, and the promise about it. `says` is a part of what it must print."""

    what: str
    words: Sequence[str | Path]
    bound: float | None = None
    says: str = ""
    terminal: bool = False
    env: Mapping[str, str] = {}


def measure(options: Options) -> Iterator[Figure]:
    """Figures of every command, in the order of the issue."""
    quotactl_script = script("quotactl")
    if quotactl_script is None:
        yield Figure(POINT, "all", None, note="skipped: no console script in this environment")
        return
    ledger = make_ledger(options.folder / "startup.db")
    bare = options.folder / "startup-bare.db"
    make_bare(bare)
    env = {**os.environ, "QUOTACTL_DB": str(ledger), "COLUMNS": "100", "TERM": "xterm-256color"}
    commands, skipped = runnable(list(commands_of(quotactl_script, bare)), env)
    # A process is quick: three times the runs, for what the medians are worth.
    taken = in_pairs(commands, env, options.runs * options.few(1, 3))
    for command in commands:
        pairs = taken[command.what]
        walls = tuple(ran.wall_s / yardstick.wall_s for yardstick, ran in pairs)
        cpu = statistics.median(ran.cpu_s / yardstick.cpu_s for yardstick, ran in pairs)
        yield Figure(
            POINT,
            command.what,
            statistics.median(walls),
            bound=command.bound,
            beside=milliseconds(statistics.median(ran.wall_s for _, ran in pairs))
            + " to "
            + milliseconds(statistics.median(yardstick.wall_s for yardstick, _ in pairs)),
            note=f"by processor time {cpu:.2f} x",
            values=walls,
        )
    yield from skipped


def commands_of(quotactl_script: Path, bare: Path) -> Iterator[Command]:
    """The commands that the issue names, and others beside them for scale."""

    def run(line: str) -> list[str | Path]:
        return [quotactl_script, *line.split()]

    on = run("throttle on --name melt --tier free --resource image --cap 3/day --for 1h")
    yield Command("consume", run("consume ada image"), 5, "allowed")
    yield Command("throttle on", [*on, "--reason", "measured", "--yes"], 5, "is on")
    yield Command("throttle off", run("throttle off melt --reason over"), 5, "is off")
    yield Command("check", run("check ada image"), 4.5, "allowed")
    yield Command("--version", run("--version"), 4.5, "quotactl")
    yield Command("--help", run("--help"), 5, "throttle")
    yield Command("status on a terminal", run("status"), 7, "─", terminal=True)
    yield Command("report usage on a terminal", run("report usage"), 7, "─", terminal=True)
    yield Command("report top on a terminal", run("report top"), 7, "─", terminal=True)
    completing = {
        "_QUOTACTL_COMPLETE": "complete_bash",
        "COMP_WORDS": "quotactl thr",
        "COMP_CWORD": "1",
    }
    yield Command("completion of `quotactl thr`", run(""), 4.5, "throttle", env=completing)
    yield Command("python -c pass", [sys.executable, "-c", "pass"])
    yield Command("a bare script's full consume", [sys.executable, "-c", BARE_CONSUME, bare])
    sqlite_utils = script("sqlite-utils")
    if sqlite_utils is not None:
        yield Command("sqlite-utils --version", [sqlite_utils, "--version"])
    aws = shutil.which("aws")
    if aws is not None:
        yield Command("aws --version", [aws, "--version"])


def runnable(
    commands: Sequence[Command], env: Mapping[str, str]
) -> tuple[list[Command], list[Figure]]:
    """Each command once: what works, and a word about what does not."""
    good, bad = [], []
    for command in commands:
        ran = run_once(command, env)
        if ran.code == 0 and command.says.encode() in ran.output:
            good.append(command)
        else:
            lines = ran.output.decode(errors="replace").strip().splitlines()
            said = lines[-1][:60] if lines else "nothing"
            note = f"skipped: exit {ran.code}, said {said!r}"
            bad.append(Figure(POINT, command.what, None, bound=command.bound, note=note))
    return good, bad


def in_pairs(
    commands: Sequence[Command], env: Mapping[str, str], rounds: int
) -> dict[str, list[tuple[Ran, Ran]]]:
    """Yardstick and command in turn, all commands in each round."""
    taken: dict[str, list[tuple[Ran, Ran]]] = {command.what: [] for command in commands}
    yardstick = Command("yardstick", YARDSTICK)
    for number in range(rounds):
        progress(f"start-up: round {number + 1} of {rounds}")
        for command in commands:
            taken[command.what].append((run_once(yardstick, env), run_once(command, env)))
    return taken


def run_once(command: Command, env: Mapping[str, str]) -> Ran:
    return run_process(command.words, env={**env, **command.env}, terminal=command.terminal)


def make_ledger(path: Path) -> Path:
    """A small ledger that has seen a busy day."""
    with quotactl.create(path, name="prod", zone="Europe/Rome", notify=False) as q:
        for resource in ("image", "video"):
            q.admin.create_resource(resource)
        for tier in ("free", "plus", "pro"):
            q.admin.create_tier(tier)
        q.admin.set_limit(tier="free", resource="image", limit="100000/day")
        q.admin.set_limit(tier="plus", resource="image", limit="50/day,5/minute")
        q.admin.set_limit(tier="pro", resource="image", limit="unlimited")
        q.admin.set_default_tier("free")
        for n in range(30):
            q.admin.set_tier(f"user-{n}", ("free", "plus", "pro")[n % 3])
            for _ in range(3):
                q.consume(user=f"user-{n}", resource="image", amount=1 + n % 4)
        q.consume(user="ada", resource="image")
    return path


def make_bare(path: Path) -> None:
    import sqlite3

    connection = sqlite3.connect(path)
    connection.executescript(BARE_TABLES)
    connection.close()
